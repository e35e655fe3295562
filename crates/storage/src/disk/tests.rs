//! One suite for both disks: what the log builds on must hold on the real one and the simulated.

use super::blocking::BlockingDisk;
use super::conformance::conformance;
use super::sim::{Crash, SimDisk, run};
use super::*;

#[test]
fn the_simulated_disk_conforms() {
    run(conformance(SimDisk::default()));
}

#[test]
fn the_blocking_disk_conforms() {
    let binary = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
    run(conformance(BlockingDisk::new(directory.path())));
}

#[test]
fn a_crash_of_the_simulated_disk_keeps_synced_writes() {
    let disk = SimDisk::default();
    run(async {
        let file = disk.create("a", 4 * BLOCK as u64).await.unwrap();
        file.write_at(vec![1; BLOCK], 0).await.unwrap();
        assert!(disk.after(Crash::Nothing).list().await.unwrap().is_empty());
        disk.sync_dir().await.unwrap();
        file.sync_data().await.unwrap();
        file.write_at(vec![2; BLOCK], 0).await.unwrap();
    });
    let first = |crash| disk.after(crash).content("a")[..BLOCK].to_vec();
    assert_eq!(first(Crash::Nothing), [1; BLOCK]);
    assert_eq!(first(Crash::Everything), [2; BLOCK]);
    assert_eq!(disk.unsynced_sectors(), 8);
    assert_eq!(first(Crash::Only(3))[3 * 512..4 * 512], [2; 512]);
    assert_eq!(first(Crash::Only(3))[..3 * 512], [1; 3 * 512]);
    assert_eq!(first(Crash::Without(0))[..1024], [[1; 512], [2; 512]].concat());
}
