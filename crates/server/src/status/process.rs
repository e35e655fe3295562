//! What the system says about this process and its files.

use std::path::Path;

/// Memory in use and the most there has been, in bytes; 0 where the system does not say.
#[must_use]
pub fn memory_bytes() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    (kib("VmRSS:").unwrap_or(0) << 10, kib("VmHWM:").unwrap_or(0) << 10)
}

/// File descriptors that are open; 0 where the system does not say.
#[must_use]
pub fn open_fds() -> u64 {
    // One of them is that of the directory itself.
    std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1) as u64)
}

/// Bytes that the files of a directory take on disk.
#[must_use]
pub fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let metadata = entries.flatten().filter_map(|entry| entry.metadata().ok());
    metadata.filter(std::fs::Metadata::is_file).map(|file| file.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_files_take_space() {
        let (now, peak) = memory_bytes();
        assert!(now > 1 << 20 && peak >= now, "{now} {peak}");
        assert!(open_fds() > 2);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
        assert!(disk_bytes(directory.path()) >= 100_000);
        assert_eq!(disk_bytes(Path::new("/nowhere")), 0);
    }
}
