//! The order in which places give way: a window of what is new, and a main part of what is on
//! probation and what is protected, each by its last use (the shape of W-TinyLFU: Einziger, Friedman
//! and Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", 2017). With a window of everything
//! it is plain LRU.

use super::index::NONE;

/// Most places that leave a segment at a time, where it has become narrower.
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
    /// It was let into the main part instead of another, and has not been used there.
    is_unproved: bool,
}

/// Places from the last used to the one that was not used for longest.
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

/// A place that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) place: u32,
    /// It was compared with another that stays, and was to leave the window for it.
    pub(super) is_refused: bool,
    /// It had been let into the main part instead of another, and was never used there.
    pub(super) is_unproved: bool,
}

/// How the places are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Thousandths that are for what is new.
    pub(super) window_permille: usize,
    /// Of the others, so many hundredths are protected at most.
    pub(super) protected_percent: usize,
}

impl Shape {
    /// By the last use alone.
    pub(super) const LRU: Self = Self { window_permille: 1_000, protected_percent: 0 };
}

impl Segments {
    /// What it takes for a place.
    pub(super) const PLACE_BYTES: usize = size_of::<Node>();

    /// No places of at most so many.
    pub(super) fn new(places_max: usize, shape: Shape) -> Self {
        let empty = List { first: NONE, last: NONE, length: 0 };
        let nodes = Vec::with_capacity(places_max);
        let mut segments =
            Self { nodes, lists: [empty; 3], places_max, window_max: 0, protected_max: 0 };
        segments.divide(shape);
        segments
    }

    /// Makes segments narrower or wider; places follow as others come or are used.
    pub(super) fn divide(&mut self, shape: Shape) {
        let window = self.places_max * shape.window_permille / 1_000;
        self.window_max = window.clamp(1, self.places_max.max(1));
        let main = self.places_max.saturating_sub(self.window_max);
        self.protected_max = main * shape.protected_percent / 100;
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many places are protected.
    pub(super) fn protected(&self) -> usize {
        self.lists[Segment::Protected as usize].length
    }

    /// Notes the use of a place; true if this is the first since it was let into the main part instead of
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

    /// Brings in a place that had nothing: the next after all there have been, or one that was evicted.
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

    /// Takes out the place that is to go, if there is any. Who leaves the window has to be worth more
    /// than who would go from the main part instead.
    pub(super) fn evict(
        &mut self,
        is_worth_more: impl FnOnce(u32, u32) -> bool,
    ) -> Option<Leaving> {
        let List { last: mut candidate, length, .. } = self.lists[Segment::Window as usize];
        // How many have to leave the window, so that there is a place in it for the one that comes.
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
        // While the window becomes narrower, what leaves it is no newcomer that has to prove itself.
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
    fn with_a_window_of_everything_the_last_used_stay() {
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
    fn what_leaves_the_window_has_to_be_worth_more() {
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
    fn what_was_let_in_is_proved_by_its_first_use_there() {
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
