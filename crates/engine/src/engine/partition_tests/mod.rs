//! Several shards that share one graph: against a model, in one thread with steps in any order, and in threads of
//! their own.

mod copies;
mod fenced;
mod restart;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::filter::Filter;
use super::partition::Joint;
use super::read::Scope;
use super::testing::{Model, Random, engine, finish, found, payload};
use super::*;
use crate::graph::check::check;
use crate::kernels::normalize;
use crate::types::Slot;
use crate::types::payload::Payload;
use crate::types::realm::Realm;
use crate::types::record::Record;

const DIMENSION: usize = 12;

/// The engines of a partition, and the model of all their documents.
struct Many {
    engines: Vec<Engine>,
    model: Model,
    random: Random,
    /// The records applied, by owner.
    logs: Vec<Vec<Record>>,
}

fn params() -> Params {
    engine().params().clone()
}

fn engines(owners: u32) -> Vec<Engine> {
    let joint = Joint::new(owners);
    let home = |owner| Params { home: Some(joint.home(owner)), ..params() };
    (0..owners).map(|owner| Engine::new(home(owner))).collect()
}

fn apply(engine: &mut Engine, write: Write) -> (Outcome, Vec<Record>) {
    let staged = engine.stage(write).unwrap();
    for record in staged.records.clone() {
        let lsn = engine.applied().next();
        assert!(engine.apply(lsn, record), "no batch is deleted here");
    }
    (staged.outcome, staged.records)
}

impl Many {
    fn new(owners: u32, seed: u64) -> Self {
        Self::of(engines(owners), Model::default(), Random(seed << 32))
    }

    fn of(engines: Vec<Engine>, model: Model, random: Random) -> Self {
        let logs = vec![Vec::new(); engines.len()];
        Self { engines, model, random, logs }
    }

    fn write(&mut self, write: Write) -> Outcome {
        let (Write::Put { id, .. } | Write::Delete { id, .. } | Write::Update { id, .. }) = &write;
        let owner = id.shard(self.engines.len() as u32).0 as usize;
        let (outcome, records) = apply(&mut self.engines[owner], write);
        self.logs[owner].extend(records);
        outcome
    }

    fn put(&mut self, id: u64) {
        let (vector, payload) = (self.random.vector(), payload(self.random.below(5), ""));
        let write = Write::Put {
            id: DocId(id),
            vector: vector.clone(),
            payload: payload.clone(),
            tenant_documents_max: None,
        };
        let existed = self.model.0.insert(DocId(id), (vector, payload)).is_some();
        assert_eq!(self.write(write).existed, u64::from(existed));
    }

    fn delete(&mut self, id: u64) {
        let existed = self.model.0.remove(&DocId(id)).is_some();
        let write = Write::Delete { id: DocId(id), realm: Realm::default() };
        assert_eq!(self.write(write).existed, u64::from(existed));
    }

    fn update(&mut self, id: u64) {
        let update = payload(self.random.below(5), "");
        if let Some((_, payload)) = self.model.0.get_mut(&DocId(id)) {
            *payload = update.clone();
        }
        let (id, realm) = (DocId(id), Realm::default());
        self.write(Write::Update { id, realm, payload: update, merge: false });
    }

    fn random_write(&mut self, ids: u64) {
        let id = 1 + self.random.below(ids);
        match self.random.below(10) {
            0..6 => self.put(id),
            6..8 => self.update(id),
            _ => self.delete(id),
        }
    }

    fn query(&mut self, ef: usize, is_exact: bool) -> Query {
        let vector = self.random.vector().into();
        let (k, min_score, filter, include_embeddings) = (10, 0.0, None, true);
        Query { vector, k, ef, min_score, filter, include_embeddings, is_exact }
    }

    /// Steps of linking, of owners in any order.
    fn link(&mut self, steps: usize) {
        for _ in 0..steps {
            let owner = self.random.below(self.engines.len() as u64) as usize;
            self.engines[owner].link_step();
        }
    }

    fn link_all(&mut self) {
        loop {
            let mut progress = LinkProgress::Idle;
            for engine in &mut self.engines {
                for _ in 0..7 {
                    if engine.link_step() == LinkProgress::More {
                        progress = LinkProgress::More;
                    }
                }
            }
            if progress == LinkProgress::Idle {
                return;
            }
        }
    }

    fn search(&mut self, query: Query) -> SearchOutcome {
        let at = self.random.below(self.engines.len() as u64) as usize;
        let engine = &mut self.engines[at];
        let search = engine.begin_search_in(Arc::new(query), Scope::Partition).unwrap();
        finish(engine, search)
    }

    /// Share of the ten nearest that walks find, and distances per walk.
    fn recall(&mut self, ef: usize, queries: usize) -> (f64, f64) {
        let (mut hits, mut distances) = (0, 0);
        for _ in 0..queries {
            let query = self.query(ef, false);
            let truth: Vec<DocId> =
                self.model.nearest(&query).into_iter().map(|(id, _)| id).collect();
            let outcome = self.search(query);
            distances += outcome.work.distances;
            hits += outcome.hits.iter().filter(|hit| truth.contains(&hit.id)).count();
        }
        (hits as f64 / (10 * queries) as f64, distances as f64 / queries as f64)
    }

    fn check(&self) {
        let engine = &self.engines[0];
        let report = check(engine.graph(), engine.store().extent()).unwrap();
        let live = |slot: &&Slot| engine.store().is_live(**slot);
        assert_eq!(report.unreachable.iter().filter(live).count(), 0, "live and unreachable");
        let live: usize = self.engines.iter().map(Engine::live_count).sum();
        assert_eq!(live, self.model.0.len());
    }
}

#[test]
fn searches_of_a_partition_equal_the_model() {
    for owners in [1, 2, 3, 16] {
        let mut many = Many::new(owners, u64::from(owners));
        for round in 0..1_500 {
            many.random_write(600);
            let steps = many.random.below(60) as usize;
            many.link(steps);
            if round % 10 != 0 {
                continue;
            }
            let query = many.query(40, true);
            let expected = many.model.nearest(&query);
            let outcome = many.search(query);
            assert_eq!(found(&outcome), expected, "{owners} owners, round {round}");
            assert!(outcome.complete && outcome.missing.is_empty());
            for hit in outcome.hits {
                assert_eq!(hit.embedding.as_ref(), Some(&many.model.0[&hit.id].0));
            }
            // Each owner evaluates a filter for its own documents.
            let filter = Some(Filter::Exact("colour".into(), "2".into()));
            let query = Arc::new(Query { filter, ..many.query(40, false) });
            let mut hits: Vec<Hit> = Vec::new();
            for engine in &mut many.engines {
                let search = engine.begin_search(query.clone()).unwrap();
                hits.extend(finish(engine, search).hits);
            }
            hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
            let passed: Vec<DocId> = hits.iter().take(10).map(|hit| hit.id).collect();
            let expected = many.model.nearest(&query).into_iter().map(|(id, _)| id);
            assert_eq!(passed, expected.collect::<Vec<_>>(), "{owners} owners, round {round}");
        }
        many.link_all();
        many.check();
    }
}

impl Many {
    /// A search with a filter as the router makes it: every owner is asked, and one of them once more to walk among
    /// the documents that the others have lent. `between` comes before that. Returns the documents found, best first,
    /// and the number of owners that have lent.
    fn filtered(
        &mut self,
        query: &Arc<Query>,
        between: impl FnOnce(&mut Self),
    ) -> (Vec<Hit>, usize) {
        let (hits, lenders, _) = self.filtered_from(query, &[], between);
        (hits, lenders)
    }

    /// Searches as `filtered` does, with these documents known to be near; returns also the distances that the walk
    /// computed.
    fn filtered_from(
        &mut self,
        query: &Arc<Query>,
        starts: &[DocId],
        between: impl FnOnce(&mut Self),
    ) -> (Vec<Hit>, usize, u64) {
        let mut distances = 0;
        let (mut hits, mut lent) = (Vec::new(), Vec::new());
        for engine in &mut self.engines {
            let mut search = engine.begin_search_in(query.clone(), Scope::Lending).unwrap();
            engine.start_near(&mut search, starts);
            let outcome = finish(engine, search);
            assert!(outcome.complete);
            hits.extend(outcome.hits);
            lent.extend(outcome.lent);
        }
        between(self);
        if !lent.is_empty() {
            let at = self.random.below(self.engines.len() as u64) as usize;
            let engine = &mut self.engines[at];
            let mut search = engine.begin_borrowed(query.clone(), &lent).unwrap();
            engine.start_near(&mut search, starts);
            let outcome = finish(engine, search);
            distances = outcome.work.distances;
            hits.extend(outcome.hits);
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        hits.truncate(query.k);
        (hits, lent.len(), distances)
    }
}

/// One search for all owners walks among the documents that pass a filter, and costs and finds as much as with one
/// owner.
#[test]
fn filters_are_answered_by_one_walk_for_all_owners() {
    let mut figures = Vec::new();
    for owners in [1, 4] {
        let mut many = Many::new(owners, 70);
        (1..=8_000).for_each(|id| many.put(id));
        many.link_all();
        let (mut hits, mut lenders) = (0, 0);
        for round in 0..200 {
            // One in five passes, or four in five.
            let one = Filter::Exact("colour".into(), "2".into());
            let filter = if round % 2 == 0 { one } else { Filter::Not(Box::new(one)) };
            let query = Query { filter: Some(filter), ..many.query(30, false) };
            let query = Arc::new(query);
            let truth: Vec<DocId> =
                many.model.nearest(&query).into_iter().map(|(id, _)| id).collect();
            let (found, lent) = many.filtered(&query, |_| {});
            assert_eq!(found.len(), 10);
            assert!(found.iter().all(|hit| query.filter.as_ref().unwrap().matches(&hit.payload)));
            hits += found.iter().filter(|hit| truth.contains(&hit.id)).count();
            lenders += lent;
        }
        assert_eq!(lenders, 200 * owners as usize, "a walk is the way");
        figures.push(hits as f64 / 2_000.0);
        many.engines.iter_mut().for_each(|engine| engine.end_loans());
        (1..=100).for_each(|id| many.put(id));
        many.link_all();
        assert!(many.engines.iter().all(|engine| engine.store().held_count() == 0));
    }
    assert!(figures.iter().all(|&recall| recall > 0.9), "{figures:?}");
    assert!(figures[1] > figures[0] - 0.03, "{figures:?}");
}

/// Documents that pass a filter are found as well from the result of a near query, and at a lower cost.
#[test]
fn a_walk_among_lent_documents_begins_near() {
    let mut many = Many::new(4, 71);
    (1..=8_000).for_each(|id| many.put(id));
    many.link_all();
    let (mut hits, mut distances) = ([0, 0], [0, 0]);
    for _ in 0..200 {
        // Nine in ten pass: a walk by all neighbours.
        let filter = Filter::Not(Box::new(Filter::Exact("colour".into(), "2".into())));
        let query = Arc::new(Query { filter: Some(filter), ..many.query(30, false) });
        let truth: Vec<DocId> = many.model.nearest(&query).into_iter().map(|(id, _)| id).collect();
        for (way, starts) in [&[][..], &truth].into_iter().enumerate() {
            let (found, lent, walked) = many.filtered_from(&query, starts, |_| {});
            assert_eq!(lent, 4, "a walk is the way");
            hits[way] += found.iter().filter(|hit| truth.contains(&hit.id)).count();
            distances[way] += walked;
        }
    }
    assert!(hits[1] >= hits[0] && hits[0] > 1_800, "{hits:?}");
    assert!(distances[1] < distances[0], "{distances:?}");
}

/// Whatever is written between the two halves, a document that passes all the time is found, and each document found
/// was there when the search began.
#[test]
fn lent_documents_are_seen_as_they_were() {
    let mut many = Many::new(3, 80);
    (1..=3_000).for_each(|id| many.put(id));
    many.link_all();
    for round in 0..40 {
        let filter = Filter::Not(Box::new(Filter::Exact("colour".into(), "9".into())));
        let query = Arc::new(Query { filter: Some(filter), ..many.query(30, false) });
        let before = many.model.clone();
        let truth: Vec<DocId> = before.nearest(&query).into_iter().map(|(id, _)| id).collect();
        let (found, lent) = many.filtered(&query, |many| {
            for _ in 0..200 {
                many.random_write(3_000);
            }
            many.link(4_000);
        });
        assert_eq!(lent, 3, "round {round}");
        for hit in &found {
            assert_eq!(hit.embedding.as_ref(), Some(&before.0[&hit.id].0), "round {round}");
        }
        let ids: Vec<DocId> = found.iter().map(|hit| hit.id).collect();
        let missed = truth.iter().filter(|id| !ids.contains(id)).count();
        assert!(missed <= 3, "{missed} of ten missed in round {round}");
    }
    many.link_all();
    many.check();
}

/// The cost of a search does not grow with the number of owners.
#[test]
fn the_cost_of_a_walk_does_not_depend_on_the_number_of_owners() {
    let mut figures = Vec::new();
    for owners in [1, 2, 16] {
        let mut many = Many::new(owners, 9);
        (1..=6_000).for_each(|id| many.put(id));
        many.link_all();
        many.check();
        figures.push(many.recall(40, 300));
    }
    let (recall, distances) = figures[0];
    for &(other, cost) in &figures[1..] {
        assert!((other - recall).abs() < 0.01 && cost <= 1.05 * distances, "{figures:?}");
    }
}

#[test]
fn documents_replaced_many_times_leave_a_sound_graph_and_few_slots() {
    for owners in [2, 5] {
        let mut many = Many::new(owners, 20 + u64::from(owners));
        let count = 4_000;
        (1..=count).for_each(|id| many.put(id));
        many.link_all();
        let (before, _) = many.recall(40, 200);
        for round in 0..10 {
            for _ in 0..count {
                let id = 1 + many.random.below(count);
                match many.random.below(4) {
                    0 => many.delete(id),
                    _ => many.put(id),
                }
                many.link(40);
            }
            many.link_all();
            many.check();
            let slots: u32 = many.engines.iter().map(|engine| engine.store().slot_count()).sum();
            assert!(u64::from(slots) < count * 5 / 4, "{slots} slots in round {round}");
        }
        let removed: u64 = many.engines.iter().map(|engine| engine.healing().removed).sum();
        assert!(removed > 20_000, "{removed} nodes taken out");
        (1..=count).for_each(|id| many.put(id));
        many.link_all();
        let (after, _) = many.recall(40, 200);
        assert!(after > before - 0.01, "recall {before} before, {after} after");
    }
}

#[test]
fn all_documents_may_be_deleted_and_others_inserted() {
    let mut many = Many::new(3, 40);
    for round in 0..4 {
        (1..=1_500).for_each(|id| many.put(id));
        many.link(1_000 * round);
        (1..=1_500).for_each(|id| many.delete(id));
        // The next ones find only dead nodes to link to.
        (2_001..=2_040).for_each(|id| many.put(id));
        many.link_all();
        many.check();
        let (recall, _) = many.recall(40, 30);
        assert!(recall > 0.99, "{recall} in round {round}");
        (2_001..=2_040).for_each(|id| many.delete(id));
        many.link_all();
        many.check();
        assert_eq!(many.engines[0].graph().linked_count(), 0);
    }
}

/// A search keeps the state that it sees, on any core.
#[test]
fn a_search_under_way_sees_the_partition_as_it_was() {
    let mut many = Many::new(4, 50);
    (1..=3_000).for_each(|id| many.put(id));
    many.link_all();
    for round in 0..60 {
        let query = Arc::new(many.query(40, round % 3 == 0));
        let expected = many.model.clone();
        let at = round % 4;
        let mut search = many.engines[at].begin_search_in(query.clone(), Scope::Partition).unwrap();
        loop {
            let is_done = search.step(&many.engines[at]);
            if is_done {
                break;
            }
            (0..60).for_each(|_| many.random_write(3_000));
            many.link(2_000);
        }
        let outcome = many.engines[at].finish_search(search);
        for hit in &outcome.hits {
            let (vector, _) = &expected.0[&hit.id];
            assert_eq!(hit.embedding.as_ref(), Some(vector), "round {round}");
        }
        let truth: Vec<DocId> = expected.nearest(&query).into_iter().map(|(id, _)| id).collect();
        let ids: Vec<DocId> = outcome.hits.iter().map(|hit| hit.id).collect();
        if query.is_exact {
            assert_eq!(ids, truth, "round {round}");
        } else {
            assert_eq!(ids.len(), 10);
        }
    }
    many.link_all();
    many.check();
    assert!(many.engines.iter().all(|engine| engine.store().held_count() == 0));
}

/// The vector of a document follows from its id and its version; its metadata has both.
fn versioned(id: u64, version: u64) -> (Box<[f32]>, Payload) {
    let mut random = Random(id << 40 | version << 8);
    let mut vector: Box<[f32]> =
        (0..DIMENSION).map(|_| random.below(2_001) as f32 / 1_000.0 - 0.999).collect();
    assert!(normalize(&mut vector));
    (vector, Payload::new([("version", version.to_string().as_str())], "").unwrap())
}

/// Each owner in a thread of its own writes, links and searches, all at once: a search finds whole versions, each
/// document once, and all that was acknowledged before it began.
#[test]
fn owners_on_threads_of_their_own_see_each_others_documents() {
    const IDS: u64 = 1_200;
    let owners = 4_u32;
    let documents: Vec<Written> = (0..=IDS).map(|_| Written::default()).collect();
    let rounds = if cfg!(debug_assertions) { 2_000 } else { 6_000 };
    let (failed, walks) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut engines = engines(owners);
    std::thread::scope(|scope| {
        for (owner, engine) in engines.iter_mut().enumerate() {
            let (documents, walks, failed) = (&documents, &walks, &failed);
            scope.spawn(move || {
                let _failed = OnPanic(failed);
                let mut random = Random((owner as u64 + 1) << 33);
                let own: Vec<u64> =
                    (1..=IDS).filter(|&id| DocId(id).shard(owners).0 as usize == owner).collect();
                for round in 0..rounds {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = own[random.below(own.len() as u64) as usize];
                    let document = &documents[id as usize];
                    let version = document.acknowledged.load(Ordering::Relaxed) + 1;
                    let is_put = version % 2 == 0;
                    let write = if is_put {
                        let (vector, payload) = versioned(id, version);
                        Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None }
                    } else if random.below(2) == 0 {
                        Write::Delete { id: DocId(id), realm: Realm::default() }
                    } else {
                        continue;
                    };
                    document.begun.store(version, Ordering::SeqCst);
                    apply(engine, write);
                    document.acknowledged.store(version, Ordering::SeqCst);
                    for _ in 0..random.below(60) {
                        engine.link_step();
                    }
                    if round % 3 == 0 {
                        search_at(engine, &mut random, documents, walks);
                    }
                }
            });
        }
    });
    assert!(walks.into_inner() > u64::from(owners) * 50);
    let version = |document: &Written| document.acknowledged.load(Ordering::Relaxed);
    let live = documents.iter().filter(|document| version(document) % 2 == 0);
    let mut many = Many::of(engines, Model::default(), Random(0));
    assert_eq!(many.engines.iter().map(Engine::live_count).sum::<usize>(), live.count());
    many.link_all();
    let engine = &many.engines[0];
    let report = check(engine.graph(), engine.store().extent()).unwrap();
    assert_eq!(report.unreachable.iter().filter(|slot| engine.store().is_live(**slot)).count(), 0);
}

/// Versions written of a document: odd ones are deletes, and the first one is.
struct Written {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

impl Default for Written {
    fn default() -> Self {
        Self { begun: AtomicU64::new(1), acknowledged: AtomicU64::new(1) }
    }
}

struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Looks for one document by its own vector, exactly or by a walk, in several steps.
fn search_at(engine: &mut Engine, random: &mut Random, documents: &[Written], walks: &AtomicU64) {
    let wanted = 1 + random.below(documents.len() as u64 - 1);
    let acknowledged = |document: &Written| document.acknowledged.load(Ordering::SeqCst);
    let before: Vec<u64> = documents.iter().map(acknowledged).collect();
    let (vector, _) = versioned(wanted, before[wanted as usize] / 2 * 2);
    let is_exact = random.below(3) == 0;
    let (vector, k, filter) = (vector.into(), 10, None);
    // With a beam this narrow a search walks, even with few documents.
    let (ef, min_score, include_embeddings) = (10, 0.0, true);
    let query = Query { vector, k, ef, min_score, filter, include_embeddings, is_exact };
    let mut search = engine.begin_search_in(Arc::new(query), Scope::Partition).unwrap();
    walks.fetch_add(u64::from(matches!(search.phase(), read::Phase::Hot(_))), Ordering::Relaxed);
    while !search.step(engine) {
        if random.below(4) == 0 {
            engine.link_step();
        }
    }
    let outcome = engine.finish_search(search);
    let after: Vec<u64> = documents.iter().map(acknowledged).collect();
    for (index, hit) in outcome.hits.iter().enumerate() {
        assert!(outcome.hits[..index].iter().all(|other| other.id != hit.id), "{} twice", hit.id.0);
        let version: u64 = hit.payload.get("version").unwrap().parse().unwrap();
        let (vector, _) = versioned(hit.id.0, version);
        assert_eq!(hit.embedding.as_ref(), Some(&vector), "a version in part");
        let id = hit.id.0 as usize;
        // One more may have been applied, but not acknowledged to this thread yet.
        assert!((before[id]..=after[id] + 1).contains(&version), "{version} of {}", hit.id.0);
    }
    // No change of it had begun when the search ended: then it was there all the time.
    let wanted = wanted as usize;
    let is_there = before[wanted].is_multiple_of(2)
        && documents[wanted].begun.load(Ordering::SeqCst) == before[wanted];
    if is_there && is_exact {
        let is_found = outcome.hits.iter().any(|hit| hit.id.0 as usize == wanted);
        assert!(is_found, "document {wanted} was acknowledged, and is not found");
    }
}
