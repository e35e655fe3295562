//! Reads a segment back, trusting nothing, and tells a torn tail from corruption.
//!
//! At each block where a group could begin:
//!
//! | what is there | what vouches for it | verdict |
//! |---|---|---|
//! | the position at which a next segment begins, or the end recorded in MANIFEST | – | the segment ends; what follows was given up and is not looked at |
//! | a group that continues the log | – | its records are next |
//! | a whole group that does not continue the log | – | corrupt |
//! | zeros, or a group of an older epoch | nothing | the log ends |
//! | anything else | nothing | torn: the log ends, and that is said |
//! | anything but a good group | a later group, the end recorded in MANIFEST, a next segment | corrupt |

use std::ops::Range;

use super::group::{self, GROUP_HEADER_BYTES, GroupHeader};
use super::record::Record;
use super::segment::SegmentHeader;
use super::{GROUP_BYTES_MAX, Position, segment_name};
use crate::disk::{BLOCK, DiskError, File, blocks};
use crate::manifest::Sealed;
use crate::types::{Lsn, ShardId};

/// Bytes read ahead at once.
const WINDOW_BYTES: usize = 1 << 20;

/// Why a segment can't be read to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is there can't be what was written.
    #[error("{file} is damaged at byte {offset} (LSN {}): {why}", .lsn.0)]
    Corrupt {
        /// The file, by name.
        file: String,
        /// Where in it.
        offset: u64,
        /// The record that should be there.
        lsn: Lsn,
        /// What is wrong.
        why: String,
    },
}

/// What is known about the end of a segment before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// MANIFEST recorded where it ends.
    Sealed(Sealed),
    /// Another segment follows: it is complete up to where that one begins, and ends there.
    Followed(Position),
    /// It is the last one: it may end in a torn write.
    Open,
}

/// What reading a segment came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where the log stands after it.
    pub end: Position,
    /// Offset after its last good group.
    pub end_bytes: u64,
    /// Up to here one of its groups says that it was durable.
    pub vouched_bytes: u64,
    /// Records read.
    pub records: u64,
    /// A write that was cut off, and what was found of it.
    pub torn: Option<String>,
    /// The position of the snapshot was in it.
    pub is_met: bool,
    /// When the first group was written that is later than was asked for, Unix milliseconds; it
    /// was not read, and nothing behind it.
    pub later_ms: Option<u64>,
}

/// What the first block of a segment file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// Zeros: it was prepared, but never taken into use.
    Unused,
    /// The header of a segment.
    Good(SegmentHeader),
    /// Neither.
    Bad(String),
}

/// Reads the first block of a segment.
///
/// # Errors
/// If the disk fails.
pub async fn read_head<F: File>(file: &F) -> Result<Head, DiskError> {
    let mut block = Vec::new();
    file.read_at(0, BLOCK, &mut block).await?;
    Ok(match SegmentHeader::decode(&block) {
        Ok(header) => Head::Good(header),
        Err(_) if block.len() == BLOCK && block.iter().all(|&byte| byte == 0) => Head::Unused,
        Err(why) => Head::Bad(why),
    })
}

/// True if anything in the file could be a group of `shard` with records. A group without any
/// only vouches for those before it: a file that holds nothing else holds nothing.
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

/// Where in a segment reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset of a group.
    pub offset: u64,
    /// What that group continues.
    pub position: Position,
    /// The generation of its writer.
    pub epoch: u64,
    /// Where a snapshot was made: a log that reaches it has to be the log of that snapshot.
    pub from: Option<Position>,
}

/// Finds the first group, whole and good in itself, of `shard` (and of `epoch`, where that is
/// known) that begins in `range`, and not before `lsn`: what is left behind damage.
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

/// The same from a group in the middle on; `apply` gets the offset of the group as well.
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

/// Reads a segment up to the first group that was written after `until_ms`, Unix milliseconds:
/// what it came to by then.
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
    let (mut records, mut vouched_bytes, mut later_ms) = (0, 0, None);
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
            Next::Nothing(found) => match reader.vouched(offset, tail).await? {
                Some(witness) => {
                    return Err(reader.corrupt(offset, format!("{found}, {witness}")));
                }
                None => break None,
            },
            Next::Bad(why) => match reader.vouched(offset, tail).await? {
                Some(witness) => return Err(reader.corrupt(offset, format!("{why}, {witness}"))),
                None => break Some(format!("{why} at byte {offset}")),
            },
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
    Ok(Scan { end, end_bytes, vouched_bytes, records, torn, is_met, later_ms })
}

enum Next {
    /// A good group.
    Group { bytes: u64, records: Vec<Record>, chain: u32, durable_bytes: u64, unix_ms: u64 },
    /// Nothing was written here in this epoch; what is there instead of a group.
    Nothing(String),
    /// Something was written here, but not, or no longer, whole.
    Bad(String),
    /// A whole group that can't be the next one.
    Broken(String),
}

struct Reader<'a, F> {
    window: Window<'a, F>,
    header: &'a SegmentHeader,
    position: Position,
    /// The log has been at the position of the snapshot.
    is_met: bool,
}

/// What is wrong with a log that has not been at `from`, where a snapshot was made.
pub(crate) fn other_log(from: Position) -> String {
    format!("the snapshot at LSN {} was made from another log", from.next_lsn.0 - 1)
}

impl<F: File> Reader<'_, F> {
    async fn next(&mut self, offset: u64) -> Result<Next, DiskError> {
        let Some(block) = self.window.get(offset, BLOCK).await? else {
            return Ok(Next::Nothing("the file ends here".into()));
        };
        let Some(group) = GroupHeader::decode(block) else {
            let is_zero = block[..GROUP_HEADER_BYTES].iter().all(|&byte| byte == 0);
            return Ok(if is_zero {
                Next::Nothing("a group is missing here".into())
            } else {
                Next::Bad("bad checksum of a group header".into())
            });
        };
        if group.shard != self.header.shard {
            return Ok(Next::Broken(format!("a group of shard {}", group.shard.0)));
        }
        if group.epoch != self.header.epoch {
            return Ok(Next::Nothing(format!("a group of another epoch, {:016x}", group.epoch)));
        }
        if !group.start.is(&self.position) {
            let lsn = group.start.next_lsn.0;
            return Ok(Next::Broken(format!("a group that begins with LSN {lsn}, or another log")));
        }
        let Some(bytes) = group.disk_bytes() else {
            return Ok(Next::Broken("a group that is too long".into()));
        };
        let Some(content) = self.window.get(offset, bytes).await? else {
            return Ok(Next::Bad("a group that runs over the end of the file".into()));
        };
        Ok(match group::decode(&group, content) {
            Ok(records) => {
                let GroupHeader { chain_after: chain, durable_bytes, unix_ms, .. } = group;
                Next::Group { bytes: bytes as u64, records, chain, durable_bytes, unix_ms }
            }
            Err((lsn, why)) => Next::Bad(format!("{why} in the record with LSN {}", lsn.0)),
        })
    }

    /// Why the group that leads to `after` can't be of the log from which, at `from`, a snapshot
    /// was made. Groups without records may follow at the same LSN.
    fn contradicts(&self, from: Option<Position>, after: Position) -> Option<String> {
        let from = from.filter(|from| self.position.next_lsn <= from.next_lsn)?;
        let is_past = after.next_lsn > from.next_lsn && !self.is_met;
        is_past.then(|| other_log(from))
    }

    /// Goes on to `position`.
    fn advance(&mut self, position: Position, from: Option<Position>) {
        self.position = position;
        self.is_met |= from.is_some_and(|from| from.is(&position));
    }

    /// What says that the group at `offset` had been durable; `None` if nothing does.
    async fn vouched(&mut self, offset: u64, tail: Tail) -> Result<Option<String>, DiskError> {
        match tail {
            Tail::Sealed(sealed) if offset < sealed.end_bytes => {
                return Ok(Some("before the end that MANIFEST records".into()));
            }
            // It would have ended here otherwise.
            Tail::Followed(_) => return Ok(Some("and another segment follows".into())),
            _ => {}
        }
        let mut later = offset + BLOCK as u64;
        while let Some(block) = self.window.get(later, BLOCK).await? {
            if let Some(group) = GroupHeader::decode(block)
                && (group.shard, group.epoch) == (self.header.shard, self.header.epoch)
                && group.durable_bytes > offset
            {
                return Ok(Some(format!("before the good group at byte {later}")));
            }
            later += BLOCK as u64;
        }
        Ok(None)
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

    /// The `length` bytes at `offset`; `None` if the file ends before. Never holds more than a
    /// window and a group.
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
