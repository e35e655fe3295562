//! States of the disk after a crash: some of the changes that were not synced have survived.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{Change, Content, SECTOR, SimDisk, State};
use crate::disk::BLOCK;
use crate::types::mix;

/// Selects the changes that survive among those that were not synced: sectors, lengths, and changes of names, in the
/// order in which they were made.
#[derive(Clone, Copy, Debug)]
pub enum Crash {
    /// None of them.
    Nothing,
    /// All of them.
    Everything,
    /// Each by the toss of a coin with this seed.
    Random(u64),
    /// Only the first ones, as many as this.
    Prefix(usize),
    /// Only the last ones, as many as this.
    Suffix(usize),
    /// All but this one.
    Without(usize),
    /// Only this one.
    Only(usize),
    /// Of each block the first half, and all lengths and names.
    HalfBlocks,
}

/// Number of modes of [`Crash::mode`].
pub const MODES: u64 = 8;

impl Crash {
    /// The mode with this number, for a crash that decides about `count` changes. `pick` selects the change if there
    /// is a choice.
    pub fn mode(number: u64, pick: u64, count: usize) -> Self {
        let one = mix(pick) as usize % count.max(1);
        match number % MODES {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Random(pick),
            3 => Self::Prefix(one),
            4 => Self::Suffix(one),
            5 => Self::Without(one),
            6 => Self::Only(one),
            _ => Self::HalfBlocks,
        }
    }

    fn keeps(self, item: &Item, index: usize, count: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Random(seed) => mix(seed ^ mix(index as u64)) & 1 == 1,
            Self::Prefix(kept) => index < kept,
            Self::Suffix(kept) => index + kept >= count,
            Self::Without(lost) => index != lost,
            Self::Only(kept) => index == kept,
            Self::HalfBlocks => match item.what {
                What::Sectors { start, .. } => start % BLOCK < BLOCK / 2,
                What::Length | What::Name => true,
            },
        }
    }

    /// For a kept change of a name that depends on one that is not kept: true if that one is kept as well, false if
    /// neither is.
    fn pulls(self) -> bool {
        match self {
            Self::Suffix(_) | Self::Only(_) => true,
            Self::Random(seed) => seed & 1 == 1,
            _ => false,
        }
    }
}

/// A change that a crash decides about.
struct Item {
    at: u64,
    /// The content, and the index of its pending change; or the index of a pending change of a name.
    content: usize,
    pending: usize,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// This part of a write: its offset in the file, and its offset in the write.
    Sectors {
        start: usize,
        from: usize,
    },
    Length,
    Name,
}

impl State {
    /// All changes that a crash decides about, in the order in which they were made, in sectors of `sector` bytes.
    fn items(&self, sector: usize) -> Vec<Item> {
        let renamed = self.pending_names.iter().filter_map(|pending| match pending.change {
            super::NameChange::Made(_, content) | super::NameChange::Renamed { content, .. } => {
                Some(content)
            }
            super::NameChange::Removed(_) => None,
        });
        let named = self.names.values().chain(self.durable_names.values()).copied();
        let contents: BTreeSet<usize> = named.chain(renamed).collect();
        let mut items = Vec::new();
        for content in contents {
            for (pending, change) in self.contents[content].pending.iter().enumerate() {
                let item = |what| Item { at: change.at, content, pending, what };
                match &change.change {
                    Change::Length(_) => items.push(item(What::Length)),
                    Change::Bytes { offset, bytes } => {
                        let from = (0..bytes.len()).step_by(sector);
                        let sectors = from.map(|from| What::Sectors { start: offset + from, from });
                        items.extend(sectors.map(item));
                    }
                }
            }
        }
        let names = self.pending_names.iter().enumerate();
        items.extend(names.map(|(pending, change)| Item {
            at: change.at,
            content: 0,
            pending,
            what: What::Name,
        }));
        items.sort_by_key(|item| (item.at, item.content, item.what));
        items
    }

    /// The directory with the kept changes that do not depend on one that is not kept.
    fn names_after(&self, crash: Crash, mut is_kept: Vec<bool>) -> BTreeMap<String, usize> {
        let touches = |a: usize, b: usize| {
            let names = self.pending_names[b].change.names();
            self.pending_names[a].change.names().iter().any(|name| names.contains(name))
        };
        if crash.pulls() {
            for later in
                (0..is_kept.len()).rev().filter(|&later| is_kept[later]).collect::<Vec<_>>()
            {
                self.pull(later, &mut is_kept, &touches);
            }
        } else {
            for later in 0..is_kept.len() {
                is_kept[later] &=
                    (0..later).all(|before| is_kept[before] || !touches(before, later));
            }
        }
        let mut names = self.durable_names.clone();
        for (pending, _) in self.pending_names.iter().zip(is_kept).filter(|(_, kept)| *kept) {
            pending.change.apply(&mut names);
        }
        names
    }

    /// Keeps the changes on which a kept change depends.
    fn pull(&self, later: usize, is_kept: &mut [bool], touches: &impl Fn(usize, usize) -> bool) {
        for before in (0..later).rev() {
            if !is_kept[before] && touches(before, later) {
                is_kept[before] = true;
                self.pull(before, is_kept, touches);
            }
        }
    }
}

impl Content {
    /// Content of the file after a crash that has kept these parts of its pending changes.
    fn after(&self, kept: &[(usize, What)], sector: usize) -> Vec<u8> {
        let (mut bytes, mut length) = (self.durable.clone(), self.durable.len());
        for &(pending, what) in kept {
            match (&self.pending[pending].change, what) {
                (Change::Bytes { bytes: written, .. }, What::Sectors { start, from }) => {
                    let part = &written[from..(from + sector).min(written.len())];
                    bytes.resize(bytes.len().max(start + part.len()), 0);
                    bytes[start..start + part.len()].copy_from_slice(part);
                }
                (Change::Length(new), _) => {
                    length = *new;
                    let cut = length.min(bytes.len());
                    bytes[cut..].fill(0);
                }
                _ => {}
            }
        }
        bytes.resize(length, 0);
        bytes
    }
}

impl SimDisk {
    /// Number of changes that a crash now would decide about.
    pub fn pending(&self) -> usize {
        self.0.borrow().items(SECTOR).len()
    }

    /// Number of sectors among the pending changes.
    pub fn unsynced_sectors(&self) -> usize {
        let items = self.0.borrow().items(SECTOR);
        items.iter().filter(|item| matches!(item.what, What::Sectors { .. })).count()
    }

    /// The disk after a crash now, with sectors of 512 bytes.
    pub fn after(&self, crash: Crash) -> Self {
        self.after_torn(crash, SECTOR)
    }

    /// The disk after a crash now, with sectors of `sector` bytes.
    pub fn after_torn(&self, crash: Crash, sector: usize) -> Self {
        let state = self.0.borrow();
        let items = state.items(sector);
        let mut kept: BTreeMap<usize, Vec<(usize, What)>> = BTreeMap::new();
        let mut kept_names = vec![false; state.pending_names.len()];
        for (index, item) in items.iter().enumerate() {
            if !crash.keeps(item, index, items.len()) {
                continue;
            }
            match item.what {
                What::Name => kept_names[item.pending] = true,
                what => kept.entry(item.content).or_default().push((item.pending, what)),
            }
        }
        let mut after = State { claims: state.claims, ..State::default() };
        for (name, content) in state.names_after(crash, kept_names) {
            let kept = kept.get(&content).map_or(&[][..], Vec::as_slice);
            let bytes = state.contents[content].after(kept, sector);
            after.names.insert(name, after.contents.len());
            after.contents.push(Content::durable(bytes));
        }
        after.durable_names = after.names.clone();
        Self(Rc::new(RefCell::new(after)))
    }
}
