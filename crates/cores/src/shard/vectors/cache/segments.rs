//! Eviction order of the places: a window of new rows, and a main part with a probation and a protected segment, each
//! in order of last use (the shape of W-TinyLFU: Einziger, Friedman and Manes, "TinyLFU: A Highly Efficient Cache
//! Admission Policy", 2017). With a window of everything it is plain LRU.

use super::index::NONE;

/// Most places that leave a segment at a time after it was made smaller.
const MOVES_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Window,
    Probation,
    Protected,
}

struct Node {
    before: u32,
    after: u32,
    segment: Segment,
    /// The row was let into the main part in place of another, and has not been used there.
    is_unproved: bool,
}

/// Places from the most to the least recently used.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    length: usize,
}

/// The places and their order.
pub(super) struct Segments {
    nodes: Vec<Node>,
    lists: [List; 3],
    places_max: usize,
    window_max: usize,
    protected_max: usize,
}

/// A place that was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) place: u32,
    /// The row lost the comparison on leaving the window.
    pub(super) is_refused: bool,
    /// The row had been let into the main part in place of another, and was never used there.
    pub(super) is_unproved: bool,
}

/// Sizes of the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Size of the window for new rows, in thousandths of all places.
    pub(super) window_permille: usize,
    /// Most protected places, in hundredths of the places of the main part.
    pub(super) protected_percent: usize,
}

impl Shape {
    /// One window of all places: LRU.
    pub(super) const LRU: Self = Self { window_permille: 1_000, protected_percent: 0 };
}

impl Segments {
    /// Bytes per place.
    pub(super) const PLACE_BYTES: usize = size_of::<Node>();

    /// Empty segments for at most `places_max` places.
    pub(super) fn new(places_max: usize, shape: Shape) -> Self {
        let empty = List { first: NONE, last: NONE, length: 0 };
        let nodes = Vec::with_capacity(places_max);
        let mut segments =
            Self { nodes, lists: [empty; 3], places_max, window_max: 0, protected_max: 0 };
        segments.divide(shape);
        segments
    }

    /// Resizes the segments; places move as rows come or are used.
    pub(super) fn divide(&mut self, shape: Shape) {
        let window = self.places_max * shape.window_permille / 1_000;
        self.window_max = window.clamp(1, self.places_max.max(1));
        let main = self.places_max.saturating_sub(self.window_max);
        self.protected_max = main * shape.protected_percent / 100;
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Number of protected places.
    pub(super) fn protected(&self) -> usize {
        self.lists[Segment::Protected as usize].length
    }

    /// Notes the use of a place; true if it is the first one since the row was let into the main part in place of
    /// another.
    pub(super) fn touch(&mut self, place: u32) -> bool {
        let Node { segment, is_unproved, .. } = self.nodes[place as usize];
        self.unlink(place);
        match segment {
            Segment::Window => self.push(Segment::Window, place),
            Segment::Probation | Segment::Protected => {
                self.push(Segment::Protected, place);
                let length = self.lists[Segment::Protected as usize].length;
                for _ in 0..length.saturating_sub(self.protected_max).min(MOVES_MAX) {
                    let List { last, .. } = self.lists[Segment::Protected as usize];
                    self.shift(last, Segment::Probation);
                }
            }
        }
        self.nodes[place as usize].is_unproved = false;
        is_unproved
    }

    /// Adds a place that was empty: the next unused one, or one that was evicted.
    pub(super) fn insert(&mut self, place: u32) {
        if place as usize == self.nodes.len() {
            self.nodes.push(Node {
                before: NONE,
                after: NONE,
                segment: Segment::Window,
                is_unproved: false,
            });
        }
        self.push(Segment::Window, place);
        let List { last, length, .. } = self.lists[Segment::Window as usize];
        if length > self.window_max {
            self.shift(last, Segment::Probation);
        }
    }

    /// Removes and returns the place to evict, if there is any. A row that leaves the window stays only if it is worth
    /// more than the row that the main part would evict instead.
    pub(super) fn evict(
        &mut self,
        is_worth_more: impl FnOnce(u32, u32) -> bool,
    ) -> Option<Leaving> {
        let List { last: mut candidate, length, .. } = self.lists[Segment::Window as usize];
        // Rows that have to leave the window to make room for the new one.
        let leaving = (length + 1).saturating_sub(self.window_max);
        if leaving > 0 && self.window_max == self.places_max {
            return Some(self.take_out(candidate, false));
        }
        for _ in 0..leaving.min(MOVES_MAX) {
            candidate = self.lists[Segment::Window as usize].last;
            self.shift(candidate, Segment::Probation);
        }
        let ends = [Segment::Probation, Segment::Protected, Segment::Window];
        let victim = ends.map(|segment| self.lists[segment as usize].last);
        let victim = victim.into_iter().find(|&place| place != NONE)?;
        // While the window shrinks, rows that leave it are admitted without a comparison.
        if leaving != 1 || victim == candidate {
            return Some(self.take_out(victim, false));
        }
        if !is_worth_more(candidate, victim) {
            return Some(self.take_out(candidate, true));
        }
        self.nodes[candidate as usize].is_unproved = true;
        Some(self.take_out(victim, false))
    }

    fn take_out(&mut self, place: u32, is_refused: bool) -> Leaving {
        self.unlink(place);
        let is_unproved = std::mem::take(&mut self.nodes[place as usize].is_unproved);
        Leaving { place, is_refused, is_unproved }
    }

    fn shift(&mut self, place: u32, to: Segment) {
        self.unlink(place);
        self.push(to, place);
    }

    fn push(&mut self, segment: Segment, place: u32) {
        let list = &mut self.lists[segment as usize];
        let after = std::mem::replace(&mut list.first, place);
        list.length += 1;
        if after == NONE {
            list.last = place;
        } else {
            self.nodes[after as usize].before = place;
        }
        let node = &mut self.nodes[place as usize];
        (node.before, node.after, node.segment) = (NONE, after, segment);
    }

    fn unlink(&mut self, place: u32) {
        let Node { before, after, segment, .. } = self.nodes[place as usize];
        let list = &mut self.lists[segment as usize];
        list.length -= 1;
        match before {
            NONE => list.first = after,
            before => self.nodes[before as usize].after = after,
        }
        match after {
            NONE => self.lists[segment as usize].last = before,
            after => self.nodes[after as usize].before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(window_permille: usize) -> Shape {
        Shape { window_permille, protected_percent: 80 }
    }

    fn full(window_permille: usize) -> Segments {
        let mut segments = Segments::new(100, shape(window_permille));
        (0..100).for_each(|place| segments.insert(place));
        segments
    }

    #[test]
    fn a_window_of_all_places_is_lru() {
        let mut segments = full(1_000);
        (0..50).for_each(|place| _ = segments.touch(place));
        let goes = std::iter::from_fn(|| Some(segments.evict(|_, _| true)?.place));
        let order: Vec<u32> = goes.collect();
        assert!(order.iter().copied().eq((50..100).chain(0..50)), "{order:?}");
    }

    #[test]
    fn every_place_goes_once_however_the_window_changes() {
        let mut segments = full(10);
        for round in 0..2_000_u32 {
            segments.divide(shape([10, 300, 1_000][round as usize % 3]));
            segments.touch(round * 37 % 100);
            let goes = segments.evict(|new, old| new > old).unwrap();
            segments.insert(goes.place);
            assert_eq!(segments.lists.iter().map(|list| list.length).sum::<usize>(), 100);
        }
        let goes = std::iter::from_fn(|| Some(segments.evict(|_, _| true)?.place));
        let mut gone: Vec<u32> = goes.collect();
        gone.sort_unstable();
        assert!(gone.into_iter().eq(0..100));
    }

    #[test]
    fn rows_leaving_the_window_stay_only_if_worth_more() {
        let mut segments = full(10);
        (0..100).for_each(|place| _ = segments.touch(place));
        for _ in 0..1_000 {
            let goes = segments.evict(|_, _| false).unwrap();
            assert_eq!(goes.place, 99, "the only one that is not in the main part");
            assert!(goes.is_refused && !goes.is_unproved);
            segments.insert(goes.place);
        }
        let goes = segments.evict(|_, _| true).unwrap();
        assert!(goes.place != 99 && !goes.is_refused && !goes.is_unproved);
    }

    #[test]
    fn admitted_rows_are_proved_by_their_first_use() {
        let mut segments = full(10);
        let comes = |segments: &mut Segments| {
            let goes = segments.evict(|_, _| true).unwrap();
            segments.insert(goes.place);
            goes
        };
        for _ in 0..99 {
            assert!(!comes(&mut segments).is_unproved, "it was there from the beginning");
        }
        // All but the one in the window have been let in by now.
        let proved: Vec<u32> = (0..100).filter(|&place| segments.touch(place)).collect();
        assert_eq!(proved.len(), 99);
        assert!(!(0..100).any(|place| segments.touch(place)), "once");
        (0..99).for_each(|_| _ = comes(&mut segments));
        assert!(comes(&mut segments).is_unproved);
    }
}
