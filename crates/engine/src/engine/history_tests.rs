//! Random histories of a shard: puts, updates, deletes, snapshots that keep blocks of earlier ones, restarts, slots
//! that are used again. After each step the index is compared with the documents, and answers with those of looking
//! at every document.
//!
//! ```text
//! KYRODB_HISTORIES=200 cargo test -p kyrodb-engine histories      any number of them
//! KYRODB_HISTORY=17 cargo test -p kyrodb-engine histories         one again
//! ```

#![allow(clippy::disallowed_methods, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::Piece;
use super::filter_tests::{IDS, ask, disturb, passing, put};
use super::restore::Restore;
use super::testing::{Pair, params};
use super::*;
use crate::engine::filter::Filter;
use crate::types::Slot;
use crate::types::image::{Extent, PAYLOADS_IN_BLOCK, Part, Shape};
use crate::types::record::delete_batch;

/// Histories of an ordinary run, and steps in each.
const HISTORIES: u64 = 24;
const STEPS: u64 = 60;

/// The files on disk: a snapshot, and the LSN of its last record.
struct Saved {
    shape: Shape,
    applied: Lsn,
    pieces: BTreeMap<(Part, u32), Piece>,
}

fn extent(piece: &Piece) -> Extent {
    let bytes = piece.bytes.len() as u32;
    Extent { part: piece.part, block: piece.block, file: 1, offset: 0, bytes, crc: 0 }
}

/// Totals of the histories.
#[derive(Debug, Default)]
struct Counts {
    kept_payloads: usize,
    restarts: usize,
    used_again: usize,
    pairs: u64,
}

struct History {
    pair: Pair,
    saved: Option<Saved>,
    /// True if nothing is written while a snapshot is taken.
    is_quiet: bool,
    counts: Counts,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut pair = Pair::new(7_000 + seed);
        (1..=IDS).for_each(|id| put(&mut pair, id));
        Self { pair, saved: None, is_quiet: false, counts: Counts::default() }
    }

    /// Takes a snapshot, which keeps all blocks of the previous one that have not changed.
    fn snapshot(&mut self) {
        while !self.pair.engine.may_checkpoint() {
            self.pair.link(1);
        }
        let pieces = self.saved.take().map(|saved| saved.pieces).unwrap_or_default();
        let carried = |piece: &&Piece| piece.part.is_carried();
        let before: Vec<Extent> = pieces.values().filter(carried).map(extent).collect();
        let mut checkpoint = self.pair.engine.begin_checkpoint(Arc::new(before), BTreeSet::new());
        let mut now = BTreeMap::new();
        while let Some(piece) = checkpoint.next(&self.pair.engine) {
            now.insert((piece.part, piece.block), piece);
            if !self.is_quiet && self.pair.random.below(8) == 0 {
                disturb(&mut self.pair, 3);
            }
        }
        for kept in checkpoint.carried() {
            self.counts.kept_payloads += usize::from(kept.part == Part::Payloads);
            let key = (kept.part, kept.block);
            now.insert(key, pieces[&key].clone());
        }
        let (shape, applied) = (checkpoint.shape(), checkpoint.snapshot());
        self.saved = Some(Saved { shape, applied, pieces: now });
        self.pair.engine.end_checkpoint(checkpoint);
    }

    /// Restores the shard from its files: at times with another graph, so that all documents are linked again.
    fn restart(&mut self) {
        self.counts.restarts += 1;
        let mut params = params();
        params.graph.m -= 4 * self.pair.random.below(2) as usize;
        let (mut engine, applied) = match &self.saved {
            None => (Engine::new(params), Lsn(0)),
            Some(Saved { shape, applied, pieces }) => {
                let extents: Vec<Extent> = pieces.values().map(extent).collect();
                let mut restore = Restore::begin(params, *shape, *applied, &extents).unwrap();
                for piece in pieces.values() {
                    restore.put(piece.part, piece.block, &piece.bytes).unwrap();
                }
                (restore.finish().unwrap(), *applied)
            }
        };
        for (lsn, record) in (1..).zip(&self.pair.records).skip(applied.0 as usize) {
            engine.apply_all(Lsn(lsn), record.clone());
        }
        engine.finish_replay();
        assert_eq!(engine.applied(), self.pair.engine.applied());
        assert_eq!(engine.stale_postings(), 0, "no snapshot has metadata of deleted documents");
        self.pair.engine = engine;
    }

    /// Deletes many documents, without any other change of their blocks.
    fn delete_many(&mut self) {
        let Self { pair, .. } = self;
        let first = 1 + pair.random.below(IDS);
        let ids: Vec<DocId> = (first..first + pair.random.below(80)).map(DocId).collect();
        let planned = pair.engine.stage_deletes(&ids, &Filter::All);
        ids.iter().for_each(|id| drop(pair.model.0.remove(id)));
        pair.apply(delete_batch(&planned));
    }

    fn step(&mut self) {
        let (slots, before) = (self.pair.engine.store.slot_count(), self.pair.engine.applied());
        match self.pair.random.below(12) {
            0..4 => disturb(&mut self.pair, 30),
            4 => self.delete_many(),
            5 => {
                // All dead nodes are removed, so that their slots are used again.
                self.pair.engine.compact();
                self.pair.link_all();
            }
            6..8 => {
                let first = 1 + self.pair.random.below(IDS);
                (first..first + self.pair.random.below(40)).for_each(|id| put(&mut self.pair, id));
            }
            8..10 => self.snapshot(),
            _ => self.restart(),
        }
        let store = &self.pair.engine.store;
        let used = store.slots().take(slots as usize).filter(|&slot| store.born(slot) > before);
        self.counts.used_again += used.count();
        let checked = self.pair.engine.check_index();
        self.counts.pairs += checked.unwrap_or_else(|why| panic!("{why}"));
    }

    fn run(mut self, seed: u64) -> Counts {
        for _ in 0..STEPS {
            self.step();
            ask(&mut self.pair, seed, 0);
        }
        self.counts
    }
}

fn setting(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

#[test]
fn the_index_equals_the_documents_through_random_histories() {
    if let Some(seed) = setting("KYRODB_HISTORY") {
        return println!("{:?}", History::new(seed).run(seed));
    }
    let histories = setting("KYRODB_HISTORIES").unwrap_or(HISTORIES);
    let mut all = Counts::default();
    for seed in 0..histories {
        let run = std::panic::AssertUnwindSafe(|| History::new(seed).run(seed));
        let counts = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
            eprintln!("again with: KYRODB_HISTORY={seed} cargo test -p kyrodb-engine histories");
            std::panic::resume_unwind(panic)
        });
        all.kept_payloads += counts.kept_payloads;
        all.restarts += counts.restarts;
        all.used_again += counts.used_again;
        all.pairs += counts.pairs;
    }
    println!("{histories} histories: {all:?}");
    let histories = histories as usize;
    assert!(all.restarts > histories && all.used_again > 10 * histories, "{all:?}");
    assert!(all.kept_payloads > histories, "blocks are kept: {all:?}");
}

/// A directory of an earlier version of this program: its newest snapshot has kept blocks with metadata of documents
/// that were deleted since. That metadata is not indexed, and the next snapshot is without it.
#[test]
fn metadata_of_deleted_documents_is_dropped_at_a_start() {
    for m in [params().graph.m, 8] {
        let mut history = History::new(1);
        history.is_quiet = true;
        history.pair.link_all();
        history.snapshot();
        let first = history.saved.as_ref().unwrap().pieces.clone();
        (1..=40).for_each(|id| history.pair.delete(id, ""));
        history.snapshot();
        let Saved { shape, applied, mut pieces } = history.saved.take().unwrap();
        let is_stale = |(key, piece): &(&(Part, u32), &Piece)| {
            key.0 == Part::Payloads && pieces[*key].bytes != piece.bytes
        };
        let stale: Vec<_> =
            first.iter().filter(is_stale).map(|(key, piece)| (*key, piece.clone())).collect();
        assert!(!stale.is_empty());
        pieces.extend(stale.clone());
        let extents: Vec<Extent> = pieces.values().map(extent).collect();
        let mut params = params();
        params.graph.m = m;
        let mut restore = Restore::begin(params, shape, applied, &extents).unwrap();
        for piece in pieces.values() {
            restore.put(piece.part, piece.block, &piece.bytes).unwrap();
        }
        history.pair.engine = restore.finish().unwrap();
        history.saved = Some(Saved { shape, applied, pieces });
        assert!(history.pair.engine.stale_postings() >= 20);
        history.pair.engine.compact();
        history.pair.link_all();
        (1..=40).for_each(|id| put(&mut history.pair, 10_000 + id));
        let slots = history.pair.engine.store.slot_count();
        assert!(slots <= IDS as u32 + PAYLOADS_IN_BLOCK, "slots were used again: {slots}");
        history.pair.engine.check_index().unwrap();
        for seed in 0..40 {
            ask(&mut history.pair, seed, 0);
        }
        let not = Filter::Not(Box::new(Filter::Range("n".into(), None)));
        assert!(!passing(&history.pair.engine, &not).is_empty());
        history.snapshot();
        let saved = history.saved.as_ref().unwrap();
        assert!(stale.iter().all(|(key, piece)| saved.pieces[key].bytes != piece.bytes));
        history.restart();
        let of_all: Vec<Slot> = history.pair.engine.store.slots().collect();
        let store = &history.pair.engine.store;
        let gone = of_all.iter().filter(|&&slot| !store.is_live(slot));
        assert!(gone.into_iter().all(|&slot| store.stored_payload(slot).is_none()));
    }
}
