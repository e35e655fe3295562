//! How well a cache decides: what it let in that was of no use, and what it turned away that was asked
//! for again.

/// What there is to tell of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Times that it was decided which of two rows is worth more.
    pub(crate) predictions: u64,
    /// Of them, with what regions are worth.
    pub(crate) predictions_by_region: u64,
    /// Predictions of which it has turned out whether they were right.
    pub(crate) resolved: u64,
    /// Rows that were let into the main part and left it without having been used there.
    pub(crate) false_positives: u64,
    /// Rows that were turned away and were asked for again before a quarter as many others as there are
    /// places had been turned away, about.
    pub(crate) false_negatives: u64,
    /// Documents that there are counts of, about.
    pub(crate) tracked_keys: u64,
    /// Rows that are protected.
    pub(crate) hot_rows: u64,
    /// A trainer has chosen how to decide.
    pub(crate) is_trained: bool,
}

impl Figures {
    /// The part of the predictions that were right, of those that have turned out to be or not to be;
    /// `None` before the first.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        let wrong = self.false_positives + self.false_negatives;
        (self.resolved > 0).then(|| 1.0 - wrong as f64 / self.resolved as f64)
    }
}

/// Which rows were turned away of late, by fingerprints: each until another has its place.
pub(super) struct Refused(Vec<u32>);

/// What became of a row that had been turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was asked for again.
    AskedFor,
    /// It was not, for as long as it was known.
    Forgotten,
}

/// A fingerprint for so many places.
const FINGERPRINT_PLACES: usize = 4;

impl Refused {
    /// What it takes for a place.
    pub(super) const PLACE_BYTES: usize = size_of::<u32>() / FINGERPRINT_PLACES;

    /// For a cache of so many places.
    pub(super) fn new(places_max: usize) -> Self {
        Self(vec![0; places_max.div_ceil(FINGERPRINT_PLACES).max(1)])
    }

    fn place(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.0.len() as u128) >> 64) as usize
    }

    /// By bits that have not chosen the place; never 0, which is nothing.
    fn fingerprint(hash: u64) -> u32 {
        hash as u32 | 1
    }

    /// Notes that a row is turned away; the fate of the one that is forgotten for it.
    pub(super) fn note(&mut self, hash: u64) -> Option<Fate> {
        let place = self.place(hash);
        let before = std::mem::replace(&mut self.0[place], Self::fingerprint(hash));
        (before != 0).then_some(Fate::Forgotten)
    }

    /// Notes that a row is asked for that is not here; its fate, if it had been turned away.
    pub(super) fn ask(&mut self, hash: u64) -> Option<Fate> {
        let place = self.place(hash);
        if self.0[place] != Self::fingerprint(hash) {
            return None;
        }
        self.0[place] = 0;
        Some(Fate::AskedFor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    #[test]
    fn what_was_turned_away_is_known_once_and_forgotten_for_others() {
        let mut refused = Refused::new(400);
        assert_eq!(refused.ask(mix(1)), None);
        assert_eq!(refused.note(mix(1)), None);
        assert_eq!(refused.ask(mix(1)), Some(Fate::AskedFor));
        assert_eq!(refused.ask(mix(1)), None, "once");
        refused.note(mix(1));
        let forgotten = (1_000..1_500).filter_map(|key| refused.note(mix(key))).count();
        assert!(forgotten >= 400, "a hundred at most are known: {forgotten}");
        let known = (1_000..1_500).filter(|&key| refused.ask(mix(key)).is_some()).count();
        assert!((90..=100).contains(&known), "{known}");
    }

    #[test]
    fn accuracy_is_of_what_has_turned_out() {
        let mut figures = Figures::default();
        assert_eq!(figures.accuracy(), None);
        figures = Figures { resolved: 8, false_positives: 1, false_negatives: 1, ..figures };
        assert_eq!(figures.accuracy(), Some(0.75));
    }
}
