//! A crash at every call of the disk, in every way, and again while the machine starts.

use std::rc::Rc;

use super::machine::{Machine, Refusal, SHARDS, watched_disk};
use super::script::{LENGTH, perform};
use super::{Known, Told, is_wide};
use crate::disk::BLOCK;
use crate::disk::sim::{Crash, Fault, MODES, SECTOR, SimDisk};

/// Of the first crashes, one in this many is followed by a crash at every call of the start.
const NESTED_STEP: u64 = 29;

/// Seeds of the script.
const SEEDS: u64 = 1;
const SEEDS_WIDE: u64 = 20;

fn seeds() -> u64 {
    if is_wide() { SEEDS_WIDE } else { SEEDS }
}

/// Runs the script until the machine stops at this call; `None` if it gets to its end before.
fn run_until(call: u64, seed: u64) -> Option<(Rc<SimDisk>, Vec<Known>)> {
    let disk = watched_disk();
    let fresh = vec![Known::default(); SHARDS as usize];
    disk.fault_at(call, Fault::Crash);
    let mut machine = match Machine::boot(&disk, &fresh) {
        Ok(machine) => machine,
        Err(Refusal::Disk(_)) if disk.is_off() => return Some((disk, fresh)),
        Err(why) => panic!("{why:?}"),
    };
    for index in 0..LENGTH {
        if perform(&mut machine, index, seed).is_err() || disk.is_off() {
            assert!(disk.is_off(), "nothing else fails");
            return Some((disk, machine.known()));
        }
    }
    None
}

/// The disk after a crash in one of the ways; `pick` selects which one if there is a choice.
fn image(disk: &SimDisk, mode: u64, pick: u64) -> Rc<SimDisk> {
    let crash = Crash::mode(mode, pick, disk.pending());
    let sector = if pick.is_multiple_of(2) { SECTOR } else { BLOCK };
    Rc::new(disk.after_torn(crash, sector))
}

/// Starts a machine that has to start, and has it do a step, twice.
fn start_and_go_on(disk: &Rc<SimDisk>, known: &[Known], goes_on: bool) {
    let start = |disk: &Rc<SimDisk>, known: &[Known]| {
        Machine::boot(disk, known).unwrap_or_else(|why| panic!("refused: {why:?}"))
    };
    let mut machine = start(disk, known);
    if !goes_on {
        return;
    }
    machine.assert_sound();
    for index in 0..SHARDS as usize {
        perform(&mut machine, index, 99).expect("a disk that works");
    }
    let after = Rc::new(disk.after(Crash::Nothing));
    start(&after, &machine.known()).assert_sound();
}

#[test]
fn a_crash_at_any_call_loses_nothing() {
    let mut images = 0;
    for seed in 0..seeds() {
        for call in 1.. {
            let Some((disk, known)) = run_until(call, seed) else { break };
            for mode in 0..MODES {
                let _told = Told(format!("seed {seed}, call {call}, mode {mode}"));
                let goes_on = is_wide() || (call + mode) % MODES == 0;
                start_and_go_on(&image(&disk, mode, call * 31 + seed + mode / 2), &known, goes_on);
                images += 1;
            }
        }
    }
    println!("{images} crashes");
    assert!(images > 2_000 * seeds(), "{images}");
}

#[test]
fn a_crash_at_any_call_of_a_start_after_a_crash_loses_nothing() {
    let mut images = 0;
    let step = if is_wide() { 3 } else { NESTED_STEP };
    for first in (5..).step_by(step as usize) {
        let Some((crashed, known)) = run_until(first, 0) else { break };
        for call in 1.. {
            let disk = image(&crashed, first / step, first);
            disk.fault_at(call, Fault::Crash);
            let started = Machine::boot(&disk, &known);
            if !disk.is_off() {
                break;
            }
            // If it has come up, the documents that it has found are the known state.
            let known = started.as_ref().map_or_else(|_| known.clone(), Machine::known);
            drop(started);
            for mode in if is_wide() { 0..MODES } else { call % 3..call % 3 + 2 } {
                let _told = Told(format!("crashes at {first} and {call}, mode {mode}"));
                let mode = if is_wide() { mode } else { mode * 2 };
                start_and_go_on(&image(&disk, mode, call * 7 + first), &known, false);
                images += 1;
            }
        }
    }
    println!("{images} crashes");
    assert!(images > 500, "{images}");
}
