//! Report of the checks, for programs and for people.

use std::fmt::{Display, Formatter, Result};
use std::path::Path;

use serde::Serialize;

use super::tree::shown;

/// Meaning of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The server works, at a cost in latency, throughput or safety.
    Warn,
    /// A server does not start, refuses writes, or can't keep its promises.
    Bad,
    /// The value could not be read.
    Unknown,
}

/// Result of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Name, stable across versions.
    pub name: &'static str,
    /// Verdict.
    pub verdict: Verdict,
    /// The value found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// Command that changes it, if it should change and a command can do that.
    pub change: Option<String>,
}

/// Results of all checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// True if no verdict is bad.
    pub is_fit: bool,
    /// Directory whose disk was checked: the data directory, or where it would be created.
    pub directory: String,
    /// Ordered: kernel, CPUs, memory, disk.
    pub checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(directory: &Path, checks: Vec<Check>) -> Self {
        let is_fit = checks.iter().all(|check| check.verdict != Verdict::Bad);
        Self { is_fit, directory: shown(&directory.to_string_lossy()), checks }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for check in &self.checks {
            let word = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "WARN",
                Verdict::Bad => "BAD",
                Verdict::Unknown => "unknown",
            };
            writeln!(f, "{word:<8}{:<22}{}", check.name, check.found)?;
            if check.verdict == Verdict::Ok {
                continue;
            }
            writeln!(f, "{:<10}why:    {}", "", check.why)?;
            if let Some(change) = &check.change {
                writeln!(f, "{:<10}change: {change}", "")?;
            }
        }
        let [ok, warn, bad, unknown] =
            [Verdict::Ok, Verdict::Warn, Verdict::Bad, Verdict::Unknown].map(|v| self.count(v));
        writeln!(f, "\n{ok} ok, {warn} to look at, {bad} bad, {unknown} unknown")?;
        writeln!(f, "The disk was looked at in {}", self.directory)
    }
}

/// A check before its finding: its name, and why it matters.
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
}

impl About {
    pub(super) fn ok(&self, found: impl Into<String>) -> Check {
        self.found(Verdict::Ok, found, None)
    }

    pub(super) fn warn(&self, found: impl Into<String>, change: impl Into<String>) -> Check {
        self.found(Verdict::Warn, found, Some(change.into()))
    }

    /// A warning that no command can remedy.
    pub(super) fn warn_only(&self, found: impl Into<String>) -> Check {
        self.found(Verdict::Warn, found, None)
    }

    pub(super) fn bad(&self, found: impl Into<String>, change: impl Into<String>) -> Check {
        self.found(Verdict::Bad, found, Some(change.into()))
    }

    pub(super) fn unknown(&self, found: impl Into<String>) -> Check {
        self.found(Verdict::Unknown, found, None)
    }

    fn found(&self, verdict: Verdict, found: impl Into<String>, change: Option<String>) -> Check {
        Check { name: self.name, verdict, found: found.into(), why: self.why, change }
    }
}
