//! One engine at one job for some seconds, in a closed loop: a constant number of requests in flight, each sent when
//! one before is answered.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::load::Fault;
use crate::load::arguments::Settings;
use crate::load::client::Answer;
use crate::load::contact::{Contact, PAUSE_AFTER_FAILURE, late};
use crate::load::data::Data;
use crate::load::machine::cpu_seconds;
use crate::load::peers::Connection;
use crate::load::record::{Course, LAG_MAX_MS, Outcome, Record, Summary};
use crate::load::workload::Kind;

/// Most documents that are inserted before they are removed again.
const WRITTEN_MAX: u64 = 1 << 20;

/// The request that is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    Search,
    Insert,
}

impl Job {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Insert => "insert",
        }
    }
}

/// A job, and its number of requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lap {
    pub(super) job: Job,
    pub(super) in_flight: usize,
}

impl Lap {
    /// Description for people.
    pub(super) fn told(self) -> String {
        let job = match self.job {
            Job::Search => "searches",
            Job::Insert => "inserts",
        };
        format!("{job}, {} in flight", self.in_flight)
    }
}

/// Contents of requests.
pub(super) struct Inputs {
    pub(super) data: Arc<Data>,
    k: u32,
    timeout: Duration,
}

impl Inputs {
    pub(super) fn new(data: Arc<Data>, settings: &Settings) -> Self {
        Self { data, k: settings.k, timeout: settings.timeout }
    }

    /// Ids of the first `count` inserted documents.
    pub(super) fn written_ids(&self, count: u64) -> Range<u64> {
        let first = self.data.base.count() as u64 + 1;
        first..first + count.min(WRITTEN_MAX)
    }
}

/// State that the workers of a lap share.
struct Track {
    inputs: Arc<Inputs>,
    job: Job,
    /// End of the warm-up; requests sent before are not counted.
    counted_from: Instant,
    end: Instant,
    record: Mutex<Record>,
    next_query: AtomicUsize,
    written: Arc<AtomicU64>,
    contact: Contact,
    /// True if the last request reached the engine.
    is_reached: AtomicBool,
    is_gone: AtomicBool,
}

impl Track {
    /// One worker, until the end.
    async fn work(&self, session: &mut Connection) {
        while Instant::now() < self.end && !self.is_gone.load(Ordering::Relaxed) {
            let Some((sent, result)) = self.send(session).await else { return };
            let latency = sent.elapsed();
            let is_refused = result.as_ref().is_err_and(|s| s.code() != Code::DeadlineExceeded);
            self.watch(result.as_ref().err());
            if sent >= self.counted_from {
                let kind = match self.job {
                    Job::Search => Kind::Search,
                    Job::Insert => Kind::Insert,
                };
                let sent_at = sent - self.counted_from;
                let outcome = Outcome { kind, latency, sent_at, lag: None, result };
                self.record.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome);
            }
            if is_refused {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    /// Sends one request, and waits for its answer. `None` when enough has been written.
    async fn send(&self, session: &mut Connection) -> Option<(Instant, Result<Answer, Status>)> {
        let data = &self.inputs.data;
        let deadline = self.inputs.timeout;
        match self.job {
            Job::Search => {
                let index = self.next_query.fetch_add(1, Ordering::Relaxed) % data.query_count();
                let sent = Instant::now();
                let found = tokio::time::timeout(deadline, session.search(data.query(index))).await;
                let answer = found.unwrap_or_else(|_| Err(late())).map(|ids| Answer {
                    hits: data.hits(index, self.inputs.k, ids.into_iter()),
                    is_incomplete: false,
                });
                Some((sent, answer))
            }
            Job::Insert => {
                let number = self.written.fetch_add(1, Ordering::Relaxed);
                if number >= WRITTEN_MAX {
                    return None;
                }
                let id = self.inputs.written_ids(0).start + number;
                let (_, vector) = data.written(number);
                let sent = Instant::now();
                let stored = tokio::time::timeout(deadline, session.insert(id, &vector)).await;
                Some((sent, stored.unwrap_or_else(|_| Err(late())).map(|()| Answer::default())))
            }
        }
    }

    /// Checks whether the engine is still there.
    fn watch(&self, status: Option<&Status>) {
        let is_reached = status.is_none_or(|status| status.code() != Code::Unavailable);
        self.is_reached.store(is_reached, Ordering::Relaxed);
        if self.contact.is_lost(status) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
    }
}

/// Does one lap over the first connections of an engine. If the engine goes away, the lap ends early, and its summary
/// says so.
///
/// # Errors
/// If a worker fails.
pub(super) async fn run(
    sessions: &mut Vec<Connection>,
    inputs: &Arc<Inputs>,
    written: &Arc<AtomicU64>,
    lap: Lap,
    settings: &Settings,
) -> Result<Summary, Fault> {
    let cpu_before = cpu_seconds();
    let begun = Instant::now();
    let counted_from = begun + settings.warm_up;
    let track = Arc::new(Track {
        inputs: inputs.clone(),
        job: lap.job,
        counted_from,
        end: counted_from + settings.duration,
        record: Mutex::new(Record::new(inputs.k)),
        next_query: AtomicUsize::new(0),
        written: written.clone(),
        contact: Contact::since(begun),
        is_reached: AtomicBool::new(true),
        is_gone: AtomicBool::new(false),
    });
    let mut places = JoinSet::new();
    let rest = sessions.split_off(lap.in_flight.min(sessions.len()));
    for mut session in sessions.drain(..) {
        let track = track.clone();
        places.spawn(async move {
            track.work(&mut session).await;
            session
        });
    }
    while let Some(ended) = places.join_next().await {
        sessions.push(ended.map_err(|error| Fault::Failed(format!("a place ended: {error}")))?);
    }
    sessions.extend(rest);
    let seconds = counted_from.elapsed().as_secs_f64().max(1e-9);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let cpu_ratio = (cpu_seconds() - cpu_before) / begun.elapsed().as_secs_f64().max(1e-9) / cpus;
    let (planned, lag_max_ms) = (settings.duration, LAG_MAX_MS);
    let course = Course { target: None, planned, seconds, cpu_ratio, lag_max_ms };
    let record = track.record.lock().unwrap_or_else(PoisonError::into_inner);
    let mut summary = record.summary(&course);
    if track.is_gone.load(Ordering::Relaxed) || !track.is_reached.load(Ordering::Relaxed) {
        let why = summary.first_error().unwrap_or_default();
        summary.partial = Some(format!("the engine went away ({why})"));
    }
    Ok(summary)
}
