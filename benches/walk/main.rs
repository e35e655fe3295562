//! The walk alone: one shard, one thread, no server, to be compared with libraries.
//!
//! ```text
//! cargo bench --bench walk -- --data DIR [--codes none|sq8] [--state FILE] [--ef 10,20,…]
//! ```
//!
//! `DIR` as for the end-to-end bench; vectors are compared by angle. Without `--ef` it reads beam widths from its
//! input, one per line, and answers each with a line of JSON: so `perf/compare/walk.py` runs it in turns with others.
//! The graph is made at the first start and kept in `--state`; both kinds of walk can use one graph.
//!
//! With `--shards 1,2,4,8,16` the documents are distributed over these numbers of shards instead, and counts are
//! printed: recall and cost of the budget of `router::budget`, beside the whole ef in each shard. With `--owners
//! 1,2,4,8,16` these numbers of shards own one graph together. With `--near 0.999,0.95` queries at these cosines to
//! those of the set are searched, with walks that begin as usual, and at the results of those.

#![expect(clippy::print_stdout, reason = "figures are its output")]
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

mod churn;
mod near;
mod owners;
mod shards;
mod state;

use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use kyrodb::dataset::{Rows, read_ids, read_vectors};
use kyrodb::engine::{Capacity, Engine, LinkProgress, Params, Query, VectorStorage, Write};
use kyrodb::graph;
use kyrodb::graph::search::Work;
use kyrodb::kernels::{Metric, normalize};
use kyrodb::types::DocId;
use kyrodb::types::payload::Payload;

/// Default number of neighbours.
const K: usize = 10;

#[derive(Parser)]
struct Arguments {
    /// The data set
    #[arg(long)]
    data: PathBuf,
    /// What walks compare: none or sq8
    #[arg(long, default_value = "sq8")]
    codes: String,
    /// Where the graph is kept, or will be
    #[arg(long)]
    state: Option<PathBuf>,
    /// Beam widths; standard input if there are none
    #[arg(long, value_delimiter = ',')]
    ef: Vec<usize>,
    /// Rounds of all beam widths
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Rows to take, from the first on
    #[arg(long, default_value_t = usize::MAX)]
    rows: usize,
    /// Changes of documents before the queries, as a multiple of their number
    #[arg(long, default_value_t = 0)]
    churn: usize,
    /// Numbers of shards to compare
    #[arg(long, value_delimiter = ',', requires = "ef")]
    shards: Vec<u32>,
    /// Numbers of shards that own one graph to compare
    #[arg(long, value_delimiter = ',', requires = "ef", conflicts_with = "shards")]
    owners: Vec<u32>,
    /// Cosines of questions with those of the set
    #[arg(long, value_delimiter = ',', requires = "ef", conflicts_with_all = ["shards", "owners"])]
    near: Vec<f32>,
    /// With --shards or --owners: neighbours asked for
    #[arg(long, default_value_t = K)]
    k: usize,
    /// With --shards: take --ef as the beam in each shard, to find what a budget has to be
    #[arg(long)]
    beams: bool,
    /// With --shards or --owners: queries to take, from the first on
    #[arg(long, default_value_t = usize::MAX)]
    queries: usize,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// CPU time of this thread so far, in seconds, by the scheduler.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn unit(row: &[f32]) -> Vec<f32> {
    let mut vector = row.to_vec();
    assert!(normalize(&mut vector), "it has a direction");
    vector
}

fn params(dimension: usize, codes: bool) -> Params {
    Params {
        metric: Metric::Cosine,
        dimension,
        codes,
        graph: graph::Params { m: 16, ef_construction: 200, seed: 0 },
        hot_documents_max: usize::MAX,
        capacity: Arc::new(Capacity::new(usize::MAX)),
        vectors: VectorStorage::Memory,
        home: None,
    }
}

fn put(id: DocId, row: &[f32]) -> Write {
    let payload = Payload::new([("n", "1")], "").unwrap();
    Write::Put { id, vector: unit(row).into(), payload, tenant_documents_max: None }
}

fn build(params: Params, base: &Rows<f32>, rows: usize, owns: impl Fn(&DocId) -> bool) -> Engine {
    let (begun, begun_cpu) = (Instant::now(), cpu_seconds());
    let mut engine = Engine::new(params);
    let documents = (1..).map(DocId).zip(base.iter().take(rows)).filter(|(id, _)| owns(id));
    for (id, row) in documents {
        for record in engine.stage(put(id, row)).unwrap().records {
            assert!(engine.apply(engine.applied().next(), record));
        }
        while engine.link_step() == LinkProgress::More {}
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - begun_cpu);
    let work = engine.link_work();
    println!("built: {wall:.1} s, {cpu:.1} CPU s, {work:?}");
    engine
}

fn round(engine: &mut Engine, queries: &[Arc<Query>], truth: &Rows<i32>) -> String {
    let (begun, begun_cpu) = (Instant::now(), cpu_seconds());
    let (mut work, mut found) = (Work::default(), Vec::with_capacity(queries.len() * K));
    for query in queries {
        let mut search = engine.begin_search(query.clone()).unwrap();
        while !search.step(engine) {}
        let outcome = engine.finish_search(search);
        work += outcome.work;
        found.extend(outcome.hits.iter().map(|hit| hit.id.0 as i32 - 1));
        found.resize(found.len().next_multiple_of(K), -1);
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - begun_cpu);
    let pairs = found.chunks_exact(K).zip(truth.iter());
    let hits: usize =
        pairs.map(|(found, truth)| truth[..K].iter().filter(|id| found.contains(id)).count()).sum();
    let count = queries.len() as f64;
    let each = |counted: u64| counted as f64 / count;
    format!(
        concat!(
            r#"{{"ef": {}, "recall": {:.4}, "qps": {:.0}, "qps_cpu": {:.0}, "#,
            r#""distances": {:.1}, "full": {:.1}, "prefetched": {:.1}, "hops": {:.1}}}"#
        ),
        queries[0].ef,
        hits as f64 / count / K as f64,
        count / wall,
        count / cpu,
        each(work.distances),
        each(work.full_distances),
        each(work.prefetched),
        each(work.hops),
    )
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

fn main() {
    let arguments = Arguments::parse();
    let read = |name: &str| read_vectors(&arguments.data.join(name)).unwrap();
    let base = read("base.npy");
    let queries = read("queries.npy");
    let params = params(base.width, arguments.codes == "sq8");
    let query = |row, k, ef| Query {
        vector: unit(row),
        k,
        ef,
        min_score: 0.0,
        filter: None,
        include_embeddings: false,
        is_exact: false,
    };
    if !arguments.shards.is_empty() || !arguments.owners.is_empty() {
        let queries: Vec<Query> =
            queries.iter().take(arguments.queries).map(|row| query(row, arguments.k, 1)).collect();
        if !arguments.owners.is_empty() {
            return owners::run(&arguments, &params, &base, &queries);
        }
        return shards::run(&arguments, &params, &base, &queries);
    }
    let truth = read_ids(&arguments.data.join("gt_ids.npy")).unwrap();
    let state = arguments.state.as_ref().filter(|path| path.exists());
    let mut engine = match state {
        Some(path) => {
            let (before, begun, begun_cpu) = (resident_bytes(), Instant::now(), cpu_seconds());
            let engine = state::load(path, params);
            let bytes = (resident_bytes() - before) / engine.live_count() as u64;
            let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - begun_cpu);
            println!("restored in {wall:.3} s, {cpu:.3} CPU s, {bytes} bytes a document");
            engine
        }
        None => {
            let mut engine = build(params, &base, arguments.rows, |_| true);
            if let Some(path) = &arguments.state {
                state::save(path, &mut engine);
            }
            engine
        }
    };
    if arguments.churn > 0 {
        let rows = engine.live_count();
        churn::churn(&mut engine, &base, rows, arguments.churn);
    }
    drop(base);
    let with_ef = |ef: usize| -> Vec<Arc<Query>> {
        queries.iter().map(|row| Arc::new(query(row, K, ef.max(K)))).collect()
    };
    println!("ready");
    if !arguments.near.is_empty() {
        for &ef in &arguments.ef {
            for &cosine in &arguments.near {
                println!("{}", near::run(&mut engine, &with_ef(ef), cosine));
            }
        }
        return;
    }
    let lines = std::io::stdin().lock().lines().map(|line| line.unwrap().trim().parse().unwrap());
    let widths: Box<dyn Iterator<Item = usize>> = match arguments.ef.len() {
        0 => Box::new(lines),
        count => Box::new(arguments.ef.iter().copied().cycle().take(count * arguments.rounds)),
    };
    for ef in widths {
        println!("{}", round(&mut engine, &with_ef(ef), &truth));
    }
}
