//! Snapshots, backups and restores to a moment, however the clock of the machine goes.

use std::collections::BTreeSet;

use tempfile::TempDir;

use super::clock::DAY_MS;
use super::machine::{Machine, SHARDS, watched_disk};
use super::script::perform;
use super::{Known, Report, Told, step};
use crate::backup::create::{Create, create};
use crate::backup::restore::{Point, Restore, Restored, restore};
use crate::backup::storage::Storage;
use crate::disk::Disk;
use crate::disk::sim::{SimDisk, run};
use crate::engine::testing::Random;
use crate::types::mix;

/// Possible numbers of documents at the end of this second: in each shard after a group that is the last one, or is
/// followed by a later one. If a clock went forth and back there are several: a log does not have the groups that a
/// snapshot has made dispensable.
fn documents_at(machine: &Machine, second: u64) -> BTreeSet<u64> {
    let in_shard = |history: &[(u64, usize)]| -> Vec<u64> {
        let is_later = |index: usize| history.get(index).is_none_or(|(ms, _)| ms / 1000 > second);
        let before = |index: usize| index.checked_sub(1).map_or(0, |index| history[index].1 as u64);
        (0..=history.len()).filter(|&index| is_later(index)).map(before).collect()
    };
    let [first, other] = [0, 1].map(|shard| in_shard(&machine.nodes[shard].history));
    first.iter().flat_map(|one| other.iter().map(move |another| one + another)).collect()
}

/// The disk in a directory.
fn written(disk: &SimDisk) -> TempDir {
    let binary = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for name in run(disk.list()).unwrap() {
        std::fs::write(data.join(&name), disk.content(&name)).unwrap();
    }
    directory
}

fn restore_at(storage: &Storage, to: &TempDir, second: u64) -> Result<Restored, String> {
    let asked = Restore { point: Point::Second(second), is_dry_run: true, may_clear: false };
    restore(storage, &to.path().join("target"), &asked)
}

/// The log comes to rest, the clock is set back, and a snapshot is made: its stamp says that it is from before the
/// last group, which it contains.
#[test]
fn a_snapshot_with_a_stamp_before_its_own_groups_is_left_out() {
    let disk = watched_disk();
    let known = vec![Known::default(); SHARDS as usize];
    let mut machine = Machine::boot(&disk, &known).expect("a disk that works");
    let second = machine.clock.now() / 1000 + 3 * DAY_MS / 1000;
    for shard in 0..SHARDS as usize {
        machine.clock.set(second * 1000);
        perform(&mut machine, shard, 0).expect("a disk that works");
        machine.clock.set((second + 100) * 1000);
        machine.seal(shard).expect("a disk that works");
        machine.clock.set((second + 50) * 1000);
        assert!(machine.snapshot(shard, u64::MAX).expect("a disk that works"));
    }
    let directory = written(&disk);
    let storage = Storage::at(&directory.path().join("backups")).unwrap();
    create(&storage, &directory.path().join("data"), Create::default()).unwrap();
    for at in [0, 49, 50, 99, 100] {
        let found = restore_at(&storage, &directory, second + at);
        let expected = machine.documents();
        assert_eq!(found.map(|found| found.vectors), Ok(expected), "{at} seconds after");
    }
}

/// At any behaviour of the clock, the state of a moment is that of each log up to a group after which there is a
/// later one, or there is no such state; never another state, and never damage.
#[test]
fn a_moment_is_the_same_part_of_each_log_however_clocks_go() {
    let (mut restored, mut refused) = (0, 0);
    for seed in 0..60 {
        let _told = Told(format!("seed {seed}"));
        let disk = watched_disk();
        let known = vec![Known::default(); SHARDS as usize];
        let mut machine = Machine::boot(&disk, &known).expect("a disk that works");
        let (mut random, mut report) = (Random(mix(seed)), Report::default());
        for _ in 0..40 + random.below(60) {
            step(&mut machine, &mut random, &mut report).expect("a disk that works");
        }
        let directory = written(&disk);
        let data = directory.path().join("data");
        let storage = Storage::at(&directory.path().join("backups")).unwrap();
        let whole = create(&storage, &data, Create::default()).unwrap();
        assert_eq!(whole.backup.vector_count, machine.documents());
        for _ in 0..12 {
            let history = &machine.nodes[random.below(2) as usize].history;
            let picked = random.below(history.len().max(1) as u64) as usize;
            let Some((written_ms, _)) = history.get(picked) else { continue };
            let second = written_ms / 1000 - random.below(2);
            match restore_at(&storage, &directory, second) {
                Ok(found) => {
                    let possible = documents_at(&machine, second);
                    assert!(possible.contains(&found.vectors), "{} at {second}", found.vectors);
                    restored += 1;
                }
                Err(why) => {
                    let is_known = |text| why.contains(text);
                    assert!(is_known("does not go back") || is_known("no backup in"), "{why}");
                    refused += 1;
                }
            }
        }
    }
    println!("{restored} moments, {refused} refused");
    assert!(restored > 100, "{restored} moments, {refused} refused");
}
