//! Walks that begin at the results of a near query, beside walks through the upper levels: recall and cost, counted.

use std::sync::Arc;

use kyrodb::engine::{Engine, Query, SearchOutcome};
use kyrodb::graph::search::Work;
use kyrodb::router::near::{Near, STARTS_MAX};
use kyrodb::types::metric::Metric;
use kyrodb::types::{DocId, mix};

use super::{K, unit};

/// Queries at this cosine to those of the set, each in a direction of its own.
pub(super) fn run(engine: &mut Engine, queries: &[Arc<Query>], cosine: f32) -> String {
    let (mut work, mut hits, mut same) = ([Work::default(); 2], [0; 2], 0);
    for (number, before) in queries.iter().enumerate() {
        let asked = beside(&before.vector, cosine, number as u64);
        let ask = |k, is_exact| Query { vector: asked.clone(), k, is_exact, ..(**before).clone() };
        let starts = starts(engine, before, &asked);
        let truth = ids(&walk(engine, ask(K, true), &[]));
        let [through, near] = [&[][..], &starts].map(|starts| walk(engine, ask(K, false), starts));
        let found = [&through, &near].map(ids);
        for side in 0..2 {
            work[side] += [&through, &near][side].work;
            hits[side] += truth.iter().filter(|id| found[side].contains(id)).count();
        }
        same += found[0].iter().filter(|id| found[1].contains(id)).count();
    }
    let count = queries.len() as f64;
    let share = |hits: usize| hits as f64 / count / K as f64;
    let each = |counted: u64| counted as f64 / count;
    format!(
        "ef {}, cosine {cosine}: recall@{K} {:.4} and {:.4} begun near, {:.4} the same; distances {:.1} and \
         {:.1}, hops {:.1} and {:.1}",
        queries[0].ef,
        share(hits[0]),
        share(hits[1]),
        share(same),
        each(work[0].distances),
        each(work[1].distances),
        each(work[0].hops),
        each(work[1].hops),
    )
}

fn walk(engine: &mut Engine, query: Query, starts: &[DocId]) -> SearchOutcome {
    let mut search = engine.begin_search(Arc::new(query)).unwrap();
    engine.start_near(&mut search, starts);
    while !search.step(engine) {}
    engine.finish_search(search)
}

fn ids(outcome: &SearchOutcome) -> Vec<DocId> {
    outcome.hits.iter().map(|hit| hit.id).collect()
}

/// The nearest to `asked` among the results of another query.
fn starts(engine: &mut Engine, before: &Query, asked: &[f32]) -> Vec<DocId> {
    let near = Near { metric: Metric::Cosine, similarity_min: -1.0 };
    let k = near.width(before).expect("the beam is wider than k");
    let kept = Query { k, include_embeddings: true, ..before.clone() };
    let found = walk(engine, kept, &[]);
    let dot = |row: &[f32]| row.iter().zip(asked).map(|(a, b)| a * b).sum::<f32>();
    let score = |hit: &kyrodb::engine::Hit| dot(hit.embedding.as_deref().unwrap());
    let mut near: Vec<(f32, DocId)> = found.hits.iter().map(|hit| (score(hit), hit.id)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(STARTS_MAX).map(|(_, id)| id).collect()
}

/// A unit vector at this cosine to another one, in a direction chosen by a number.
fn beside(vector: &[f32], cosine: f32, number: u64) -> Vec<f32> {
    let value = |d: usize| (mix(number << 16 | d as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let aside: Vec<f32> = (0..vector.len()).map(value).collect();
    let dot: f32 = aside.iter().zip(vector).map(|(a, b)| a * b).sum();
    let aside: Vec<f32> = aside.iter().zip(vector).map(|(a, b)| a - dot * b).collect();
    let sine = (1.0 - cosine * cosine).sqrt();
    let sum = |(a, b): (f32, &f32)| sine * a + cosine * b;
    unit(&unit(&aside).into_iter().zip(vector).map(sum).collect::<Vec<f32>>())
}
