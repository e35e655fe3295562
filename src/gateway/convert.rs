//! From the words of the engine to the wire.

use std::collections::HashMap;
use std::time::Duration;

use super::subject::Subject;
use crate::engine::{Document, Hit};
use crate::proto;
use crate::proto::query_response::Tier;
use crate::proto::search_response::SearchPath;
use crate::router::Found;
use crate::store::payload::Payload;

/// The pairs that a client may see.
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

/// The answer to a Search.
pub(super) fn search_response(
    found: Found,
    subject: &Subject,
    latency: Duration,
) -> proto::SearchResponse {
    let hot = found.hits.iter().filter(|hit| hit.is_hot).count();
    let path = match (hot, found.hits.len() - hot) {
        (0, 0) => SearchPath::Unknown,
        (_, 0) => SearchPath::HotTierOnly,
        (0, _) => SearchPath::ColdTierOnly,
        _ => SearchPath::HotAndCold,
    };
    proto::SearchResponse {
        results: found.hits.into_iter().map(|hit| search_result(hit, subject)).collect(),
        total_found: u32::try_from(found.found).unwrap_or(u32::MAX),
        search_latency_ms: latency.as_secs_f32() * 1e3,
        search_path: path.into(),
        error: String::new(),
        shards_asked: found.shards_asked,
        shards_answered: found.shards_answered,
        documents_considered: found.work.distances,
        coverage_reasons: found.reasons,
    }
}

fn search_result(hit: Hit, subject: &Subject) -> proto::SearchResult {
    proto::SearchResult {
        doc_id: subject.own_id(hit.id),
        score: hit.score,
        embedding: hit.embedding.map(Vec::from).unwrap_or_default(),
        metadata: metadata(&hit.payload),
    }
}
