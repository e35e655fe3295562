//! Refusals of a restore: a directory that a running server uses, or existing data without permission; and a dry run,
//! which changes nothing.

use std::path::Path;

use crate::common::{Process, runtime};
use crate::{Place, SETTINGS, assert_contents, assert_says, files, snapshot, succeeds};

#[test]
fn a_directory_in_use_is_not_restored_to() {
    let mut place = Place::made(12, 50);
    let id = place.create(&[]);
    let process = Process::start(&place.data_dir(), SETTINGS);
    for more in [&[][..], &["--allow-clear"]] {
        let said = place.fails(&[&["restore", "--backup-id", &id], more].concat());
        assert_says(&said, &["in use by another server", "Stop that one"]);
    }
    // A dry run beside a server checks the backup, and names the options that a restore would need.
    let dry_run = ["restore", "--backup-id", "latest", "--dry-run"];
    let said = place.run(&dry_run);
    let vectors = format!("{} vectors", place.contents.len());
    assert_says(&said, &["Would restore", &id, &vectors, "Nothing was changed"]);
    let before = said.lines().filter(|line| line.starts_with("Before a restore: ")).count();
    assert_eq!(before, 2, "{said}");
    assert_says(&said, &["in use by another server", "not empty", "--allow-clear"]);
    let good = std::fs::read(place.file(&id, "wal_0000")).unwrap();
    crate::flip(&place.file(&id, "wal_0000"), 4_200);
    assert_says(&place.fails(&dry_run), &["wal_0000", "bad checksum"]);
    std::fs::write(place.file(&id, "wal_0000"), good).unwrap();
    place.change(&process, 50);
    process.stop();
    let process = Process::start(&place.data_dir(), SETTINGS);
    assert_contents(&process, &place.contents);
    process.stop();
}

#[test]
fn data_is_replaced_only_where_that_is_allowed() {
    let mut place = Place::made(13, 100);
    let id = place.create(&[]);
    let contents = place.contents.clone();
    let process = Process::start(&place.data_dir(), SETTINGS);
    place.change(&process, 100);
    runtime().block_on(async { snapshot(&mut process.client().await).await });
    process.stop();
    std::fs::write(place.data_dir().join("mine"), "a file of somebody's").unwrap();
    let said = place.fails(&["restore", "--backup-id", &id]);
    assert_says(&said, &["not empty", "--allow-clear", "BACKUP_ALLOW_CLEAR=true", "--data-dir"]);
    let mut command = place.command(&["restore", "--backup-id", &id]);
    crate::fails(command.env("BACKUP_ALLOW_CLEAR", "yes"));
    let process = Process::start(&place.data_dir(), SETTINGS);
    assert_contents(&process, &place.contents);
    process.stop();

    let printed = place.run(&["restore", "--backup-id", &id, "--allow-clear"]);
    assert_says(&printed, &["Restored", &id, "held before is removed"]);
    assert!(!place.data_dir().join("mine").exists());
    let process = Process::start(&place.data_dir(), SETTINGS);
    assert_contents(&process, &contents);
    process.stop();
    let mut command = place.command(&["restore", "--backup-id", &id]);
    succeeds(command.env("BACKUP_ALLOW_CLEAR", "true"));
    let process = Process::start(&place.data_dir(), SETTINGS);
    assert_contents(&process, &contents);
    process.stop();
    // Directory, backups, and two logs of each server.
    let names = std::fs::read_dir(place.directory.path()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
}

#[test]
fn an_empty_directory_needs_no_permission() {
    let place = Place::made(14, 30);
    let id = place.create(&[]);
    let target = place.path("target");
    std::fs::create_dir(&target).unwrap();
    // As left by a server that refused to start.
    std::fs::write(target.join("LOCK"), "77\n").unwrap();
    let process = place.restored("target", &["--backup-id", &id]);
    assert_contents(&process, &place.contents);
    process.stop();
    // A restore would remove the backups that it restores from.
    let inside = place.path("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::rename(place.backup_dir(), inside.join("backups")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
    command.args(["restore", "--allow-clear", "--backup-id", &id, "--data-dir"]).arg(&inside);
    let said = crate::fails(command.arg("--backup-dir").arg(inside.join("backups")));
    assert_says(&said, &["the backups are in", "Move them elsewhere"]);
    std::fs::rename(inside.join("backups"), place.backup_dir()).unwrap();
    std::fs::write(place.path("file"), "").unwrap();
    let restore = ["restore", "--backup-id", &id];
    let said = crate::fails(&mut place.command_on(&place.path("file"), &restore));
    assert_says(&said, &["is no directory"]);
}

#[test]
fn a_dry_run_changes_nothing_and_sees_what_a_restore_would() {
    let place = Place::made(15, 80);
    let id = place.create(&[]);
    let before = files(place.directory.path());
    let arguments = ["restore", "--backup-id", &id, "--dry-run"];
    assert_says(&place.run(&arguments), &["Before a restore:", "not empty"]);
    let printed = place.run(&[&arguments[..], &["--allow-clear"]].concat());
    let vectors = format!("{} vectors", place.contents.len());
    let parts = ["Would restore", &id, &vectors, "would be removed", "Nothing was changed"];
    assert_says(&printed, &parts);
    let target = place.path("target");
    succeeds(&mut place.command_on(&target, &arguments));
    assert!(!target.exists());
    assert!(files(place.directory.path()) == before);
    crate::flip(&place.file(&id, "wal_0000"), 4_200);
    let said = crate::fails(&mut place.command_on(&target, &arguments));
    assert_says(&said, &["wal_0000", "bad checksum"]);
}

#[test]
fn a_restore_does_not_destroy_the_backup_that_it_reads() {
    let place = Place::made(22, 60);
    let first = place.create(&[]);
    let second = place.create_on(&first);
    let backups = place.backup_dir();
    let link = place.path("link");
    std::os::unix::fs::symlink(backups.join(&first), &link).unwrap();
    std::os::unix::fs::symlink(&backups, place.path("all")).unwrap();
    let before = files(&backups);
    for (target, why) in [
        (backups.join(&first), "lies in the backup"),
        (backups.join(&second), "lies in the backup"),
        (backups.join(&first).join("usage"), "lies in the backup"),
        (backups.join(&first).join("new/deeper"), "lies in the backup"),
        (backups.join(".").join(&second).join("..").join(&first), "lies in the backup"),
        (place.path("data/../all").join(&first), "lies in the backup"),
        (place.path("missing/../backups").join(&first), "lies in the backup"),
        (link, "lies in the backup"),
        (backups.clone(), "the backups are in"),
        (place.path("all"), "the backups are in"),
        (place.path(""), "the backups are in"),
    ] {
        let restore = ["restore", "--backup-id", &second, "--allow-clear"];
        let said = crate::fails(&mut place.command_on(&target, &restore));
        assert_says(&said, &[why, "--data-dir"]);
        let said =
            succeeds(&mut place.command_on(&target, &[&restore[..], &["--dry-run"]].concat()));
        assert_says(&said, &["Before a restore:", why]);
        assert!(files(&backups) == before, "{}", target.display());
    }
    // A directory beside the backups may be restored to; one that a link leads to is one of them too.
    let process = place.restored("backups/beside", &["--backup-id", "latest"]);
    process.stop();
    let elsewhere = place.path("elsewhere");
    std::fs::rename(backups.join(&first), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, backups.join(&first)).unwrap();
    let restore = ["restore", "--backup-id", &second, "--allow-clear"];
    let said = crate::fails(&mut place.command_on(&elsewhere, &restore));
    assert_says(&said, &["lies in the backup", &first]);
    place.run(&["verify", "latest"]);
}

#[test]
fn backups_in_the_data_directory_are_warned_of_and_never_are_it() {
    let place = Place::made(23, 20);
    let data_dir = place.data_dir();
    let create = |backups: &Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
        command.arg("create").arg("--data-dir").arg(&data_dir).arg("--backup-dir").arg(backups);
        command.output().unwrap()
    };
    let output = create(&data_dir.join("backups"));
    assert_eq!(output.status.code(), Some(0), "{}", crate::said(&output));
    assert_says(&crate::said(&output), &["warning", "are in the data directory", "--backup-dir"]);
    let output = create(&place.path("data/../data"));
    assert_eq!(output.status.code(), Some(1), "{}", crate::said(&output));
    assert_says(&crate::said(&output), &["is the data directory itself", "--backup-dir"]);
}

#[test]
fn numbers_that_no_backup_has_are_refused_at_once() {
    let place = Place::made(24, 60);
    let id = place.create(&[]);
    let record = place.file(&id, "backup.json");
    let good = std::fs::read(&record).unwrap();
    let target = place.path("target");
    for (shards, why) in [
        ("0", "0 shards are not between 1 and 1024"),
        ("1000000000", "1000000000 shards are not between 1 and 1024"),
        ("1", "is of shard 1, and there are 1"),
        ("3", "the number of shards is not that of the files"),
    ] {
        rewrite(&record, "backup", "\"shards\": 2", &format!("\"shards\": {shards}"));
        let restore = ["restore", "--backup-id", &id];
        for said in [
            place.fails(&["verify", &id]),
            crate::fails(&mut place.command_on(&target, &restore)),
            crate::fails(&mut place.command_on(&target, &[&restore[..], &["--dry-run"]].concat())),
        ] {
            assert_says(&said, &[why]);
        }
        assert!(!target.exists());
        std::fs::write(&record, &good).unwrap();
    }
}

/// Changes the text below `key` in a file as another version of the program might have written it.
fn rewrite(path: &Path, key: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let (_, inner) = text.split_once(&format!("\"{key}\":")).unwrap();
    let inner = inner.trim().strip_suffix('}').unwrap();
    assert!(inner.contains(from), "{inner}");
    let inner = inner.replacen(from, to, 1);
    let crc = crc32c::crc32c(inner.as_bytes());
    std::fs::write(path, format!("{{\"crc32c\":\"{crc:08x}\",\"{key}\":{inner}}}\n")).unwrap();
}

#[test]
fn backups_of_a_later_version_are_not_touched() {
    let place = Place::made(21, 30);
    let first = place.create(&[]);
    let second = place.create_on(&first);
    let record = place.file(&second, "backup.json");
    let good = std::fs::read(&record).unwrap();
    let target = place.path("target");
    // The record itself, and the data directory that it is of.
    for (from, to, why) in [
        ("\"version\": 1", "\"version\": 2", "format version 2; this program reads version 1"),
        (
            "\"manifest\": {\n    \"version\": 1",
            "\"manifest\": {\n    \"version\": 9",
            "data directory of format version 9; this program reads version 1",
        ),
    ] {
        rewrite(&record, "backup", from, to);
        let restore = ["restore", "--backup-id", &second, "--allow-clear"];
        for said in [
            place.fails(&["verify", &second]),
            place.fails(&["create", "--incremental", "--reference", &second]),
            place.fails(&restore),
            crate::fails(&mut place.command_on(&target, &restore)),
        ] {
            assert_says(&said, &[&second, why]);
        }
        assert!(!target.exists());
        let output = place.command(&["list"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_says(&crate::said(&output), &["warning", why, &first]);
        let output = place.command(&["prune"]).output().unwrap();
        assert_says(&crate::said(&output), &["can't be read stays", why, "0 removed, 1 kept"]);
        std::fs::write(&record, &good).unwrap();
    }
    place.run(&["verify", &second]);
    // The directory that is to be backed up.
    let manifest = place.data_dir().join("MANIFEST");
    rewrite(&manifest, "manifest", "\"version\": 1", "\"version\": 9");
    let said = place.fails(&["create"]);
    assert_says(&said, &["no backup was made", "format version 9; this program reads version 1"]);
}
