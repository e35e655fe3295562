//! `quarantine/` in a data directory: what is taken out of the database and kept for people to
//! look at. Nothing reads it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Name of the directory.
pub const QUARANTINE_NAME: &str = "quarantine";

/// Most bytes of one tail that are kept; a longer one stays where it is.
const TAIL_BYTES_MAX: u64 = 64 << 20;

/// Most tails that are kept; the oldest go first.
const TAILS_MAX: usize = 32;

/// How the names of tails begin.
const TAIL_PREFIX: &str = "tail_";

/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// Copies these bytes of the file `name` to a file of their own, durable. Returns what has become
/// of them, in words.
///
/// # Errors
/// If they are too many, or can't be copied: then there is no copy.
pub fn keep_tail(
    directory: &Path,
    name: &str,
    bytes: Range<u64>,
    unix_ms: u64,
) -> Result<String, String> {
    let length = bytes.end.saturating_sub(bytes.start);
    if length > TAIL_BYTES_MAX {
        return Err(format!("{length} bytes are more than the {TAIL_BYTES_MAX} that are kept"));
    }
    let quarantine = directory.join(QUARANTINE_NAME);
    // The names sort by time.
    let kept = format!("{TAIL_PREFIX}{unix_ms:013}_{name}_{}", bytes.start);
    let target = quarantine.join(&kept);
    let copied = make(&quarantine, directory)
        .and_then(|()| copy(&directory.join(name), bytes, &target))
        .and_then(|()| File::open(&quarantine)?.sync_all());
    if let Err(error) = copied {
        // A part of it would only take room.
        let _ = fs::remove_file(&target);
        return Err(format!("{QUARANTINE_NAME}/{kept}: {error}"));
    }
    Ok(match drop_oldest(&quarantine) {
        0 => format!("kept in {QUARANTINE_NAME}/{kept}"),
        dropped => format!("kept in {QUARANTINE_NAME}/{kept}; {dropped} older tails were removed"),
    })
}

/// Makes the directory, durable with its name.
fn make(quarantine: &Path, directory: &Path) -> io::Result<()> {
    match fs::create_dir(quarantine) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| File::open(directory)?.sync_all()),
    }
}

fn copy(source: &Path, bytes: Range<u64>, target: &Path) -> io::Result<()> {
    let source = File::open(source)?;
    let target = OpenOptions::new().write(true).create_new(true).open(target)?;
    let mut piece = vec![0; COPY_BYTES.min(bytes.end - bytes.start) as usize];
    let mut offset = bytes.start;
    while offset < bytes.end {
        let piece = &mut piece[..COPY_BYTES.min(bytes.end - offset) as usize];
        source.read_exact_at(piece, offset)?;
        target.write_all_at(piece, offset - bytes.start)?;
        offset += piece.len() as u64;
    }
    target.sync_all()
}

/// Removes the oldest tails where there are too many; how many that were.
fn drop_oldest(quarantine: &Path) -> usize {
    let entries = fs::read_dir(quarantine).into_iter().flatten().flatten();
    let mut tails: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(TAIL_PREFIX))
        .map(|entry| entry.path())
        .collect();
    tails.sort();
    let surplus = tails.len().saturating_sub(TAILS_MAX);
    tails[..surplus].iter().filter(|path| fs::remove_file(path).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_copied_byte_for_byte_and_only_the_newest_are_kept() {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let content: Vec<u8> = (0..3 * COPY_BYTES + 77).map(|i| (i / 13) as u8).collect();
        fs::write(directory.path().join("log"), &content).unwrap();
        let keep = |bytes, time| keep_tail(directory.path(), "log", bytes, time);
        let quarantine = directory.path().join(QUARANTINE_NAME);
        for time in 0..TAILS_MAX as u64 + 3 {
            let said = keep(4096 + time..content.len() as u64, time).unwrap();
            assert_eq!(said.contains("1 older tails"), time >= TAILS_MAX as u64, "{said}");
        }
        let mut names: Vec<String> = fs::read_dir(&quarantine)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), TAILS_MAX);
        assert_eq!(names[0], "tail_0000000000003_log_4099");
        assert!(fs::read(quarantine.join(&names[0])).unwrap() == content[4099..]);
        // What can't be copied leaves nothing.
        assert!(keep(0..content.len() as u64 + 1, 99).is_err());
        assert!(keep(0..TAIL_BYTES_MAX + 1, 99).unwrap_err().contains("more than"));
        assert_eq!(fs::read_dir(&quarantine).unwrap().count(), TAILS_MAX);
    }
}
