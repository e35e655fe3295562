//! `quarantine/` in a data directory: data that is taken out of the database and kept for people to look at. No
//! program reads it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::folders::Folders;

/// Name of the directory.
pub const QUARANTINE_NAME: &str = "quarantine";

/// Most bytes of one tail that is kept; a longer one stays in place.
const TAIL_BYTES_MAX: u64 = 64 << 20;

/// Most tails that are kept, except those of one start, which are all kept; the oldest are removed first.
const TAILS_MAX: usize = 32;

/// Prefix of the names of tails.
const TAIL_PREFIX: &str = "tail_";

/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// A file by name, and a range of its bytes.
pub type Tail = (String, Range<u64>);

/// The outcome of [`keep_tails`].
#[derive(Debug)]
pub struct KeptTails {
    /// For each tail the path of its copy, or the reason why there is none.
    pub each: Vec<Result<String, String>>,
    /// Older tails that were removed for want of room.
    pub dropped: usize,
}

/// Copies each of these tails, which one start has found, to a file of its own, durable. A tail that an earlier start
/// has copied already is not copied again. Only tails of other starts are removed.
#[must_use]
pub fn keep_tails(folders: &Folders, tails: &[Tail], unix_ms: u64) -> KeptTails {
    let quarantine = folders.data().join(QUARANTINE_NAME);
    let mut names = BTreeSet::new();
    let keep = |(name, bytes): &Tail| {
        let kept = keep_tail(folders, name, bytes.clone(), unix_ms)?;
        let said = format!("kept in {QUARANTINE_NAME}/{kept}");
        names.insert(kept);
        Ok(said)
    };
    let each = tails.iter().map(keep).collect();
    let dropped = if names.is_empty() { 0 } else { drop_oldest(&quarantine, &names) };
    KeptTails { each, dropped }
}

/// Copies these bytes of the file `name`, durable; returns the name of the copy.
fn keep_tail(
    folders: &Folders,
    name: &str,
    bytes: Range<u64>,
    unix_ms: u64,
) -> Result<String, String> {
    let length = bytes.end.saturating_sub(bytes.start);
    if length > TAIL_BYTES_MAX {
        return Err(format!("{length} bytes are more than the {TAIL_BYTES_MAX} that are kept"));
    }
    let (directory, source) = (folders.data(), folders.find(name));
    let quarantine = directory.join(QUARANTINE_NAME);
    let place = format!("_{name}_{}", bytes.start);
    if let Some(kept) = copy_of(&quarantine, &place, &source, &bytes) {
        return Ok(kept);
    }
    // The names sort by time.
    let kept = format!("{TAIL_PREFIX}{unix_ms:013}{place}");
    let target = quarantine.join(&kept);
    let copied = make(&quarantine, directory)
        .and_then(|()| copy(&source, bytes, &target))
        .and_then(|()| File::open(&quarantine)?.sync_all());
    if let Err(error) = copied {
        // A partial copy would only take room.
        let _ = fs::remove_file(&target);
        return Err(format!("{QUARANTINE_NAME}/{kept}: {error}"));
    }
    Ok(kept)
}

/// A durable copy of these bytes that an earlier start made before it was cut off.
fn copy_of(quarantine: &Path, place: &str, source: &Path, bytes: &Range<u64>) -> Option<String> {
    let source = File::open(source).ok()?;
    names_of_tails(quarantine).into_iter().rev().find(|kept| {
        kept.ends_with(place)
            && File::open(quarantine.join(kept)).is_ok_and(|copy| {
                is_equal(&source, bytes, &copy).unwrap_or(false) && copy.sync_all().is_ok()
            })
            && File::open(quarantine).is_ok_and(|quarantine| quarantine.sync_all().is_ok())
    })
}

fn is_equal(source: &File, bytes: &Range<u64>, copy: &File) -> io::Result<bool> {
    if copy.metadata()?.len() != bytes.end - bytes.start {
        return Ok(false);
    }
    let piece_bytes = COPY_BYTES.min(bytes.end - bytes.start) as usize;
    let (mut here, mut there) = (vec![0; piece_bytes], vec![0; piece_bytes]);
    let mut offset = bytes.start;
    while offset < bytes.end {
        let length = COPY_BYTES.min(bytes.end - offset) as usize;
        source.read_exact_at(&mut here[..length], offset)?;
        copy.read_exact_at(&mut there[..length], offset - bytes.start)?;
        if here[..length] != there[..length] {
            return Ok(false);
        }
        offset += length as u64;
    }
    Ok(true)
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

/// Names of all tails that are kept, oldest first.
fn names_of_tails(quarantine: &Path) -> Vec<String> {
    let entries = fs::read_dir(quarantine).into_iter().flatten().flatten();
    let mut tails: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(TAIL_PREFIX))
        .collect();
    tails.sort();
    tails
}

/// Removes the oldest tails if there are too many, except `of_now`; returns their number.
fn drop_oldest(quarantine: &Path, of_now: &BTreeSet<String>) -> usize {
    let tails = names_of_tails(quarantine);
    let surplus = tails.len().saturating_sub(TAILS_MAX);
    let older = tails.iter().filter(|name| !of_now.contains(*name)).take(surplus);
    older.filter(|name| fs::remove_file(quarantine.join(name)).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a file `log` of this content.
    fn with_log(content: &[u8]) -> tempfile::TempDir {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        fs::write(directory.path().join("log"), content).unwrap();
        directory
    }

    #[test]
    fn a_tail_is_copied_byte_for_byte_and_only_the_newest_are_kept() {
        let content: Vec<u8> = (0..3 * COPY_BYTES + 77).map(|i| (i / 13) as u8).collect();
        let directory = with_log(&content);
        let keep = |bytes, time| {
            let mut kept =
                keep_tails(&Folders::of(directory.path()), &[("log".into(), bytes)], time);
            (kept.each.remove(0), kept.dropped)
        };
        let quarantine = directory.path().join(QUARANTINE_NAME);
        for time in 0..TAILS_MAX as u64 + 3 {
            let (said, dropped) = keep(4096 + time..content.len() as u64, time);
            assert!(said.unwrap().contains("kept in quarantine/tail_"));
            assert_eq!(dropped, usize::from(time >= TAILS_MAX as u64));
        }
        let names = names_of_tails(&quarantine);
        assert_eq!(names.len(), TAILS_MAX);
        assert_eq!(names[0], "tail_0000000000003_log_4099");
        assert!(fs::read(quarantine.join(&names[0])).unwrap() == content[4099..]);
        // A tail that can't be copied leaves nothing.
        assert!(keep(0..content.len() as u64 + 1, 99).0.is_err());
        assert!(keep(0..TAIL_BYTES_MAX + 1, 99).0.unwrap_err().contains("more than"));
        assert_eq!(fs::read_dir(&quarantine).unwrap().count(), TAILS_MAX);
    }

    #[test]
    fn tails_of_one_start_do_not_evict_each_other() {
        let content: Vec<u8> = (0..3 * TAILS_MAX).map(|i| i as u8).collect();
        let directory = with_log(&content);
        let folders = Folders::of(directory.path());
        let quarantine = directory.path().join(QUARANTINE_NAME);
        let tails = |count: usize, end: u64| -> Vec<Tail> {
            (0..count as u64).map(|start| ("log".to_owned(), start..end)).collect()
        };
        let of_before = keep_tails(&folders, &tails(5, 60), 1);
        assert!(of_before.each.iter().all(Result::is_ok) && of_before.dropped == 0);
        let all = tails(TAILS_MAX + 8, content.len() as u64);
        let kept = keep_tails(&folders, &all, 2);
        assert_eq!(kept.dropped, 5);
        assert!(kept.each.iter().all(Result::is_ok), "{kept:?}");
        let names = names_of_tails(&quarantine);
        assert_eq!(names.len(), all.len());
        for (name, bytes) in &all {
            let kept = quarantine.join(format!("tail_{:013}_{name}_{}", 2, bytes.start));
            assert!(fs::read(kept).unwrap() == content[bytes.start as usize..]);
        }
        // A start that got no further is repeated: the copies are there, and are not made again.
        let again = keep_tails(&folders, &all, 3);
        assert!(again.each.iter().all(|said| said.as_ref().unwrap().contains("0000000000002_")));
        assert_eq!((again.dropped, names_of_tails(&quarantine)), (0, names));
        // The next start leaves the newest ones.
        assert_eq!(keep_tails(&folders, &tails(1, 50), 4).dropped, 9);
        assert_eq!(names_of_tails(&quarantine).len(), TAILS_MAX);
    }
}
