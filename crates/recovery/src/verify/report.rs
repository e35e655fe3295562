//! Result of a check, in the form that programs read; [`super::text`] is for people.

use serde::Serialize;

/// Result of a check of a data directory.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// True if nothing is damaged. A torn tail of a log's last segment is no damage.
    pub is_clean: bool,
    /// Contents of MANIFEST; `None` if it is missing or damaged, which is in `faults`.
    pub manifest: Option<Made>,
    /// The segments, by shard and number: those in the directory and those that MANIFEST names.
    pub segments: Vec<SegmentReport>,
    /// The logs.
    pub shards: Vec<ShardReport>,
    /// The snapshots that MANIFEST names.
    pub snapshots: Vec<SnapshotReport>,
    /// All damage, in the order of the segments.
    pub faults: Vec<Fault>,
    /// Observations that are no damage and yet worth knowing.
    pub notes: Vec<String>,
}

/// Parameters of a directory.
#[derive(Debug, Serialize)]
pub struct Made {
    /// Number of shards.
    pub shards: u32,
    /// Values in a vector; 0 if there has been no document.
    pub dimension: u32,
    /// Configuration word of the metric.
    pub distance: String,
    /// Epoch of the writer, in hexadecimal.
    pub epoch: String,
    /// Number of segments that MANIFEST names.
    pub segments: usize,
}

/// State of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Whole; MANIFEST records its end.
    Sealed,
    /// Whole; another segment goes on from its end.
    Followed,
    /// The last of its log, whole as far as it can be checked.
    Open,
    /// The last of its log, and its last write was cut off.
    TornTail,
    /// Prepared, never written.
    Unused,
    /// Some of it can't be read, or can't be as it was written.
    Damaged,
    /// MANIFEST names it, and it does not exist.
    Missing,
    /// A later version of this program made it.
    Newer,
}

/// One segment.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentReport {
    /// File name.
    pub file: String,
    /// Shard whose log it belongs to, by its name.
    pub shard: u32,
    /// Position in the log, by its name.
    pub number: u64,
    /// State of the segment.
    pub state: State,
    /// True if MANIFEST names it.
    pub is_named: bool,
    /// Epoch of its writer, in hexadecimal, if its header could be read.
    pub epoch: Option<String>,
    /// Number of records that could be read.
    pub records: u64,
    /// LSN of the first of these records.
    pub first_lsn: Option<u64>,
    /// LSN of the last of these records.
    pub last_lsn: Option<u64>,
    /// Offset up to which everything is good.
    pub good_bytes: u64,
    /// End of the last good group, in bytes; more than `good_bytes` if there is damage in between.
    pub end_bytes: u64,
    /// Description of a write that was cut off.
    pub torn: Option<String>,
}

/// One log.
#[derive(Debug, Default, Serialize)]
pub struct ShardReport {
    /// Number of the shard.
    pub shard: u32,
    /// Number of segments with records.
    pub segments: usize,
    /// Number of records that could be read.
    pub records: u64,
    /// LSN of the first of these records.
    pub first_lsn: Option<u64>,
    /// LSN of the last of these records.
    pub last_lsn: Option<u64>,
    /// True if the segments follow one another, and LSNs run on without a gap.
    pub is_continuous: bool,
}

/// One snapshot.
#[derive(Debug, Serialize)]
pub struct SnapshotReport {
    /// File name.
    pub file: String,
    /// Shard whose state it is.
    pub shard: u32,
    /// Number of the snapshot, from 1.
    pub number: u64,
    /// LSN of the last record of the log that is in it.
    pub last_lsn: u64,
    /// True if all files that hold parts of it are as they were written, and the parts have matching documents.
    pub is_good: bool,
    /// Number of deleted documents with metadata in it: an earlier version of this program kept it. A start drops it.
    pub stale_metadata: u64,
}

/// A fault.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fault {
    /// The file, by name.
    pub file: String,
    /// Offset in the file, in bytes; `None` if the fault is about the file as a whole.
    pub offset: Option<u64>,
    /// LSN of the record that should be there, if it is known.
    pub lsn: Option<u64>,
    /// Description of the fault.
    pub what: String,
    /// First and last LSN of the records that can't be read because of it, if they are known.
    pub lost: Option<(u64, u64)>,
    /// Offset and LSN at which good groups go on in the file.
    pub goes_on: Option<(u64, u64)>,
    /// True if the log has a gap here.
    pub is_gap: bool,
}

impl Report {
    /// Number of records that could be read.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }
}
