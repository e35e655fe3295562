//! Rate control of writes as a state machine, with invented times and costs.

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Costs of searches that scan 100 documents in a tenth of the time of a walk: 500 in half a walk.
fn searched(now: Instant) -> SearchCost {
    let cost = SearchCost::default();
    (0..400).for_each(|_| cost.note(10_000, 100, 100_000));
    assert_eq!(cost.rows(), 500);
    cost.note_asked(now);
    cost
}

/// A core with one shard that receives puts at a fixed rate and links at a fixed pace. Time passes in steps of a tenth
/// of a millisecond.
struct Core {
    pace: Pace,
    cost: SearchCost,
    now: Instant,
    /// Times of staged puts, documents linked in a step, and the fraction of one carried over.
    staged: std::collections::VecDeque<Instant>,
    links_a_step: f64,
    owed: f64,
    debt: usize,
    waits: bool,
    // Results.
    debt_max: usize,
    accepted: usize,
    refused: Vec<Duration>,
    longest: Duration,
    groups: usize,
}

const STEP: Duration = Duration::from_micros(100);

impl Core {
    fn new(links_a_second: f64) -> Self {
        let now = Instant::now();
        Self {
            pace: Pace::new(1, 20_000),
            cost: searched(now),
            now,
            staged: std::collections::VecDeque::new(),
            links_a_step: links_a_second * STEP.as_secs_f64(),
            owed: 0.0,
            debt: 0,
            waits: false,
            debt_max: 0,
            accepted: 0,
            refused: Vec::new(),
            longest: Duration::ZERO,
            groups: 0,
        }
    }

    /// Offers `offered` puts a second for this many seconds, beside searches.
    fn run(&mut self, offered: f64, seconds: u32) {
        let mut due = 0.0;
        for _ in 0..seconds * 10_000 {
            self.now += STEP;
            self.cost.note_asked(self.now);
            due += offered * STEP.as_secs_f64();
            while due >= 1.0 {
                due -= 1.0;
                self.put();
            }
            self.commit();
            self.link();
        }
    }

    fn put(&mut self) {
        let ahead = self.debt + self.staged.len();
        match check_wait(self.pace.wait(self.now, ahead, 0), self.pace.wait_max()) {
            Ok(()) => self.staged.push_back(self.now),
            Err(Error::Busy { retry_after, .. }) => self.refused.push(retry_after),
            Err(other) => panic!("{other}"),
        }
    }

    fn commit(&mut self) {
        if self.staged.is_empty() {
            self.waits = false;
            return;
        }
        match self.pace.room(self.now, &self.cost, self.debt, self.waits, false) {
            Room::Puts(puts) => {
                let group = self.staged.drain(..puts.min(self.staged.len()));
                for staged in group {
                    self.longest = self.longest.max(self.now.duration_since(staged));
                    self.debt += 1;
                    self.accepted += 1;
                }
                (self.waits, self.groups) = (false, self.groups + 1);
            }
            Room::Soon(_) => unreachable!("it may not gather"),
            Room::None => self.waits = true,
        }
        self.debt_max = self.debt_max.max(self.debt);
    }

    fn link(&mut self) {
        if self.debt == 0 {
            self.owed = 0.0;
            return self.pace.note_idle();
        }
        self.owed += self.links_a_step;
        while self.owed >= 1.0 && self.debt > 0 {
            (self.owed, self.debt) = (self.owed - 1.0, self.debt - 1);
            self.pace.note_linked(self.now);
        }
    }
}

#[test]
fn debt_stays_within_what_searches_may_scan_at_any_rate_of_writes() {
    for offered in [100.0, 900.0, 1_100.0, 2_000.0, 4_000.0, 50_000.0] {
        let mut core = Core::new(1_000.0);
        core.run(offered, 10);
        assert!(core.debt_max <= 500, "{offered} a second: {}", core.debt_max);
        let expected = offered.min(1_000.0) * 10.0;
        assert!(core.accepted as f64 > expected * 0.95, "{offered}: {} accepted", core.accepted);
        // The pace of linking is known within some steps.
        assert!(core.longest < WAIT_MAX + 200 * MS, "{offered}: {:?}", core.longest);
        let is_beyond = offered > 1_000.0 * 1.05;
        assert_eq!(!core.refused.is_empty(), is_beyond, "{offered}: {}", core.refused.len());
        assert!(core.refused.iter().all(|after| (RETRY_MIN..=RETRY_MAX).contains(after)));
        if is_beyond {
            // Beyond the edge, a group has the size of the room it waited for.
            (core.accepted, core.groups) = (0, 0);
            core.run(offered, 5);
            assert!(core.accepted / core.groups >= 500 / ROOM_PARTS / 2, "{} groups", core.groups);
        }
    }
}

#[test]
fn a_burst_up_to_the_bound_is_written_at_once() {
    let mut core = Core::new(1_000.0);
    (0..500).for_each(|_| core.put());
    core.commit();
    assert_eq!((core.accepted, core.groups, core.longest), (500, 1, Duration::ZERO));
    core.put();
    core.commit();
    assert_eq!((core.accepted, core.debt), (500, 500));
}

#[test]
fn without_searches_half_of_the_soft_limit_may_wait_and_searches_tighten_it_slowly() {
    let start = Instant::now();
    let (mut pace, cost) = (Pace::new(1, 20_000), SearchCost::default());
    assert_eq!(pace.bound(start, &cost, 7), 5_000);
    // Searches begin while much waits, and more follow.
    let cost = searched(start);
    let mut last = pace.bound(start, &cost, 4_500);
    assert_eq!(last, 4_500);
    for step in 1..=50 {
        let now = start + 100 * step * MS;
        cost.note_asked(now);
        let bound = pace.bound(now, &cost, 4_500);
        assert!(bound <= last && last - bound <= 110, "{last} to {bound}");
        last = bound;
    }
    assert_eq!(last, 500);
    // Searches end.
    assert_eq!(pace.bound(start + 16_000 * MS, &cost, 300), 5_000);
    // If little waits when searches begin, the bound never exceeds that of searches.
    cost.note_asked(start + 17_000 * MS);
    assert_eq!(pace.bound(start + 17_000 * MS, &cost, 300), 500);
}

#[test]
fn the_bound_follows_the_costs_within_its_limits_and_is_shared_by_owners() {
    let now = Instant::now();
    let bound = |owners, refused_at, row_ns: u64, walk_ns: u64| {
        let cost = SearchCost::default();
        (0..400).for_each(|_| cost.note(100 * row_ns, 100, walk_ns));
        cost.note_asked(now);
        Pace::new(owners, refused_at).bound(now, &cost, 0)
    };
    assert!(bound(1, 20_000, 100, 200_001).abs_diff(1_000) <= 1);
    assert!(bound(4, 5_000, 100, 200_001).abs_diff(250) <= 1);
    assert_eq!(bound(1, 20_000, 1, 1_000_000), ROWS_MAX);
    assert_eq!(bound(1, 20_000, 10_000, 10_000), ROWS_MIN);
    assert_eq!(bound(1, 200, 100, 200_000), 50, "never beyond half of the soft limit");
    assert_eq!(bound(1, 1, 100, 200_000), 1);
}

#[test]
fn an_interruption_does_not_count_as_a_cost() {
    let now = Instant::now();
    let cost = searched(now);
    let rows = cost.rows();
    // The thread was interrupted for 10 ms, in a scan and in a walk.
    cost.note(10_000_000, 100, 100_000);
    assert!(cost.rows() > rows * 9 / 10, "{} of {rows}", cost.rows());
    cost.note(10_000, 100, 10_000_000);
    assert!(cost.rows() < rows * 11 / 10, "{} of {rows}", cost.rows());
    // A scan of few rows is not used.
    let rows = cost.rows();
    cost.note(1_000_000, MEASURED_ROWS - 1, 0);
    assert_eq!(cost.rows(), rows);
}

#[test]
fn a_group_gathers_the_longer_the_nearer_the_bound_is() {
    let now = Instant::now();
    let (mut pace, cost) = (Pace::new(1, 20_000), searched(now));
    let mut room =
        |debt, has_waited, may_gather| pace.room(now, &cost, debt, has_waited, may_gather);
    assert_eq!(room(250, false, true), Room::Puts(250));
    assert_eq!(room(375, false, true), Room::Soon(GATHER_MAX / 2));
    assert_eq!(room(375, false, false), Room::Puts(125));
    assert_eq!(room(499, false, false), Room::Puts(1));
    assert_eq!(room(500, false, true), Room::None);
    // After waiting, a commit continues only when there is room for more than one put.
    assert_eq!(room(499, true, true), Room::None);
    assert_eq!(room(437, true, true), Room::Puts(63));
}

#[test]
fn linking_that_stands_still_is_no_pace() {
    let now = Instant::now();
    let mut core = Core::new(1_000.0);
    core.run(2_000.0, 1);
    let (pace, ahead) = (&core.pace, core.debt + 100);
    assert!(check_wait(pace.wait(core.now, ahead, 0), WAIT_MAX).is_ok());
    assert!(
        check_wait(pace.wait(core.now, ahead, 5_000), WAIT_MAX).is_err(),
        "a backlog comes first"
    );
    let refused = check_wait(pace.wait(core.now + 2 * WAIT_MAX, ahead, 0), WAIT_MAX).unwrap_err();
    let Error::Busy { retry_after, .. } = refused else { panic!("{refused}") };
    assert!(retry_after >= WAIT_MAX && now < core.now, "{retry_after:?}");
}

#[test]
fn upkeep_gets_a_share_at_the_bound_and_more_only_for_a_backlog() {
    let shares = HotShares::new(10_000);
    shares.bound.set(500);
    let of = |hot| {
        shares.hot.set(hot);
        shares.shares()
    };
    assert_eq!(of(0), UPKEEP_SHARES_MIN);
    assert_eq!(of(500), UPKEEP_SHARES_AT_BOUND);
    assert_eq!(of(1_000), UPKEEP_SHARES_AT_BOUND);
    assert_eq!(of(20_000), UPKEEP_SHARES_MAX);
}

#[test]
fn the_router_refuses_what_a_shard_would_and_asks_it_now_and_then() {
    let counters = ShardCounters::default();
    counters.insert_wait_ms.set(0);
    assert!(check_insert(&counters).is_ok());
    counters.insert_wait_ms.set(3_000);
    assert!(check_insert(&counters).is_ok(), "the first is sent");
    let refused: Vec<Error> = (0..15).filter_map(|_| check_insert(&counters).err()).collect();
    assert_eq!(refused.len(), 15);
    let Error::Busy { retry_after, .. } = &refused[0] else { panic!("{refused:?}") };
    assert_eq!(*retry_after, Duration::from_secs(3));
    // The shard receives one in sixteen, and may take it.
    assert!(check_insert(&counters).is_ok() && check_insert(&counters).is_err());
}
