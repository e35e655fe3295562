//! Owners and modes of written files: not readable for all users of the machine, and accessible to the user of the
//! service even if root has written them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Launch, Process, directory, runtime};
use crate::{BLOCK, ONE_SHARD, SETTINGS, assert_says, flip, made, segments, store};

/// An otherwise unused user and group.
const USER: u32 = 4_321;
const GROUP: u32 = 4_322;

/// True if files can be given to the user, and the user can run the program where it is.
fn is_root() -> bool {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let tried = program.arg("--version").uid(USER).gid(GROUP).output();
    let can_run = tried.is_ok_and(|output| output.status.success());
    if !can_run {
        println!("skipped: only root gives files away, and others have to reach the program");
    }
    can_run
}

/// A directory and all its entries.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let (mut open, mut all) = (vec![directory.to_owned()], Vec::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push(path);
    }
    all
}

fn assert_closed(directory: &Path) {
    for path in tree(directory) {
        let metadata = std::fs::metadata(&path).unwrap();
        let (mode, most) = (metadata.mode() & 0o7777, if path.is_dir() { 0o750 } else { 0o640 });
        assert_eq!(mode & !most, 0, "{} has mode {mode:04o}", path.display());
    }
}

/// The command in a shell with a umask.
fn with_umask(umask: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask {umask} && exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell
}

#[test]
fn written_files_are_not_readable_for_all_users_whatever_the_umask() {
    let directory = directory();
    let (data_dir, pid_file) = (directory.path().join("data"), directory.path().join("pid"));
    let settings = [SETTINGS, &[("server.pid_file", pid_file.to_str().unwrap())]].concat();
    let mut launch = Launch::new(&data_dir, &settings);
    launch.command = with_umask("000", &launch.command);
    let mut process = launch.spawn();
    process.wait_ready();
    runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, 20).await;
        let taken = client.create_snapshot(kyrodb::proto::SnapshotRequest::default()).await;
        assert!(taken.unwrap().into_inner().success);
    });
    assert_closed(&data_dir);
    let mode = std::fs::metadata(&pid_file).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o644, "others signal the server by its file");
    assert!(!process.log().contains("is open to all users"), "{}", process.log());
    let (backups, target) = (directory.path().join("backups"), directory.path().join("target"));
    let backup = |arguments: &[&str], data_dir: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
        command.args(arguments).arg("--data-dir").arg(data_dir).arg("--backup-dir").arg(&backups);
        let output = with_umask("000", &command).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    };
    backup(&["create"], &data_dir);
    backup(&["restore", "--backup-id", "latest"], &target);
    assert_closed(&backups);
    assert_closed(&target);
    process.stop();
    // An older directory, or one made by hand, keeps its mode, which is logged.
    std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let process = Process::start(&data_dir, SETTINGS);
    assert_says(&process.log(), &["WARN", "is open to all users", "mode 0755", "chmod 0750"]);
    process.stop();
    // A stricter mode is kept.
    let strict = directory.path().join("strict");
    let mut launch = Launch::new(&strict, SETTINGS);
    launch.command = with_umask("077", &launch.command);
    let mut process = launch.spawn();
    process.wait_ready();
    assert_eq!(std::fs::metadata(strict.join("MANIFEST")).unwrap().mode() & 0o7777, 0o600);
    process.stop();
}

#[test]
fn files_repaired_by_root_belong_to_the_owner_of_the_directory() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, 20);
    flip(&segments(&data_dir)[0], 3 * BLOCK + 100);
    let give = |path: &Path| chown(path, Some(USER), Some(GROUP)).unwrap();
    tree(&data_dir).iter().for_each(|path| give(path));
    // The repair creates it again.
    std::fs::remove_file(data_dir.join("LOCK")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    command.arg("--data-dir").arg(&data_dir).args(["--verify", "--repair"]);
    let output = with_umask("022", &command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(data_dir.join("quarantine").is_dir() && data_dir.join("LOCK").exists());
    for path in tree(&data_dir) {
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (USER, GROUP), "{}", path.display());
    }
    assert_closed(&data_dir);
    // So that the service can start.
    give(directory.path());
    let mut launch = Launch::new(&data_dir, ONE_SHARD);
    launch.command.uid(USER).gid(GROUP);
    let mut process = launch.spawn();
    process.wait_ready();
    process.stop();
}

#[test]
fn files_of_another_user_are_named_with_both_users_and_the_way_out() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, 5);
    chown(directory.path(), Some(USER), Some(GROUP)).unwrap();
    let refused = || {
        let mut launch = Launch::new(&data_dir, ONE_SHARD);
        launch.command.uid(USER).gid(GROUP);
        launch.spawn().refuses()
    };
    let chown_all = format!("chown -R {USER}:{GROUP} {}", data_dir.display());
    let runs_as = format!("runs as user {USER}, group {GROUP}");
    assert_says(&refused(), &["can't be used", "user 0, group 0", &runs_as, &chown_all]);
    for path in tree(&data_dir).iter().filter(|path| !path.ends_with("MANIFEST")) {
        chown(path, Some(USER), Some(GROUP)).unwrap();
    }
    assert_says(&refused(), &["its MANIFEST belongs to user 0", &runs_as, &chown_all]);
}
