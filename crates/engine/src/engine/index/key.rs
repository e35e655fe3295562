//! One key of the metadata index: the slots that have it, and the slots by value, in the order of ranges.
//!
//! Values that are numbers are ordered as numbers, all others by their bytes, so that a range reads the values that
//! are in it and no others. There is one exception: a bound that is no number compares with numbers as text, for
//! which all of them are looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound as End;

use roaring::RoaringBitmap;

use super::Room;
use super::slots::{LIST_MAX, Left, SlotSet, bitmap_bytes};
use crate::engine::filter::{Bound, Side};

/// Most bytes of a value that gets a set of its own; longer ones are texts that filters do not ask for by value.
const VALUE_BYTES_MAX: usize = 256;

/// Most values of a range that are looked at to estimate its cost.
const COUNTED_VALUES_MAX: u64 = 512;

/// Bytes of a value beside its text: its set and its place in a tree whose nodes are two thirds full.
pub(super) const VALUE_BYTES: usize = (size_of::<Number>() + size_of::<SlotSet>()) * 3 / 2;

/// A value that is a number: its place among numbers, then its text, which is empty if the number is an integer in
/// its usual form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number {
    order: u64,
    text: Box<str>,
}

impl Number {
    fn new(number: f64, text: &str) -> Self {
        let is_usual = is_usual(number, text);
        Self { order: order(number), text: if is_usual { Box::default() } else { text.into() } }
    }

    /// Lower bound of every value from this place on.
    fn first(order: u64) -> Self {
        Self { order, text: Box::default() }
    }

    /// The value as it was stored.
    fn value(&self) -> Box<str> {
        match &*self.text {
            "" => unordered(self.order).to_string().into(),
            text => text.into(),
        }
    }
}

/// True if `text` is the usual form of an integer of few enough digits to be exact.
fn is_usual(number: f64, text: &str) -> bool {
    const EXACT_DIGITS: usize = 15;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let has_leading_zero = digits.starts_with('0') && text != "0";
    is_integer && !has_leading_zero && digits.len() <= EXACT_DIGITS && number.is_finite()
}

/// Maps a number to an integer that sorts as numbers do: both zeros in one place, NaN behind everything.
fn order(number: f64) -> u64 {
    if number.is_nan() {
        return u64::MAX;
    }
    // Minus zero becomes zero.
    let bits = (number + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

fn unordered(order: u64) -> f64 {
    f64::from_bits(if order >> 63 == 1 { order & !(1 << 63) } else { !order })
}

/// The slots that have one key, by value.
#[derive(Debug, Default)]
pub(super) struct Key {
    /// All slots that have the key.
    present: RoaringBitmap,
    words: BTreeMap<Box<str>, SlotSet>,
    numbers: BTreeMap<Number, SlotSet>,
    /// Slots whose value has no set.
    coarse: RoaringBitmap,
}

/// The place at which a range is continued: after this value.
#[derive(Debug)]
pub(super) enum Cursor {
    Word(Box<str>),
    Number(Number),
}

impl Key {
    /// Adds a slot. A new value takes its bytes from `room`; if there is not enough, the slot is among the coarse
    /// ones.
    pub(super) fn insert(&mut self, value: &str, slot: u32, room: &mut Room) {
        self.present.insert(slot);
        if value.len() > VALUE_BYTES_MAX {
            self.coarse.insert(slot);
            return;
        }
        let is_in = match value.parse::<f64>() {
            Ok(number) => {
                let number = Number::new(number, value);
                let bytes = VALUE_BYTES + number.text.len();
                put(&mut self.numbers, number, slot, bytes, room)
            }
            // Looked up first: nearly all values are there, and need no text of their own.
            Err(_) => match self.words.get_mut(value) {
                Some(slots) => {
                    slots.insert(slot);
                    true
                }
                None => {
                    let bytes = VALUE_BYTES + value.len();
                    put(&mut self.words, value.into(), slot, bytes, room)
                }
            },
        };
        if !is_in {
            self.coarse.insert(slot);
        }
    }

    /// Removes a slot that had this value. Gives back to `room` the bytes that are freed.
    pub(super) fn remove(&mut self, value: &str, slot: u32, room: &mut Room) {
        if !self.present.remove(slot) || self.coarse.remove(slot) {
            return;
        }
        match value.parse::<f64>() {
            Ok(number) => {
                let number = Number::new(number, value);
                if let Some(slots) = self.numbers.get_mut(&number)
                    && slots.remove(slot) == Left::Nothing
                {
                    self.numbers.remove(&number);
                    room.give(VALUE_BYTES + number.text.len());
                }
            }
            Err(_) => {
                if let Some(slots) = self.words.get_mut(value)
                    && slots.remove(slot) == Left::Nothing
                {
                    self.words.remove(value);
                    room.give(VALUE_BYTES + value.len());
                }
            }
        }
    }

    /// The slots of each value that has a set, with the value.
    pub(super) fn values(&self) -> impl Iterator<Item = (Box<str>, &SlotSet)> {
        let words = self.words.iter().map(|(word, slots)| (word.clone(), slots));
        words.chain(self.numbers.iter().map(|(number, slots)| (number.value(), slots)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// All slots that have the key.
    pub(super) fn present(&self) -> &RoaringBitmap {
        &self.present
    }

    /// Slots whose value has no set, and may be any.
    pub(super) fn coarse(&self) -> &RoaringBitmap {
        &self.coarse
    }

    /// Number of values that have a set.
    pub(super) fn value_count(&self) -> usize {
        self.words.len() + self.numbers.len()
    }

    /// The slots with exactly this value that are not coarse.
    pub(super) fn exact(&self, value: &str) -> Option<&SlotSet> {
        match value.parse::<f64>() {
            Ok(number) => self.numbers.get(&Number::new(number, value)),
            Err(_) => self.words.get(value),
        }
    }

    /// Calls `visit` with the set of each value within `bound`, from `cursor` on, until it returns false; with `None`
    /// for a value that is passed over, which takes time as well. Returns the place at which to continue.
    pub(super) fn range(
        &self,
        bound: &Bound,
        cursor: Option<Cursor>,
        mut visit: impl FnMut(Option<&SlotSet>) -> bool,
    ) -> Option<Cursor> {
        let after = match cursor {
            Some(Cursor::Number(after)) => Some(after),
            cursor => {
                let after = match &cursor {
                    Some(Cursor::Word(after)) => Some(&**after),
                    _ => None,
                };
                for (word, slots) in self.words.range::<str, _>(words_within(bound, after)) {
                    if !visit(Some(slots)) {
                        return Some(Cursor::Word(word.clone()));
                    }
                }
                None
            }
        };
        let is_text = bound.number().is_none();
        for (number, slots) in self.numbers.range(numbers_within(bound, after)?) {
            let is_within = !is_text || bound.admits(&number.value());
            if !visit(is_within.then_some(slots)) {
                return Some(Cursor::Number(number.clone()));
            }
        }
        None
    }

    /// True if the values outside `bound` are known to be cheaper to join than those within. The
    /// [turned](Bound::turned) bound admits exactly the values outside.
    ///
    /// Looks at a few values of each side only, and charges for each.
    pub(super) fn is_rest_less(&self, bound: &Bound, charge: &mut impl FnMut(u64) -> bool) -> bool {
        // A value that is not a number is within neither of the two.
        let has_nan = self.numbers.last_key_value().is_some_and(|(n, _)| n.order == u64::MAX);
        if has_nan || bound.number().is_some_and(f64::is_nan) {
            return false;
        }
        let mut look = |bound: &Bound, max: u64| {
            let (cost, values, is_all) = self.cost_of(bound, max);
            // The condition is begun however little is left of the budget.
            charge(values);
            (cost, is_all)
        };
        // The cost is a lower bound; it is exact if the values are few.
        let (within, _) = look(bound, u64::MAX);
        let (outside, is_all) = look(&bound.turned(), within);
        is_all && outside < within
    }

    /// The cost to join the values within a bound, the number of values looked at for that, and whether those are
    /// all. At most a few values are looked at, and none once the cost has reached `max`.
    fn cost_of(&self, bound: &Bound, max: u64) -> (u64, u64, bool) {
        let (mut cost, mut values) = (0, 0);
        let more = self.range(bound, None, |slots| {
            cost += slots.map_or(1, SlotSet::cost);
            values += 1;
            cost < max && values < COUNTED_VALUES_MAX
        });
        (cost, values, more.is_none())
    }

    /// Approximate bytes of the sets of slots, as if all values had equally many.
    pub(super) fn estimated_set_bytes(&self) -> usize {
        let own = bitmap_bytes(&self.present) + bitmap_bytes(&self.coarse);
        let slots = (self.present.len() - self.coarse.len()) as usize;
        let values = self.value_count();
        let of_values = match slots / values.max(1) {
            0 | 1 => 0,
            each if each <= LIST_MAX => slots * size_of::<u32>(),
            // A bitmap takes two bytes a slot, and if many are set, a bit for each slot there is.
            _ => (slots * size_of::<u16>()).min(values * bitmap_bytes(&self.present)),
        };
        own + of_values
    }

    /// Bytes of memory, by a count.
    pub(super) fn bytes(&self) -> usize {
        let words = self.words.iter().map(|(word, slots)| word.len() + slots.heap_bytes());
        let numbers = self.numbers.iter().map(|(n, slots)| n.text.len() + slots.heap_bytes());
        words.sum::<usize>()
            + numbers.sum::<usize>()
            + self.value_count() * VALUE_BYTES
            + bitmap_bytes(&self.present)
            + bitmap_bytes(&self.coarse)
    }
}

/// Adds a slot to the set of a value. False if the value has no set, and there is no room for one.
fn put<K: Ord>(
    values: &mut BTreeMap<K, SlotSet>,
    value: K,
    slot: u32,
    bytes: usize,
    room: &mut Room,
) -> bool {
    match values.entry(value) {
        Entry::Occupied(mut slots) => slots.get_mut().insert(slot),
        Entry::Vacant(_) if !room.take(bytes) => return false,
        Entry::Vacant(place) => {
            place.insert(SlotSet::One(slot));
        }
    }
    true
}

/// The text values within `bound` that come after `after`.
fn words_within<'a>(bound: &'a Bound, after: Option<&'a str>) -> (End<&'a str>, End<&'a str>) {
    let text = bound.text.as_str();
    let (start, end) = match bound.side {
        Side::AtLeast => (End::Included(text), End::Unbounded),
        Side::Above => (End::Excluded(text), End::Unbounded),
        Side::AtMost => (End::Unbounded, End::Included(text)),
        Side::Below => (End::Unbounded, End::Excluded(text)),
    };
    (after.map_or(start, End::Excluded), end)
}

/// The numbers to be looked at for `bound` that come after `after`; `None` if there are none.
fn numbers_within(bound: &Bound, after: Option<Number>) -> Option<(End<Number>, End<Number>)> {
    let Some(number) = bound.number() else {
        // Compared as text: they lie all over the order of numbers.
        return Some((after.map_or(End::Unbounded, End::Excluded), End::Unbounded));
    };
    if number.is_nan() {
        return None;
    }
    // Values stored as NaN lie behind infinity, and are within no bound.
    let (place, end) = (order(number), order(f64::INFINITY) + 1);
    let (start, end) = match bound.side {
        Side::AtLeast => (place, end),
        Side::Above => (place + 1, end),
        Side::AtMost => (0, place + 1),
        Side::Below => (0, place),
    };
    let start = after.map_or_else(|| End::Included(Number::first(start)), End::Excluded);
    Some((start, End::Excluded(Number::first(end))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [&str; 24] = [
        "10",
        "9",
        "1e3",
        " 5",
        "nan",
        "inf",
        "-inf",
        "abc",
        "",
        "+7",
        ".5",
        "10.0",
        "0x10",
        "NaN",
        "-0",
        "0",
        "-12",
        "007",
        "1999",
        "é",
        "9007199254740993",
        "-0.0",
        "infinity",
        "9.5",
    ];

    fn key() -> Key {
        let (mut key, mut room) = (Key::default(), Room { used: 0, max: usize::MAX });
        (0..).zip(VALUES).for_each(|(slot, value)| key.insert(value, slot, &mut room));
        key
    }

    #[test]
    fn every_value_is_found_under_its_own_text() {
        let key = key();
        for (slot, value) in (0..).zip(VALUES) {
            let mut found = RoaringBitmap::new();
            key.exact(value).unwrap().add_to(&mut found);
            assert!(found.iter().eq([slot]), "{value:?}");
        }
        for number in key.numbers.keys() {
            assert!(VALUES.contains(&&*number.value()), "{number:?}");
        }
        for absent in ["1000", "5", "10.00", "Abc", "-"] {
            assert!(key.exact(absent).is_none(), "{absent:?}");
        }
    }

    /// The order of the index decides as `Bound` does about each document, also if the reading stops after every
    /// value.
    #[test]
    fn ranges_hold_the_values_that_their_bound_admits() {
        let key = key();
        for text in VALUES {
            for side in [Side::AtLeast, Side::Above, Side::AtMost, Side::Below] {
                let bound = Bound::new(side, text.into());
                let (mut found, mut cursor, mut steps) = (RoaringBitmap::new(), None, 0);
                loop {
                    cursor = key.range(&bound, cursor, |slots| {
                        slots.into_iter().for_each(|slots| slots.add_to(&mut found));
                        steps += 1;
                        false
                    });
                    if cursor.is_none() {
                        break;
                    }
                }
                let wanted = (0..).zip(VALUES).filter(|(_, value)| bound.admits(value));
                assert!(found.iter().eq(wanted.map(|(slot, _)| slot)), "{side:?} {text:?}");
                assert!(steps <= VALUES.len());
            }
        }
    }

    #[test]
    fn the_cheaper_side_of_a_range_is_read_if_both_sides_cover_all_values() {
        let (mut key, mut room) = (Key::default(), Room { used: 0, max: usize::MAX });
        for slot in 0..100 {
            key.insert(&(slot % 10).to_string(), slot, &mut room);
        }
        let is_turned = |side, text: &str, key: &Key| {
            let mut looked_at = 0;
            let mut charge = |values| {
                looked_at += values;
                true
            };
            let is_turned = key.is_rest_less(&Bound::new(side, text.into()), &mut charge);
            assert!(looked_at <= 2 * COUNTED_VALUES_MAX);
            is_turned
        };
        assert!(is_turned(Side::AtLeast, "1", &key) && is_turned(Side::Below, "9", &key));
        assert!(!is_turned(Side::AtLeast, "9", &key) && !is_turned(Side::Below, "1", &key));
        assert!(!is_turned(Side::AtLeast, "nan", &key));
        // A bound that is no number: numbers compare as text, those below it and those above.
        assert!(is_turned(Side::Above, "0x", &key) && is_turned(Side::Below, "8x", &key));
        key.insert("nan", 100, &mut room);
        assert!(!is_turned(Side::AtLeast, "1", &key), "it is on neither side");
        // If there are many values on both sides, a few are looked at, and those within are read.
        let mut wide = Key::default();
        for slot in 0..5_000 {
            wide.insert(&slot.to_string(), slot, &mut room);
        }
        assert!(!is_turned(Side::AtLeast, "2500", &wide) && is_turned(Side::AtLeast, "9", &wide));
        for (text, side) in [("1", Side::AtLeast), ("5", Side::Above), ("x", Side::AtMost)] {
            let bound = Bound::new(side, text.into());
            for (slot, value) in (0..).zip(VALUES.into_iter().filter(|value| *value != "nan")) {
                let is_number = value.parse::<f64>().is_ok_and(|number| !number.is_nan());
                if is_number || bound.number().is_none() {
                    assert_ne!(bound.admits(value), bound.turned().admits(value), "{slot}");
                }
            }
        }
    }

    #[test]
    fn values_without_room_are_coarse_until_they_leave() {
        let max = 2 * VALUE_BYTES + 3;
        let (mut key, mut room) = (Key::default(), Room { used: 0, max });
        for (slot, value) in [(1, "a"), (2, "b"), (3, "c"), (4, "a")] {
            key.insert(value, slot, &mut room);
        }
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        key.insert(&long, 5, &mut room);
        assert!(key.coarse().iter().eq([3, 5]) && key.present().len() == 5);
        assert_eq!(room.used, max - 1);
        for (slot, value) in [(3, "c"), (2, "b"), (1, "a"), (4, "a"), (5, long.as_str())] {
            key.remove(value, slot, &mut room);
        }
        assert!(key.is_empty() && key.coarse().is_empty() && key.value_count() == 0);
        assert_eq!(room.used, 0);
    }
}
