//! Timing of one search: times that core and gateway note as it passes, without a lock or an allocation of their own.
//!
//! A search passes through a chain of moments, and a stage is the time between two of them, so the stages add up to the
//! total. A search waits for the slowest of its shards, so the times on a core are those of the shard whose answer came
//! last; work is counted over all of them.

use std::time::{Duration, Instant};

/// A stage of a search, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// From the handler in the gateway until the search goes to the cores. Includes reading the vector of a document
    /// whose neighbours are wanted.
    Admission,
    /// Lookup in the query cache.
    Cache,
    /// Until the core takes the request from its mailbox.
    Mailbox,
    /// Until the first step on the core.
    Queue,
    /// Steps on the hot tier.
    Hot,
    /// Steps of the walk.
    Walk,
    /// Steps of an exact scan.
    Scan,
    /// Between slices, while other work had the core.
    Suspended,
    /// Building the answer on the core.
    Collect,
    /// Until the gateway continues. If a shard did not answer: the wait for it.
    Reply,
    /// Merging the answers.
    Merge,
    /// Until the encoded response is handed to the connection.
    Encode,
}

impl Stage {
    /// Number of stages.
    pub const COUNT: usize = 12;

    /// All stages, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Admission,
        Self::Cache,
        Self::Mailbox,
        Self::Queue,
        Self::Hot,
        Self::Walk,
        Self::Scan,
        Self::Suspended,
        Self::Collect,
        Self::Reply,
        Self::Merge,
        Self::Encode,
    ];

    /// Name in metrics and answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Cache => "cache",
            Self::Mailbox => "mailbox",
            Self::Queue => "queue",
            Self::Hot => "hot",
            Self::Walk => "walk",
            Self::Scan => "scan",
            Self::Suspended => "suspended",
            Self::Collect => "collect",
            Self::Reply => "reply",
            Self::Merge => "merge",
            Self::Encode => "encode",
        }
    }
}

/// State of the core and of the shard when a search ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreState {
    /// Unlinked documents of the shard.
    pub hot_documents: u64,
    /// Requests waiting for the core.
    pub mailbox_depth: u64,
    /// A snapshot of the shard was being written.
    pub is_snapshot_running: bool,
    /// A document of the shard was half linked.
    pub is_linking: bool,
}

/// Times and work of a search of one shard, noted by its core.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Time at which the core took it from its mailbox.
    pub taken: Instant,
    /// Time of its first step.
    pub begun: Instant,
    /// Time of its answer.
    pub answered: Instant,
    /// Time in steps on the hot tier, in nanoseconds.
    pub hot_ns: u64,
    /// Time in steps of the walk, in nanoseconds.
    pub walk_ns: u64,
    /// Time in steps of an exact scan, in nanoseconds.
    pub scan_ns: u64,
    /// Time to build the answer, in nanoseconds.
    pub collect_ns: u64,
    /// Number of slices.
    pub slices: u32,
    /// State of the core at its end.
    pub state: CoreState,
}

impl Span {
    /// A span of a search that was taken and has not made a step.
    #[must_use]
    pub fn new(taken: Instant, now: Instant) -> Self {
        Self {
            taken,
            begun: now,
            answered: now,
            hot_ns: 0,
            walk_ns: 0,
            scan_ns: 0,
            collect_ns: 0,
            slices: 0,
            state: CoreState::default(),
        }
    }

    /// Time in steps of all kinds.
    #[must_use]
    pub fn stepped(&self) -> Duration {
        Duration::from_nanos(self.hot_ns + self.walk_ns + self.scan_ns)
    }
}

/// Work of a search, summed over its shards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Distances computed.
    pub distances: u64,
    /// Nodes whose neighbours were read.
    pub hops: u64,
    /// Documents of the hot tier that were looked at.
    pub hot_scanned: u64,
    /// Number of slices.
    pub slices: u32,
    /// Shards asked.
    pub shards_asked: u32,
    /// Shards whose search completed.
    pub shards_answered: u32,
}

/// Parameters of a query that determine its cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Documents wanted.
    pub k: usize,
    /// Beam width.
    pub ef: usize,
    /// The query has a filter.
    pub is_filtered: bool,
    /// The query asks for an exact scan of all documents in scope.
    pub is_exact: bool,
}

/// The record of one search.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    is_on: bool,
    arrived: Instant,
    /// Begin of the next stage.
    last: Instant,
    spent_ns: [u64; Stage::COUNT],
    /// Span of the shard that answered last.
    span: Option<Span>,
    /// Parameters of the query.
    pub asked: Asked,
    /// Work.
    pub counts: Counts,
    /// State of the core that answered last.
    pub state: CoreState,
}

impl Trace {
    /// Record of a search that arrived at `arrived`. With `is_on` false it notes only times of the gateway, and is not
    /// recorded.
    #[must_use]
    pub fn new(arrived: Instant, is_on: bool) -> Self {
        Self {
            is_on,
            arrived,
            last: arrived,
            spent_ns: [0; Stage::COUNT],
            span: None,
            asked: Asked::default(),
            counts: Counts::default(),
            state: CoreState::default(),
        }
    }

    /// True if it is recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Ends a stage, which began where the one before ended.
    pub fn mark(&mut self, stage: Stage, now: Instant) {
        self.add(stage, nanos(now.saturating_duration_since(self.last)));
        self.last = self.last.max(now);
    }

    /// Adds the span of a shard that has answered.
    pub fn note(&mut self, span: Option<Span>) {
        let Some(span) = span else { return };
        self.counts.slices += span.slices;
        if self.span.is_none_or(|last| last.answered < span.answered) {
            self.span = Some(span);
        }
    }

    /// Ends the wait for answers; the gateway continued at `now`.
    pub fn answered(&mut self, now: Instant) {
        if let Some(span) = self.span.take() {
            self.mark(Stage::Mailbox, span.taken);
            self.mark(Stage::Queue, span.begun);
            let worked = nanos(span.stepped()) + span.collect_ns;
            let on_core = nanos(span.answered.saturating_duration_since(span.begun));
            self.add(Stage::Hot, span.hot_ns);
            self.add(Stage::Walk, span.walk_ns);
            self.add(Stage::Scan, span.scan_ns);
            self.add(Stage::Collect, span.collect_ns);
            self.add(Stage::Suspended, on_core.saturating_sub(worked));
            self.last = self.last.max(span.answered);
            self.state = span.state;
        }
        self.mark(Stage::Reply, now);
    }

    /// Time in a stage.
    #[must_use]
    pub fn spent(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.spent_ns[stage as usize])
    }

    /// Time from arrival to the end of the last stage.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.last.saturating_duration_since(self.arrived)
    }

    /// Time of the end of the last stage.
    #[must_use]
    pub fn ended(&self) -> Instant {
        self.last
    }

    fn add(&mut self, stage: Stage, ns: u64) {
        self.spent_ns[stage as usize] += ns;
    }
}

/// A duration in nanoseconds; it is assumed to be below 584 years.
#[must_use]
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A search of two shards, of which the second answers last.
    fn two_shards(arrived: Instant) -> Trace {
        let at = |ms: u32| arrived + MS * ms;
        let mut trace = Trace::new(arrived, true);
        trace.mark(Stage::Admission, at(1));
        let first = Span { answered: at(9), slices: 1, ..Span::new(at(2), at(3)) };
        let second = Span {
            answered: at(30),
            hot_ns: 2_000_000,
            walk_ns: 5_000_000,
            scan_ns: 3_000_000,
            collect_ns: 1_000_000,
            slices: 3,
            state: CoreState { hot_documents: 7, ..CoreState::default() },
            ..Span::new(at(4), at(6))
        };
        trace.note(Some(second));
        trace.note(Some(first));
        trace.note(None);
        trace.answered(at(33));
        trace.mark(Stage::Merge, at(34));
        trace.mark(Stage::Encode, at(40));
        trace
    }

    #[test]
    fn stages_add_up_to_the_whole_along_the_shard_that_answered_last() {
        let trace = two_shards(Instant::now());
        let spent = Stage::ALL.map(|stage| trace.spent(stage).as_millis());
        assert_eq!(spent, [1, 0, 3, 2, 2, 5, 3, 13, 1, 3, 1, 6]);
        assert_eq!(spent.iter().sum::<u128>(), trace.total().as_millis());
        assert_eq!((trace.counts.slices, trace.state.hot_documents), (4, 7));
    }

    #[test]
    fn a_wait_without_an_answer_is_a_wait_for_the_reply() {
        let arrived = Instant::now();
        let mut trace = Trace::new(arrived, true);
        trace.mark(Stage::Admission, arrived + MS);
        trace.answered(arrived + 100 * MS);
        assert_eq!(trace.spent(Stage::Reply), 99 * MS);
        // A time before the last one adds and removes nothing.
        trace.mark(Stage::Merge, arrived);
        assert_eq!((trace.spent(Stage::Merge), trace.total()), (Duration::ZERO, 100 * MS));
    }

    #[test]
    fn names_are_in_the_order_of_the_way_and_distinct() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
            assert!(Stage::ALL[..index].iter().all(|before| before.word() != stage.word()));
        }
    }
}
