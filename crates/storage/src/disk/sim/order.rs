//! Checks the order in which files become durable, while it happens: a crash would only show a wrong order if it came
//! at that moment.

use super::{Change, Content, SimDisk, State};

/// A file that the content of another one relies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Name of the file.
    pub name: String,
    /// Bytes of the file, from the front, that have to be durable; `None` for all.
    pub bytes: Option<u64>,
}

/// The claims of the content of a file that takes this name.
pub type Claims = fn(name: &str, content: &[u8]) -> Vec<Claim>;

impl Content {
    /// True if all data that a read of the first `bytes` returns is durable.
    fn is_durable(&self, bytes: u64) -> bool {
        let is_before = |change: &Change| match change {
            Change::Bytes { offset, .. } => (*offset as u64) < bytes,
            Change::Length(length) => (*length as u64) < bytes,
        };
        !self.pending.iter().any(|pending| is_before(&pending.change))
    }
}

impl State {
    /// Checks that a file is durable before it takes a name, and that all files on which it relies are.
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
    /// Panics from now on if a file gets a name before it, or a file on which it relies, is durable.
    pub fn watch_order(&self, claims: Claims) {
        self.0.borrow_mut().claims = Some(claims);
    }

    /// Stops checking the order.
    pub fn ignore_order(&self) {
        self.0.borrow_mut().claims = None;
    }

    /// Panics if a file, or its name, is not durable, while the order is checked.
    pub fn assert_durable(&self, name: &str, by: &str) {
        let state = self.0.borrow();
        if state.claims.is_some() {
            state.check(name, u64::MAX, by);
        }
    }
}
