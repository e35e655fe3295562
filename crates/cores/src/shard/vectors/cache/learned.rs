//! Learned replacement policy: how often each document was asked for, over a longer and a recent span, and how often
//! documents of its region of the graph are asked for again. Which of these counts, and the share of places for new
//! rows, is set by a [`Model`]; see [`super::trainer`].

use super::figures::{Fate, Figures, Refused};
use super::log::Use;
use super::segments::Segments;
use super::sketch::Sketch;
use super::tactics::compare;
use super::trainer::Model;

/// The policy of `cache.strategy = "learned"`.
pub(super) struct Learned {
    segments: Segments,
    /// Region where the document in each place was first asked for.
    regions_of: Vec<u32>,
    /// Counts of documents, cached or not.
    counts: Sketch,
    refused: Refused,
    model: Model,
    figures: Figures,
}

impl Learned {
    /// Bytes per place.
    pub(super) const PLACE_BYTES: usize =
        Segments::PLACE_BYTES + size_of::<u32>() + Sketch::PLACE_BYTES + Refused::PLACE_BYTES;

    /// For `places_max` places.
    pub(super) fn new(places_max: usize) -> Self {
        let model = Model::default();
        Self {
            segments: Segments::new(places_max, model.tactic.shape),
            regions_of: Vec::with_capacity(places_max),
            counts: Sketch::new(places_max),
            refused: Refused::new(places_max),
            model,
            figures: Figures::default(),
        }
    }

    /// An empty cache of `places_max` places that keeps the model and the figures.
    pub(super) fn emptied(&self, places_max: usize) -> Self {
        let mut emptied = Self { figures: self.figures, ..Self::new(places_max) };
        emptied.set(self.model.clone());
        emptied
    }

    /// Uses this model from now on. Places move between segments as rows come or are used.
    pub(super) fn adopt(&mut self, model: Model) {
        self.figures.is_trained = true;
        self.set(model);
    }

    fn set(&mut self, model: Model) {
        self.segments.divide(model.tactic.shape);
        self.model = model;
    }

    /// Counts a request for a document, which is at `place` if it is cached.
    pub(super) fn count(&mut self, hash: u64, place: Option<u32>) {
        self.counts.count(hash);
        let is_resolved = match place {
            Some(place) => self.segments.touch(place),
            None => match self.refused.ask(hash) {
                Some(Fate::AskedFor) => {
                    self.figures.false_negatives += 1;
                    true
                }
                Some(Fate::Forgotten) | None => false,
            },
        };
        self.figures.resolved += u64::from(is_resolved);
    }

    /// Counts a request from before the cache existed.
    pub(super) fn warm(&mut self, hash: u64) {
        self.counts.count(hash);
    }

    /// Notes that a document is put at a place by a search in this region.
    pub(super) fn insert(&mut self, place: u32, region: u32) {
        match self.regions_of.get_mut(place as usize) {
            Some(of) => *of = region,
            None => self.regions_of.push(region),
        }
        self.segments.insert(place);
    }

    /// Removes and returns the place with the least worth.
    pub(super) fn evict(&mut self, hash_of: impl Fn(u32) -> u64) -> Option<u32> {
        let Self { segments, regions_of, counts, model, figures, .. } = self;
        let of = |place: u32| Use { hash: hash_of(place), region: regions_of[place as usize] };
        let goes = segments.evict(|new, old| {
            let (new, old) = (of(new), of(old));
            let evidence = model.tactic.evidence;
            let verdict = compare(new, old, evidence, counts, |region| model.worths.worth(region));
            figures.predictions += 1;
            figures.predictions_by_region += u64::from(verdict.is_by_region);
            verdict.is_worth_more
        })?;
        if goes.is_unproved {
            figures.false_positives += 1;
            figures.resolved += 1;
        }
        if goes.is_refused {
            let forgotten = self.refused.note(hash_of(goes.place));
            figures.resolved += u64::from(forgotten.is_some());
        }
        Some(goes.place)
    }

    /// Statistics.
    pub(super) fn figures(&self) -> Figures {
        let (tracked_keys, hot_rows) = (self.counts.keys(), self.segments.protected() as u64);
        Figures { tracked_keys, hot_rows, ..self.figures }
    }
}
