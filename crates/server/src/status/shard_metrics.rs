//! What `/metrics` says of each shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::metrics::Text;
use crate::observe::Observed;
use crate::observe::counters::{MemoryPart, ShardCounters};

/// A family that has one value for each shard.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&ShardCounters) -> u64,
}

impl Family {
    fn render(&self, text: &mut Text, shards: &[Arc<ShardCounters>]) {
        text.by_shard(self.name, self.kind, self.help, shards, self.value);
    }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&ShardCounters) -> u64) -> Family {
    Family { name, kind: "gauge", help, value }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&ShardCounters) -> u64,
) -> Family {
    Family { name, kind: "counter", help, value }
}

/// Families of every server, in their order.
const FAMILIES: &[Family] = &[
    gauge("kyrodb_shard_documents", "Documents.", |s| s.documents.get()),
    gauge("kyrodb_shard_hot_documents", "Documents not linked yet.", |s| s.hot_documents.get()),
    gauge("kyrodb_shard_linked_nodes", "Graph nodes, dead ones included.", |s| {
        s.linked_nodes.get()
    }),
    gauge("kyrodb_shard_slots", "Slots in the arenas.", |s| s.slots.get()),
    gauge("kyrodb_shard_dead_nodes", "Dead nodes in the graph.", |s| s.dead_nodes.get()),
    counter("kyrodb_shard_removed_nodes_total", "Dead nodes taken out of the graph.", |s| {
        s.removed_nodes.get()
    }),
    counter(
        "kyrodb_shard_unreachable_nodes_total",
        "Live nodes found that no walk could reach, and linked to again.",
        |s| s.unreachable_nodes.get(),
    ),
    counter(
        "kyrodb_shard_graph_checks_total",
        "Times that the whole graph was searched for nodes that no walk can reach.",
        |s| s.graph_checks.get(),
    ),
    counter(
        "kyrodb_index_stale_postings_total",
        "Pairs of metadata of documents that are gone, found in a snapshot or in the index and removed.",
        |s| s.stale_postings.get(),
    ),
    gauge(
        "kyrodb_shard_codes_passed_over",
        "1 if 8-bit codes do not tell neighbours apart: walks go by vectors, or are wider.",
        |s| s.codes_passed_over.get(),
    ),
    counter("kyrodb_shard_links_total", "Documents linked.", |s| s.links.get()),
    counter("kyrodb_shard_search_distances_total", "Distances of searches.", |s| {
        s.search_distances.get()
    }),
    counter(
        "kyrodb_shard_search_full_distances_total",
        "Distances of searches by whole vectors.",
        |s| s.search_full_distances.get(),
    ),
    counter("kyrodb_shard_search_prefetched_rows_total", "Rows fetched ahead by searches.", |s| {
        s.search_prefetched.get()
    }),
    counter("kyrodb_shard_search_hops_total", "Hops of searches.", |s| s.search_hops.get()),
    counter("kyrodb_shard_search_hot_documents_total", "Hot ones scanned.", |s| {
        s.search_hot_documents.get()
    }),
    gauge(
        "kyrodb_shard_hot_documents_bound",
        "Hot ones at which writers wait: as many as searches can scan beside their walks.",
        |s| s.hot_documents_bound.get(),
    ),
    gauge(
        "kyrodb_shard_writes_waiting",
        "Writes that wait for the log, or for room in the hot tier.",
        |s| s.writes_waiting.get(),
    ),
    counter(
        "kyrodb_shard_writes_paced_total",
        "Times that the log waited for room in the hot tier.",
        |s| s.writes_paced.get(),
    ),
    counter(
        "kyrodb_shard_inserts_shed_total",
        "Inserts refused since they would have waited too long for room in the hot tier.",
        |s| s.inserts_shed.get(),
    ),
    counter(
        "kyrodb_recall_sampled_searches_total",
        "Searches of a shard that were repeated exactly (hnsw.recall_sample_per_second).",
        |s| s.recall_sampled.get(),
    ),
    counter(
        "kyrodb_recall_dropped_searches_total",
        "Searches to be repeated that were given up, since there was no time for it.",
        |s| s.recall_dropped.get(),
    ),
    counter(
        "kyrodb_recall_wanted_total",
        "True nearest documents of the searches repeated, in each shard among its own.",
        |s| s.recall_wanted.get(),
    ),
    counter("kyrodb_recall_hits_total", "Those of them that the search had found.", |s| {
        s.recall_hits.get()
    }),
    counter("kyrodb_shard_link_distances_total", "Distances of linking.", |s| {
        s.link_distances.get()
    }),
    counter("kyrodb_snapshots_total", "Snapshots written.", |s| s.snapshots.get()),
    counter("kyrodb_snapshot_failures_total", "Snapshots not written.", |s| {
        s.snapshot_failures.get()
    }),
    counter("kyrodb_snapshot_bytes_total", "Bytes of snapshots written.", |s| {
        s.snapshot_bytes.get()
    }),
    counter(
        "kyrodb_snapshot_written_bytes_total",
        "Of them, bytes of vectors and metadata: adjacency and ids are written whole each time.",
        |s| s.snapshot_written_bytes.get(),
    ),
    counter(
        "kyrodb_snapshot_changed_bytes_total",
        "Bytes of documents that had changed, in the log, since the snapshot before.",
        |s| s.snapshot_changed_bytes.get(),
    ),
    counter("kyrodb_snapshots_damaged_total", "Found damaged at start.", |s| {
        s.damaged_snapshots.get()
    }),
    gauge("kyrodb_shard_wal_circuit_breaker_state", "As that of all.", |s| s.breaker() as u64),
    gauge("kyrodb_shard_read_only", "1 if the log is beyond mending.", |s| {
        u64::from(s.is_read_only.load(Ordering::Relaxed))
    }),
    gauge("kyrodb_shard_fenced", "1 if fenced after a fault.", |s| {
        u64::from(s.is_fenced.load(Ordering::Relaxed))
    }),
];

/// Families of vectors on disk: what was wanted of them, by the shard whose core wanted it.
const OF_VECTORS: &[Family] = &[
    counter(
        "kyrodb_vector_cache_hits_total",
        "Vectors wanted that the core had read before.",
        |s| s.vectors.cache_hits.get(),
    ),
    counter("kyrodb_vector_cache_misses_total", "Vectors wanted that had to be read.", |s| {
        s.vectors.cache_misses.get()
    }),
    counter("kyrodb_vector_cache_evictions_total", "Vectors that made room for others.", |s| {
        s.vectors.cache_evictions.get()
    }),
    counter(
        "kyrodb_vector_reads_total",
        "Reads of vectors from disk, some of several side by side.",
        |s| s.vectors.reads.get(),
    ),
    counter("kyrodb_vector_read_bytes_total", "Bytes read of vectors.", |s| {
        s.vectors.read_bytes.get()
    }),
    counter(
        "kyrodb_vector_lost_total",
        "Times that a vector could not be read, or was not what was written.",
        |s| s.vectors.lost.get(),
    ),
    gauge(
        "kyrodb_vector_reads_pending",
        "Reads of vectors under way, and those that wait for their turn.",
        |s| s.vectors.pending.get(),
    ),
];

/// All of it.
pub(super) fn render(text: &mut Text, observed: &Observed) {
    let shards = observed.shards();
    let sum = |value: fn(&ShardCounters) -> u64| shards.iter().map(|s| value(s)).sum::<u64>();
    text.gauge("kyrodb_hnsw_vector_count", "Documents.", sum(|s| s.documents.get()));
    text.counter("kyrodb_hnsw_searches_total", "Searches by shards.", sum(|s| s.searches.get()));
    FAMILIES.iter().for_each(|family| family.render(text, &shards));
    amplification(text, &shards);
    recall(text, &shards);
    if observed.has_vectors_on_disk.load(Ordering::Relaxed) {
        OF_VECTORS.iter().for_each(|family| family.render(text, &shards));
    }
    let name = "kyrodb_memory_bytes";
    let help = "Memory of each shard by part, counted: without scratch memory and allocators.";
    text.family(name, "gauge", help);
    for (index, shard) in shards.iter().enumerate() {
        for part in MemoryPart::ALL {
            let labels = format!("shard=\"{index}\",part=\"{}\"", part.word());
            text.sample(name, &labels, shard.memory[part as usize].get());
        }
    }
}

/// What snapshots write for what has changed. Nothing before the first one.
fn amplification(text: &mut Text, shards: &[Arc<ShardCounters>]) {
    let sum = |of: fn(&ShardCounters) -> u64| shards.iter().map(|shard| of(shard)).sum::<u64>();
    let changed = sum(|shard| shard.snapshot_changed_bytes.get());
    if changed > 0 {
        let ratio = sum(|shard| shard.snapshot_written_bytes.get()) as f64 / changed as f64;
        let help =
            "Bytes of vectors and metadata written to snapshots for each byte that had changed.";
        text.gauge("kyrodb_snapshot_write_amplification", help, ratio);
    }
}

/// What shards have found of late. Nothing of a shard none of whose searches was repeated.
fn recall(text: &mut Text, shards: &[Arc<ShardCounters>]) {
    let name = "kyrodb_recall_ratio";
    let help = "Found by wanted of the last 100 searches repeated, in each shard among its own.";
    text.family(name, "gauge", help);
    for (index, shard) in shards.iter().enumerate().filter(|(_, s)| s.recall_sampled.get() > 0) {
        let ratio = shard.recall_recent_millionths.get() as f64 / 1e6;
        text.sample(name, &format!("shard=\"{index}\""), ratio);
    }
    let name = "kyrodb_codes_indistinct_ratio";
    let help =
        "Share of the nearest documents that 8-bit codes do not have among the nearest, of late.";
    text.family(name, "gauge", help);
    for (index, shard) in shards.iter().enumerate() {
        let ratio = shard.codes_indistinct_millionths.get() as f64 / 1e6;
        text.sample(name, &format!("shard=\"{index}\""), ratio);
    }
}
