//! Beam width of each shard, such that all shards together find as much as one graph of all documents would.

/// Least beam width: narrower beams miss the way, and would find less than one graph does at ef 10.
const NARROWEST: usize = 6;

/// The beam width with which each shard is searched, where one graph of all documents would be
/// searched with `ef`, which is at least k, the number wanted. `share` is that of the fullest shard,
/// of all documents; it is above 0.
///
/// A shard holds a random part of the true neighbours, and only those it has to find. Its beam still has to find the
/// way to them, so it can't be narrower by as much as the shard is smaller: measured over ef 10 to 200, k 1 to 100 and
/// 1 to 16 shards, the width at which all together find as much as one graph falls with the cube root of the share, at
/// k 10; at k 100, they find more. Of 112,659 documents of 384 values, k 10, ef 50, with recall and distances per
/// search:
///
/// | shards | beam | recall | distances | at the whole ef |
/// |---|---|---|---|---|
/// | 1 | 50 | 0.9860 | 1,026 | 1,026 |
/// | 2 | 40 | 0.9859 | 1,723 | 2,030 |
/// | 4 | 32 | 0.9858 | 2,864 | 3,958 |
/// | 8 | 25 | 0.9859 | 4,636 | 7,598 |
/// | 16 | 20 | 0.9858 | 7,606 | 14,359 |
///
/// `tuning.md` has more of it, and the command.
///
/// k documents come back where there are k: a shard answers with as many as its beam is wide, or
/// with all that it has, and `ef · ∛share` is at least `k · share`. So a shard that has a part p of
/// all n documents, where p is at most the share, answers with at least `min(k, n) · p` of them,
/// and these parts add up to `min(k, n)`.
#[must_use]
pub fn beam_width(ef: usize, share: f64) -> usize {
    debug_assert!(share > 0.0);
    let width = (ef as f64 * share.cbrt()).ceil() as usize;
    width.max(NARROWEST).min(ef)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_shard_has_the_whole_beam_and_more_have_less() {
        for ef in [1, 10, 50, 10_000] {
            assert_eq!(beam_width(ef, 1.0), ef);
        }
        let widths = [1.0, 2.0, 4.0, 8.0, 16.0].map(|shards| beam_width(50, 1.0 / shards));
        assert_eq!(widths, [50, 40, 32, 25, 20]);
        assert_eq!((beam_width(10, 1.0 / 16.0), beam_width(3, 1.0 / 16.0)), (6, 3));
    }

    proptest! {
        #[test]
        fn up_to_k_existing_documents_come_back(
            counts in proptest::collection::vec(0..2_000_usize, 1..20),
            k in 1..1_000_usize,
            wider in 0..100_usize,
        ) {
            let all: usize = counts.iter().sum();
            let most = counts.iter().max().copied().unwrap_or(0);
            prop_assume!(most > 0);
            let width = beam_width(k + wider, most as f64 / all as f64);
            let answered: usize = counts.iter().map(|count| width.min(*count)).sum();
            prop_assert!(answered >= k.min(all), "{answered} of {all} for {k}");
        }
    }
}
