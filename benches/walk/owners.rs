//! One set of documents in a graph that one shard owns, and in one that several own together: recall, and number of
//! distances, of a search of one of them.

use std::sync::Arc;
use std::time::Instant;

use kyrodb::dataset::Rows;
use kyrodb::engine::partition::Joint;
use kyrodb::engine::{Engine, LinkProgress, Params, Query, Scope};
use kyrodb::graph::check::check;
use kyrodb::graph::search::Work;
use kyrodb::types::DocId;

use super::{Arguments, cpu_seconds, put};

/// Threads that link, each for an equal number of owners, in turns.
const THREADS: usize = 2;

/// Repetitions of all queries; the median of their CPU time counts.
const ROUNDS: usize = 5;

/// Documents that an owner links before the next has its turn.
const TURN: usize = 8;

/// Links all documents of these owners, which are some of `owners`.
fn link(engines: &mut [(u32, Engine)], base: &Rows<f32>, rows: usize, owners: u32) {
    let documents = || (1..).map(DocId).zip(base.iter().take(rows));
    let owned = |owner: u32| documents().filter(move |(id, _)| id.shard(owners).0 == owner);
    let mut owned: Vec<_> = engines.iter().map(|(owner, _)| owned(*owner)).collect();
    let mut left = owned.len();
    while left > 0 {
        left = 0;
        for ((_, engine), documents) in engines.iter_mut().zip(&mut owned) {
            let mut taken = 0;
            for (id, row) in documents.by_ref().take(TURN) {
                taken += 1;
                for record in engine.stage(put(id, row)).unwrap().records {
                    assert!(engine.apply(engine.applied().next(), record));
                }
                while engine.link_step() == LinkProgress::More {}
            }
            left += usize::from(taken == TURN);
        }
    }
}

fn build(params: &Params, base: &Rows<f32>, rows: usize, owners: u32) -> Vec<Engine> {
    let joint = (owners > 1).then(|| Joint::new(owners));
    let home = |owner| joint.as_ref().map(|joint| joint.home(owner));
    let engine = |owner| Engine::new(Params { home: home(owner), ..params.clone() });
    let mut engines: Vec<(u32, Engine)> = (0..owners).map(|owner| (owner, engine(owner))).collect();
    let part = engines.len().div_ceil(THREADS);
    std::thread::scope(|scope| {
        for engines in engines.chunks_mut(part) {
            scope.spawn(move || link(engines, base, rows, owners));
        }
    });
    engines.into_iter().map(|(_, engine)| engine).collect()
}

/// Ids of the neighbours found, query by query, each answered by one owner.
fn search(engines: &mut [Engine], queries: &[Arc<Query>]) -> (Vec<Vec<DocId>>, Work) {
    let (mut work, mut found) = (Work::default(), Vec::with_capacity(queries.len()));
    let count = engines.len();
    for (number, query) in queries.iter().enumerate() {
        let engine = &mut engines[number % count];
        let mut search = engine.begin_search_in(query.clone(), Scope::Partition).unwrap();
        while !search.step(engine) {}
        let outcome = engine.finish_search(search);
        work += outcome.work;
        found.push(outcome.hits.into_iter().map(|hit| hit.id).collect());
    }
    (found, work)
}

/// Prints a line for each number of owners and each ef.
pub(crate) fn run(arguments: &Arguments, params: &Params, base: &Rows<f32>, queries: &[Query]) {
    let with = |ef, is_exact| -> Vec<Arc<Query>> {
        let query = |query: &Query| Arc::new(Query { ef, is_exact, ..query.clone() });
        queries.iter().map(query).collect()
    };
    let mut truth = None;
    println!("owners   ef  recall  distances  hops  CPU µs  built in s  unreachable");
    for &owners in &arguments.owners {
        let begun = Instant::now();
        let mut engines = build(params, base, arguments.rows, owners);
        let built = begun.elapsed().as_secs_f64();
        let report = check(engines[0].graph(), engines[0].store().extent()).unwrap();
        let truth = truth.get_or_insert_with(|| search(&mut engines, &with(1, true)).0);
        for &ef in &arguments.ef {
            let queries = with(ef, false);
            let rounds = (0..ROUNDS).map(|_| {
                let begun = cpu_seconds();
                (search(&mut engines, &queries), cpu_seconds() - begun)
            });
            let mut rounds: Vec<_> = rounds.collect();
            rounds.sort_by(|(_, a), (_, b)| a.total_cmp(b));
            let ((found, work), cpu) = rounds.swap_remove(ROUNDS / 2);
            let pairs = truth.iter().zip(&found);
            let hits: usize = pairs
                .map(|(truth, found)| truth.iter().filter(|id| found.contains(id)).count())
                .sum();
            let count = queries.len() as f64;
            println!(
                "{owners:6} {ef:4} {:7.4} {:10.1} {:5.1} {:7.1} {built:11.1} {:12}",
                hits as f64 / (count * queries[0].k as f64),
                work.distances as f64 / count,
                work.hops as f64 / count,
                cpu * 1e6 / count,
                report.unreachable.len(),
            );
        }
    }
}
