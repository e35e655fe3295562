//! Checks the files of a running server: complete segments of the logs and snapshots, as
//! `--verify-wal` does with those of a stopped one, file by file and at a bounded rate. The segment
//! that is being written is left out.
//!
//! A thread of its own reads, past the page cache and with the lowest priority. Files come and go
//! meanwhile: MANIFEST is read before each one, and one that it no longer names is no loss.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};

use super::http::Pages;
use super::pages::Parameters;
use crate::clock::unix_ms;
use crate::disk::folders::Folders;
use crate::disk::read_only::{ReadOnlyDisk, ReadOnlyFile};
use crate::disk::view::{Remote, View, Viewed, run};
use crate::disk::{DiskError, Kind, blocks};
use crate::manifest::{Manifest, Segment};
use crate::observe::Observed;
use crate::observe::scrub::Scrub;
use crate::snapshot::snapshot_name;
use crate::types::ShardId;
use crate::verify::{check_sealed, check_snapshot_file};

/// Bytes a second that are read unless an operator says otherwise, and bounds of what may be said.
const BYTES_PER_SECOND: u64 = 32 << 20;
const MIB_PER_SECOND_MAX: u64 = 1 << 16;

/// Longest rest before another look at whether it is to end.
const REST_MAX: Duration = Duration::from_millis(50);

/// Niceness of the thread: others that want the processor come first.
const NICE_MAX: i32 = 19;

/// What a read says that was not begun because the check is to end.
const STOPPED: &str = "the check is to end";

/// `GET`: how far it is. `POST`: begins or ends it.
pub(super) async fn scrub(pages: State<Arc<Pages>>, parameters: Parameters) -> Response {
    let Query(asked) = &parameters;
    let scrub = &pages.observed.scrub;
    let rate = match asked.get("mib_per_second").map(|text| text.parse::<u64>()) {
        None => BYTES_PER_SECOND,
        Some(Ok(mib)) if (1..=MIB_PER_SECOND_MAX).contains(&mib) => mib << 20,
        Some(_) => {
            let why = format!("mib_per_second is a whole number from 1 to {MIB_PER_SECOND_MAX}");
            return refuse(StatusCode::BAD_REQUEST, &why);
        }
    };
    match asked.get("state").map(String::as_str) {
        Some("start") => {
            if pages.shards.get().is_none() {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server is starting");
            }
            if scrub.is_running.swap(true, Ordering::AcqRel) {
                return refuse(StatusCode::CONFLICT, "a check is under way: one at a time");
            }
            scrub.wants_stop.store(false, Ordering::Release);
            let (observed, data_dir) = (pages.observed.clone(), pages.data_dir.clone());
            let thread = std::thread::Builder::new().name("kyro-scrub".into());
            if let Err(error) = thread.spawn(move || check(&observed, &data_dir, rate)) {
                scrub.is_running.store(false, Ordering::Release);
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
            }
        }
        Some("stop") => scrub.wants_stop.store(true, Ordering::Release),
        _ => return refuse(StatusCode::BAD_REQUEST, "say ?state=start or ?state=stop"),
    }
    Json(state(scrub)).into_response()
}

/// How far it is.
pub(super) async fn page(State(pages): State<Arc<Pages>>) -> Response {
    Json(state(&pages.observed.scrub)).into_response()
}

fn refuse(code: StatusCode, why: &str) -> Response {
    (code, Json(json!({ "error": why }))).into_response()
}

fn state(scrub: &Scrub) -> Value {
    let is_running = scrub.is_running.load(Ordering::Acquire);
    let state = match (is_running, scrub.wants_stop.load(Ordering::Acquire)) {
        (false, _) => "idle",
        (true, false) => "running",
        (true, true) => "stopping",
    };
    json!({
        "state": state,
        "files_wanted": scrub.files_wanted.get(),
        "files_checked": scrub.files_done.get(),
        "bytes_checked_total": scrub.bytes.get(),
        "damages": scrub.damages.get(),
        "damaged": scrub.told(),
        "completed_unix_ms": scrub.completed_unix_ms.get(),
    })
}

/// Says that the check is over, however it ends.
struct Ends<'a>(&'a Scrub);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
}

/// One file that MANIFEST names.
enum Piece<'a> {
    Segment(&'a Segment),
    Snapshot(ShardId, u64),
}

impl Piece<'_> {
    fn name(&self) -> String {
        match self {
            Self::Segment(segment) => segment.file.clone(),
            Self::Snapshot(shard, number) => snapshot_name(*shard, *number),
        }
    }
}

/// All complete files that MANIFEST names.
fn pieces(manifest: &Manifest) -> Vec<Piece<'_>> {
    let sealed = manifest.segments.iter().filter(|segment| segment.sealed.is_some());
    let snapshots: BTreeSet<(u32, u64)> = manifest
        .snapshots
        .iter()
        .flat_map(|made| made.files.iter().chain([&made.number]).map(|&file| (made.shard, file)))
        .collect();
    let snapshots =
        snapshots.into_iter().map(|(shard, file)| Piece::Snapshot(ShardId(shard), file));
    sealed.map(Piece::Segment).chain(snapshots).collect()
}

fn check(observed: &Arc<Observed>, data_dir: &Path, bytes_per_second: u64) {
    let scrub = &observed.scrub;
    let _ends = Ends(scrub);
    // Of this thread alone: Linux has a niceness for each.
    let set = rustix::process::setpriority_process(None, NICE_MAX);
    tracing::debug!(?set, "priority of the check");
    let begun = Instant::now();
    let before = scrub.bytes.get();
    tracing::info!(bytes_per_second, "the check of the files begins");
    let checked = Check {
        observed: observed.clone(),
        data_dir: data_dir.to_owned(),
        pace: Rc::new(RefCell::new(Pace { begun, bytes: 0, bytes_per_second })),
        damages: Vec::new(),
    }
    .run();
    let bytes = scrub.bytes.get() - before;
    match checked {
        Ok(damages) => {
            scrub.tell(&damages);
            scrub.completed_unix_ms.set(unix_ms());
            let seconds = begun.elapsed().as_secs();
            tracing::info!(
                files = scrub.files_done.get(),
                bytes,
                damages = damages.len(),
                seconds,
                "the check of the files is complete"
            );
        }
        Err(why) => tracing::warn!(bytes, "the check of the files has ended early: {why}"),
    }
}

struct Check {
    observed: Arc<Observed>,
    data_dir: PathBuf,
    pace: Rc<RefCell<Pace>>,
    damages: Vec<String>,
}

impl Check {
    /// All damages, or why it ended before.
    fn run(mut self) -> Result<Vec<String>, String> {
        let mut done = BTreeSet::new();
        let observed = self.observed.clone();
        loop {
            if observed.scrub.wants_stop.load(Ordering::Acquire) {
                return Err("an operator has stopped it".into());
            }
            let manifest = self.manifest()?;
            let pieces = pieces(&manifest);
            let left = pieces.iter().filter(|piece| !done.contains(&piece.name())).count();
            observed.scrub.files_wanted.set((done.len() + left) as u64);
            let Some(piece) = pieces.iter().find(|piece| !done.contains(&piece.name())) else {
                return Ok(self.damages);
            };
            self.look(&manifest, piece)?;
            done.insert(piece.name());
            observed.scrub.files.add(1);
            observed.scrub.files_done.set(done.len() as u64);
        }
    }

    fn manifest(&self) -> Result<Manifest, String> {
        let disk = ReadOnlyDisk::new(&self.data_dir);
        let manifest = run(Manifest::load(&disk)).map_err(|error| error.to_string())?;
        manifest.ok_or_else(|| "there is no MANIFEST".into())
    }

    fn look(&mut self, manifest: &Manifest, piece: &Piece<'_>) -> Result<(), String> {
        let name = piece.name();
        let file = match ReadOnlyFile::open(&Folders::of(&self.data_dir).find(&name), &name) {
            Ok(file) => file,
            Err(error) if error.kind == Kind::NotFound => {
                // It may have been dropped a moment ago, and by the book.
                let now = self.manifest()?;
                if pieces(&now).iter().any(|piece| piece.name() == name) {
                    self.note(format!("{name}: the file is missing, but MANIFEST names it"));
                }
                return Ok(());
            }
            Err(error) => {
                self.note(format!("{name}: {}", error.reason));
                return Ok(());
            }
        };
        let bytes = file.bytes().map_err(|error| error.to_string())?;
        let paced = Paced { file, observed: self.observed.clone(), pace: self.pace.clone() };
        let mut view = View::default();
        view.put(Viewed::remote(Rc::new(paced), &name, bytes));
        let found = match piece {
            Piece::Segment(segment) => run(check_sealed(&view, manifest, segment)),
            Piece::Snapshot(shard, number) => run(check_snapshot_file(&view, *shard, *number)),
        };
        match found {
            Ok(faults) => {
                for fault in faults {
                    let at = fault.offset.map(|offset| format!(" at byte {offset}"));
                    self.note(format!("{name}{}: {}", at.unwrap_or_default(), fault.what));
                }
            }
            Err(DiskError { reason, .. }) if reason == STOPPED => {}
            Err(error) => self.note(format!("{name}: it can't be read: {}", error.reason)),
        }
        Ok(())
    }

    /// Tells of a damage at once: the rest may take hours.
    fn note(&mut self, what: String) {
        tracing::error!("the check of the files has found damage: {what}");
        self.damages.push(what);
        self.observed.scrub.tell(&self.damages);
    }
}

/// How much was read since when.
struct Pace {
    begun: Instant,
    bytes: u64,
    bytes_per_second: u64,
}

impl Pace {
    /// How long to rest after what was read.
    fn rest(&self) -> Duration {
        let due = Duration::from_secs_f64(self.bytes as f64 / self.bytes_per_second as f64);
        due.saturating_sub(self.begun.elapsed())
    }
}

/// A file that is read at a pace, and no further once the check is to end.
struct Paced {
    file: ReadOnlyFile,
    observed: Arc<Observed>,
    pace: Rc<RefCell<Pace>>,
}

impl Remote for Paced {
    fn read(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<(), String> {
        let scrub = &self.observed.scrub;
        let read = crate::disk::File::read_at(&self.file, offset, blocks(bytes), target);
        run(read).map_err(|error| error.reason)?;
        scrub.bytes.add(bytes as u64);
        self.pace.borrow_mut().bytes += bytes as u64;
        loop {
            if scrub.wants_stop.load(Ordering::Acquire) {
                return Err(STOPPED.into());
            }
            let rest = self.pace.borrow().rest();
            if rest.is_zero() {
                return Ok(());
            }
            std::thread::sleep(rest.min(REST_MAX));
        }
    }
}
