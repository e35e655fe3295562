//! Inspection of a shard, recovered as by a start: checks that its graph is sound, and that every document is found.

use std::sync::Arc;

use serde::Serialize;

use crate::disk::Disk;
use crate::engine::salvage::Version;
use crate::engine::{Engine, Params, Query};
use crate::graph::check::{check, check_part};
use crate::recovery::{Listed, RecoverError, home_of, recover};
use crate::types::Slot;
use crate::types::metric::Metric;

/// Number of documents that are searched for by their own vectors.
const SOUGHT: usize = 1_000;

/// Most faults of one kind that are named.
const NAMED_MAX: usize = 10;

/// State of a shard.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspected {
    /// Number of the shard.
    pub shard: u32,
    /// Number of documents.
    pub documents: usize,
    /// Number of nodes of the graph.
    pub linked: u32,
    /// Number of documents that a start has yet to link.
    pub unlinked: usize,
    /// Number of pairs in the metadata index, each of which is a document's.
    pub pairs: u64,
    /// Number of pairs of deleted documents that the newest snapshot still had: a start drops them.
    pub stale_pairs: u64,
    /// Number of documents that were searched for by their own vectors, evenly chosen.
    pub sought: usize,
    /// Number of them that were the first answer, or as near as the first.
    pub found: usize,
    /// Descriptions of faults; none if a start takes the shard as it is.
    pub faults: Vec<String>,
}

/// Inspects a shard. Reasons for which a start would refuse it are among the faults.
///
/// # Errors
/// If the disk fails.
pub async fn inspect<D: Disk>(
    disk: &D,
    listed: Listed<'_>,
    params: Params,
) -> Result<Inspected, crate::disk::DiskError> {
    let mut inspected = Inspected { shard: listed.shard.0, ..Inspected::default() };
    let params = Params { home: home_of(disk, &listed).await, ..params };
    let recovered = match recover(disk, listed, params, || {}).await {
        Ok(recovered) => recovered,
        Err(RecoverError::Disk(error)) => return Err(error),
        Err(RecoverError::Damage(why) | RecoverError::Newer(why)) => {
            inspected.faults.push(why);
            return Ok(inspected);
        }
    };
    inspected.faults.extend(recovered.damaged);
    let Some(mut engine) = recovered.engine else { return Ok(inspected) };
    inspected.documents = engine.live_count();
    inspected.linked = engine.linked_count();
    inspected.unlinked = engine.hot_count();
    inspected.faults.extend(graph_faults(&engine));
    inspected.faults.extend(document_faults(&engine));
    inspected.stale_pairs = engine.stale_postings();
    engine.read_index();
    match engine.check_index() {
        Ok(pairs) => inspected.pairs = pairs,
        Err(why) => inspected.faults.push(format!("the index of filters is not sound: {why}")),
    }
    if inspected.faults.is_empty() {
        (inspected.sought, inspected.found) = seek(&mut engine);
    }
    Ok(inspected)
}

fn graph_faults(engine: &Engine) -> Vec<String> {
    let stripe = engine.store().stripe();
    if stripe.owners() > 1 {
        let checked = check_part(engine.graph(), stripe, engine.store().slot_count());
        return checked
            .err()
            .map(|why| format!("the graph is not sound: {why}"))
            .into_iter()
            .collect();
    }
    let report = match check(engine.graph(), engine.store().slot_count()) {
        Ok(report) => report,
        Err(why) => return vec![format!("the graph is not sound: {why}")],
    };
    let is_live = |slot: &&Slot| engine.store().is_live(**slot);
    let unreachable = report.unreachable.iter().filter(is_live);
    named("no walk of the graph reaches document", unreachable.map(|&s| engine.store().doc_id(s).0))
}

/// Documents that are not found by their id, or are neither linked nor scanned.
fn document_faults(engine: &Engine) -> Vec<String> {
    let is_same = |a: Version<'_>, b: Version<'_>| a.vector.as_ptr() == b.vector.as_ptr();
    let lost = engine.versions().filter(|&v| !engine.version(v.id).is_some_and(|f| is_same(v, f)));
    let mut faults = named("the index does not lead to document", lost.map(|v| v.id.0));
    let broken = engine.versions().filter(|v| !v.vector.iter().all(|value| value.is_finite()));
    faults.extend(named("a vector that is no vector has document", broken.map(|v| v.id.0)));
    let unfound = engine.unfound().map(|id| id.0);
    faults.extend(named("neither the graph nor the hot tier has document", unfound));
    faults
}

fn named(what: &str, ids: impl Iterator<Item = u64>) -> Vec<String> {
    let ids: Vec<u64> = ids.collect();
    let mut faults: Vec<String> =
        ids.iter().take(NAMED_MAX).map(|id| format!("{what} {id}")).collect();
    if ids.len() > NAMED_MAX {
        faults.push(format!("{what} … and {} more", ids.len() - NAMED_MAX));
    }
    faults
}

/// Searches for documents by their own vectors; returns how many, and how many were found.
fn seek(engine: &mut Engine) -> (usize, usize) {
    // By the inner product a longer vector may be nearer to a vector than that vector itself; and a part of a graph
    // is not walked alone.
    let is_part = engine.store().stripe().owners() > 1;
    if engine.params().metric == Metric::InnerProduct || is_part {
        return (0, 0);
    }
    let step = engine.live_count().div_ceil(SOUGHT).max(1);
    let sought: Vec<_> =
        engine.versions().step_by(step).map(|v| (v.id, v.vector.to_vec())).collect();
    let mut found = 0;
    for (id, vector) in &sought {
        let (k, ef, filter) = (10, 100, None);
        let vector = vector.clone();
        let query = Query {
            vector,
            k,
            ef,
            min_score: 0.0,
            filter,
            include_embeddings: false,
            is_exact: false,
        };
        let Ok(mut search) = engine.begin_search(Arc::new(query)) else { continue };
        while !search.step(engine) {}
        let hits = engine.finish_search(search).hits;
        let first = hits.first().map(|hit| hit.score);
        found += usize::from(hits.iter().any(|hit| hit.id == *id && Some(hit.score) == first));
    }
    (sought.len(), found)
}
