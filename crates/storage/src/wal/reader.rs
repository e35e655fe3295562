//! Reads a segment back, checks every byte, and tells a torn tail from corruption.
//!
//! At each block where a group could begin:
//!
//! | the block holds | confirmed by | verdict |
//! |---|---|---|
//! | the position at which a next segment begins, or the end recorded in MANIFEST | – | the segment ends; the rest was given up and is not read |
//! | a group that continues the log | – | its records are next |
//! | a whole group that does not continue the log | – | corrupt |
//! | zeros, or a group of an older epoch | nothing | the log ends; whole groups behind are reported |
//! | anything else | nothing | torn: the log ends, and the tear is reported |
//! | anything but a good group | a later group, the end recorded in MANIFEST, a next segment | corrupt |
//!
//! If syncs are not waited for, a power loss may leave later groups and take earlier ones: so a hole before whole
//! groups is damage only below an offset that one of them knew to be durable. Data behind the end of the log is
//! [reported](Left), so that a start can keep it.

use std::ops::Range;

use super::group::{self, GROUP_HEADER_BYTES, GroupHeader};
use super::segment::SegmentHeader;
use super::{FORMAT_VERSION, GROUP_BYTES_MAX, Position, segment_name};
use crate::disk::{BLOCK, DiskError, File, blocks};
use crate::manifest::Sealed;
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};

/// Bytes read ahead at once.
const WINDOW_BYTES: usize = 1 << 20;

/// The reason why a segment can't be read to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The data can't be as it was written.
    #[error("{}", corrupt_text(.file, *.offset, *.lsn, .why))]
    Corrupt {
        /// The file, by name.
        file: String,
        /// Offset in the file, in bytes; 0 also if the error is about the file as a whole.
        offset: u64,
        /// LSN of the record that should be there; 0 if that is not known.
        lsn: Lsn,
        /// Description of the fault.
        why: String,
    },
    /// The segment is in a format of a later version of this program.
    #[error(
        "{file} was made by a newer version of KyroDB (log format {version}; this program reads \
         version {FORMAT_VERSION}): start that version"
    )]
    Newer {
        /// The file, by name.
        file: String,
        /// Its format version.
        version: u16,
    },
}

fn corrupt_text(file: &str, offset: u64, lsn: Lsn, why: &str) -> String {
    match (offset, lsn.0) {
        (0, 0) => format!("{file}: {why}"),
        (_, 0) => format!("{file} is damaged at byte {offset}: {why}"),
        (_, lsn) => format!("{file} is damaged at byte {offset} (LSN {lsn}): {why}"),
    }
}

/// Facts about the end of a segment that are known before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// MANIFEST has recorded its end.
    Sealed(Sealed),
    /// Another segment follows: this one is complete up to that one's beginning, and ends there.
    Followed(Position),
    /// The segment is the last one: it may end in a torn write.
    Open,
}

/// Result of reading a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Position of the log after it.
    pub end: Position,
    /// Offset after its last good group.
    pub end_bytes: u64,
    /// Offset up to which one of its groups says that the segment was durable.
    pub vouched_bytes: u64,
    /// Records read.
    pub records: u64,
    /// Description of a write that was cut off, or of a group that is missing before whole ones.
    pub torn: Option<String>,
    /// Data behind the end of the log, if nothing else tells where the log ends.
    pub left: Option<Left>,
    /// True if the position of the snapshot was in it.
    pub is_met: bool,
    /// Time at which the first group later than the limit was written, Unix milliseconds; neither it nor anything
    /// behind it was read.
    pub later_ms: Option<u64>,
}

/// Bytes behind the end of a log, which are no part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// From the end of the log to the end of the last block that is not zero.
    pub bytes: Range<u64>,
    /// Number of whole groups with records among them.
    pub groups: u64,
    /// First and last LSN of their records.
    pub lsns: Option<(u64, u64)>,
}

impl Left {
    fn count(&mut self, group: &GroupHeader) {
        if group.record_count == 0 {
            return;
        }
        let first = group.start.next_lsn.0;
        let last = first + u64::from(group.record_count) - 1;
        self.groups += 1;
        self.lsns = Some((self.lsns.map_or(first, |(first, _)| first), last));
    }
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Range { start, end } = self.bytes;
        match self.lsns {
            None => write!(f, "bytes {start} to {end}, without a whole group"),
            Some((first, last)) => write!(
                f,
                "bytes {start} to {end}, with {} whole groups between LSN {first} and {last}",
                self.groups
            ),
        }
    }
}

/// Contents of the first block of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// Zeros: it was prepared, but never taken into use.
    Unused,
    /// The header of a segment.
    Good(SegmentHeader),
    /// The header of a segment in a later format.
    Newer(u16),
    /// None of these.
    Bad(String),
}

/// Reads the first block of a segment.
///
/// # Errors
/// If the disk fails.
pub async fn read_head<F: File>(file: &F) -> Result<Head, DiskError> {
    let mut block = Vec::new();
    file.read_at(0, BLOCK, &mut block).await?;
    if let Some(version) = SegmentHeader::newer_version(&block) {
        return Ok(Head::Newer(version));
    }
    Ok(match SegmentHeader::decode(&block) {
        Ok(header) => Head::Good(header),
        Err(_) if block.len() == BLOCK && block.iter().all(|&byte| byte == 0) => Head::Unused,
        Err(why) => Head::Bad(why),
    })
}

/// True if anything in the file could be a group of `shard` with records. A group without records only confirms those
/// before it: a file with no other groups holds nothing.
///
/// # Errors
/// If the disk fails.
pub async fn has_groups<F: File>(file: &F, shard: ShardId) -> Result<bool, DiskError> {
    let mut window = Window::new(file);
    let mut offset = BLOCK as u64;
    while let Some(block) = window.get(offset, BLOCK).await? {
        if GroupHeader::decode(block).is_some_and(|h| h.shard == shard && h.record_count > 0) {
            return Ok(true);
        }
        offset += BLOCK as u64;
    }
    Ok(false)
}

/// A file that ends before it should, at the end of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Its length in bytes.
    pub bytes: u64,
    /// The length with which it was made, or that MANIFEST records, in bytes.
    pub made_bytes: u64,
}

/// Checks whether the last segment of a log ends before it should, exactly at the end of one of its groups: then it
/// was cut there. An end anywhere else is damage.
///
/// # Errors
/// If the disk fails.
pub async fn cut_at_group<F: File>(
    file: &F,
    header: &SegmentHeader,
    sealed: Option<Sealed>,
) -> Result<Option<Cut>, DiskError> {
    let made_bytes = sealed.map_or(header.segment_bytes, |sealed| sealed.end_bytes);
    let bytes = length(file, made_bytes).await?;
    if bytes == made_bytes {
        return Ok(None);
    }
    match read(file, header, Tail::Open, None, |_, _| {}).await {
        Ok(scan) => Ok((scan.end_bytes == bytes).then_some(Cut { bytes, made_bytes })),
        Err(ReadError::Disk(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The length of a file in bytes, or `bytes_max` if it is longer. Found by reading, as a file has no operation for
/// it.
///
/// # Errors
/// If the disk fails.
pub async fn length<F: File>(file: &F, bytes_max: u64) -> Result<u64, DiskError> {
    let block = BLOCK as u64;
    // Block `low` exists, at least in part, or it is the first; block `high` does not.
    let (mut low, mut high) = (0, bytes_max.div_ceil(block));
    let mut content = Vec::new();
    while low < high {
        let middle = low.midpoint(high);
        content.clear();
        file.read_at(middle * block, BLOCK, &mut content).await?;
        match content.len() {
            BLOCK => low = middle + 1,
            0 => high = middle,
            part => return Ok((middle * block + part as u64).min(bytes_max)),
        }
    }
    Ok((low * block).min(bytes_max))
}

/// The place in a segment at which reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset of a group.
    pub offset: u64,
    /// Position of the log that this group continues.
    pub position: Position,
    /// Epoch of its writer.
    pub epoch: u64,
    /// Position of a snapshot: a log that reaches it has to be the log of that snapshot.
    pub from: Option<Position>,
}

/// Finds the first group, whole and good in itself, of `shard` (and of `epoch`, if that is known) that begins in
/// `range`, and not before `lsn`: data left behind damage.
///
/// # Errors
/// If the disk fails.
pub async fn next_good<F: File>(
    file: &F,
    shard: ShardId,
    epoch: Option<u64>,
    lsn: Lsn,
    range: Range<u64>,
) -> Result<Option<Place>, DiskError> {
    let mut window = Window::new(file);
    let mut offset = range.start;
    while offset < range.end {
        let Some(block) = window.get(offset, BLOCK).await? else {
            return Ok(None);
        };
        let group = GroupHeader::decode(block).filter(|group| {
            group.shard == shard
                && epoch.is_none_or(|epoch| epoch == group.epoch)
                && group.start.next_lsn >= lsn
        });
        if let Some((group, bytes)) = group.and_then(|group| Some((group, group.disk_bytes()?)))
            && let Some(content) = window.get(offset, bytes).await?
            && group::decode(&group, content).is_ok()
        {
            let (position, epoch) = (group.start, group.epoch);
            return Ok(Some(Place { offset, position, epoch, from: None }));
        }
        offset += BLOCK as u64;
    }
    Ok(None)
}

/// Reads the groups of a segment, and hands their records to `apply` in order. If it reaches
/// `from`, where a snapshot was made, it has to be the log of that snapshot.
///
/// # Errors
/// [`ReadError::Corrupt`] as the table of this module has it; records handed over before stay
/// good. Or the disk fails.
pub async fn read<F: File>(
    file: &F,
    header: &SegmentHeader,
    tail: Tail,
    from: Option<Position>,
    mut apply: impl FnMut(Lsn, Record),
) -> Result<Scan, ReadError> {
    let place = Place { from, ..header.first() };
    read_from(file, header, tail, place, |_, lsn, record| apply(lsn, record)).await
}

/// Reads as [`read`] does, from a group in the middle on; `apply` gets the offset of the group as well.
///
/// # Errors
/// As [`read`].
pub async fn read_from<F: File>(
    file: &F,
    header: &SegmentHeader,
    tail: Tail,
    place: Place,
    apply: impl FnMut(u64, Lsn, Record),
) -> Result<Scan, ReadError> {
    read_between(file, header, tail, place, u64::MAX, apply).await
}

/// Reads a segment up to the first group that was written after `until_ms`, Unix milliseconds; returns its state by
/// then.
///
/// # Errors
/// As [`read`].
pub async fn read_until<F: File>(
    file: &F,
    header: &SegmentHeader,
    tail: Tail,
    until_ms: u64,
) -> Result<Scan, ReadError> {
    read_between(file, header, tail, header.first(), until_ms, |_, _, _| {}).await
}

async fn read_between<F: File>(
    file: &F,
    header: &SegmentHeader,
    tail: Tail,
    place: Place,
    until_ms: u64,
    mut apply: impl FnMut(u64, Lsn, Record),
) -> Result<Scan, ReadError> {
    let Place { mut offset, position, from, .. } = place;
    let is_met = from.is_some_and(|from| from.is(&position));
    let mut reader = Reader { window: Window::new(file), header, position, is_met };
    let (mut records, mut vouched_bytes, mut later_ms, mut left) = (0, 0, None, None);
    let torn = loop {
        let is_end = match tail {
            Tail::Sealed(sealed) => sealed.end_bytes == offset,
            Tail::Followed(next) => next.is(&reader.position),
            Tail::Open => false,
        };
        if is_end {
            break None;
        }
        match reader.next(offset).await? {
            Next::Group { unix_ms, .. } if unix_ms > until_ms => {
                later_ms = Some(unix_ms);
                break None;
            }
            Next::Group { bytes, records: group, chain, durable_bytes, unix_ms: _ } => {
                let after = Lsn(reader.position.next_lsn.0 + group.len() as u64);
                if let Some(why) = reader.contradicts(from, Position { next_lsn: after, chain }) {
                    return Err(reader.corrupt(offset, why));
                }
                records += group.len() as u64;
                for (lsn, record) in (reader.position.next_lsn.0..).zip(group) {
                    apply(offset, Lsn(lsn), record);
                }
                reader.advance(Position { next_lsn: after, chain }, from);
                vouched_bytes = durable_bytes.min(offset);
                offset += bytes;
            }
            Next::Broken(why) => return Err(reader.corrupt(offset, why)),
            Next::Ended { why, is_torn } => {
                let behind = reader.look_behind(offset, tail).await?;
                if let Some(witness) = behind.witness {
                    return Err(reader.corrupt(offset, format!("{why}, {witness}")));
                }
                left = behind.left;
                let lsns = left.as_ref().and_then(|left| left.lsns);
                break match lsns {
                    Some((first, _)) => Some(format!(
                        "{why} at byte {offset}, and whole groups from LSN {first} on lie behind"
                    )),
                    None => is_torn.then(|| format!("{why} at byte {offset}")),
                };
            }
        }
    };
    let end = reader.position;
    if let Tail::Sealed(sealed) = tail
        && later_ms.is_none()
        && !end.is(&Position { next_lsn: Lsn(sealed.last_lsn).next(), chain: sealed.chain })
    {
        let why = format!("MANIFEST says that it ends with LSN {}", sealed.last_lsn);
        return Err(reader.corrupt(offset, why));
    }
    let (end_bytes, is_met) = (offset, reader.is_met);
    Ok(Scan { end, end_bytes, vouched_bytes, records, torn, left, is_met, later_ms })
}

enum Next {
    /// A good group.
    Group { bytes: u64, records: Vec<Record>, chain: u32, durable_bytes: u64, unix_ms: u64 },
    /// No whole group is here, for the reason `why`. If it is torn, a group was written, but not, or no longer,
    /// whole; else none was written in this epoch.
    Ended { why: String, is_torn: bool },
    /// A whole group that can't be the next one.
    Broken(String),
}

/// Data behind the place where the next group should be.
struct Behind {
    /// Evidence that the group had been durable.
    witness: Option<String>,
    left: Option<Left>,
}

impl Behind {
    fn witness(witness: String) -> Self {
        Self { witness: Some(witness), left: None }
    }
}

struct Reader<'a, F> {
    window: Window<'a, F>,
    header: &'a SegmentHeader,
    position: Position,
    /// True if the log has been at the position of the snapshot.
    is_met: bool,
}

/// Description of the fault of a log that has not been at `from`, where a snapshot was made.
pub fn other_log(from: Position) -> String {
    format!("the snapshot at LSN {} was made from another log", from.next_lsn.0 - 1)
}

impl<F: File> Reader<'_, F> {
    async fn next(&mut self, offset: u64) -> Result<Next, DiskError> {
        let nothing = |why: String| Ok(Next::Ended { why, is_torn: false });
        let torn = |why: String| Ok(Next::Ended { why, is_torn: true });
        let Some(block) = self.window.get(offset, BLOCK).await? else {
            return nothing("the file ends here".into());
        };
        let Some(group) = GroupHeader::decode(block) else {
            let is_zero = block[..GROUP_HEADER_BYTES].iter().all(|&byte| byte == 0);
            return if is_zero {
                nothing("a group is missing here".into())
            } else {
                torn("bad checksum of a group header".into())
            };
        };
        if group.shard != self.header.shard {
            return Ok(Next::Broken(format!("a group of shard {}", group.shard.0)));
        }
        if group.epoch != self.header.epoch {
            return nothing(format!("a group of another epoch, {:016x}", group.epoch));
        }
        if !group.start.is(&self.position) {
            let lsn = group.start.next_lsn.0;
            return Ok(Next::Broken(format!("a group that begins with LSN {lsn}, or another log")));
        }
        let Some(bytes) = group.disk_bytes() else {
            return Ok(Next::Broken("a group that is too long".into()));
        };
        let Some(content) = self.window.get(offset, bytes).await? else {
            return torn("a group that runs over the end of the file".into());
        };
        match group::decode(&group, content) {
            Ok(records) => {
                let GroupHeader { chain_after: chain, durable_bytes, unix_ms, .. } = group;
                Ok(Next::Group { bytes: bytes as u64, records, chain, durable_bytes, unix_ms })
            }
            Err((lsn, why)) => torn(format!("{why} in the record with LSN {}", lsn.0)),
        }
    }

    /// The reason why the group that leads to `after` can't be of the log from which, at `from`, a snapshot was made.
    /// Groups without records may follow at an unchanged LSN.
    fn contradicts(&self, from: Option<Position>, after: Position) -> Option<String> {
        let from = from.filter(|from| self.position.next_lsn <= from.next_lsn)?;
        let is_past = after.next_lsn > from.next_lsn && !self.is_met;
        is_past.then(|| other_log(from))
    }

    /// Moves on to `position`.
    fn advance(&mut self, position: Position, from: Option<Position>) {
        self.position = position;
        self.is_met |= from.is_some_and(|from| from.is(&position));
    }

    /// Reads from `offset` on, where the next group should be and is not: returns the evidence that it had been
    /// durable, if any, or else a description of the data left there.
    async fn look_behind(&mut self, offset: u64, tail: Tail) -> Result<Behind, DiskError> {
        match tail {
            Tail::Sealed(sealed) if offset < sealed.end_bytes => {
                return Ok(Behind::witness("before the end that MANIFEST records".into()));
            }
            // The segment would have ended here otherwise.
            Tail::Followed(_) => return Ok(Behind::witness("and another segment follows".into())),
            _ => {}
        }
        let mut left = Left { bytes: offset..offset, groups: 0, lsns: None };
        let mut later = offset;
        while let Some(block) = self.window.get(later, BLOCK).await? {
            let after = later + BLOCK as u64;
            if block.iter().any(|&byte| byte != 0) {
                left.bytes.end = after;
            }
            let group = GroupHeader::decode(block).filter(|group| {
                (group.shard, group.epoch) == (self.header.shard, self.header.epoch)
            });
            if let Some(group) = group.filter(|_| later > offset) {
                if group.durable_bytes > offset {
                    let witness = format!("before the good group at byte {later}");
                    return Ok(Behind::witness(witness));
                }
                let is_later = group.start.next_lsn >= self.position.next_lsn;
                if let Some(bytes) = group.disk_bytes().filter(|_| is_later)
                    && let Some(content) = self.window.get(later, bytes).await?
                    && group::decode(&group, content).is_ok()
                {
                    left.count(&group);
                }
            }
            later = after;
        }
        let is_something = tail == Tail::Open && !left.bytes.is_empty();
        Ok(Behind { witness: None, left: is_something.then_some(left) })
    }

    fn corrupt(&self, offset: u64, why: String) -> ReadError {
        let file = segment_name(self.header.shard, self.header.number);
        ReadError::Corrupt { file, offset, lsn: self.position.next_lsn, why }
    }
}

/// A stretch of a file in memory.
struct Window<'a, F> {
    file: &'a F,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, F: File> Window<'a, F> {
    fn new(file: &'a F) -> Self {
        Self { file, start: 0, bytes: Vec::new() }
    }

    /// The `length` bytes at `offset`; `None` if the file ends before. Never holds more than a window and a group.
    async fn get(&mut self, offset: u64, length: usize) -> Result<Option<&[u8]>, DiskError> {
        assert!(length <= blocks(GROUP_BYTES_MAX + GROUP_HEADER_BYTES));
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + length as u64 > end {
            self.bytes.clear();
            self.start = offset;
            self.file.read_at(offset, length.max(WINDOW_BYTES), &mut self.bytes).await?;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + length))
    }
}
