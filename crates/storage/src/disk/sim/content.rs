//! Contents and names of files: their present state, and the changes that are not durable.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::SECTOR;

/// A change of a file that is not known to be durable.
#[derive(Clone)]
pub(super) struct Pending {
    /// Number of the change, counted over the whole disk.
    pub(super) at: u64,
    pub(super) change: Change,
    /// True if the sync that should have made it durable has failed: no other sync will.
    pub(super) is_forgotten: bool,
}

#[derive(Clone)]
pub(super) enum Change {
    Bytes { offset: usize, bytes: Rc<[u8]> },
    Length(usize),
}

/// A change of the directory that is not known to be durable.
#[derive(Clone)]
pub(super) struct PendingName {
    pub(super) at: u64,
    pub(super) change: NameChange,
}

#[derive(Clone)]
pub(super) enum NameChange {
    Made(String, usize),
    Renamed { source: String, target: String, content: usize },
    Removed(String),
}

impl NameChange {
    pub(super) fn names(&self) -> [&str; 2] {
        match self {
            Self::Made(name, _) | Self::Removed(name) => [name, name],
            Self::Renamed { source, target, .. } => [source, target],
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, content) => {
                names.insert(name.clone(), *content);
            }
            Self::Renamed { source, target, content } => {
                names.remove(source);
                names.insert(target.clone(), *content);
            }
            Self::Removed(name) => {
                names.remove(name);
            }
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Changes in the order of writing.
    pub(super) pending: Vec<Pending>,
}

impl Content {
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self { live: bytes.clone(), durable: bytes, pending: Vec::new() }
    }

    pub(super) fn write(&mut self, at: u64, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        let is_forgotten = false;
        let change = Change::Bytes { offset, bytes: bytes.into() };
        self.pending.push(Pending { at, change, is_forgotten });
        if self.live.len() < end {
            self.live.resize(end, 0);
            self.pending.push(Pending { at, change: Change::Length(end), is_forgotten });
        }
        self.live[offset..end].copy_from_slice(bytes);
    }

    pub(super) fn set_length(&mut self, at: u64, bytes: usize) {
        self.live.resize(bytes, 0);
        let change = Change::Length(bytes);
        self.pending.push(Pending { at, change, is_forgotten: false });
    }

    /// Makes all changes durable that are not forgotten; forgotten ones remain pending, unless written over.
    pub(super) fn sync(&mut self) {
        let (forgotten, synced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|p| p.is_forgotten);
        for Pending { change, .. } in &synced {
            change.apply(&mut self.durable);
        }
        let is_older = |pending: &Pending| !synced.iter().any(|s| s.change.covers(&pending.change));
        self.pending = forgotten.into_iter().filter(is_older).collect();
    }

    /// Marks all changes as forgotten: a sync has failed.
    pub(super) fn forget(&mut self) {
        let mut forgotten = Vec::new();
        for Pending { at, change, .. } in std::mem::take(&mut self.pending) {
            match change {
                Change::Bytes { offset, bytes } => {
                    let sectors = bytes.chunks(SECTOR).zip((offset..).step_by(SECTOR));
                    forgotten.extend(sectors.map(|(bytes, offset)| {
                        let change = Change::Bytes { offset, bytes: bytes.into() };
                        Pending { at, change, is_forgotten: true }
                    }));
                }
                Change::Length(_) => forgotten.push(Pending { at, change, is_forgotten: true }),
            }
        }
        self.pending = forgotten;
    }
}

impl Change {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes { offset, bytes } => {
                let end = offset + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Length(bytes) => content.resize(*bytes, 0),
        }
    }

    /// True if no trace of `other` is left after this change.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bytes { offset, bytes }, Self::Bytes { offset: start, .. }) => {
                (*offset..offset + bytes.len()).contains(start)
            }
            (Self::Length(_), Self::Length(_)) => true,
            _ => false,
        }
    }
}
