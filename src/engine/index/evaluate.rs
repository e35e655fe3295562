//! A filter put to the index, in steps: bitmaps joined as its connectives say.
//!
//! The answer is never too small. Where the index does not know, a condition takes in all slots of
//! which it might be true; below a negation, which turns that round, only those of which it is
//! true for certain. Where a few slots are left of an AND, its costlier conditions are left out:
//! looking at the documents is less work.

use roaring::RoaringBitmap;

use super::MetadataIndex;
use super::gather::Gathered;
use super::key::{Cursor, Key};
use super::slots::{CHUNK_COST, SlotSet, chunks};
use crate::engine::filter::Filter;
use crate::store::Store;
use crate::types::Lsn;

/// What a step may cost, in units of looking up a value: some tens of microseconds. A step joins
/// two bitmaps at least, which for ten million slots takes a quarter of a millisecond.
/// In tests next to nothing, so that much happens between steps.
const STEP_COST: u64 = if cfg!(test) { 6 } else { 2_048 };

/// Looking at a document's metadata, in the same units.
const DOCUMENT_COST: u64 = 8;

/// The documents to be looked at for a filter.
#[derive(Debug, Default)]
pub(in crate::engine) struct Candidates {
    /// Where they are. Not all of them are alive, or were when the search began.
    pub(in crate::engine) slots: RoaringBitmap,
    /// Of so many of them, at most, it is not known that they pass. All others do, if they are
    /// visible.
    pub(in crate::engine) unsure: u64,
}

/// One instruction of a stack machine whose values are sets of slots.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Pushes the slots that pass the condition of this number, those that might or those that
    /// certainly do.
    Condition { number: usize, is_upper: bool },
    /// Pushes everything.
    All,
    /// Pushes nothing.
    Nothing,
    /// Joins the two sets on top.
    And,
    /// Joins the two sets on top.
    Or,
    /// Turns the set on top round.
    Not,
    /// Goes on at `to` if the set on top is so small that what comes costs more than looking.
    SkipIfFew { cost: u64, to: usize },
}

/// How far a condition has been read.
#[derive(Debug, Default)]
enum Progress {
    #[default]
    Begin,
    List(usize),
    Range(Cursor),
}

/// A filter on its way through the index.
#[derive(Debug)]
pub(in crate::engine) struct Evaluation {
    program: Vec<Op>,
    next: usize,
    progress: Progress,
    /// What the values of the condition have come to so far.
    gathered: Gathered,
    /// Where the values outside a range are read, since those are less: all slots that had one of
    /// either when that began. What comes later must not be taken for what is left.
    whole: Option<RoaringBitmap>,
    stack: Vec<RoaringBitmap>,
    /// What was indexed when it began. What has been read in since may have come too late for the
    /// conditions that had been read.
    indexed_to: u32,
    unsure: u64,
}

impl Evaluation {
    /// Begins with `filter`. A snapshot of the store has to be open from now on until the
    /// candidates have been looked at.
    pub(in crate::engine) fn new(index: &MetadataIndex, filter: &Filter) -> Self {
        let mut program = Vec::new();
        compile(index, filter, 0, true, &mut program);
        Self {
            program,
            next: 0,
            progress: Progress::Begin,
            gathered: Gathered::default(),
            whole: None,
            stack: Vec::new(),
            indexed_to: index.indexed_to,
            unsure: 0,
        }
    }

    /// Does some tens of microseconds of work on the same filter. Returns the candidates for a
    /// search at `snapshot` when it is done.
    pub(in crate::engine) fn step(
        &mut self,
        filter: &Filter,
        index: &MetadataIndex,
        store: &Store,
        snapshot: Lsn,
    ) -> Option<Candidates> {
        let mut conditions = Vec::new();
        collect(filter, &mut conditions);
        let mut budget = STEP_COST;
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
                Op::All => self.stack.push(index.slots.clone()),
                Op::Nothing => self.stack.push(RoaringBitmap::new()),
                Op::And | Op::Or => {
                    let other = self.pop();
                    let top = self.top();
                    if matches!(op, Op::And) {
                        *top &= other
                    } else {
                        *top |= other
                    }
                    budget = budget.saturating_sub(join_cost);
                }
                Op::Not => {
                    let set = self.pop();
                    self.stack.push(&index.slots - set);
                    budget = budget.saturating_sub(join_cost);
                }
                Op::SkipIfFew { cost, to } => {
                    let few = self.top().len();
                    if few * DOCUMENT_COST <= cost {
                        self.unsure += few;
                        self.next = to;
                    }
                }
            }
        }
        Some(self.finish(store, snapshot))
    }

    /// Adds what the index does not know of.
    fn finish(&mut self, store: &Store, snapshot: Lsn) -> Candidates {
        let mut slots = self.pop();
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

    /// Reads a condition into the set on top of the stack. True when it is read to its end.
    fn read(
        &mut self,
        index: &MetadataIndex,
        condition: &Filter,
        is_upper: bool,
        budget: &mut u64,
    ) -> bool {
        let progress = std::mem::take(&mut self.progress);
        let (Filter::Exact(text, _) | Filter::In(text, _) | Filter::Range(text, _)) = condition
        else {
            unreachable!("connectives are instructions of their own");
        };
        if let Some(key) = index.keys.get(text.as_str()) {
            // Slots come and go between two steps, but no number of a slot goes down.
            let extent = index.slots.max().map_or(0, |last| last + 1);
            if let (Progress::Begin, Filter::Range(_, Some(bound))) = (&progress, condition) {
                let mut charge = |cost: u64| {
                    *budget = budget.saturating_sub(cost);
                    *budget > 0
                };
                let is_turned = key.is_rest_less(bound, &mut charge);
                self.whole = is_turned.then(|| key.present() - key.coarse());
            }
            let reading = Reading { key, extent, is_turned: self.whole.is_some() };
            if let Some(rest) = reading.values(condition, progress, &mut self.gathered, budget) {
                self.progress = rest;
                return false;
            }
            let found = std::mem::take(&mut self.gathered).finish();
            self.stack.push(match self.whole.take() {
                Some(whole) => whole - found,
                None => found,
            });
            let has_values = !matches!(condition, Filter::Range(_, None));
            if has_values && !key.coarse().is_empty() {
                self.unsure += key.coarse().len();
                if is_upper {
                    *self.top() |= key.coarse();
                }
            }
        } else {
            self.stack.push(RoaringBitmap::new());
        }
        if !index.untracked.is_empty() {
            self.unsure += index.untracked.len();
            if is_upper {
                *self.top() |= &index.untracked;
            }
        }
        true
    }

    fn pop(&mut self) -> RoaringBitmap {
        self.stack.pop().expect("the program pushes before it joins")
    }

    fn top(&mut self) -> &mut RoaringBitmap {
        self.stack.last_mut().expect("the program pushes before it joins")
    }
}

/// The values of a key being read.
struct Reading<'a> {
    key: &'a Key,
    /// All slots are below this.
    extent: u32,
    /// Of a range, the values outside it are read.
    is_turned: bool,
}

impl Reading<'_> {
    /// Adds the slots of the values that a condition names to `found`, as far as `budget` goes.
    /// Returns where to go on.
    fn values(
        &self,
        condition: &Filter,
        progress: Progress,
        found: &mut Gathered,
        budget: &mut u64,
    ) -> Option<Progress> {
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
                let start = if let Progress::List(start) = progress { start } else { 0 };
                for (place, value) in values.iter().enumerate().skip(start) {
                    if !take(key.exact(value)) && place + 1 < values.len() {
                        return Some(Progress::List(place + 1));
                    }
                }
            }
            Filter::Range(_, Some(bound)) => {
                let cursor =
                    if let Progress::Range(cursor) = progress { Some(cursor) } else { None };
                let rest = match is_turned {
                    true => key.range(&bound.turned(), cursor, take),
                    false => key.range(bound, cursor, take),
                };
                return rest.map(Progress::Range);
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

/// The conditions of a filter, in the order in which they are numbered.
fn collect<'a>(filter: &'a Filter, conditions: &mut Vec<&'a Filter>) {
    match filter {
        Filter::Exact(..) | Filter::In(..) | Filter::Range(..) => conditions.push(filter),
        Filter::And(filters) | Filter::Or(filters) => {
            filters.iter().for_each(|filter| collect(filter, conditions));
        }
        Filter::Not(filter) => collect(filter, conditions),
        Filter::All | Filter::Nothing => {}
    }
}

/// Appends what pushes the slots that pass `filter`, whose first condition has the number `first`.
/// Returns the number after its last.
fn compile(
    index: &MetadataIndex,
    filter: &Filter,
    first: usize,
    is_upper: bool,
    program: &mut Vec<Op>,
) -> usize {
    match filter {
        Filter::Exact(..) | Filter::In(..) | Filter::Range(..) => {
            program.push(Op::Condition { number: first, is_upper });
            first + 1
        }
        Filter::And(filters) => join(index, filters, Op::And, first, is_upper, program),
        Filter::Or(filters) => join(index, filters, Op::Or, first, is_upper, program),
        Filter::Not(filter) => {
            let next = compile(index, filter, first, !is_upper, program);
            program.push(Op::Not);
            next
        }
        Filter::All => {
            program.push(Op::All);
            first
        }
        Filter::Nothing => {
            program.push(Op::Nothing);
            first
        }
    }
}

/// The same for a connective. The children of an AND come in the order of what they cost.
fn join(
    index: &MetadataIndex,
    filters: &[Filter],
    op: Op,
    first: usize,
    is_upper: bool,
    program: &mut Vec<Op>,
) -> usize {
    let is_and = matches!(op, Op::And);
    if filters.is_empty() {
        program.push(if is_and { Op::All } else { Op::Nothing });
        return first;
    }
    let mut next = first;
    let mut children: Vec<(u64, usize, &Filter)> = Vec::with_capacity(filters.len());
    for filter in filters {
        children.push((cost(index, filter), next, filter));
        let mut conditions = Vec::new();
        collect(filter, &mut conditions);
        next += conditions.len();
    }
    if is_and {
        children.sort_by_key(|&(cost, ..)| cost);
    }
    let mut skips = Vec::new();
    for (place, (cost, first, filter)) in children.into_iter().enumerate() {
        if place > 0 && is_and && is_upper {
            skips.push(program.len());
            program.push(Op::SkipIfFew { cost, to: 0 });
        }
        compile(index, filter, first, is_upper, program);
        if place > 0 {
            program.push(op);
        }
    }
    let end = program.len();
    for skip in skips {
        if let Op::SkipIfFew { to, .. } = &mut program[skip] {
            *to = end;
        }
    }
    next
}

/// What it may cost to put `filter` to the index, in units of looking up a value.
fn cost(index: &MetadataIndex, filter: &Filter) -> u64 {
    match filter {
        Filter::Range(key, Some(_)) => {
            index.keys.get(key.as_str()).map_or(0, |key| key.value_count() as u64)
        }
        Filter::In(_, values) => values.len() as u64,
        Filter::And(filters) | Filter::Or(filters) => {
            filters.iter().map(|filter| cost(index, filter)).sum()
        }
        Filter::Not(filter) => cost(index, filter),
        Filter::Exact(..) | Filter::Range(_, None) | Filter::All | Filter::Nothing => 1,
    }
}
