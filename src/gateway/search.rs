//! Search and the searches of BulkSearch: from the message to the answer, measured and counted.

use std::time::{Duration, Instant};

use super::convert::search_response;
use super::deadline::search_deadline;
use super::{Gateway, validate};
use crate::engine::Query;
use crate::error::{Error, Result};
use crate::proto;
use crate::router::{Found, Router};

impl Gateway {
    /// One search, of Search or BulkSearch: answered, measured and counted.
    pub(super) async fn search(
        &self,
        request: proto::SearchRequest,
        timeout: Option<Duration>,
        begun: Instant,
    ) -> Result<proto::SearchResponse> {
        let found = self.search_shards(request, timeout, begun).await;
        let latency = begun.elapsed();
        let gateway = &self.observed.gateway;
        gateway.queries.add(1);
        match found {
            Ok(found) => {
                self.observed.methods.search.record(latency);
                let hot = found.hits.iter().filter(|hit| hit.is_hot).count() as u64;
                gateway.hot_hits.add(hot);
                gateway.cold_hits.add(found.hits.len() as u64 - hot);
                gateway.partial_searches.add(u64::from(!found.reasons.is_empty()));
                Ok(search_response(found, latency))
            }
            Err(error) => {
                // A request that was refused says nothing about how long searches take.
                if matches!(error, Error::Expired(_)) {
                    self.observed.methods.search.record(latency);
                }
                gateway.queries_failed.add(1);
                Err(error)
            }
        }
    }

    async fn search_shards(
        &self,
        request: proto::SearchRequest,
        timeout: Option<Duration>,
        begun: Instant,
    ) -> Result<Found> {
        let router = self.router()?;
        let server_max = Duration::from_millis(self.config.timeouts.cold_tier_ms);
        let deadline = search_deadline(begun, timeout, server_max);
        let named = self.named_vector(router, &request);
        let vector = tokio::time::timeout_at(deadline.into(), named)
            .await
            .unwrap_or(Err(Error::Expired("before the document searched from was read")))?;
        let query: Query = validate::search(request, vector, self.rules(), &self.config)?;
        router.search(query, deadline).await
    }

    /// The vector of the document that a search names instead of bringing one.
    async fn named_vector(
        &self,
        router: &Router,
        request: &proto::SearchRequest,
    ) -> Result<Option<Vec<f32>>> {
        if request.query_doc_id == 0 {
            return Ok(None);
        }
        if !request.query_embedding.is_empty() {
            let why = "is set beside query_embedding; send one of them";
            return Err(Error::invalid("query_doc_id", why));
        }
        let id = validate::doc_id("query_doc_id", request.query_doc_id)?;
        validate::namespace(&request.namespace)?;
        let found = router.get(&[id], &request.namespace, true).await?;
        let document = found.into_iter().next().flatten().ok_or_else(|| {
            Error::invalid("query_doc_id", format!("there is no document {} in scope", id.0))
        })?;
        Ok(Some(document.embedding.expect("it was asked for").into()))
    }
}
