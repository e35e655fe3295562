//! A position in the log of a shard: the LSN of the next record, and the chain of checksums up to there.

use super::Lsn;
use crate::sabotage::{Pillar, is_off};

/// End of a log: the values that the next group has to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// LSN of the next record.
    pub next_lsn: Lsn,
    /// Chain after the last record.
    pub chain: u32,
}

impl Position {
    /// The position of a log without records.
    pub const START: Self = Self { next_lsn: Lsn(1), chain: 0 };

    /// True if a group that continues `other` continues this position too.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.next_lsn == other.next_lsn && (self.chain == other.chain || is_off(Pillar::Chain))
    }
}
