//! The next segment of a log, created in the background so that no commit waits for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::event::Event;
use super::keeper::Change;
use super::state::Shard;
use super::task::spawn_vital;
use crate::disk::{Disk, DiskError, Kind};
use crate::shard::direct::DirectFile;
use crate::types::ShardId;
use crate::wal::{Prepared, segment_name};

/// Time after a failure before the next attempt to create a segment in the background.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Least time between two log lines about failed attempts of a shard.
const TELL_PERIOD: Duration = Duration::from_secs(60);

/// State of the next segment of a shard's log.
#[derive(Default)]
pub(super) struct Spare {
    state: RefCell<SpareState>,
    event: Event,
    /// Time of the last log line about a failure; `None` once an attempt succeeds.
    told: Cell<Option<Instant>>,
}

#[derive(Default)]
enum SpareState {
    #[default]
    None,
    Preparing,
    Ready(Prepared<DirectFile>),
    Failed {
        error: DiskError,
        /// Time of the next attempt.
        again: Instant,
        /// The file exists, but MANIFEST may or may not name it.
        unnamed: Option<Prepared<DirectFile>>,
    },
}

impl Spare {
    /// Allows an attempt at once, regardless of the last failure.
    fn retry_now(&self) {
        if let SpareState::Failed { again, .. } = &mut *self.state.borrow_mut() {
            *again = Instant::now();
        }
    }

    /// Logs a failed attempt, unless one was logged within [`TELL_PERIOD`].
    fn tell(&self, shard: ShardId, made: &SpareState) {
        let SpareState::Failed { error, .. } = made else {
            return self.told.set(None);
        };
        if self.told.get().is_none_or(|told| told.elapsed() >= TELL_PERIOD) {
            self.told.set(Some(Instant::now()));
            tracing::warn!(shard = shard.0, "no new log segment, tried again each second: {error}");
        }
    }

    /// The segment if it is ready, or the error; `None` while it is being created.
    fn take(&self) -> Option<Result<Prepared<DirectFile>, DiskError>> {
        match self.state.take() {
            SpareState::Ready(prepared) => Some(Ok(prepared)),
            state => {
                let took = match &state {
                    SpareState::Failed { error, .. } => Some(Err(error.clone())),
                    _ => None,
                };
                self.state.replace(state);
                took
            }
        }
    }
}

/// Takes the segment `number`, waiting until it is created. An error is that of an attempt made now: the breaker
/// decides how often there is one.
pub(super) async fn take(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    number: u64,
) -> Result<Prepared<DirectFile>, DiskError> {
    shard.spare.retry_now();
    loop {
        want(core, shard, number);
        match shard.spare.take() {
            Some(took) => return took,
            None => shard.spare.event.wait().await,
        }
    }
}

/// Creates the segment `number` in the background, unless it exists, is being created, or the last attempt failed
/// within [`RETRY`].
pub(super) fn want(core: &Rc<Core>, shard: &Rc<Shard>, number: u64) {
    let mut state = shard.spare.state.borrow_mut();
    let unnamed = match &mut *state {
        SpareState::None => None,
        SpareState::Failed { again, unnamed, .. } if *again <= Instant::now() => unnamed.take(),
        _ => return,
    };
    *state = SpareState::Preparing;
    let (core, shard) = (core.clone(), shard.clone());
    // Vital: the log waits for the result, whatever it is.
    spawn_vital(core.queues.upkeep, async move {
        let made = make_segment(&core, &shard, number, unnamed).await;
        shard.spare.tell(shard.id, &made);
        shard.spare.state.replace(made);
        shard.spare.event.raise();
    });
}

/// Creates a segment, unless an earlier attempt has, and makes MANIFEST name it before anything is written to it. Once
/// MANIFEST may name it, the file stays.
async fn make_segment(
    core: &Core,
    shard: &Shard,
    number: u64,
    unnamed: Option<Prepared<DirectFile>>,
) -> SpareState {
    let name = segment_name(shard.id, number);
    let prepared = match unnamed {
        Some(prepared) => Ok(prepared),
        None => {
            let bytes = core.settings.segment_bytes;
            Prepared::create(&*core.disk, shard.id, number, bytes).await
        }
    };
    let again = Instant::now() + RETRY;
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // A partial file would take up scarce space.
            let removed = core.disk.remove(&name).await;
            tracing::debug!(?removed, "removed {name}");
            return SpareState::Failed { error, again, unnamed: None };
        }
    };
    match core.keep(Change::Added(shard.id, number)).await {
        Ok(()) => SpareState::Ready(prepared),
        Err(reason) => {
            // Nothing has been written to the segment, so another attempt is harmless.
            let kind = if core.is_disk_full() { Kind::NoSpace } else { Kind::Failed };
            let operation = "record in MANIFEST";
            let error = DiskError { kind, operation, file: name, reason };
            SpareState::Failed { error, again, unnamed: Some(prepared) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that stays full is logged once a minute, not at each attempt, of which there is one per second.
    #[test]
    fn a_failure_that_goes_on_is_told_of_once_until_it_ends() {
        let spare = Spare::default();
        let failed = || {
            let (kind, operation) = (Kind::NoSpace, "create");
            let (file, reason) = ("wal_0000_00000002.wal".to_owned(), "full".to_owned());
            let error = DiskError { kind, operation, file, reason };
            SpareState::Failed { error, again: Instant::now(), unnamed: None }
        };
        spare.tell(ShardId(0), &failed());
        let told = spare.told.get().expect("the first one is told of");
        for _ in 0..10 {
            spare.tell(ShardId(0), &failed());
        }
        assert_eq!(spare.told.get(), Some(told));
        // After the period it is logged again.
        let before = told.checked_sub(TELL_PERIOD).expect("the machine is older than a minute");
        spare.told.set(Some(before));
        spare.tell(ShardId(0), &failed());
        assert!(spare.told.get() > Some(before));
        // A failure after a success is a new one.
        spare.tell(ShardId(0), &SpareState::None);
        assert_eq!(spare.told.get(), None);
    }
}
