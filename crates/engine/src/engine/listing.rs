//! Listing of documents page by page, in the order of their ids. The ids that one sweep has found are kept for the
//! pages that follow, so that listing N documents looks at about N slots, and not at N for each page.
//!
//! Only ids are kept. A page checks whether each document exists now and passes; and documents that were written
//! since the sweep began are noted, and looked at as well. So a page shows the state of its own moment, and no
//! snapshot is open between two pages.
//!
//! Kept listings are bounded in number and in ids. If there is no room, a page costs a sweep.

use crate::pieces::in_pieces;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::filter::Filter;
use super::read::{STEP_DOCUMENTS, STEP_FILTER_BYTES};
use super::sweep::Sweep;
use crate::types::DocId;

/// Most listings kept in a shard, and most ids of all of them, of 8 bytes each: 16 MiB. One sweep keeps at most half
/// as many ids, the smallest ones.
const LISTINGS_MAX: usize = 16;
fn ids_max() -> usize {
    in_pieces(2 << 20, 1 << 11)
}

/// Most documents written while a listing is kept; with more it is forgotten.
fn touched_max() -> usize {
    in_pieces(8_192, 200)
}

/// Time without a request for a page after which a listing is forgotten.
pub const LISTING_IDLE: Duration = Duration::from_secs(30);

/// Ids that a sweep has found, as sorted pieces: all within a range of ids.
struct Runs {
    filter: Filter,
    after: DocId,
    through: DocId,
    pieces: Vec<Vec<DocId>>,
}

struct Listing {
    number: u64,
    /// `None` until its sweep has ended.
    runs: Option<Arc<Runs>>,
    /// Documents written since the sweep began.
    touched: BTreeSet<DocId>,
    used: Instant,
}

impl Listing {
    fn ids(&self) -> usize {
        self.runs.as_ref().map_or(0, |runs| runs.pieces.iter().map(Vec::len).sum())
    }
}

/// The listings of a shard, the most recently used at the end.
#[derive(Default)]
pub(super) struct Listings {
    kept: Vec<Listing>,
    numbers: u64,
}

impl Listings {
    /// Notes that a version of `id`, or other metadata, was written.
    pub(super) fn touch(&mut self, id: DocId) {
        if self.kept.is_empty() {
            return;
        }
        self.kept.retain_mut(|listing| {
            listing.touched.insert(id);
            listing.touched.len() <= touched_max()
        });
    }

    fn begin(&mut self, now: Instant) -> u64 {
        self.numbers += 1;
        let (number, touched) = (self.numbers, BTreeSet::new());
        self.kept.push(Listing { number, runs: None, touched, used: now });
        self.make_room();
        number
    }

    /// Forgets the least recently used listings, while there are too many.
    fn make_room(&mut self) {
        let mut ids: usize = self.kept.iter().map(Listing::ids).sum();
        while self.kept.len() > LISTINGS_MAX || ids > ids_max() {
            ids -= self.kept.remove(0).ids();
        }
    }

    fn position(&self, number: u64) -> Option<usize> {
        self.kept.iter().position(|listing| listing.number == number)
    }
}

/// A sweep whose results are to be kept.
pub struct ListingSweep {
    number: u64,
    sweep: Sweep,
}

impl ListingSweep {
    /// Looks at some hundreds of documents. True when all have been seen.
    pub fn step(&mut self, engine: &Engine) -> bool {
        self.sweep.step(engine)
    }

    /// Number of slots looked at so far.
    #[must_use]
    pub fn looked(&self) -> u64 {
        self.sweep.looked()
    }
}

/// The next document of each of several sorted lists.
type Heads = BinaryHeap<Reverse<(DocId, usize, usize)>>;

/// A page in progress.
pub struct Page {
    runs: Arc<Runs>,
    /// Documents written since the sweep began, with ids after the start of the page.
    touched: Vec<DocId>,
    heads: Heads,
    /// The document looked at last.
    last: DocId,
    max: usize,
    ids: Vec<DocId>,
    looked: u64,
}

impl Page {
    fn begin(runs: Arc<Runs>, touched: &BTreeSet<DocId>, after: DocId, max: usize) -> Self {
        let within = (std::ops::Bound::Excluded(after), std::ops::Bound::Included(runs.through));
        let touched: Vec<DocId> = match after < runs.through {
            true => touched.range(within).copied().collect(),
            false => Vec::new(),
        };
        let lists = runs.pieces.iter().chain([&touched]).enumerate();
        let first = |(list, ids): (usize, &Vec<DocId>)| {
            let place = ids.partition_point(|&id| id <= after);
            ids.get(place).map(|&id| Reverse((id, list, place)))
        };
        let heads: Heads = lists.filter_map(first).collect();
        Self { runs, touched, heads, last: after, max, ids: Vec::new(), looked: 0 }
    }

    /// Takes the smallest remaining id.
    fn next(&mut self) -> Option<DocId> {
        let Reverse((id, list, place)) = self.heads.pop()?;
        let ids = self.runs.pieces.get(list).unwrap_or(&self.touched);
        if let Some(&next) = ids.get(place + 1) {
            self.heads.push(Reverse((next, list, place + 1)));
        }
        Some(id)
    }

    /// Looks at some hundreds of documents. True when the page is full, or there are no more.
    pub fn step(&mut self, engine: &Engine) -> bool {
        let conditions = self.runs.filter.conditions();
        let mut budget = STEP_FILTER_BYTES;
        for _ in 0..STEP_DOCUMENTS {
            if self.ids.len() == self.max {
                return true;
            }
            let Some(id) = self.next() else { return true };
            // A document written since the sweep began is in two lists.
            if id == self.last {
                continue;
            }
            self.last = id;
            self.looked += 1;
            let Some(slot) = engine.store.find(id) else { continue };
            let payload = engine.store.payload(slot);
            if self.runs.filter.matches(payload) {
                self.ids.push(id);
            }
            budget = budget.saturating_sub(conditions * payload.bytes().len());
            if budget == 0 {
                break;
            }
        }
        false
    }

    /// The ids of the page in order, and the id after which the next sweep has to begin, if the ids of this one end
    /// before the page is full.
    #[must_use]
    pub fn finish(self) -> (Vec<DocId>, Option<DocId>) {
        let is_short = self.ids.len() < self.max && self.runs.through < DocId(u64::MAX);
        (self.ids, is_short.then_some(self.runs.through))
    }

    /// Number of documents looked at so far.
    #[must_use]
    pub fn looked(&self) -> u64 {
        self.looked
    }
}

impl Engine {
    /// Begins a page of at most `max` documents after `after`, if a listing by this filter is kept that has them.
    pub fn page_of_kept(
        &mut self,
        filter: &Filter,
        after: DocId,
        max: usize,
        now: Instant,
    ) -> Option<Page> {
        self.end_idle_listings(now);
        let has_it = |listing: &Listing| {
            listing.runs.as_ref().is_some_and(|runs| {
                runs.after <= after && after < runs.through && runs.filter == *filter
            })
        };
        let kept = &mut self.listings.kept;
        let mut listing = kept.remove(kept.iter().position(has_it)?);
        listing.used = now;
        let runs = listing.runs.clone()?;
        let page = Page::begin(runs, &listing.touched, after, max);
        kept.push(listing);
        Some(page)
    }

    /// Begins to look for the documents after `after` that pass `filter`. [`Engine::begin_page`] or
    /// [`Engine::abandon_listing`] must follow.
    pub fn begin_listing(&mut self, filter: Filter, after: DocId, now: Instant) -> ListingSweep {
        let number = self.listings.begin(now);
        let sweep = self.sweep_behind(filter, after, ids_max() / 2);
        ListingSweep { number, sweep }
    }

    /// Ends a sweep that has seen all documents, keeps its ids for later pages, and begins the first page, of at most
    /// `max` documents.
    pub fn begin_page(&mut self, sweep: ListingSweep, max: usize, now: Instant) -> Page {
        let ListingSweep { number, sweep } = sweep;
        let (filter, mut found) = self.end_sweep(sweep);
        if let Some(last) = found.pieces.last_mut() {
            last.sort_unstable();
            last.shrink_to_fit();
        }
        let (after, through, pieces) = (found.after, found.through, found.pieces);
        let runs = Arc::new(Runs { filter, after, through, pieces });
        let Some(place) = self.listings.position(number) else {
            // Too much has been written meanwhile: the page shows the state at which the sweep began.
            return Page::begin(runs, &BTreeSet::new(), after, max);
        };
        let mut listing = self.listings.kept.remove(place);
        let page = Page::begin(runs.clone(), &listing.touched, after, max);
        (listing.runs, listing.used) = (Some(runs), now);
        self.listings.kept.push(listing);
        self.listings.make_room();
        page
    }

    /// Ends a sweep that has not seen all documents.
    pub fn abandon_listing(&mut self, sweep: ListingSweep) {
        if let Some(place) = self.listings.position(sweep.number) {
            self.listings.kept.remove(place);
        }
        self.end_sweep(sweep.sweep);
    }

    /// Forgets listings without a recent request for a page. True if some are left.
    pub fn end_idle_listings(&mut self, now: Instant) -> bool {
        let is_used = |listing: &mut Listing| {
            listing.runs.is_none() || now.saturating_duration_since(listing.used) < LISTING_IDLE
        };
        self.listings.kept.retain_mut(is_used);
        !self.listings.kept.is_empty()
    }
}
