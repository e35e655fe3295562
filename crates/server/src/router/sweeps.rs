//! Requests that look at every document that may pass: listings, and deletes by filter. They take long, and a core does
//! not refuse them, so few are admitted at a time, and of each tenant no more than its share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{Router, gone};
use crate::access::fair::{Parties, Party, Seat};
use crate::engine::filter::Filter;
use crate::error::{Error, Result};
use crate::observe::counters::BreakerState;
use crate::shard::reply::single;
use crate::shard::request::Request;
use crate::types::{DocId, ShardId};

/// Listings and deletes by filter that may be in flight at once, per core.
const SWEEPS_PER_CORE: usize = 4;

/// Number of sweeps in flight.
#[derive(Default)]
pub(super) struct Sweeps {
    count: AtomicUsize,
    parties: Parties,
}

/// Permit of a sweep, returned when dropped.
struct Place<'a> {
    count: &'a AtomicUsize,
    _party: Option<Seat<'a>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Sweeps {
    /// Takes a permit, if all sweeps together may be `max`.
    fn enter<'a>(&'a self, party: Option<&'a Party>, max: usize) -> Result<Place<'a>> {
        const WHAT: &str = "listings and deletes by filter";
        let seat = party.map(|party| self.parties.enter(party, max)).transpose();
        let seat = seat.map_err(|share| {
            let what = format!("{share} {WHAT} of this tenant are in flight, its share of {max}");
            Error::busy(what)
        })?;
        let is_free = |count| (count < max).then_some(count + 1);
        let entered = self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, is_free);
        match entered {
            Ok(_) => Ok(Place { count: &self.count, _party: seat }),
            Err(_) => Err(Error::busy(format!("{max} {WHAT} are in flight"))),
        }
    }
}

impl Router {
    /// Deletes documents that pass, of these ids or of all; all or none in each shard.
    ///
    /// # Errors
    /// If any shard refuses; others may have deleted theirs.
    pub async fn delete_many(
        &self,
        ids: Option<Vec<DocId>>,
        filter: Filter,
        party: Option<&Party>,
        deadline: Instant,
    ) -> Result<u64> {
        let _place = match ids {
            None => Some(self.sweeps.enter(party, self.sweeps_max())?),
            Some(_) => None,
        };
        let mut by_shard = ids.map(|ids| {
            let mut by_shard = vec![Vec::new(); self.shards() as usize];
            for id in ids {
                by_shard[id.shard(self.shards()).0 as usize].push(id);
            }
            by_shard
        });
        // Foreseeable refusals come before any shard has deleted anything.
        for (shard, counters) in self.observed.shards().iter().enumerate() {
            let is_open = counters.breaker() == BreakerState::Open;
            if is_open || counters.is_fenced() || counters.is_read_only() {
                return Err(Error::unavailable(format!("shard {shard} takes no writes now")));
            }
        }
        let mut waiting = Vec::new();
        for shard in (0..self.shards()).map(ShardId) {
            let ids = by_shard.as_mut().map(|ids| std::mem::take(&mut ids[shard.0 as usize]));
            if ids.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            let (answers, reply) = single();
            let (ids, filter) = (ids.map(|ids| vec![ids]), filter.clone());
            self.send(shard, Request::DeleteMany { shard, ids, filter, deadline, reply })?;
            waiting.push((shard, answers));
        }
        let mut deleted = 0;
        for (shard, answers) in waiting {
            deleted += answers.one().await.unwrap_or_else(|| Err(gone(shard)))?.existed;
        }
        Ok(deleted)
    }

    /// Ids of documents that pass, the `max` smallest after `after`, in ascending order; and whether there are more.
    ///
    /// # Errors
    /// If too many listings are in flight, or any shard can't answer, or not until the deadline.
    pub async fn list(
        &self,
        filter: Filter,
        (after, max): (DocId, usize),
        party: Option<&Party>,
        deadline: Instant,
    ) -> Result<(Vec<DocId>, bool)> {
        let _place = self.sweeps.enter(party, self.sweeps_max())?;
        let request = |shard, reply| {
            let (filter, max) = (filter.clone(), max + 1);
            Request::List { shard, filter, after, max, deadline, reply }
        };
        let mut ids: Vec<DocId> = self.ask_every(request).await?.into_iter().flatten().collect();
        ids.sort_unstable();
        let has_more = ids.len() > max;
        ids.truncate(max);
        Ok((ids, has_more))
    }

    fn sweeps_max(&self) -> usize {
        SWEEPS_PER_CORE * self.cores.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sweeps_are_admitted_and_a_tenant_has_its_share() {
        let sweeps = Sweeps::default();
        let (flood, other) = (Party::default(), Party::default());
        let taken: Vec<_> = std::iter::from_fn(|| sweeps.enter(Some(&flood), 8).ok()).collect();
        assert_eq!(taken.len(), 7, "one place is left to others");
        let place = sweeps.enter(Some(&other), 8).ok().unwrap();
        let refused = sweeps.enter(None, 8).err().unwrap();
        assert!(matches!(refused, Error::Busy { .. }), "{refused}");
        drop(taken);
        assert!(sweeps.enter(Some(&flood), 8).is_ok());
        drop(place);
        assert_eq!(sweeps.count.load(Ordering::Relaxed), 0);
    }
}
