//! A shard's log as it was at a moment: its segments up to the last whole group written by then.
//!
//! Where the clock was set back, stamps go back within a log. The log is cut before the first group that is later than
//! the moment, and everything after that group is left out, whatever its stamp: the rest is a state that the log once
//! had.

use std::time::Duration;

use super::Result;
use crate::disk::Disk;
use crate::disk::view::{View, Viewed, run};
use crate::manifest::{Sealed, Segment};
use crate::types::position::Position;
use crate::types::{Lsn, ShardId};
use crate::wal::reader::{Head, ReadError, Scan, Tail, has_groups, read_head, read_until};
use crate::wal::segment::SegmentHeader;

/// Attempts to read a group: a server may be writing it, and then it is whole a moment later; a damaged one stays
/// damaged.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Range in which the groups of a segment with a missing header would begin, in bytes.
const BEGIN_BYTES: u64 = 1 << 20;

/// A log up to a moment.
pub struct Cut {
    /// Its segments with the groups written by then, all complete.
    pub segments: Vec<Segment>,
    /// Position of its end; `None` if there is no segment.
    pub end: Option<Position>,
    /// Header of the first segment.
    pub first: Option<SegmentHeader>,
    /// Stamp of the first group written after the moment, in Unix milliseconds.
    pub later_ms: Option<u64>,
}

/// Cuts the log of `shard`, of which `segments` are listed, after the groups written up to `until_ms`. Segments for
/// which `is_known` is true are taken as recorded, unread.
///
/// # Errors
/// If a file is missing or damaged.
pub fn cut(
    view: &View,
    shard: ShardId,
    segments: &[Segment],
    until_ms: u64,
    is_known: impl Fn(&Segment, &Viewed) -> bool,
) -> Result<Cut> {
    let mut cut = Cut { segments: Vec::new(), end: None, first: None, later_ms: None };
    let open = open(view, shard, segments)?;
    for (index, (segment, file, header)) in open.iter().enumerate() {
        cut.first.get_or_insert(*header);
        cut.end.get_or_insert(header.start);
        if let Some(sealed) = segment.sealed.filter(|_| is_known(segment, file)) {
            let next_lsn = Lsn(sealed.last_lsn).next();
            cut.end = Some(Position { next_lsn, chain: sealed.chain });
            cut.segments.push(segment.clone());
            continue;
        }
        let next = open.get(index + 1).map(|(_, _, header)| header.start);
        let tail = match (segment.sealed, next) {
            (Some(sealed), _) => Tail::Sealed(sealed),
            (None, Some(next)) => Tail::Followed(next),
            (None, None) => Tail::Open,
        };
        let scan = scan(file, header, tail, until_ms).map_err(|error| error.to_string())?;
        let is_last = scan.later_ms.is_some() || next.is_none();
        // A group without records is a part of the chain as well.
        if scan.end != header.start || !is_last {
            let sealed = Sealed {
                first_lsn: header.start.next_lsn.0,
                last_lsn: scan.end.next_lsn.0 - 1,
                end_bytes: scan.end_bytes,
                chain: scan.end.chain,
            };
            cut.segments.push(Segment { sealed: Some(sealed), ..segment.clone() });
        }
        cut.end = Some(scan.end);
        cut.later_ms = scan.later_ms;
        if cut.later_ms.is_some() {
            break;
        }
    }
    Ok(cut)
}

fn scan(
    file: &Viewed,
    header: &SegmentHeader,
    tail: Tail,
    until_ms: u64,
) -> std::result::Result<Scan, ReadError> {
    let scan = || run(read_until(file, header, tail, until_ms));
    for _ in 1..ATTEMPTS {
        match scan() {
            Err(ReadError::Corrupt { .. }) if !matches!(tail, Tail::Sealed(_)) => {
                std::thread::sleep(PAUSE);
            }
            scan => return scan,
        }
    }
    scan()
}

/// The segments that have been taken into use, in order.
fn open(
    view: &View,
    shard: ShardId,
    segments: &[Segment],
) -> Result<Vec<(Segment, Viewed, SegmentHeader)>> {
    let mut listed: Vec<&Segment> = segments.iter().filter(|s| s.shard == shard.0).collect();
    listed.sort_by_key(|segment| segment.number);
    let mut open = Vec::new();
    for segment in listed {
        let file = run(view.open(&segment.file)).map_err(|error| error.to_string())?;
        let found = (0..ATTEMPTS).find_map(|attempt| match head(&file, shard, segment) {
            Err(_) if attempt + 1 < ATTEMPTS => {
                std::thread::sleep(PAUSE);
                None
            }
            found => Some(found),
        });
        // The others were prepared ahead, or given up. The next segment shows whether anything is missing.
        if let Some(header) = found.transpose()?.flatten() {
            open.push((segment.clone(), file, header));
        }
    }
    Ok(open)
}

/// The header of a segment; `None` if it was not taken into use.
fn head(file: &Viewed, shard: ShardId, segment: &Segment) -> Result<Option<SegmentHeader>> {
    let bad = |why: &str| Err(format!("{} is damaged at byte 0: {why}", segment.file));
    match run(read_head(file)).map_err(|error| error.to_string())? {
        Head::Good(header) if (header.shard, header.number) == (shard, segment.number) => {
            Ok(Some(header))
        }
        Head::Good(_) => bad("it is another segment than MANIFEST says"),
        Head::Bad(why) => bad(&why),
        Head::Newer(version) => {
            Err(ReadError::Newer { file: segment.file.clone(), version }.to_string())
        }
        Head::Unused if segment.sealed.is_some() => bad("it has no header"),
        Head::Unused => {
            let begin = file.cut(BEGIN_BYTES);
            match run(has_groups(&begin, shard)).map_err(|error| error.to_string())? {
                true => bad("it has no header, and groups follow"),
                false => Ok(None),
            }
        }
    }
}
