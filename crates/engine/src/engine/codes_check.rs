//! Check whether the codes of a partition tell neighbours apart: if they do not, walks use vectors, or are wider if
//! vectors are on disk.
//!
//! Linkers report how well codes do as they use them ([`crate::graph::agreement`]). While they use vectors, some of
//! the nodes they find are compared by codes as well, so that codes are used again once they do better. After a
//! restore no document is linked: then idle upkeep sends some probes.

use super::Engine;
use crate::graph::agreement::{Probe, note_walked_by_vectors};
use crate::store::Codes;
use crate::store::view::View;
use crate::types::{Slot, mix};
use crate::with_distance;

/// Of the documents linked by vectors, one in this many is compared by codes.
const SAMPLE_SHARE: u64 = 16;

/// Slots tried per step to find a node to probe.
const TRIED_MAX: u64 = 16;

/// Most probes of a shard.
const PROBES_MAX: u32 = 128;

/// Least number of nodes in the graph for probes.
const NODES_MIN: u32 = 1_000;

/// Factor by which a walk is wider if codes do not tell neighbours apart and vectors are on disk; and the width, in
/// documents, up to which it is widened.
const WIDER: usize = 4;
const WIDER_MAX: usize = 2_000;

/// State of one shard's part in the check.
#[derive(Default)]
pub(super) struct CodesCheck {
    probe: Option<Probe>,
    /// Read view held during a probe: keeps nodes that other owners remove readable.
    view: View,
    /// Number of probes begun.
    probes: u32,
    /// Documents linked by vectors, and slots tried.
    linked: u64,
    tried: u64,
}

impl Engine {
    /// The share of the nearest, 0 to 1, that were not among the nearest by codes, in recent samples; `None` without
    /// codes.
    #[must_use]
    pub fn codes_indistinct(&self) -> Option<f32> {
        self.store.codes().map(Codes::indistinct)
    }

    /// False if codes are known not to tell neighbours apart.
    #[must_use]
    pub fn codes_tell_apart(&self) -> bool {
        self.store.codes().is_none_or(Codes::tell_apart)
    }

    /// Beam width of a walk for which a width of `ef` was asked.
    #[inline]
    pub(super) fn walk_width(&self, ef: usize) -> usize {
        match self.store.places() {
            Some(_) if !self.codes_tell_apart() => ef.max((ef * WIDER).min(WIDER_MAX)),
            _ => ef,
        }
    }

    /// Takes a sample after `slot` has been linked, by vectors or by codes; the scratch has the nodes found near it.
    pub(super) fn sample_codes(&mut self, slot: Slot) {
        let Self { params, store, link_scratch, codes_check, .. } = self;
        let Some(codes) = store.codes() else { return };
        if store.places().is_some() || codes.tell_apart() {
            return;
        }
        codes_check.linked += 1;
        if codes_check.linked.is_multiple_of(SAMPLE_SHARE) {
            with_distance!(params.metric.for_linking(), D => {
                note_walked_by_vectors::<D>(slot, codes, link_scratch);
            });
        }
    }

    /// Begins a probe, if there are too few samples; false if not. Called only if there is nothing else to do, and
    /// this shard has nothing half linked or half healed.
    pub(super) fn begin_probe(&mut self) -> bool {
        let is_wanted = self.store.codes().is_some_and(Codes::want_samples)
            && self.codes_check.probes < PROBES_MAX
            && self.graph.linked_count() >= NODES_MIN;
        if is_wanted && let Some(probe) = self.next_probe() {
            self.codes_check.probes += 1;
            self.codes_check.probe = Some(probe);
            if self.store.stripe().owners() > 1 {
                self.store.open_view(&mut self.codes_check.view, true);
            }
        }
        self.codes_check.probe.is_some()
    }

    /// Does a step of a probe. False if none has begun.
    pub(super) fn probe_step(&mut self) -> bool {
        let Self { params, store, graph, link_scratch, codes_check, .. } = self;
        let (Some(codes), Some(probe)) = (store.codes(), &mut codes_check.probe) else {
            return false;
        };
        let vectors = store.places().is_none().then(|| store.vectors());
        let is_done = with_distance!(params.metric.for_linking(), D => {
            probe.step::<D>(graph, (vectors, codes), link_scratch, |slot| store.is_live(slot))
        });
        if is_done {
            codes_check.probe = None;
            if store.stripe().owners() > 1 {
                store.close_view(&codes_check.view);
            }
        }
        true
    }

    /// Drops a probe that has begun: this shard is fenced.
    pub(super) fn stop_probe(&mut self) {
        self.codes_check.probe = None;
    }

    /// A probe at some node of this shard; `None` if this try found none.
    fn next_probe(&mut self) -> Option<Probe> {
        let (stripe, count) = (self.store.stripe(), u64::from(self.store.slot_count()));
        (0..TRIED_MAX).find_map(|_| {
            self.codes_check.tried += 1;
            let slot = stripe.slot((mix(self.codes_check.tried) % count.max(1)) as u32);
            let is_there =
                count > 0 && self.graph.level(slot).is_some() && self.store.is_live(slot);
            is_there.then(|| Probe::new(slot))
        })
    }
}
