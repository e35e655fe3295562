//! A shard in a file of its own, for the next run of a bench: parameters, then the pieces of a snapshot.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use kyrodb::engine::restore::Restore;
use kyrodb::engine::{Engine, Params};
use kyrodb::types::image::{Extent, Part, Shape};
use kyrodb::types::stripe::Stripe;

/// Ordered by number.
const PARTS: [Part; 9] = [
    Part::Vectors,
    Part::Payloads,
    Part::Lives,
    Part::Ids,
    Part::Levels,
    Part::UpperStarts,
    Part::Links,
    Part::UpperLinks,
    Part::Index,
];

pub(crate) fn save(path: &Path, engine: &mut Engine) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut checkpoint =
        engine.begin_checkpoint(std::sync::Arc::default(), std::collections::BTreeSet::new());
    let shape = checkpoint.shape();
    let Shape { dimension, m, slots, live, linked, dead_linked, upper_lists, entry, .. } = shape;
    let words = [dimension, m, slots, live, linked, dead_linked, upper_lists].map(u64::from);
    for word in words.into_iter().chain([entry, checkpoint.snapshot().0]) {
        file.write_all(&word.to_le_bytes()).unwrap();
    }
    while let Some(piece) = checkpoint.next(engine) {
        let part = PARTS.iter().position(|part| *part == piece.part).unwrap();
        for word in [part as u64, piece.block.into(), piece.bytes.len() as u64] {
            file.write_all(&word.to_le_bytes()).unwrap();
        }
        file.write_all(&piece.bytes).unwrap();
    }
    engine.abandon_checkpoint(checkpoint);
    file.flush().unwrap();
}

pub(crate) fn load(path: &Path, params: Params) -> Engine {
    let mut file = BufReader::new(File::open(path).unwrap());
    let shape: Vec<u64> = (0..9).map(|_| word(&mut file).unwrap()).collect();
    let extents: Vec<Extent> = std::iter::from_fn(|| {
        let (extent, _) = piece(&mut file)?;
        Some(extent)
    })
    .collect();
    let part = |index: usize| u32::try_from(shape[index]).unwrap();
    let metric = params.metric;
    let shape_of_file = Shape {
        metric,
        dimension: part(0),
        m: part(1),
        slots: part(2),
        live: part(3),
        linked: part(4),
        dead_linked: part(5),
        upper_lists: part(6),
        entry: shape[7],
        stripe: Stripe::WHOLE,
    };
    let applied = kyrodb::types::Lsn(shape[8]);
    let mut restore = Restore::begin(params, shape_of_file, applied, &extents).unwrap();
    let mut file = BufReader::new(File::open(path).unwrap());
    (0..9).for_each(|_| assert!(word(&mut file).is_some()));
    while let Some((extent, bytes)) = piece(&mut file) {
        restore.put(extent.part, extent.block, &bytes).unwrap();
    }
    restore.finish().unwrap()
}

fn piece(file: &mut impl Read) -> Option<(Extent, Vec<u8>)> {
    let part = PARTS[word(file)? as usize];
    let (block, bytes) = (word(file).unwrap() as u32, word(file).unwrap() as u32);
    let mut piece = vec![0; bytes as usize];
    file.read_exact(&mut piece).unwrap();
    Some((Extent { part, block, file: 0, offset: 0, bytes, crc: 0 }, piece))
}

fn word(file: &mut impl Read) -> Option<u64> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}
