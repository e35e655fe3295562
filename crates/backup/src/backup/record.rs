//! `backup.json`: description of a backup, and the location of each of its files.
//!
//! ```json
//! {"crc32c": "1c2f9a03", "backup": { … }}
//! ```
//!
//! The checksum covers the text of the inner object, byte for byte, as that of MANIFEST does.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Result;
use crate::manifest::{MANIFEST_VERSION, Manifest};
use crate::snapshot::parse_snapshot_name;
use crate::types::limits::{DIMENSION_MAX, SHARDS_MAX};
use crate::wal::parse_segment_name;

/// File name.
pub const RECORD_NAME: &str = "backup.json";

/// Version of the format.
pub const VERSION: u32 = 1;

/// Most bytes of a backup's files, all together: 1 PiB.
const BYTES_MAX: u64 = 1 << 50;

/// Last Unix second that a backup may name: the end of the year 9999.
const SECOND_MAX: u64 = 253_402_300_799;

/// Kind of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    /// The backup has all its files.
    Full,
    /// The backup needs its parent, and its parent's parents.
    Incremental,
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Full => "Full",
            Self::Incremental => "Incremental",
        })
    }
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Its name in the data directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Checksum of the whole file.
    pub crc32c: u32,
    /// Checksum of its first block.
    pub head_crc32c: u32,
    /// Id of the backup of the chain in whose directory it lies.
    pub backup: String,
}

/// Contents of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the backup and of its directory.
    pub id: String,
    /// Time of creation, in Unix seconds.
    pub timestamp: u64,
    /// Kind.
    pub backup_type: Type,
    /// The backup that it adds to; `None` for a full backup.
    pub parent_id: Option<String>,
    /// Description by its maker.
    pub description: String,
    /// Bytes of the files that it adds.
    pub size_bytes: u64,
    /// Number of documents.
    pub vector_count: u64,
    /// Checksum over names, lengths and checksums of all its files, in hexadecimal.
    pub checksum: String,
    /// Moment of its state, in Unix milliseconds.
    pub cut_unix_ms: u64,
    /// Earliest moment at which its log can be cut, in Unix milliseconds.
    pub earliest_unix_ms: u64,
    /// MANIFEST of the state, with every segment complete.
    pub manifest: Manifest,
    /// All files of the state except MANIFEST, by name.
    pub files: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    crc32c: String,
    backup: Box<RawValue>,
}

impl Backup {
    /// The encoded record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_string_pretty(self).expect("plain data serializes");
        let crc32c = format!("{:08x}", crc32c::crc32c(text.as_bytes()));
        let backup = RawValue::from_string(text).expect("it was just serialized");
        let mut bytes =
            serde_json::to_vec(&Envelope { crc32c, backup }).expect("plain data serializes");
        bytes.push(b'\n');
        bytes
    }

    /// Decodes a record without trusting it.
    ///
    /// # Errors
    /// The fault in the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |why: &dyn fmt::Display| format!("{RECORD_NAME} is damaged: {why}");
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|why| damaged(&why))?;
        let text = envelope.backup.get();
        if envelope.crc32c != format!("{:08x}", crc32c::crc32c(text.as_bytes())) {
            return Err(damaged(&"bad checksum"));
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(text).map_err(|why| damaged(&why))?;
        if version != VERSION {
            return Err(format!(
                "the backup has format version {version}; this program reads version {VERSION}. It \
                 was made by a newer version of KyroDB: use that one"
            ));
        }
        let backup: Self = serde_json::from_str(text).map_err(|why| damaged(&why))?;
        if backup.manifest.version != MANIFEST_VERSION {
            return Err(format!(
                "the backup is of a data directory of format version {}; this program reads \
                 version {MANIFEST_VERSION}. It was made by a newer version of KyroDB: use that one",
                backup.manifest.version
            ));
        }
        // Names become paths.
        let ids = backup.files.iter().map(|file| &file.backup).chain(&backup.parent_id);
        let is_bad = |name: &str| !name.split('/').all(is_plain) || name.split('/').count() > 2;
        let bad = backup.files.iter().map(|file| &file.name).find(|name| is_bad(name));
        if let Some(name) = bad.or_else(|| ids.chain([&backup.id]).find(|id| !is_plain(id))) {
            return Err(damaged(&format_args!("`{name}` is no name")));
        }
        backup.check_numbers().map_err(|why| damaged(&why))?;
        Ok(backup)
    }

    /// Refuses impossible numbers: they would become loops, sums and sizes.
    fn check_numbers(&self) -> Result<()> {
        let Manifest { shards, dimension, snapshots, segments, .. } = &self.manifest;
        let shards = *shards;
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(format!("{shards} shards are not between 1 and {SHARDS_MAX}"));
        }
        if *dimension as usize > DIMENSION_MAX {
            return Err(format!("vectors of {dimension} values are above {DIMENSION_MAX}"));
        }
        let of_shards = snapshots.iter().map(|snapshot| (snapshot.shard, &snapshot.file));
        let mut of_shards =
            of_shards.chain(segments.iter().map(|segment| (segment.shard, &segment.file)));
        if let Some((shard, file)) = of_shards.find(|(shard, _)| *shard >= shards) {
            return Err(format!("{file} is of shard {shard}, and there are {shards}"));
        }
        let bytes = self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes));
        if bytes.is_none_or(|bytes| bytes > BYTES_MAX) {
            return Err(format!("its files have more than {BYTES_MAX} bytes"));
        }
        let times = [self.timestamp, self.cut_unix_ms / 1000, self.earliest_unix_ms / 1000];
        match times.into_iter().find(|&second| second > SECOND_MAX) {
            Some(second) => Err(format!("a time is {second} seconds after 1970")),
            None => Ok(()),
        }
    }

    /// The checksum over all files.
    #[must_use]
    pub fn checksum_of(files: &[Stored]) -> String {
        let crc = files.iter().fold(0, |crc, file| {
            let line = format!("{} {} {:08x}\n", file.name, file.bytes, file.crc32c);
            crc32c::crc32c_append(crc, line.as_bytes())
        });
        format!("{crc:08x}")
    }

    /// The file of this name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&Stored> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The files in its own directory.
    pub fn own_files(&self) -> impl Iterator<Item = &Stored> {
        self.files.iter().filter(|file| file.backup == self.id)
    }
}

impl Stored {
    /// True if it belongs to the log or to a snapshot.
    #[must_use]
    pub fn is_of_a_shard(&self) -> bool {
        parse_segment_name(&self.name).is_some() || parse_snapshot_name(&self.name).is_some()
    }
}

/// True if a name is safe as that of a file or a backup, whatever its source.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(is_good)
}

/// True if a name has the form of a backup's: `20260301-040506-0a1b`.
#[must_use]
pub fn is_id(name: &str) -> bool {
    let lengths: Vec<usize> = name.split('-').map(str::len).collect();
    lengths == [8, 6, 4] && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// A backup of one shard without documents, for tests.
#[cfg(test)]
pub(super) fn sample(id: &str, parent: Option<&str>, second: u64, files: Vec<Stored>) -> Backup {
    Backup {
        version: VERSION,
        id: id.into(),
        timestamp: second,
        backup_type: if parent.is_some() { Type::Incremental } else { Type::Full },
        parent_id: parent.map(str::to_owned),
        description: String::new(),
        size_bytes: files.iter().map(|file| file.bytes).sum(),
        vector_count: 0,
        checksum: String::new(),
        cut_unix_ms: second * 1000,
        earliest_unix_ms: 0,
        manifest: Manifest {
            version: crate::manifest::MANIFEST_VERSION,
            shards: 1,
            dimension: 0,
            distance: "cosine".into(),
            epoch: 1,
            snapshots: Vec::new(),
            segments: Vec::new(),
        },
        files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        let stored = |name: &str| Stored {
            name: name.into(),
            bytes: 4096,
            crc32c: 7,
            head_crc32c: 8,
            backup: "20260301-040506-0a1b".into(),
        };
        Backup {
            version: VERSION,
            id: "20260301-040506-0a1b".into(),
            timestamp: 1_772_337_906,
            backup_type: Type::Incremental,
            parent_id: Some("20260301-030506-0a1c".into()),
            description: "before \"it\"".into(),
            size_bytes: 4096,
            vector_count: 1,
            checksum: "00000000".into(),
            cut_unix_ms: 1_772_337_906_123,
            earliest_unix_ms: 0,
            manifest: Manifest {
                version: MANIFEST_VERSION,
                shards: 2,
                dimension: 384,
                distance: "cosine".into(),
                epoch: u64::MAX,
                snapshots: Vec::new(),
                segments: Vec::new(),
            },
            files: vec![stored("wal_0000_00000001.wal"), stored("usage/state.snap")],
        }
    }

    #[test]
    fn decode_reverses_encode_and_every_flipped_bit_is_detected() {
        let mut bytes = backup().encode();
        assert_eq!(Backup::decode(&bytes), Ok(backup()));
        let text = bytes.len() - 1;
        for bit in 0..text * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Backup::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["../etc/passwd", "/etc/passwd", "a/b/c", "a//b", "", ".hidden", "usage/.."] {
            let mut bad = backup();
            bad.files[0].name = name.into();
            assert!(Backup::decode(&bad.encode()).unwrap_err().contains("no name"), "{name}");
        }
        let mut bad = backup();
        bad.parent_id = Some("..".into());
        assert!(Backup::decode(&bad.encode()).is_err());
    }

    #[test]
    fn numbers_that_no_backup_has_are_refused_under_a_good_checksum() {
        let refusal = |change: &dyn Fn(&mut Backup)| {
            let mut bad = backup();
            change(&mut bad);
            Backup::decode(&bad.encode()).unwrap_err()
        };
        for shards in [0, 1_025, 1_000_000_000, u32::MAX] {
            let why = refusal(&|bad| bad.manifest.shards = shards);
            assert!(why.contains("shards are not between 1 and 1024"), "{why}");
        }
        let segment = crate::manifest::Segment {
            shard: 1,
            number: 1,
            file: "wal_0001_00000001.wal".into(),
            sealed: None,
        };
        let why = refusal(&|bad| {
            bad.manifest.shards = 1;
            bad.manifest.segments.push(segment.clone());
        });
        assert!(why.contains("is of shard 1, and there are 1"), "{why}");
        assert!(refusal(&|bad| bad.manifest.dimension = 4_097).contains("4096"));
        let bytes = refusal(&|bad| bad.files.iter_mut().for_each(|file| file.bytes = u64::MAX));
        assert!(bytes.contains("bytes"), "{bytes}");
        for change in [
            (|bad: &mut Backup| bad.timestamp = u64::MAX) as fn(&mut Backup),
            |bad| bad.cut_unix_ms = u64::MAX,
            |bad| bad.earliest_unix_ms = u64::MAX,
        ] {
            assert!(refusal(&change).contains("seconds after 1970"));
        }
    }
}
