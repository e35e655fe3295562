//! Searches with vectors on disk: the driver of a search reads the vectors that the search wants.
//!
//! Documents are looked at by their codes, in the hot tier, on a walk and in a scan alike. At the end those that,
//! given the error of rounding, may be among the k are compared as vectors, all in one batch if they are not too
//! many: first vectors in memory, then, in [`Phase::Fetch`], vectors read from disk. So scores and results come from
//! vectors alone, as if all were in memory. An exact search compares every document in scope as a vector, in the
//! order of slots.

use super::{Phase, Reused, Search};
use crate::engine::Engine;
use crate::graph::search::Key;
use crate::graph::space::{Coded, Space};
use crate::kernels::Distance;
use crate::store::places::{Place, Places, Spot};
use crate::store::view::View;
use crate::types::realm::Realm;
use crate::types::{DocId, Slot};

/// Most vectors that are asked for at once.
const FETCH_MAX: usize = 512;

/// Documents seen by their codes that are kept before those that can't be among the best are dropped.
const CODED_MIN: usize = 4_096;

/// Result of a request for a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Given {
    /// None yet.
    #[default]
    Nothing,
    /// The vector was read.
    Row,
    /// The data on disk is not as it was written.
    Lost,
}

/// State of a search's reads of vectors on disk.
#[derive(Default)]
pub(in crate::engine) struct OnDisk {
    /// Documents seen by their codes that are still to be compared as vectors; once sorted, nearest last.
    coded: Vec<Key>,
    /// Number left the last time that some were dropped.
    coded_left: usize,
    /// Global slots of the vectors that are wanted, and the rows given.
    wanted: Vec<Slot>,
    rows: Vec<f32>,
    given: Vec<Given>,
    /// Phase in which the search continues once it has them.
    after: Option<Phase>,
    /// True if they are for the answer: all documents are compared.
    are_of_hits: bool,
    /// True if a scan has looked at every document: there is nothing to be found elsewhere.
    has_scanned: bool,
    /// Owners of documents whose vectors were lost, one entry per document.
    lost: Vec<u32>,
}

impl OnDisk {
    pub(super) fn reset(&mut self) {
        self.coded.clear();
        self.forget_wanted();
        self.lost.clear();
        (self.coded_left, self.after) = (0, None);
        (self.are_of_hits, self.has_scanned) = (false, false);
    }

    fn forget_wanted(&mut self) {
        self.wanted.clear();
        self.rows.clear();
        self.given.clear();
    }

    fn give(&mut self, index: usize, row: &[f32]) {
        let width = self.rows.len() / self.wanted.len();
        self.rows[index * width..(index + 1) * width].copy_from_slice(row);
        self.given[index] = Given::Row;
    }

    fn row(&self, index: usize) -> Option<&[f32]> {
        let width = self.rows.len() / self.wanted.len().max(1);
        let is_there = self.given.get(index) == Some(&Given::Row);
        is_there.then(|| &self.rows[index * width..(index + 1) * width])
    }

    /// The row of a hit, if it was given.
    fn row_of_hit(&self, slot: Slot) -> Option<&[f32]> {
        if !self.are_of_hits {
            return None;
        }
        self.row(self.wanted.binary_search(&slot).ok()?)
    }
}

impl Search {
    /// The slots whose vectors the search waits for, in ascending order; some may have been given before. Each vector
    /// is to be given or reported lost before the next step, which goes on without those that were not given.
    #[must_use]
    pub fn wanted(&self) -> &[Slot] {
        match self.phase {
            Phase::Fetch => &self.reused.disk.wanted,
            _ => &[],
        }
    }

    /// True if the vector of the wanted slot with this index was given.
    #[must_use]
    pub fn is_given(&self, index: usize) -> bool {
        self.reused.disk.given[index] == Given::Row
    }

    /// Gives the vector of the wanted slot with this index, as its row is on disk.
    ///
    /// # Panics
    /// If no such slot is wanted, or the bytes are no row.
    pub fn give(&mut self, index: usize, row: &[f32]) {
        let disk = &mut self.reused.disk;
        disk.give(index, row);
    }

    /// Reports the vector of the wanted slot with this index as lost: its document is left out.
    pub fn lose(&mut self, index: usize) {
        self.reused.disk.given[index] = Given::Lost;
    }

    /// Continues as if there were nothing more to look at: asks for the best of the documents seen. The outcome is
    /// not complete in any case.
    pub fn wind_up(&mut self, engine: &Engine) {
        if engine.store.places().is_none() || matches!(self.phase, Phase::Done | Phase::Fetch) {
            return;
        }
        self.was_cut = true;
        if self.phase == Phase::Walk {
            self.collect_walk(engine);
        }
        self.phase = Phase::Rerank(0);
        self.step(engine);
    }

    /// At the end of each step: waits for vectors that have turned out to be wanted.
    pub(super) fn hold_for_rows(&mut self, engine: &Engine, places: &Places) {
        let disk = &mut self.reused.disk;
        // Vectors of the hits are kept for the answer.
        if self.phase == Phase::Fetch || disk.are_of_hits {
            return;
        }
        if self.phase == Phase::Done && !disk.coded.is_empty() {
            disk.has_scanned = true;
            self.phase = Phase::Rerank(0);
        } else if self.phase == Phase::Done
            && self.query.include_embeddings
            && disk.wanted.is_empty()
        {
            disk.are_of_hits = true;
            disk.wanted.extend(self.reused.top.slots());
        }
        if disk.wanted.is_empty() {
            return;
        }
        disk.wanted.sort_unstable();
        let values = places.row_bytes() / size_of::<f32>();
        disk.rows.resize(disk.wanted.len() * values, 0.0);
        disk.given.resize(disk.wanted.len(), Given::Nothing);
        if disk.are_of_hits {
            // Rows in memory now are kept: another owner may free them before the answer is made.
            let reading = places.read(engine.store.stripe().owner());
            for index in 0..disk.wanted.len() {
                if let Place::Memory(row) = reading.find(disk.wanted[index]) {
                    disk.give(index, row);
                }
            }
            if disk.given.iter().all(|given| *given == Given::Row) {
                return;
            }
        }
        disk.after = Some(std::mem::replace(&mut self.phase, Phase::Fetch));
    }

    /// Continues with the vectors that were given.
    pub(super) fn take_rows<D: Distance>(&mut self, engine: &Engine) {
        let mut disk = std::mem::take(&mut self.reused.disk);
        self.phase = disk.after.take().unwrap_or(Phase::Done);
        for index in 0..disk.wanted.len() {
            let slot = disk.wanted[index];
            match disk.row(index) {
                Some(_) if disk.are_of_hits => {}
                Some(row) => {
                    let distance = D::between(&self.reused.vector, row);
                    self.work.count_full(1);
                    self.admit(engine, slot, distance);
                }
                None if disk.given[index] == Given::Lost => {
                    disk.lost.push(engine.store.stripe().owner_of(slot));
                }
                None => {}
            }
        }
        if !disk.are_of_hits {
            disk.forget_wanted();
        }
        self.reused.disk = disk;
    }

    /// Looks at visible documents that pass: by their codes, or, in an exact search, as vectors.
    pub(in crate::engine) fn look_on_disk<D: Distance>(
        &mut self,
        engine: &Engine,
        places: &Places,
    ) {
        if self.query.is_exact {
            return self.compare::<D>(engine, places);
        }
        let Some(codes) = engine.store.codes() else { return };
        let Reused { code, batch, disk, .. } = &mut *self.reused;
        let space = Coded::<D>::new(code.get(), codes);
        space.each_key(batch, &mut self.work, |key| disk.coded.push(key));
        batch.clear();
        if disk.coded.len() >= CODED_MIN + 2 * disk.coded_left {
            self.drop_far::<D>(engine);
            self.reused.disk.coded_left = self.reused.disk.coded.len();
        }
    }

    /// Compares more of the documents seen by codes as vectors; at first the nodes found by the walk join them.
    pub(super) fn rerank_on_disk<D: Distance>(&mut self, engine: &Engine, first: usize) {
        let Some(places) = engine.store.places() else { return };
        if first == 0 {
            let is_as_before = self.is_as_before(engine);
            for index in 0..self.reused.candidates.len() {
                let key = self.reused.candidates[index];
                if self.is_news(engine, key.slot(), is_as_before) {
                    self.reused.disk.coded.push(key);
                }
            }
            self.reused.candidates.clear();
            self.drop_far::<D>(engine);
            self.reused.disk.coded.sort_unstable_by(|a, b| b.cmp(a));
        }
        let Some(codes) = engine.store.codes() else { return };
        self.reused.batch.clear();
        let code = std::mem::take(&mut self.reused.code);
        let space = Coded::<D>::new(code.get(), codes);
        // Documents compared in earlier rounds may have set a lower bound.
        let bound = match self.query.min_score > 0.0 {
            true => f32::INFINITY,
            false => self.reused.top.bound(),
        };
        while self.reused.batch.len() < FETCH_MAX
            && let Some(key) = self.reused.disk.coded.pop()
        {
            if space.least(key) <= bound {
                self.reused.batch.push(key.slot());
            } else {
                self.seen += 1;
                self.found += 1;
            }
        }
        self.reused.code = code;
        if !self.reused.batch.is_empty() {
            self.phase = Phase::Rerank(1);
            self.compare::<D>(engine, places);
        } else if self.reused.disk.has_scanned {
            self.phase = Phase::Done;
        } else {
            self.finish_walk(engine);
        }
    }

    /// Drops documents seen by codes that, at any error of rounding, can't be among the k, or can't have the score
    /// that is asked for.
    fn drop_far<D: Distance>(&mut self, engine: &Engine) {
        let Some(codes) = engine.store.codes() else { return };
        let code = std::mem::take(&mut self.reused.code);
        let space = Coded::<D>::new(code.get(), codes);
        let (metric, min_score) = (engine.params.metric, self.query.min_score);
        let coded = &mut self.reused.disk.coded;
        if min_score > 0.0 {
            let before = coded.len();
            coded.retain(|&key| metric.score(space.least(key)) >= min_score);
            self.seen += (before - coded.len()) as u64;
        } else if let Some(last) = self.query.k.checked_sub(1)
            && coded.len() > last
        {
            let mut most: Vec<f32> = coded.iter().map(|&key| space.most(key)).collect();
            let (_, bound, _) = most.select_nth_unstable_by(last, f32::total_cmp);
            let (bound, before) = (bound.min(self.reused.top.bound()), coded.len());
            coded.retain(|&key| space.least(key) <= bound);
            let dropped = (before - coded.len()) as u64;
            (self.seen, self.found) = (self.seen + dropped, self.found + dropped);
        }
        self.reused.code = code;
    }

    /// Compares the batch as vectors: those in memory at once, the rest once they are given.
    fn compare<D: Distance>(&mut self, engine: &Engine, places: &Places) {
        let batch = std::mem::take(&mut self.reused.batch);
        let reading = places.read(engine.store.stripe().owner());
        for &slot in &batch {
            match reading.find(slot) {
                Place::Memory(row) => {
                    let distance = D::between(&self.reused.vector, row);
                    self.work.count_full(1);
                    self.admit(engine, slot, distance);
                }
                Place::Disk(_) | Place::Nowhere => self.reused.disk.wanted.push(slot),
            }
        }
        self.reused.batch = batch;
        self.reused.batch.clear();
    }

    /// True if the search ended while it waited for vectors.
    pub(super) fn waits_for_rows(&self) -> bool {
        self.phase == Phase::Fetch
    }

    /// Owners with documents that were left out because their vectors are lost, with the number of these.
    pub(super) fn lost(&self) -> Vec<(u32, u64)> {
        let mut lost = self.reused.disk.lost.clone();
        lost.sort_unstable();
        lost.chunk_by(|a, b| a == b).map(|owner| (owner[0], owner.len() as u64)).collect()
    }
}

/// A view for documents read by id, which stay as they are until [`Engine::end_reads`].
#[derive(Default)]
pub struct Reads(View);

impl Engine {
    /// Location of a vector that a search wants, or that [`Engine::get`] has named; `None` if it is in memory by now,
    /// or nowhere.
    #[must_use]
    pub fn spot(&self, slot: Slot) -> Option<Spot> {
        let places = self.store.places()?;
        match places.read(self.store.stripe().owner()).find(slot) {
            Place::Disk(spot) => Some(spot),
            Place::Memory(_) | Place::Nowhere => None,
        }
    }

    /// Notes that the vector in `slot` is not on disk as it was written: the next snapshot writes its block again,
    /// once the vector is not needed any more.
    pub fn note_damaged(&self, slot: Slot) {
        if let Some(places) = self.store.places() {
            places.note_damaged(slot);
        }
    }

    /// The id of the document in `slot`, and the LSN of the write of the version there.
    #[must_use]
    pub fn version_in(&self, slot: Slot) -> (DocId, u64) {
        (self.store.doc_id(slot), self.store.born(slot).0)
    }

    /// The vector of `slot`, padding included, if it is in memory.
    #[must_use]
    pub fn row_in_memory(&self, slot: Slot) -> Option<Box<[f32]>> {
        let Some(places) = self.store.places() else {
            return Some(self.store.vectors().row(slot).into());
        };
        match places.read(self.store.stripe().owner()).find(slot) {
            Place::Memory(row) => Some(row.into()),
            Place::Disk(_) | Place::Nowhere => None,
        }
    }

    /// Keeps the vectors of documents that are read by id from now on: see [`Engine::get`].
    pub fn begin_reads(&mut self) -> Reads {
        let mut reads = Reads::default();
        self.store.open_view(&mut reads.0, true);
        reads
    }

    /// Ends the view of [`Engine::begin_reads`].
    pub fn end_reads(&mut self, reads: &Reads) {
        self.store.close_view(&reads.0);
    }

    /// Reads the document `id` if it is in `realm`. If a vector is asked for that is on disk, the document comes
    /// without it but with its slot: the slot is unchanged until [`Engine::end_reads`], if [`Engine::begin_reads`]
    /// came before.
    #[must_use]
    pub fn get(
        &self,
        id: DocId,
        realm: &Realm,
        include_embedding: bool,
    ) -> Option<super::Document> {
        let slot = self.store.find(id)?;
        let payload = self.store.payload(slot);
        if !realm.admits(payload) {
            return None;
        }
        let embedding = if include_embedding { self.embedding(slot) } else { None };
        let is_on_disk = include_embedding && embedding.is_none();
        Some(super::Document {
            payload: payload.clone(),
            on_disk: is_on_disk.then_some(slot),
            embedding,
            is_hot: self.is_hot(slot),
        })
    }

    /// The vector in `slot`, if it is in memory.
    fn embedding(&self, slot: Slot) -> Option<Box<[f32]>> {
        if self.store.places().is_none() {
            return Some(self.store.vectors().values(slot).into());
        }
        let row = self.row_in_memory(slot)?;
        Some(row[..self.params.dimension].into())
    }

    /// The vector of a hit.
    pub(super) fn embedding_of_hit(&self, slot: Slot, disk: &OnDisk) -> Option<Box<[f32]>> {
        let given = disk.row_of_hit(slot).map(|row| row[..self.params.dimension].into());
        given.or_else(|| self.embedding(slot))
    }
}
