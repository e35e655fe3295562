//! Agreement of codes with vectors: the share of a node's nearest neighbours that are among the nearest by codes as
//! well.
//!
//! Codes are as fine as the largest value of a vector lets them be. Where vectors have much more in common than tells
//! them apart (a narrow cone, or one value that dwarfs the others), the error of rounding is larger than the
//! distances between neighbours, and walks by codes do not find them. The nodes that linkers find on level 0 give the
//! share at no cost, since linkers compare them as vectors anyway; after a restore, some [`Probe`]s do. On cones of
//! 96 values, the share and recall@10 at ef 50:
//!
//! | mean cosine | share | by codes | by vectors |
//! |---|---|---|---|
//! | 0.90 | 1.00 | 0.82 | 0.82 |
//! | 0.96 | 0.96 | 0.81 | 0.82 |
//! | 0.98 | 0.81 | 0.78 | 0.82 |
//! | 0.99 | 0.52 | 0.64 | 0.81 |
//! | 0.996 | 0.25 | 0.26 | 0.81 |
//!
//! Where vectors are not in memory, the share is estimated from the codes alone: of the nearest by codes, how many
//! lie so close behind the last that one error of rounding may swap them.

use super::Graph;
use super::insert::Rows;
use super::search::{Beam, Key, Scratch};
use super::space::{Coded, Space};
use crate::kernels::{Distance, codes::ERROR_DEVIATIONS};
use crate::store::{Codes, Vectors};
use crate::types::Slot;

/// Number of nearest nodes that are looked up among the nearest by codes, and the number of the latter.
const NEAR: usize = 10;
const AMONG: usize = 2 * NEAR;

/// Least number of nodes found by a walk from which a share is computed.
const FOUND_MIN: usize = 2 * AMONG;

/// Hops per step.
const STEP_HOPS: u32 = 8;

/// The share, 0 to 1, of the nearest of `by_vectors` that are among the nearest of `by_codes`. Both hold the same
/// nodes, sorted nearest first, without the node at the centre. `None` if there are too few.
fn share(by_codes: &[Key], by_vectors: &[Key]) -> Option<f32> {
    if by_codes.len() < FOUND_MIN || by_vectors.len() < NEAR {
        return None;
    }
    let among = &by_codes[..AMONG];
    let is_among = |key: &&Key| among.iter().any(|other| other.slot() == key.slot());
    Some(by_vectors[..NEAR].iter().filter(is_among).count() as f32 / NEAR as f32)
}

/// Notes the share among the nodes that linking has found near `slot`: in `scratch` by codes, and by vectors.
pub(super) fn note_found(codes: &Codes, scratch: &Scratch, by_vectors: &[Key]) {
    if scratch.nearest().len() < FOUND_MIN {
        return;
    }
    let by_codes: Vec<Key> = scratch.nearest().take(FOUND_MIN).collect();
    if let Some(share) = share(&by_codes, by_vectors) {
        codes.note_agreement(share);
    }
}

/// Notes the share among the nodes in `scratch`, which a walk by vectors has found near `slot`.
pub fn note_walked_by_vectors<D: Distance>(slot: Slot, codes: &Codes, scratch: &mut Scratch) {
    let found = |keys: &mut dyn Iterator<Item = Key>| -> Vec<Key> {
        keys.filter(|key| key.slot() != slot).collect()
    };
    let by_vectors = found(&mut scratch.nearest());
    let by_codes = scratch.nearest_by(Coded::<D>::new(codes.get(slot), codes));
    if let Some(share) = share(&found(&mut by_codes.into_iter()), &by_vectors) {
        codes.note_agreement(share);
    }
}

/// Notes the estimated share among the nodes in `scratch`, which a walk by codes has found near `slot`, without
/// vectors.
pub(super) fn note_codes_alone<D: Distance>(slot: Slot, codes: &Codes, scratch: &Scratch) {
    let found: Vec<Key> = scratch.nearest().filter(|key| key.slot() != slot).collect();
    if found.len() < FOUND_MIN {
        return;
    }
    let last = found[NEAR - 1];
    let space = Coded::<D>::new(codes.get(slot), codes);
    let deviation = (space.most(last) - last.distance()) / ERROR_DEVIATIONS;
    // Copies of the last are as near as it is, and stay so.
    let is_close = |key: &&Key| {
        key.distance() > last.distance() && key.distance() <= last.distance() + deviation
    };
    let close = found.iter().filter(is_close).count();
    codes.note_agreement((AMONG as f32 / (NEAR + close) as f32).min(1.0));
}

/// A walk from a node to its neighbours, to sample the agreement of codes. Until it is done, the scratch passed to
/// its steps must not be used for anything else.
pub struct Probe {
    slot: Slot,
    is_begun: bool,
}

impl Probe {
    /// Begins at a node that is linked.
    #[must_use]
    pub fn new(slot: Slot) -> Self {
        Self { slot, is_begun: false }
    }

    /// Does a step; true when the walk is done and the share is noted. The vectors are `None` if they are not all in
    /// memory.
    pub fn step<D: Distance>(
        &mut self,
        graph: &Graph,
        (vectors, codes): (Option<&Vectors>, &Codes),
        scratch: &mut Scratch,
        is_live: impl Fn(Slot) -> bool,
    ) -> bool {
        let is_found = match vectors {
            Some(vectors) => {
                let rows = Rows { vectors: Some(vectors), codes: None };
                let space = super::space::Exact::<D>::new(rows.whole().row(self.slot), vectors);
                self.walk(graph, space, scratch, is_live)
            }
            None => {
                let space = Coded::<D>::new(codes.get(self.slot), codes);
                self.walk(graph, space, scratch, is_live)
            }
        };
        if is_found {
            match vectors {
                Some(_) => note_walked_by_vectors::<D>(self.slot, codes, scratch),
                None => note_codes_alone::<D>(self.slot, codes, scratch),
            }
        }
        is_found
    }

    fn walk<S: Space>(
        &mut self,
        graph: &Graph,
        space: S,
        scratch: &mut Scratch,
        is_live: impl Fn(Slot) -> bool,
    ) -> bool {
        let width = graph.params().ef_construction;
        let beam = Beam { graph, space, level: 0, width };
        if !std::mem::replace(&mut self.is_begun, true) {
            let Some((entry, top)) = graph.entry() else {
                return true;
            };
            beam.enter(scratch, entry, top, &is_live);
        }
        beam.advance(scratch, STEP_HOPS, is_live)
    }
}
