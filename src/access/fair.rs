//! Fairness between tenants: where much is in flight, none has more of it than its share.
//!
//! A tenant's share is that of all that is let in, divided by the number of tenants that have anything
//! in flight; and one alone leaves some places free, so that whoever comes next finds one. What is in
//! flight waits for the cores, which have enough to do with a part of it: nothing is lost by keeping
//! one tenant's part short.

use std::sync::atomic::{AtomicUsize, Ordering};

/// One place in so many is not for a tenant that is alone.
const LEFT_FREE: usize = 8;

/// The searches of one tenant.
#[derive(Debug, Default)]
pub struct Party {
    in_flight: AtomicUsize,
}

/// Who asks for a place among the searches in flight.
#[derive(Clone, Copy, Default)]
pub struct Guest<'a> {
    /// Its tenant, if it is of one.
    pub party: Option<&'a Party>,
    /// It waits for a place until its deadline: one of a stream, whose others may be what is in its way,
    /// and will be done. Others are told, and may try again.
    pub waits: bool,
}

/// How many tenants have searches in flight.
#[derive(Debug, Default)]
pub(crate) struct Parties(AtomicUsize);

/// A place of a party; leaves it when dropped.
pub(crate) struct Seat<'a> {
    party: &'a Party,
    parties: &'a Parties,
    /// What the party had in flight before.
    pub(crate) before: usize,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if self.party.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.parties.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Parties {
    /// Takes a place for a party where all together may have `max`; or says how many it may have.
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
