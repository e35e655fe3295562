//! Search and the searches of BulkSearch: from the message to the answer, measured and counted.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status};

use super::convert::{search_head, search_response, search_result_at};
use super::deadline::{client_timeout, search_deadline};
use super::ended::{About, end};
use super::pieces::{Kept, LARGE_BYTES, Listed};
use super::status::{count, status};
use super::subject::Subject;
use super::timing::{self, Unfinished};
use super::{Gateway, validate};
use crate::access::fair::Guest;
use crate::engine::Query;
use crate::error::{Error, Result};
use crate::observe::trace::{Stage, Trace};
use crate::proto;
use crate::router::Router;
use crate::router::cached::Answer;

/// The answer to a Search, in pieces where it is large.
async fn listed(
    answer: Answer,
    subject: Subject,
    latency: Duration,
) -> Result<Listed<proto::SearchResponse>> {
    let hits = &answer.found().hits;
    let values = hits.first().and_then(|hit| hit.embedding.as_ref()).map_or(0, |v| v.len());
    let vectors = hits.len() * values * size_of::<f32>();
    let metadata: usize = hits.iter().map(|hit| hit.payload.bytes().len()).sum();
    if metadata + vectors < LARGE_BYTES {
        return Ok(Listed::whole(search_response(answer, &subject, latency)));
    }
    let (head, count) = (search_head(&answer, latency), hits.len());
    let make = move |index: usize| search_result_at(&answer, index, &subject);
    let kept = Kept { uncounted: vectors as u64, ..Kept::default() };
    Listed::of(head, count, make, kept).await
}

impl Gateway {
    /// A Search. Its record ends when its response is encoded, or with the error.
    pub(super) async fn unary_search(
        &self,
        request: Request<proto::SearchRequest>,
        begun: Instant,
    ) -> Result<Response<proto::SearchResponse>, Status> {
        let timeout = client_timeout(request.metadata());
        let is_asked = timing::is_asked(request.metadata());
        let subject = self.admit(request.extensions());
        let mut trace = self.observed.begin(begun);
        let message = request.into_inner();
        let (found, about) = match subject {
            Ok(subject) => {
                let about = subject.about(&message);
                let guest = Guest { party: subject.party(), waits: false };
                let found = self.search(&subject, message, timeout, begun, &mut trace, guest).await;
                let found = match found {
                    Ok((answer, latency)) => listed(answer, subject, latency).await,
                    Err(error) => Err(error),
                };
                (found, about)
            }
            Err(error) => (Err(self.refuse_search(error)), About::default()),
        };
        let record = Unfinished { trace, observed: self.observed.clone(), about, is_asked };
        match found {
            Ok(found) => {
                let mut response = Listed::respond(Response::new(found));
                if trace.is_on() {
                    response.extensions_mut().insert(record);
                }
                Ok(response)
            }
            Err(error) => {
                count(&self.observed, &error);
                let mut status = status(&error);
                if matches!(error, Error::Expired(_)) {
                    record.fail(&mut status);
                }
                Err(status)
            }
        }
    }

    /// One search of a BulkSearch. Its answer is encoded when its turn comes, which is not counted as its time.
    pub(super) async fn streamed_search(
        &self,
        subject: &Subject,
        request: proto::SearchRequest,
        timeout: Option<Duration>,
        begun: Instant,
    ) -> Result<proto::SearchResponse> {
        let mut trace = self.observed.begin(begun);
        let modes = &self.health.modes;
        let about = subject.about(&request);
        let found = match modes.check().and_then(|()| self.access.charge(&subject.caller)) {
            Ok(()) => {
                let guest = Guest { party: subject.party(), waits: true };
                let found = self.search(subject, request, timeout, begun, &mut trace, guest).await;
                found.map(|(answer, latency)| search_response(answer, subject, latency))
            }
            Err(error) => Err(self.refuse_search(error)),
        };
        if matches!(found, Ok(_) | Err(Error::Expired(_))) {
            trace.mark(Stage::Encode, Instant::now());
            end(&self.observed, &trace, &about);
        }
        found
    }

    /// Counts a search that is refused before it begins.
    fn refuse_search(&self, error: Error) -> Error {
        self.observed.gateway.queries.add(1);
        self.observed.gateway.queries_failed.add(1);
        error
    }

    /// One search, of Search or BulkSearch: answered, measured and counted.
    async fn search(
        &self,
        subject: &Subject,
        request: proto::SearchRequest,
        timeout: Option<Duration>,
        begun: Instant,
        trace: &mut Trace,
        guest: Guest<'_>,
    ) -> Result<(Answer, Duration)> {
        let found = self.search_shards(subject, request, timeout, begun, trace, guest).await;
        let latency = begun.elapsed();
        let gateway = &self.observed.gateway;
        gateway.queries.add(1);
        match found {
            Ok(answer) => {
                self.observed.methods.search.record(latency);
                let (found, is_cached) = (answer.found(), answer.is_cached());
                let results = found.hits.len() as u64;
                if is_cached {
                    self.observed.cached.record(latency);
                    gateway.cached_results.add(results);
                } else {
                    let hot = found.hits.iter().filter(|hit| hit.is_hot).count() as u64;
                    gateway.hot_hits.add(hot);
                    gateway.cold_hits.add(results - hot);
                }
                gateway.partial_searches.add(u64::from(!found.reasons.is_empty()));
                subject.note_queries(1);
                Ok((answer, latency))
            }
            Err(error) => {
                // A refused request says nothing about how long searches take.
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
        subject: &Subject,
        request: proto::SearchRequest,
        timeout: Option<Duration>,
        begun: Instant,
        trace: &mut Trace,
        guest: Guest<'_>,
    ) -> Result<Answer> {
        let router = self.router()?;
        let server_max = Duration::from_millis(self.search_max_ms.load(Ordering::Relaxed));
        let deadline = search_deadline(begun, timeout, server_max);
        let named = self.named_vector(subject, router, &request);
        let vector = tokio::time::timeout_at(deadline.into(), named)
            .await
            .unwrap_or(Err(Error::Expired("before the document searched from was read")));
        if vector.is_err() {
            trace.mark(Stage::Admission, Instant::now());
        }
        let realm = subject.realm(&request.namespace);
        let query: Query = validate::search(request, vector?, self.rules(), &self.config, subject)?;
        router.search_cached(query, realm, guest, deadline, trace).await
    }

    /// The vector of the document that a search names in place of a vector.
    async fn named_vector(
        &self,
        subject: &Subject,
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
        let id = subject.doc_id("query_doc_id", request.query_doc_id)?;
        validate::namespace(&request.namespace)?;
        let found = router.get(&[id], subject.realm(&request.namespace), true).await?;
        let document = found.into_iter().next().flatten().ok_or_else(|| {
            let why = format!("there is no document {} in scope", request.query_doc_id);
            Error::invalid("query_doc_id", why)
        })?;
        Ok(Some(document.embedding.expect("it was asked for").into()))
    }
}
