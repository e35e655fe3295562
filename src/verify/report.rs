//! What a check has found, in the form that programs read; [`super::text`] is for people.

use serde::Serialize;

/// What a check of a data directory has found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Nothing is damaged. A torn tail of a log's last segment is no damage.
    pub is_clean: bool,
    /// What MANIFEST says; `None` if it is missing or damaged, which `faults` tell.
    pub manifest: Option<Made>,
    /// The segments, by shard and number: those in the directory and those that MANIFEST names.
    pub segments: Vec<SegmentReport>,
    /// The logs.
    pub shards: Vec<ShardReport>,
    /// The snapshots that MANIFEST names.
    pub snapshots: Vec<SnapshotReport>,
    /// All damage, in the order of the segments.
    pub faults: Vec<Fault>,
    /// What is no damage and yet worth knowing.
    pub notes: Vec<String>,
}

/// What a directory was made for.
#[derive(Debug, Serialize)]
pub struct Made {
    /// Number of shards.
    pub shards: u32,
    /// Values in a vector; 0 if there has been no document.
    pub dimension: u32,
    /// The config word of the metric.
    pub distance: String,
    /// Generation of the writer, in hexadecimal.
    pub epoch: String,
    /// Segments that MANIFEST names.
    pub segments: usize,
}

/// How a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Whole; MANIFEST records where it ends.
    Sealed,
    /// Whole; another segment goes on from its end.
    Followed,
    /// The last of its log, whole as far as can be told.
    Open,
    /// The last of its log, and its last write was cut off.
    TornTail,
    /// Prepared, never written.
    Unused,
    /// Some of it can't be read, or can't be what was written.
    Damaged,
    /// MANIFEST names it, and it is not there.
    Missing,
    /// A later version of this program made it.
    Newer,
}

/// One segment.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentReport {
    /// File name.
    pub file: String,
    /// Whose log it belongs to, by its name.
    pub shard: u32,
    /// Where in the log, by its name.
    pub number: u64,
    /// How it is.
    pub state: State,
    /// MANIFEST names it.
    pub is_named: bool,
    /// Generation of its writer, in hexadecimal, if its header could be read.
    pub epoch: Option<String>,
    /// Records that could be read.
    pub records: u64,
    /// The first of them.
    pub first_lsn: Option<u64>,
    /// The last of them.
    pub last_lsn: Option<u64>,
    /// Up to this offset everything is good.
    pub good_bytes: u64,
    /// The last good group ends here; more than `good_bytes` if there is damage in between.
    pub end_bytes: u64,
    /// What was found of a write that was cut off.
    pub torn: Option<String>,
}

/// One log.
#[derive(Debug, Default, Serialize)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u32,
    /// Segments with records.
    pub segments: usize,
    /// Records that could be read.
    pub records: u64,
    /// The first of them.
    pub first_lsn: Option<u64>,
    /// The last of them.
    pub last_lsn: Option<u64>,
    /// The segments follow one another, and LSNs run on without a gap.
    pub is_continuous: bool,
}

/// One snapshot.
#[derive(Debug, Serialize)]
pub struct SnapshotReport {
    /// File name.
    pub file: String,
    /// Whose state it is.
    pub shard: u32,
    /// Which one, counted from 1.
    pub number: u64,
    /// The last record of the log that is in it.
    pub last_lsn: u64,
    /// All files that hold parts of it are as they were written, and tell of the same documents.
    pub is_good: bool,
    /// Documents that are gone, and have metadata in it: an earlier version kept it. A start drops it.
    pub stale_metadata: u64,
}

/// One damage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fault {
    /// The file, by name.
    pub file: String,
    /// Where in it; `None` if it is about the file as a whole.
    pub offset: Option<u64>,
    /// The record that should be there, if that is known.
    pub lsn: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// The records that can't be read because of it, first and last, if they are known.
    pub lost: Option<(u64, u64)>,
    /// Where good groups go on in the file: offset and LSN.
    pub goes_on: Option<(u64, u64)>,
    /// The log has a gap here.
    pub is_gap: bool,
}

impl Report {
    /// Records that could be read.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }
}
