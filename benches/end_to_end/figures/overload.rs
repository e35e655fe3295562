//! Overload: more searches are sent than can be answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kyrodb::proto::SearchRequest;
use tokio::sync::Mutex;
use tonic::{Code, Request};

use super::{latencies, micros, shown};
use crate::common::{Client, Process, search};
use crate::data::Data;

/// Length of each phase.
const PHASE: Duration = Duration::from_secs(5);

/// Clients that search as fast as they can, to find the maximum rate.
const CLIENTS: usize = 16;

/// Beam width: wide, so that the server is the bottleneck and not the client beside it.
const EF: u32 = 1_000;

/// Deadline of each search.
const BUDGET: Duration = Duration::from_millis(200);

/// Results of searches.
#[derive(Default)]
struct Outcomes {
    whole: AtomicU64,
    partial: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    other: AtomicU64,
}

fn request(data: &Data, number: usize) -> Request<SearchRequest> {
    let query = data.queries.row(number % data.queries.count());
    let mut request = Request::new(SearchRequest { ef_search: EF, ..search(query, 10) });
    request.set_timeout(BUDGET);
    request
}

/// The maximum rate, and then the results at three times this rate, fixed.
pub(super) async fn overload(process: &Process, data: &Data) {
    let peak = peak(process, data).await;
    let outcomes = Arc::new(Outcomes::default());
    let times = Arc::new(Mutex::new(latencies()));
    let (client, begun) = (process.client().await, Instant::now());
    let (mut sent, mut running) = (0, tokio::task::JoinSet::new());
    while begun.elapsed() < PHASE {
        let due = (begun.elapsed().as_secs_f64() * 3.0 * peak) as usize;
        for number in sent..due {
            let answer =
                ask(client.clone(), request(data, number), outcomes.clone(), times.clone());
            running.spawn(answer);
        }
        sent = sent.max(due);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.join_all().await;
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let goodput = count(&outcomes.whole) as f64 / PHASE.as_secs_f64();
    println!(
        "overload, ef {EF}, {} ms for each: at most {peak:.0} searches a second; of {:.0} a second \
         {goodput:.0} were answered whole ({:.0} % of the most), {} in part, {} refused at once, {} too \
         late, {} otherwise; answered ones {}",
        BUDGET.as_millis(),
        sent as f64 / PHASE.as_secs_f64(),
        100.0 * goodput / peak,
        count(&outcomes.partial),
        count(&outcomes.refused),
        count(&outcomes.late),
        count(&outcomes.other),
        shown(&*times.lock().await)
    );
}

async fn ask(
    mut client: Client,
    request: Request<SearchRequest>,
    outcomes: Arc<Outcomes>,
    times: Arc<Mutex<hdrhistogram::Histogram<u64>>>,
) {
    let begun = Instant::now();
    let outcome = match client.search(request).await {
        Ok(found) => {
            times.lock().await.saturating_record(micros(begun));
            let found = found.into_inner();
            let is_whole = found.shards_answered == found.shards_asked;
            if is_whole { &outcomes.whole } else { &outcomes.partial }
        }
        Err(status) => match status.code() {
            Code::ResourceExhausted => &outcomes.refused,
            Code::DeadlineExceeded | Code::Cancelled => &outcomes.late,
            _ => &outcomes.other,
        },
    };
    outcome.fetch_add(1, Ordering::Relaxed);
}

async fn peak(process: &Process, data: &Data) -> f64 {
    let done = AtomicU64::new(0);
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|first| {
        let done = &done;
        async move {
            let mut client = process.client().await;
            let mut number = first;
            while begun.elapsed() < PHASE {
                client.search(request(data, number)).await.expect("a search");
                done.fetch_add(1, Ordering::Relaxed);
                number += CLIENTS;
            }
        }
    });
    futures_util::future::join_all(clients).await;
    done.into_inner() as f64 / PHASE.as_secs_f64()
}
