//! Which tactic does best on what is asked for now: each is tried out on a sample of the keys, with as
//! large a part of the places, and without rows ("miniature simulation": Waldspurger, Saemundsson, Ahmad
//! and Park, "Cache Modeling and Optimization using Miniature Simulations", 2017).

use super::index::Index;
use super::log::Use;
use super::regions::Regions;
use super::segments::Segments;
use super::sketch::Sketch;
use super::tactics::{TACTICS, Tactic, compare};

/// Results are compared after so many uses for each place of a trial.
const EPOCH_USES: usize = 1;

/// What results before count for then.
const KEPT: f32 = 0.8;

/// How many times as much another tactic has to have brought to be taken instead.
const MARGIN: f32 = 1.002;

struct Trial {
    tactic: Tactic,
    uses: Vec<Use>,
    index: Index,
    segments: Segments,
    hits: u32,
    /// Hits of epochs before, the further back the less.
    score: f32,
}

/// All that is tried out.
pub(super) struct Trials {
    trials: Vec<Trial>,
    places_max: usize,
    uses: usize,
    best: usize,
}

impl Trials {
    /// Of so many places each.
    pub(super) fn new(places_max: usize) -> Self {
        let trial = |tactic: Tactic| Trial {
            tactic,
            uses: Vec::with_capacity(places_max),
            index: Index::new(places_max),
            segments: Segments::new(places_max, tactic.shape),
            hits: 0,
            score: 0.0,
        };
        let trials = match places_max {
            0 => Vec::new(),
            _ => TACTICS.map(trial).into(),
        };
        Self { trials, places_max, uses: 0, best: 0 }
    }

    /// The tactic that has done best of late.
    pub(super) fn best(&self) -> Tactic {
        TACTICS[self.best]
    }

    /// Tries a use that has been counted in what is known.
    pub(super) fn count(&mut self, of: Use, counts: &Sketch, regions: &Regions) {
        for trial in &mut self.trials {
            trial.run(of, self.places_max, counts, regions);
        }
        self.uses += 1;
        if self.uses >= EPOCH_USES * self.places_max {
            self.uses = 0;
            self.choose();
        }
    }

    fn choose(&mut self) {
        for trial in &mut self.trials {
            trial.score = trial.score * KEPT + std::mem::take(&mut trial.hits) as f32;
        }
        for (index, trial) in self.trials.iter().enumerate() {
            if trial.score > self.trials[self.best].score * MARGIN {
                self.best = index;
            }
        }
    }
}

impl Trial {
    fn run(&mut self, of: Use, places_max: usize, counts: &Sketch, regions: &Regions) {
        let uses = &mut self.uses;
        if let Some(place) = self.index.find(of.hash, |place| uses[place as usize].hash == of.hash)
        {
            self.hits += 1;
            self.segments.touch(place);
            return;
        }
        let mut place = self.segments.len() as u32;
        if place as usize == places_max {
            let evidence = self.tactic.evidence;
            let goes = self.segments.evict(|new, old| {
                let (new, old) = (uses[new as usize], uses[old as usize]);
                compare(new, old, evidence, counts, |region| regions.worth(region)).is_worth_more
            });
            let Some(goes) = goes else { return };
            place = goes.place;
            self.index.remove(uses[place as usize].hash, place);
            uses[place as usize] = of;
        } else {
            uses.push(of);
        }
        self.index.insert(of.hash, place);
        self.segments.insert(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    /// The tactic that is best after so many uses of these keys.
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
    fn what_changes_all_the_time_is_for_a_wide_window_and_scans_for_a_narrow_one() {
        // Each key comes twice, the second time when a window of less than half has lost it.
        let twice = best(|round| if round % 2 == 0 { round } else { round.saturating_sub(351) });
        assert!(twice.shape.window_permille > 400, "{twice:?}");
        // All of twice as many keys as there are places, again and again: LRU never has one.
        let scans = best(|round| round % 1_000);
        assert!(scans.shape.window_permille <= 10, "{scans:?}");
    }
}
