//! One set of documents in one shard and in several, each with a graph of its own, placed as by a server: recall, and
//! number of distances, of a search.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kyrodb::dataset::Rows;
use kyrodb::engine::{Engine, Params, Query};
use kyrodb::graph::search::Work;
use kyrodb::router::budget::beam_width;
use kyrodb::router::merge::merge;
use kyrodb::types::DocId;

use super::{Arguments, build, state};

/// Threads that link, each a shard at a time.
const THREADS: usize = 2;

/// Ids of the neighbours found, query by query.
type Found = Vec<Vec<DocId>>;

/// Path of the state of shard `shard` of `shards`.
fn place(state: &Path, shards: u32, shard: u32) -> PathBuf {
    let mut place = state.as_os_str().to_owned();
    place.push(format!(".{shard}of{shards}"));
    place.into()
}

fn open(arguments: &Arguments, params: &Params, base: &Rows<f32>, shards: u32) -> Vec<Engine> {
    let open = |shard| {
        let place = arguments.state.as_ref().map(|state| place(state, shards, shard));
        if let Some(place) = place.as_ref().filter(|place| place.exists()) {
            return state::load(place, params.clone());
        }
        let owns = |id: &DocId| id.shard(shards).0 == shard;
        let mut engine = build(params.clone(), base, arguments.rows, owns);
        if let Some(place) = &place {
            state::save(place, &mut engine);
        }
        engine
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut opened = Vec::new();
        loop {
            let shard = next.fetch_add(1, Ordering::Relaxed) as u32;
            if shard >= shards {
                return opened;
            }
            opened.push(open(shard));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Searches every shard for every query, and merges.
fn search(engines: &mut [Engine], queries: &[Arc<Query>], scans: bool) -> (Found, Work) {
    let mut work = Work::default();
    let mut found = Vec::with_capacity(queries.len());
    for query in queries {
        let mut answers = Vec::with_capacity(engines.len());
        for engine in &mut *engines {
            let search = match scans {
                true => engine.begin_scan(query.clone()),
                false => engine.begin_search(query.clone()),
            };
            let mut search = search.unwrap();
            while !search.step(engine) {}
            let outcome = engine.finish_search(search);
            work += outcome.work;
            answers.push(outcome.hits);
        }
        let hits = merge(answers, query.k);
        assert_eq!(hits.len(), query.k.min(query.ef * engines.len()), "k come back");
        found.push(hits.into_iter().map(|hit| hit.id).collect());
    }
    (found, work)
}

fn recall(truth: &Found, found: &Found) -> f64 {
    let hits: usize = truth
        .iter()
        .zip(found)
        .map(|(truth, found)| truth.iter().filter(|id| found.contains(id)).count())
        .sum();
    hits as f64 / truth.iter().map(Vec::len).sum::<usize>() as f64
}

/// Prints a line for each number of shards and each ef: the beam in each shard as a server chooses it, with recall and
/// cost of that beam and of the whole ef in each shard.
pub(crate) fn run(arguments: &Arguments, params: &Params, base: &Rows<f32>, queries: &[Query]) {
    let k = queries[0].k;
    let with_ef = |ef| -> Vec<Arc<Query>> {
        queries.iter().map(|query| Arc::new(Query { ef, ..query.clone() })).collect()
    };
    let mut truth = None;
    println!("shards    k   ef  beam  recall  distances  at the whole ef: recall  distances");
    for &shards in &arguments.shards {
        let mut engines = open(arguments, params, base, shards);
        let truth = truth.get_or_insert_with(|| search(&mut engines, &with_ef(k), true).0);
        for &ef in &arguments.ef {
            let mut measure = |beam| {
                let (found, work) = search(&mut engines, &with_ef(beam), false);
                (recall(truth, &found), work.distances as f64 / queries.len() as f64)
            };
            if arguments.beams {
                let (recall, distances) = measure(ef);
                println!("{shards:6} {k:4} {ef:4} {recall:7.4} {distances:10.1}");
                continue;
            }
            let beam = beam_width(ef.max(k), 1.0 / f64::from(shards));
            let (recall, distances) = measure(beam);
            let (whole_recall, whole_distances) = measure(ef.max(k));
            println!(
                "{shards:6} {k:4} {ef:4} {beam:5} {recall:7.4} {distances:10.1} \
                 {whole_recall:24.4} {whole_distances:10.1}"
            );
        }
    }
}
