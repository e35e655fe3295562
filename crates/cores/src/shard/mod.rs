//! Cores: pinned threads, each an executor of its own with the shards it owns.
//!
//! ```text
//! gateway threads ┊ core thread
//!   router ──mailbox──► serve ──► engine (reads, in slices)
//!                   ┊     └────► commit ─► log ─► engine (apply) ─► reply
//!   router ◄──reply─────────────── upkeep ─► engine (link, a step at a time)
//!   pulse ────wake──┊► heart
//! ```
//!
//! The only module that uses glommio's executor. Nothing on a core waits for another core, except where a log segment
//! is begun or completed: the first core keeps MANIFEST for all ([`keeper`]). What crosses threads is a message in a
//! bounded [`mailbox`] or an answer in a [`reply`]; a wake that glommio loses on that way is repeated by the [`pulse`].
//!
//! Background work yields: after every step, of some tens of microseconds, a core checks whether a request waits. A
//! panic in a search is an error of that search; one that may have left a shard half written fences the shard; the core
//! goes on.

pub mod breaker;
mod commit;
mod contention;
pub mod core;
pub mod cpus;
pub mod direct;
#[cfg(test)]
mod direct_tests;
pub mod doing;
mod due;
mod event;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
pub mod keeper;
mod load;
pub mod mailbox;
pub mod open;
pub mod pacing;
pub mod preflight;
pub mod pulse;
mod recall;
pub mod reply;
pub mod request;
pub mod rotate;
mod search;
mod serve;
pub mod snapshot;
mod spare;
mod stage;
mod state;
mod sweep;
mod task;
#[cfg(test)]
mod tests;
pub mod truncate;
mod upkeep;
pub mod vectors;
mod watch;
