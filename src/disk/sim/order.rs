//! Watches the order in which things become durable, while they are done: what a crash would only
//! show if it came at that moment.

use super::{Change, Content, SimDisk, State};

/// A file that the content of another one relies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// How much of it, from the front; all of it if that is `None`.
    pub bytes: Option<u64>,
}

/// What the content of a file that takes this name relies on.
pub type Claims = fn(name: &str, content: &[u8]) -> Vec<Claim>;

impl Content {
    /// True if all that is read of the first `bytes` is durable.
    fn is_durable(&self, bytes: u64) -> bool {
        let is_before = |change: &Change| match change {
            Change::Bytes { offset, .. } => (*offset as u64) < bytes,
            Change::Length(length) => (*length as u64) < bytes,
        };
        !self.pending.iter().any(|pending| is_before(&pending.change))
    }
}

impl State {
    /// A file must be durable before it takes a name, and so must all that it relies on.
    pub(super) fn check_rename(&self, content: usize, target: &str) {
        let Some(claims) = self.claims else { return };
        let content = &self.contents[content];
        assert!(content.is_durable(u64::MAX), "{target} gets a file that is not durable");
        for Claim { name, bytes } in claims(target, &content.live) {
            self.check(&name, bytes.unwrap_or(u64::MAX), target);
        }
    }

    fn check(&self, name: &str, bytes: u64, by: &str) {
        let content = self.names.get(name);
        assert!(content.is_some(), "{by} relies on {name}, which is not there");
        let is_durable = self.durable_names.get(name) == content;
        assert!(is_durable, "{by} relies on {name}, whose name is not durable");
        let is_durable = content.is_some_and(|&content| self.contents[content].is_durable(bytes));
        assert!(is_durable, "{by} relies on {name}, which is not durable");
    }
}

impl SimDisk {
    /// From now on panics where a file gets a name before it, or what it relies on, is durable.
    pub fn watch_order(&self, claims: Claims) {
        self.0.borrow_mut().claims = Some(claims);
    }

    /// The order is not watched any more.
    pub fn ignore_order(&self) {
        self.0.borrow_mut().claims = None;
    }

    /// Panics if a file, or its name, is not durable, if the order is watched.
    pub fn assert_durable(&self, name: &str, by: &str) {
        let state = self.0.borrow();
        if state.claims.is_some() {
            state.check(name, u64::MAX, by);
        }
    }
}
