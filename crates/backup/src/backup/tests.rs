//! Cutting and counting logs whose groups have known stamps.

use std::collections::BTreeSet;

use super::count::count;
use super::create::State;
use super::log::cut;
use super::source::{self, Source};
use crate::disk::Disk;
use crate::disk::sim;
use crate::types::ShardId;
use crate::types::record::Record;
use crate::wal::sample::{SHARDS, Sample};

/// Stamp of the groups of the sample is 9, and 10 for the one that ends a life in good order.
const GROUP_MS: u64 = 9;
const SEAL_MS: u64 = 10;

/// The sample on a real disk, opened as if at the moment `at_ms`.
fn opened(sample: &Sample, at_ms: u64) -> Source {
    let binary = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
    for name in sim::run(sample.disk.list()).unwrap() {
        std::fs::write(directory.path().join(&name), sample.disk.content(&name)).unwrap();
    }
    let source = source::open(directory.path()).unwrap();
    Source { at_ms, ..source }
}

fn live(sample: &Sample) -> usize {
    let mut live = BTreeSet::new();
    for record in sample.records.iter().flatten() {
        match record {
            Record::Put { id, .. } => {
                live.insert(*id);
            }
            Record::Delete { id } => {
                live.remove(id);
            }
            Record::SetPayload { .. } => {}
            Record::DeleteBatch { ids, .. } => live.retain(|id| !ids.contains(id)),
        }
    }
    live.len()
}

#[test]
fn a_state_is_counted_as_it_is() {
    let sample = Sample::made();
    let source = opened(&sample, SEAL_MS);
    let state = State::find(&source, None).unwrap();
    assert!(!state.is_clock_back);
    assert!(state.manifest.segments.iter().all(|segment| segment.sealed.is_some()));
    assert_eq!(count(&source.view, &state.manifest), Ok(live(&sample) as u64));
}

#[test]
fn a_log_ends_with_the_last_group_of_the_moment() {
    let mut sample = Sample::new();
    sample.start();
    sample.fill(6);
    let first_life: Vec<usize> = sample.records.iter().map(Vec::len).collect();
    sample.stop();
    sample.start();
    sample.fill(6);
    let source = opened(&sample, SEAL_MS);
    for shard in (0..SHARDS).map(ShardId) {
        let at = |until_ms| {
            cut(&source.view, shard, &source.manifest.segments, until_ms, |_, _| false).unwrap()
        };
        let index = shard.0 as usize;
        let next = |records: usize| records as u64 + 1;
        let (before, whole) = (at(GROUP_MS - 1), at(u64::MAX));
        assert_eq!((before.segments.len(), before.end.unwrap().next_lsn.0), (0, 1));
        assert_eq!(before.later_ms, Some(GROUP_MS));
        // The group that seals the first life is later, and so are all after it.
        let first = at(GROUP_MS);
        assert_eq!(first.end.unwrap().next_lsn.0, next(first_life[index]));
        assert_eq!(first.later_ms, Some(SEAL_MS));
        assert_eq!(whole.end.unwrap().next_lsn.0, next(sample.records[index].len()));
        assert_eq!(whole.later_ms, None);
    }
}

/// A segment completed before the moment has a later stamp: nothing is left out for that.
#[test]
fn logs_are_taken_whole_after_the_clock_was_set_back() {
    let sample = Sample::made();
    for at_ms in [0, GROUP_MS - 1, GROUP_MS] {
        let source = opened(&sample, at_ms);
        let state = State::find(&source, None).unwrap();
        assert!(state.is_clock_back, "{at_ms}");
        assert_eq!(count(&source.view, &state.manifest), Ok(live(&sample) as u64), "{at_ms}");
    }
}
