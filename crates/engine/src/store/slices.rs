//! Work that grows with the number of documents, cut into slices: between two slices other tasks of the thread have
//! their turn.
//!
//! The caller passes a function `rest` that is awaited between slices and lets other tasks run. Where there are no
//! other tasks it does nothing, and the work is done [at once](at_once).

use crate::pieces::in_pieces;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::Range;

use futures_util::FutureExt;

/// Slots, or entries, per slice: at one cache miss each, some 0.4 ms.
#[must_use]
pub fn slots_at_once() -> u32 {
    in_pieces(4_096, 64)
}

/// Items that are sorted in one slice, which takes some milliseconds.
const SORTED_AT_ONCE: usize = if cfg!(test) { 64 } else { 65_536 };

/// The numbers below `count`, in ranges of at most [`slots_at_once`].
pub fn slices(count: u32) -> impl Iterator<Item = Range<u32>> {
    let starts = (0..count).step_by(slots_at_once() as usize);
    starts.map(move |start| start..count.min(start.saturating_add(slots_at_once())))
}

/// Completes work whose `rest` never waits.
///
/// # Panics
/// If it waits.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("no other task is to have a turn")
}

/// Sorts in slices: runs first, then a merge.
pub async fn sort<T: Ord + Copy>(mut items: Vec<T>, rest: &impl AsyncFn()) -> Vec<T> {
    for run in items.chunks_mut(SORTED_AT_ONCE) {
        run.sort_unstable();
        rest().await;
    }
    if items.len() <= SORTED_AT_ONCE {
        return items;
    }
    let mut runs: Vec<_> = items.chunks(SORTED_AT_ONCE).map(|run| run.iter().copied()).collect();
    let firsts = runs.iter_mut().enumerate();
    let mut heads: BinaryHeap<_> =
        firsts.filter_map(|(run, items)| Some(Reverse((items.next()?, run)))).collect();
    let mut sorted = Vec::with_capacity(items.len());
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((item, run)) = *head;
        sorted.push(item);
        match runs[run].next() {
            Some(next) => {
                *head = Reverse((next, run));
                drop(head);
            }
            None => drop(PeekMut::pop(head)),
        }
        if sorted.len().is_multiple_of(slots_at_once() as usize) {
            rest().await;
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::types::mix;

    #[test]
    fn slices_have_each_number_once() {
        for count in [0, 1, 63, 64, 65, 1_000] {
            assert!(slices(count).flatten().eq(0..count));
            assert!(slices(count).all(|slice| slice.len() <= slots_at_once() as usize));
        }
    }

    #[test]
    fn sorting_rests_between_slices() {
        for count in [0, 1, 64, 65, 10_000] {
            let items: Vec<u64> = (0..count).map(|i| mix(i) % 1_000).collect();
            let mut expected = items.clone();
            expected.sort_unstable();
            let rests = Cell::new(0);
            let rest = async || rests.set(rests.get() + 1);
            assert_eq!(at_once(sort(items, &rest)), expected);
            let least = if count > 64 { 2 * (count / 64) } else { count / 64 };
            assert!(rests.get() >= least, "{} rests for {count}", rests.get());
        }
    }
}
