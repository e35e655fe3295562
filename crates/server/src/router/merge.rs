//! Merges answers of shards: best first, equal scores by document id, at most k.

use crate::engine::Hit;

/// Merges the sorted answers of shards. No document is in two of them.
#[must_use]
pub fn merge(mut answers: Vec<Vec<Hit>>, k: usize) -> Vec<Hit> {
    if answers.len() == 1 {
        let mut only = answers.pop().unwrap_or_default();
        only.truncate(k);
        return only;
    }
    let mut all: Vec<Hit> = answers.into_iter().flatten().collect();
    // The runs are sorted: a stable sort merges them.
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    all.truncate(k);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DocId;
    use crate::types::payload::Payload;
    use proptest::prelude::*;

    fn hit(id: u64, score: i8) -> Hit {
        let payload = Payload::new([], "").unwrap();
        let score = f32::from(score) / 8.0;
        Hit { id: DocId(id), score, payload, embedding: None, is_hot: false }
    }

    proptest! {
        #[test]
        fn merging_is_sorting(
            scores in proptest::collection::vec(any::<i8>(), 0..80), shards in 1..5_usize, k in 1..20_usize,
        ) {
            let mut answers = vec![Vec::new(); shards];
            for (id, &score) in scores.iter().enumerate() {
                answers[id % shards].push(hit(id as u64 + 1, score));
            }
            let best_first = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id));
            let mut expected: Vec<Hit> = answers.iter().flatten().cloned().collect();
            expected.sort_by(best_first);
            answers.iter_mut().for_each(|answer| answer.sort_by(best_first));
            let merged: Vec<DocId> = merge(answers, k).iter().map(|hit| hit.id).collect();
            let expected: Vec<DocId> = expected.iter().take(k).map(|hit| hit.id).collect();
            prop_assert_eq!(merged, expected);
        }
    }
}
