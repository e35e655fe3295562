//! Creation of a backup, beside a running server or a stopped one.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::log::{Cut, cut};
use super::pace::Pace;
use super::progress::Progress;
use super::record::{Backup, Stored, Type, VERSION};
use super::source::{self, Source};
use super::storage::{Draft, Overlap, Storage};
use super::time::{DAY, date};
use super::verify::{Failed, Sums, chain, check_length, head_crc};
use super::{Result, count::count, shards};
use crate::clock::unix_ms;
use crate::disk::view::{View, Viewed, run};
use crate::manifest::{Manifest, Segment};
use crate::snapshot::parse_snapshot_name;
use crate::snapshot::reader::{contents, verify};

/// Options of a backup.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// Description by its maker.
    pub description: String,
    /// The backup to add to; `None` for a full backup.
    pub reference: Option<String>,
    /// Without rests: no server in use is beside it.
    pub is_fast: bool,
}

/// A new backup, and a warning for its maker.
pub struct Created {
    /// The backup.
    pub backup: Backup,
    /// The clock was set back at some time, so the shards could not be cut at one moment.
    pub is_clock_back: bool,
}

/// Makes a backup of a data directory.
///
/// # Errors
/// If the directory or the reference can't be used, or the backup can't be written. Then no part of it is left.
pub fn create(storage: &Storage, data_dir: &Path, create: Create) -> Result<Created> {
    let pace = if create.is_fast { Pace::default() } else { Pace::gentle() };
    if storage.overlap(data_dir) == Overlap::Same {
        return Err(format!(
            "{} is the data directory itself. Say where backups go with --backup-dir PATH.",
            storage.shown()
        ));
    }
    let source = source::open(data_dir)?;
    let source = Source { view: source.view.map(|file| pace.of(file)), ..source };
    let _claim = storage.claim(false)?;
    let parents = match &create.reference {
        Some(id) => chain(storage, &storage.named(id)?)?,
        None => Vec::new(),
    };
    let parent = parents.first();
    if let Some(parent) = parent {
        check_parent(parent, &source.manifest)?;
    }
    let state = State::find(&source, parent)?;
    let id = new_id(source.at_ms);
    let draft = storage.begin(&id, &parents)?;
    let files = copy(storage, &draft, &id, &source, &state, parent)?;
    let vector_count = check(storage, &draft, &id, &files, &state.manifest, &pace)?;
    let own = files.iter().filter(|file| file.backup == id);
    let backup = Backup {
        version: VERSION,
        timestamp: source.at_ms / 1000,
        backup_type: if parent.is_some() { Type::Incremental } else { Type::Full },
        parent_id: parent.map(|parent| parent.id.clone()),
        description: create.description,
        size_bytes: own.map(|file| file.bytes).sum(),
        vector_count,
        checksum: Backup::checksum_of(&files),
        cut_unix_ms: source.at_ms,
        earliest_unix_ms: state.earliest_ms.min(source.at_ms),
        manifest: state.manifest,
        files,
        id,
    };
    draft.publish(&backup)?;
    Ok(Created { backup, is_clock_back: state.is_clock_back })
}

/// An unused name that sorts by time.
fn new_id(unix_ms: u64) -> String {
    let (year, month, day) = date(unix_ms / 1000 / DAY);
    let second = unix_ms / 1000 % DAY;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let random = RandomState::new().hash_one(std::process::id()) & 0xffff;
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{random:04x}")
}

fn check_parent(parent: &Backup, manifest: &Manifest) -> Result<()> {
    let shape = |manifest: &Manifest| (manifest.shards, manifest.distance.clone());
    if shape(&parent.manifest) == shape(manifest) {
        return Ok(());
    }
    Err(format!(
        "backup {} is of another database ({} shards, {}) than the data directory ({} shards, {}). \
         Make a full backup, without --incremental.",
        parent.id,
        parent.manifest.shards,
        parent.manifest.distance,
        manifest.shards,
        manifest.distance
    ))
}

/// The state that is backed up.
pub(super) struct State {
    /// All segments are complete.
    pub(super) manifest: Manifest,
    /// Earliest moment at which its log can be cut, in Unix milliseconds.
    earliest_ms: u64,
    pub(super) is_clock_back: bool,
}

impl State {
    pub(super) fn find(source: &Source, parent: Option<&Backup>) -> Result<Self> {
        let state = Self::up_to(source, parent, source.at_ms)?;
        if !state.is_clock_back {
            return Ok(state);
        }
        // Everything on the disk was written, whatever the clock says.
        Ok(Self { is_clock_back: true, ..Self::up_to(source, parent, u64::MAX)? })
    }

    /// The state at a moment. If the clock was set back, there is no such moment.
    fn up_to(source: &Source, parent: Option<&Backup>, until_ms: u64) -> Result<Self> {
        let (view, listed) = (&source.view, &source.manifest);
        let mut manifest = Manifest { segments: Vec::new(), ..listed.clone() };
        let (mut logs, mut is_clock_back) = (Vec::new(), false);
        for shard in shards(listed) {
            let is_known = |segment: &Segment, file: &Viewed| is_in(parent, segment, file);
            let log = cut(view, shard, &listed.segments, until_ms, is_known);
            let log = log.map_err(|why| explain(why, until_ms))?;
            // A group with a stamp later than now, or in a segment that was complete before the moment.
            is_clock_back |= log
                .later_ms
                .is_some_and(|later_ms| later_ms > unix_ms() || lost_sealed(listed, &log));
            manifest.segments.extend(log.segments.iter().cloned());
            logs.push(log);
        }
        let earliest_ms = earliest_ms(view, listed, &logs)?;
        Ok(Self { manifest, earliest_ms, is_clock_back })
    }
}

fn explain(why: String, until_ms: u64) -> String {
    if until_ms != u64::MAX {
        return why;
    }
    format!(
        "{why}. The clock of this host was set back, so that it may be a write that goes on just \
         now: try again when few writes do, or with the server stopped."
    )
}

/// True if a segment that MANIFEST lists as complete was cut.
fn lost_sealed(listed: &Manifest, log: &Cut) -> bool {
    let Some(shard) = log.first.map(|first| first.shard.0) else { return false };
    let mut sealed = listed.segments.iter().filter(|s| s.shard == shard && s.sealed.is_some());
    sealed.any(|segment| !log.segments.contains(segment))
}

/// True if the backup or its chain has the segment unchanged.
fn is_in(backup: Option<&Backup>, segment: &Segment, file: &Viewed) -> bool {
    let Some(backup) = backup.filter(|backup| backup.manifest.segments.contains(segment)) else {
        return false;
    };
    let stored = backup.file(&segment.file);
    stored.is_some_and(|stored| head_crc(file).is_ok_and(|crc| crc == stored.head_crc32c))
}

/// Earliest moment at which the logs can be cut: from then on all have everything after one of their snapshots, or
/// everything.
fn earliest_ms(view: &View, manifest: &Manifest, logs: &[Cut]) -> Result<u64> {
    let (mut earliest, mut made) = (0, u64::MAX);
    for (shard, log) in shards(manifest).zip(logs) {
        if let Some(first) = log.first
            && first.start == crate::types::position::Position::START
        {
            made = made.min(first.unix_ms);
            continue;
        }
        let ours = manifest.snapshots.iter().filter(|snapshot| snapshot.shard == shard.0);
        if let Some(oldest) = ours.min_by_key(|snapshot| snapshot.number) {
            let contents = run(contents(view, shard, oldest.number));
            let contents = contents.map_err(|error| damaged_snapshot(&error.to_string()))?;
            earliest = earliest.max(contents.header.unix_ms);
        }
    }
    Ok(if earliest == 0 { made } else { earliest })
}

fn damaged_snapshot(why: &str) -> String {
    format!("{why}. Have the server write a new one (CreateSnapshot), and try again.")
}

/// Copies the files that the chain of the parent does not have; returns all files of the backup, by name.
fn copy(
    storage: &Storage,
    draft: &Draft,
    id: &str,
    source: &Source,
    state: &State,
    parent: Option<&Backup>,
) -> Result<Vec<Stored>> {
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for file in wanted(source, &state.manifest)? {
        match stored(parent, &state.manifest, &file)? {
            Some(stored) => {
                storage.open(stored)?;
                files.push(stored.clone());
            }
            None => missing.push(file),
        }
    }
    let progress = Progress::begin("copying", missing.iter().map(Viewed::bytes).sum());
    for file in missing {
        let mut sums = Sums::default();
        draft.write(file.name(), file.bytes(), |put| {
            file.read_all(|piece| -> std::result::Result<(), Failed> {
                sums.add(piece);
                progress.add(piece.len());
                Ok(put(piece)?)
            })
            .map_err(String::from)
        })?;
        files.push(entry(id, file.name(), &sums));
    }
    for (name, bytes) in &source.extras {
        let mut sums = Sums::default();
        sums.add(bytes);
        draft.write(name, bytes.len() as u64, |put| put(bytes))?;
        files.push(entry(id, name, &sums));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn entry(id: &str, name: &str, sums: &Sums) -> Stored {
    Stored {
        name: name.into(),
        bytes: sums.bytes,
        crc32c: sums.crc,
        head_crc32c: sums.head_crc,
        backup: id.into(),
    }
}

/// The files of the state: snapshots, and segments up to their last group.
fn wanted(source: &Source, manifest: &Manifest) -> Result<Vec<Viewed>> {
    let mut wanted = Vec::new();
    for segment in &manifest.segments {
        let file = source.view.get(&segment.file).ok_or("a segment that is not open")?;
        wanted.push(file.cut(segment.sealed.map_or(0, |sealed| sealed.end_bytes)));
    }
    let names = run(crate::disk::Disk::list(&source.view)).map_err(|error| error.to_string())?;
    for name in names.iter().filter(|name| parse_snapshot_name(name).is_some()) {
        wanted.extend(source.view.get(name).cloned());
    }
    Ok(wanted)
}

/// The parent's entry of a file, if the parent or its chain has it with equal bytes.
fn stored<'a>(
    parent: Option<&'a Backup>,
    manifest: &Manifest,
    file: &Viewed,
) -> Result<Option<&'a Stored>> {
    let Some(parent) = parent else { return Ok(None) };
    let Some(stored) = parent.file(file.name()).filter(|s| s.bytes == file.bytes()) else {
        return Ok(None);
    };
    let segment = manifest.segments.iter().find(|segment| segment.file == file.name());
    let is_same_end = segment.is_none_or(|segment| parent.manifest.segments.contains(segment));
    let is_same = is_same_end && head_crc(file)? == stored.head_crc32c;
    Ok(is_same.then_some(stored))
}

/// Checks the written files as a start would, by reading them back; returns the number of documents.
fn check(
    storage: &Storage,
    draft: &Draft,
    id: &str,
    files: &[Stored],
    manifest: &Manifest,
    pace: &Pace,
) -> Result<u64> {
    let _progress = Progress::wait("checking what was copied");
    let mut view = View::default();
    for file in files.iter().filter(|file| file.is_of_a_shard()) {
        let opened =
            if file.backup == id { draft.open(&file.name)? } else { storage.open(file)? };
        check_length(file, opened.bytes())?;
        view.put(pace.of(opened));
    }
    for file in files.iter().filter(|file| file.backup == id) {
        if let Some((shard, number)) = parse_snapshot_name(&file.name) {
            let verified = run(verify(&view, &file.name, shard, number));
            verified.map_err(|error| damaged_snapshot(&error.to_string()))?;
        }
    }
    count(&view, manifest)
}
