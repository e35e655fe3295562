//! Log files that can't be written any more, or are missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kyrodb::proto::SnapshotRequest;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tonic::Code;

use crate::common::{Process, directory, eventually, http, metric, runtime};
use crate::{ONE_SHARD, assert_degraded, assert_healthy, metrics, put, refused, store, stored};

/// A file, or a directory, that no process can change, whatever its privileges and open handles.
struct Frozen(PathBuf);

impl Frozen {
    /// `None`, with a message, if the system does not permit it.
    fn new(path: &Path) -> Option<Self> {
        let frozen = Self(path.to_owned());
        match frozen.set(true) {
            Ok(()) => Some(frozen),
            Err(error) => {
                println!("skipped: {} can't be made immutable: {error}", path.display());
                None
            }
        }
    }

    fn set(&self, is_frozen: bool) -> std::io::Result<()> {
        let file = File::open(&self.0)?;
        let mut flags = ioctl_getflags(&file)?;
        flags.set(IFlags::IMMUTABLE, is_frozen);
        Ok(ioctl_setflags(&file, flags)?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = self.set(false);
        assert!(thawed.is_ok() || std::thread::panicking(), "{thawed:?}");
    }
}

fn segment(data_dir: &Path, number: u64) -> PathBuf {
    data_dir.join(format!("wal_0000_{number:08}.wal"))
}

#[test]
fn a_log_that_can_not_be_written_goes_on_in_another_file() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    let runtime = runtime();
    runtime.block_on(async { store(&mut process.client().await, 5).await });
    let Some(frozen) = Frozen::new(&segment(&data_dir, 1)) else { return };
    runtime.block_on(async {
        let mut client = process.client().await;
        refused(put(&mut client, 6).await, Code::Unavailable);
        assert_degraded(&process, "have failed within the last minute");
        put(&mut client, 7).await.unwrap();
        assert_eq!(stored(&mut client, 7).await, [1, 2, 3, 4, 5, 7]);
    });
    let text = metrics(&process);
    assert_eq!(metric(&text, "kyrodb_wal_writes_failed"), Some(1.0));
    assert_eq!(metric(&text, "kyrodb_wal_retries_total"), Some(1.0));
    assert_eq!(metric(&text, "kyrodb_wal_circuit_breaker_state"), Some(0.0));
    drop(frozen);
    process.kill();
    let mut verify = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let verified = verify.arg("--data-dir").arg(&data_dir).arg("--verify-wal").output().unwrap();
    let said = String::from_utf8_lossy(&verified.stdout);
    assert_eq!(verified.status.code(), Some(0), "{said}");
    let process = Process::start(&data_dir, ONE_SHARD);
    assert_healthy(&process);
    runtime.block_on(async {
        assert_eq!(stored(&mut process.client().await, 7).await, [1, 2, 3, 4, 5, 7]);
    });
    process.stop();
}

#[test]
fn a_directory_that_can_not_be_written_opens_the_breaker() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    let runtime = runtime();
    runtime.block_on(async { store(&mut process.client().await, 5).await });
    let Some(file) = Frozen::new(&segment(&data_dir, 1)) else { return };
    let Some(whole) = Frozen::new(&data_dir) else { return };
    runtime.block_on(async {
        let mut client = process.client().await;
        for id in 6..9 {
            refused(put(&mut client, id).await, Code::Unavailable);
        }
        assert_degraded(&process, "circuit breaker open");
        let left = refused(put(&mut client, 9).await, Code::Unavailable);
        assert!(left > Duration::from_secs(30), "{left:?}");
        assert_eq!(metric(&metrics(&process), "kyrodb_wal_writes_failed"), Some(3.0));
        assert_eq!(stored(&mut client, 9).await, [1, 2, 3, 4, 5]);
        drop((file, whole));
        let reset = http(process.http, "POST", "/admin/circuit-breaker/reset").unwrap();
        assert_eq!(reset.code, 200);
        put(&mut client, 9).await.unwrap();
    });
    process.kill();
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime.block_on(async {
        assert_eq!(stored(&mut process.client().await, 9).await, [1, 2, 3, 4, 5, 9]);
    });
    process.stop();
}

#[test]
fn a_removed_file_of_the_log_comes_back_with_all_that_was_in_it() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    let runtime = runtime();
    runtime.block_on(async { store(&mut process.client().await, 5).await });
    let path = segment(&data_dir, 1);
    std::fs::remove_file(&path).unwrap();
    runtime.block_on(async {
        eventually("the file", async || path.exists()).await;
        eventually("the failure", async || {
            metric(&metrics(&process), "kyrodb_wal_writes_failed") == Some(1.0)
        })
        .await;
        put(&mut process.client().await, 6).await.unwrap();
    });
    process.kill();
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime.block_on(async {
        assert_eq!(stored(&mut process.client().await, 6).await, [1, 2, 3, 4, 5, 6]);
    });
    process.stop();
}

/// An error about a file tells a client its name and the system's message: no folders, no descriptor numbers.
#[test]
fn a_snapshot_that_fails_is_told_of_without_paths() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, 5).await;
        // Blocks the next file names.
        for number in 0..20 {
            let name = format!("snapshot_0000_{number:08}.snap.tmp");
            std::fs::create_dir(data_dir.join(name)).unwrap();
        }
        let status = client.create_snapshot(SnapshotRequest::default()).await.unwrap_err();
        let message = status.message();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(message.contains("snapshot_0000_") && message.contains("(os error "), "{message}");
        assert!(!message.contains('/') && !message.contains("fd:"), "{message}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(!details.contains(data_dir.to_str().unwrap()), "{details}");
    });
    process.kill();
}
