//! The end of a search: its outcome, and whether that is complete.

use super::{Candidate, Engine, Hit, Phase, Reused, SCRATCHES_MAX, Scope, Search, SearchOutcome};

impl Engine {
    /// Ends a search, complete or not, with the documents found so far.
    pub fn finish_search(&mut self, mut search: Search) -> SearchOutcome {
        let complete = search.phase == Phase::Done && !search.was_cut;
        if search.phase == Phase::Walk {
            search.collect_walk(self);
        }
        let awaits_disk = search.waits_for_rows();
        search.wind_up(self);
        // The nearest by codes are worth one more step.
        if matches!(search.phase, Phase::Rerank(_) | Phase::Fetch) {
            search.step(self);
        }
        let lost = search.lost();
        let Search { query, snapshot, found, work, hot_scanned, hot_cut, mut reused, .. } = search;
        let missing = match search.scope {
            Scope::Partition => self.store.missing_in(&reused.view).collect(),
            _ => Vec::new(),
        };
        let lent = search.filtered.and_then(|filtered| self.lend(*filtered, snapshot));
        let hit = |candidate: Candidate| Hit {
            id: candidate.id,
            score: self.params.metric.score(candidate.distance()),
            payload: self.store.payload_at(candidate.slot, snapshot).clone(),
            embedding: match query.include_embeddings {
                true => self.embedding_of_hit(candidate.slot, &reused.disk),
                false => None,
            },
            is_hot: self.is_hot(candidate.slot),
        };
        let mut hits: Vec<Hit> = reused.top.take_sorted(hit);
        // Distances that differ may be equal as scores.
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        self.end_search(reused);
        let found_count = hits.len();
        if query.include_embeddings && self.store.places().is_some() {
            hits.retain(|hit| hit.embedding.is_some());
        }
        // A hit without a vector was either reported lost, or there was no time for it.
        let complete = complete && (hits.len() == found_count || !lost.is_empty());
        SearchOutcome {
            hits,
            found,
            work,
            hot_scanned,
            hot_cut,
            complete,
            missing,
            lost,
            awaits_disk,
            lent,
        }
    }

    /// Ends a search whose answer is not wanted.
    pub fn abandon_search(&mut self, search: Search) {
        self.end_search(search.reused);
    }

    fn end_search(&mut self, reused: Box<Reused>) {
        self.store.close_view(&reused.view);
        if self.scratches.len() < SCRATCHES_MAX {
            self.scratches.push(reused);
        }
    }
}
