//! ListDocuments: every document in scope, page by page in the order of ids.
//!
//! A page shows one state of each shard, cut by ids, which never change: a document that exists from the first page to
//! the last is on one of them, whatever is written meanwhile. Shards keep the result of a sweep for the following pages
//! (`engine/listing`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status};

use super::convert::metadata;
use super::deadline::client_timeout;
use super::pieces::{Kept, LARGE_BYTES, Listed, bytes};
use super::purse::Purses;
use super::subject::Subject;
use super::{Gateway, validate};
use crate::engine::filter::Filter;
use crate::error::{Error, Result};
use crate::proto;

/// Most documents on a page, and the default.
const PAGE_MAX: u32 = 10_000;
const PAGE_DEFAULT: u32 = 100;

/// Longest time to find a page.
const LIST_MAX: Duration = Duration::from_secs(60);

impl Gateway {
    /// Answers a ListDocuments.
    pub(super) async fn list_page(
        self: &Arc<Self>,
        request: Request<proto::ListDocumentsRequest>,
    ) -> Result<Response<proto::ListDocumentsResponse>, Status> {
        let begun = Instant::now();
        let subject = self.admit(request.extensions());
        let timeout = client_timeout(request.metadata());
        let deadline = begun + timeout.map_or(LIST_MAX, |timeout| timeout.min(LIST_MAX));
        let purses = request.extensions().get().cloned();
        let list = self.list(subject, purses, request.into_inner(), deadline);
        let result = self.within(timeout, list).await;
        let counters = &self.observed.gateway;
        counters.queries.add(1);
        counters.queries_failed.add(u64::from(result.is_err()));
        self.answer(&self.observed.methods.query, begun, result).map(Listed::respond)
    }

    async fn list(
        &self,
        subject: Result<Subject>,
        purses: Option<Arc<Purses>>,
        request: proto::ListDocumentsRequest,
        deadline: Instant,
    ) -> Result<Listed<proto::ListDocumentsResponse>> {
        let (subject, router) = (subject?, self.router()?);
        let limit = match request.limit {
            0 => PAGE_DEFAULT,
            limit if limit <= PAGE_MAX => limit,
            limit => {
                let why = format!("{limit} is above {PAGE_MAX}; ask for the next page");
                return Err(Error::invalid("limit", why));
            }
        };
        let after = subject.bound("after_doc_id", request.after_doc_id)?;
        validate::namespace(&request.namespace)?;
        let none = std::collections::HashMap::new();
        let scope = validate::scope(&subject, &request.namespace, request.filter, none)?;
        let _places = self.bulk_places(limit as usize).await?;
        let filter = scope.unwrap_or(Filter::All);
        let page = (after, limit as usize);
        let (ids, has_more) = router.list(filter, page, subject.sweeps(), deadline).await?;
        let next_after = ids.last().map_or(request.after_doc_id, |&last| subject.own_id(last));
        let realm = subject.realm(&request.namespace);
        let held = self.held(purses.as_ref(), &subject, ids.len(), request.include_embeddings)?;
        let found = router.get(&ids, realm, request.include_embeddings).await?;
        // A document that was deleted since is missing.
        let documents: Vec<_> =
            ids.iter().zip(found).filter_map(|(&id, document)| Some((id, document?))).collect();
        let count = documents.len();
        subject.note_queries(count as u64);
        let others = proto::ListDocumentsResponse {
            has_more,
            next_after_doc_id: next_after,
            ..Default::default()
        };
        let bytes: usize = documents.iter().map(|(_, document)| bytes(Some(document))).sum();
        let make = move |index: usize| {
            let (id, document) = &documents[index];
            proto::ListedDocument {
                doc_id: subject.own_id(*id),
                embedding: document.embedding.as_deref().map(Vec::from).unwrap_or_default(),
                metadata: metadata(&document.payload),
                namespace: document.payload.namespace().to_owned(),
            }
        };
        if bytes < LARGE_BYTES {
            let documents = (0..count).map(make).collect();
            return Ok(Listed::whole(proto::ListDocumentsResponse { documents, ..others }));
        }
        Listed::of(others, count, make, Kept { held, ..Kept::default() }).await
    }
}
