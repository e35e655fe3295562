//! Writers wait, searches do not: how far linking may be behind the log.
//!
//! A search scans the documents that are not linked yet, beside its walk. So the documents of a
//! shard that wait to be linked, its *debt*, have a bound, and a group of the log has no more puts
//! than keep the debt within it:
//!
//! | Searches on the core | Bound of the debt of a partition, in documents |
//! |---|---|
//! | within `SEARCHED_WITHIN` | scanned in `SCAN_PER_WALK` of the time of a walk, both as measured; `ROWS_MIN` to `ROWS_MAX` |
//! | none | half of `cache.capacity` |
//!
//! Every owner of a partition has an equal part. When searches begin, the bound goes from the debt
//! of that moment down to the smaller one within `TIGHTEN`, and writers go on meanwhile.
//!
//! A put that would wait longer than `WAIT_MAX`, or than `WAIT_SEARCHED_MAX` beside searches, by the pace
//! of linking, is refused before it is staged; the answer says when to try again. Nothing waits here, and nothing is held: the commit
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

/// A scan of the debt takes at most this share of the time of a walk.
const SCAN_PER_WALK: f64 = 0.5;

/// The fewest and the most documents of a partition that may wait while there are searches,
/// whatever was measured.
const ROWS_MIN: usize = 256;
const ROWS_MAX: usize = 2_048;

/// What measurements begin from: one row of a scan, one walk, and linking one document.
const ROW_NS: f64 = 100.0;
const WALK_NS: f64 = 150_000.0;
const LINK_NS: f64 = 1_000_000.0;

/// A scan of fewer documents says little about the time of one.
const MEASURED_ROWS: u64 = 64;

/// What a new measurement adds to its average, and the most it may say, in averages: a thread that
/// was interrupted measures the interruption.
const WEIGHT: f64 = 1.0 / 32.0;
const OUTLIER: f64 = 4.0;

/// So long after a search others are expected.
const SEARCHED_WITHIN: Duration = Duration::from_secs(10);

/// From the first search on, so long until the bound is that of searches.
const TIGHTEN: Duration = Duration::from_secs(4);

/// Without searches, the bound is this part of the number at which the engine refuses writes,
/// which is twice `cache.capacity`.
const QUIET_PART: usize = 4;

/// From this share of the bound on, a group gathers, up to this long at the bound: larger groups
/// interrupt linking less.
const GATHER_FROM: f64 = 0.5;
const GATHER_MAX: Duration = Duration::from_millis(5);

/// A commit that has waited for room goes on when one part in this many of the bound is free:
/// groups of one document each would cost a sync each.
const ROOM_PARTS: usize = 8;

/// The longest a put may have to wait for room, by the pace of linking, where there are no searches.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(1);

/// The longest beside searches: writes that wait hold streams of connections that searches need too.
const WAIT_SEARCHED_MAX: Duration = Duration::from_millis(100);

/// Bounds of the time after which a refused put may be sent again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Linking that has not moved for this many times what a document takes stands still.
const STILL: f64 = 16.0;

/// Share of the processor that upkeep gets beside searches and commits, of 1000: at least, and
/// where the debt is at its bound. The second is what linking has left where searches want all
/// of the core: more would be taken from them.
const UPKEEP_SHARES_MIN: usize = 100;
const UPKEEP_SHARES_AT_BOUND: usize = 250;
const UPKEEP_SHARES_MAX: usize = 1_000;

/// How often glommio asks for the shares.
const SHARES_PERIOD: Duration = Duration::from_millis(50);

/// Of this many inserts that the router refuses for a shard, one is sent to it all the same, so that
/// what it says is never out of date for good.
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

/// What searches of a core cost, as they measure it themselves.
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
    /// A search begins.
    pub(super) fn note_asked(&self, now: Instant) {
        self.asked.set(Some(now));
    }

    /// A search without a filter took this long to scan `rows` documents that were not linked, and
    /// to walk; both in nanoseconds.
    pub(super) fn note(&self, hot_ns: u64, rows: u64, walk_ns: u64) {
        if rows >= MEASURED_ROWS {
            self.row.note(hot_ns as f64 / rows as f64);
        }
        if walk_ns > 0 {
            self.walk.note(walk_ns as f64);
        }
    }

    /// Documents of a partition that searches may have to scan.
    fn rows(&self) -> usize {
        let rows = SCAN_PER_WALK * self.walk.get() / self.row.get();
        (rows as usize).clamp(ROWS_MIN, ROWS_MAX)
    }

    pub(super) fn is_searched(&self, now: Instant) -> bool {
        let since = self.asked.get().map(|asked| now.saturating_duration_since(asked));
        since.is_some_and(|since| since < SEARCHED_WITHIN)
    }
}

/// Refuses an insert into a shard whose core has said that it would wait too long: the core need not
/// be asked for each of them.
///
/// # Errors
/// If it has to be refused.
pub fn check_insert(counters: &ShardCounters) -> Result<()> {
    let wait = Duration::from_millis(counters.insert_wait_ms.get());
    // By inserts judged here, not by those refused: those that pass change nothing before the core
    // has taken them out of its mailbox, and it would be flooded meanwhile.
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
    /// With this many puts, at most.
    Puts(usize),
    /// After this time, in which more may gather.
    Soon(Duration),
    /// Not before some documents are linked.
    None,
}

/// The pace at which one shard takes writes.
pub(super) struct Pace {
    /// Shards that own its graph.
    owners: usize,
    /// The bound without searches, in documents.
    quiet: usize,
    /// The bound when it was last asked for.
    bound: usize,
    /// Searches go on since then, when this was the debt.
    searched: Option<(Instant, usize)>,
    /// Time from one document linked to the next, while there are more.
    link: Average,
    /// When the last one was; `None` while nothing is to be linked.
    linked: Option<Instant>,
}

impl Pace {
    /// Of a shard that is one of `owners` of its graph, and refuses writes at `refused_at` documents.
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

    /// The bound when it was last asked for.
    pub(super) fn last_bound(&self) -> usize {
        self.bound
    }

    /// The longest that a put may have to wait now.
    fn wait_max(&self) -> Duration {
        if self.searched.is_some() { WAIT_SEARCHED_MAX } else { WAIT_MAX }
    }

    /// Documents that may wait to be linked now, where `debt` do.
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

    /// Whether a group with puts may be written, where `debt` documents wait to be linked. `has_waited`
    /// if there was no room before, `may_gather` if the group may be put off for more to come.
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

    /// How long a put will wait for room that comes when `ahead` documents wait to be linked, those
    /// that are staged included, behind `backlog` of the log.
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

    /// Another document is linked.
    pub(super) fn note_linked(&mut self, now: Instant) {
        if let Some(before) = self.linked.replace(now) {
            self.link.note(now.saturating_duration_since(before).as_nanos() as f64);
        }
    }

    /// Nothing is left to be linked.
    pub(super) fn note_idle(&mut self) {
        self.linked = None;
    }
}

/// Refuses a put that would have to wait longer than `max`.
fn check_wait(wait: Duration, max: Duration) -> Result<()> {
    if wait <= max { Ok(()) } else { Err(too_long(wait)) }
}

/// What the commit of a shard does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing can be written: it waits until something is staged, or there is room.
    Wait,
    /// Lets more writes gather, for this long.
    Gather(Duration),
    /// Writes what is staged, with this many puts at most.
    Write(usize),
}

impl Shard {
    /// What the commit does next. What is not a put needs no room, but its turn.
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

    /// The bound of what waits to be linked in this shard, now. Sets what others see of it.
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

    /// How long an insert that comes now will wait; the router is told.
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

/// Share of the processor that linking and the rest of upkeep get. A small one while the hot tier is
/// small, more of it towards the bound of the debt, so that writers are never left waiting for good,
/// and as much as searches get at the soft limit, which only a backlog of the log exceeds for long.
pub(super) struct HotShares {
    pub(super) soft_max: usize,
    /// Documents in the hot tiers of this core.
    pub(super) hot: Cell<usize>,
    /// The bound of what waits to be linked, of all shards of this core.
    pub(super) bound: Cell<usize>,
}

impl HotShares {
    pub(super) fn new(soft_max: usize) -> Self {
        Self { soft_max, hot: Cell::new(0), bound: Cell::new(soft_max) }
    }
}

/// From `min` to `max` as `hot` goes from 0 to `full`.
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
