//! Fairness between tenants: under load, no tenant has more than its share of the requests in flight.
//!
//! A tenant's share is the number of requests that may be in flight, divided by the number of tenants that have any in
//! flight; a single tenant leaves some places free for the next one. Requests in flight wait for the cores, which are
//! busy with a part of them already: limiting one tenant loses no throughput.

use std::sync::atomic::{AtomicUsize, Ordering};

/// One place in this many is not for a tenant that is alone.
const LEFT_FREE: usize = 8;

/// Number of searches in flight of one tenant.
#[derive(Debug, Default)]
pub struct Party {
    in_flight: AtomicUsize,
}

/// Requester of a place among the searches in flight.
#[derive(Clone, Copy, Default)]
pub struct Guest<'a> {
    /// Its tenant, if there are tenants.
    pub party: Option<&'a Party>,
    /// The request waits for a place until its deadline: true for a search of a stream, whose earlier searches may
    /// occupy the places and will end. Other requests are refused at once, and may be sent again.
    pub waits: bool,
}

/// Number of tenants with searches in flight.
#[derive(Debug, Default)]
pub(crate) struct Parties(AtomicUsize);

/// A place of a tenant, returned when dropped.
pub(crate) struct Seat<'a> {
    party: &'a Party,
    parties: &'a Parties,
    /// Searches that the tenant had in flight before this one.
    pub before: usize,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if self.party.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.parties.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Parties {
    /// Takes a place for a tenant, if all tenants together may have `max`; an error gives the tenant's share.
    pub(crate) fn enter<'a>(&'a self, party: &'a Party, max: usize) -> Result<Seat<'a>, usize> {
        let others = |own: usize| self.count().max(1) - usize::from(own > 0);
        let share = |own| ((max - max / LEFT_FREE) / (others(own) + 1)).max(1);
        let is_free = |own| (own < share(own)).then_some(own + 1);
        let entered = party.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, is_free);
        match entered {
            Err(own) => Err(share(own)),
            Ok(before) => {
                if before == 0 {
                    self.0.fetch_add(1, Ordering::AcqRel);
                }
                Ok(Seat { party, parties: self, before })
            }
        }
    }

    /// Tenants with searches in flight.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_leaves_places_and_two_halve_them() {
        let parties = Parties::default();
        let (flood, other) = (Party::default(), Party::default());
        let mut taken = Vec::new();
        let refused = loop {
            match parties.enter(&flood, 80) {
                Ok(place) => taken.push(place),
                Err(share) => break share,
            }
        };
        assert_eq!((refused, taken.len(), parties.count()), (70, 70, 1));
        let place = parties.enter(&other, 80).ok().unwrap();
        assert_eq!((place.before, parties.count()), (0, 2));
        taken.truncate(36);
        assert_eq!(parties.enter(&flood, 80).err(), Some(35), "half is its share now");
        taken.truncate(34);
        taken.push(parties.enter(&flood, 80).ok().unwrap());
        drop(place);
        assert_eq!(parties.count(), 1);
        assert!(parties.enter(&flood, 80).is_ok(), "it is alone again");
        taken.clear();
        assert_eq!(parties.count(), 0);
        assert!(parties.enter(&other, 1).is_ok(), "one place is for anybody");
    }
}
