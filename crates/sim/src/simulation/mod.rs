//! Whole machines on a simulated disk: shards with their engines, logs and snapshots under one MANIFEST, written to,
//! snapshotted, crashed and damaged as a seed decides, against an oracle that knows every acknowledged change.
//!
//! The code that runs here is the code that serves: engine, graph, store, log, snapshots, recovery and MANIFEST, all
//! over the disk's trait; only the executor is missing. A seed decides everything: one seed is one run, step by step.
//!
//! Beside the seeds there is a fixed piece of work (`script`) that is crashed at every call of the disk in every
//! way (`crashes`), and of which every call fails (`faults`). In all runs that do not test crashes, the disk
//! checks the order in which files become durable (`order`). Clocks go back and forth (`clock`).
//!
//! ```text
//! cargo run --release -p kyrodb-sim -- --seeds 10000             seeds 0 to 9,999
//! cargo run --release -p kyrodb-sim -- --seed 17 --shrink        one seed; if it fails, its shortest failing run
//! KYRODB_SIM_FIRST=10000 KYRODB_SIM_SEEDS=500 cargo test …       the test of this crate with other seeds
//! KYRODB_SIM_SEED=17 cargo test -p kyrodb-sim acknowledged       the test with one seed
//! KYRODB_SIM_WIDE=1 cargo test --release -p kyrodb-sim           more of the script: 20 seeds, all faults at all calls
//! ```

mod change;
mod clock;
#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod crashes;
mod damage;
#[cfg(test)]
mod faults;
mod machine;
mod order;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod script;
mod vectors;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use self::change::Change;
use self::machine::{Machine, Refusal, SHARDS, watched_disk};
use crate::disk::Kind;
use crate::disk::sim::{Crash, Fault, MODES, SECTOR, SimDisk};
use crate::disk::{BLOCK, DiskError};
use crate::engine::testing::{Model, Random};
#[cfg(test)]
use crate::sabotage::{Pillar, switch_off};
use crate::types::mix;

/// Seeds of an ordinary run of the test.
#[cfg(test)]
const SEEDS: u64 = 2_000;

/// Most lives of a machine in one run, and most steps in each.
const LIVES: u64 = 4;
const STEPS: u64 = 120;

/// Most steps of one run, over all lives.
pub const STEPS_MAX: u64 = LIVES * STEPS;

/// The state of a shard known to the oracle: its documents after the acknowledged changes, and their state if the
/// changes under way are there.
#[derive(Clone, Default)]
struct Known {
    acknowledged: Model,
    under_way: Vec<Model>,
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash of every step.
    pub trace: u64,
    /// Groups of changes written.
    pub writes: u64,
    /// Ends of a machine: of the process, or of the power.
    pub crashes: u64,
    /// Snapshots completed.
    pub snapshots: u64,
    /// Number of requests that failed because of the disk.
    pub failures: u64,
    /// Directories damaged on purpose.
    pub damages: u64,
    /// Damaged directories that a start refused.
    pub refused: u64,
}

impl Report {
    fn note(&mut self, what: u64) {
        self.trace = mix(self.trace ^ mix(what));
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.crashes += other.crashes;
        self.snapshots += other.snapshots;
        self.failures += other.failures;
        self.damages += other.damages;
        self.refused += other.refused;
    }
}

/// One run.
struct Run {
    disk: Rc<SimDisk>,
    known: Vec<Known>,
    random: Random,
    report: Report,
    /// Steps that are left before the run ends early.
    steps_left: u64,
}

impl Run {
    fn new(seed: u64, disk: Rc<SimDisk>) -> Self {
        Self {
            steps_left: u64::MAX,
            disk,
            known: vec![Known::default(); SHARDS as usize],
            random: Random(mix(seed)),
            report: Report::default(),
        }
    }

    fn run(mut self) -> Report {
        for _ in 0..1 + self.random.below(LIVES) {
            if self.steps_left > 0 {
                self.live();
            }
        }
        // Whatever happened, everything is there at the end.
        let mut machine = self.boot();
        machine.assert_sound();
        machine.assert_linked();
        self.report.note(machine.documents());
        self.report
    }

    /// Starts a machine that has to start. The state found is the known state from then on.
    fn boot(&mut self) -> Machine {
        match Machine::boot(&self.disk, &self.known) {
            Ok(machine) => {
                self.known = machine.known();
                machine
            }
            Err(why) => panic!("refused without a reason: {why:?}"),
        }
    }

    /// A start, work, and an end.
    fn live(&mut self) {
        // A start may be cut short as well, several times.
        for _ in 0..self.random.below(3) {
            self.arm(60);
            match Machine::boot(&self.disk, &self.known) {
                Ok(machine) => self.known = machine.known(),
                Err(Refusal::Disk(_)) => self.report.failures += 1,
                Err(Refusal::Damage(why)) => panic!("nothing is damaged: {why}"),
            }
            self.crash(false);
        }
        let mut machine = self.boot();
        if self.random.below(2) == 0 {
            self.arm(400);
        }
        let is_whole = self.work(&mut machine);
        let is_sealed = is_whole
            && self.random.below(3) > 0
            && (0..SHARDS as usize).all(|shard| machine.seal(shard).is_ok());
        self.known = machine.known();
        drop(machine);
        self.crash(is_sealed);
        if is_sealed && self.random.below(2) == 0 {
            self.damage();
        }
    }

    /// Some steps, also after failures, unless that was the end; true if nothing has failed.
    fn work(&mut self, machine: &mut Machine) -> bool {
        let mut is_whole = true;
        for _ in 0..self.random.below(STEPS) {
            if self.steps_left == 0 {
                break;
            }
            self.steps_left -= 1;
            let has_failed = self.step(machine).is_err() || self.disk.is_off();
            self.report.failures += u64::from(has_failed);
            is_whole &= !has_failed;
            if has_failed && (self.disk.is_off() || self.random.below(8) == 0) {
                break;
            }
            if !is_whole && self.random.below(4) == 0 {
                self.disk.mend();
            }
        }
        is_whole
    }

    fn step(&mut self, machine: &mut Machine) -> Result<(), DiskError> {
        step(machine, &mut self.random, &mut self.report)
    }

    /// Makes one of the next calls fail, or the power.
    fn arm(&mut self, within: u64) {
        let fault = match self.random.below(6) {
            0 => Fault::Fails(Kind::Failed),
            1 => Fault::Fails(Kind::NoSpace),
            2 => Fault::Partly(Kind::Failed),
            _ => Fault::Crash,
        };
        let call = self.disk.calls() + 1 + self.random.below(within);
        if self.random.below(3) == 0 {
            self.disk.fault_from(call, fault);
        } else {
            self.disk.fault_at(call, fault);
        }
    }

    /// The machine stops: the process alone, or the power.
    fn crash(&mut self, is_sealed: bool) {
        self.report.crashes += 1;
        let pick = self.random.below(u64::MAX);
        let mode = self.random.below(MODES + 2);
        let disk = match mode {
            MODES => self.disk.restarted(),
            // Sealed data is damaged on purpose, afterwards.
            2.. if !is_sealed && self.random.below(3) == 0 => self.torn(2, pick),
            mode => self.torn(mode, pick),
        };
        self.disk = Rc::new(disk);
    }

    fn torn(&mut self, mode: u64, pick: u64) -> SimDisk {
        let sector = if self.random.below(3) == 0 { BLOCK } else { SECTOR };
        self.disk.after_torn(Crash::mode(mode, pick, self.disk.pending()), sector)
    }

    /// Damages files after a clean end: the start is refused, or finds everything.
    fn damage(&mut self) {
        let whole = self.disk.clone();
        let damaged = self.disk.restarted();
        damaged.ignore_order();
        let [Some(what)] = damage::inflict(&damaged, &mut self.random, 1)[..] else { return };
        self.report.damages += 1;
        match Machine::boot(&Rc::new(damaged), &self.known) {
            Ok(machine) => self.report.note(machine.documents()),
            Err(why) => {
                assert!(matches!(why, Refusal::Damage(_)), "{why:?}");
                self.report.refused += 1;
                self.report.note(what);
            }
        }
        // Restored from a copy.
        self.disk = Rc::new(whole.restarted());
    }
}

/// Does one step.
fn step(machine: &mut Machine, random: &mut Random, report: &mut Report) -> Result<(), DiskError> {
    let shard = random.below(u64::from(SHARDS)) as usize;
    let what = random.below(20);
    report.note(what << 8 | shard as u64);
    match what {
        0..10 => {
            report.writes += 1;
            let ids = &machine.nodes[shard].ids;
            // Groups of one sector, and of several.
            let most = if random.below(4) == 0 { 24 } else { 4 };
            let count = 1 + random.below(most);
            let changes = (0..count).map(|_| Change::random(random, ids)).collect();
            machine.write(shard, changes)
        }
        10..13 => {
            machine.link(shard, random.below(60));
            Ok(())
        }
        13 => machine.seal(shard),
        14 => machine.rotate(shard),
        _ => {
            let is_done = machine.snapshot(shard, 1 + random.below(6))?;
            report.snapshots += u64::from(is_done);
            Ok(())
        }
    }
}

/// Reports the state of a run when it panics.
#[cfg(test)]
struct Told(String);

#[cfg(test)]
impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// True if more seeds or faults are asked for than an ordinary run has time for.
#[cfg(test)]
fn is_wide() -> bool {
    setting("KYRODB_SIM_WIDE").is_some_and(|wide| wide > 0)
}

/// The first seed. Many seeds are run in parts, at the same time: each part begins at another seed.
#[cfg(test)]
fn first_seed() -> u64 {
    setting("KYRODB_SIM_FIRST").unwrap_or(0)
}

#[cfg(test)]
fn setting(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// Runs one seed, and at most `steps_max` of its steps; a failed check is a panic.
#[must_use]
pub fn run_steps(seed: u64, steps_max: u64) -> Report {
    Run { steps_left: steps_max, ..Run::new(seed, watched_disk()) }.run()
}

/// Runs one seed, and at most `steps_max` of its steps; `None` if a check fails, which the panic has reported.
#[must_use]
pub fn try_steps(seed: u64, steps_max: u64) -> Option<Report> {
    catch_unwind(AssertUnwindSafe(|| run_steps(seed, steps_max))).ok()
}

/// The least number of steps within which a seed fails; `None` if it does not fail.
#[must_use]
pub fn shrink(seed: u64) -> Option<u64> {
    try_steps(seed, u64::MAX).is_none().then_some(())?;
    // A longer run may pass where a shorter one fails, so each length is tried.
    Some((0..STEPS_MAX).find(|&steps| try_steps(seed, steps).is_none()).unwrap_or(STEPS_MAX))
}

#[cfg(test)]
fn run(seed: u64) -> Report {
    let run = AssertUnwindSafe(|| run_steps(seed, u64::MAX));
    catch_unwind(run).unwrap_or_else(|panic| {
        eprintln!("again with: cargo run --release -p kyrodb-sim -- --seed {seed} --shrink");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn acknowledged_changes_are_kept_and_no_others_appear() {
    if let Some(seed) = setting("KYRODB_SIM_SEED") {
        return println!("{:?}", run(seed));
    }
    let (first, seeds) = (first_seed(), setting("KYRODB_SIM_SEEDS").unwrap_or(SEEDS));
    let mut all = Report::default();
    for seed in first..first + seeds {
        let report = run(seed);
        if seed % 16 == 0 {
            assert_eq!(run(seed), report, "one seed is one run: {seed}");
        }
        all.add(&report);
    }
    println!("{seeds} seeds from {first} on: {all:?}");
    // The events that are meant to happen do.
    assert!(all.writes > 20 * seeds && all.crashes > seeds && all.snapshots > seeds / 2);
    assert!(all.failures > seeds / 2, "{all:?}");
    assert!(all.damages > all.refused && all.refused > all.damages / 5, "{all:?}");
}

/// Test of the test: each step switched off is noticed within `WITHIN` seeds, by the states found after crashes
/// alone.
#[test]
fn each_durability_step_is_missed_when_switched_off() {
    const WITHIN: u64 = 1_000;
    for pillar in [
        Pillar::SyncBeforeAck,
        Pillar::RecordChecksum,
        Pillar::Chain,
        Pillar::LsnGap,
        Pillar::SyncBeforeRename,
    ] {
        switch_off(Some(pillar));
        let run = |seed: u64| Run::new(seed, Rc::new(SimDisk::default())).run();
        let is_noticed = |seed: &u64| catch_unwind(|| run(*seed)).is_err();
        let noticed = (0..WITHIN).find(is_noticed);
        switch_off(None);
        println!("{pillar:?} off: noticed with seed {noticed:?}");
        assert!(noticed.is_some(), "{pillar:?} is not missed");
    }
}
