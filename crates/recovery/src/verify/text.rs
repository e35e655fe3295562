//! A report for people: a table of the segments, the logs, the damage, and one last line.

use std::fmt::{Display, Formatter, Result, Write};

use super::report::{Fault, Report, SegmentReport, ShardReport, State};

const TITLES: [&str; 8] =
    ["FILE", "SHARD", "NUMBER", "EPOCH", "RECORDS", "LSN", "GOOD TO BYTE", "STATE"];

/// True for the columns that are aligned to the right.
const NUMERIC: [bool; 8] = [false, true, true, false, true, true, true, false];

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if let Some(made) = &self.manifest {
            writeln!(
                f,
                "MANIFEST: made for {}, vectors of {} values, {}; it names {}; epoch {}\n",
                count(made.shards as usize, "shard"),
                made.dimension,
                made.distance,
                count(made.segments, "segment"),
                made.epoch,
            )?;
        }
        table(f, &self.segments)?;
        if !self.shards.is_empty() {
            writeln!(f)?;
        }
        for shard in &self.shards {
            writeln!(f, "{}", Line(shard))?;
        }
        for snapshot in &self.snapshots {
            let state = if snapshot.is_good { "good" } else { "DAMAGED" };
            let (shard, lsn) = (snapshot.shard, snapshot.last_lsn);
            writeln!(f, "{}: shard {shard} up to LSN {lsn}, {state}", snapshot.file)?;
        }
        list(f, "Torn tails", &self.torn_tails())?;
        list(f, "Also there", &self.notes)?;
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        list(f, "Damage", &faults)?;
        if self.shards.len() > 1 && self.segments.iter().any(|s| s.state == State::Damaged) {
            writeln!(
                f,
                "\nGOOD TO BYTE is of one file: what cuts `wal_*.wal` cuts the logs of all {}.",
                count(self.shards.len(), "shard")
            )?;
        }
        writeln!(f, "\n{}", self.summary())
    }
}

impl Report {
    fn torn_tails(&self) -> Vec<String> {
        let torn = |segment: &SegmentReport| {
            let torn = segment.torn.as_ref()?;
            Some(format!(
                "{}: {torn}. The last write was cut off, as a crash does, or it was damaged \
                 later: nothing tells the two apart. The next start keeps it in quarantine/, cuts it off \
                 and says so.",
                segment.file
            ))
        };
        self.segments.iter().filter_map(torn).collect()
    }

    /// The result in one line.
    fn summary(&self) -> String {
        let (segments, records) = (self.segments.len(), self.records());
        let of = format!("{}, {}", count(segments, "segment"), count(records as usize, "record"));
        let of = match self.snapshots.len() {
            0 => of,
            snapshots => format!("{of}, {}", count(snapshots, "snapshot")),
        };
        if self.is_clean {
            let torn = self.segments.iter().filter(|segment| segment.torn.is_some()).count();
            let torn =
                if torn > 0 { format!(", {}", count(torn, "torn tail")) } else { String::new() };
            return format!("clean: {of}{torn}");
        }
        let mut files: Vec<&str> = self.faults.iter().map(|fault| fault.file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        format!(
            "DAMAGED: {} in {}; {of} can be read",
            count(self.faults.len(), "fault"),
            count(files.len(), "file"),
        )
    }
}

fn table(f: &mut Formatter<'_>, segments: &[SegmentReport]) -> Result {
    if segments.is_empty() {
        return writeln!(f, "There is no log segment.");
    }
    let mut widths = TITLES.map(str::len);
    for segment in segments {
        for (width, cell) in widths.iter_mut().zip(cells(segment)) {
            *width = (*width).max(cell.len());
        }
    }
    line(f, &widths, &TITLES.map(str::to_owned))?;
    segments.iter().try_for_each(|segment| line(f, &widths, &cells(segment)))
}

fn line(f: &mut Formatter<'_>, widths: &[usize; 8], cells: &[String; 8]) -> Result {
    let mut line = String::new();
    for ((&width, cell), is_numeric) in widths.iter().zip(cells).zip(NUMERIC) {
        if is_numeric {
            write!(line, "{cell:>width$}  ")?;
        } else {
            write!(line, "{cell:<width$}  ")?;
        }
    }
    writeln!(f, "{}", line.trim_end())
}

fn cells(segment: &SegmentReport) -> [String; 8] {
    let none = || "-".to_owned();
    let is_read = !matches!(segment.state, State::Missing | State::Unused);
    [
        segment.file.clone(),
        segment.shard.to_string(),
        segment.number.to_string(),
        segment.epoch.clone().unwrap_or_else(none),
        if is_read { segment.records.to_string() } else { none() },
        range(segment.first_lsn, segment.last_lsn).unwrap_or_else(none),
        if is_read { segment.good_bytes.to_string() } else { none() },
        word(segment.state).to_owned(),
    ]
}

fn word(state: State) -> &'static str {
    match state {
        State::Sealed => "sealed",
        State::Followed => "followed",
        State::Open => "open",
        State::TornTail => "torn tail",
        State::Unused => "unused",
        State::Damaged => "DAMAGED",
        State::Missing => "MISSING",
        State::Newer => "NEWER",
    }
}

fn range(first: Option<u64>, last: Option<u64>) -> Option<String> {
    Some(format!("{}-{}", first?, last?))
}

/// The line of a log.
struct Line<'a>(&'a ShardReport);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let shard = self.0;
        let records = count(shard.records as usize, "record");
        let lsn = range(shard.first_lsn, shard.last_lsn);
        let lsn = lsn.map_or_else(String::new, |lsn| format!(", LSN {lsn}"));
        let order = if shard.is_continuous { "without a gap" } else { "WITH A GAP" };
        let segments = count(shard.segments, "segment");
        write!(f, "shard {}: {records} in {segments}{lsn}, {order}", shard.shard)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", self.file)?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        if let Some(lsn) = self.lsn {
            write!(f, " (LSN {lsn})")?;
        }
        write!(f, ": {}", self.what)?;
        match self.lost {
            Some((first, last)) if first == last => write!(f, "; LSN {first} can't be read")?,
            Some((first, last)) => write!(f, "; LSN {first} to {last} can't be read")?,
            None => {}
        }
        match self.goes_on {
            Some((offset, lsn)) => write!(f, "; good groups go on at byte {offset} with LSN {lsn}"),
            None => Ok(()),
        }
    }
}

fn list(f: &mut Formatter<'_>, title: &str, lines: &[String]) -> Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}:")?;
    lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
}

fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
