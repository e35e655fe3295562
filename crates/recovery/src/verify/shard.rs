//! Check of the log of one shard: its segments exist, are its own, and follow one another.

use super::report::{Fault, Report, SegmentReport, ShardReport, State};
use super::segment::{Checked, Expected, check, cut_off, end_of, lost, next_lsn};
use super::{OnRecord, hex};
use crate::disk::{Disk, DiskError, File};
use crate::manifest::{Manifest, Segment};
use crate::types::{Lsn, ShardId};
use crate::wal::reader::{
    Cut, Head, Place, ReadError, Tail, cut_at_group, has_groups, next_good, read_head,
};
use crate::wal::segment::SegmentHeader;
use crate::wal::{Position, segment_name};

/// A segment that exists, or should.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) number: u64,
    pub(super) is_there: bool,
    pub(super) named: Option<Segment>,
}

impl Candidate {
    fn sealed_end(&self) -> Option<Position> {
        self.named.as_ref()?.sealed.and_then(|sealed| end_of(Tail::Sealed(sealed)))
    }
}

/// State of the first block of a candidate's file.
enum Found {
    Missing,
    Unreadable(DiskError),
    /// Nothing was written to it, or its contents are not needed.
    Unused,
    /// A segment of this log, with its header.
    Used(SegmentHeader),
    /// A segment, but not the one of its name.
    Foreign(SegmentHeader),
    /// Its header is damaged, for a reason; with the first good group, if there is one.
    Headless(String, Option<Place>),
    /// A segment in a later format.
    Newer(u16),
}

/// Whether the header of a segment's file is good, and is its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Headless,
    Foreign,
}

/// The walk through the segments of one log.
pub(super) struct Walk<'a, D> {
    disk: &'a D,
    shard: ShardId,
    manifest: Option<&'a Manifest>,
    /// Positions of the shard's snapshots, by LSN.
    snapshots: Vec<Position>,
    /// Position of the newest snapshot, until the log has been there.
    unmet: Option<Position>,
    /// True while no segment has been read.
    is_first: bool,
    /// The number of the first segment that MANIFEST names.
    first_number: Option<u64>,
    fits: &'a mut Expected,
    report: &'a mut Report,
    /// Called with all records of this log that can be read.
    on_record: Option<OnRecord<'a>>,
    /// Position from which the next segment has to go on; `None` after damage that leaves it open.
    position: Option<Position>,
    /// Index of the last fault, if the next segment will show what it lost.
    open_fault: Option<usize>,
    epoch_before: Option<u64>,
}

impl<'a, D: Disk> Walk<'a, D> {
    pub(super) fn new(
        disk: &'a D,
        shard: ShardId,
        manifest: Option<&'a Manifest>,
        fits: &'a mut Expected,
        report: &'a mut Report,
        on_record: Option<OnRecord<'a>>,
    ) -> Self {
        let snapshots = manifest.map_or(&[][..], |manifest| &manifest.snapshots);
        let snapshots = snapshots.iter().filter(|snapshot| snapshot.shard == shard.0);
        let mut snapshots: Vec<Position> = snapshots
            .map(|made| Position { next_lsn: Lsn(made.next_lsn), chain: made.chain })
            .collect();
        snapshots.sort_by_key(|made| made.next_lsn);
        Self {
            disk,
            shard,
            manifest,
            position: (manifest.is_some() && snapshots.is_empty()).then_some(Position::START),
            unmet: snapshots.last().copied(),
            snapshots,
            is_first: true,
            first_number: None,
            fits,
            report,
            on_record,
            open_fault: None,
            epoch_before: None,
        }
    }

    /// Checks the segments, which are in order of their numbers.
    pub(super) async fn check(
        mut self,
        candidates: Vec<Candidate>,
        before_each: &mut dyn FnMut(&str),
    ) {
        let (rows, faults) = (self.report.segments.len(), self.report.faults.len());
        self.first_number = candidates.iter().find(|c| c.named.is_some()).map(|c| c.number);
        let mut found = Vec::with_capacity(candidates.len());
        for candidate in &candidates {
            found.push(self.look(candidate).await);
        }
        if self.manifest.is_none() && candidates.first().is_some_and(|c| c.number == 1) {
            self.position = Some(Position::START);
        }
        for (index, candidate) in candidates.iter().enumerate() {
            let name = segment_name(self.shard, candidate.number);
            before_each(&name);
            // A segment that was never used is given up; the next one continues the log all the same.
            let next = found[index + 1..].iter().find(|found| !matches!(found, Found::Unused));
            let tail = match (candidate.named.as_ref().and_then(|named| named.sealed), next) {
                (Some(sealed), _) => Tail::Sealed(sealed),
                (None, Some(Found::Used(header))) => Tail::Followed(header.start),
                (None, _) => Tail::Open,
            };
            let is_last = next.is_none();
            let entry = Entry { name, candidate, tail, is_last };
            self.enter(&entry, &found[index]).await;
        }
        self.meet_snapshot();
        let shard = self.sum(rows, faults);
        self.report.shards.push(shard);
    }

    /// Checks that a log that ends where a snapshot was made is the log of that snapshot.
    fn meet_snapshot(&mut self) {
        let ends_there = |from: &Position| {
            self.position.is_some_and(|position| position.next_lsn == from.next_lsn)
        };
        if let Some(from) = self.unmet.filter(ends_there)
            && let Some(last) = self.report.segments.last()
        {
            let (file, lsn) = (last.file.clone(), Some(from.next_lsn.0));
            let what = format!("the snapshot at LSN {} is of another log", from.next_lsn.0 - 1);
            self.report.faults.push(Fault { file, lsn, what, ..Fault::default() });
        }
    }

    async fn look(&self, candidate: &Candidate) -> Found {
        if !candidate.is_there {
            return Found::Missing;
        }
        let name = segment_name(self.shard, candidate.number);
        let looked = async {
            let file = self.disk.open(&name).await?;
            let found = self.look_into(&file, candidate).await;
            file.close().await?;
            found
        };
        looked.await.unwrap_or_else(Found::Unreadable)
    }

    async fn look_into(&self, file: &D::File, candidate: &Candidate) -> Result<Found, DiskError> {
        let is_named = candidate.named.is_some() || self.manifest.is_none();
        let is_older = self.first_number.is_some_and(|first| candidate.number < first);
        // Files that the directory had before it was given fewer shards, and that were about to be removed.
        let is_no_shard = self.manifest.is_some_and(|manifest| self.shard.0 >= manifest.shards);
        if !is_named && (is_no_shard || is_older && !self.snapshots.is_empty()) {
            return Ok(Found::Unused);
        }
        let head = read_head(file).await?;
        let why = match head.clone() {
            Head::Good(header) => {
                // A segment that nothing names was being made, unless there are records in it.
                return Ok(if !is_named && !has_groups(file, header.shard).await? {
                    Found::Unused
                } else if (header.shard, header.number) == (self.shard, candidate.number) {
                    Found::Used(header)
                } else {
                    Found::Foreign(header)
                });
            }
            Head::Unused => "the segment header is gone".to_owned(),
            Head::Newer(version) => return Ok(Found::Newer(version)),
            // All of a header is in one sector: a torn write can't change a part of it.
            Head::Bad(why) => why,
        };
        let is_unused = head == Head::Unused || candidate.named.is_none();
        let is_sealed = candidate.sealed_end().is_some();
        if is_unused && !is_sealed && !has_groups(file, self.shard).await? {
            return Ok(Found::Unused);
        }
        let end = candidate.named.as_ref().and_then(|named| named.sealed);
        let range = 0..end.map_or(u64::MAX, |sealed| sealed.end_bytes);
        Ok(Found::Headless(why, next_good(file, self.shard, None, Lsn(0), range).await?))
    }

    async fn enter(&mut self, entry: &Entry<'_>, found: &Found) {
        match found {
            Found::Missing if self.is_in_newest_snapshot(entry) => {
                let note = "the file is missing; the newest snapshot has all that was in it";
                self.report.notes.push(format!("{}: {note}", entry.name));
                // The next segment begins where the log went on, wherever that was.
                self.position = None;
                self.row(entry, State::Missing, None, None);
            }
            Found::Newer(version) => {
                let newer = ReadError::Newer { file: entry.name.clone(), version: *version };
                self.lose(entry, State::Newer, newer.to_string());
            }
            Found::Missing => {
                let what = "the file is missing, but MANIFEST names it";
                self.lose(entry, State::Missing, what.into());
            }
            Found::Unreadable(error) => {
                let what = format!("the file can't be read: {}", error.reason);
                self.lose(entry, State::Damaged, what);
            }
            // The next segment shows whether the log goes on behind it.
            Found::Unused => {
                if entry.candidate.named.is_none() && self.manifest.is_some() {
                    let note = "MANIFEST does not name it, and nothing in it is needed";
                    self.report.notes.push(format!("{}: {note}", entry.name));
                }
                self.row(entry, State::Unused, None, None);
            }
            Found::Headless(why, first) => self.headless(entry, why, *first).await,
            Found::Foreign(header) => self.foreign(entry, header).await,
            Found::Used(header) => {
                if entry.candidate.named.is_none() && self.manifest.is_some() {
                    let what = "the segment holds records, but MANIFEST does not name it";
                    self.fault(entry, Fault { what: what.into(), ..Fault::default() });
                }
                self.follow(entry, header);
                self.read(entry, header, header.first(), Kind::Good).await;
            }
        }
    }

    fn is_in_newest_snapshot(&self, entry: &Entry<'_>) -> bool {
        let newest = self.snapshots.last().map(|newest| newest.next_lsn.0);
        entry.candidate.named.as_ref().is_some_and(|named| named.is_within(newest))
    }

    /// Reports a segment of which nothing can be read.
    fn lose(&mut self, entry: &Entry<'_>, state: State, what: String) {
        let sealed = entry.candidate.named.as_ref().and_then(|named| named.sealed);
        let lsn = sealed.map(|s| s.first_lsn).or_else(|| self.position.map(|p| p.next_lsn.0));
        let lost = sealed.and_then(|sealed| lost(sealed.first_lsn, sealed.last_lsn + 1));
        self.fault(entry, Fault { lsn, what, lost, is_gap: true, ..Fault::default() });
        self.position = entry.candidate.sealed_end();
        self.open_fault = lost.is_none().then(|| self.report.faults.len() - 1);
        self.row(entry, state, None, None);
    }

    async fn headless(&mut self, entry: &Entry<'_>, why: &str, first: Option<Place>) {
        let Some(first) = first else {
            return self.lose(entry, State::Damaged, format!("{why}, and no group can be read"));
        };
        let sealed = entry.candidate.named.as_ref().and_then(|named| named.sealed);
        let start = first.position.next_lsn;
        let expected = self.position.or_else(|| self.newest_before(start));
        let lsn =
            expected.map(|p| p.next_lsn.0).into_iter().chain(sealed.map(|s| s.first_lsn)).min();
        let start = start.0;
        self.is_first = false;
        let lost = lsn.and_then(|lsn| lost(lsn, start));
        let (offset, goes_on) = (Some(0), Some((first.offset, start)));
        let what = why.to_owned();
        self.fault(entry, Fault { offset, lsn, what, lost, goes_on, ..Fault::default() });
        let header = SegmentHeader {
            shard: self.shard,
            number: entry.candidate.number,
            epoch: first.epoch,
            start: first.position,
            unix_ms: 0,
            segment_bytes: 0,
        };
        self.read(entry, &header, first, Kind::Headless).await;
    }

    /// A segment under a wrong name says nothing of this log; its contents are read as its own.
    async fn foreign(&mut self, entry: &Entry<'_>, header: &SegmentHeader) {
        let what = format!(
            "the file is segment {} of shard {} under another name",
            header.number, header.shard.0
        );
        let lsn = self.position.map(|position| position.next_lsn.0);
        let fault = Fault { offset: Some(0), lsn, what, is_gap: true, ..Fault::default() };
        self.fault(entry, fault);
        let fault = self.report.faults.len() - 1;
        let alone = Entry { tail: Tail::Open, is_last: true, name: entry.name.clone(), ..*entry };
        self.read(&alone, header, header.first(), Kind::Foreign).await;
        self.position = entry.candidate.sealed_end();
        self.open_fault = Some(fault);
    }

    /// Position of the newest snapshot, if the first segment begins behind it.
    fn newest_before(&self, start: Lsn) -> Option<Position> {
        let newest = self.snapshots.last().copied();
        newest.filter(|newest| self.is_first && newest.next_lsn < start)
    }

    /// Checks whether a segment goes on from those before it.
    fn follow(&mut self, entry: &Entry<'_>, header: &SegmentHeader) {
        let start = header.start.next_lsn.0;
        if let Some(index) = self.open_fault.take() {
            let fault = &mut self.report.faults[index];
            fault.lost = fault.lost.or_else(|| lost(fault.lsn?, start));
        }
        // A snapshot may be further than the segments before it: they do not matter.
        let is_covered = self.snapshots.contains(&header.start);
        let gap = self.newest_before(header.start.next_lsn);
        self.is_first = false;
        let expected = self.position.filter(|&position| position != header.start).or(gap);
        if let Some(position) = expected.filter(|_| !is_covered) {
            let next = position.next_lsn.0;
            let what = match start.cmp(&next) {
                std::cmp::Ordering::Greater => format!("the segment begins with LSN {start}"),
                std::cmp::Ordering::Less => {
                    format!("the segment begins with LSN {start}, which is in the log already")
                }
                std::cmp::Ordering::Equal => "the segment goes on from another log".into(),
            };
            let (offset, lsn) = (Some(0), Some(next));
            let lost = lost(next, start);
            let fault = Fault { offset, lsn, what, lost, is_gap: true, ..Fault::default() };
            self.fault(entry, fault);
        }
        self.compare_epochs(entry, header);
    }

    /// Checks the order of epochs: the lower half of an epoch counts the starts, so it never goes back, and MANIFEST
    /// has it before any segment does.
    fn compare_epochs(&mut self, entry: &Entry<'_>, header: &SegmentHeader) {
        let count = |epoch: u64| epoch as u32;
        let what = match (self.epoch_before, self.manifest) {
            (Some(before), _) if count(header.epoch) < count(before) => {
                format!(
                    "its epoch {} is older than that of the segment before it",
                    hex(header.epoch)
                )
            }
            (_, Some(manifest)) if count(header.epoch) > count(manifest.epoch) => {
                format!("its epoch {} is newer than MANIFEST", hex(header.epoch))
            }
            _ => return self.epoch_before = Some(header.epoch),
        };
        let lsn = Some(header.start.next_lsn.0);
        self.fault(entry, Fault { offset: Some(0), lsn, what, ..Fault::default() });
    }

    /// Reads a segment and adds the result.
    async fn read(&mut self, entry: &Entry<'_>, header: &SegmentHeader, place: Place, kind: Kind) {
        let is_of_this_log = kind != Kind::Foreign;
        let from =
            self.unmet.filter(|from| is_of_this_log && place.position.next_lsn <= from.next_lsn);
        let place = Place { from, ..place };
        let checked = match self.read_file(entry, header, place, is_of_this_log).await {
            Ok(checked) => checked,
            Err(error) => {
                let what = format!("the file can't be read: {}", error.reason);
                return self.lose(entry, State::Damaged, what);
            }
        };
        for fault in &checked.faults {
            self.fault(entry, fault.clone());
        }
        if is_of_this_log {
            let is_behind = |end: Position, from: Position| end.next_lsn <= from.next_lsn;
            self.unmet = self.unmet.filter(|&from| {
                !checked.is_met && checked.end.is_none_or(|end| is_behind(end, from))
            });
            self.position = checked.end;
            if checked.end.is_none() && !checked.faults.is_empty() {
                self.open_fault = Some(self.report.faults.len() - 1);
            }
        }
        let state = match checked.state(entry.tail) {
            _ if kind != Kind::Good => State::Damaged,
            State::Open if !entry.is_last => State::Followed,
            state => state,
        };
        if let Some(cut) = checked.cut {
            self.note_cut(entry, cut, &checked);
        }
        let header = (kind != Kind::Headless).then_some(header);
        self.row(entry, state, header, Some(&checked));
    }

    /// Notes a tail that was cut: no damage, but possibly a loss.
    fn note_cut(&mut self, entry: &Entry<'_>, cut: Cut, checked: &Checked) {
        let sealed = entry.candidate.named.as_ref().and_then(|named| named.sealed);
        let lost = match (sealed, next_lsn(checked)) {
            (Some(sealed), Some(next)) if next <= sealed.last_lsn => {
                format!("LSN {next} to {} are gone from the log", sealed.last_lsn)
            }
            (Some(_), _) => "no change is gone".into(),
            (None, _) => "nothing tells what was behind".into(),
        };
        self.report.notes.push(format!(
            "{}: the file was cut at byte {} of {}, where a group ends: {lost}",
            entry.name, cut.bytes, cut.made_bytes
        ));
    }

    async fn read_file(
        &mut self,
        entry: &Entry<'_>,
        header: &SegmentHeader,
        place: Place,
        is_of_this_log: bool,
    ) -> Result<Checked, DiskError> {
        let file = self.disk.open(&entry.name).await?;
        let mut kept = self.on_record.as_ref().filter(|_| is_of_this_log).map(|_| Vec::new());
        let kept_records = kept.as_mut();
        let sealed = entry.candidate.named.as_ref().and_then(|named| named.sealed);
        let is_whole_header = header.segment_bytes > 0;
        let cut = match entry.is_last && is_whole_header && is_of_this_log {
            true => cut_at_group(&file, header, sealed).await?,
            false => None,
        };
        let tail = if cut.is_some() { Tail::Open } else { entry.tail };
        let mut checked = check(&file, header, tail, place, self.fits, kept_records).await?;
        checked.cut = cut;
        if let Some(on_record) = &mut self.on_record {
            kept.into_iter().flatten().for_each(|(lsn, record)| on_record(lsn, record));
        }
        // Only complete segments are cut to their length, and MANIFEST knows those.
        let was_good = checked.faults.is_empty();
        if !matches!(tail, Tail::Sealed(_)) && cut.is_none() {
            if let Some(fault) = cut_off(&file, header, &checked, entry.is_last).await? {
                checked.faults.push(fault);
            } else if let Some(torn) = checked.torn.take_if(|_| was_good && !entry.is_last) {
                let what = format!("{torn}, and another segment follows");
                let (offset, lsn) = (Some(checked.end_bytes), next_lsn(&checked));
                checked.faults.push(Fault { offset, lsn, what, ..Fault::default() });
            }
        }
        file.close().await?;
        Ok(checked)
    }

    fn fault(&mut self, entry: &Entry<'_>, fault: Fault) {
        self.report.faults.push(Fault { file: entry.name.clone(), ..fault });
    }

    fn row(
        &mut self,
        entry: &Entry<'_>,
        state: State,
        header: Option<&SegmentHeader>,
        checked: Option<&Checked>,
    ) {
        self.report.segments.push(SegmentReport {
            file: entry.name.clone(),
            shard: self.shard.0,
            number: entry.candidate.number,
            state,
            is_named: entry.candidate.named.is_some(),
            epoch: header.map(|header| hex(header.epoch)),
            records: checked.map_or(0, |checked| checked.records),
            first_lsn: checked.and_then(|checked| checked.first_lsn),
            last_lsn: checked.and_then(|checked| checked.last_lsn),
            good_bytes: header.and(checked).map_or(0, |checked| checked.good_bytes),
            end_bytes: checked.map_or(0, |checked| checked.end_bytes),
            torn: checked.and_then(|checked| checked.torn.clone()),
        });
    }

    /// Sums up the rows and faults since the walk began.
    fn sum(&self, rows: usize, faults: usize) -> ShardReport {
        let rows = &self.report.segments[rows..];
        let faults = &self.report.faults[faults..];
        ShardReport {
            shard: self.shard.0,
            segments: rows.iter().filter(|row| row.records > 0).count(),
            records: rows.iter().map(|row| row.records).sum(),
            first_lsn: rows.iter().find_map(|row| row.first_lsn),
            last_lsn: rows.iter().rev().find_map(|row| row.last_lsn),
            is_continuous: !faults.iter().any(|fault| fault.is_gap || fault.lost.is_some()),
        }
    }
}

/// A segment in progress, and the facts known of its end.
struct Entry<'a> {
    name: String,
    candidate: &'a Candidate,
    tail: Tail,
    /// True if no segment that was used comes after it.
    is_last: bool,
}
