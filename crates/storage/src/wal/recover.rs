//! Recovery of a shard's whole log: every live segment in order, checked against MANIFEST, against each other and
//! against the files of the directory.

use std::ops::Range;

use super::reader::{
    Cut, Head, Left, ReadError, Scan, Tail, cut_at_group, has_groups, other_log, read, read_head,
};
use super::segment::SegmentHeader;
use super::{Position, parse_segment_name, segment_name};
use crate::disk::{BLOCK, Disk, File, Kind};
use crate::manifest::{Sealed, Segment};
use crate::sabotage::{Pillar, is_off};
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};

/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// A recovered log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Position of the next record.
    pub position: Position,
    /// Number that the next segment gets.
    pub next_number: u64,
    /// The segments that hold records, all complete now.
    pub segments: Vec<Segment>,
    /// Files without data: to be removed once a MANIFEST without them is durable.
    pub unused: Vec<String>,
    /// Records read.
    pub records: u64,
    /// Descriptions of writes that were cut off and of which no evidence says that they were acknowledged.
    pub torn: Vec<String>,
    /// Descriptions of files that are missing or shorter, and without which no acknowledged change is known to be
    /// missing.
    pub warnings: Vec<String>,
    /// Descriptions of ends of the log behind which acknowledged changes are missing, or may be.
    pub losses: Vec<String>,
    /// Data behind the end of the log, by segment: to be kept before the file is cut there.
    pub left: Vec<(String, Left)>,
}

/// A segment that MANIFEST names and the directory has.
struct Opened<F> {
    segment: Segment,
    file: F,
    /// The header; `None` if it was never taken into use.
    header: Option<SegmentHeader>,
    /// Length at which its file was cut, if that is at the end of a group.
    cut: Option<Cut>,
    /// True if the file before it is missing.
    is_after_gap: bool,
}

/// Reads the log of `shard` and hands its records to `apply` in order. `segments` are those that MANIFEST names. With
/// `from`, only records after that position are handed over; those before may be missing.
///
/// # Errors
/// If anything is missing, damaged, or of another log.
pub async fn recover<D: Disk>(
    disk: &D,
    shard: ShardId,
    segments: &[Segment],
    from: Option<Position>,
    mut apply: impl FnMut(Lsn, Record),
) -> Result<Recovered, ReadError> {
    let mut listed: Vec<Segment> =
        segments.iter().filter(|s| s.shard == shard.0).cloned().collect();
    listed.sort_by_key(|segment| segment.number);
    let mut recovered = Recovered {
        position: from.unwrap_or(Position::START),
        next_number: listed.last().map_or(1, |last| last.number + 1),
        segments: Vec::new(),
        unused: unlisted(disk, shard, &listed, from).await?,
        records: 0,
        torn: Vec::new(),
        warnings: Vec::new(),
        losses: Vec::new(),
        left: Vec::new(),
    };
    let mut open = open_all(disk, shard, listed, from, &mut recovered.warnings).await?;
    look_for_a_cut(shard, &mut open).await?;
    // The position of the log, once it is known, and the snapshot's position, until the log has met it.
    let (mut reached, mut unmet) = (None, from);
    for index in 0..open.len() {
        // A later segment that was taken into use proves that this one was complete.
        let next = open[index + 1..].iter().find_map(|later| later.header.as_ref());
        let next = next.map(|header| header.start);
        let Opened { segment, file, header, cut, is_after_gap } = &open[index];
        let Some(header) = header else {
            // A segment whose header could not be written was given up. A later one that was taken into use has to
            // continue the log all the same, so nothing is missing.
            recovered.unused.push(segment.file.clone());
            continue;
        };
        if is_covered(segment, from) {
            recovered.segments.push(segment.clone());
            continue;
        }
        check_start(segment, header, reached.filter(|_| !is_after_gap), from)?;
        let tail = match (segment.sealed, next) {
            (Some(sealed), _) if cut.is_none() => Tail::Sealed(sealed),
            (_, Some(next)) => Tail::Followed(next),
            _ => Tail::Open,
        };
        let mut records = 0;
        let scan = read(file, header, tail, unmet, |lsn, record| {
            if from.is_none_or(|from| lsn >= from.next_lsn) {
                records += 1;
                apply(lsn, record);
            }
        })
        .await?;
        let is_relied_on = tail == Tail::Open && scan.end != header.start && !D::IS_READ_ONLY;
        if is_relied_on && !is_off(Pillar::WriteAgain) {
            write_again(disk, &segment.file, file, scan.vouched_bytes..scan.end_bytes).await?;
        }
        reached = Some(scan.end);
        unmet = unmet.filter(|_| !scan.is_met);
        recovered.records += records;
        if let Some(cut) = cut {
            let (told, is_loss) = about_cut(segment, *cut, &scan, from);
            let list = if is_loss { &mut recovered.losses } else { &mut recovered.warnings };
            list.push(told);
        }
        recovered.enter(segment, file, header, scan).await?;
    }
    // Groups without records may have followed at an unchanged LSN, but not replaced it. If data is known to be gone,
    // those groups may be gone as well.
    if let (Some(from), Some(end)) = (unmet, reached)
        && from.next_lsn == end.next_lsn
        && recovered.warnings.is_empty()
        && recovered.losses.is_empty()
        && let Some(last) = open.last()
    {
        return Err(corrupt(&last.segment.file, 0, from.next_lsn, &other_log(from)));
    }
    for opened in open {
        opened.file.close().await?;
    }
    // If syncs were not waited for, or a part of the log is gone, a snapshot may be further than the log, be it by
    // groups without records alone: the log then continues where the snapshot was made, or the next start would take
    // the following groups for another log.
    let is_further = |end: &Position| {
        let at = recovered.position.next_lsn;
        end.next_lsn > at || end.next_lsn == at && unmet.is_none()
    };
    recovered.position = reached.filter(is_further).unwrap_or(recovered.position);
    Ok(recovered)
}

impl Recovered {
    /// Adds the result of reading a segment.
    async fn enter<F: File>(
        &mut self,
        segment: &Segment,
        file: &F,
        header: &SegmentHeader,
        scan: Scan,
    ) -> Result<(), ReadError> {
        let name = &segment.file;
        // Later groups are whole, so this was not the last group, whose client may not have had an answer yet.
        let has_groups_behind = scan.left.as_ref().is_some_and(|left| left.groups > 0);
        let list = if has_groups_behind { &mut self.losses } else { &mut self.torn };
        list.extend(scan.torn.map(|torn| format!("{name}: {torn}")));
        // A group without records is a part of the chain as well. If there is no group, the segment is not needed,
        // and its header is not known to be durable. But a segment with a group that was cut off or refused stays
        // named: if its file outlived its name, it would be taken for one that MANIFEST has lost.
        let is_without_group = segment.sealed.is_none_or(|s| s.end_bytes == BLOCK as u64);
        // A file that was cut had groups, which were refused, and a crash may undo the cut.
        let is_empty = scan.end == header.start
            && is_without_group
            && !is_shorter(file, header.segment_bytes).await?;
        // Data behind the header goes to quarantine first; the next start finds the file cut there.
        if is_empty && scan.left.is_none() && !has_groups(file, header.shard).await? {
            self.unused.push(name.clone());
            return Ok(());
        }
        self.left.extend(scan.left.map(|left| (name.clone(), left)));
        let sealed = Sealed {
            first_lsn: header.start.next_lsn.0,
            last_lsn: scan.end.next_lsn.0 - 1,
            end_bytes: scan.end_bytes,
            chain: scan.end.chain,
        };
        self.segments.push(Segment { sealed: Some(sealed), ..segment.clone() });
        Ok(())
    }
}

/// Opens the segments that MANIFEST names. A segment whose file is missing is skipped, with a warning, if the
/// snapshot at `from` has all of its records.
async fn open_all<D: Disk>(
    disk: &D,
    shard: ShardId,
    listed: Vec<Segment>,
    from: Option<Position>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Opened<D::File>>, ReadError> {
    let (mut open, mut is_after_gap) = (Vec::with_capacity(listed.len()), false);
    for segment in listed {
        match open_listed(disk, shard, &segment).await? {
            Some((file, header)) => {
                let is_after_gap = std::mem::take(&mut is_after_gap);
                open.push(Opened { segment, file, header, cut: None, is_after_gap });
            }
            None if segment.is_within(from.map(|from| from.next_lsn.0)) => {
                is_after_gap = true;
                warnings.push(format!(
                    "{}: the file is missing; the snapshot has all that was in it",
                    segment.file
                ));
            }
            None => {
                let why = "the file is missing, but MANIFEST names it, and no good snapshot is \
                           known to have all that was in it";
                return Err(corrupt(&segment.file, 0, Lsn(0), why));
            }
        }
    }
    Ok(open)
}

/// Checks whether files are shorter than they were made. The last one that was taken into use may end where a group
/// ends: its tail was cut, which is reported. Any other is damaged.
async fn look_for_a_cut<F: File>(shard: ShardId, open: &mut [Opened<F>]) -> Result<(), ReadError> {
    let last = open.iter().rposition(|opened| opened.header.is_some());
    for (index, opened) in open.iter_mut().enumerate() {
        let Some(header) = &opened.header else { continue };
        let (is_last, sealed) = (Some(index) == last, opened.segment.sealed);
        // Only complete segments are cut to their length, and MANIFEST knows those.
        if is_last {
            opened.cut = cut_at_group(&opened.file, header, sealed).await?;
        }
        if opened.cut.is_none()
            && sealed.is_none()
            && is_shorter(&opened.file, header.segment_bytes).await?
        {
            let bytes = header.segment_bytes;
            let why = format!("the file was made with {bytes} bytes and has fewer");
            return Err(corrupt(&segment_name(shard, header.number), 0, Lsn(0), &why));
        }
    }
    Ok(())
}

/// Description of the records lost by a cut, as far as they are known, and whether they are known to be acknowledged.
fn about_cut(segment: &Segment, cut: Cut, scan: &Scan, from: Option<Position>) -> (String, bool) {
    let next = from.map_or(scan.end.next_lsn, |from| from.next_lsn.max(scan.end.next_lsn)).0;
    let (lost, is_loss) = match segment.sealed {
        Some(sealed) if sealed.last_lsn < next => ("nothing is lost by it".to_owned(), false),
        Some(sealed) => {
            let count = sealed.last_lsn + 1 - next;
            (format!("{count} changes are lost, LSN {next} to {}", sealed.last_lsn), true)
        }
        // As when an operator cuts a tail that the check of the log calls bad: no evidence says that acknowledged
        // changes lay behind.
        None => ("changes that were behind are lost, and nothing tells how many".to_owned(), false),
    };
    let told = format!(
        "{}: the file was cut at byte {} of {}, where a group ends; {} records are left, the last \
         with LSN {}; {lost}",
        segment.file,
        cut.bytes,
        cut.made_bytes,
        scan.records,
        scan.end.next_lsn.0 - 1
    );
    (told, is_loss)
}

/// True if all records of a segment come before `from`.
fn is_covered(segment: &Segment, from: Option<Position>) -> bool {
    let is_before = |sealed: Sealed, from: Position| Lsn(sealed.last_lsn).next() < from.next_lsn;
    segment.sealed.zip(from).is_some_and(|(sealed, from)| is_before(sealed, from))
}

/// Checks that a segment begins where the log before it ends; and the first one that is read, where the log begins,
/// or not behind the records before it.
fn check_start(
    segment: &Segment,
    header: &SegmentHeader,
    reached: Option<Position>,
    from: Option<Position>,
) -> Result<(), ReadError> {
    let (expected, is_right) = match (reached, from) {
        // A snapshot may be further than the segments before: they do not matter.
        (_, Some(from)) if header.start.is(&from) => return Ok(()),
        (Some(reached), _) => (reached, header.start.is(&reached)),
        (None, Some(from)) => (from, header.start.next_lsn <= from.next_lsn),
        (None, None) => (Position::START, header.start.is(&Position::START)),
    };
    if is_right || is_off(Pillar::LsnGap) {
        return Ok(());
    }
    let why = format!(
        "the segment begins with LSN {}; the log before it ends otherwise",
        header.start.next_lsn.0
    );
    Err(corrupt(&segment.file, 0, expected.next_lsn, &why))
}

/// Opens a segment that MANIFEST names; `None` if its file is missing. The header is `None` if it
/// was never taken into use.
async fn open_listed<D: Disk>(
    disk: &D,
    shard: ShardId,
    segment: &Segment,
) -> Result<Option<(D::File, Option<SegmentHeader>)>, ReadError> {
    let lsn = segment.sealed.map_or(Lsn(0), |sealed| Lsn(sealed.first_lsn));
    let bad = |why: &str| corrupt(&segment.file, 0, lsn, why);
    if segment.file != segment_name(shard, segment.number) {
        return Err(bad("MANIFEST gives it another number"));
    }
    let file = match disk.open(&segment.file).await {
        Ok(file) => file,
        Err(error) if error.kind == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // The data read decides what MANIFEST will say: none of it may be lost afterwards. Data that a sync of the last
    // process failed to make durable, this sync does not either: see `write_again`.
    if segment.sealed.is_none() && !D::IS_READ_ONLY {
        file.sync_data().await?;
    }
    let header = match read_head(&file).await? {
        Head::Good(header) => Some(header),
        Head::Newer(version) => {
            return Err(ReadError::Newer { file: segment.file.clone(), version });
        }
        // All of a header is in one sector: a torn write can't change a part of it.
        Head::Bad(why) => return Err(bad(&format!("the segment header is damaged: {why}"))),
        Head::Unused if segment.sealed.is_some() => {
            return Err(bad("the segment header is damaged"));
        }
        Head::Unused if has_groups(&file, shard).await? => {
            return Err(bad("the segment header is damaged, and groups follow"));
        }
        Head::Unused => None,
    };
    if header.is_some_and(|header| (header.shard, header.number) != (shard, segment.number)) {
        return Err(bad("the file is a segment of another log, or another one of this"));
    }
    Ok(Some((file, header)))
}

/// Writes the data that has been read once more, durable. No evidence confirms the end of the last segment: the
/// process that wrote it may have died of a sync that failed, and then it is read as it was written, but no sync
/// makes it durable. Old data is overwritten with equal bytes, so a torn write does not change it.
async fn write_again<D: Disk>(
    disk: &D,
    name: &str,
    file: &D::File,
    range: Range<u64>,
) -> Result<(), ReadError> {
    let mut offset = range.start;
    while offset < range.end {
        let mut content = Vec::new();
        file.read_at(offset, (range.end - offset).min(COPY_BYTES) as usize, &mut content).await?;
        if content.is_empty() {
            return Err(corrupt(name, offset, Lsn(0), "the file has become shorter"));
        }
        let mut buffer = disk.buffer(content.len());
        buffer.as_mut().copy_from_slice(&content);
        file.write_at(buffer, offset).await?;
        offset += content.len() as u64;
    }
    Ok(file.sync_data().await?)
}

/// True if the file ends before `bytes`.
async fn is_shorter<F: File>(file: &F, bytes: u64) -> Result<bool, ReadError> {
    let mut block = Vec::new();
    file.read_at(bytes.saturating_sub(BLOCK as u64), BLOCK, &mut block).await?;
    Ok(block.len() < BLOCK)
}

/// Files of this shard that MANIFEST does not name. They were being made when the process died, and hold nothing; or
/// they come before all others, and were about to be removed because a snapshot has their records; else MANIFEST is
/// not of this directory.
async fn unlisted<D: Disk>(
    disk: &D,
    shard: ShardId,
    listed: &[Segment],
    from: Option<Position>,
) -> Result<Vec<String>, ReadError> {
    let mut unused = Vec::new();
    for name in disk.list().await? {
        let ours = parse_segment_name(&name).filter(|(owner, _)| *owner == shard);
        let Some((_, number)) = ours else { continue };
        if listed.iter().any(|segment| segment.file == name) {
            continue;
        }
        if from.is_some() && listed.first().is_some_and(|first| number < first.number) {
            unused.push(name);
            continue;
        }
        let file = disk.open(&name).await?;
        let has_groups = has_groups(&file, shard).await?;
        file.close().await?;
        if has_groups {
            let why = "the segment holds records, but MANIFEST does not name it";
            return Err(corrupt(&name, 0, Lsn(0), why));
        }
        unused.push(name);
    }
    Ok(unused)
}

fn corrupt(file: &str, offset: u64, lsn: Lsn, why: &str) -> ReadError {
    ReadError::Corrupt { file: file.into(), offset, lsn, why: why.into() }
}
