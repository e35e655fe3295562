//! Results of system calls: io_uring, O_DIRECT, duration of a sync, free space.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::tree::Tree;
use crate::config::PersistenceSection;
use crate::disk::folders::{Folders, LOG_LINK_NAME};
use crate::disk::owner::{TooOpen, too_open};
use crate::disk::space::Room;
use crate::shard::preflight;
use crate::status::process::disk_bytes;
use crate::types::limits::BLOCK;

/// Most writes that are measured, and most time for them.
const SYNCS_MAX: usize = 400;
const SYNCS_LENGTH_MAX: Duration = Duration::from_secs(4);

/// Size of the file that is written to repeatedly.
const FILE_BYTES: usize = 1 << 20;

/// Results of the system calls.
pub struct Probes {
    /// The data directory, or its nearest existing parent; absolute, without symbolic links.
    pub directory: PathBuf,
    /// Whether io_uring can be used, or why not.
    pub io_uring: Result<(), String>,
    /// Whether a file there can be opened with O_DIRECT and written.
    pub direct_io: Result<(), String>,
    /// Times of a write of 4 KiB and its fdatasync.
    pub syncs: Result<Syncs, String>,
    /// Space on the file system.
    pub room: Result<Room, String>,
    /// Size of the files of the data directory, in bytes.
    pub data_bytes: u64,
    /// Whether others than the owner and the group may enter the data directory.
    pub too_open: Option<TooOpen>,
    /// The directory of the log, if it is not the data directory.
    pub log: Option<LogProbe>,
    /// `/proc/stat` before the probes.
    pub stat_before: Option<String>,
}

/// Probes of the directory of the log.
pub struct LogProbe {
    /// Its path, existing or not.
    pub directory: PathBuf,
    /// Times of a write of 4 KiB and its fdatasync there.
    pub syncs: Result<Syncs, String>,
    /// Space on its file system.
    pub room: Result<Room, String>,
}

impl LogProbe {
    fn take(directory: PathBuf) -> Self {
        let syncs = open(&directory).and_then(|file| measured(&file));
        let room = Room::of(&directory).map_err(|error| error.to_string());
        Self { directory, syncs, room }
    }
}

/// Times of a write and its sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syncs {
    /// Number of measurements.
    pub count: usize,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

impl Probes {
    /// Takes the probes.
    ///
    /// # Errors
    /// If there is no directory to check.
    pub fn take(tree: &Tree, persistence: &PersistenceSection) -> Result<Self, String> {
        let data_dir = &persistence.data_dir;
        let shown = data_dir.display();
        let absolute =
            std::path::absolute(data_dir).map_err(|error| format!("{shown}: {error}"))?;
        let nearest = absolute.ancestors().find(|path| path.symlink_metadata().is_ok());
        let nearest = nearest.ok_or_else(|| format!("{shown}: there is nothing above it"))?;
        let directory = nearest.canonicalize().map_err(|error| format!("{shown}: {error}"))?;
        if !directory.is_dir() {
            let nearest = nearest.display();
            return Err(format!("{nearest} is no directory: choose another one with --data-dir"));
        }
        let stat_before = tree.text("proc/stat");
        let opened = open(&directory);
        let direct_io = opened.as_ref().map(drop).map_err(Clone::clone);
        let syncs = opened.and_then(|file| measured(&file));
        let log = Folders::of(data_dir).log().map(Path::to_owned);
        // A log inside the data directory is created by the server, on that file system.
        let inner = absolute.join(LOG_LINK_NAME);
        let asked = persistence.wal_dir.clone();
        let asked = asked.filter(|asked| std::path::absolute(asked).ok() != Some(inner));
        let log = log.or(asked).map(LogProbe::take);
        Ok(Self {
            io_uring: preflight::check_io_uring(),
            direct_io,
            syncs,
            room: Room::of(&directory).map_err(|error| error.to_string()),
            data_bytes: if nearest == absolute { disk_bytes(&directory) } else { 0 },
            too_open: if nearest == absolute { too_open(&directory) } else { None },
            log,
            stat_before,
            directory,
        })
    }
}

/// An unnamed file, opened with O_DIRECT: however this process ends, no file is left.
fn open(directory: &Path) -> Result<File, String> {
    let path = directory.join(format!("doctor.{}.tmp", std::process::id()));
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create_new(true).custom_flags(flags).open(&path);
    if let Err(error) = &opened
        && error.kind() == io::ErrorKind::InvalidInput
    {
        // The file system creates the file before it refuses the flag.
        let _ = std::fs::remove_file(&path);
        return Err("the file system has no O_DIRECT".into());
    }
    let file = opened.map_err(|error| format!("no file can be made there: {error}"))?;
    std::fs::remove_file(&path).map_err(|error| format!("no file can be removed: {error}"))?;
    let first = aligned(BLOCK, |block| file.write_all_at(block, 0));
    first.map_err(|error| format!("it can't be written with O_DIRECT: {error}"))?;
    Ok(file)
}

fn measured(file: &File) -> Result<Syncs, String> {
    measure(file).map_err(|error| format!("a write or its fdatasync failed: {error}"))
}

/// Times writes as the log makes them: a block into allocated space, and its sync.
fn measure(file: &File) -> io::Result<Syncs> {
    aligned(FILE_BYTES, |zeros| file.write_all_at(zeros, 0))?;
    file.sync_all()?;
    let begun = Instant::now();
    let mut times = Vec::with_capacity(SYNCS_MAX);
    aligned(BLOCK, |block| {
        while times.len() < SYNCS_MAX && begun.elapsed() < SYNCS_LENGTH_MAX {
            let offset = times.len() * BLOCK % FILE_BYTES;
            let started = Instant::now();
            file.write_all_at(block, offset as u64)?;
            file.sync_data()?;
            times.push(started.elapsed());
        }
        io::Result::Ok(())
    })?;
    Ok(summary(times))
}

fn summary(mut times: Vec<Duration>) -> Syncs {
    times.sort_unstable();
    let count = times.len();
    let at = |percent: usize| {
        let index = (count * percent).div_ceil(100).saturating_sub(1);
        times.get(index).copied().unwrap_or_default()
    };
    Syncs { count, p50: at(50), p99: at(99) }
}

/// Calls `act` with `bytes` zeros at an address that O_DIRECT accepts.
fn aligned<T>(bytes: usize, act: impl FnOnce(&[u8]) -> T) -> T {
    let memory = vec![0; bytes + BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    act(&memory[start..start + bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_measurements() {
        let ms = Duration::from_millis;
        let syncs = summary((1..=200).rev().map(ms).collect());
        assert_eq!(syncs, Syncs { count: 200, p50: ms(100), p99: ms(198) });
        assert_eq!(summary(vec![ms(7)]), Syncs { count: 1, p50: ms(7), p99: ms(7) });
    }

    #[test]
    fn this_host_answers_and_nothing_is_left_behind() {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let tree = Tree::new(Path::new("/"));
        let log = directory.path().join("log");
        let mut persistence = PersistenceSection {
            data_dir: directory.path().join("a/b"),
            wal_dir: Some(log.clone()),
            ..PersistenceSection::default()
        };
        let probes = Probes::take(&tree, &persistence).unwrap();
        assert!(probes.log.is_some_and(|log| log.syncs.is_err() && log.room.is_err()));
        std::fs::create_dir(&log).unwrap();
        let probes = Probes::take(&tree, &persistence).unwrap();
        assert!(probes.log.is_some_and(|log| log.syncs.is_ok() && log.room.is_ok()));
        std::fs::remove_dir(&log).unwrap();
        persistence.wal_dir = None;
        let probes = Probes::take(&tree, &persistence).unwrap();
        assert!(probes.log.is_none());
        assert_eq!(probes.directory, directory.path().canonicalize().unwrap());
        assert_eq!((&probes.io_uring, &probes.direct_io), (&Ok(()), &Ok(())));
        let syncs = probes.syncs.unwrap();
        assert!(syncs.count > 0 && syncs.p50 > Duration::ZERO && syncs.p99 >= syncs.p50);
        assert!(probes.room.unwrap().total > 0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_no_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let tree = Tree::new(Path::new("/"));
        let persistence = PersistenceSection { data_dir: file, ..PersistenceSection::default() };
        let message = Probes::take(&tree, &persistence).err().unwrap();
        assert!(message.contains("file is no directory"), "{message}");
    }
}
