//! What `/metrics` says of each shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::metrics::Text;
use crate::observe::Observed;
use crate::observe::counters::{MemoryPart, ShardCounters};

/// All of it.
pub(super) fn render(text: &mut Text, observed: &Observed) {
    let shards = observed.shards();
    let sum = |value: fn(&ShardCounters) -> u64| shards.iter().map(|s| value(s)).sum::<u64>();
    text.gauge("kyrodb_hnsw_vector_count", "Documents.", sum(|s| s.documents.get()));
    text.counter("kyrodb_hnsw_searches_total", "Searches by shards.", sum(|s| s.searches.get()));
    let mut by_shard = |name: &str, kind: &str, help: &str, value: fn(&ShardCounters) -> u64| {
        text.by_shard(name, kind, help, &shards, value);
    };
    by_shard("kyrodb_shard_documents", "gauge", "Documents.", |s| s.documents.get());
    by_shard("kyrodb_shard_hot_documents", "gauge", "Documents not linked yet.", |s| {
        s.hot_documents.get()
    });
    by_shard("kyrodb_shard_linked_nodes", "gauge", "Graph nodes, dead ones included.", |s| {
        s.linked_nodes.get()
    });
    by_shard("kyrodb_shard_slots", "gauge", "Slots in the arenas.", |s| s.slots.get());
    by_shard("kyrodb_shard_dead_nodes", "gauge", "Dead nodes in the graph.", |s| {
        s.dead_nodes.get()
    });
    let help = "Dead nodes taken out of the graph.";
    by_shard("kyrodb_shard_removed_nodes_total", "counter", help, |s| s.removed_nodes.get());
    let help = "Live nodes found that no walk could reach, and linked to again.";
    by_shard("kyrodb_shard_unreachable_nodes_total", "counter", help, |s| {
        s.unreachable_nodes.get()
    });
    let help = "Times that the whole graph was searched for nodes that no walk can reach.";
    by_shard("kyrodb_shard_graph_checks_total", "counter", help, |s| s.graph_checks.get());
    let help = "Pairs of metadata of documents that are gone, found in a snapshot or in the index and removed.";
    by_shard("kyrodb_index_stale_postings_total", "counter", help, |s| s.stale_postings.get());
    let help = "1 if 8-bit codes do not tell neighbours apart: walks go by vectors, or are wider.";
    by_shard("kyrodb_shard_codes_passed_over", "gauge", help, |s| s.codes_passed_over.get());
    by_shard("kyrodb_shard_links_total", "counter", "Documents linked.", |s| s.links.get());
    by_shard("kyrodb_shard_search_distances_total", "counter", "Distances of searches.", |s| {
        s.search_distances.get()
    });
    let help = "Distances of searches by whole vectors.";
    by_shard("kyrodb_shard_search_full_distances_total", "counter", help, |s| {
        s.search_full_distances.get()
    });
    let help = "Rows fetched ahead by searches.";
    by_shard("kyrodb_shard_search_prefetched_rows_total", "counter", help, |s| {
        s.search_prefetched.get()
    });
    by_shard("kyrodb_shard_search_hops_total", "counter", "Hops of searches.", |s| {
        s.search_hops.get()
    });
    by_shard("kyrodb_shard_search_hot_documents_total", "counter", "Hot ones scanned.", |s| {
        s.search_hot_documents.get()
    });
    let help = "Hot ones at which writers wait: as many as searches can scan beside their walks.";
    by_shard("kyrodb_shard_hot_documents_bound", "gauge", help, |s| s.hot_documents_bound.get());
    let help = "Writes that wait for the log, or for room in the hot tier.";
    by_shard("kyrodb_shard_writes_waiting", "gauge", help, |s| s.writes_waiting.get());
    let help = "Times that the log waited for room in the hot tier.";
    by_shard("kyrodb_shard_writes_paced_total", "counter", help, |s| s.writes_paced.get());
    let help = "Inserts refused since they would have waited too long for room in the hot tier.";
    by_shard("kyrodb_shard_inserts_shed_total", "counter", help, |s| s.inserts_shed.get());
    let help = "Searches of a shard that were repeated exactly (hnsw.recall_sample_per_second).";
    by_shard("kyrodb_recall_sampled_searches_total", "counter", help, |s| s.recall_sampled.get());
    let help = "Searches to be repeated that were given up, since there was no time for it.";
    by_shard("kyrodb_recall_dropped_searches_total", "counter", help, |s| s.recall_dropped.get());
    let help = "True nearest documents of the searches repeated, in each shard among its own.";
    by_shard("kyrodb_recall_wanted_total", "counter", help, |s| s.recall_wanted.get());
    let help = "Those of them that the search had found.";
    by_shard("kyrodb_recall_hits_total", "counter", help, |s| s.recall_hits.get());
    by_shard("kyrodb_shard_link_distances_total", "counter", "Distances of linking.", |s| {
        s.link_distances.get()
    });
    by_shard("kyrodb_snapshots_total", "counter", "Snapshots written.", |s| s.snapshots.get());
    by_shard("kyrodb_snapshot_failures_total", "counter", "Snapshots not written.", |s| {
        s.snapshot_failures.get()
    });
    by_shard("kyrodb_snapshot_bytes_total", "counter", "Bytes of snapshots written.", |s| {
        s.snapshot_bytes.get()
    });
    let help =
        "Of them, bytes of vectors and metadata: adjacency and ids are written whole each time.";
    by_shard("kyrodb_snapshot_written_bytes_total", "counter", help, |s| {
        s.snapshot_written_bytes.get()
    });
    let help = "Bytes of documents that had changed, in the log, since the snapshot before.";
    by_shard("kyrodb_snapshot_changed_bytes_total", "counter", help, |s| {
        s.snapshot_changed_bytes.get()
    });
    by_shard("kyrodb_snapshots_damaged_total", "counter", "Found damaged at start.", |s| {
        s.damaged_snapshots.get()
    });
    by_shard("kyrodb_shard_wal_circuit_breaker_state", "gauge", "As that of all.", |s| {
        s.breaker() as u64
    });
    by_shard("kyrodb_shard_read_only", "gauge", "1 if the log is beyond mending.", |s| {
        u64::from(s.is_read_only.load(Ordering::Relaxed))
    });
    by_shard("kyrodb_shard_fenced", "gauge", "1 if fenced after a fault.", |s| {
        u64::from(s.is_fenced.load(Ordering::Relaxed))
    });
    amplification(text, &shards);
    recall(text, &shards);
    if observed.has_vectors_on_disk.load(Ordering::Relaxed) {
        vectors(text, &shards);
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

/// What was wanted of vectors on disk, by the shard whose core wanted it.
fn vectors(text: &mut Text, shards: &[Arc<ShardCounters>]) {
    let mut by_shard = |name: &str, help: &str, value: fn(&ShardCounters) -> u64| {
        text.by_shard(name, "counter", help, shards, value);
    };
    let help = "Vectors wanted that the core had read before.";
    by_shard("kyrodb_vector_cache_hits_total", help, |s| s.vectors.cache_hits.get());
    let help = "Vectors wanted that had to be read.";
    by_shard("kyrodb_vector_cache_misses_total", help, |s| s.vectors.cache_misses.get());
    let help = "Vectors that made room for others.";
    by_shard("kyrodb_vector_cache_evictions_total", help, |s| s.vectors.cache_evictions.get());
    let help = "Reads of vectors from disk, some of several side by side.";
    by_shard("kyrodb_vector_reads_total", help, |s| s.vectors.reads.get());
    let help = "Bytes read of vectors.";
    by_shard("kyrodb_vector_read_bytes_total", help, |s| s.vectors.read_bytes.get());
    let help = "Times that a vector could not be read, or was not what was written.";
    by_shard("kyrodb_vector_lost_total", help, |s| s.vectors.lost.get());
    let help = "Reads of vectors under way, and those that wait for their turn.";
    let name = "kyrodb_vector_reads_pending";
    text.by_shard(name, "gauge", help, shards, |s| s.vectors.pending.get());
}
