//! What `/metrics` says of the caches of vectors on disk, and of what learns for them: the contract's
//! names for all cores together, and how each core is.

use std::sync::Arc;

use super::metrics::Text;
use crate::observe::Observed;
use crate::observe::document_cache::{DocumentCache, Training};

type Value = fn(&DocumentCache) -> u64;

/// Families of the contract about the task that learns, each a sum over the cores.
const TRAINING: [(&str, &str, &str, Value); 3] = [
    (
        "kyrodb_training_crashes_total",
        "counter",
        "Times that learning what to keep of vectors on disk crashed.",
        |cache| cache.crashes.get(),
    ),
    (
        "kyrodb_training_restarts_total",
        "counter",
        "Restarts of the training: after a crash, or on request.",
        |cache| cache.restarts.get(),
    ),
    (
        "kyrodb_training_cycles_completed_total",
        "counter",
        "Times that all that was noted of uses had been learned from.",
        |cache| cache.cycles.get(),
    ),
];

/// Further ones, where what is kept is learned.
const TOGETHER: [(&str, &str, &str, Value); 9] = [
    (
        "kyrodb_hsc_training_skips_total",
        "counter",
        "Of them, those that changed nothing: less than cache.min_training_samples uses are known.",
        |cache| cache.skips.get(),
    ),
    (
        "kyrodb_learned_cache_predictions_total",
        "counter",
        "Decisions whether a vector that was read is worth more than one that is kept.",
        |cache| cache.predictions.get(),
    ),
    (
        "kyrodb_hsc_semantic_slow_path_decisions_total",
        "counter",
        "Of them, those by what the region of the graph is worth.",
        |cache| cache.predictions_by_region.get(),
    ),
    (
        "kyrodb_hsc_semantic_fast_path_decisions_total",
        "counter",
        "Of them, those by uses alone.",
        |cache| cache.predictions.get().saturating_sub(cache.predictions_by_region.get()),
    ),
    (
        "kyrodb_learned_cache_false_positives_total",
        "counter",
        "Vectors that were let in for another, and left without having been asked for.",
        |cache| cache.false_positives.get(),
    ),
    (
        "kyrodb_learned_cache_false_negatives_total",
        "counter",
        "Vectors that were turned away for another, and asked for soon after.",
        |cache| cache.false_negatives.get(),
    ),
    ("kyrodb_hsc_access_logger_depth", "gauge", "Uses that wait to be learned from.", |cache| {
        cache.log_depth.get()
    }),
    (
        "kyrodb_hsc_tracked_docs",
        "gauge",
        "Documents of which uses are known, about, whether or not their vectors are kept.",
        |cache| cache.tracked.get(),
    ),
    (
        "kyrodb_hsc_hot_doc_count",
        "gauge",
        "Vectors kept that were asked for again while they were.",
        |cache| cache.hot.get(),
    ),
];

/// What each core says of itself.
const BY_CORE: [(&str, &str, &str, Value); 3] = [
    ("kyrodb_document_cache_vectors", "gauge", "Vectors kept.", |cache| cache.rows.get()),
    (
        "kyrodb_document_cache_bytes",
        "gauge",
        "Bytes of vectors kept, and of what goes with them.",
        |cache| cache.bytes.get(),
    ),
    (
        "kyrodb_vector_reads_in_flight",
        "gauge",
        "The most reads of vectors that were under way at a time in the last second.",
        |cache| cache.reads_in_flight.get(),
    ),
];

/// Metrics by core of a cache that learns.
const BY_CORE_THAT_LEARNS: [(&str, &str, &str, Value); 2] = [
    (
        "kyrodb_training_state",
        "gauge",
        "0 nothing is learned, 1 it is, 2 it crashed too often and is left alone until a SIGHUP.",
        |cache| cache.training.get(),
    ),
    (
        "kyrodb_training_uses_dropped_total",
        "counter",
        "Uses that were not learned from, because more came than were fetched.",
        |cache| cache.log_dropped.get(),
    ),
];

/// Writes all of it.
pub(super) fn render(text: &mut Text, observed: &Observed) {
    let caches: Vec<Arc<DocumentCache>> = observed.document_caches();
    let sum = |value: Value| caches.iter().map(|cache| value(cache)).sum::<u64>();
    by_core(text, &caches, &BY_CORE);
    let (bytes, bytes_max) = (sum(|cache| cache.bytes.get()), sum(|cache| cache.bytes_max.get()));
    let help = "Share of cache.document_bytes that is in use.";
    text.gauge("kyrodb_hsc_cache_utilization", help, bytes as f64 / bytes_max.max(1) as f64);
    match sum(|cache| cache.learns.get()) {
        0 => no_training(text),
        _ => learning(text, &caches),
    }
}

/// Where nothing is learned: zeros of the task that learns, so that who looks for it finds that it is off.
pub(super) fn no_training(text: &mut Text) {
    for (name, kind, help, _) in TRAINING.iter().chain(&BY_CORE_THAT_LEARNS) {
        text.family(name, kind, help);
        text.sample(name, "", 0);
    }
}

fn by_core(text: &mut Text, caches: &[Arc<DocumentCache>], families: &[(&str, &str, &str, Value)]) {
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        for (core, cache) in caches.iter().enumerate() {
            text.sample(name, &format!("core=\"{core}\""), value(cache));
        }
    }
}

/// What there is to tell with `cache.strategy: learned` alone.
fn learning(text: &mut Text, caches: &[Arc<DocumentCache>]) {
    let sum = |value: Value| caches.iter().map(|cache| value(cache)).sum::<u64>();
    for (name, kind, help, value) in TRAINING.into_iter().chain(TOGETHER) {
        text.family(name, kind, help);
        text.sample(name, "", sum(value));
    }
    by_core(text, caches, &BY_CORE_THAT_LEARNS);
    let runs = |cache: &Arc<DocumentCache>| cache.training.get() == Training::Runs as u64;
    let learners: Vec<_> = caches.iter().filter(|cache| runs(cache)).collect();
    let all = |value: Value| !learners.is_empty() && learners.iter().all(|cache| value(cache) > 0);
    let any = |value: Value| learners.iter().any(|cache| value(cache) > 0);
    let help = "1 if every core that learns goes by what it has learned.";
    text.gauge("kyrodb_hsc_predictor_trained", help, u8::from(all(|cache| cache.is_trained.get())));
    let help = "1 if a core has gone by regions of the graph too, where they did better.";
    text.gauge(
        "kyrodb_hsc_semantic_enabled",
        help,
        u8::from(any(|c| c.predictions_by_region.get())),
    );
    let wrong = sum(|cache| cache.false_positives.get() + cache.false_negatives.get());
    let resolved = sum(|cache| cache.resolved.get());
    let help =
        "Share of right ones of the decisions of which that has turned out; 1 before the first.";
    let right = 1.0 - (wrong as f64 / resolved.max(1) as f64).min(1.0);
    text.gauge("kyrodb_learned_cache_accuracy", help, right);
}
