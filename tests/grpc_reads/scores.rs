//! Scores of the three metrics, against values computed by hand.

use kyrodb::proto::{FlushRequest, QueryRequest, SearchRequest, SearchResponse};

use super::common::{Inside, ids, insert, runtime, search};
use super::find;

/// Documents in the plane; 5 and 6 are at one point.
const POINTS: [(u64, [f32; 2]); 6] = [
    (1, [3.0, 4.0]),
    (2, [-1.0, 0.0]),
    (3, [0.0, 2.0]),
    (4, [5.0, 0.0]),
    (6, [1.0, 1.0]),
    (5, [1.0, 1.0]),
];

/// The query vector.
const QUERY: [f32; 2] = [2.0, 0.0];

/// A document without a direction, which cosine refuses.
const ZERO: (u64, [f32; 2]) = (7, [0.0, 0.0]);

/// Documents in the expected order, with their scores.
type Expected<'a> = &'a [(u64, f64)];

fn assert_scored(answer: &SearchResponse, expected: Expected<'_>) {
    assert_eq!(ids(answer), expected.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for (result, (_, score)) in answer.results.iter().zip(expected) {
        assert!((f64::from(result.score) - score).abs() < 1e-6, "{result:?} instead of {score}");
    }
}

/// Stores the points, and checks scores before and after linking, and the returned vectors.
fn check(
    distance: &str,
    points: &[(u64, [f32; 2])],
    expected: Expected<'_>,
    stored: impl Fn([f32; 2]) -> [f32; 2],
) {
    let server = Inside::start(&[("hnsw.distance", distance), ("runtime.shards", "3")]);
    runtime().block_on(async {
        let mut client = server.client().await;
        for (id, point) in points {
            client.insert(insert(*id, point, &[])).await.unwrap();
        }
        for is_flushed in [false, true] {
            if is_flushed {
                client.flush_hot_tier(FlushRequest { force: true }).await.unwrap();
            }
            for k in 1..=expected.len() {
                let answer = find(&mut client, search(&QUERY, k as u32)).await;
                assert_scored(&answer, &expected[..k]);
                assert_eq!(answer.total_found as usize, expected.len());
                assert!(answer.results.iter().all(|result| result.embedding.is_empty()));
            }
        }
        for min_score in [-1.0, 0.0] {
            let request = SearchRequest { min_score, ..search(&QUERY, 1_000) };
            assert_scored(&find(&mut client, request).await, expected);
        }
        let all = find(&mut client, search(&QUERY, 1_000)).await;
        for (index, result) in all.results.iter().enumerate() {
            if result.score > 0.0
                && all.results.get(index + 1).is_none_or(|r| r.score < result.score)
            {
                let request = SearchRequest { min_score: result.score, ..search(&QUERY, 1_000) };
                let answer = find(&mut client, request).await;
                assert_scored(&answer, &expected[..=index]);
                assert_eq!(answer.total_found as usize, index + 1);
            }
        }
        let request = SearchRequest { include_embeddings: true, ..search(&QUERY, 1_000) };
        for result in find(&mut client, request).await.results {
            let point = points.iter().find(|(id, _)| *id == result.doc_id).unwrap().1;
            let doc_id = result.doc_id;
            let request = QueryRequest { doc_id, include_embedding: true, ..Default::default() };
            let found = client.query(request).await.unwrap().into_inner();
            for embedding in [result.embedding, found.embedding] {
                assert_eq!(embedding.len(), 2);
                let apart = embedding.iter().zip(stored(point)).map(|(a, b)| (a - b).abs());
                assert!(apart.sum::<f32>() < 1e-6, "{embedding:?} instead of {:?}", stored(point));
            }
        }
    });
}

#[test]
fn cosine_scores_are_dot_products_of_unit_vectors() {
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let expected = [(4, 1.0), (5, half), (6, half), (1, 0.6), (3, 0.0), (2, -1.0)];
    let unit = |[x, y]: [f32; 2]| [x / x.hypot(y), y / x.hypot(y)];
    check("cosine", &POINTS, &expected, unit);
}

#[test]
fn inner_product_scores_are_dot_products_of_vectors_as_sent() {
    let points: Vec<_> = POINTS.into_iter().chain([ZERO]).collect();
    let expected = [(4, 10.0), (1, 6.0), (5, 2.0), (6, 2.0), (3, 0.0), (7, 0.0), (2, -2.0)];
    check("innerproduct", &points, &expected, |point| point);
}

#[test]
fn euclidean_scores_fall_with_the_distance() {
    let points: Vec<_> = POINTS.into_iter().chain([ZERO]).collect();
    let score = |squares: f64| 1.0 / (1.0 + squares.sqrt());
    let expected = [
        (5, score(2.0)),
        (6, score(2.0)),
        (7, score(4.0)),
        (3, score(8.0)),
        (2, score(9.0)),
        (4, score(9.0)),
        (1, score(17.0)),
    ];
    check("euclidean", &points, &expected, |point| point);
}
