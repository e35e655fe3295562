//! `/debug/slow`: the slowest searches of the last minutes and the last stalls of the cores. Times
//! and counts alone: nothing of what was searched for or found.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::health::Health;
use crate::observe::Observed;
use crate::observe::slow::{Slow, WINDOW, WINDOWS};
use crate::observe::trace::Stage;
use crate::shard::pulse::{STALLS_KEPT, Stall};

/// The page.
pub(super) fn page(observed: &Observed, health: &Health) -> Value {
    let slowest = observed.slow.slowest(Instant::now());
    let hearts = health.hearts().iter().enumerate();
    let mut stalls: Vec<(usize, Stall)> = hearts
        .flat_map(|(core, heart)| heart.last_stalls().into_iter().map(move |stall| (core, stall)))
        .collect();
    stalls.sort_by_key(|(_, stall)| std::cmp::Reverse(stall.unix_ms));
    stalls.truncate(STALLS_KEPT);
    json!({
        "window_seconds": WINDOW.as_secs() * WINDOWS,
        "slowest": slowest.iter().map(search).collect::<Vec<_>>(),
        "stalls": stalls.iter().map(|(core, stall)| stalled(*core, stall)).collect::<Vec<_>>(),
    })
}

fn search(slow: &Slow) -> Value {
    let Slow { trace, origin, unix_ms } = slow;
    let spent = Stage::ALL.map(|stage| (stage.word().to_owned(), ms(trace.spent(stage)).into()));
    let (asked, counts, state) = (&trace.asked, &trace.counts, &trace.state);
    let mut told = json!({
        "ended_unix_ms": unix_ms,
        "total_ms": ms(trace.total()),
        "stages_ms": Map::from_iter(spent),
        "k": asked.k,
        "ef": asked.ef,
        "filter": asked.is_filtered,
        "exact": asked.is_exact,
        "work": {
            "distances": counts.distances,
            "hops": counts.hops,
            "hot_documents_scanned": counts.hot_scanned,
            "slices": counts.slices,
            "shards_asked": counts.shards_asked,
            "shards_answered": counts.shards_answered,
        },
        "core": {
            "hot_documents": state.hot_documents,
            "mailbox_depth": state.mailbox_depth,
            "snapshot_running": state.is_snapshot_running,
            "linking": state.is_linking,
        },
    });
    // Only those that their clients have named have them.
    if let Some(request_id) = origin.request_id() {
        told["request_id"] = request_id.into();
    }
    if let Some(trace_id) = origin.trace_id() {
        told["trace_id"] = trace_id.into();
    }
    told
}

fn stalled(core: usize, stall: &Stall) -> Value {
    json!({
        "core": core,
        "noticed_unix_ms": stall.unix_ms,
        "lasted_ms": ms(stall.lasted),
        "doing": stall.doing.word(),
    })
}

/// Milliseconds, to the tenth of a microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_nanos() / 100) as f64 / 1e4
}
