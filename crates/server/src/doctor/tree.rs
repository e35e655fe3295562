//! Reading of `/proc` and `/sys`, or of a test's copies of them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes read of one file. Lists of mounts on hosts with many containers take hundreds of kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most characters shown of one value.
const SHOWN_CHARS_MAX: usize = 200;

/// Bound on CPU numbers; no Linux supports as many.
const CPUS_MAX: usize = 8_192;

/// The files of a host, below a root.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The host whose `/` is at this path.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The first 1 MiB of a file; `None` if it can't be read or is not text.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let path = self.root.join(path);
        if !path.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// The first line of a file, safe to show; `None` if there is none.
    pub(super) fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = shown(text.lines().next()?.trim());
        (!line.is_empty()).then_some(line)
    }

    /// The number in a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.line(path)?.parse().ok()
    }

    /// The CPUs, or nodes, that a file lists.
    pub(super) fn list(&self, path: &str) -> Option<Vec<usize>> {
        cpu_list(&self.line(path)?)
    }

    /// True if the directory exists.
    pub(super) fn has_directory(&self, path: &str) -> bool {
        self.root.join(path).is_dir()
    }
}

/// Foreign text made safe for a terminal: without control characters, and short.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}

/// Parses a list such as `0-3,8`, in ascending order; `None` if it is invalid or empty.
pub(super) fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX || cpus.len() > CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// Formats CPUs as a list that `taskset -c` accepts.
pub(super) fn as_list(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let part = |&(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(cpu_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(cpu_list("5"), Some(vec![5]));
        for bad in ["", "3-1", "a", "1,", "0-99999999999", "0-8192", "-1"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
        let many = vec!["0-8191"; 100].join(",");
        assert_eq!(cpu_list(&many), None, "a long list is refused, not worked through");
        assert_eq!(as_list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(as_list(&[]), "");
    }

    #[test]
    fn shown_text_can_not_control_a_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb"), "a[2Jb");
        assert_eq!(shown(&"x".repeat(5_000)).len(), SHOWN_CHARS_MAX);
    }

    #[test]
    fn files_are_read_up_to_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::new(directory.path());
        std::fs::write(directory.path().join("big"), vec![b'a'; 3 << 20]).unwrap();
        std::fs::write(directory.path().join("binary"), [0xff, 0xfe]).unwrap();
        std::fs::write(directory.path().join("empty"), "").unwrap();
        assert_eq!(tree.text("big").unwrap().len() as u64, FILE_BYTES_MAX);
        assert_eq!(tree.text("binary"), None);
        assert_eq!(tree.line("empty"), None);
        assert_eq!(tree.text("missing"), None);
        assert_eq!(tree.text(""), None, "a directory");
    }
}
