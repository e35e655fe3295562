//! The request loop of a core: reads are answered at once, searches run in slices (see [`super::search`]), writes go to
//! the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::select;

use super::core::Core;
use super::doing::Doing;
use super::mailbox::Mailbox;
use super::open::{Refusal, begin, read};
use super::reply::Reply;
use super::request::Request;
use super::stage::{Ack, STAGED_MAX};
use super::state::{Flush, Shard};
use super::sweep::{List, delete_many};
use super::task::{Counted, spawn};
use crate::clock::unix_ms;
use crate::disk::quarantine::KeptTails;
use crate::disk::{Disk, File};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::shard::direct::DirectDisk;
use crate::types::realm::Realm;
use crate::types::{DocId, ShardId};
use crate::wal::reader::Left;

/// Documents read by id between two pauses.
const GET_SLICE: usize = 256;

/// Most reads of documents by id on a core that wait for vectors from disk.
const DISK_GETS_MAX: usize = 1_024;

/// Receives requests until it is told to stop.
pub(super) async fn run(core: Rc<Core>, mailbox: Arc<Mailbox<Request>>) {
    let mut batch = Vec::new();
    loop {
        // Two events end the wait: the sender's wake, and background work that found messages.
        select(pin!(mailbox.receive(&mut batch)), pin!(core.mail.wait())).await;
        let taken = Instant::now();
        // Searches go before writes that came with them; writes keep their order.
        if !batch.is_sorted_by_key(|request| !matches!(request, Request::Search(_))) {
            batch.sort_by_key(|request| !matches!(request, Request::Search(_)));
        }
        for request in batch.drain(..) {
            if matches!(request, Request::Stop) {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| core.handle(request, taken))).is_err() {
                core.fence_all("handling a request panicked");
            }
            glommio::executor().yield_if_needed().await;
        }
    }
}

impl Core {
    fn handle(self: &Rc<Self>, request: Request, taken: Instant) {
        match request {
            Request::Search(request) => self.search(request, taken),
            Request::Get { shard, ids, realm, include_embeddings, reply } => {
                let get = Get { ids, realm, include_embeddings };
                self.get(shard, get, reply);
            }
            Request::Write { shard: id, .. }
            | Request::Load { shard: id, .. }
            | Request::DeleteMany { shard: id, .. } => {
                // A request for a shard that this core does not have is dropped, which tells the sender.
                if let Some(shard) = self.shard(id) {
                    let _piece = self.heart.doing.begin(Doing::Stage);
                    self.write(&shard, request);
                }
            }
            Request::List { shard, filter, after, max, deadline, reply } => {
                if let Some(shard) = self.shard(shard) {
                    self.list(shard, List { filter, after, max, deadline }, reply);
                }
            }
            Request::Flush { shard, only_count, reply } => self.flush(shard, only_count, reply),
            Request::Snapshot { shard, reply } => {
                if let Some(shard) = self.shard(shard) {
                    match shard.check_readable() {
                        Ok(()) => shard.snapshots.ask(reply),
                        Err(error) => reply.send(Err(error)),
                    }
                    self.upkeep.raise();
                }
            }
            Request::Compact { shard, reply } => {
                if let Some(shard) = self.shard(shard) {
                    shard.compact(self, reply);
                }
            }
            Request::Truncate { shard, reply } => {
                if let Some(shard) = self.shard(shard) {
                    let core = self.clone();
                    spawn(self.queues.upkeep, async move {
                        reply.send(shard.truncate(&core).await);
                    });
                }
            }
            Request::Rotate { shard, reply } => {
                if let Some(shard) = self.shard(shard) {
                    shard.rotate(reply);
                }
            }
            Request::Settle { shard, reply } => {
                if let Some(shard) = self.shard(shard) {
                    let core = self.clone();
                    spawn(self.queues.upkeep, async move {
                        reply.send(shard.settle(&core).await);
                    });
                }
            }
            Request::Open(request, reply) => {
                let core = self.clone();
                spawn(self.queues.commit, async move {
                    let reading = core.heart.doing.during(Doing::Open, read(&core, *request));
                    let opened = AssertUnwindSafe(reading).catch_unwind().await;
                    reply.send(
                        opened.unwrap_or_else(|_| Err(Refusal::other("reading a shard panicked"))),
                    );
                });
            }
            Request::Begin { shard, epoch, reply } => {
                let core = self.clone();
                spawn(self.queues.commit, async move {
                    let beginning = begin(&core, shard, epoch);
                    reply.send(core.heart.doing.during(Doing::Open, beginning).await);
                });
            }
            Request::FitGraph { shard, reply } => {
                let (core, shard) = (self.clone(), self.shard(shard));
                spawn(self.queues.commit, async move {
                    if let Some(shard) = shard {
                        shard.fit_graph(&core).await;
                    }
                    reply.send(());
                });
            }
            Request::SetDimension { shard, dimension, reply } => {
                if let Some(shard) = self.shard(shard) {
                    shard.set_dimension(dimension);
                }
                reply.send(());
            }
            Request::LoadManifest(reply) => {
                let disk = self.disk.clone();
                spawn(self.queues.commit, async move {
                    reply.send(Manifest::load(&*disk).await);
                });
            }
            Request::Keep(change, reply) => self.keep_for(change, reply),
            Request::Breaker { shard, command, reply } => {
                if let Some(shard) = self.shard(shard) {
                    reply.send(shard.command_breaker(command));
                }
            }
            Request::KeepTails { left, reply } => {
                let disk = self.disk.clone();
                spawn(self.queues.upkeep, async move {
                    reply.send(keep_tails(&disk, left).await);
                });
            }
            Request::Tidy { unused, complete, reply } => {
                let disk = self.disk.clone();
                spawn(self.queues.upkeep, async move {
                    tidy(&disk, unused, complete).await;
                    reply.send(());
                });
            }
            Request::DirectoryIsOpen => {
                self.is_open.set(true);
                self.upkeep.raise();
            }
            Request::RestartTraining => self.restart_training(),
            Request::Stop => unreachable!("handled by the loop"),
        }
    }

    fn get(self: &Rc<Self>, id: ShardId, get: Get, reply: Reply<Result<GetAnswer>>) {
        let Some(shard) = self.shard(id) else {
            return;
        };
        let core = self.clone();
        if get.include_embeddings && shard.params.vectors.are_on_disk() {
            let Some(counted) = Counted::below(&core, |core| &core.disk_gets, DISK_GETS_MAX) else {
                let what = format!("{DISK_GETS_MAX} reads of documents wait for the disk");
                return reply.send(Err(Error::busy(what)));
            };
            return spawn(self.queues.serve, async move {
                let _counted = counted;
                let found = get.read_vectors(&core, &shard, || reply.is_cancelled()).await;
                reply.send(found);
            });
        }
        if get.ids.len() <= GET_SLICE {
            let _piece = core.heart.doing.begin(Doing::Read);
            return reply.send(shard.check_readable().and_then(|()| get.slice(&shard, 0)));
        }
        spawn(self.queues.serve, async move {
            let mut found = Vec::new();
            for start in (0..get.ids.len()).step_by(GET_SLICE) {
                if reply.is_cancelled() {
                    return;
                }
                let piece = core.heart.doing.begin(Doing::Read);
                let slice = shard.check_readable().and_then(|()| get.slice(&shard, start));
                drop(piece);
                match slice {
                    Ok(slice) => found.extend(slice),
                    Err(error) => return reply.send(Err(error)),
                }
                glommio::executor().yield_now().await;
                glommio::executor().yield_if_needed().await;
            }
            reply.send(Ok(found));
        });
    }

    pub(super) fn write(self: &Rc<Self>, shard: &Rc<Shard>, request: Request) {
        if shard.is_staging_batch.get() {
            return shard.defer(request);
        }
        match request {
            // A cancelled write is not executed.
            Request::Write { write, reply, .. } if !reply.is_cancelled() => {
                let staged = catch_unwind(AssertUnwindSafe(|| shard.stage(write, Ack::One(reply))));
                if staged.is_err() {
                    shard.fence("staging a write panicked");
                }
            }
            Request::Load { puts, reply, .. } => {
                let load = AssertUnwindSafe(|| shard.load(puts, reply, &self.settings));
                if catch_unwind(load).is_err() {
                    shard.fence("staging a bulk load panicked");
                }
            }
            Request::DeleteMany { ids, filter, deadline, reply, .. } => {
                let (core, shard) = (self.clone(), shard.clone());
                spawn(self.queues.serve, async move {
                    let delete = delete_many(&core, &shard, ids, filter, deadline, reply);
                    let delete = core.heart.doing.during(Doing::Stage, delete);
                    if AssertUnwindSafe(delete).catch_unwind().await.is_err() {
                        shard.fence("a batch delete panicked");
                    }
                });
            }
            _ => {}
        }
    }

    pub(super) fn flush(&self, id: ShardId, only_count: bool, reply: Reply<Result<u64>>) {
        let Some(shard) = self.shard(id) else {
            return;
        };
        let state = shard.check_readable().map(|()| {
            let engine = shard.engine.borrow();
            engine.as_ref().map_or((0, 0), |e| (e.hot_end(), e.hot_count() as u64))
        });
        match state {
            Ok((end, count)) if count > 0 && !only_count => {
                shard.flushes.borrow_mut().push(Flush { end, count, reply });
                self.upkeep.raise();
            }
            state => reply.send(state.map(|(_, count)| if only_count { 0 } else { count })),
        }
    }
}

impl Shard {
    pub(super) fn defer(&self, request: Request) {
        let mut deferred = self.deferred.borrow_mut();
        if deferred.len() < STAGED_MAX {
            return deferred.push_back(request);
        }
        request.refuse(&Error::busy(format!("{STAGED_MAX} writes wait for a batch delete")));
    }
}

/// Runs `work`, which must not change shared state; a panic in it becomes an error of this request alone.
pub(super) fn contained<T>(shard: &Shard, what: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        tracing::error!(shard = shard.id.0, "{what} panicked");
        shard.counters.panics.add(1);
        Error::Internal("internal server panic".into())
    })
}

pub(super) type GetAnswer = Vec<(usize, crate::engine::Document)>;

struct Get {
    ids: Vec<(usize, DocId)>,
    realm: Arc<Realm>,
    include_embeddings: bool,
}

impl Get {
    /// Reads some of the documents, from index `start` on.
    fn slice(&self, shard: &Shard, start: usize) -> Result<GetAnswer> {
        let engine = shard.engine.borrow();
        let Some(engine) = &*engine else {
            return Ok(Vec::new());
        };
        let read = |&(place, id): &(usize, DocId)| {
            let document = engine.get(id, &self.realm, self.include_embeddings)?;
            Some((place, document))
        };
        let ids = self.ids[start..].iter().take(GET_SLICE);
        contained(shard, "reading documents", || ids.filter_map(read).collect())
    }

    /// Reads the documents whose vectors may be on disk.
    async fn read_vectors(
        &self,
        core: &Rc<Core>,
        shard: &Rc<Shard>,
        has_left: impl Fn() -> bool,
    ) -> Result<GetAnswer> {
        let mut found = Vec::new();
        for start in (0..self.ids.len()).step_by(GET_SLICE) {
            if has_left() {
                break;
            }
            shard.check_readable()?;
            // Their slots are not reused until all are read.
            let reads = shard.engine.borrow_mut().as_mut().map(Engine::begin_reads);
            let Some(reads) = reads else { break };
            let piece = core.heart.doing.begin(Doing::Read);
            let slice = self.slice(shard, start);
            drop(piece);
            let slice = match slice {
                Ok(slice) => core.read_documents(shard, slice, &has_left).await,
                Err(error) => Err(error),
            };
            if let Some(engine) = &mut *shard.engine.borrow_mut() {
                engine.end_reads(&reads);
            }
            found.extend(slice?);
        }
        Ok(found)
    }
}

/// Copies the data behind the ends of logs to quarantine. Returns the segments for which that failed: they must not be
/// changed.
async fn keep_tails(disk: &DirectDisk, left: Vec<(String, Left)>) -> Vec<String> {
    if left.is_empty() {
        return Vec::new();
    }
    let tails = left.iter().map(|(name, left)| (name.clone(), left.bytes.clone())).collect();
    let KeptTails { each, dropped } = disk.keep_tails(tails, unix_ms()).await;
    let mut failed = Vec::new();
    for ((name, left), kept) in left.into_iter().zip(each) {
        let told = match &kept {
            Ok(kept) => format!("{name}: behind the end of the log were {left}: {kept}"),
            Err(why) => format!("{name}: behind the end of the log are {left}, left there: {why}"),
        };
        // Whole groups behind the end may have been acknowledged.
        match left.groups {
            0 => tracing::warn!("{told}"),
            _ => tracing::error!("{told}"),
        }
        if kept.is_err() {
            failed.push(name);
        }
    }
    if dropped > 0 {
        tracing::warn!("{dropped} older tails were removed from quarantine/");
    }
    failed
}

/// Removes files and cuts others. A failure costs only space, and does not stop the rest.
async fn tidy(disk: &DirectDisk, unused: Vec<String>, complete: Vec<(String, u64)>) {
    let mut failed = Vec::new();
    for name in unused {
        failed.extend(disk.remove(&name).await.err());
    }
    failed.extend(disk.sync_dir().await.err());
    for (name, bytes) in complete {
        failed.extend(cut(disk, &name, bytes).await.err());
    }
    for error in failed {
        tracing::warn!("space could not be given back: {error}");
    }
}

/// Cuts a file to this length.
pub(super) async fn cut<D: Disk>(disk: &D, name: &str, bytes: u64) -> crate::disk::Result<()> {
    let file = disk.open(name).await?;
    file.truncate(bytes).await?;
    file.close().await
}
