//! Evaluation of a filter in the index, in steps: bitmaps combined by the filter's connectives.
//!
//! The answer is never too small. Where the index has no data, a condition takes in all slots of which it might be
//! true; below a negation, which inverts that, only those of which it is certainly true. Once an AND has few slots
//! left, its costlier conditions are left out: looking at the documents is less work.

use crate::pieces::in_pieces;
use roaring::RoaringBitmap;

use super::MetadataIndex;
use super::gather::Gathered;
use super::key::{Cursor, Key};
use super::program::{Op, collect, compile};
use super::slots::{CHUNK_COST, SlotSet, bitmap_bytes, chunks};
use crate::engine::filter::Filter;
use crate::store::Store;
use crate::types::Lsn;

/// Cost limit of a step, in units of one value lookup: some tens of microseconds. A step combines at least two
/// bitmaps, which for ten million slots takes a quarter of a millisecond. In tests next to nothing, so that much
/// happens between steps.
fn step_cost() -> u64 {
    in_pieces(2_048, 6)
}

/// Cost of looking at a document's metadata, in units of one value lookup.
const DOCUMENT_COST: u64 = 8;

/// Most bytes of the sets of an evaluation: those of `SETS_MAX` sets of all slots, and `BYTES_FREE` more. A filter
/// that would take more, which has to be wide and deep, is evaluated on every document instead. The condition being
/// read takes up to three more such sets.
const SETS_MAX: usize = 4;
fn bytes_free() -> usize {
    in_pieces(64 << 10, 256)
}

/// The documents that have to be looked at for a filter.
#[derive(Debug, Default)]
pub(in crate::engine) struct Candidates {
    /// Their slots. Not all of them are live, or were when the search began.
    pub(in crate::engine) slots: RoaringBitmap,
    /// Most of the candidates that are not known to pass. All others pass, if they are visible.
    pub(in crate::engine) unsure: u64,
}

/// Progress in reading a condition.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Begin,
    List(usize),
    Range(Cursor),
}

/// A condition that is being read. Dropped as a whole at its end, so that no part of it is taken for a part of the
/// next one.
#[derive(Debug, Default)]
struct Progress {
    place: Place,
    /// The slots of its values read so far.
    gathered: Gathered,
    /// If the values outside a range are read, since those are fewer: all slots that had a value on either side when
    /// that began. Slots added later must not be taken for the remainder.
    whole: Option<RoaringBitmap>,
}

/// Sets of slots, and their bytes.
#[derive(Debug, Default)]
struct Stack {
    sets: Vec<(RoaringBitmap, usize)>,
    bytes: usize,
}

impl Stack {
    fn push(&mut self, set: RoaringBitmap) {
        let bytes = bitmap_bytes(&set);
        self.bytes += bytes;
        self.sets.push((set, bytes));
    }

    fn pop(&mut self) -> RoaringBitmap {
        let (set, bytes) = self.sets.pop().expect("the program pushes before it joins");
        self.bytes -= bytes;
        set
    }

    fn top(&self) -> &RoaringBitmap {
        &self.sets.last().expect("the program pushes before it joins").0
    }
}

/// The evaluation of a filter, in progress.
#[derive(Debug)]
pub(in crate::engine) struct Evaluation {
    program: Vec<Op>,
    next: usize,
    progress: Progress,
    stack: Stack,
    /// Number of slots that were indexed when it began. Slots indexed since may have come too late for the conditions
    /// that had been read.
    indexed_to: u32,
    unsure: u64,
}

impl Evaluation {
    /// Begins with `filter`. A snapshot of the store has to be open from then on until the candidates have been
    /// looked at.
    pub(in crate::engine) fn new(index: &MetadataIndex, filter: &Filter) -> Self {
        Self {
            program: compile(index, filter),
            next: 0,
            progress: Progress::default(),
            stack: Stack::default(),
            indexed_to: index.indexed_to,
            unsure: 0,
        }
    }

    /// Does some tens of microseconds of work on `filter`, which has to be the one it began with. Returns the
    /// candidates for a search at `snapshot` when it is done.
    pub(in crate::engine) fn step(
        &mut self,
        filter: &Filter,
        index: &MetadataIndex,
        store: &Store,
        snapshot: Lsn,
    ) -> Option<Candidates> {
        let mut conditions = Vec::new();
        collect(filter, &mut conditions);
        let mut budget = step_cost();
        while let Some(&op) = self.program.get(self.next) {
            if budget == 0 {
                return None;
            }
            self.next += 1;
            let join_cost = CHUNK_COST / 4 * chunks(&index.slots);
            match op {
                Op::Condition { number, is_upper } => {
                    if !self.read(index, conditions[number], is_upper, &mut budget) {
                        self.next -= 1;
                    }
                }
                Op::All => {
                    self.stack.push(index.slots.clone());
                    budget = budget.saturating_sub(join_cost);
                }
                Op::Nothing => self.stack.push(RoaringBitmap::new()),
                Op::And | Op::Or => {
                    let (other, mut set) = (self.stack.pop(), self.stack.pop());
                    if matches!(op, Op::And) {
                        set &= other;
                    } else {
                        set |= other;
                    }
                    self.stack.push(set);
                    budget = budget.saturating_sub(join_cost);
                }
                Op::Not => {
                    let set = self.stack.pop();
                    self.stack.push(&index.slots - set);
                    budget = budget.saturating_sub(join_cost);
                }
                Op::SkipIfFew { cost, to } => {
                    let few = self.stack.top().len();
                    if few * DOCUMENT_COST <= cost {
                        self.unsure += few;
                        self.next = to;
                    }
                }
            }
            if self.stack.bytes > bytes_max(index) {
                self.give_up(index);
            }
        }
        Some(self.finish(store, snapshot))
    }

    /// Adds the slots that the index does not cover.
    fn finish(&mut self, store: &Store, snapshot: Lsn) -> Candidates {
        let mut slots = self.stack.pop();
        for changed in store.changed_since(snapshot) {
            slots.insert(changed.0);
            self.unsure += 1;
        }
        if self.indexed_to < store.slot_count() {
            for names in store.stripe().runs(self.indexed_to..store.slot_count()) {
                slots.insert_range(names);
            }
            self.unsure += u64::from(store.slot_count() - self.indexed_to);
        }
        let unsure = self.unsure.min(slots.len());
        Candidates { slots, unsure }
    }

    /// Bytes of the sets, and the limit.
    #[cfg(test)]
    pub(in crate::engine) fn bytes(&self, index: &MetadataIndex) -> (usize, usize) {
        (self.stack.bytes, bytes_max(index))
    }

    /// Makes every slot a candidate: the rest of the filter would take too much memory.
    fn give_up(&mut self, index: &MetadataIndex) {
        self.progress = Progress::default();
        self.stack = Stack::default();
        self.stack.push(index.slots.clone());
        self.unsure = index.slots.len();
        self.next = self.program.len();
    }

    /// Reads a condition into the set on top of the stack. True when it is read to its end.
    fn read(
        &mut self,
        index: &MetadataIndex,
        condition: &Filter,
        is_upper: bool,
        budget: &mut u64,
    ) -> bool {
        let mut progress = std::mem::take(&mut self.progress);
        let (Filter::Exact(text, _) | Filter::In(text, _) | Filter::Range(text, _)) = condition
        else {
            unreachable!("connectives are instructions of their own");
        };
        let mut set = RoaringBitmap::new();
        // A key may be gone since the last step. The documents that had it are candidates for that reason.
        if let Some(key) = index.keys.get(text.as_str()) {
            // Slots come and go between two steps, but the local number of a slot never decreases.
            let extent = index.slots.max().map_or(0, |last| last + 1);
            let join_cost = CHUNK_COST / 4 * chunks(&index.slots);
            if let (Place::Begin, Filter::Range(_, Some(bound))) = (&progress.place, condition) {
                let mut charge = |cost: u64| {
                    *budget = budget.saturating_sub(cost);
                    *budget > 0
                };
                if key.is_rest_less(bound, &mut charge) {
                    progress.whole = Some(key.present() - key.coarse());
                    *budget = budget.saturating_sub(join_cost);
                }
            }
            let Progress { place, mut gathered, whole } = progress;
            let reading = Reading { key, extent, is_turned: whole.is_some() };
            if let Some(place) = reading.values(condition, place, &mut gathered, budget) {
                self.progress = Progress { place, gathered, whole };
                return false;
            }
            if gathered.is_flat() {
                *budget = budget.saturating_sub(join_cost);
            }
            let found = gathered.finish();
            set = match whole {
                Some(whole) => whole - found,
                None => found,
            };
            let has_values = !matches!(condition, Filter::Range(_, None));
            if has_values && !key.coarse().is_empty() {
                self.unsure += key.coarse().len();
                if is_upper {
                    set |= key.coarse();
                }
            }
        }
        if !index.untracked.is_empty() {
            self.unsure += index.untracked.len();
            if is_upper {
                set |= &index.untracked;
            }
        }
        self.stack.push(set);
        true
    }
}

/// Most bytes of the sets of an evaluation.
fn bytes_max(index: &MetadataIndex) -> usize {
    SETS_MAX * bitmap_bytes(&index.slots) + bytes_free()
}

/// The values of a key, while they are read.
struct Reading<'a> {
    key: &'a Key,
    /// Exclusive upper bound of all slots.
    extent: u32,
    /// True if the values outside a range are read.
    is_turned: bool,
}

impl Reading<'_> {
    /// Adds the slots of the values that a condition names to `found`, as far as `budget` allows. Returns the place
    /// at which to continue.
    fn values(
        &self,
        condition: &Filter,
        place: Place,
        found: &mut Gathered,
        budget: &mut u64,
    ) -> Option<Place> {
        let Self { key, extent, is_turned } = *self;
        let mut charge = |cost: u64| {
            *budget = budget.saturating_sub(cost);
            *budget > 0
        };
        let mut take = |set: Option<&SlotSet>| {
            set.into_iter().for_each(|set| found.add(set, extent));
            charge(set.map_or(1, |set| set.cost()))
        };
        match condition {
            Filter::In(_, values) => {
                let start = if let Place::List(start) = place { start } else { 0 };
                for (index, value) in values.iter().enumerate().skip(start) {
                    if !take(key.exact(value)) && index + 1 < values.len() {
                        return Some(Place::List(index + 1));
                    }
                }
            }
            Filter::Range(_, Some(bound)) => {
                let cursor = if let Place::Range(cursor) = place { Some(cursor) } else { None };
                let rest = match is_turned {
                    true => key.range(&bound.turned(), cursor, take),
                    false => key.range(bound, cursor, take),
                };
                return rest.map(Place::Range);
            }
            Filter::Exact(_, value) => {
                take(key.exact(value));
            }
            _ => {
                found.join(key.present());
                charge(CHUNK_COST / 4 * chunks(key.present()));
            }
        }
        None
    }
}
