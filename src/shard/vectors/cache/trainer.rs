//! Learns from a log of uses how a cache should decide, beside the cache: it has counts and trials of
//! its own, of a sample of the keys, and shares nothing with it. Who runs it does so in slices, as time
//! allows, and gives the cache what has come out as a [`Model`].

use super::log::Use;
use super::regions::{Regions, Worths};
use super::sketch::Sketch;
use super::tactics::{Tactic, UNTRAINED};
use super::trials::Trials;

/// One key in so many is in the sample, at least.
const SAMPLE_PARTS_MIN: usize = 8;

/// Most places of a trial.
const PLACES_MAX: usize = 4_096;

/// How a cache is to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(super) tactic: Tactic,
    pub(super) worths: Worths,
}

impl Default for Model {
    /// Before anything was learned.
    fn default() -> Self {
        Self { tactic: UNTRAINED, worths: Worths::default() }
    }
}

/// What learns.
pub(crate) struct Trainer {
    /// One key in so many is in the sample.
    parts: usize,
    counts: Sketch,
    regions: Regions,
    trials: Trials,
}

impl Trainer {
    /// For a cache of so many places.
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

    /// Learns from what was asked for, oldest first. Takes some 50 ns a use.
    pub(crate) fn learn(&mut self, uses: &[Use]) {
        let below = u64::MAX / self.parts as u64;
        for &of in uses {
            // Not the bits by which sketch and index choose.
            if of.hash.rotate_left(27).wrapping_mul(0x9e37_79b9_7f4a_7c15) >= below {
                continue;
            }
            let seen = self.counts.count(of.hash);
            self.regions.count(of.region, seen == 0);
            self.trials.count(of, &self.counts, &self.regions);
        }
    }

    /// What has been learned.
    pub(crate) fn model(&self) -> Model {
        Model { tactic: self.trials.best(), worths: self.regions.worths() }
    }
}
