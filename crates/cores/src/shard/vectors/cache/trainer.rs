//! Trainer of the learned cache: it finds the best tactic from a log of uses. It has counts and trials of its own, of a
//! sample of the keys, and shares no state with the cache. Its caller runs it in slices, as time allows, and gives the
//! resulting [`Model`] to the cache.

use super::log::Use;
use super::regions::{Regions, Worths};
use super::sketch::Sketch;
use super::tactics::{Tactic, UNTRAINED};
use super::trials::Trials;

/// Least divisor of the sample: at most 1 key in 8 is in it.
const SAMPLE_PARTS_MIN: usize = 8;

/// Most places of a trial.
const PLACES_MAX: usize = 4_096;

/// The tactic of a cache, with the worth of regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(super) tactic: Tactic,
    pub(super) worths: Worths,
}

impl Default for Model {
    /// The model before anything was learned.
    fn default() -> Self {
        Self { tactic: UNTRAINED, worths: Worths::default() }
    }
}

/// State of the training.
pub(crate) struct Trainer {
    /// Divisor of the sample: 1 key in `parts` is in it.
    parts: usize,
    counts: Sketch,
    regions: Regions,
    trials: Trials,
}

impl Trainer {
    /// For a cache of `places_max` places.
    pub(crate) fn new(places_max: usize) -> Self {
        let parts = SAMPLE_PARTS_MIN.max(places_max.div_ceil(PLACES_MAX));
        let sample = places_max / parts;
        Self {
            parts,
            counts: Sketch::new(sample),
            regions: Regions::new(places_max),
            trials: Trials::new(sample),
        }
    }

    /// Learns from these uses, oldest first. Takes some 50 ns per use.
    pub(crate) fn learn(&mut self, uses: &[Use]) {
        let below = u64::MAX / self.parts as u64;
        for &of in uses {
            // Bits of the hash other than those that choose the counters and the chain.
            if of.hash.rotate_left(27).wrapping_mul(0x9e37_79b9_7f4a_7c15) >= below {
                continue;
            }
            let seen = self.counts.count(of.hash);
            self.regions.count(of.region, seen == 0);
            self.trials.count(of, &self.counts, &self.regions);
        }
    }

    /// The model learned so far.
    pub(crate) fn model(&self) -> Model {
        Model { tactic: self.trials.best(), worths: self.regions.worths() }
    }
}
