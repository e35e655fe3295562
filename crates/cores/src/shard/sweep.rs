//! Requests that look at every document that may pass a filter: listings, and deletes by filter. They run in slices;
//! searches get their turn in between.

use std::rc::Rc;
use std::time::Instant;

use super::core::Core;
use super::doing::Doing;
use super::reply::Reply;
use super::request::Request;
use super::serve::contained;
use super::stage::Ack;
use super::state::Shard;
use super::task::spawn;
use crate::engine::filter::Filter;
use crate::engine::listing::{LISTING_IDLE, Page};
use crate::engine::{Engine, Outcome};
use crate::error::{Error, Result};
use crate::types::DocId;
use crate::types::record::{BATCH_IDS_MAX, Record};

/// Documents planned for deletion between two pauses.
const DELETE_SLICE: usize = 128;

/// A page of a listing.
pub(super) struct List {
    pub(super) filter: Filter,
    pub(super) after: DocId,
    pub(super) max: usize,
    pub(super) deadline: Instant,
}

const LATE: Error = Error::Expired("while the documents were looked for");

impl Core {
    /// Answers with the ids of a page.
    pub(super) fn list(
        self: &Rc<Self>,
        shard: Rc<Shard>,
        list: List,
        reply: Reply<Result<Vec<DocId>>>,
    ) {
        let core = self.clone();
        spawn(self.queues.serve, async move {
            let listed = shard.list(&core, list, || reply.is_cancelled()).await;
            reply.send(listed);
        });
    }
}

impl Shard {
    /// The smallest ids of documents that pass, from a kept listing, or else from a new sweep.
    async fn list(
        self: &Rc<Self>,
        core: &Rc<Core>,
        list: List,
        has_left: impl Fn() -> bool,
    ) -> Result<Vec<DocId>> {
        let List { filter, mut after, max, deadline } = list;
        let (mut ids, is_late) = (Vec::new(), || Instant::now() >= deadline || has_left());
        loop {
            let left = max - ids.len();
            let kept = self.on_engine(core, |engine| {
                engine.page_of_kept(&filter, after, left, Instant::now())
            })?;
            let mut page = match kept {
                Some(Some(page)) => page,
                Some(None) => self.sweep_for_page(core, &filter, after, left, &is_late).await?,
                // The shard never had a document.
                None => return Ok(ids),
            };
            while !self.on_engine(core, |engine| page.step(engine))?.unwrap_or(true) {
                pause().await;
                if is_late() {
                    return Err(LATE);
                }
            }
            let (found, goes_on) = page.finish();
            ids.extend(found);
            match goes_on {
                Some(through) => after = through,
                None => return Ok(ids),
            }
        }
    }

    /// Finds the documents after `after`, which are kept for the following pages.
    async fn sweep_for_page(
        self: &Rc<Self>,
        core: &Rc<Core>,
        filter: &Filter,
        after: DocId,
        max: usize,
        is_late: &impl Fn() -> bool,
    ) -> Result<Page> {
        let gone = || Error::unavailable("the shard went away");
        let filter = filter.clone();
        let begun =
            self.on_engine(core, |engine| engine.begin_listing(filter, after, Instant::now()))?;
        let mut sweep = begun.ok_or_else(gone)?;
        loop {
            match self.on_engine(core, |engine| sweep.step(engine)) {
                Ok(is_done) if is_done.unwrap_or(true) => break,
                Ok(_) => {}
                Err(error) => {
                    self.on_engine(core, |engine| engine.abandon_listing(sweep)).ok();
                    return Err(error);
                }
            }
            pause().await;
            if is_late() {
                self.on_engine(core, |engine| engine.abandon_listing(sweep))?;
                return Err(LATE);
            }
        }
        self.forget_idle_listings(core);
        let page = self.on_engine(core, |engine| engine.begin_page(sweep, max, Instant::now()))?;
        page.ok_or_else(gone)
    }

    /// Forgets listings whose next page was not requested in time.
    fn forget_idle_listings(self: &Rc<Self>, core: &Rc<Core>) {
        if self.forgets_listings.replace(true) {
            return;
        }
        let (core, shard) = (core.clone(), self.clone());
        spawn(core.queues.serve, async move {
            loop {
                glommio::timer::sleep(LISTING_IDLE).await;
                let now = Instant::now();
                let left = shard.on_engine(&core, |engine| engine.end_idle_listings(now));
                if !matches!(left, Ok(Some(true))) {
                    shard.forgets_listings.set(false);
                    return;
                }
            }
        });
    }

    /// Does a piece of work on the engine; `None` if the shard never had a document.
    fn on_engine<T>(&self, core: &Core, work: impl FnOnce(&mut Engine) -> T) -> Result<Option<T>> {
        self.check_readable()?;
        let _piece = core.heart.doing.begin(Doing::List);
        contained(self, "listing documents", || self.engine.borrow_mut().as_mut().map(work))
    }
}

/// Lets other tasks run.
async fn pause() {
    glommio::executor().yield_now().await;
    glommio::executor().yield_if_needed().await;
}

/// Deletes documents by id or by filter: finds and stages them in slices. In between, searches continue; other writes
/// to the shard wait.
pub(super) async fn delete_many(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    ids: Option<Vec<Vec<DocId>>>,
    filter: Filter,
    deadline: Instant,
    reply: Reply<Result<Outcome>>,
) {
    if reply.is_cancelled() {
        return;
    }
    let found = match ids {
        Some(ids) => Ok(Some((filter, ids))),
        None => sweep(shard, filter, deadline, || reply.is_cancelled()).await,
    };
    let (filter, pieces) = match found.and_then(|found| shard.check_writable().map(|()| found)) {
        Ok(Some(found)) => found,
        // The shard never had a document.
        Ok(None) => return reply.send(Ok(Outcome { existed: 0 })),
        Err(error) => return reply.send(Err(error)),
    };
    // Another batch may have begun during the search for documents.
    if shard.is_staging_batch.get() {
        let ids = Some(pieces);
        let request = Request::DeleteMany { shard: shard.id, ids, filter, deadline, reply };
        return shard.defer(request);
    }
    shard.is_staging_batch.set(true);
    let mut batch = Batch::default();
    let abandoned = shard.abandoned.get();
    for piece in pieces {
        for slice in piece.chunks(DELETE_SLICE) {
            if let Some(engine) = &mut *shard.engine.borrow_mut() {
                batch.extend(engine.stage_deletes(slice, &filter));
            }
            pause().await;
        }
    }
    shard.is_staging_batch.set(false);
    let (records, existed) = batch.finish();
    let is_planned = match shard.abandoned.get() == abandoned {
        true => shard.check_writable(),
        // Earlier staged writes, on which the plan rests, could not be logged.
        false => Err(Error::busy("the log could not be written meanwhile")),
    };
    match is_planned {
        Ok(()) => shard.stage_records(records, Outcome { existed }, Ack::One(reply)),
        Err(error) => reply.send(Err(error)),
    }
    for request in shard.deferred.take() {
        core.write(shard, request);
    }
    shard.pump_loads(&core.settings);
}

/// Records of a batch, added as its documents are planned, so that they are never all copied at once.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    ids: Vec<DocId>,
    count: u64,
}

impl Batch {
    fn extend(&mut self, ids: Vec<DocId>) {
        self.count += ids.len() as u64;
        for id in ids {
            if self.ids.len() == BATCH_IDS_MAX {
                self.end_part(true);
            }
            self.ids.push(id);
        }
    }

    fn end_part(&mut self, more: bool) {
        let ids = std::mem::replace(&mut self.ids, Vec::with_capacity(BATCH_IDS_MAX));
        let part = u32::try_from(self.records.len()).expect("a shard has fewer slots");
        self.records.push(Record::DeleteBatch { ids, part, more });
    }

    /// The records, and the number of documents.
    fn finish(mut self) -> (Vec<Record>, u64) {
        if !self.ids.is_empty() {
            self.end_part(false);
        }
        (self.records, self.count)
    }
}

/// Finds the documents that pass; `None` if the shard never had one. A search that is cut short may answer in part; a
/// sweep may not.
async fn sweep(
    shard: &Shard,
    filter: Filter,
    deadline: Instant,
    has_left: impl Fn() -> bool,
) -> Result<Option<(Filter, Vec<Vec<DocId>>)>> {
    let mut sweep = match &mut *shard.engine.borrow_mut() {
        Some(engine) => engine.begin_sweep(filter),
        None => return Ok(None),
    };
    loop {
        let is_done = shard.engine.borrow().as_ref().is_none_or(|engine| sweep.step(engine));
        if is_done {
            break;
        }
        pause().await;
        if Instant::now() >= deadline || has_left() {
            if let Some(engine) = &mut *shard.engine.borrow_mut() {
                engine.finish_sweep(sweep);
            }
            return Err(LATE);
        }
    }
    match &mut *shard.engine.borrow_mut() {
        Some(engine) => Ok(Some(engine.finish_sweep(sweep))),
        None => unreachable!("the sweep began in it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::record::delete_batch;

    #[test]
    fn a_batch_has_the_records_that_all_of_it_has() {
        for count in [0, 1, 127, 2_047, 2_048, 2_049, 4_096, 5_000] {
            let ids: Vec<DocId> = (1..=count).map(DocId).collect();
            let mut batch = Batch::default();
            ids.chunks(DELETE_SLICE).for_each(|slice| batch.extend(slice.to_vec()));
            assert_eq!(batch.finish(), (delete_batch(&ids), count));
        }
    }
}
