//! Snapshots of a shard, taken while it serves: when one is due, how it is written, and which files it makes
//! dispensable.
//!
//! A snapshot begins between two steps of upkeep, where the state in memory is that of a whole
//! number of groups of the log and no node is half linked. Then a task of its own writes it in
//! the background queue, piece by piece, while everything else goes on. Two are kept, and as much
//! of the log as the older of them needs: if the newer one is found damaged, nothing is lost.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::core::Core;
use super::doing::Doing;
pub use super::due::Due;
use super::due::{Since, waits_for_quiet};
use super::event::Event;
use super::keeper::Change;
use super::reply::{Reply, single};
use super::state::Shard;
use super::task::spawn;
use crate::clock::unix_ms;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::engine::checkpoint::{Checkpoint, Next};
use crate::error::{Error, Result};
use crate::manifest::{Sealed, Segment, Snapshot};
use crate::snapshot::reader;
use crate::snapshot::retain::{self, Retained, Usage};
use crate::snapshot::snapshot_name;
use crate::snapshot::writer::{Identity, Writer, Written, discard};
use crate::types::image::EXTENTS_AT_ONCE;
use crate::types::image::Extent;
use crate::wal::{Position, segment_name};

/// Least changes for which the end of the server takes a snapshot; a start links fewer in some tenths of a second.
const LAST_MUTATIONS_MIN: u64 = 500;

/// Longest wait of the last snapshot for documents to be linked: twice the time in which a core links as many as are
/// left between two snapshots by default.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// Time after a failure before the next attempt that no request asks for.
const RETRY: Duration = Duration::from_secs(30);

/// Result of a requested snapshot.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its file name.
    pub file: String,
    /// Number of documents in it.
    pub documents: u64,
    /// Length of its file in bytes.
    pub bytes: u64,
}

/// Files of a shard as found when it is opened.
pub(super) struct Known {
    pub(super) snapshots: Vec<Snapshot>,
    /// Extents of the newest snapshot, by part and block, and the used bytes of each file.
    pub(super) extents: Vec<Extent>,
    pub(super) usage: Usage,
    /// Number of the next snapshot.
    pub(super) next_snapshot: u64,
    /// Complete segments of the log.
    pub(super) segments: Vec<Segment>,
    pub(super) position: Position,
    pub(super) epoch: u64,
}

/// State of the snapshots of a shard.
pub(super) struct Snapshots {
    epoch: u64,
    /// Changes, bytes of documents in them, and bytes of log, since the last snapshot began.
    mutations: Cell<u64>,
    changed_bytes: Cell<u64>,
    log_bytes: Cell<u64>,
    /// Bytes in use in files of which so little is in use that the next snapshot rewrites it.
    worn_bytes: Cell<u64>,
    /// Bytes of vectors and metadata that the last snapshot wrote.
    documents_bytes: Cell<u64>,
    /// Time of the last snapshot since the start; `None` without one.
    taken: Cell<Option<Instant>>,
    /// Documents that were unlinked at the start and would be at the next one: no snapshot has links of them.
    unlinked: Cell<u64>,
    /// Log position that memory reflects.
    position: Cell<Position>,
    /// Time of the last write to the log.
    written: Cell<Instant>,
    next_number: Cell<u64>,
    is_running: Cell<bool>,
    ended: Event,
    failed: Cell<Option<Instant>>,
    asked: RefCell<Vec<Reply<Result<Taken>>>>,
    live: RefCell<Vec<Snapshot>>,
    /// Extents of the newest snapshot, by part and block, and the files that the next one will not use.
    extents: RefCell<Arc<Vec<Extent>>>,
    worn: RefCell<BTreeSet<u64>>,
    sealed: RefCell<BTreeMap<u64, Sealed>>,
    /// Files to remove once MANIFEST does not name them.
    dispensable: RefCell<Vec<String>>,
}

impl Snapshots {
    pub(super) fn new(known: Known) -> Self {
        let Known { snapshots, extents, usage, next_snapshot, segments, position, epoch } = known;
        // In that order already, as all tables are written.
        let (mut extents, key) = (extents, |extent: &Extent| (extent.part, extent.block));
        if !extents.is_sorted_by_key(key) {
            extents.sort_unstable_by_key(key);
        }
        let sealed = segments.into_iter().filter_map(|s| Some((s.number, s.sealed?))).collect();
        let replayed = snapshots.last().map_or(1, |newest| newest.next_lsn);
        Self {
            epoch,
            mutations: Cell::new(position.next_lsn.0 - replayed),
            changed_bytes: Cell::new(0),
            log_bytes: Cell::new(0),
            worn_bytes: Cell::new(usage.worn_bytes()),
            documents_bytes: Cell::new(0),
            taken: Cell::new(None),
            unlinked: Cell::new(0),
            position: Cell::new(position),
            written: Cell::new(Instant::now()),
            next_number: Cell::new(next_snapshot),
            is_running: Cell::new(false),
            ended: Event::default(),
            failed: Cell::new(None),
            asked: RefCell::default(),
            live: RefCell::new(snapshots),
            extents: RefCell::new(Arc::new(extents)),
            worn: RefCell::new(usage.worn_files()),
            sealed: RefCell::new(sealed),
            dispensable: RefCell::default(),
        }
    }

    /// Notes that `documents` have to be linked after the start, of about `bytes_each` bytes each.
    pub(super) fn note_unlinked(&self, documents: u64, bytes_each: u64) {
        self.unlinked.set(documents);
        self.changed_bytes.set(self.mutations.get() * bytes_each);
    }

    /// Notes that memory reflects the log up to `position`.
    pub(super) fn note_position(&self, position: Position) {
        self.position.set(position);
    }

    /// Notes a logged group: number of records, bytes of log, and bytes of their documents.
    pub(super) fn note_group(&self, records: usize, bytes: u64, changed_bytes: u64) {
        self.mutations.set(self.mutations.get() + records as u64);
        self.changed_bytes.set(self.changed_bytes.get() + changed_bytes);
        self.log_bytes.set(self.log_bytes.get() + bytes);
        self.written.set(Instant::now());
    }

    /// Notes that a segment is complete.
    pub(super) fn note_sealed(&self, number: u64, sealed: Sealed) {
        self.sealed.borrow_mut().insert(number, sealed);
    }

    /// Asks for a snapshot of the present state.
    pub(super) fn ask(&self, reply: Reply<Result<Taken>>) {
        self.asked.borrow_mut().push(reply);
    }

    /// Refuses requested snapshots that have not begun.
    pub(super) fn refuse(&self, error: &Error) {
        for reply in self.asked.take() {
            reply.send(Err(error.clone()));
        }
    }

    /// Forgets the segments that snapshots cover, and returns their numbers.
    pub(super) fn drop_covered(&self) -> Vec<u64> {
        let mut sealed = self.sealed.borrow_mut();
        let covered = retain::covered(&self.live.borrow(), &sealed);
        sealed.retain(|number, _| !covered.contains(number));
        covered
    }

    /// Takes the list of files to remove.
    pub(super) fn take_dispensable(&self) -> Vec<String> {
        self.dispensable.take()
    }

    /// Puts back files that could not be removed.
    pub(super) fn give_back_dispensable(&self, names: Vec<String>) {
        self.dispensable.borrow_mut().extend(names);
    }

    /// Complete segments that are kept, their bytes, and the first LSN that is needed.
    pub(super) fn log_kept(&self) -> (usize, u64, u64) {
        let sealed = self.sealed.borrow();
        let bytes = sealed.values().map(|sealed| sealed.end_bytes).sum();
        (sealed.len(), bytes, retain::needed_from(&self.live.borrow()))
    }

    /// True while a snapshot is being written.
    pub(super) fn is_running(&self) -> bool {
        self.is_running.get()
    }

    /// True if a caller that waits for a snapshot may expect one: snapshots are enabled and do not fail.
    pub(super) fn are_taken(&self, due: Due) -> bool {
        due.mutations > 0 && self.failed.get().is_none()
    }

    /// True if a snapshot will be due once the shard has been quiet for a while.
    pub(super) fn waits_for_quiet(&self, engine: &Engine) -> bool {
        let mutations = self.mutations.get().max(self.unlinked.get());
        waits_for_quiet(engine.live_count() as u64, mutations)
    }

    fn is_due(&self, due: Due, engine: &Engine) -> bool {
        if !self.asked.borrow().is_empty() {
            return true;
        }
        if self.failed.get().is_some_and(|failed| failed.elapsed() < RETRY) {
            return false;
        }
        let since = Since {
            mutations: self.mutations.get(),
            changed_bytes: self.changed_bytes.get(),
            log_bytes: self.log_bytes.get(),
            unlinked: self.unlinked.get(),
            live: engine.live_count() as u64,
            would_write: engine.bytes_to_save() as u64 + self.worn_bytes.get(),
            quiet_for: self.written.get().elapsed(),
            is_linking: engine.hot_count() > 0,
            last: self.taken.get().map(|taken| taken.elapsed()),
            is_pressed: engine.is_pressed_to_save(),
        };
        since.is_due(due)
    }
}

impl Shard {
    /// Begins a snapshot if one is due and the state in memory is consistent.
    pub(super) fn try_snapshot(self: &Rc<Self>, core: &Rc<Core>) {
        let snapshots = &self.snapshots;
        // Until the directory is open, the MANIFEST that was found has yet to be written.
        let may_begin = core.is_open.get() && !snapshots.is_running.get();
        if !may_begin || self.is_closing.get() || self.check_readable().is_err() {
            return;
        }
        let mut engine = self.engine.borrow_mut();
        let Some(engine) = &mut *engine else {
            for reply in snapshots.asked.take() {
                reply.send(Ok(Taken { file: String::new(), documents: 0, bytes: 0 }));
            }
            return;
        };
        let is_whole = engine.applied().next() == snapshots.position.get().next_lsn;
        let due = core.settings.snapshots;
        if !is_whole || !engine.may_checkpoint() || !snapshots.is_due(due, engine) {
            return;
        }
        let piece = core.heart.doing.begin(Doing::Snapshot);
        let before = snapshots.extents.borrow().clone();
        let checkpoint = engine.begin_checkpoint(before, snapshots.worn.borrow().clone());
        drop(piece);
        let number = snapshots.next_number.get();
        let identity = Identity {
            shard: self.id,
            number,
            epoch: snapshots.epoch,
            position: snapshots.position.get(),
            unix_ms: unix_ms(),
        };
        snapshots.next_number.set(number + 1);
        let (mutations, log_bytes) = (snapshots.mutations.take(), snapshots.log_bytes.take());
        let changed_bytes = snapshots.changed_bytes.take();
        let is_linked = engine.hot_count() == 0;
        snapshots.is_running.set(true);
        let asked = snapshots.asked.take();
        let (core, shard) = (core.clone(), self.clone());
        let rewrites = self.rewrites.get();
        spawn(core.queues.upkeep, async move {
            let taking = take(&core, &shard, identity, rewrites, checkpoint);
            let taking = core.heart.doing.during(Doing::Snapshot, taking);
            let taken = AssertUnwindSafe(taking).catch_unwind().await.unwrap_or_else(|_| {
                shard.fence("a snapshot panicked");
                Err(Error::Internal("internal server panic".into()))
            });
            let snapshots = &shard.snapshots;
            if taken.is_ok() && is_linked {
                snapshots.unlinked.set(0);
            }
            if taken.is_ok() {
                let written_bytes = snapshots.documents_bytes.take();
                shard.counters.snapshot_written_bytes.add(written_bytes);
                shard.counters.snapshot_changed_bytes.add(changed_bytes);
            } else {
                snapshots.changed_bytes.set(snapshots.changed_bytes.get() + changed_bytes);
                snapshots.mutations.set(snapshots.mutations.get() + mutations);
                snapshots.log_bytes.set(snapshots.log_bytes.get() + log_bytes);
            }
            shard.snapshots.is_running.set(false);
            shard.snapshots.ended.raise();
            // Another request may have come meanwhile.
            core.upkeep.raise();
            for reply in asked {
                reply.send(taken.clone());
            }
        });
    }

    /// Links unlinked documents and takes a snapshot, if the next start would otherwise have much to do.
    ///
    /// # Errors
    /// If the snapshot fails.
    pub(super) async fn settle(self: &Rc<Self>, core: &Rc<Core>) -> Result<()> {
        self.end_snapshots().await;
        // A snapshot that was running may have begun when much of its contents was unlinked.
        let hot = self.engine.borrow().as_ref().map_or(0, Engine::hot_count) as u64;
        let changed = self.snapshots.mutations.get().max(self.snapshots.unlinked.get()).max(hot);
        let is_worth_it = changed >= LAST_MUTATIONS_MIN;
        if core.settings.snapshots.mutations == 0 || !is_worth_it {
            return Ok(());
        }
        self.check_readable()?;
        let (linked, reply) = single();
        core.flush(self.id, false, reply);
        let linked = async { Ok(linked.one().await) };
        if glommio::timer::timeout(LINK_PATIENCE, linked).await.is_err() {
            tracing::warn!(shard = self.id.0, "documents are left to be linked at the next start");
        }
        let (taken, reply) = single();
        self.snapshots.ask(reply);
        core.upkeep.raise();
        match taken.one().await {
            Some(taken) => taken.map(drop),
            None => Err(Error::unavailable("the shard is gone")),
        }
    }

    /// Makes reads of vectors on disk use the files of the newest snapshot, in slices. MANIFEST names that snapshot, or
    /// its next version does; until then the files of the one before stay.
    ///
    /// # Errors
    /// If a vector can't be read from there: then no file may be removed.
    pub(super) async fn note_named(&self) -> Result<(), String> {
        let mut extents = self.snapshots.extents.borrow().clone();
        let mut start = 0;
        while start < extents.len() {
            // Another snapshot may have become the newest, and files of this one may be removed.
            let newest = self.snapshots.extents.borrow().clone();
            if !Arc::ptr_eq(&extents, &newest) {
                (extents, start) = (newest, 0);
                continue;
            }
            let end = extents.len().min(start + EXTENTS_AT_ONCE);
            if let Some(engine) = &mut *self.engine.borrow_mut() {
                engine.note_named(&extents[start..end])?;
            }
            start = end;
            glommio::executor().yield_if_needed().await;
        }
        Ok(())
    }

    /// Waits until no snapshot is being written.
    pub(super) async fn end_snapshots(&self) {
        while self.snapshots.is_running.get() {
            self.snapshots.ended.wait().await;
        }
    }
}

/// Takes a snapshot, and removes files that it makes dispensable.
async fn take(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    identity: Identity,
    rewrites: u64,
    mut checkpoint: Checkpoint,
) -> Result<Taken> {
    let begun = Instant::now();
    let mut written = write(core, shard, identity, &mut checkpoint).await;
    if written.is_ok()
        && let Err(why) = shard.wait_durable(identity.position, rewrites).await
    {
        remove(&*core.disk, [snapshot_name(identity.shard, identity.number)].into_iter()).await;
        written = Err(why.into());
    }
    let shape = checkpoint.shape();
    let kept = match written {
        Ok(written) => publish(core, shard, identity, &checkpoint, written).await,
        Err(why) => Err(why),
    };
    let mut engine = shard.engine.borrow_mut();
    let engine = engine.as_mut().expect("a snapshot began in it");
    match kept {
        Ok(bytes) => {
            engine.end_checkpoint(checkpoint);
            shard.snapshots.failed.set(None);
            shard.snapshots.taken.set(Some(Instant::now()));
            shard.counters.is_snapshot_failing.store(false, Ordering::Relaxed);
            shard.counters.snapshots.add(1);
            shard.counters.snapshot_bytes.add(bytes);
            let took_ms = begun.elapsed().as_millis() as u64;
            let (shard, lsn) = (shard.id.0, identity.position.next_lsn.0 - 1);
            tracing::info!(shard, lsn, documents = shape.live, bytes, took_ms, "a snapshot");
            let file = snapshot_name(identity.shard, identity.number);
            Ok(Taken { file, documents: shape.live.into(), bytes })
        }
        Err(why) => {
            engine.abandon_checkpoint(checkpoint);
            shard.snapshots.failed.set(Some(Instant::now()));
            if shard.is_closing.get() {
                return Err(Error::unavailable("the server is shutting down"));
            }
            shard.counters.snapshot_failures.add(1);
            shard.counters.is_snapshot_failing.store(true, Ordering::Relaxed);
            tracing::warn!(shard = shard.id.0, "no snapshot: {why}");
            Err(Error::unavailable(format!("shard {}: no snapshot: {why}", shard.id.0)))
        }
    }
}

/// Writes the file, durable under its name; MANIFEST does not name it yet.
async fn write(
    core: &Rc<Core>,
    shard: &Shard,
    identity: Identity,
    checkpoint: &mut Checkpoint,
) -> Result<Written, String> {
    let disk = &*core.disk;
    let mut documents_bytes = 0;
    let written = async {
        let mut writer = Writer::begin(disk, identity).await.map_err(|e| e.to_string())?;
        let (mut base, mut unread): (Option<Vec<u8>>, _) = (None, None);
        loop {
            if shard.is_closing.get() || shard.check_readable().is_err() {
                return Err("the shard is closing".to_owned());
            }
            let next = checkpoint.next_over(
                shard.engine.borrow().as_ref().expect("it began in it"),
                base.take().as_deref(),
            );
            let next = next.map_err(|why| match unread.take() {
                Some(error) => format!("{why} ({error})"),
                None => why,
            });
            match next? {
                Next::Done => break,
                Next::More => {}
                Next::Piece(piece) => {
                    if piece.part.is_carried() {
                        documents_bytes += piece.bytes.len() as u64;
                    }
                    let put = writer.put(disk, piece.part, piece.block, &piece.bytes).await;
                    put.map_err(|error| error.to_string())?;
                }
                Next::Read(extent) => {
                    let read = reader::content(disk, identity.shard, &extent).await;
                    let (content, failure) = read.map_err(|error| error.to_string())?;
                    (base, unread) = (Some(content), failure);
                }
            }
            core.give_way().await;
        }
        let finished = writer.finish(disk, checkpoint.shape(), checkpoint.carried()).await;
        finished.map_err(|error| error.to_string())
    }
    .await;
    match &written {
        Ok(_) => shard.snapshots.documents_bytes.set(documents_bytes),
        Err(_) => discard(disk, identity).await,
    }
    written
}

/// Makes MANIFEST name the snapshot, then removes dispensable files. Returns the length of its file in bytes.
async fn publish(
    core: &Rc<Core>,
    shard: &Shard,
    identity: Identity,
    checkpoint: &Checkpoint,
    written: Written,
) -> Result<u64, String> {
    let snapshots = &shard.snapshots;
    let usage = Usage::of(&*core.disk, &written.extents).await;
    let Identity { shard: id, number, position, .. } = identity;
    let snapshot = Snapshot {
        shard: id.0,
        number,
        file: snapshot_name(id, number),
        next_lsn: position.next_lsn.0,
        chain: position.chain,
        file_bytes: written.file_bytes,
        files: usage.files(number),
    };
    let before = snapshots.live.borrow().clone();
    let retained = retain::retain(before, snapshot.clone(), &snapshots.sealed.borrow());
    let Retained { live, snapshots: dropped_snapshots, segments: dropped_segments, files } =
        retained;
    let change = Change::Snapshotted {
        snapshot,
        dropped_snapshots,
        dropped_segments: dropped_segments.clone(),
    };
    // If MANIFEST can't be written, its next version names the snapshot: it has to be dropped in its turn, and until
    // then no file is removed.
    snapshots.live.replace(live);
    snapshots.extents.replace(Arc::new(written.extents));
    snapshots.worn.replace(usage.worn_files());
    snapshots.worn_bytes.set(usage.worn_bytes());
    snapshots.sealed.borrow_mut().retain(|number, _| !dropped_segments.contains(number));
    let names = files.into_iter().map(|number| snapshot_name(id, number));
    let segments = dropped_segments.into_iter().map(|number| segment_name(id, number));
    snapshots.dispensable.borrow_mut().extend(names.chain(segments));
    core.keep(change).await?;
    // Before a file is removed, no vector may be read from it any more.
    if let Err(why) = shard.note_named().await {
        tracing::warn!(shard = id.0, "vectors stay in memory, and no file is removed: {why}");
        return Ok(written.file_bytes);
    }
    if let Some(engine) = &mut *shard.engine.borrow_mut() {
        engine.note_saved(checkpoint);
    }
    remove(&*core.disk, snapshots.dispensable.take().into_iter()).await;
    Ok(written.file_bytes)
}

/// Removes files that MANIFEST does not name. A failure costs space until the next start.
pub(super) async fn remove<D: Disk>(disk: &D, names: impl Iterator<Item = String>) {
    for name in names {
        if let Err(error) = disk.remove(&name).await {
            tracing::warn!("space could not be given back: {error}");
        }
    }
}
