//! Lines of operators' guides that change files of a log by hand, typed by a shell while the server is stopped: a start
//! that loses no document by them succeeds and reports the change.

use kyrodb::proto::SnapshotRequest;

use crate::common::{Process, directory, get, metric_sum, runtime};
use crate::guides::{Line, Shell, started};
use crate::{put, store, stored};

const COUNT: u64 = 30;

const YAML: &str = "runtime:\n  shards: 1\n";

fn count(process: &Process) -> u64 {
    runtime().block_on(async { stored(&mut process.client().await, 2 * COUNT).await })
}

#[test]
fn log_files_that_a_snapshot_has_are_removed() {
    let directory = directory();
    let process = started(directory.path(), YAML);
    runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, COUNT).await;
        let taken = client.create_snapshot(SnapshotRequest::default()).await;
        assert!(taken.unwrap().into_inner().success);
    });
    process.stop();
    let shell = Shell::in_directory(directory.path());
    shell.types(&[Line {
        what: "the log of a server that was stopped is removed",
        typed: "ls data/wal_*.wal && rm data/wal_*.wal",
        code: 0,
        says: &["wal_0000_00000001.wal"],
    }]);
    let process = started(directory.path(), YAML);
    assert_eq!(count(&process), COUNT);
    let log = process.log();
    let told = log.lines().find(|line| line.contains("the file is missing; the snapshot has"));
    assert!(told.is_some_and(|line| line.contains("WARN")), "{log}");
    // The directory continues to work.
    runtime().block_on(async { put(&mut process.client().await, COUNT + 1).await.unwrap() });
    process.kill();
    let process = started(directory.path(), YAML);
    assert_eq!(count(&process), COUNT + 1);
    process.stop();
}

#[test]
fn a_log_is_cut_to_what_the_check_calls_good() {
    let directory = directory();
    let process = started(directory.path(), YAML);
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    process.kill();
    let shell = Shell::in_directory(directory.path());
    shell.types(&[
        Line {
            what: "the end of a log that was being written is lost",
            typed: "head -c 3000 /dev/urandom | dd of=data/wal_0000_00000001.wal bs=4096 seek=31 \
                    conv=notrunc status=none",
            code: 0,
            says: &[],
        },
        Line {
            what: "it is cut where it is good to",
            typed: "good=$(kyrodb_server --data-dir ./data --verify-wal | \
                    awk '$1 == \"wal_0000_00000001.wal\" { print $7 }'); \
                    test $good -gt 4096 && truncate -s $good data/wal_0000_00000001.wal && \
                    kyrodb_server --data-dir ./data --verify-wal",
            code: 0,
            says: &["the file was cut at byte"],
        },
    ]);
    let process = started(directory.path(), YAML);
    // The first 30 blocks behind the header have a document each.
    assert_eq!(count(&process), COUNT);
    let log = process.log();
    let told = log.lines().find(|line| line.contains("where a group ends"));
    assert!(told.is_some_and(|line| line.contains("WARN")), "{log}");
    let metrics = get(process.http, "/metrics").unwrap().1;
    assert_eq!(metric_sum(&metrics, "kyrodb_wal_torn_writes_total"), 1.0);
    process.stop();
    started(directory.path(), YAML).stop();
}
