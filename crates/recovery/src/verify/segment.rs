//! Check of one segment, read to its end over any damage.
//!
//! The verdicts are those of [`reader`](crate::wal::reader), which recovery uses as well. Where that stops, this
//! check looks for the next good group and reads on from there.

use super::report::{Fault, State};
use crate::disk::{BLOCK, DiskError, File};
use crate::manifest::Manifest;
use crate::types::position::Position;
use crate::types::record::Record;
use crate::types::{DocId, Lsn, ShardId};
use crate::wal::reader::{
    Cut, Left, Place, ReadError, Scan, Tail, length, next_good, other_log, read_from,
};
use crate::wal::segment::SegmentHeader;

/// Most faults reported of one segment. A segment with more is beyond repair, and memory and time have to stay
/// bounded.
pub const FAULTS_MAX: usize = 100;

/// Result of reading a segment.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) records: u64,
    pub(super) first_lsn: Option<u64>,
    pub(super) last_lsn: Option<u64>,
    pub(super) good_bytes: u64,
    pub(super) end_bytes: u64,
    pub(super) torn: Option<String>,
    pub(super) faults: Vec<Fault>,
    /// Position of the log after it, as far as it is known.
    pub(super) end: Option<Position>,
    /// True if the log has been where the snapshot was made.
    pub(super) is_met: bool,
    /// Length at which its file was cut, if that is at the end of a group.
    pub(super) cut: Option<Cut>,
}

impl Checked {
    fn new(begin: u64) -> Self {
        Self {
            records: 0,
            first_lsn: None,
            last_lsn: None,
            good_bytes: begin,
            end_bytes: begin,
            torn: None,
            faults: Vec::new(),
            end: None,
            is_met: false,
            cut: None,
        }
    }

    /// The state of a segment with only good groups, given its tail.
    pub(super) fn state(&self, tail: Tail) -> State {
        match tail {
            _ if !self.faults.is_empty() => State::Damaged,
            Tail::Sealed(_) => State::Sealed,
            Tail::Followed(_) => State::Followed,
            Tail::Open if self.torn.is_some() => State::TornTail,
            Tail::Open => State::Open,
        }
    }

    fn count(&mut self, lsn: Lsn) {
        self.records += 1;
        self.first_lsn.get_or_insert(lsn.0);
        self.last_lsn = Some(lsn.0);
    }
}

/// Reads the segment in `file` from `place` on, to its end, and adds its records to `kept`.
///
/// # Errors
/// If the disk fails.
pub(super) async fn check<F: File>(
    file: &F,
    header: &SegmentHeader,
    tail: Tail,
    mut place: Place,
    expected: &mut Expected,
    mut kept: Option<&mut Vec<(Lsn, Record)>>,
) -> Result<Checked, DiskError> {
    let mut checked = Checked::new(place.offset);
    let mut misfit = None;
    loop {
        let apply = |offset, lsn: Lsn, record: Record| {
            checked.count(lsn);
            // One such fault is enough.
            if misfit.is_none()
                && let Some(what) = expected.misfit(header.shard, &record)
            {
                let (offset, lsn) = (Some(offset), Some(lsn.0));
                misfit = Some(Fault { offset, lsn, what, ..Fault::default() });
            }
            if let Some(kept) = &mut kept {
                kept.push((lsn, record));
            }
        };
        let (offset, lsn, mut why) = match read_from(file, header, tail, place, apply).await {
            // The groups behind the end may be the last acknowledged ones.
            Ok(Scan { end, end_bytes, torn, left: Some(left), .. }) if left.groups > 0 => {
                (end_bytes, end.next_lsn, about_left(&torn, &left))
            }
            Ok(scan) => {
                checked.end_bytes = scan.end_bytes;
                checked.torn = scan.torn;
                checked.is_met = scan.is_met;
                checked.end = Some(scan.end);
                break;
            }
            Err(ReadError::Disk(error)) => return Err(error),
            Err(ReadError::Corrupt { offset, lsn, why, .. }) => (offset, lsn, why),
            Err(newer @ ReadError::Newer { .. }) => unreachable!("its header was read: {newer}"),
        };
        // All LSNs were there, and yet the segment does not end as it should, or does not match the snapshot: it is
        // of another log, even if nothing else says so.
        let is_other = is_end(tail, lsn) || place.from.is_some_and(|from| why == other_log(from));
        if let Some(kept) = kept.as_mut().filter(|_| is_other) {
            kept.clear();
        }
        checked.end_bytes = offset;
        if checked.faults.is_empty() {
            checked.good_bytes = offset;
        }
        let range = offset..end_bytes(tail);
        let next = if checked.faults.len() + 1 < FAULTS_MAX {
            let next = next_good(file, header.shard, Some(header.epoch), lsn, range).await?;
            next.filter(|next| end_of(tail).is_none_or(|end| is_before(next, end)))
        } else {
            why.push_str(", and so much else that the rest of the segment was not looked at");
            None
        };
        checked.faults.push(fault(offset, lsn, why, tail, next));
        match next {
            Some(next) => place = next,
            None => {
                checked.end = end_of(tail).filter(|end| end.next_lsn >= lsn);
                break;
            }
        }
    }
    if checked.faults.is_empty() {
        checked.good_bytes = checked.end_bytes;
    }
    checked.faults.extend(misfit);
    checked.faults.sort_by_key(|fault| fault.offset);
    Ok(checked)
}

/// Description of whole groups behind the end of a log. A power loss may have left them of writes that were not
/// synced, or it is damage: nothing tells which.
fn about_left(torn: &Option<String>, left: &Left) -> String {
    let hole = torn.as_deref().unwrap_or("a group is missing");
    format!(
        "{hole}. Nothing says that the hole had been synced: a start ends the log here and keeps in \
         quarantine/ {left}"
    )
}

/// End of the segment, as known from outside.
pub(super) fn end_of(tail: Tail) -> Option<Position> {
    match tail {
        Tail::Sealed(sealed) => {
            Some(Position { next_lsn: Lsn(sealed.last_lsn).next(), chain: sealed.chain })
        }
        Tail::Followed(next) => Some(next),
        Tail::Open => None,
    }
}

/// True if the record with this LSN is the first after the segment.
fn is_end(tail: Tail, lsn: Lsn) -> bool {
    end_of(tail).is_some_and(|end| end.next_lsn == lsn)
}

/// True if a group at `place` is not behind the end of the segment: groups behind it were refused, whole or not.
fn is_before(place: &Place, end: Position) -> bool {
    place.position.next_lsn <= end.next_lsn
}

/// The offset from which on data is not read.
fn end_bytes(tail: Tail) -> u64 {
    match tail {
        Tail::Sealed(sealed) => sealed.end_bytes,
        Tail::Followed(_) | Tail::Open => u64::MAX,
    }
}

fn fault(offset: u64, lsn: Lsn, what: String, tail: Tail, next: Option<Place>) -> Fault {
    let after = next.map(|next| next.position).or_else(|| end_of(tail));
    let lost = after.and_then(|after| lost(lsn.0, after.next_lsn.0));
    let goes_on = next.map(|next| (next.offset, next.position.next_lsn.0));
    Fault { offset: Some(offset), lsn: Some(lsn.0), what, lost, goes_on, ..Fault::default() }
}

/// The LSNs from `first` on that are before `end`.
pub(super) fn lost(first: u64, end: u64) -> Option<(u64, u64)> {
    (first < end).then(|| (first, end - 1))
}

/// The first LSN that is not in the segment, as far as it is known.
pub(super) fn next_lsn(checked: &Checked) -> Option<u64> {
    checked.end.map(|end| end.next_lsn.0)
}

/// Description of the fault of a segment that is not complete and has a wrong length: it was made with all its room,
/// and only complete segments are cut to their groups. The data behind a cut is unknown, unless another segment goes
/// on from there.
///
/// # Errors
/// If the disk fails.
pub(super) async fn cut_off<F: File>(
    file: &F,
    header: &SegmentHeader,
    checked: &Checked,
    is_last: bool,
) -> Result<Option<Fault>, DiskError> {
    let made_bytes = header.segment_bytes;
    let (offset, what) = if made_bytes > 0 {
        let bytes = length(file, made_bytes).await?;
        if bytes == made_bytes {
            return Ok(None);
        }
        (bytes, format!("the file ends here; it was made with {made_bytes} bytes"))
    } else {
        // The header that has the length is damaged. Room behind the last group shows that nothing is gone.
        let end = checked.end_bytes;
        let room = end + BLOCK as u64;
        if !is_last || checked.torn.is_none() && length(file, room).await? == room {
            return Ok(None);
        }
        let what = "what was written last ends here, and there is no header to tell whether \
                    the file was longer";
        (end, what.to_owned())
    };
    let (offset, lsn) = (Some(offset), next_lsn(checked));
    Ok(Some(Fault { offset, lsn, what, is_gap: is_last, ..Fault::default() }))
}

/// The properties of a directory that records have to match.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Values in a vector; `None` until it is known.
    dimension: Option<usize>,
    /// Number of shards, if it is known.
    shards: Option<u32>,
}

impl Expected {
    pub(super) fn by(manifest: Option<&Manifest>) -> Self {
        let dimension = manifest.map(|manifest| manifest.dimension as usize);
        Self { dimension, shards: manifest.map(|manifest| manifest.shards) }
    }

    /// Description of a mismatch.
    fn misfit(&mut self, shard: ShardId, record: &Record) -> Option<String> {
        self.dimension_misfit(record).or_else(|| self.place_misfit(shard, record))
    }

    fn dimension_misfit(&mut self, record: &Record) -> Option<String> {
        let Record::Put { vector, .. } = record else {
            return None;
        };
        let dimension = *self.dimension.get_or_insert(vector.len());
        let values = vector.len();
        (values != dimension).then(|| {
            format!("a vector of {values} values in a directory for vectors of {dimension}")
        })
    }

    fn place_misfit(&self, shard: ShardId, record: &Record) -> Option<String> {
        let shards = self.shards.filter(|&shards| shards > 0)?;
        let is_elsewhere = |id: &&DocId| id.shard(shards) != shard;
        let stray = match record {
            Record::Put { id, .. } | Record::Delete { id } | Record::SetPayload { id, .. } => {
                Some(id).filter(is_elsewhere)
            }
            Record::DeleteBatch { ids, .. } => ids.iter().find(is_elsewhere),
        };
        stray.map(|id| format!("document {} belongs to shard {}", id.0, id.shard(shards).0))
    }
}
