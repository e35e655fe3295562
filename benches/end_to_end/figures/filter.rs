//! Searches with filters.

use std::time::Instant;

use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::range_match::Bound;
use kyrodb::proto::{ExactMatch, MetadataFilter, RangeMatch, SearchRequest};

use super::stages::Stages;
use super::{latencies, micros, shown};
use crate::common::{Process, get, metric_sum, search};
use crate::data::{Data, FilterCase};

pub(super) async fn filters(process: &Process, data: &Data) {
    let mut client = process.client().await;
    for case in &data.filters {
        let (mut exact, mut hits, mut alone) = (0, 0, latencies());
        let count = case.truth.count();
        let stages = Stages::of_search(process);
        let before = totals(process);
        for (query, wanted) in data.queries.iter().zip(case.truth.iter()) {
            let request = SearchRequest { filter: Some(filter(case)), ..search(query, 10) };
            let begun = Instant::now();
            let found = client.search(request).await.expect("a search").into_inner();
            alone.saturating_record(micros(begun));
            let found: Vec<i32> = found.results.iter().map(|r| r.doc_id as i32 - 1).collect();
            let right = found.iter().filter(|row| wanted.contains(row)).count();
            hits += right;
            exact += usize::from(right == wanted.len() && found.len() == wanted.len());
        }
        println!(
            "filter {}{}{} ({} match): recall@10 {:.4}, {exact} of {count} sets exact; {}",
            case.key,
            if case.is_at_least { ">=" } else { "=" },
            case.value,
            case.matching,
            hits as f64 / (10 * count) as f64,
            shown(&alone)
        );
        let per_search = totals(process).map(|(_, now)| now).into_iter().zip(before);
        let per_search: Vec<String> = per_search
            .map(|(now, (name, before))| format!("{:.0} {name}", (now - before) / count as f64))
            .collect();
        println!("  {}; a search: {}", stages.since(process), per_search.join(", "));
    }
}

/// Total cost of searches so far, over all shards.
fn totals(process: &Process) -> [(&'static str, f64); 2] {
    let text = get(process.http, "/metrics").expect("metrics").1;
    let sum = |name: &str| metric_sum(&text, &format!("kyrodb_shard_search_{name}_total"));
    [("distances", sum("distances")), ("lists", sum("hops"))]
}

fn filter(case: &FilterCase) -> MetadataFilter {
    let key = case.key.clone();
    let filter_type = if case.is_at_least {
        FilterType::Range(RangeMatch { key, bound: Some(Bound::Gte(case.value.clone())) })
    } else {
        FilterType::Exact(ExactMatch { key, value: case.value.clone() })
    };
    MetadataFilter { filter_type: Some(filter_type) }
}
