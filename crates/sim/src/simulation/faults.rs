//! Every call of the disk fails once, and from there on always: the caller hears of it, nothing acknowledged is lost,
//! serving goes on, and a start finds everything.

use std::rc::Rc;

use super::machine::{Machine, Refusal, SHARDS, watched_disk};
use super::script::{LENGTH, perform};
use super::{Known, Told, is_wide};
use crate::disk::sim::{Crash, Fault, SimDisk};
use crate::disk::{DiskError, Kind};

/// Faults, and whether they persist.
const FAULTS: [(Fault, bool); 6] = [
    (Fault::Fails(Kind::Failed), false),
    (Fault::Fails(Kind::Failed), true),
    (Fault::Partly(Kind::Failed), false),
    (Fault::Partly(Kind::Failed), true),
    (Fault::Fails(Kind::NoSpace), false),
    (Fault::Fails(Kind::NoSpace), true),
];

/// Calls that need room.
const GROWING: [&str; 4] = ["create", "begin", "write", "rename"];

fn kind(fault: Fault) -> Kind {
    match fault {
        Fault::Fails(kind) | Fault::Partly(kind) => kind,
        Fault::Crash => unreachable!("a crash is no failure"),
    }
}

fn plan(disk: &SimDisk, call: u64, (fault, is_sticky): (Fault, bool)) {
    if is_sticky { disk.fault_from(call, fault) } else { disk.fault_at(call, fault) }
}

fn fresh() -> Vec<Known> {
    vec![Known::default(); SHARDS as usize]
}

/// Checks that the error that a client is told is the fault that happened.
fn check(error: &DiskError, fault: Fault) {
    assert!(error.reason.starts_with("injected"), "{error}");
    assert_eq!(error.kind, kind(fault), "{error}");
}

/// A machine on which the script is done but for the failed steps.
fn run(call: u64, fault: (Fault, bool)) -> (Rc<SimDisk>, Machine) {
    let disk = watched_disk();
    let mut machine = Machine::boot(&disk, &fresh()).expect("a disk that works");
    plan(&disk, disk.calls() + call, fault);
    let mut refused = 0;
    for index in 0..LENGTH {
        if let Err(error) = perform(&mut machine, index, 0) {
            check(&error, fault.0);
            refused += 1;
        }
    }
    assert!(fault.1 || refused <= 1, "one fault has refused {refused} requests");
    (disk, machine)
}

/// Another process on the same disk, which works again; a write on each shard; a crash.
fn start_again(disk: &SimDisk, known: &[Known]) {
    let disk = Rc::new(disk.restarted());
    let start = |disk: &Rc<SimDisk>, known: &[Known]| {
        Machine::boot(disk, known).unwrap_or_else(|why| panic!("refused: {why:?}"))
    };
    let mut machine = start(&disk, known);
    machine.assert_sound();
    go_on(&mut machine);
    for crash in [Crash::Nothing, Crash::Random(disk.calls()), Crash::Random(disk.calls() + 1)] {
        start(&Rc::new(disk.after(crash)), &machine.known());
    }
}

fn go_on(machine: &mut Machine) {
    for index in 0..SHARDS as usize {
        perform(machine, index, 77).expect("a disk that works again");
    }
}

#[test]
fn any_call_of_a_running_machine_may_fail() {
    let reference = watched_disk();
    let mut machine = Machine::boot(&reference, &fresh()).expect("a disk that works");
    let before = reference.calls() as usize;
    for index in 0..LENGTH {
        perform(&mut machine, index, 0).expect("a disk that works");
    }
    let operations = reference.operations().split_off(before);
    let mut runs = 0;
    for (call, operation) in (1..).zip(&operations) {
        for (number, fault) in FAULTS.into_iter().enumerate() {
            let is_meant = kind(fault.0) != Kind::NoSpace || GROWING.contains(operation);
            let is_turn = is_wide() || number == 0 || (call + number as u64).is_multiple_of(4);
            if !is_meant || !is_turn {
                continue;
            }
            let _told = Told(format!("call {call}, {operation}, {fault:?}"));
            let (disk, mut machine) = run(call, fault);
            // Also before anything is mended.
            start_again(&disk, &machine.known());
            disk.mend();
            go_on(&mut machine);
            machine.assert_sound();
            let after = Rc::new(disk.after(Crash::Random(call)));
            Machine::boot(&after, &machine.known()).expect("nothing speaks against it");
            runs += 1;
        }
    }
    println!("{} calls, {runs} runs", operations.len());
    assert!(runs > 500, "{runs}");
}

#[test]
fn any_call_of_a_start_may_fail() {
    let (full, machine) = run(u64::MAX / 2, FAULTS[0]);
    let known = machine.known();
    let mut runs = 0;
    for call in 1.. {
        let mut has_fired = false;
        for fault in FAULTS {
            let _told = Told(format!("call {call}, {fault:?}"));
            let disk = Rc::new(full.restarted());
            plan(&disk, call, fault);
            match Machine::boot(&disk, &known) {
                Ok(machine) => machine.assert_sound(),
                Err(Refusal::Disk(error)) => check(&error, fault.0),
                Err(Refusal::Damage(why)) => panic!("nothing is damaged: {why}"),
            }
            has_fired |= disk.calls() >= call;
            start_again(&disk, &known);
            runs += 1;
        }
        if !has_fired {
            break;
        }
    }
    println!("{runs} runs");
    assert!(runs > 100, "{runs}");
}
