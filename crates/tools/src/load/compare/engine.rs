//! One engine of a comparison: its connections and its state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;

use super::FAILURE_RATIO_MAX;
use super::lap::{Inputs, Lap};
use crate::dataset::Rows;
use crate::load::output::Output;
use crate::load::peers::{Connection, Facts, Kind, Shape};
use crate::load::record::{Figures, Summary};
use crate::load::setup::{Bench, Loaded};

/// Longest time for an engine to clean up after an interruption.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Results at a beam width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) width: u32,
    pub(super) recall: f64,
    pub(super) qps: f64,
}

pub(super) struct Engine {
    pub(super) name: &'static str,
    /// Kind and address of a peer; `None` for KyroDB.
    address: Option<(Kind, String)>,
    /// One connection per request in flight, at most.
    pub(super) sessions: Vec<Connection>,
    pub(super) facts: Option<Facts>,
    pub(super) loaded: Option<Loaded>,
    pub(super) curve: Vec<Point>,
    /// Beam width at which it is measured.
    pub(super) width: Option<u32>,
    /// True if that width reaches the recall.
    pub(super) is_good: bool,
    /// Beam width that is set now.
    pub(super) current_width: u32,
    /// Figures of each round.
    pub(super) laps: BTreeMap<Lap, Vec<Figures>>,
    /// Documents that were inserted and not removed yet.
    pub(super) written: Arc<AtomicU64>,
    /// Reason why it is not available at all.
    pub(super) absent: Option<String>,
    /// Reason why it was not measured, or not to the end.
    pub(super) trouble: Option<String>,
    /// True if a table of ours exists.
    has_table: bool,
}

impl Engine {
    pub(super) fn new(name: &'static str, address: Option<(Kind, String)>) -> Self {
        Self {
            name,
            address,
            sessions: Vec::new(),
            facts: None,
            loaded: None,
            curve: Vec::new(),
            width: None,
            is_good: false,
            current_width: 0,
            laps: BTreeMap::new(),
            written: Arc::default(),
            absent: None,
            trouble: None,
            has_table: false,
        }
    }

    pub(super) fn absent(name: &'static str, reason: String) -> Self {
        Self { absent: Some(reason), ..Self::new(name, None) }
    }

    /// True if it still takes part.
    pub(super) fn is_in(&self) -> bool {
        self.absent.is_none() && self.trouble.is_none()
    }

    /// Excludes it from the rest of the comparison.
    fn fail(&mut self, doing: &str, status: &Status, output: &Output) {
        let why = format!("{doing}: {:?}: {}", status.code(), status.message());
        output.say(&format!("{}: {why}", self.name));
        self.trouble.get_or_insert(why);
    }

    /// Takes its first connection, and its description of itself.
    pub(super) fn greet(&mut self, opened: Result<(Connection, Facts), Status>, output: &Output) {
        match opened {
            Ok((session, facts)) => {
                self.sessions.push(session);
                self.facts = Some(facts);
            }
            Err(status) => self.fail("connecting", &status, output),
        }
    }

    /// Creates and fills its table. KyroDB has its documents already.
    pub(super) async fn load(&mut self, rows: &Rows<f32>, output: &mut Output) {
        if self.address.is_none() || !self.is_in() {
            return;
        }
        let documents = rows.count();
        output.begin(format!("{}: loading {documents} documents", self.name));
        self.has_table = true;
        let loaded = async {
            let session = &mut self.sessions[0];
            session.create().await?;
            let begun = Instant::now();
            session.load(rows).await?;
            Ok(Loaded { documents, seconds: begun.elapsed().as_secs_f64() })
        };
        let loaded = loaded.await;
        output.end();
        match loaded {
            Ok(loaded) => {
                output.say(&format!(
                    "{}: {documents} documents in {:.1} s",
                    self.name, loaded.seconds
                ));
                self.loaded = Some(loaded);
            }
            Err(status) => self.fail("loading", &status, output),
        }
    }

    /// Opens one connection per request in flight.
    pub(super) async fn fill(
        &mut self,
        bench: &Bench,
        count: usize,
        shape: &Shape,
        output: &Output,
    ) {
        while self.is_in() && self.sessions.len() < count {
            let opened = if self.address.is_none() {
                // Spread over the connections of the load tester, as in every run.
                let client = bench.clients[self.sessions.len() % bench.clients.len()].clone();
                Ok(Connection::kyrodb(client, bench.server.clone(), shape))
            } else {
                self.sessions[0].another().await
            };
            match opened {
                Ok(session) => self.sessions.push(session),
                Err(status) => {
                    let doing = format!("opening {count} connections, see --concurrency");
                    self.fail(&doing, &status, output);
                }
            }
        }
    }

    /// Sets the beam width of all connections.
    pub(super) async fn set_width(&mut self, width: u32, output: &Output) {
        self.current_width = width;
        for index in 0..self.sessions.len() {
            if let Err(status) = self.sessions[index].set_width(width).await {
                self.fail(&format!("setting the width {width}"), &status, output);
                return;
            }
        }
    }

    /// Excludes the engine if the lap failed too often.
    pub(super) fn judge(&mut self, summary: &Summary, lap: Lap, output: &Output) {
        let why = match &summary.partial {
            Some(why) => why.clone(),
            None if summary.failure_ratio > FAILURE_RATIO_MAX => format!(
                "{:.1} % of the requests failed; {}",
                summary.failure_ratio * 100.0,
                summary.first_error().unwrap_or_default()
            ),
            None => return,
        };
        let why = format!("{}: {why}", lap.told());
        output.say(&format!("{}: {why}", self.name));
        self.trouble.get_or_insert(why);
    }

    /// Removes the inserted documents.
    pub(super) async fn clean_up(&mut self, inputs: &Inputs, output: &mut Output) {
        let ids = inputs.written_ids(self.written.load(Ordering::Relaxed));
        if ids.is_empty() || !self.is_in() {
            return;
        }
        output.begin(format!("{}: removing {} documents", self.name, ids.end - ids.start));
        let removed = self.sessions[0].remove(ids).await;
        output.end();
        match removed {
            Ok(()) => self.written.store(0, Ordering::Relaxed),
            Err(status) => self.fail("removing what was inserted", &status, output),
        }
    }

    /// Cleans up: drops a peer's table, and removes the documents inserted into KyroDB.
    pub(super) async fn leave(
        &mut self,
        bench: &Bench,
        inputs: &Inputs,
        shape: &Shape,
        output: &Output,
    ) {
        let ids = inputs.written_ids(self.written.load(Ordering::Relaxed));
        let left = async {
            match &self.address {
                // The other connections may have requests in progress.
                Some((kind, address)) if self.has_table => {
                    Connection::open(*kind, address, shape).await?.0.drop_table().await
                }
                None if !ids.is_empty() => {
                    let (client, server) = (bench.clients[0].clone(), bench.server.clone());
                    Connection::kyrodb(client, server, shape).remove(ids).await
                }
                _ => Ok(()),
            }
        };
        let left = tokio::time::timeout(LEAVE_TIMEOUT, left).await;
        let left = left.unwrap_or_else(|_| Err(Status::deadline_exceeded("it took too long")));
        if let Err(status) = left
            && self.trouble.is_none()
        {
            output.say(&format!(
                "{}: what was measured with stays there: {}",
                self.name,
                status.message()
            ));
        }
    }
}
