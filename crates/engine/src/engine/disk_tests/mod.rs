//! Engines whose vectors are on disk: against the model, and with disks that lose some.

mod damage;
mod owners;

use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, Next};
use super::filter::Filter;
use super::restore::Restore;
use super::testing::{Pair, engine, found, on_disk, payload};
use super::*;
use crate::disk::blocks;
use crate::engine::read::Phase;
use crate::types::Slot;
use crate::types::image::{Extent, Part};
use crate::types::realm::Realm;

/// The files of snapshots, by owner and number, and the extents in them.
#[derive(Default)]
struct Files {
    contents: BTreeMap<(u32, u64), Vec<u8>>,
    extents: BTreeMap<u32, Vec<Extent>>,
    /// Rows read so far.
    reads: u64,
}

/// Begins a snapshot; if `are_worn`, none of the files of the previous one is kept.
fn begin(engine: &mut Engine, before: Option<Vec<Extent>>, are_worn: bool) -> Checkpoint {
    let before = before.unwrap_or_default();
    let worn = before.iter().filter(|_| are_worn).map(|extent| extent.file).collect();
    engine.begin_checkpoint(Arc::new(before), worn)
}

impl Files {
    fn extent(&self, owner: u32, extent: &Extent) -> Vec<u8> {
        let start = extent.offset as usize;
        let file = self.contents.get(&(owner, extent.file));
        let bytes = file.and_then(|file| file.get(start..start + extent.bytes as usize));
        bytes.unwrap_or_default().to_vec()
    }

    /// Writes some pieces of a snapshot to `file`; true if those were the last, and it is saved.
    fn write(
        &mut self,
        engine: &mut Engine,
        checkpoint: &mut Checkpoint,
        written: &mut Vec<Extent>,
        file: u64,
        pieces: usize,
    ) -> Result<bool, String> {
        let owner = engine.store().stripe().owner();
        for _ in 0..pieces {
            let mut next = checkpoint.next_over(engine, None)?;
            loop {
                let base = match next {
                    Next::Read(extent) => Some(self.extent(owner, &extent)),
                    Next::More => None,
                    _ => break,
                };
                next = checkpoint.next_over(engine, base.as_deref())?;
            }
            let Next::Piece(piece) = next else {
                assert_eq!(next, Next::Done, "it is asked for once");
                let mut extents = written.clone();
                extents.extend_from_slice(checkpoint.carried());
                extents.sort_unstable_by_key(|extent| (extent.part, extent.block));
                engine.note_named(&extents)?;
                engine.note_saved(checkpoint);
                // As files that are not needed any more are removed.
                let is_needed = |number| extents.iter().any(|extent| extent.file == number);
                self.contents.retain(|&(o, number), _| o != owner || is_needed(number));
                self.extents.insert(owner, extents);
                return Ok(true);
            };
            let content = self.contents.entry((owner, file)).or_default();
            let (offset, bytes) = (content.len() as u64, piece.bytes.len() as u32);
            content.extend_from_slice(&piece.bytes);
            content.resize(offset as usize + blocks(piece.bytes.len()), 0);
            let (part, block) = (piece.part, piece.block);
            written.push(Extent { part, block, file, offset, bytes, crc: 0 });
        }
        Ok(false)
    }

    /// Takes a whole snapshot.
    fn save(&mut self, engine: &mut Engine, file: u64) -> Result<(), String> {
        while !engine.may_checkpoint() {
            engine.link_step();
        }
        let before = self.extents.get(&engine.store().stripe().owner()).cloned();
        let mut checkpoint = begin(engine, before, file.is_multiple_of(4));
        let mut written = Vec::new();
        match self.write(engine, &mut checkpoint, &mut written, file, usize::MAX) {
            Ok(_) => engine.end_checkpoint(checkpoint),
            Err(why) => {
                engine.abandon_checkpoint(checkpoint);
                return Err(why);
            }
        }
        Ok(())
    }

    fn row(&mut self, engine: &Engine, slot: Slot) -> Option<Box<[f32]>> {
        let Some(spot) = engine.spot(slot) else {
            return engine.row_in_memory(slot);
        };
        self.reads += 1;
        let start = spot.offset as usize;
        let file = self.contents.get(&(spot.owner, spot.file))?;
        let bytes = file.get(start..start + spot.bytes)?;
        spot.is_row(bytes).then(|| bytemuck::pod_collect_to_vec(bytes).into())
    }

    /// Gives a search the vectors that it waits for, if any.
    fn give(&mut self, engine: &Engine, search: &mut Search) {
        let wanted = search.wanted().to_vec();
        assert!(wanted.is_sorted() && wanted.len() <= 512);
        for (index, slot) in wanted.into_iter().enumerate() {
            match self.row(engine, slot) {
                Some(row) => search.give(index, &row),
                None => search.lose(index),
            }
        }
    }

    fn finish(&mut self, engine: &mut Engine, mut search: Search) -> SearchOutcome {
        while !search.step(engine) {
            self.give(engine, &mut search);
        }
        engine.finish_search(search)
    }

    /// Restores the state saved last.
    fn restore(&self, params: Params, checkpoint: &Checkpoint) -> Engine {
        let extents = &self.extents[&0];
        let (shape, applied) = (checkpoint.shape(), checkpoint.snapshot());
        let mut restore = Restore::begin(params, shape, applied, extents).unwrap();
        for extent in extents {
            restore.put(extent.part, extent.block, &self.extent(0, extent)).unwrap();
        }
        restore.finish().unwrap()
    }
}

/// An engine with its files.
struct Kept {
    pair: Pair,
    files: Files,
    running: Option<(Checkpoint, Vec<Extent>)>,
    next_file: u64,
}

impl Kept {
    fn new(seed: u64) -> Self {
        let mut pair = Pair::new(seed);
        pair.engine = Engine::new(on_disk(engine().params()));
        Self { pair, files: Files::default(), running: None, next_file: 1 }
    }

    /// Writes some pieces of a snapshot: one in progress, or a new one.
    fn snapshot(&mut self, pieces: usize) {
        let Self { pair, files, running, next_file } = self;
        if running.is_none() && pair.engine.may_checkpoint() {
            let before = files.extents.get(&0).cloned();
            let checkpoint = begin(&mut pair.engine, before, next_file.is_multiple_of(4));
            *running = Some((checkpoint, Vec::new()));
            *next_file += 1;
        }
        let Some((mut checkpoint, mut written)) = running.take() else { return };
        let file = *next_file;
        match files.write(&mut pair.engine, &mut checkpoint, &mut written, file, pieces) {
            Ok(true) if pair.random.below(5) > 0 => pair.engine.end_checkpoint(checkpoint),
            // The snapshot was published, and then something failed.
            Ok(true) => pair.engine.abandon_checkpoint(checkpoint),
            Ok(false) if pair.random.below(40) > 0 => *running = Some((checkpoint, written)),
            Ok(false) => pair.engine.abandon_checkpoint(checkpoint),
            Err(why) => panic!("nothing is damaged: {why}"),
        }
    }

    fn save(&mut self) {
        self.next_file += 1;
        self.files.save(&mut self.pair.engine, self.next_file).unwrap();
    }

    fn link_all(&mut self) {
        self.pair.link_all();
    }

    /// Works on the engine as a server would.
    fn disturb(&mut self, ids: u64) {
        self.pair.random_write(ids);
        let steps = self.pair.random.below(20) as usize;
        self.pair.link(steps);
        if self.pair.random.below(4) == 0 {
            let pieces = 1 + self.pair.random.below(6) as usize;
            self.snapshot(pieces);
        }
    }

    fn query(&mut self, round: u64) -> Arc<Query> {
        let filter = match round % 3 {
            0 => None,
            1 => Some(Filter::Exact("colour".into(), "2".into())),
            _ => Some(Filter::namespace("a")),
        };
        let query = self.pair.query(10, filter);
        Arc::new(Query { is_exact: round.is_multiple_of(5), ..(*query).clone() })
    }

    fn assert_hits(&self, query: &Query, outcome: &SearchOutcome) {
        for hit in &outcome.hits {
            let (vector, _) = &self.pair.model.0[&hit.id];
            assert_eq!(hit.embedding.as_ref(), query.include_embeddings.then_some(vector));
        }
    }

    /// Checks that every document is read as it was written.
    fn assert_documents(&mut self, ids: u64) {
        let reads = self.pair.engine.begin_reads();
        for id in (1..=ids).map(DocId) {
            let document = self.pair.engine.get(id, &Realm::default(), true);
            let found = document.map(|document| {
                let row = document.on_disk.map(|slot| self.files.row(&self.pair.engine, slot));
                let row = row.map(|row| row.expect("it can be read")[..12].into());
                (document.embedding.or(row).unwrap(), document.payload)
            });
            assert_eq!(found, self.pair.model.0.get(&id).cloned(), "document {}", id.0);
        }
        self.pair.engine.end_reads(&reads);
    }
}

/// Small collections are answered exactly, at any mixture of writes, saves and vectors in memory.
#[test]
fn answers_equal_those_of_the_model_while_snapshots_are_taken() {
    for seed in 0..6 {
        let mut kept = Kept::new(600 + seed);
        for round in 0..1_500 {
            kept.disturb(300);
            if round % 10 == 0 {
                let query = kept.query(round / 10);
                let search = kept.pair.engine.begin_search(query.clone()).unwrap();
                let outcome = kept.files.finish(&mut kept.pair.engine, search);
                assert!(outcome.complete && outcome.lost.is_empty());
                assert_eq!(found(&outcome), kept.pair.model.nearest(&query), "round {round}");
                kept.assert_hits(&query, &outcome);
            }
        }
        kept.assert_documents(300);
        assert!(kept.files.reads > 1_000, "{} rows were read", kept.files.reads);
        assert!(kept.next_file > 20, "{} snapshots", kept.next_file);
    }
}

/// A search sees the state at which it began, though slots are filled again, blocks move to other files and rows
/// leave memory between its steps.
#[test]
fn a_search_sees_one_state_while_vectors_move() {
    for seed in 0..6 {
        let mut kept = Kept::new(700 + seed);
        for _ in 0..500 {
            kept.disturb(400);
        }
        for round in 0..60 {
            let query = kept.query(round);
            let model = kept.pair.model.clone();
            let mut search = kept.pair.engine.begin_search(query.clone()).unwrap();
            while !search.step(&kept.pair.engine) {
                for _ in 0..kept.pair.random.below(30) {
                    kept.disturb(400);
                }
                kept.files.give(&kept.pair.engine, &mut search);
                for _ in 0..kept.pair.random.below(30) {
                    kept.disturb(400);
                }
            }
            let outcome = kept.pair.engine.finish_search(search);
            let now = std::mem::replace(&mut kept.pair.model, model);
            let expected = kept.pair.model.nearest(&query);
            let ids = |found: &[(DocId, _)]| found.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(&found(&outcome)), ids(&expected), "seed {seed}, round {round}");
            kept.assert_hits(&query, &outcome);
            kept.pair.model = now;
        }
        // A snapshot in progress keeps versions that died since it began.
        if let Some((checkpoint, _)) = kept.running.take() {
            kept.pair.engine.abandon_checkpoint(checkpoint);
        }
        kept.link_all();
        assert_eq!(kept.pair.engine.store().retired_count(), 0);
    }
}

/// A walk gives the answers that it gives with vectors in memory, and few vectors are read.
#[test]
fn a_walk_answers_as_with_vectors_in_memory() {
    let mut kept = Kept::new(81);
    (1..=6_000).for_each(|id| kept.pair.put(id));
    kept.link_all();
    kept.save();
    kept.link_all();
    assert_eq!(kept.pair.engine.store().row_bytes_in_memory(), 0, "all are on disk");
    let memory = kept.pair.engine.memory();
    assert_eq!(memory.vectors, 6_000 * 8);
    let (mut hits, mut rounds) = (0, 0);
    for _ in 0..100 {
        let query =
            Query { ef: 60, include_embeddings: false, ..(*kept.pair.query(10, None)).clone() };
        let query = Arc::new(query);
        let mut search = kept.pair.engine.begin_search(query.clone()).unwrap();
        assert!(matches!(search.phase(), Phase::Hot(_)), "it walks");
        while !search.step(&kept.pair.engine) {
            rounds += u64::from(!search.wanted().is_empty());
            kept.files.give(&kept.pair.engine, &mut search);
        }
        let outcome = kept.pair.engine.finish_search(search);
        assert_eq!(outcome.found, 60, "all that the beam holds");
        let truth = kept.pair.model.nearest(&query);
        hits += truth.iter().filter(|(id, _)| outcome.hits.iter().any(|hit| hit.id == *id)).count();
    }
    assert!(hits >= 980, "{hits} of 1,000");
    assert_eq!(rounds, 100, "one batch a search");
    assert!(kept.files.reads < 4_500, "{} rows read for 100 searches", kept.files.reads);
}

/// A state restored from a snapshot is read from its files, in either mode, and goes on.
#[test]
fn a_snapshot_comes_back_in_either_mode() {
    for seed in 0..4 {
        let mut kept = Kept::new(800 + seed);
        for round in 0..8 {
            for _ in 0..200 {
                kept.disturb(300);
            }
            if let Some((checkpoint, _)) = kept.running.take() {
                kept.pair.engine.abandon_checkpoint(checkpoint);
            }
            while !kept.pair.engine.may_checkpoint() {
                kept.pair.link(1);
            }
            let before = kept.files.extents.get(&0).cloned();
            let mut checkpoint = begin(&mut kept.pair.engine, before, false);
            kept.next_file += 1;
            let (mut written, engine) = (Vec::new(), &mut kept.pair.engine);
            let file = kept.next_file;
            let is_done =
                kept.files.write(engine, &mut checkpoint, &mut written, file, usize::MAX).unwrap();
            assert!(is_done);
            let params = match round % 3 {
                0 => engine.params().clone(),
                _ => super::testing::engine().params().clone(),
            };
            let params = if round % 2 == 0 { on_disk(&params) } else { params };
            kept.pair.engine = kept.files.restore(params, &checkpoint);
            kept.assert_documents(300);
            let query = kept.query(round);
            let search = kept.pair.engine.begin_search(query.clone()).unwrap();
            let outcome = kept.files.finish(&mut kept.pair.engine, search);
            assert_eq!(found(&outcome), kept.pair.model.nearest(&query));
        }
    }
}

/// Writes are refused while too many bytes wait for a snapshot, and a snapshot is due before that.
#[test]
fn unsaved_vectors_are_bounded() {
    let mut kept = Kept::new(91);
    let vectors = VectorStorage::Disk { unsaved_bytes_max: 300 * 64 };
    kept.pair.engine = Engine::new(Params { vectors, ..on_disk(engine().params()) });
    let write = |kept: &mut Kept, id: u64| {
        let vector = kept.pair.random.vector();
        let id = DocId(id);
        let staged = kept.pair.engine.stage(Write::Put {
            id,
            vector,
            payload: payload(1, ""),
            tenant_documents_max: None,
        })?;
        kept.pair.apply(staged.records);
        Ok::<_, crate::error::Error>(())
    };
    for id in 1..=300 {
        assert_eq!(kept.pair.engine.is_pressed_to_save(), id > 100, "{id}");
        write(&mut kept, id).unwrap();
    }
    let refused = write(&mut kept, 301).unwrap_err();
    assert!(refused.to_string().contains("wait for a snapshot"), "{refused}");
    kept.save();
    assert!(!kept.pair.engine.is_pressed_to_save());
    kept.link_all();
    write(&mut kept, 301).unwrap();
    assert_eq!(kept.pair.engine.store().row_bytes_in_memory(), 64);
    // Staged vectors count before they are durable.
    let staged = (0..).map_while(|n| {
        let vector = kept.pair.random.vector();
        let id = DocId(1_000 + n);
        let payload = payload(1, "");
        let write = Write::Put { id, vector, payload, tenant_documents_max: None };
        kept.pair.engine.stage(write).ok()
    });
    assert_eq!(staged.count(), 299);
}
