//! Conversion from the engine's types to protobuf messages.

use std::collections::HashMap;
use std::time::Duration;

use super::subject::Subject;
use crate::engine::{Document, Hit};
use crate::proto;
use crate::proto::query_response::Tier;
use crate::proto::search_response::SearchPath;
use crate::router::Found;
use crate::router::cached::Answer;
use crate::types::payload::Payload;

/// The metadata that a client may see.
pub(super) fn metadata(payload: &Payload) -> HashMap<String, String> {
    payload.user_pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The answer to a Query.
pub(super) fn query_response(id: u64, document: Option<Document>) -> proto::QueryResponse {
    let Some(document) = document else {
        return proto::QueryResponse { doc_id: id, ..Default::default() };
    };
    let tier = if document.is_hot { Tier::HotTier } else { Tier::ColdTier };
    proto::QueryResponse {
        found: true,
        doc_id: id,
        embedding: document.embedding.map(Vec::from).unwrap_or_default(),
        metadata: metadata(&document.payload),
        served_from: tier.into(),
        error: String::new(),
    }
}

/// The answer to a Search without its results.
pub(super) fn search_head(answer: &Answer, latency: Duration) -> proto::SearchResponse {
    let is_cached = answer.is_cached();
    let Found { hits, found, work, shards_asked, shards_answered, reasons } = answer.found();
    let hot = hits.iter().filter(|hit| hit.is_hot).count();
    let path = match (hot, hits.len() - hot) {
        _ if is_cached => SearchPath::CacheHit,
        (0, 0) => SearchPath::Unknown,
        (_, 0) => SearchPath::HotTierOnly,
        (0, _) => SearchPath::ColdTierOnly,
        _ => SearchPath::HotAndCold,
    };
    proto::SearchResponse {
        results: Vec::new(),
        total_found: u32::try_from(*found).unwrap_or(u32::MAX),
        search_latency_ms: latency.as_secs_f32() * 1e3,
        search_path: path.into(),
        error: String::new(),
        shards_asked: *shards_asked,
        shards_answered: *shards_answered,
        documents_considered: if is_cached { 0 } else { work.distances },
        coverage_reasons: reasons.clone(),
    }
}

/// The answer to a Search.
pub(super) fn search_response(
    answer: Answer,
    subject: &Subject,
    latency: Duration,
) -> proto::SearchResponse {
    let response = search_head(&answer, latency);
    let results = match answer {
        Answer::Fresh(found) | Answer::Near(found) => {
            let own = |mut hit: Hit| {
                let embedding = hit.embedding.take().map(Vec::from);
                search_result(&hit, embedding, subject)
            };
            found.hits.into_iter().map(own).collect()
        }
        Answer::Shared(kept) | Answer::Cached(kept) => {
            let copy = |hit: &Hit| {
                let embedding = hit.embedding.as_deref().map(<[f32]>::to_vec);
                search_result(hit, embedding, subject)
            };
            kept.found.hits.iter().map(copy).collect()
        }
    };
    proto::SearchResponse { results, ..response }
}

/// A result of a Search at this index; the answer is kept for the others.
pub(super) fn search_result_at(
    answer: &Answer,
    index: usize,
    subject: &Subject,
) -> proto::SearchResult {
    let hit = &answer.found().hits[index];
    search_result(hit, hit.embedding.as_deref().map(<[f32]>::to_vec), subject)
}

fn search_result(hit: &Hit, embedding: Option<Vec<f32>>, subject: &Subject) -> proto::SearchResult {
    proto::SearchResult {
        doc_id: subject.own_id(hit.id),
        score: hit.score,
        embedding: embedding.unwrap_or_default(),
        metadata: metadata(&hit.payload),
    }
}
