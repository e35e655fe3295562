//! Containment of directories, decided by device and inode rather than by name: symbolic links, `..` and bind mounts
//! lead to one device and inode.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Device and inode.
type Id = (u64, u64);

/// A path's target, and its existing parent directories.
pub(super) struct Lineage {
    itself: Option<Id>,
    above: Vec<Id>,
}

impl Lineage {
    pub(super) fn of(path: &Path) -> Self {
        let resolved = resolve(path);
        let above = resolved.ancestors().skip(1).filter_map(id).collect();
        Self { itself: id(&resolved), above }
    }

    /// True if this is `other`.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.itself.is_some() && self.itself == other.itself
    }

    /// True if this is `other`, or lies in it.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        self.is(other) || other.itself.is_some_and(|other| self.above.contains(&other))
    }
}

fn id(path: &Path) -> Option<Id> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// An absolute path without symbolic links and `..`, also if its end does not exist yet.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            part => resolved.push(part),
        }
        if let Ok(real) = fs::canonicalize(&resolved) {
            resolved = real;
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_compared_by_what_they_are() {
        let outer = tempfile::tempdir().unwrap();
        let path = |name: &str| outer.path().join(name);
        fs::create_dir_all(path("backups/one/usage")).unwrap();
        symlink(path("backups/one"), path("link")).unwrap();
        let is_in = |a: &str, b: &str| Lineage::of(&path(a)).is_in(&Lineage::of(&path(b)));
        for inner in [
            "backups/one",
            "backups/one/usage",
            "backups/one/new/deeper",
            "link",
            "link/new",
            "backups/../link/usage",
            "missing/../backups/one",
            "backups/./one/.",
        ] {
            assert!(is_in(inner, "backups/one"), "{inner}");
            assert!(is_in(inner, "backups"), "{inner}");
        }
        for other in ["backups", "backups/two", "data", "link/..", "missing"] {
            assert!(!is_in(other, "backups/one"), "{other}");
        }
        // A link names the directory itself; `..` after it is the parent of its target.
        assert!(Lineage::of(&path("link/..")).is(&Lineage::of(&path("backups"))));
        assert!(!Lineage::of(&path("missing")).is(&Lineage::of(&path("missing"))));
    }
}
