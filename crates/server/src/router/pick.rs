//! Choice of the shard of a partition that answers a search: all of them see all documents of the partition, so it is
//! the less loaded of two chosen at random. Always taking the least loaded of all would send searches that arrive
//! together at several threads to one core.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::types::mix;

/// Number of searches in progress, by core.
pub(super) struct Loads {
    searches: Box<[AtomicUsize]>,
    turn: AtomicU64,
}

/// A search in progress on a core, counted until this is dropped.
pub(super) struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Loads {
    pub(super) fn new(cores: usize) -> Self {
        let searches = (0..cores).map(|_| AtomicUsize::new(0)).collect();
        Self { searches, turn: AtomicU64::new(0) }
    }

    /// Counts a search on a core.
    pub(super) fn begin(&self, core: usize) -> UnderWay<'_> {
        self.searches[core].fetch_add(1, Ordering::Relaxed);
        UnderWay(&self.searches[core])
    }

    /// Searches in progress on a core.
    pub(super) fn of(&self, core: usize) -> usize {
        self.searches[core].load(Ordering::Relaxed)
    }

    /// Two of `count` members at random, different ones if there are two; the one with the smaller `load` first. `None`
    /// without members.
    pub(super) fn two(
        &self,
        count: usize,
        load: impl Fn(usize) -> (usize, usize),
    ) -> Option<(usize, usize)> {
        if count < 2 {
            return (count == 1).then_some((0, 0));
        }
        let random = mix(self.turn.fetch_add(1, Ordering::Relaxed));
        let first = (random >> 32) as usize % count;
        // One of the others.
        let second = (first + 1 + (random as u32 as usize) % (count - 1)) % count;
        Some(if load(second) < load(first) { (second, first) } else { (first, second) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_are_chosen_about_as_often() {
        for count in [1, 2, 3, 7] {
            let (loads, mut chosen) = (Loads::new(count), vec![0_u32; count]);
            for _ in 0..10_000 {
                let (first, second) = loads.two(count, |_| (0, 0)).unwrap();
                assert!(count == 1 || first != second);
                chosen[first] += 1;
            }
            let mean = 10_000 / count as u32;
            assert!(chosen.iter().all(|&n| n.abs_diff(mean) < mean / 8), "{chosen:?}");
        }
        assert_eq!(Loads::new(1).two(0, |_| (0, 0)), None);
    }

    #[test]
    fn the_busier_of_two_is_left_alone() {
        let loads = Loads::new(2);
        let under_way = [loads.begin(1), loads.begin(1)];
        let load = |core| (loads.of(core), 0);
        assert!((0..1_000).all(|_| loads.two(2, load) == Some((0, 1))));
        drop(under_way);
        assert!((0..1_000).any(|_| loads.two(2, load) == Some((1, 0))));
        // Of four, the busiest never comes first.
        let loads = Loads::new(4);
        let _under_way = loads.begin(2);
        let load = |core| (loads.of(core), 0);
        assert!((0..1_000).all(|_| loads.two(4, load).unwrap().0 != 2));
    }
}
