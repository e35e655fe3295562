//! A partition that is restored from snapshots of its shards, each of a different moment.

use super::*;
use crate::engine::checkpoint::{Checkpoint, Piece};
use crate::engine::partition::Settling;
use crate::engine::restore::Restore;
use crate::types::image::Extent;

/// A snapshot of one owner.
struct Saved {
    checkpoint: Checkpoint,
    pieces: Vec<Piece>,
}

impl Many {
    /// Takes a snapshot of one owner, while all of them write and link.
    fn save(&mut self, owner: usize, ids: u64) -> Saved {
        while !self.engines[owner].may_checkpoint() {
            self.engines[owner].link_step();
        }
        let mut checkpoint = self.engines[owner]
            .begin_checkpoint(std::sync::Arc::default(), std::collections::BTreeSet::new());
        let mut pieces = Vec::new();
        while let Some(piece) = checkpoint.next(&self.engines[owner]) {
            pieces.push(piece);
            self.disturb(ids);
        }
        Saved { checkpoint, pieces }
    }

    fn disturb(&mut self, ids: u64) {
        (0..self.random.below(4)).for_each(|_| self.random_write(ids));
        let steps = self.random.below(1_000) as usize;
        self.link(steps);
    }
}

fn restore(params: Params, saved: &Saved) -> Engine {
    let extent = |piece: &Piece| Extent {
        part: piece.part,
        block: piece.block,
        file: 1,
        offset: 0,
        bytes: piece.bytes.len() as u32,
        crc: 0,
    };
    let extents: Vec<Extent> = saved.pieces.iter().map(extent).collect();
    let (shape, applied) = (saved.checkpoint.shape(), saved.checkpoint.snapshot());
    let mut restore = Restore::begin(params, shape, applied, &extents).unwrap();
    for piece in &saved.pieces {
        restore.put(piece.part, piece.block, &piece.bytes).unwrap();
    }
    restore.finish().unwrap()
}

/// Restores each owner from its snapshot, in the order `order`, with the log after it.
fn come_back(many: &Many, saved: &[Saved], order: &[usize], joint: &Arc<Joint>) -> Vec<Engine> {
    let mut engines: Vec<Option<Engine>> = saved.iter().map(|_| None).collect();
    for &owner in order {
        let params = Params { home: Some(joint.home(owner as u32)), ..params() };
        // A shard that turns out damaged was there before.
        drop(restore(params.clone(), &saved[owner]));
        let mut engine = restore(params, &saved[owner]);
        let from = engine.applied().0 as usize;
        for record in many.logs[owner][from..].iter().cloned() {
            engine.apply_all(engine.applied().next(), record);
        }
        engine.finish_replay();
        engines[owner] = Some(engine);
    }
    let mut engines: Vec<Engine> = engines.into_iter().flatten().collect();
    for engine in &mut engines {
        let mut settling = Settling::default();
        while !engine.settle(&mut settling) {}
    }
    engines
}

#[test]
fn a_partition_comes_back_from_snapshots_of_different_moments() {
    for seed in 0..6 {
        let ids = 2_000;
        let mut many = Many::new(3, 700 + seed);
        (1..=ids).for_each(|id| many.put(id));
        many.link_all();
        let mut saved = Vec::new();
        for owner in 0..3 {
            (0..500).for_each(|_| many.disturb(ids));
            saved.push(many.save(owner, ids));
        }
        (0..300).for_each(|_| many.disturb(ids));
        let mut order = [0, 1, 2];
        many.random.shuffle(&mut order);
        let joint = Joint::new(3);
        let engines = come_back(&many, &saved, &order, &joint);
        for (owner, saved) in saved.into_iter().enumerate() {
            many.engines[owner].end_checkpoint(saved.checkpoint);
        }
        // Nodes that were restored twice are counted once.
        let dead: usize = engines.iter().map(Engine::dead_count).sum();
        assert_eq!(engines[0].ward.dead(), dead);
        let mut again = Many::of(engines, many.model.clone(), Random(seed << 40));
        // At any moments of the snapshots, no list leads to a node that does not exist.
        check(again.engines[0].graph(), again.engines[0].store().extent()).unwrap();
        assert!(joint.is_checking());
        for is_linked in [false, true] {
            for _ in 0..20 {
                let query = again.query(40, true);
                let expected = again.model.nearest(&query);
                assert_eq!(found(&again.search(query)), expected, "seed {seed}");
            }
            if !is_linked {
                again.link_all();
            }
        }
        // All unreachable nodes were looked for.
        assert!(!joint.is_checking());
        again.check();
        let (recall, _) = again.recall(40, 100);
        assert!(recall > 0.95, "{recall} with seed {seed}");
        (0..500).for_each(|_| again.disturb(ids));
        again.link_all();
        again.check();
        many.link_all();
        many.check();
    }
}

/// A shard that is given another place links all its documents again, and so does one that had a graph of its own.
#[test]
fn a_shard_moved_to_another_partition_links_all_documents_again() {
    let ids = 900;
    let mut many = Many::new(3, 90);
    (1..=ids).for_each(|id| many.put(id));
    many.link_all();
    let saved: Vec<Saved> = (0..3).map(|owner| many.save(owner, 1)).collect();
    for home in [None, Some(Joint::new(3).home(1)), Some(Joint::new(2).home(0))] {
        let is_same = home.as_ref().is_some_and(|home| home.stripe().owners() == 3);
        let mut engine = restore(Params { home, ..params() }, &saved[1]);
        assert_eq!(
            engine.live_count(),
            engine.hot_count() + if is_same { engine.live_count() } else { 0 }
        );
        let mut settling = Settling::default();
        while !engine.settle(&mut settling) {}
        assert_eq!(settling.dropped > 0, is_same, "most neighbours were of other owners");
        while engine.link_step() == LinkProgress::More {}
        let report = check(engine.graph(), engine.store().extent()).unwrap();
        let linked = engine.live_count() + engine.dead_count();
        assert_eq!((report.linked as usize, report.unreachable), (linked, vec![]));
        let own: Vec<u64> = (1..=ids).filter(|&id| DocId(id).shard(3).0 == 1).collect();
        assert!(own.iter().all(|&id| engine.get(DocId(id), &Realm::default(), false).is_some()));
    }
}
