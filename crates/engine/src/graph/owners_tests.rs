//! Several linkers at once, of owners that do not see the nodes which others are linking: with any nodes, and any
//! order of the steps, every node is reachable and found.

use super::check::check;
use super::insert::{Linker, Rows};
use super::search::{Beam, Scratch};
use super::space::Exact;
use super::*;
use crate::kernels::{Distance, NegatedDot, SquaredEuclidean, normalize};
use crate::store::Vectors;

const DIMENSION: u64 = 16;

/// Positions of the copies among the other points.
#[derive(Clone, Copy, Debug)]
enum Copies {
    First,
    Last,
    Mixed,
}

/// Order in which the owners take steps.
#[derive(Clone, Copy, Debug)]
enum Turns {
    InTurn,
    AtRandom(u64),
    /// Some steps of one owner, then some of another.
    InRuns(u64),
}

impl Turns {
    fn owner(self, step: u64, owners: u64) -> u64 {
        match self {
            Self::InTurn => step % owners,
            Self::AtRandom(seed) => mix(seed << 32 ^ step) % owners,
            Self::InRuns(seed) => mix(seed << 32 ^ (step / 64)) % owners,
        }
    }
}

fn random_point(seed: u64) -> Vec<f32> {
    let value = |d| (mix(mix(seed) ^ d) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let mut point: Vec<f32> = (0..DIMENSION).map(value).collect();
    assert!(normalize(&mut point));
    point
}

/// `copies` copies of one point, and `others` other points.
fn points(copies: u64, others: u64, place: Copies) -> Vec<Vec<f32>> {
    let all = copies + others;
    let mut copied = 0;
    (0..all)
        .map(|i| {
            let is_copy = match place {
                Copies::First => i < copies,
                Copies::Last => i >= others,
                Copies::Mixed => mix(i) % (all - i) < copies - copied,
            };
            copied += u64::from(is_copy);
            random_point(if is_copy { u64::MAX } else { i })
        })
        .collect()
}

struct Built {
    graph: Graph,
    vectors: Vectors,
    slots: Vec<Slot>,
    distances: u64,
}

/// Each owner links its points in order, one after the other.
fn build<D: Distance>(params: Params, owners: u32, points: &[Vec<f32>], turns: Turns) -> Built {
    let graph = Graph::shared(params, owners);
    let vectors = Vectors::new(DIMENSION as usize);
    let mut counts = vec![0; owners as usize];
    let mut queues = vec![std::collections::VecDeque::new(); owners as usize];
    let mut slots = Vec::new();
    for (index, point) in points.iter().enumerate() {
        let owner = (mix(index as u64) % u64::from(owners)) as usize;
        let slot = Stripe::new(owner as u32, owners).slot(counts[owner]);
        counts[owner] += 1;
        graph.reserve(slot);
        #[expect(unsafe_code, reason = "the rows of nodes that are not linked yet")]
        // SAFETY: no other code has the name of the slot yet, and there is one thread.
        unsafe {
            vectors.put(slot, point);
        }
        queues[owner].push_back(slot);
        slots.push(slot);
    }
    let rows = Rows { vectors: Some(&vectors), codes: None };
    let mut scratches: Vec<Scratch> = counts.iter().map(|_| Scratch::default()).collect();
    let mut linkers: Vec<Option<Linker>> = counts.iter().map(|_| None).collect();
    let mut left = points.len();
    for step in 0.. {
        if left == 0 {
            break;
        }
        let owner = turns.owner(step, u64::from(owners)) as usize;
        if linkers[owner].is_none() {
            let slot = queues[owner].pop_front();
            linkers[owner] = slot.map(|slot| Linker::new(&graph, slot, DocId(slot.0.into())));
        }
        let Some(linker) = &mut linkers[owner] else { continue };
        if linker.step::<D>(&graph, rows, &mut scratches[owner], |_| true) {
            linkers[owner] = None;
            left -= 1;
        }
    }
    let distances = scratches.iter().map(|scratch| scratch.work.distances).sum();
    Built { graph, vectors, slots, distances }
}

impl Built {
    fn extent(&self) -> u32 {
        self.slots.iter().map(|slot| slot.0 + 1).max().unwrap_or(0)
    }

    fn unreachable(&self) -> usize {
        check(&self.graph, self.extent()).unwrap().unreachable.len()
    }

    /// Number of these points that a walk by their own vector does not find.
    fn missed<D: Distance>(&self, points: impl Iterator<Item = usize>, width: usize) -> usize {
        let mut scratch = Scratch::default();
        let mut is_missed = |&index: &usize| {
            let slot = self.slots[index];
            let space = Exact::<D>::new(self.vectors.row(slot), &self.vectors);
            let beam = Beam { graph: &self.graph, space, level: 0, width };
            let (entry, top) = self.graph.entry().unwrap();
            beam.enter(&mut scratch, entry, top, |_| true);
            while !beam.advance(&mut scratch, 8, |_| true) {}
            scratch.nearest().all(|key| key.slot() != slot)
        };
        points.filter(|index| is_missed(index)).count()
    }
}

/// No node is unreachable, and of one hundred others at most `missed_max` are not found: as few as chance decides
/// with one owner.
fn copies_cut_off_nothing<D: Distance>(m: usize, copies: u64, others: u64, missed_max: u64) {
    let params = Params { m, ef_construction: 60, seed: 7 };
    let copy = random_point(u64::MAX);
    let mut faults = Vec::new();
    for owners in [1, 2, 3, 16] {
        for place in [Copies::First, Copies::Last, Copies::Mixed] {
            for turns in [Turns::InTurn, Turns::AtRandom(1), Turns::InRuns(2)] {
                let points = points(copies, others, place);
                let built = build::<D>(params, owners, &points, turns);
                let unreachable = built.unreachable();
                let asked = (0..points.len()).filter(|&index| points[index] != copy);
                let missed = built.missed::<D>(asked, 50);
                if unreachable > 0 || missed as u64 > others * missed_max / 100 {
                    faults.push(format!(
                        "m {m}, {owners} owners, copies {place:?}, steps {turns:?}: \
                         {unreachable} unreachable, {missed} of {others} missed"
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn copies_cut_off_nothing_in_any_order_of_linkers() {
    copies_cut_off_nothing::<NegatedDot>(16, 300, 200, 1);
    copies_cut_off_nothing::<SquaredEuclidean>(16, 200, 300, 1);
}

#[test]
fn copies_cut_off_nothing_with_short_lists() {
    copies_cut_off_nothing::<NegatedDot>(5, 300, 200, 3);
    copies_cut_off_nothing::<SquaredEuclidean>(5, 200, 300, 3);
}

/// Without copies, only the reading of lists is spent on keeping nodes reachable.
#[test]
fn without_copies_a_link_costs_only_the_reading_of_lists() {
    let params = Params { m: 16, ef_construction: 100, seed: 7 };
    let points = points(0, 3_000, Copies::First);
    for owners in [1, 4] {
        let built = build::<NegatedDot>(params, owners, &points, Turns::InTurn);
        assert_eq!(built.unreachable(), 0);
        assert_eq!(built.missed::<NegatedDot>(0..points.len(), 50), 0);
        let cost = built.distances as f64 / points.len() as f64;
        assert!(cost < 1_165.0, "{cost} distances a link, {owners} owners");
    }
}
