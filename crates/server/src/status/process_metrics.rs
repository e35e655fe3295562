//! What `/metrics` says of the process as such, under the names that client libraries of Prometheus
//! give it, of what waits where, and of syncs of the log.

use std::sync::atomic::Ordering;

use rustix::process::{Resource, getrlimit};

use super::metrics::{Facts, Text};
use crate::clock::unix_ms;
use crate::observe::counters::ShardCounters;
use crate::observe::rates::cpu_time;

pub(super) fn render(text: &mut Text, facts: &Facts<'_>) {
    let host = &facts.observed.host;
    text.family("process_cpu_seconds_total", "counter", "CPU time of all threads.");
    text.sample("process_cpu_seconds_total", "", cpu_time().as_secs_f64());
    text.gauge("process_resident_memory_bytes", "Resident memory.", host.resident_bytes.get());
    text.gauge("process_open_fds", "Open file descriptors.", host.open_fds.get());
    let max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    text.gauge("process_max_fds", "The most that may be open.", max);
    let help = "When the process started, in Unix seconds.";
    let started = facts.health.started_unix_ms() as f64 / 1e3;
    text.gauge("process_start_time_seconds", help, started);
}

/// What waits where: for a core, for the log, for a sync.
pub(super) fn queues(text: &mut Text, facts: &Facts<'_>) {
    let name = "kyrodb_core_queue_messages";
    text.family(name, "gauge", "Messages that wait in the mailbox of a core.");
    for (core, messages) in facts.queues.iter().enumerate() {
        text.sample(name, &format!("core=\"{core}\""), messages);
    }
    let shards = facts.observed.shards();
    let mut by_shard = |name: &str, help: &str, value: fn(&ShardCounters) -> f64| {
        text.family(name, "gauge", help);
        for (index, shard) in shards.iter().enumerate() {
            text.sample(name, &format!("shard=\"{index}\""), value(shard));
        }
    };
    let help = "Bytes of the log that are written and not synced.";
    by_shard("kyrodb_wal_unsynced_bytes", help, |shard| shard.unsynced_bytes.get() as f64);
    let help = "For how long the oldest of them have been; 0 without any.";
    by_shard("kyrodb_wal_unsynced_seconds", help, |shard| match shard.unsynced_since_ms.get() {
        0 => 0.0,
        since => unix_ms().saturating_sub(since) as f64 / 1e3,
    });
}

/// When the log is synced, and how long that takes.
pub(super) fn syncs(text: &mut Text, facts: &Facts<'_>) {
    let name = "kyrodb_fsync_policy_info";
    text.family(name, "gauge", "1 for persistence.fsync_policy as it is in force.");
    text.sample(name, &format!("policy=\"{}\"", facts.fsync_policy), 1);
    let syncs = &facts.observed.stages.fsync;
    let help = "How long a sync (fsync) of the log takes.";
    text.histograms("kyrodb_wal_fsync_seconds", help, "of", &[("log", syncs)]);
    if let Some(lately) = syncs.lately() {
        let help = "99th percentile of syncs of the log, in ms: of the last minute that had any.";
        text.gauge("kyrodb_wal_fsync_latency_p99", help, lately.quantile_ns(0.99) as f64 / 1e6);
    }
}

/// The check of the files while the server runs.
pub(super) fn scrub(text: &mut Text, facts: &Facts<'_>) {
    let scrub = &facts.observed.scrub;
    let is_running = scrub.is_running.load(Ordering::Relaxed);
    text.gauge("kyrodb_scrub_running", "1 while files are checked.", u8::from(is_running));
    text.counter("kyrodb_scrub_bytes_total", "Bytes of files checked.", scrub.bytes.get());
    text.counter("kyrodb_scrub_files_total", "Files checked.", scrub.files.get());
    let help = "Damages that the last check has found, or finds now.";
    text.gauge("kyrodb_scrub_damages", help, scrub.damages.get());
    let help = "When a check last went to its end, in Unix seconds; 0 if none has.";
    let completed = scrub.completed_unix_ms.get() as f64 / 1e3;
    text.gauge("kyrodb_scrub_last_completed_timestamp_seconds", help, completed);
}

/// The facts of a test.
#[cfg(test)]
pub(super) fn facts<'a>(
    observed: &'a crate::observe::Observed,
    health: &'a super::health::Health,
) -> Facts<'a> {
    Facts { observed, health, fsync_policy: "data_only", queues: vec![3, 0] }
}
