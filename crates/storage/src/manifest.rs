//! MANIFEST: the list of files that are the state of a data directory, and the parameters of the directory.
//!
//! ```json
//! {"crc32c": "1c2f9a03", "manifest": { … }}
//! ```
//!
//! The checksum covers the text of the inner object, byte for byte. The file is only ever replaced as a whole
//! ([`disk::replace`]), and padded with spaces to whole blocks.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::disk::{self, Disk, DiskError};

/// Name of the file.
pub const MANIFEST_NAME: &str = "MANIFEST";

/// Version of the format of the directory.
pub const MANIFEST_VERSION: u32 = 1;

pub use crate::types::limits::SHARDS_MAX;

/// Most bytes that are read: some 100,000 segments.
const MANIFEST_BYTES_MAX: usize = 32 << 20;

/// The state of a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`MANIFEST_VERSION`].
    pub version: u32,
    /// Number of shards that documents are placed on.
    pub shards: u32,
    /// Values in a vector; 0 until the first document sets it.
    pub dimension: u32,
    /// Configuration word of the metric.
    pub distance: String,
    /// Epoch of the writer: another number at every start. Its upper half is random, so that a group of a future
    /// start can't be forged.
    pub epoch: u64,
    /// Live snapshots, at most two per shard.
    pub snapshots: Vec<Snapshot>,
    /// Live segments, by shard and number.
    pub segments: Vec<Segment>,
}

/// A live snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Shard whose state it is.
    pub shard: u32,
    /// Number of the snapshot, from 1.
    pub number: u64,
    /// File name.
    pub file: String,
    /// LSN of the next record of the log.
    pub next_lsn: u64,
    /// Chain of the log before that record.
    pub chain: u32,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Numbers of the snapshots in whose files its parts lie, its own included.
    pub files: Vec<u64>,
}

/// A live segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Shard whose log it belongs to.
    pub shard: u32,
    /// Position of the segment in the log, from 1.
    pub number: u64,
    /// File name.
    pub file: String,
    /// Its end, once the segment is not written any more.
    pub sealed: Option<Sealed>,
}

impl Segment {
    /// True if a snapshot that holds every record before `next_lsn` is known to hold all records of the segment.
    #[must_use]
    pub fn is_within(&self, next_lsn: Option<u64>) -> bool {
        self.sealed.zip(next_lsn).is_some_and(|(sealed, next)| sealed.last_lsn < next)
    }
}

/// The end of a complete segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// LSN of its first record.
    pub first_lsn: u64,
    /// LSN of its last record; `first_lsn` − 1 if it holds no record.
    pub last_lsn: u64,
    /// Offset after its last group, in bytes.
    pub end_bytes: u64,
    /// Chain after its last record.
    pub chain: u32,
}

/// The reason why MANIFEST can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The disk failed; the file may be good.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The contents of the file can't be used.
    #[error("{0}")]
    Damaged(String),
    /// The file is whole, but of another version of the format.
    #[error(
        "MANIFEST has format version {0}; this program reads version {MANIFEST_VERSION}. The \
         directory was made by a newer version of KyroDB: start that one"
    )]
    OtherVersion(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    crc32c: String,
    manifest: Box<RawValue>,
}

impl Manifest {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_string_pretty(self).expect("plain data serializes");
        let crc32c = format!("{:08x}", crc32c::crc32c(text.as_bytes()));
        let manifest = RawValue::from_string(text).expect("it was just serialized");
        let mut bytes =
            serde_json::to_vec(&Envelope { crc32c, manifest }).expect("plain data serializes");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// The reason why they are no MANIFEST.
    pub fn decode(bytes: &[u8]) -> Result<Self, LoadError> {
        let damaged = |what: &str| LoadError::Damaged(format!("MANIFEST is damaged: {what}"));
        let malformed = |error: serde_json::Error| LoadError::Damaged(format!("MANIFEST: {error}"));
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|error| damaged(&error.to_string()))?;
        let text = envelope.manifest.get();
        if envelope.crc32c != format!("{:08x}", crc32c::crc32c(text.as_bytes())) {
            return Err(damaged("bad checksum"));
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version = serde_json::from_str(text).map_err(malformed)?;
        if version.version != MANIFEST_VERSION {
            return Err(LoadError::OtherVersion(version.version));
        }
        let manifest: Self = serde_json::from_str(text).map_err(malformed)?;
        match manifest.absurdity() {
            Some(what) => Err(LoadError::Damaged(format!("MANIFEST can't be right: {what}"))),
            None => Ok(manifest),
        }
    }

    /// Description of a value that no directory can have, under a good checksum or not; `None` if there is none.
    #[must_use]
    pub fn absurdity(&self) -> Option<String> {
        let shards = self.shards;
        if shards == 0 || shards > SHARDS_MAX {
            return Some(format!("it has {shards} shards; a directory has 1 to {SHARDS_MAX}"));
        }
        let segments = self.segments.iter().map(|segment| (segment.shard, &segment.file));
        let snapshots = self.snapshots.iter().map(|snapshot| (snapshot.shard, &snapshot.file));
        let stray = segments.chain(snapshots).find(|(shard, _)| *shard >= shards);
        stray.map(|(_, file)| format!("it names {file}, and has {shards} shards"))
    }

    /// Makes this the state of the directory, on disk.
    ///
    /// # Errors
    /// If the disk fails; either state may be found after a crash then.
    pub async fn publish<D: Disk>(&self, disk: &D) -> disk::Result<()> {
        disk::replace(disk, MANIFEST_NAME, &self.encode()).await
    }

    /// Reads the state of the directory; `None` if there is no MANIFEST.
    ///
    /// # Errors
    /// If the disk fails, or the file can't be used.
    pub async fn load<D: Disk>(disk: &D) -> Result<Option<Self>, LoadError> {
        match disk::read_all(disk, MANIFEST_NAME, MANIFEST_BYTES_MAX).await {
            Ok(bytes) => Self::decode(&bytes).map(Some),
            Err(DiskError { kind: disk::Kind::NotFound, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            version: MANIFEST_VERSION,
            shards: 2,
            dimension: 384,
            distance: "cosine".into(),
            epoch: 0xdead_beef_0000_0001,
            snapshots: vec![Snapshot {
                shard: 1,
                number: 2,
                file: "snapshot_0001_00000002.snap".into(),
                next_lsn: 7,
                chain: 1 << 31,
                file_bytes: 1 << 40,
                files: vec![1, 2],
            }],
            segments: vec![Segment {
                shard: 1,
                number: 3,
                file: "wal_0001_00000003.wal".into(),
                sealed: Some(Sealed { first_lsn: 5, last_lsn: 9, end_bytes: 8192, chain: 77 }),
            }],
        }
    }

    #[test]
    fn decode_reverses_encode_also_when_padded() {
        let mut bytes = manifest().encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest());
        bytes.resize(4096, b' ');
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest());
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let mut bytes = manifest().encode();
        bytes.resize(4096, b' ');
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn impossible_values_are_refused_under_a_good_checksum() {
        let sealed = |shard| Segment { shard, ..manifest().segments.remove(0) };
        for (absurd, what) in [
            (Manifest { shards: 0, ..manifest() }, "0 shards; a directory has 1 to 1024"),
            (Manifest { shards: 1_000_000_000, ..manifest() }, "1000000000 shards"),
            (Manifest { shards: SHARDS_MAX + 1, ..manifest() }, "1025 shards"),
            (Manifest { shards: 1, ..manifest() }, "it names wal_0001_00000003.wal"),
            (Manifest { segments: vec![sealed(7)], ..manifest() }, "and has 2 shards"),
        ] {
            let error = Manifest::decode(&absurd.encode()).unwrap_err();
            assert!(matches!(error, LoadError::Damaged(_)));
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn a_manifest_of_another_version_is_refused_by_its_version() {
        let other = Manifest { version: 9, ..manifest() };
        let message = Manifest::decode(&other.encode()).unwrap_err().to_string();
        assert!(message.contains("version 9") && message.contains("version 1"), "{message}");
        assert!(message.contains("made by a newer version of KyroDB"), "{message}");
    }
}
