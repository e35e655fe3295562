//! Damage to backups and to the data directory: it is found and named, and no other data is lost by it.

use std::process::Command;

use crate::common::volume::Volume;
use crate::{Place, assert_says, files, flip};

#[test]
fn a_flipped_bit_in_any_file_of_the_chain_is_found() {
    is_found(Place::new(7));
}

pub(crate) fn is_found(mut place: Place) {
    let process = crate::common::Process::start(&place.data_dir(), crate::SETTINGS);
    place.change(&process, 200);
    crate::common::runtime().block_on(async { crate::snapshot(&mut process.client().await).await });
    place.change(&process, 20);
    let first = place.create(&[]);
    place.change(&process, 20);
    process.stop();
    let second = place.create_on(&first);
    place.run(&["verify", &second]);
    let target = place.path("target");
    let damaged = [
        (place.file(&first, "snapshot_0001"), 5_000, "bad checksum"),
        (place.file(&first, "wal_0000"), 4_300, "bad checksum"),
        (place.file(&second, "wal_"), 60, "bad checksum"),
        (place.file(&first, "backup.json"), 300, "is damaged"),
    ];
    for (path, offset, why) in damaged {
        flip(&path, offset);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let said = place.fails(&["verify", &second]);
        assert_says(&said, &[&second, "can't be restored", &name, why]);
        // The needed copy is its own, or that of its parent.
        if !path.starts_with(place.backup_dir().join(&first)) || !name.starts_with("wal_") {
            let arguments = ["restore", "--backup-id", &second];
            let said = crate::fails(&mut place.command_on(&target, &arguments));
            assert_says(&said, &[&name]);
        }
        assert!(!target.exists());
        flip(&path, offset);
    }
    place.run(&["verify", &second]);
    // Truncated, and missing.
    let path = place.file(&first, "snapshot_0000");
    let content = std::fs::read(&path).unwrap();
    std::fs::write(&path, &content[..content.len() - 4_096]).unwrap();
    assert_says(&place.fails(&["verify", &second]), &["snapshot_0000", "bytes instead of"]);
    std::fs::remove_file(&path).unwrap();
    assert_says(&place.fails(&["verify", &first]), &["snapshot_0000", "o such file"]);
}

#[test]
fn a_damaged_restore_leaves_the_target_as_it_was() {
    let place = Place::made(8, 100);
    let id = place.create(&[]);
    flip(&place.file(&id, "wal_0001"), 4_300);
    let before = files(&place.data_dir());
    let said = place.fails(&["restore", "--backup-id", &id, "--allow-clear"]);
    assert_says(&said, &["wal_0001", "bad checksum"]);
    let mut after = files(&place.data_dir());
    // The lock names the last process that took it.
    after.insert(place.data_dir().join("LOCK"), before[&place.data_dir().join("LOCK")].clone());
    assert!(before == after);
    assert_eq!(std::fs::read_dir(place.directory.path()).unwrap().count(), 3, "nothing is left");
}

#[test]
fn a_missing_parent_is_named() {
    names_parent(Place::new(9));
}

pub(crate) fn names_parent(place: Place) {
    let place = place.filled(50);
    let first = place.create(&[]);
    let second = place.create_on(&first);
    std::fs::rename(place.backup_dir().join(&first), place.path("aside")).unwrap();
    let target = place.path("target");
    let restore = ["restore", "--backup-id", &second];
    for said in [
        place.fails(&["verify", &second]),
        place.fails(&["create", "--incremental", "--reference", &second]),
        crate::fails(&mut place.command_on(&target, &restore)),
    ] {
        assert_says(&said, &[&second, "needs its parent", &first, "Bring"]);
    }
    assert!(!target.exists());
    std::fs::rename(place.path("aside"), place.backup_dir().join(&first)).unwrap();
    place.run(&["verify", &second]);
}

#[test]
fn damage_in_the_data_directory_is_not_backed_up() {
    let place = Place::made(10, 60);
    let segments = || {
        let names = std::fs::read_dir(place.data_dir()).unwrap().map(|e| e.unwrap().path());
        let mut paths: Vec<_> =
            names.filter(|path| path.to_string_lossy().ends_with(".wal")).collect();
        paths.sort();
        paths
    };
    let segment = segments().remove(0);
    flip(&segment, 3 * 4_096 + 100);
    let said = place.fails(&["create"]);
    let name = segment.file_name().unwrap().to_string_lossy().into_owned();
    assert_says(&said, &["no backup was made", &name, "damaged at byte 12288"]);
    flip(&segment, 3 * 4_096 + 100);
    std::fs::rename(&segment, place.path("aside")).unwrap();
    assert_says(&place.fails(&["create"]), &[&name, "is missing, but MANIFEST names it"]);
    assert_eq!(place.list().len(), 0);
    std::fs::rename(place.path("aside"), &segment).unwrap();
    place.create(&[]);
}

/// A full backup directory: here, no file there may exceed 8 KiB.
#[test]
fn a_partly_written_backup_does_not_count() {
    let place = Place::made(11, 300);
    let limited = |trap: &str| {
        let script = format!("{trap} ulimit -f 8; exec \"$0\" \"$@\"");
        let inner = place.command(&["create"]);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(inner.get_program()).args(inner.get_args());
        command.output().unwrap()
    };
    let output = limited("trap '' XFSZ;");
    assert_eq!(output.status.code(), Some(1));
    assert_says(&crate::said(&output), &["no backup was made", "can't be written", "wal_"]);
    let left = || std::fs::read_dir(place.backup_dir()).unwrap().count();
    assert_eq!(left(), 0, "a failure takes away what it has written");
    // A killed process can't clean up.
    assert_eq!(limited("").status.code(), None, "killed by a signal");
    assert_eq!((left(), place.list().len()), (1, 0));
    let id = place.create(&[]);
    place.run(&["verify", &id]);
}

/// A file system without room for the second file.
#[test]
fn a_backup_directory_that_fills_up_half_way_has_no_backup() {
    let place = Place::made(20, 300);
    let Some(volume) = Volume::mount(place.directory.path(), 16 << 20) else { return };
    let large = place.data_dir().join("usage/usage_state.snap");
    std::fs::create_dir(place.data_dir().join("usage")).unwrap();
    std::fs::write(&large, vec![7; 24 << 20]).unwrap();
    let create = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
        command.arg("create").args(arguments).arg("--data-dir").arg(place.data_dir());
        command.arg("--backup-dir").arg(volume.path("backups"));
        command
    };
    let said = crate::fails(&mut create(&[]));
    assert_says(&said, &["no backup was made", "usage_state.snap can't be written", "No space"]);
    let left = || std::fs::read_dir(volume.path("backups")).unwrap().count();
    assert_eq!(left(), 0, "what was written before is taken away");
    std::fs::remove_file(&large).unwrap();
    let printed = crate::succeeds(&mut create(&[]));
    let first = printed.lines().next().unwrap().strip_prefix("Backup ID: ").unwrap();
    std::fs::write(&large, vec![7; 24 << 20]).unwrap();
    let said = crate::fails(&mut create(&["--incremental", "--reference", first]));
    assert_says(&said, &["no backup was made", "No space"]);
    assert_eq!(left(), 1, "the one before it");
    let mut verify = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
    verify.args(["verify", first, "--backup-dir"]).arg(volume.path("backups"));
    assert_says(&crate::succeeds(&mut verify), &[first, "is good"]);
}
