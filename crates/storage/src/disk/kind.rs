//! The kind of a directory's file system, by the kernel's numbers.

use std::path::Path;

/// The file systems whose O_DIRECT writes and syncs the log was made and tested for.
const ADVISED: [(u64, &str); 2] = [(0xef53, "ext4"), (0x5846_5342, "XFS")];

/// Names of other file systems, for messages.
const OTHERS: [(u64, &str); 9] = [
    (0x794c_7630, "overlay, as the inside of a container is"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "ZFS"),
    (0xf2f5_2010, "F2FS"),
    (0xca45_1a4e, "bcachefs"),
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0x6573_5546, "FUSE"),
    (0x0102_1994, "tmpfs"),
];

/// A warning if the directory is on another file system than ext4 or XFS.
#[must_use]
pub fn not_advised(directory: &Path) -> Option<String> {
    let kind = rustix::fs::statfs(directory).ok()?.f_type as u64;
    let shown = directory.display();
    warning(kind).map(|why| format!("{shown} is on {why}"))
}

fn warning(kind: u64) -> Option<String> {
    let is_it = |(number, _): &&(u64, &str)| *number == kind;
    if ADVISED.iter().any(|known| is_it(&known)) {
        return None;
    }
    let name = match OTHERS.iter().find(is_it) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("a file system of kind {kind:#x}"),
    };
    Some(format!(
        "{name}. Use ext4 or XFS: others copy what is written with O_DIRECT, or only pretend that a \
         sync is done"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_other_than_ext4_and_xfs_are_named() {
        assert_eq!((warning(0xef53), warning(0x5846_5342)), (None, None));
        assert!(warning(0x794c_7630).unwrap().starts_with("overlay"));
        assert!(warning(0x1234).unwrap().contains("0x1234"));
        assert_eq!(not_advised(Path::new("/nowhere")), None);
        let proc = not_advised(Path::new("/proc")).unwrap();
        assert!(proc.contains("/proc is on a file system of kind"), "{proc}");
    }
}
