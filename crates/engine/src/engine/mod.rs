//! One shard as a state machine: plain code over its store and graph, driven from outside.
//!
//! No executor, clock, thread, file or random state is named here or below, so that the code which serves is also the
//! code that a simulation runs.
//!
//! Path of a write: [`Engine::stage`] checks it against everything staged before, and turns it into log records; the
//! driver makes them durable, then has them [`applied`](Engine::apply) in the order of their LSNs; only then is the
//! write acknowledged. If the log fails, [`Engine::abandon_staged`] forgets what was staged.
//!
//! Path of a search: [`Engine::begin_search`], then [`Search::step`] until it is done or must stop, then
//! [`Engine::finish_search`]. The search sees the shard as it was when it began.
//!
//! Long work comes in steps: searches, linking ([`Engine::link_step`]), batch deletes. Between
//! two steps anything else may happen.
//!
//! Several shards may share one graph ([`partition`]); their engines run on different threads, and a search of one of
//! them covers all. It reads the data of the others without a lock.

pub mod accounts;
mod capacity;
pub mod checkpoint;
mod codes_check;
#[cfg(test)]
mod codes_check_tests;
#[cfg(test)]
mod disk_tests;
pub mod filter;
#[cfg(test)]
mod filter_tests;
mod filtered;
pub mod healing;
#[cfg(test)]
mod healing_tests;
#[cfg(test)]
mod history_tests;
mod hot;
pub mod index;
pub mod listing;
#[cfg(test)]
mod listing_tests;
pub mod memory;
pub mod partition;
#[cfg(test)]
mod partition_tests;
mod plan;
pub mod read;
pub mod restore;
pub mod salvage;
pub mod sweep;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod top;
pub mod write;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::accounts::Ledger;
pub use self::capacity::Capacity;
use self::codes_check::CodesCheck;
use self::healing::{Healing, Ward};
use self::hot::HotTier;
use self::index::MetadataIndex;
use self::listing::Listings;
use self::partition::{Home, Partition};
pub use self::read::{Document, Hit, Lent, Query, Scope, Search, SearchOutcome};
pub use self::write::{Outcome, Staged, Write};
use crate::graph::insert::{Linker, Rows};
use crate::graph::search::{Scratch, Work};
use crate::graph::{self, Graph};
use crate::store::slices::at_once;
use crate::store::view::View;
use crate::store::{Codes, Store};
use crate::types::changes::{Changes, Changing};
use crate::types::metric::Metric;
use crate::types::stripe::Stripe;
use crate::types::{DocId, Lsn, Slot};
use crate::with_distance;

/// Storage of a shard's vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VectorStorage {
    /// In memory.
    #[default]
    Memory,
    /// In the files of snapshots; in memory only until one has them. Requires codes.
    Disk {
        /// Bytes of vectors waiting for a snapshot at which writes are refused.
        unsaved_bytes_max: usize,
    },
}

impl VectorStorage {
    /// True if vectors are not all in memory.
    #[must_use]
    pub fn are_on_disk(self) -> bool {
        matches!(self, Self::Disk { .. })
    }
}

/// Parameters of a shard.
#[derive(Clone, Debug)]
pub struct Params {
    /// Metric of the vectors.
    pub metric: Metric,
    /// Values in a vector.
    pub dimension: usize,
    /// True if walks use 8-bit codes of the vectors, kept beside them; the nodes found are then compared as vectors.
    pub codes: bool,
    /// Storage of the vectors.
    pub vectors: VectorStorage,
    /// The graph's own parameters.
    pub graph: graph::Params,
    /// Most documents in the hot tier; writes beyond it are refused until some are linked.
    pub hot_documents_max: usize,
    /// Room for documents, shared by all shards.
    pub capacity: Arc<Capacity>,
    /// Its place in a partition, if several shards own one graph; `None` for a graph of its own.
    pub home: Option<Home>,
}

/// Dead versions dropped in one slice, and after each document linked: more than a document can have replaced, so
/// that dead versions never pile up while writes go on.
const RECLAIM_VERSIONS_MAX: usize = 256;
const RECLAIM_BESIDE_LINKING: usize = 4;

/// Most vectors freed from memory in one slice, once they are on disk: some 20 µs of checksums at a few hundred
/// dimensions.
const ROWS_GO_MAX: usize = 64;

/// Scratches kept for reuse; if more searches run at once, they allocate.
const SCRATCHES_MAX: usize = 8;

/// One shard.
pub struct Engine {
    params: Params,
    store: Store,
    graph: Arc<Graph>,
    hot: HotTier,
    index: MetadataIndex,
    /// Pairs of deleted documents found in slots or in the index, and removed; see [`Engine::stale_postings`].
    stale_postings: u64,
    /// LSN of the last record applied in full.
    applied: Lsn,
    ledger: Ledger,
    /// Documents with staged writes, and their state after these.
    staged: BTreeMap<DocId, write::StagedDocument>,
    /// Live documents once everything staged is applied.
    live_after_staged: usize,
    /// Number of puts staged but not applied.
    staged_puts: usize,
    /// Bytes of metadata staged but not applied.
    staged_payload_bytes: usize,
    /// Most bytes of metadata at any time since the start.
    payload_peak_bytes: usize,
    /// Approximate bytes of a document beside its metadata.
    slot_bytes: usize,
    /// Documents of a batch delete whose last record has not been applied, by record.
    batch: VecDeque<std::vec::IntoIter<DocId>>,
    /// Documents of a complete batch that are yet to be deleted, all at this LSN.
    draining: (Lsn, VecDeque<std::vec::IntoIter<DocId>>),
    /// Write-version counters that invalidate the query cache; moved before each acknowledgement.
    changing: Changing,
    linker: Option<Linker>,
    /// Read view held while linking: keeps nodes that other owners unlink readable until the step ends.
    link_view: View,
    link_scratch: Scratch,
    #[expect(clippy::vec_box, reason = "a search is moved often, and its memory need not be")]
    scratches: Vec<Box<read::Reused>>,
    /// Loans that other searches of the partition may still use.
    loans: Vec<Arc<Lent>>,
    /// Linked nodes that are dead; while there are any, walks check lifetimes.
    dead_linked: usize,
    listings: Listings,
    ward: Arc<Ward>,
    healing: Healing,
    codes_check: CodesCheck,
}

/// The distance sources of linking: vectors if they are in memory, and codes if there are any that tell neighbours
/// apart, or there is nothing else.
fn rows_of(store: &Store) -> Rows<'_> {
    match store.places() {
        None => Rows { vectors: Some(store.vectors()), codes: walk_codes(store) },
        Some(_) => Rows { vectors: None, codes: store.codes() },
    }
}

/// The codes, if walks use them.
#[inline]
fn walk_codes(store: &Store) -> Option<&Codes> {
    store.codes().filter(|codes| codes.tell_apart() || store.places().is_some())
}

/// Result of [`Engine::link_step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkProgress {
    /// Nothing is left to do.
    Idle,
    /// There is more to do.
    More,
}

impl Engine {
    /// An empty shard. If it has a place in a partition, the data that it had there before is forgotten: no thread
    /// may be reading that.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let (partition, stripe) = match &params.home {
            None => (Partition::new(&params, 1), Stripe::WHOLE),
            Some(home) => (home.partition(&params), home.stripe()),
        };
        let Partition { shared, graph, ward } = partition;
        let slot_bytes = memory::Memory::of_document(&params, 0).sum();
        if stripe.owners() > 1 {
            graph.clear(stripe);
            ward.forget(stripe);
        }
        Self {
            store: Store::join(shared, stripe),
            graph,
            params,
            hot: HotTier::default(),
            index: MetadataIndex::new(stripe),
            stale_postings: 0,
            applied: Lsn(0),
            ledger: Ledger::default(),
            staged: BTreeMap::new(),
            live_after_staged: 0,
            staged_puts: 0,
            staged_payload_bytes: 0,
            payload_peak_bytes: 0,
            slot_bytes,
            batch: VecDeque::new(),
            draining: (Lsn(0), VecDeque::new()),
            changing: Changing::default(),
            linker: None,
            link_view: View::default(),
            link_scratch: Scratch::default(),
            scratches: Vec::new(),
            loans: Vec::new(),
            dead_linked: 0,
            listings: Listings::default(),
            ward,
            healing: Healing::default(),
            codes_check: CodesCheck::default(),
        }
    }

    /// The parameters of this shard.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Number of live documents.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.store.live_count()
    }

    /// Documents acknowledged but not linked.
    #[must_use]
    pub fn hot_count(&self) -> usize {
        self.hot.len()
    }

    /// Position in the hot tier after its present entries: once [`Engine::hot_position`] has reached it, all of these
    /// are linked.
    #[must_use]
    pub fn hot_end(&self) -> u64 {
        self.hot.end()
    }

    /// Position of the oldest document not yet linked.
    #[must_use]
    pub fn hot_position(&self) -> u64 {
        self.hot.first()
    }

    /// LSN of the last record applied.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// Nodes of this shard in the graph, dead ones included.
    #[must_use]
    pub fn linked_count(&self) -> u32 {
        self.graph.linked_of(self.store.stripe().owner())
    }

    /// The graph, for checks of it.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The documents, for checks of them.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The metadata index, for a count of its memory.
    #[must_use]
    pub fn metadata_index(&self) -> &MetadataIndex {
        &self.index
    }

    /// Pairs of deleted documents found in slots or in the index since the start, and removed. More than 0 if a
    /// snapshot of an earlier version of this program had some; every further one is a fault.
    #[must_use]
    pub fn stale_postings(&self) -> u64 {
        self.stale_postings
    }

    /// Compares the indexed entries with the documents, in both directions: each pair of a document has its posting,
    /// and each posting is of a document that has the pair. Looks at all documents. Returns the number of pairs.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn check_index(&self) -> Result<u64, String> {
        self.index.check(&self.store)
    }

    /// Indexes all metadata that is not indexed yet, at once.
    pub fn read_index(&mut self) {
        while self.index.read_some(&self.store) {}
    }

    /// Distances computed and hops made to link documents so far.
    #[must_use]
    pub fn link_work(&self) -> Work {
        self.link_scratch.work
    }

    /// True if a document is half linked.
    #[must_use]
    pub fn is_linking(&self) -> bool {
        self.linker.is_some()
    }

    /// Does one step of upkeep: indexes metadata that is not indexed yet, links a part of one document, or drops dead
    /// versions. At most some 50 µs of work at a few hundred dimensions.
    pub fn link_step(&mut self) -> LinkProgress {
        // Searches see the state before a batch until all of it is applied: no document that it deletes may leave the
        // hot tier until then.
        if !self.draining.1.is_empty() {
            return LinkProgress::Idle;
        }
        // Soon done, and until it is every search with a filter looks at the slots that are left.
        if self.index.read_some(&self.store) {
            return LinkProgress::More;
        }
        if self.linker.is_none() {
            self.drop_stale_hot();
            let is_idle = self.hot.len() == 0;
            let is_busy = self.probe_step() || self.heal_step(is_idle) == LinkProgress::More;
            if is_busy || is_idle && self.begin_probe() {
                return LinkProgress::More;
            }
            let gone = self.store.let_rows_go(ROWS_GO_MAX);
            if !self.next_linker() {
                let reclaimed = self.reclaim(RECLAIM_VERSIONS_MAX) || gone > 0;
                return if reclaimed { LinkProgress::More } else { LinkProgress::Idle };
            }
        }
        let Self { params, store, graph, linker, link_scratch, .. } = self;
        let Some(current) = linker else {
            return LinkProgress::More;
        };
        let is_live = |slot| store.is_live(slot);
        let linked = with_distance!(params.metric.for_linking(), D => {
            let rows = rows_of(store);
            current.step::<D>(graph, rows, link_scratch, is_live)
        });
        if linked {
            self.finish_linking();
        }
        LinkProgress::More
    }

    fn finish_linking(&mut self) {
        let Some(linker) = self.linker.take() else { return };
        // The document may have died meanwhile; then it was not counted as linked and dead.
        let slot = linker.slot();
        if !self.store.is_live(slot) {
            self.add_dead(1);
        }
        if self.store.stripe().owners() > 1 {
            self.store.close_view(&self.link_view);
        }
        self.healing.note_linked(slot, &self.graph, &self.ward);
        self.sample_codes(slot);
        let popped = self.hot.pop(&self.store);
        debug_assert_eq!(popped, Some(slot), "documents are linked in order");
        self.reclaim(RECLAIM_BESIDE_LINKING);
    }

    /// Forgets the oldest entries of the hot tier while they are dead.
    fn drop_stale_hot(&mut self) {
        while HotTier::front(&self.store).is_some_and(|slot| !self.store.is_live(slot)) {
            let dropped = self.hot.pop(&self.store);
            self.let_go(dropped);
        }
    }

    /// Takes the oldest document from the hot tier, whose front is live. False if there is none.
    fn next_linker(&mut self) -> bool {
        let Some(slot) = HotTier::front(&self.store) else {
            return false;
        };
        if self.store.stripe().owners() > 1 {
            self.store.open_view(&mut self.link_view, true);
        }
        let id = self.store.doc_id(slot);
        self.linker = Some(Linker::new(&self.graph, slot, id));
        true
    }

    /// Counts `count` more nodes of this shard as dead.
    fn add_dead(&mut self, count: usize) {
        self.dead_linked += count;
        self.ward.add_dead(self.store.stripe().owner(), count);
    }

    /// Ends the replay of the log. Forgets a batch whose last part was not in the log.
    pub fn finish_replay(&mut self) {
        at_once(self.finish_replay_in_slices(&async || ()));
    }

    /// Ends the replay as [`Engine::finish_replay`] does, in slices, with `rest` between them.
    pub async fn finish_replay_in_slices(&mut self, rest: &impl AsyncFn()) {
        self.abandon_staged();
        self.hot.set_backlog();
        let accounts = self.params.capacity.accounts.clone();
        self.ledger = Ledger::open(accounts, &self.store, rest).await;
    }

    /// Moves these counters with every change that is applied from now on.
    pub fn tell_changes(&mut self, changes: Arc<Changes>) {
        self.changing.begin(changes);
    }

    /// Begins to count the documents of tenants, if there are tenants.
    pub fn open_ledger(&mut self) {
        let accounts = self.params.capacity.accounts.clone();
        self.ledger = at_once(Ledger::open(accounts, &self.store, &async || ()));
    }

    /// Drops dead versions while a log is replayed, so that a replay needs no more slots than the original writes
    /// did.
    ///
    /// # Panics
    /// If a document is half linked.
    pub fn drop_dead(&mut self) {
        assert!(self.linker.is_none(), "nothing is linked while a log is replayed");
        let dropped = self.hot.drop_dead(&self.store);
        self.let_go(dropped);
        self.reclaim(RECLAIM_VERSIONS_MAX);
    }

    /// Notes that these slots, whose documents are dead, are not in the hot tier any more.
    fn let_go(&mut self, slots: impl IntoIterator<Item = Slot>) {
        for slot in slots {
            // The other slots are checked when they are reclaimed.
            if self.store.stored_payload(slot).is_none() {
                self.store.release([slot]);
            }
        }
    }

    /// Drops versions that no search can see any more; false if there were none.
    fn reclaim(&mut self, versions_max: usize) -> bool {
        self.end_loans();
        let Self { store, graph, linker, index, ward, healing, dead_linked, .. } = self;
        let linking = linker.as_ref().map(Linker::slot);
        let (shared, owner) = (store.shared_handle(), store.stripe().owner());
        let mut freed_nodes = 0;
        let dropped = |slot, payload: Option<&_>| {
            if let Some(payload) = payload {
                index.remove(slot, payload);
            }
            let is_linked = graph.level(slot).is_some() || linking == Some(slot);
            if is_linked {
                healing.bury(slot);
            }
            is_linked || shared.chains().holds(slot)
        };
        let freed = |slot| {
            if graph.level(slot).is_none() {
                return true;
            }
            // It left the graph in all but its own lists.
            let is_removed = graph.remove(slot);
            *dead_linked -= usize::from(is_removed);
            freed_nodes += u64::from(is_removed);
            ward.remove_dead(owner, usize::from(is_removed));
            is_removed
        };
        let reclaimed = store.reclaim(versions_max, dropped, freed) > 0;
        healing.freed += freed_nodes;
        reclaimed
    }
}
