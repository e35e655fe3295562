//! Views: the state of a partition that a search sees, one LSN per owner, and how pins (`pin`) keep it until the
//! search has ended.

use std::collections::VecDeque;

use super::member::NEVER;
use super::{Store, pin};
use crate::types::{Lsn, Slot};

/// The state of a partition that a search sees.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// LSN by owner. 0 for an owner whose documents the view does not see.
    lsns: Vec<Lsn>,
    /// LSN of the owner that opened it.
    own: Lsn,
    /// Number of the view among those of that owner.
    number: u64,
    /// True if the view does not see the documents of some owners.
    is_partial: bool,
}

impl View {
    /// LSN of the owner that opened it.
    #[must_use]
    pub fn own(&self) -> Lsn {
        self.own
    }

    /// True if it sees the documents of all owners.
    #[inline]
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.is_partial
    }
}

/// An open view on several owners.
#[derive(Default)]
struct Open {
    /// Number of holders that keep it open.
    holders: usize,
    /// LSN by owner. No lower than those of a view opened before.
    pins: Vec<Lsn>,
}

/// The open views of an owner, oldest first.
#[derive(Default)]
pub(super) struct Views {
    open: VecDeque<Open>,
    /// Number of the oldest open view.
    first: u64,
    /// Views with a lower number were abandoned, and are still to be closed.
    abandoned: u64,
    /// Buffers for reuse.
    spare: Vec<Vec<Lsn>>,
}

impl Store {
    /// Opens a view of the present state: of all owners' documents, or with `is_own` of this owner's alone.
    /// [`Store::close_view`] must follow. Owners whose documents can't be trusted are left out.
    pub fn open_view(&mut self, view: &mut View, is_own: bool) {
        let own = self.applied;
        self.open_snapshot(own);
        view.own = own;
        view.lsns.clear();
        view.is_partial = false;
        if self.stripe.owners() == 1 {
            view.lsns.push(own);
            return;
        }
        let mut pins = self.views.spare.pop().unwrap_or_default();
        pin::pin(&self.shared.members, self.stripe.owner(), &mut pins, self.views.open.is_empty());
        for (owner, (member, &pin)) in self.shared.members.iter().zip(&pins).enumerate() {
            view.lsns.push(match owner == self.stripe.owner() as usize {
                true => own,
                false if is_own || member.is_fenced() => {
                    view.is_partial = true;
                    Lsn(0)
                }
                false => pin,
            });
        }
        view.number = self.views.first + self.views.open.len() as u64;
        self.views.open.push_back(Open { holders: 1, pins });
    }

    /// Sets an open view to these states of these owners, which they keep for it, and to no other owners.
    pub fn look_back(&self, view: &mut View, states: impl Iterator<Item = (u32, Lsn)>) {
        view.is_partial = true;
        view.lsns.fill(Lsn(0));
        for (owner, lsn) in states {
            view.lsns[owner as usize] = lsn;
        }
    }

    /// Adds a holder to an open view: [`Store::close_view`] must follow once more.
    pub fn hold_view(&mut self, view: &View) {
        self.open_snapshot(view.own);
        if self.stripe.owners() > 1 && view.number >= self.views.abandoned {
            self.views.open[(view.number - self.views.first) as usize].holders += 1;
        }
    }

    /// Ends what [`Store::open_view`] or [`Store::hold_view`] began.
    ///
    /// # Panics
    /// If the view is not open, and was not abandoned.
    pub fn close_view(&mut self, view: &View) {
        self.close_snapshot(view.own);
        let views = &mut self.views;
        if self.stripe.owners() == 1 || view.number < views.abandoned {
            return;
        }
        views.open[(view.number - views.first) as usize].holders -= 1;
        let mut has_moved = false;
        while views.open.front().is_some_and(|view| view.holders == 0) {
            let closed = views.open.pop_front().unwrap_or_default();
            views.spare.push(closed.pins);
            views.first += 1;
            has_moved = true;
        }
        if has_moved {
            let oldest = views.open.front().map(|view| &view.pins[..]);
            pin::publish(&self.shared.members, self.stripe.owner(), oldest);
        }
    }

    /// The owners whose documents the view does not see because they are fenced.
    pub fn missing_in(&self, view: &View) -> impl Iterator<Item = u32> {
        let fenced = |&owner: &u32| {
            owner != self.stripe.owner() && self.shared.members[owner as usize].is_fenced()
        };
        let owners = if view.is_partial { self.stripe.owners() } else { 0 };
        (0..owners).filter(fenced)
    }

    /// True if the view has the version in `slot`.
    #[inline]
    #[must_use]
    pub fn sees(&self, view: &View, slot: Slot) -> bool {
        let lsn = match view.lsns[..] {
            [only] => only,
            ref lsns => lsns[self.stripe.owner_of(slot) as usize],
        };
        self.is_visible(slot, lsn)
    }

    /// True if the view sees all documents, and no record has been applied since it was opened.
    #[must_use]
    pub fn is_as_in(&self, view: &View) -> bool {
        if let [only] = view.lsns[..] {
            return only == self.applied;
        }
        let members = self.shared.members.iter().zip(&view.lsns);
        !view.is_partial && members.into_iter().all(|(member, &lsn)| member.applied() == lsn)
    }

    /// Prefetches the data that [`Store::sees`] reads of `slot`.
    #[inline]
    pub fn prefetch_life(&self, slot: Slot) {
        self.shared.prefetch_life(slot);
    }

    /// The oldest state of this owner that any reader looks at; [`NEVER`] if there is none.
    pub(super) fn oldest_snapshot(&self) -> Lsn {
        let own = self.snapshots.iter().copied().min().unwrap_or(Lsn(NEVER));
        if self.stripe.owners() == 1 {
            return own;
        }
        own.min(Lsn(pin::oldest(&self.shared.members, self.stripe.owner())))
    }

    /// Abandons all open views: their holders read nothing through them any more, and only close them.
    pub fn abandon_views(&mut self) {
        let views = &mut self.views;
        views.first += views.open.len() as u64;
        views.abandoned = views.first;
        views.open.clear();
        pin::publish(&self.shared.members, self.stripe.owner(), None);
    }
}
