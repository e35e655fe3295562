//! Snapshots of an engine that goes on changing, and engines restored from them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use crate::disk::sim::{SimDisk, run};
use crate::disk::{BLOCK, Disk};
use crate::engine::checkpoint::{Checkpoint, Next, Piece};
use crate::engine::filter::Filter;
use crate::engine::restore::Restore;
use crate::engine::testing::{Model, Pair, engine};
use crate::engine::*;
use crate::graph::check::check;
use crate::manifest::{LoadError, MANIFEST_NAME, MANIFEST_VERSION, Manifest, Segment, Snapshot};
use crate::recovery::{Listed, RecoverError, Recovered, recover};
use crate::snapshot::writer::{Identity, Writer as SnapshotWriter};
use crate::snapshot::{parse_snapshot_name, reader, snapshot_name};
use crate::store::slices::at_once;
use crate::types::image::{EXTENTS_AT_ONCE, Extent, Part};
use crate::types::realm::Realm;
use crate::types::testing::make_small;
use crate::types::{DocId, ShardId, Slot};
use crate::wal::{Position, Prepared, Writer, segment_name};

const SHARD: ShardId = ShardId(2);

/// Every list of the graph, and the entry of walks.
type Lists = (BTreeMap<(u32, u8), Vec<Slot>>, Option<(Slot, u8)>);

fn lists(engine: &Engine) -> Lists {
    let mut lists = BTreeMap::new();
    // Nodes that have left are not saved.
    let slots = (0..engine.store().slot_count()).map(Slot);
    for slot in slots.filter(|&slot| !engine.graph().has_left(slot)) {
        for level in engine.graph().level(slot).map_or(0..0, |top| 0..top + 1) {
            lists.insert((slot.0, level), engine.graph().neighbours(slot, level));
        }
    }
    (lists, engine.graph().entry())
}

/// Works on the engine between two pieces of a snapshot, as a server would.
fn disturb(pair: &mut Pair, writes: u64, steps: u64) {
    for _ in 0..pair.random.below(writes + 1) {
        pair.random_write(900);
    }
    let steps = pair.random.below(steps + 1) as usize;
    pair.link(steps);
}

fn begin(pair: &mut Pair, before: &[Extent]) -> (Checkpoint, Model, Lists) {
    make_small();
    while !pair.engine.may_checkpoint() {
        pair.link(1);
    }
    let moment = (pair.model.clone(), lists(&pair.engine));
    let mut before = before.to_vec();
    before.sort_unstable_by_key(|extent| (extent.part, extent.block));
    let checkpoint = pair.engine.begin_checkpoint(Arc::new(before), BTreeSet::new());
    (checkpoint, moment.0, moment.1)
}

fn as_extent(piece: &Piece, file: u64) -> Extent {
    let bytes = piece.bytes.len() as u32;
    Extent { part: piece.part, block: piece.block, file, offset: 0, bytes, crc: 0 }
}

/// Takes a snapshot while the engine is disturbed; its pieces, in the order of writing.
fn take(pair: &mut Pair, before: &[Extent], writes: u64) -> (Vec<Piece>, Checkpoint, Model, Lists) {
    let (mut checkpoint, model, lists) = begin(pair, before);
    let mut pieces = Vec::new();
    while let Some(piece) = checkpoint.next(&pair.engine) {
        pieces.push(piece);
        disturb(pair, writes, 400);
    }
    (pieces, checkpoint, model, lists)
}

fn restore(checkpoint: &Checkpoint, pieces: &[&Piece]) -> Engine {
    let extents: Vec<Extent> = pieces.iter().map(|piece| as_extent(piece, 1)).collect();
    let params = engine().params().clone();
    let (shape, applied) = (checkpoint.shape(), checkpoint.snapshot());
    let mut restore = Restore::begin(params, shape, applied, &extents).unwrap();
    for piece in pieces {
        restore.put(piece.part, piece.block, &piece.bytes).unwrap();
    }
    restore.finish().unwrap()
}

fn assert_same(engine: &Engine, model: &Model, ids: u64) {
    assert_eq!(engine.live_count(), model.0.len());
    for id in (1..=ids).map(DocId) {
        let found =
            engine.get(id, &Realm::default(), true).map(|d| (d.embedding.unwrap(), d.payload));
        assert_eq!(found, model.0.get(&id).cloned(), "document {}", id.0);
    }
}

/// At any size of the snapshot, it begins at once, and its pieces are found in steps: a call looks at a bounded
/// number of blocks, and puts a bounded number of ids into the index.
#[test]
fn no_step_of_a_snapshot_grows_with_the_shard() {
    let mut pair = Pair::new(3);
    (1..=20_000).for_each(|id| pair.put(id));
    let (first, checkpoint, ..) = take(&mut pair, &[], 0);
    pair.engine.end_checkpoint(checkpoint);
    let before: Vec<Extent> = first.iter().map(|piece| as_extent(piece, 1)).collect();
    let is_carried = |extent: &&Extent| extent.part.is_carried();
    let blocks = before.iter().filter(is_carried).count();
    let ids = first.iter().filter(|piece| piece.part == Part::Ids).count();
    let (mut checkpoint, ..) = begin(&mut pair, &before);
    assert_eq!(checkpoint.carried().len(), 0, "nothing was looked at when it began");
    let (mut carried, mut steps) = (0, 0);
    loop {
        let next = checkpoint.next_over(&pair.engine, None).unwrap();
        let now = checkpoint.carried().len();
        assert!(now - carried <= 4, "{} blocks in a step", now - carried);
        carried = now;
        match next {
            Next::Done => break,
            Next::More => steps += 1,
            _ => {}
        }
    }
    assert_eq!(carried, blocks, "nothing has changed");
    assert!(checkpoint.carried().is_sorted_by_key(|extent| (extent.part, extent.block)));
    // 4 blocks, or 64 of the 4,096 ids of a block, a step.
    let least = blocks / 4 + (ids - 1) * (4_096 / 64 - 1);
    assert!(blocks > 40 && ids > 3 && steps >= least, "{steps} steps, at least {least}");
    pair.engine.end_checkpoint(checkpoint);
}

/// The table of a snapshot is made, written and checked a slice of extents at a time, and none is sorted.
#[test]
fn a_long_table_is_written_and_checked_in_slices() {
    const CARRIED: u32 = 20_000;
    let mut pair = Pair::new(5);
    (1..=100).for_each(|id| pair.put(id));
    let (_, checkpoint, ..) = take(&mut pair, &[], 0);
    let disk = SimDisk::default();
    let identity =
        Identity { shard: SHARD, number: 9, epoch: 7, position: Position::START, unix_ms: 0 };
    let carried = |block| {
        let offset = u64::from(block + 1) * BLOCK as u64;
        Extent { part: Part::Payloads, block, file: 3, offset, bytes: 1, crc: 0 }
    };
    let carried: Vec<Extent> = (0..CARRIED).filter(|block| block % 100 != 7).map(carried).collect();
    let written = run(async {
        let mut writer = SnapshotWriter::begin(&disk, identity).await.unwrap();
        for (part, blocks) in [(Part::Lives, 0..3), (Part::Vectors, 0..5), (Part::Payloads, 0..200)]
        {
            for block in blocks {
                let block = if part == Part::Payloads { block * 100 + 7 } else { block };
                writer.put(&disk, part, block, &[part as u8; 700]).await.unwrap();
            }
        }
        writer.finish(&disk, checkpoint.shape(), &carried).await.unwrap()
    });
    let key = |extent: &Extent| (extent.part, extent.block);
    assert_eq!(written.extents.len(), CARRIED as usize + 8);
    assert!(written.extents.is_sorted_by_key(key));
    let slices = u64::from(CARRIED) / EXTENTS_AT_ONCE as u64;
    assert!(disk.rests() >= 2 * slices, "{} rests", disk.rests());
    let read = run(reader::contents(&disk, SHARD, 9)).unwrap();
    assert_eq!(read.extents, written.extents);
    pair.engine.end_checkpoint(checkpoint);
}

/// At a start the loops over all slots, and over the entries of the index, rest between slices.
#[test]
fn a_shard_is_restored_in_slices() {
    const SLOTS: u64 = 20_000;
    let mut pair = Pair::new(4);
    (1..=SLOTS).for_each(|id| pair.put(id));
    pair.link(30_000);
    let (pieces, checkpoint, ..) = take(&mut pair, &[], 0);
    let extents: Vec<Extent> = pieces.iter().map(|piece| as_extent(piece, 1)).collect();
    let params = engine().params().clone();
    let (shape, applied) = (checkpoint.shape(), checkpoint.snapshot());
    assert!(shape.linked > 1_000 && shape.live - shape.linked > 1_000, "{shape:?}");
    let mut restore = Restore::begin(params, shape, applied, &extents).unwrap();
    for piece in &pieces {
        restore.put(piece.part, piece.block, &piece.bytes).unwrap();
    }
    let rests = std::cell::Cell::new(0);
    let rest = async || rests.set(rests.get() + 1);
    let mut restored = at_once(restore.finish_in_slices(&rest)).unwrap();
    // The graph, its nodes, the documents, dead ones: all slots. And the index, which has more entries.
    let least = 4 * SLOTS / 64 + SLOTS * 3 / 2 / 64 + u64::from(shape.live - shape.linked) / 64;
    assert!(rests.get() >= least, "{} rests, at least {least}", rests.get());
    rests.set(0);
    at_once(restored.finish_replay_in_slices(&rest));
    assert_eq!(rests.get(), 0, "there are no tenants to count documents of");
    assert_same(&restored, &pair.model, SLOTS);
    pair.engine.end_checkpoint(checkpoint);
}

/// A restored engine has the state of that moment, in every document and every list, whatever was written while the
/// snapshot was taken; and it goes on as any other.
#[test]
fn an_engine_comes_back_as_it_was_when_the_snapshot_began() {
    for seed in 0..12 {
        let mut pair = Pair::new(500 + seed);
        for _ in 0..1_500 {
            disturb(&mut pair, 1, 12);
        }
        let (mut pieces, checkpoint, model, before) = take(&mut pair, &[], 3);
        pair.random.shuffle(&mut pieces);
        let restored = restore(&checkpoint, &pieces.iter().collect::<Vec<_>>());
        pair.engine.end_checkpoint(checkpoint);
        assert_same(&restored, &model, 900);
        assert_eq!(lists(&restored), before, "seed {seed}");
        assert_eq!(restored.dead_linked_count(), dead_linked(&restored));
        let random = crate::engine::testing::Random(seed << 40);
        let mut again = Pair { engine: restored, model, random, records: VecDeque::new() };
        for _ in 0..1_000 {
            disturb(&mut again, 1, 30);
        }
        assert_same(&again.engine, &again.model, 900);
        again.link_all();
        let report = check(again.engine.graph(), again.engine.store().slot_count()).unwrap();
        assert_eq!(report.unreachable, []);
        let query = again.query(20, Some(Filter::Exact("colour".into(), "2".into())));
        let mut search = again.engine.begin_search(query.clone()).unwrap();
        while !search.step(&again.engine) {}
        let outcome = again.engine.finish_search(search);
        let found: Vec<DocId> = outcome.hits.iter().map(|hit| hit.id).collect();
        let nearest = again.model.nearest(&query);
        assert_eq!(found, nearest.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    }
}

fn dead_linked(engine: &Engine) -> usize {
    let slots = (0..engine.store().slot_count()).map(Slot);
    slots.filter(|&s| engine.graph().level(s).is_some() && !engine.store().is_live(s)).count()
}

/// A second snapshot writes the blocks that have changed since the first.
#[test]
fn blocks_that_have_not_changed_are_not_written_again() {
    let mut pair = Pair::new(9);
    (1..=40_000).for_each(|id| pair.put(id));
    pair.link(20_000);
    let (first, checkpoint, ..) = take(&mut pair, &[], 0);
    pair.engine.end_checkpoint(checkpoint);
    let before: Vec<Extent> = first.iter().map(|piece| as_extent(piece, 1)).collect();
    // A version that is replaced changes its block of metadata too: so that few blocks change, the documents are
    // neighbours.
    (1..=400).for_each(|id| pair.put(id));
    pair.update(5);
    let (second, checkpoint, ..) = take(&mut pair, &before, 0);
    let bytes = |pieces: &[Piece], parts: &[Part]| -> usize {
        pieces.iter().filter(|p| parts.contains(&p.part)).map(|p| p.bytes.len()).sum()
    };
    for part in [Part::Vectors, Part::Payloads] {
        let (all, again) = (bytes(&first, &[part]), bytes(&second, &[part]));
        assert!(again > 0 && again * 5 < all, "{part:?}: {again} of {all} bytes");
    }
    let key = |extent: &Extent| (extent.part, extent.block);
    let carried: Vec<_> = checkpoint.carried().iter().map(key).collect();
    let both: Vec<&Piece> = first
        .iter()
        .filter(|piece| carried.contains(&(piece.part, piece.block)))
        .chain(&second)
        .collect();
    let restored = restore(&checkpoint, &both);
    assert_same(&restored, &pair.model, 40_000);
    // A snapshot that fails leaves the blocks that it should have written to the next one.
    pair.engine.abandon_checkpoint(checkpoint);
    let (third, checkpoint, ..) = take(&mut pair, &before, 0);
    assert_eq!(bytes(&third, &[Part::Vectors]), bytes(&second, &[Part::Vectors]));
    pair.engine.end_checkpoint(checkpoint);
}

/// A shard on a simulated disk: its log and snapshots, and the entries that MANIFEST would have.
struct Shard {
    /// True if groups of the log are synced before they are acknowledged, as under `data_only` and `full`.
    syncs: bool,
    disk: Rc<SimDisk>,
    pair: Pair,
    log: Writer<SimDisk>,
    segments: Vec<Segment>,
    snapshots: Vec<Snapshot>,
    extents: Vec<Extent>,
}

impl Shard {
    fn new(seed: u64) -> Self {
        let disk = Rc::new(SimDisk::default());
        let bytes = 64 * BLOCK as u64;
        let log = run(async {
            let first = Prepared::create(&*disk, SHARD, 1, bytes).await.unwrap();
            Writer::begin(disk.clone(), SHARD, 7, first, Position::START, 0).await.unwrap()
        });
        let file = segment_name(SHARD, 1);
        let segments = vec![Segment { shard: SHARD.0, number: 1, file, sealed: None }];
        let pair = Pair::new(seed);
        let (syncs, snapshots, extents) = (true, Vec::new(), Vec::new());
        Self { syncs, disk, pair, log, segments, snapshots, extents }
    }

    fn write(&mut self, writes: usize) {
        for _ in 0..writes {
            self.pair.random_write(200);
            let records: VecDeque<_> = std::mem::take(&mut self.pair.records);
            for record in records {
                if !self.log.fits(std::slice::from_ref(&record)) {
                    self.rotate();
                }
                run(self.log.append(&[record], 0, self.syncs)).unwrap();
            }
            if self.pair.random.below(6) == 0 {
                run(self.log.seal(0)).unwrap();
            }
            self.pair.link(5);
        }
    }

    fn rotate(&mut self) {
        let number = self.log.segment() + 1;
        let bytes = 64 * BLOCK as u64;
        let next = run(Prepared::create(&*self.disk, SHARD, number, bytes)).unwrap();
        let (_, sealed) = run(self.log.rotate(next, 0)).unwrap();
        self.segments.last_mut().unwrap().sealed = Some(sealed);
        let file = segment_name(SHARD, number);
        self.segments.push(Segment { shard: SHARD.0, number, file, sealed: None });
    }

    fn snapshot(&mut self) {
        let (mut checkpoint, ..) = begin(&mut self.pair, &self.extents);
        let number = self.snapshots.len() as u64 + 1;
        let position = self.log.position();
        // A log that continues from this LSN and chain can't be another log.
        run(self.log.seal(0)).unwrap();
        let identity = Identity { shard: SHARD, number, epoch: 7, position, unix_ms: 0 };
        let disk = &*self.disk;
        let written = run(async {
            let mut writer = SnapshotWriter::begin(disk, identity).await.unwrap();
            while let Some(piece) = checkpoint.next(&self.pair.engine) {
                writer.put(disk, piece.part, piece.block, &piece.bytes).await.unwrap();
            }
            writer.finish(disk, checkpoint.shape(), checkpoint.carried()).await.unwrap()
        });
        self.pair.engine.end_checkpoint(checkpoint);
        let mut files: Vec<u64> = written.extents.iter().map(|extent| extent.file).collect();
        files.sort_unstable();
        files.dedup();
        self.extents = written.extents;
        self.snapshots.push(Snapshot {
            shard: SHARD.0,
            number,
            file: snapshot_name(SHARD, number),
            next_lsn: position.next_lsn.0,
            chain: position.chain,
            file_bytes: written.file_bytes,
            files,
        });
    }

    fn recover(&self) -> Result<Recovered, RecoverError> {
        let (snapshots, segments) = (&*self.snapshots, &*self.segments);
        let listed = Listed { shard: SHARD, snapshots, segments };
        run(recover(&*self.disk, listed, engine().params().clone(), || {}))
    }

    fn recovered(&self) -> Engine {
        let recovered = self.recover().unwrap_or_else(|why| panic!("{why}"));
        let engine = recovered.engine.expect("something was stored");
        assert_same(&engine, &self.pair.model, 200);
        assert_eq!(recovered.log.position, self.log.position());
        engine
    }
}

/// A shard with a log of several segments and two snapshots, the second of which shares parts with the first, and
/// writes after both.
fn shard() -> Shard {
    let mut shard = Shard::new(31);
    shard.write(150);
    shard.snapshot();
    shard.write(60);
    shard.snapshot();
    shard.write(40);
    shard
}

#[test]
fn a_shard_is_recovered_from_its_newest_snapshot_and_the_log_after_it() {
    let mut shard = shard();
    let recovered = shard.recover().unwrap();
    assert_eq!((recovered.damaged.len(), recovered.unused.len()), (0, 0));
    assert!(recovered.log.records < 100, "{} records were read", recovered.log.records);
    shard.recovered();
    // The log before the older snapshot is not needed.
    let older = shard.snapshots[0].next_lsn;
    let is_needed =
        |segment: &Segment| segment.sealed.is_none_or(|sealed| sealed.last_lsn + 1 >= older);
    let before = shard.segments.len();
    shard.segments.retain(is_needed);
    assert!(shard.segments.len() < before);
    shard.recovered();
    let unused = shard.recover().unwrap().log.unused;
    assert_eq!(unused.len(), before - shard.segments.len(), "what was to be removed is");
}

#[test]
fn a_damaged_newest_snapshot_is_replaced_by_the_older_one_and_the_log() {
    let mut shard = shard();
    let name = shard.snapshots[1].file.clone();
    let mut bytes = shard.disk.content(&name);
    bytes[5 * BLOCK] ^= 4;
    shard.disk.set_content(&name, bytes);
    let recovered = shard.recover().unwrap();
    assert_eq!(recovered.snapshots.len(), 1);
    assert!(recovered.damaged[0].contains(&name), "{:?}", recovered.damaged);
    shard.recovered();
    // Without the log between the two there would be a loss: that is refused, with both reasons.
    let newest = shard.snapshots[1].next_lsn;
    shard.segments.retain(|s| s.sealed.is_none_or(|sealed| sealed.last_lsn + 1 >= newest));
    let Err(RecoverError::Damage(why)) = shard.recover() else { panic!("not refused") };
    assert!(why.contains(&name) && why.contains("LSN"), "{why}");
}

#[test]
fn snapshot_files_missing_foreign_or_of_another_log_are_refused() {
    let shard = shard();
    let refused = |change: &dyn Fn(&SimDisk, &mut Vec<Snapshot>)| {
        let disk = shard.disk.after(crate::disk::sim::Crash::Everything);
        let mut snapshots = shard.snapshots.clone();
        change(&disk, &mut snapshots);
        // Only the newest segment: the log alone does not have everything.
        let segments = shard.segments[shard.segments.len() - 1..].to_vec();
        let listed = Listed { shard: SHARD, snapshots: &snapshots, segments: &segments };
        match run(recover(&disk, listed, engine().params().clone(), || {})) {
            Err(RecoverError::Damage(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("not refused"),
        }
    };
    let names: Vec<String> = shard.snapshots.iter().map(|s| s.file.clone()).collect();
    let both = |disk: &SimDisk, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        names.iter().for_each(|name| disk.set_content(name, change(disk.content(name))));
    };
    let missing = refused(&|disk, _| {
        names.iter().for_each(|name| run(disk.remove(name)).unwrap());
    });
    assert!(missing.contains("the file is missing"), "{missing}");
    let short = refused(&|disk, _| both(disk, &|bytes| bytes[..bytes.len() - BLOCK].to_vec()));
    assert!(short.contains("does not have"), "{short}");
    let swapped = refused(&|disk, _| {
        let contents = [disk.content(&names[1]), disk.content(&names[0])];
        names.iter().zip(contents).for_each(|(name, bytes)| disk.set_content(name, bytes));
    });
    assert!(swapped.contains("it is snapshot 2 of shard 2"), "{swapped}");
    let zeros = refused(&|disk, _| both(disk, &|bytes| vec![0; bytes.len()]));
    assert!(zeros.contains("not a snapshot"), "{zeros}");
    let moved = refused(&|_, snapshots| snapshots.iter_mut().for_each(|s| s.next_lsn -= 1));
    assert!(moved.contains("another LSN"), "{moved}");
    let other_log = refused(&|_, snapshots| {
        snapshots.remove(0);
        snapshots[0].chain ^= 1;
    });
    assert!(other_log.contains("another LSN than MANIFEST"), "{other_log}");
}

/// Every flipped bit of the snapshot files is found; where there are many bits, a sample is flipped.
#[test]
fn a_flipped_bit_is_found_and_never_served() {
    let shard = shard();
    let newest = shard.snapshots[1].clone();
    for number in newest.files.clone() {
        let name = snapshot_name(SHARD, number);
        let whole = shard.disk.content(&name);
        let bits = whole.len() * 8;
        // All of the header, and the rest in steps that meet every bit of a byte.
        let tried = (0..1_200).chain((1_200..bits).step_by(1_201));
        for bit in tried {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            shard.disk.set_content(&name, bytes);
            let recovered = shard.recover().unwrap_or_else(|why| panic!("bit {bit}: {why}"));
            let in_newest = !recovered.damaged.is_empty();
            // Extents that only the older snapshot refers to are not read while the newer one is good.
            let is_read = shard.extents.iter().any(|extent| {
                let start = extent.offset as usize * 8;
                let end = start + extent.bytes.next_multiple_of(BLOCK as u32) as usize * 8;
                extent.file == number && (start..end).contains(&bit)
            });
            assert!(in_newest || number != newest.number && !is_read, "bit {bit} of {name}");
            assert_same(&recovered.engine.unwrap(), &shard.pair.model, 200);
        }
        shard.disk.set_content(&name, whole);
    }
}

/// In the smallest directory with all features of snapshots, each bit of their files and of MANIFEST is flipped,
/// under `data_only` and `full`, and under `periodic`. No flip passes the check, and a start finds flips in the data
/// that it reads.
#[test]
fn every_flipped_bit_of_snapshots_and_manifest_is_found_under_every_policy() {
    std::thread::scope(|scope| {
        for syncs in [true, false] {
            scope.spawn(move || flip_all(syncs));
        }
    });
}

fn flip_all(syncs: bool) {
    // Prime, so that all bits of a byte get their turn; a start takes a thousand times as long as a check.
    const STEP: usize = 2_503;
    let mut shard = Shard { syncs, ..Shard::new(32) };
    shard.write(12);
    shard.snapshot();
    shard.write(6);
    shard.snapshot();
    shard.write(3);
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        shards: SHARD.0 + 1,
        dimension: engine().params().dimension as u32,
        distance: "euclidean".into(),
        epoch: 7,
        snapshots: shard.snapshots.clone(),
        segments: shard.segments.clone(),
    };
    run(manifest.publish(&*shard.disk)).unwrap();
    let numbers: Vec<u64> = shard.snapshots.iter().map(|snapshot| snapshot.number).collect();
    let mut starts = 0;
    let names = numbers.iter().map(|&number| snapshot_name(SHARD, number));
    for name in names.chain([MANIFEST_NAME.to_owned()]) {
        let mut bytes = shard.disk.content(&name);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            shard.disk.set_content(&name, bytes.clone());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Some((_, number)) = parse_snapshot_name(&name) else {
                let loaded = run(Manifest::load(&*shard.disk));
                assert!(matches!(loaded, Err(LoadError::Damaged(_))), "bit {bit}: {loaded:?}");
                continue;
            };
            let checked = run(reader::verify(&*shard.disk, &name, SHARD, number));
            let is_found = matches!(checked, Err(reader::ReadError::Damaged { .. }));
            assert!(is_found, "{name}, bit {bit}");
            if bit % STEP == 0 {
                let recovered = shard.recover().unwrap_or_else(|why| panic!("bit {bit}: {why}"));
                assert_same(&recovered.engine.unwrap(), &shard.pair.model, 200);
                starts += 1;
            }
        }
        shard.disk.set_content(&name, bytes);
    }
    assert!(starts > 100, "{starts}");
    shard.recovered();
}
