//! Counts of a cache's right and wrong decisions: rows let in that were never used, and rows turned away that were
//! asked for again.

/// Statistics of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Decisions which of two rows is worth more.
    pub predictions: u64,
    /// Decisions among them that used the worth of regions.
    pub predictions_by_region: u64,
    /// Decisions that have turned out to be right or wrong.
    pub resolved: u64,
    /// Rows that were let into the main part and left it without a use there.
    pub false_positives: u64,
    /// Rows that were turned away and asked for again before about a quarter as many others as there are places had
    /// been turned away.
    pub false_negatives: u64,
    /// Documents with a count, estimated.
    pub(crate) tracked_keys: u64,
    /// Rows in the protected segment.
    pub(crate) hot_rows: u64,
    /// A trainer has chosen the tactic.
    pub is_trained: bool,
}

impl Figures {
    /// Share of right decisions among those that have turned out right or wrong; `None` before the first.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        let wrong = self.false_positives + self.false_negatives;
        (self.resolved > 0).then(|| 1.0 - wrong as f64 / self.resolved as f64)
    }
}

/// Fingerprints of rows that were turned away lately, each until another takes its place.
pub(super) struct Refused(Vec<u32>);

/// What became of a row after it was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The row was asked for again.
    AskedFor,
    /// Its fingerprint was replaced before it was asked for.
    Forgotten,
}

/// Places of the cache per fingerprint.
const FINGERPRINT_PLACES: usize = 4;

impl Refused {
    /// Bytes per place of the cache.
    pub(super) const PLACE_BYTES: usize = size_of::<u32>() / FINGERPRINT_PLACES;

    /// For a cache of `places_max` places.
    pub(super) fn new(places_max: usize) -> Self {
        Self(vec![0; places_max.div_ceil(FINGERPRINT_PLACES).max(1)])
    }

    fn place(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.0.len() as u128) >> 64) as usize
    }

    /// Fingerprint from bits that do not choose the place; never 0, which means empty.
    fn fingerprint(hash: u64) -> u32 {
        hash as u32 | 1
    }

    /// Notes that a row is turned away. Returns the fate of the row whose fingerprint it replaces.
    pub(super) fn note(&mut self, hash: u64) -> Option<Fate> {
        let place = self.place(hash);
        let before = std::mem::replace(&mut self.0[place], Self::fingerprint(hash));
        (before != 0).then_some(Fate::Forgotten)
    }

    /// Notes a request for a row that is not in the cache. Returns its fate if it had been turned away.
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
    fn refused_rows_are_known_once_and_replaced_by_others() {
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
    fn accuracy_counts_resolved_predictions() {
        let mut figures = Figures::default();
        assert_eq!(figures.accuracy(), None);
        figures = Figures { resolved: 8, false_positives: 1, false_negatives: 1, ..figures };
        assert_eq!(figures.accuracy(), Some(0.75));
    }
}
