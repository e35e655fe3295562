//! The walk of a search through the graph, with either source of distances, and with a filter or without.

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

/// Hops of a walk among the candidates of a filter between two looks at the clock: each hop may read the lists of
/// many nodes.
const STEP_HOPS_AMONG: u32 = STEP_HOPS / 8;

/// The data that a walk uses.
pub(super) struct Walk<'a> {
    engine: &'a Engine,
    query: &'a Query,
    view: &'a View,
    /// The candidates of the filter, and their layout as bits.
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

    /// Begins at `starts`, which are all different, or, if there are none, at the node to which the descent from
    /// `from` on level `top` leads, which is returned.
    pub(super) fn enter_from<S: Space>(
        &self,
        space: S,
        scratch: &mut Scratch,
        trail: &mut Trail,
        starts: &[Slot],
        from: Slot,
        top: u8,
    ) -> Option<Slot> {
        if starts.is_empty() {
            return Some(self.enter(space, scratch, trail, from, top));
        }
        let beam = self.beam(space);
        match self.filtered {
            None => beam.begin(scratch, starts, |slot| self.accepts(slot)),
            Some((filtered, flat)) => {
                let conditions = self.conditions(flat);
                beam.begin(scratch, starts, |slot| filtered.wants(self.engine, &conditions, slot));
            }
        }
        None
    }

    /// Descends from `from` on level `top`, and begins at the node found, which is returned.
    fn enter<S: Space>(
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
        Beam {
            graph: &self.engine.graph,
            space,
            level: 0,
            width: self.engine.walk_width(self.query.ef),
        }
    }

    fn among<S: Space>(&self, filtered: &Filtered, space: S) -> FilteredWalk<'a, S> {
        let live = self.engine.store.live_of_all() as u64;
        let width = self.engine.walk_width(self.query.ef) as u64
            * width_percent(filtered.count(), live)
            / 100;
        FilteredWalk { graph: &self.engine.graph, space, width: width as usize }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::engine::testing::{Pair, finish, found};
    use crate::engine::{Query, SearchOutcome};
    use crate::types::DocId;

    /// Outcome of a search that is told that these documents are near.
    fn search(pair: &mut Pair, query: &Arc<Query>, starts: &[DocId]) -> SearchOutcome {
        let mut search = pair.engine.begin_search(query.clone()).unwrap();
        pair.engine.start_near(&mut search, starts);
        finish(&mut pair.engine, search)
    }

    #[test]
    fn a_walk_that_begins_near_is_shorter_and_finds_as_much() {
        let mut pair = Pair::new(8);
        (1..=6_000).for_each(|id| pair.put(id));
        pair.link_all();
        (1..=200).for_each(|id| pair.put(id));
        let (mut hits, mut distances) = ([0; 2], [0; 2]);
        for _ in 0..200 {
            let query = pair.query(10, None);
            let truth = pair.model.nearest(&query);
            // Some are hot, one is there twice, and one does not exist.
            let mut starts: Vec<DocId> =
                truth.iter().skip(2).step_by(2).map(|(id, _)| *id).collect();
            starts.extend([starts[0], DocId(7_000)]);
            for (side, starts) in [&[][..], &starts].into_iter().enumerate() {
                let outcome = search(&mut pair, &query, starts);
                let found = found(&outcome);
                assert_eq!(found.len(), 10);
                hits[side] += truth.iter().filter(|wanted| found.contains(wanted)).count();
                distances[side] += outcome.work.distances;
            }
        }
        assert!(hits[1] + 10 >= hits[0] && hits[1] > 1_900, "{hits:?} of 2,000");
        assert!(distances[1] < distances[0], "{distances:?}");
        println!("found {hits:?} of 2,000, with {distances:?} distances");
    }

    #[test]
    fn a_walk_begins_as_usual_if_no_start_is_linked() {
        let mut pair = Pair::new(9);
        (1..=3_000).for_each(|id| pair.put(id));
        pair.link_all();
        (2_990..=3_000).for_each(|id| pair.put(id));
        let query = pair.query(10, None);
        let answers = [&[][..], &[DocId(2_995), DocId(9_999)]].map(|starts| {
            let outcome = search(&mut pair, &query, starts);
            (found(&outcome), outcome.work)
        });
        assert_eq!(answers[0], answers[1]);
    }
}
