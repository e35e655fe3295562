//! Backpressure on writers: bound of the documents that are logged but not linked.
//!
//! A search scans the documents that are not linked yet, beside its walk. So the documents of a
//! shard that wait to be linked, its *debt*, have a bound, and a group of the log has no more puts
//! than keep the debt within it:
//!
//! | Searches on the core | Bound of the debt of a partition, in documents |
//! |---|---|
//! | within `SEARCHED_WITHIN` | scanned in `SCAN_PER_WALK` of a walk's time, as measured; `ROWS_MIN` to `ROWS_MAX` |
//! | none | half of `cache.capacity` |
//!
//! Every owner of a partition has an equal part. When searches begin, the bound goes from the debt
//! of that moment down to the smaller one within `TIGHTEN`, and writers go on meanwhile.
//!
//! A put that would wait longer than `WAIT_MAX`, or than `WAIT_SEARCHED_MAX` beside searches, by the pace of linking,
//! is refused before it is staged; the answer says when to try again. This module neither waits nor queues: the commit
//! asks for room, and upkeep wakes it once there is some. A shard that closes has room for all.
//!
//! Where other threads want the CPU of a core, upkeep rests (`contention`), and writers wait longer.

use std::cell::Cell;
use std::time::{Duration, Instant};

use glommio::SharesManager;

use super::core::Core;
use super::state::Shard;
use crate::engine::{Engine, Write};
use crate::error::{Error, Result};
use crate::observe::counters::ShardCounters;

/// Most time of a scan of the debt, as a share of the time of a walk.
const SCAN_PER_WALK: f64 = 0.5;

/// Least and most documents of a partition that may wait while there are searches, whatever the measurements.
const ROWS_MIN: usize = 256;
const ROWS_MAX: usize = 2_048;

/// Initial values of the averages, in nanoseconds: scanning one row, one walk, linking one document.
const ROW_NS: f64 = 100.0;
const WALK_NS: f64 = 150_000.0;
const LINK_NS: f64 = 1_000_000.0;

/// Least rows of a scan that is used as a measurement.
const MEASURED_ROWS: u64 = 64;

/// Weight of a new measurement in its average, and its cap as a multiple of the average: a measurement of an
/// interrupted thread contains the interruption.
const WEIGHT: f64 = 1.0 / 32.0;
const OUTLIER: f64 = 4.0;

/// Time after a search during which more searches are expected.
const SEARCHED_WITHIN: Duration = Duration::from_secs(10);

/// Time from the first search on within which the bound goes down to that of searches.
const TIGHTEN: Duration = Duration::from_secs(4);

/// Divisor of the number at which the engine refuses writes (twice `cache.capacity`) that gives the bound without
/// searches.
const QUIET_PART: usize = 4;

/// Share of the bound from which on a group waits for more writes, up to `GATHER_MAX` at the bound: larger groups
/// interrupt linking less.
const GATHER_FROM: f64 = 0.5;
const GATHER_MAX: Duration = Duration::from_millis(5);

/// A commit that waits for room continues once 1/8 of the bound is free: groups of one document each would cost a sync
/// each.
const ROOM_PARTS: usize = 8;

/// Longest expected wait of a put for room, by the pace of linking, without searches.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(1);

/// Longest expected wait of a put beside searches: waiting writes hold streams of connections that searches need too.
const WAIT_SEARCHED_MAX: Duration = Duration::from_millis(100);

/// Least and most time after which a refused put may be sent again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Linking counts as stopped after this many times the average time per document.
const STILL: f64 = 16.0;

/// CPU shares of upkeep beside searches and commits, of 1000: least, and with the debt at its bound. The second is the
/// share that linking has left if searches want the whole core; more would slow searches down.
const UPKEEP_SHARES_MIN: usize = 100;
const UPKEEP_SHARES_AT_BOUND: usize = 250;
const UPKEEP_SHARES_MAX: usize = 1_000;

/// Period at which glommio reads the shares.
const SHARES_PERIOD: Duration = Duration::from_millis(50);

/// One in this many inserts that the router would refuse is sent to the shard nevertheless, so that the shard's
/// estimate is updated.
const ASKED_PARTS: u64 = 16;

/// Moving average, in nanoseconds.
struct Average(Cell<f64>);

impl Average {
    fn from(first: f64) -> Self {
        Self(Cell::new(first))
    }

    fn note(&self, sample: f64) {
        let before = self.0.get();
        let after = before + (sample.min(before * OUTLIER) - before) * WEIGHT;
        self.0.set(after.max(1.0));
    }

    fn get(&self) -> f64 {
        self.0.get()
    }
}

/// Measured cost of searches on a core.
pub(super) struct SearchCost {
    row: Average,
    walk: Average,
    asked: Cell<Option<Instant>>,
}

impl Default for SearchCost {
    fn default() -> Self {
        let (row, walk) = (Average::from(ROW_NS), Average::from(WALK_NS));
        Self { row, walk, asked: Cell::new(None) }
    }
}

impl SearchCost {
    /// Notes that a search begins.
    pub(super) fn note_asked(&self, now: Instant) {
        self.asked.set(Some(now));
    }

    /// Notes that a search without a filter scanned `rows` unlinked documents in `hot_ns` and walked the graph in
    /// `walk_ns`, both in nanoseconds.
    pub(super) fn note(&self, hot_ns: u64, rows: u64, walk_ns: u64) {
        if rows >= MEASURED_ROWS {
            self.row.note(hot_ns as f64 / rows as f64);
        }
        if walk_ns > 0 {
            self.walk.note(walk_ns as f64);
        }
    }

    /// Unlinked documents of a partition that a search may have to scan, at most.
    fn rows(&self) -> usize {
        let rows = SCAN_PER_WALK * self.walk.get() / self.row.get();
        (rows as usize).clamp(ROWS_MIN, ROWS_MAX)
    }

    pub(super) fn is_searched(&self, now: Instant) -> bool {
        let since = self.asked.get().map(|asked| now.saturating_duration_since(asked));
        since.is_some_and(|since| since < SEARCHED_WITHIN)
    }
}

/// Refuses an insert if the shard's core has published that it would wait too long, so that the core need not be asked
/// for each insert.
///
/// # Errors
/// If the published wait is too long.
pub fn check_insert(counters: &ShardCounters) -> Result<()> {
    let wait = Duration::from_millis(counters.insert_wait_ms.get());
    // Counts inserts judged here, not refused ones: inserts that pass change nothing until the core takes them out of
    // its mailbox, which would fill up meanwhile.
    if wait.is_zero()
        || counters.is_fenced()
        || counters.inserts_judged.next().is_multiple_of(ASKED_PARTS)
    {
        return Ok(());
    }
    counters.inserts_shed.add(1);
    Err(too_long(wait))
}

fn too_long(wait: Duration) -> Error {
    Error::Busy {
        what: format!(
            "too many documents wait to be linked into the graph: this one would wait {} ms for its \
             turn: send fewer at once, or later",
            wait.as_millis()
        ),
        retry_after: wait.clamp(RETRY_MIN, RETRY_MAX),
    }
}

/// Whether a group may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// With at most this many puts.
    Puts(usize),
    /// After this time, in which more writes may gather.
    Soon(Duration),
    /// Not before some documents are linked.
    None,
}

/// Rate control of the writes of one shard.
pub(super) struct Pace {
    /// Number of shards that own its graph.
    owners: usize,
    /// The bound without searches, in documents.
    quiet: usize,
    /// The bound at the last request.
    bound: usize,
    /// Time and debt when the present run of searches began.
    searched: Option<(Instant, usize)>,
    /// Average time from one linked document to the next, without idle time.
    link: Average,
    /// Time of the last linked document; `None` while nothing waits to be linked.
    linked: Option<Instant>,
}

impl Pace {
    /// Rate control of a shard that is one of `owners` of its graph and refuses writes at `refused_at` documents.
    pub(super) fn new(owners: usize, refused_at: usize) -> Self {
        let quiet = (refused_at / QUIET_PART).max(1);
        Self {
            owners,
            quiet,
            bound: quiet,
            searched: None,
            link: Average::from(LINK_NS),
            linked: None,
        }
    }

    /// The bound at the last request.
    pub(super) fn last_bound(&self) -> usize {
        self.bound
    }

    /// Longest expected wait of a put that is accepted now.
    fn wait_max(&self) -> Duration {
        if self.searched.is_some() { WAIT_SEARCHED_MAX } else { WAIT_MAX }
    }

    /// Documents that may wait to be linked now, given that `debt` already do.
    fn bound(&mut self, now: Instant, cost: &SearchCost, debt: usize) -> usize {
        if !cost.is_searched(now) {
            self.searched = None;
            self.bound = self.quiet;
            return self.bound;
        }
        let tight = cost.rows().div_ceil(self.owners).min(self.quiet);
        let (since, from) = *self.searched.get_or_insert((now, debt));
        let passed = now.saturating_duration_since(since).as_secs_f64() / TIGHTEN.as_secs_f64();
        let more = from.min(self.quiet).saturating_sub(tight) as f64 * (1.0 - passed).max(0.0);
        self.bound = tight + more as usize;
        self.bound
    }

    /// Whether a group with puts may be written, given that `debt` documents wait to be linked. `has_waited`: there was
    /// no room before; `may_gather`: the group may be delayed so that more writes join it.
    fn room(
        &mut self,
        now: Instant,
        cost: &SearchCost,
        debt: usize,
        has_waited: bool,
        may_gather: bool,
    ) -> Room {
        let bound = self.bound(now, cost, debt);
        let free = bound.saturating_sub(debt);
        let least = if has_waited { bound.div_ceil(ROOM_PARTS) } else { 1 };
        if free < least {
            return Room::None;
        }
        let over = (debt as f64 / bound as f64 - GATHER_FROM) / (1.0 - GATHER_FROM);
        match may_gather && !has_waited && over > 0.0 {
            true => Room::Soon(GATHER_MAX.mul_f64(over.min(1.0))),
            false => Room::Puts(free),
        }
    }

    /// Expected wait of a put for room. `ahead` documents, staged ones included, wait to be linked; `backlog` documents
    /// are in the log's backlog.
    fn wait(&self, now: Instant, ahead: usize, backlog: usize) -> Duration {
        let each = self.link.get();
        let still = self.linked.map_or(0.0, |linked| {
            let still = now.saturating_duration_since(linked).as_nanos() as f64;
            if still > each * STILL { still } else { 0.0 }
        });
        let over = (ahead + 1).saturating_sub(self.bound);
        match over {
            0 => Duration::ZERO,
            _ => Duration::from_nanos((each * (over + backlog) as f64 + still) as u64),
        }
    }

    /// Notes that a document was linked.
    pub(super) fn note_linked(&mut self, now: Instant) {
        if let Some(before) = self.linked.replace(now) {
            self.link.note(now.saturating_duration_since(before).as_nanos() as f64);
        }
    }

    /// Notes that no document waits to be linked.
    pub(super) fn note_idle(&mut self) {
        self.linked = None;
    }
}

/// Refuses a put that would have to wait longer than `max`.
fn check_wait(wait: Duration, max: Duration) -> Result<()> {
    if wait <= max { Ok(()) } else { Err(too_long(wait)) }
}

/// The next action of a shard's commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing can be written: wait for a staged write or for room.
    Wait,
    /// Wait this long for more writes.
    Gather(Duration),
    /// Write the staged writes, with at most this many puts.
    Write(usize),
}

impl Shard {
    /// The next action of the commit. Writes other than puts need no room, but keep their order.
    pub(super) fn next_write(&self, core: &Core, may_gather: bool) -> Next {
        let Some(is_put) = self.staged.borrow().front().map(|write| write.puts() > 0) else {
            self.waits_for_room.set(false);
            return Next::Wait;
        };
        if self.is_closing.get() {
            return Next::Write(usize::MAX);
        }
        let has_waited = self.waits_for_room.replace(false);
        match self.room(core, has_waited, may_gather && is_put) {
            Room::Puts(puts) => Next::Write(puts),
            Room::Soon(time) => Next::Gather(time),
            Room::None if !is_put => {
                self.waits_for_room.set(has_waited);
                Next::Write(0)
            }
            Room::None => {
                self.waits_for_room.set(true);
                self.counters.writes_paced.add(u64::from(!has_waited));
                Next::Wait
            }
        }
    }

    fn room(&self, core: &Core, has_waited: bool, may_gather: bool) -> Room {
        let debt = self.engine.borrow().as_ref().map_or(0, |engine| engine.debt());
        let mut pace = self.pace.borrow_mut();
        pace.room(Instant::now(), &core.search_cost, debt, has_waited, may_gather)
    }

    /// Wakes a commit that waits for room once there is some.
    pub(super) fn tell_room(&self, core: &Core) {
        if self.waits_for_room.get() && self.room(core, true, false) != Room::None {
            self.staged_event.raise();
        }
    }

    /// The bound of this shard's debt now. Publishes it for the core's shares and for metrics.
    pub(super) fn debt_bound(&self, core: &Core) -> usize {
        let now = Instant::now();
        let debt = self.engine.borrow().as_ref().map_or(0, |engine| engine.debt());
        let bound = self.pace.borrow_mut().bound(now, &core.search_cost, debt);
        self.counters.hot_documents_bound.set(bound as u64);
        self.counters.writes_waiting.set(self.staged.borrow().len() as u64);
        self.insert_wait(now);
        bound
    }

    /// Refuses a put that would have to wait too long.
    pub(super) fn check_pace(&self, write: &Write) -> Result<()> {
        if !matches!(write, Write::Put { .. }) {
            return Ok(());
        }
        let wait = self.insert_wait(Instant::now());
        let checked = check_wait(wait, self.pace.borrow().wait_max());
        checked.inspect_err(|_| self.counters.inserts_shed.add(1))
    }

    /// Expected wait of an insert that arrives now; published for the router.
    fn insert_wait(&self, now: Instant) -> Duration {
        let of = |engine: &Engine| (engine.unlinked_count(), engine.hot_count() - engine.debt());
        let (ahead, backlog) = self.engine.borrow().as_ref().map_or((0, 0), of);
        let pace = self.pace.borrow();
        let wait = pace.wait(now, ahead, backlog);
        let told = if wait <= pace.wait_max() { 0 } else { wait.as_millis() as u64 };
        self.counters.insert_wait_ms.set(told);
        wait
    }
}

/// CPU shares of linking and other upkeep. Small while the hot tier is small, larger towards the bound of the debt, so
/// that writers are not left waiting for good, and equal to those of searches at the soft limit, which only a backlog
/// of the log exceeds for long.
pub(super) struct HotShares {
    pub(super) soft_max: usize,
    /// Documents in the hot tiers of this core.
    pub(super) hot: Cell<usize>,
    /// Sum of the debt bounds of the shards of this core.
    pub(super) bound: Cell<usize>,
}

impl HotShares {
    pub(super) fn new(soft_max: usize) -> Self {
        Self { soft_max, hot: Cell::new(0), bound: Cell::new(soft_max) }
    }
}

/// Interpolates from `min` to `max` as `hot` goes from 0 to `full`.
fn between(min: usize, max: usize, hot: usize, full: usize) -> usize {
    min + hot.min(full) * (max - min) / full.max(1)
}

impl SharesManager for HotShares {
    fn shares(&self) -> usize {
        let hot = self.hot.get();
        let by_bound = between(UPKEEP_SHARES_MIN, UPKEEP_SHARES_AT_BOUND, hot, self.bound.get());
        by_bound.max(between(UPKEEP_SHARES_MIN, UPKEEP_SHARES_MAX, hot, self.soft_max))
    }

    fn adjustment_period(&self) -> Duration {
        SHARES_PERIOD
    }
}

#[cfg(test)]
#[path = "pacing_tests.rs"]
mod tests;
