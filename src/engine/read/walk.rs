//! The walk of a search through the graph, whatever its distances come from: as the filter, if there
//! is one, wants it.

use super::{Query, STEP_HOPS};
use crate::engine::Engine;
use crate::engine::filtered::{Conditions, Filtered};
use crate::engine::plan::width_percent;
use crate::graph::filtered::{FilteredWalk, Trail};
use crate::graph::search::{Beam, Scratch};
use crate::graph::space::Space;
use crate::graph::visited::Visited;
use crate::store::view::View;
use crate::types::Slot;

/// Hops of a walk among the candidates of a filter between two looks at the clock: each may read
/// the lists of many nodes.
const STEP_HOPS_AMONG: u32 = STEP_HOPS / 8;

/// What a walk goes by.
pub(super) struct Walk<'a> {
    engine: &'a Engine,
    query: &'a Query,
    view: &'a View,
    /// What the filter selects, and where that is laid out as bits.
    filtered: Option<(&'a Filtered, &'a Visited)>,
}

impl<'a> Walk<'a> {
    pub(super) fn of(
        engine: &'a Engine,
        query: &'a Query,
        view: &'a View,
        filtered: Option<(&'a Filtered, &'a Visited)>,
    ) -> Self {
        Self { engine, query, view, filtered }
    }

    /// Descends from `from` on level `top`, and begins where that leads: there.
    pub(super) fn enter<S: Space>(
        &self,
        space: S,
        scratch: &mut Scratch,
        trail: &mut Trail,
        from: Slot,
        top: u8,
    ) -> Slot {
        let Some((filtered, flat)) = self.filtered else {
            return self.beam(space).enter(scratch, from, top, |slot| self.accepts(slot));
        };
        let conditions = self.conditions(flat);
        let is_wanted = |slot| filtered.wants(self.engine, &conditions, slot);
        if !filtered.walks_among() {
            return self.beam(space).enter(scratch, from, top, is_wanted);
        }
        let entry = self.beam(space).descend(from, top, scratch);
        let is_linked = |slot: &Slot| self.engine.graph.level(*slot).is_some();
        let seeds = filtered.seeds().filter(is_linked).filter(|&slot| is_wanted(slot));
        self.among(filtered, space).begin(trail, entry, seeds, is_wanted);
        entry
    }

    /// Does a step. True when the walk is complete.
    pub(super) fn advance<S: Space>(
        &self,
        space: S,
        scratch: &mut Scratch,
        trail: &mut Trail,
    ) -> bool {
        let Some((filtered, flat)) = self.filtered else {
            return self.beam(space).advance(scratch, STEP_HOPS, |slot| self.accepts(slot));
        };
        let conditions = self.conditions(flat);
        let is_wanted = |slot| filtered.wants(self.engine, &conditions, slot);
        if filtered.walks_among() {
            self.among(filtered, space).advance(trail, STEP_HOPS_AMONG, is_wanted)
        } else {
            self.beam(space).advance(scratch, STEP_HOPS, is_wanted)
        }
    }

    #[inline]
    fn accepts(&self, slot: Slot) -> bool {
        self.engine.accepts(slot, self.view)
    }

    fn conditions(&self, flat: &'a Visited) -> Conditions<'a> {
        Conditions { filter: self.query.filter.as_ref(), view: self.view, flat }
    }

    fn beam<S: Space>(&self, space: S) -> Beam<'a, S> {
        Beam { graph: &self.engine.graph, space, level: 0, width: self.query.ef }
    }

    fn among<S: Space>(&self, filtered: &Filtered, space: S) -> FilteredWalk<'a, S> {
        let live = self.engine.store.live_of_all() as u64;
        let width = self.query.ef as u64 * width_percent(filtered.count(), live) / 100;
        FilteredWalk { graph: &self.engine.graph, space, width: width as usize }
    }
}
