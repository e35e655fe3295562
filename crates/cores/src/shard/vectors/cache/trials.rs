//! Trials of all tactics on the present workload: each runs on a sample of the keys, with an equally small part of the
//! places, and without rows ("miniature simulation": Waldspurger, Saemundsson, Ahmad and Park, "Cache Modeling and
//! Optimization using Miniature Simulations", 2017).

use super::index::Index;
use super::log::Use;
use super::regions::Regions;
use super::segments::Segments;
use super::sketch::Sketch;
use super::tactics::{TACTICS, Tactic, compare};

/// Comparisons of the results per as many uses as a trial has places.
const EPOCHS: usize = 8;

/// Uses per place over which results are forgotten: long enough to contain occasional events such as a scan, and no
/// longer, as the workload may change for good.
const MEMORY_USES: usize = 10;

/// Factor of older results after each epoch.
const KEPT: f32 = 1.0 - 1.0 / (MEMORY_USES * EPOCHS) as f32;

/// Least advantage of another tactic to replace the present one, in standard deviations of a random split of the uses
/// that only one of the two had cached.
const DOUBT: f32 = 1.0;

struct Trial {
    tactic: Tactic,
    uses: Vec<Use>,
    index: Index,
    segments: Segments,
    /// Hits, with weights that fall with age.
    score: f32,
}

/// All that is tried out.
pub(super) struct Trials {
    trials: Vec<Trial>,
    /// Uses that one of two trials had cached and the other had not, with weights that fall with age.
    differing: [[f32; TACTICS.len()]; TACTICS.len()],
    places_max: usize,
    /// Uses since the last comparison.
    uses: usize,
    best: usize,
}

impl Trials {
    /// Trials of `places_max` places each.
    pub(super) fn new(places_max: usize) -> Self {
        let trial = |tactic: Tactic| Trial {
            tactic,
            uses: Vec::with_capacity(places_max),
            index: Index::new(places_max),
            segments: Segments::new(places_max, tactic.shape),
            score: 0.0,
        };
        let trials = match places_max {
            0 => Vec::new(),
            _ => TACTICS.map(trial).into(),
        };
        Self { trials, differing: Default::default(), places_max, uses: 0, best: 0 }
    }

    /// The tactic with the best recent results.
    pub(super) fn best(&self) -> Tactic {
        TACTICS[self.best]
    }

    /// Tries a use that `counts` and `regions` already contain.
    pub(super) fn count(&mut self, of: Use, counts: &Sketch, regions: &Regions) {
        let mut is_hit = [false; TACTICS.len()];
        let mut hits = 0;
        for (trial, is_hit) in self.trials.iter_mut().zip(&mut is_hit) {
            *is_hit = trial.run(of, self.places_max, counts, regions);
            trial.score += f32::from(u8::from(*is_hit));
            hits += usize::from(*is_hit);
        }
        if hits > 0 && hits < self.trials.len() {
            for (differing, one) in self.differing.iter_mut().zip(is_hit) {
                for (differing, other) in differing.iter_mut().zip(is_hit) {
                    *differing += f32::from(u8::from(one != other));
                }
            }
        }
        self.uses += 1;
        if self.uses * EPOCHS >= self.places_max {
            self.uses = 0;
            self.choose();
        }
    }

    fn choose(&mut self) {
        let best = self.best;
        let Some(of_best) = self.trials.get(best).map(|trial| trial.score) else { return };
        let mut most = of_best;
        for (index, trial) in self.trials.iter_mut().enumerate() {
            let chance = self.differing[index][best].sqrt();
            if trial.score > most && trial.score > of_best + DOUBT * chance {
                most = trial.score;
                self.best = index;
            }
            trial.score *= KEPT;
        }
        self.differing.iter_mut().flatten().for_each(|uses| *uses *= KEPT);
    }
}

impl Trial {
    /// True if the trial has the requested row.
    fn run(&mut self, of: Use, places_max: usize, counts: &Sketch, regions: &Regions) -> bool {
        let uses = &mut self.uses;
        if let Some(place) = self.index.find(of.hash, |place| uses[place as usize].hash == of.hash)
        {
            self.segments.touch(place);
            return true;
        }
        let mut place = self.segments.len() as u32;
        if place as usize == places_max {
            let evidence = self.tactic.evidence;
            let goes = self.segments.evict(|new, old| {
                let (new, old) = (uses[new as usize], uses[old as usize]);
                compare(new, old, evidence, counts, |region| regions.worth(region)).is_worth_more
            });
            let Some(goes) = goes else { return false };
            place = goes.place;
            self.index.remove(uses[place as usize].hash, place);
            uses[place as usize] = of;
        } else {
            uses.push(of);
        }
        self.index.insert(of.hash, place);
        self.segments.insert(place);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    /// The best tactic after a number of uses of these keys.
    fn best(key: impl Fn(u64) -> u64) -> Tactic {
        let (mut trials, mut counts) = (Trials::new(500), Sketch::new(500));
        for round in 0..50_000 {
            let hash = mix(key(round));
            counts.count(hash);
            trials.count(Use { hash, region: 0 }, &counts, &Regions::new(500));
        }
        trials.best()
    }

    #[test]
    fn changing_keys_need_a_wide_window_and_scans_a_narrow_one() {
        // Each key comes twice, the second time after a window of less than half has lost it.
        let twice = best(|round| if round % 2 == 0 { round } else { round.saturating_sub(351) });
        assert!(twice.shape.window_permille > 400, "{twice:?}");
        // A loop over twice as many keys as there are places: LRU never hits.
        let scans = best(|round| round % 1_000);
        assert!(scans.shape.window_permille <= 10, "{scans:?}");
    }
}
