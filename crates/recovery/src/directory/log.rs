//! The directory of the log, if that is another one than the data directory: made here, bound to its data directory,
//! and locked.
//!
//! `DATA_DIR/wal` leads to it ([`crate::disk::folders`]), and a file in it names the data directory. So a log never
//! belongs to two databases at a time: a copy of a data directory has the link as well, but the file names the
//! original. A directory that was moved, or put aside by a fresh start, takes its log along.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::disk::blocking::BlockingDisk;
use crate::disk::folders::{Folders, LOG_LINK_NAME, LOG_OWNER_NAME, place};
use crate::disk::owner::Owner;
use crate::disk::probe::check_files;
use crate::disk::quarantine::QUARANTINE_NAME;
use crate::disk::view::run;
use crate::manifest::Manifest;
use crate::wal::parse_segment_name;

/// Prefix of the names of directories that are made in `persistence.wal_dir`.
const MADE_PREFIX: &str = "kyrodb-";

/// Binds the log of a locked data directory to a directory in `asked`, unless it is in there already.
///
/// # Errors
/// If the log is elsewhere, or can't be there; then nothing has changed.
pub fn bind(data: &Path, asked: &Path) -> Result<(), String> {
    let failed = |what: &str, error: io::Error| {
        format!("persistence.wal_dir {} can't be {what}: {error}", asked.display())
    };
    let (link, own) = (data.join(LOG_LINK_NAME), data.canonicalize());
    let own = own.map_err(|error| failed("used", error))?;
    let is_inner = std::path::absolute(asked).is_ok_and(|asked| {
        asked == own.join(LOG_LINK_NAME)
            || std::path::absolute(&link).is_ok_and(|link| asked == link)
    });
    let folders = Folders::of(data);
    if let Some(log) = folders.log() {
        check_there(data, log)?;
        let found = asked.canonicalize().map_err(|error| missing(asked, &error))?;
        if log == found || log.parent() == Some(&found) {
            return Ok(());
        }
        let (data, log, asked) = (data.display(), log.display(), asked.display());
        return Err(format!(
            "persistence.wal_dir is {asked}, but the log of {data} is in {log}, where {data}/wal leads. Set it \
             to that, or leave it out; or move the log: stop the server, `mv {log}/wal_*.wal {data}/ && \
             rm -r {data}/wal`, and start it again: segments are read where they are, and new ones go to {asked}"
        ));
    }
    if is_inner {
        find_unmounted(data, &link)?;
        return fs::create_dir(&link)
            .or_else(
                |error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) },
            )
            .and_then(|()| Owner::of(data).take(&link))
            .and_then(|()| File::open(data)?.sync_all())
            .and_then(|()| name_owner(&link, &own))
            .map_err(|error| failed("made", error));
    }
    let asked = &asked.canonicalize().map_err(|error| missing(asked, &error))?;
    if asked.starts_with(&own) {
        let (asked, data) = (asked.display(), data.display());
        return Err(format!(
            "persistence.wal_dir {asked} lies in the data directory {data}, whose files are the database's own. \
             Choose a directory elsewhere, or {data}/wal, or leave it out"
        ));
    }
    if link.symlink_metadata().is_ok() {
        let link = link.display();
        return Err(format!(
            "persistence.wal_dir needs the name {link} for what leads to the log, and something else has it. \
             Move that away"
        ));
    }
    find_lost(data, asked)?;
    let log = asked.join(format!("{MADE_PREFIX}{:016x}", RandomState::new().hash_one(&own)));
    fs::create_dir(&log).map_err(|error| failed("used", error))?;
    if let Err(why) = check_files(&log, "directory of the log", "persistence.wal_dir") {
        let removed = fs::remove_dir(&log);
        tracing::debug!(?removed, "a directory for the log was made in vain");
        return Err(why);
    }
    lead(data, &own, &log).map_err(|error| failed("used", error))
}

fn missing(asked: &Path, error: &io::Error) -> String {
    let asked = asked.display();
    format!(
        "persistence.wal_dir {asked} can't be used: {error}. Mount its file system, or make it: `install -d -m \
         0750 {asked}`, as the user that runs the server"
    )
}

/// Makes the link from a data directory to the directory of its log, which was just made.
fn lead(data: &Path, own: &Path, log: &Path) -> io::Result<()> {
    Owner::of(data).take(log)?;
    name_owner(log, own)?;
    File::open(log.parent().unwrap_or(log))?.sync_all()?;
    symlink(log, data.join(LOG_LINK_NAME))?;
    File::open(data)?.sync_all()?;
    let (log, data) = (log.display(), data.display());
    tracing::info!("the log goes to {log} from now on, where {data}/wal leads");
    Ok(())
}

/// Refuses to begin another log if the former one exists, and only the link to it is gone.
fn find_lost(data: &Path, asked: &Path) -> Result<(), String> {
    let Some(lost) = lost_segment(data) else {
        return Ok(());
    };
    let entries = fs::read_dir(asked).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut places = std::iter::once(asked.to_owned()).chain(entries);
    match places.find(|path| path.join(&lost).exists() && is_of(path, data)) {
        None => Ok(()),
        Some(log) => Err(format!(
            "the log segment {lost} of {data} is in {log}, and {data}/wal does not lead there any more: `ln -s \
             {log} {data}/wal`",
            data = data.display(),
            log = log.display()
        )),
    }
}

/// Refuses an empty directory in the place of a missing log: its file system may not be mounted.
fn find_unmounted(data: &Path, link: &Path) -> Result<(), String> {
    let Some(lost) = lost_segment(data).filter(|_| link.is_dir()) else {
        return Ok(());
    };
    let (data, link) = (data.display(), link.display());
    Err(format!(
        "the log segment {lost} is neither in {data} nor in {link}. Mount the file system of the log there; or, if \
         the log is gone, `rmdir {link}`"
    ))
}

/// The first segment, if any, that MANIFEST names and the data directory does not have.
fn lost_segment(data: &Path) -> Option<String> {
    let manifest = run(Manifest::load(&BlockingDisk::new(data))).ok().flatten()?;
    let mut files = manifest.segments.into_iter().map(|segment| segment.file);
    files.find(|file| !data.join(file).exists())
}

/// True if the directory of a log has no data but the name of this data directory.
fn is_of(log: &Path, data: &Path) -> bool {
    owner(log).is_none_or(|owner| place(&owner).is_none() || place(&owner) == place(data))
}

/// Locks the directory of the log, if there is one, for the process that has locked its data directory.
///
/// # Errors
/// If it is missing, another process has it, it belongs to another database, or a move was interrupted.
pub fn hold(data: &Path) -> Result<Option<File>, String> {
    let Some((log, held)) = locked(data, File::try_lock)? else {
        return Ok(None);
    };
    let named = data.canonicalize().and_then(|own| {
        if owner(&log).as_ref() == Some(&own) { Ok(()) } else { name_owner(&log, &own) }
    });
    named.map_err(|error| {
        format!("the directory of the log {} can't be written: {error}", log.display())
    })?;
    Ok(Some(held))
}

/// Locks the directory of the log for a program that only reads.
///
/// # Errors
/// As of [`hold`].
pub fn look(data: &Path) -> Result<Option<File>, String> {
    Ok(locked(data, File::try_lock_shared)?.map(|(_, held)| held))
}

/// The directory of the log, checked and locked by `lock`, if there is one.
fn locked(
    data: &Path,
    lock: fn(&File) -> Result<(), TryLockError>,
) -> Result<Option<(PathBuf, File)>, String> {
    let folders = Folders::of(data);
    let Some(log) = folders.log() else {
        return Ok(None);
    };
    check(&folders, log)?;
    let opened = open(data, log)?;
    match lock(&opened) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(log)),
        Err(TryLockError::Error(error)) => {
            tracing::debug!("the directory {} is not locked: {error}", log.display());
        }
    }
    Ok(Some((log.to_owned(), opened)))
}

fn open(data: &Path, log: &Path) -> Result<File, String> {
    File::open(log).map_err(|error| {
        let (log, data) = (log.display(), data.display());
        format!("the directory of the log {log}, where {data}/wal leads, can't be opened: {error}")
    })
}

fn in_use(log: &Path) -> String {
    format!(
        "the directory of the log {} is in use by another server, or being checked. Stop that one",
        log.display()
    )
}

fn check(folders: &Folders, log: &Path) -> Result<(), String> {
    let data = folders.data();
    check_there(data, log)?;
    if let Some(name) = folders.doubled() {
        let (data, log) = (data.display(), log.display());
        return Err(format!(
            "the log segment {name} is both in {data} and in {log}: a move was cut off. Compare the two, and \
             remove the one that is shorter"
        ));
    }
    check_owner(data, log)
}

/// Refuses a link that leads nowhere: the file system of the log may not be mounted.
///
/// # Errors
/// The link and its target, and the ways out.
pub fn check_there(data: &Path, log: &Path) -> Result<(), String> {
    if log.is_dir() {
        return Ok(());
    }
    let link = data.join(LOG_LINK_NAME);
    let leads = fs::read_link(&link).unwrap_or_else(|_| log.to_owned());
    let (leads, link, data) = (leads.display(), link.display(), data.display());
    Err(format!(
        "{link} leads to {leads}, where the log is to be, and that is no directory that is there. Mount its \
         file system; or, if the log was moved, `ln -sfn PATH {link}`; or, if segments were moved back to \
         {data}, `rm {link}`"
    ))
}

/// Refuses the log of another database.
fn check_owner(data: &Path, log: &Path) -> Result<(), String> {
    if data.canonicalize().is_ok_and(|own| log.starts_with(own)) {
        return Ok(());
    }
    let Some(owner) = owner(log).filter(|owner| place(owner) != place(data)) else {
        return Ok(());
    };
    // A data directory that is gone, or has another log by now, was moved, or put aside.
    if Folders::of(&owner).log() != Some(log) {
        return Ok(());
    }
    let (owner, data, log) = (owner.display(), data.display(), log.display());
    Err(format!(
        "the log in {log}, where {data}/wal leads, is that of {owner}: two databases can't have one log. If \
         {data} is a copy, give it its own: `rm {data}/wal && cp -a {log} {data}/wal`; if it has taken the place \
         of {owner}, `rm {owner}/wal`"
    ))
}

/// The data directory to which the log in `log` belongs, by its own file.
fn owner(log: &Path) -> Option<PathBuf> {
    let content = fs::read(log.join(LOG_OWNER_NAME)).ok()?;
    let path = content.strip_suffix(b"\n")?;
    Some(Path::new(OsStr::from_bytes(path)).to_owned())
}

/// Writes the name of the data directory into `log`, durable.
fn name_owner(log: &Path, own: &Path) -> io::Result<()> {
    let (path, temporary) = (log.join(LOG_OWNER_NAME), log.join(format!("{LOG_OWNER_NAME}.tmp")));
    let mut file = File::create(&temporary)?;
    file.write_all(&[own.as_os_str().as_bytes(), b"\n"].concat())?;
    file.sync_all()?;
    Owner::of(log).take(&temporary)?;
    fs::rename(&temporary, &path)?;
    File::open(log)?.sync_all()
}

/// Removes a log whose data directory is gone.
///
/// # Errors
/// If the system fails. Files of other programs stay.
pub fn discard(log: &Path) -> io::Result<()> {
    for entry in fs::read_dir(log)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name == LOG_OWNER_NAME || parse_segment_name(&name).is_some() {
            fs::remove_file(log.join(&*name))?;
        } else if name == QUARANTINE_NAME {
            fs::remove_dir_all(log.join(&*name))?;
        }
    }
    match fs::remove_dir(log) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory and one for logs, both below a directory that is on a disk.
    fn made() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let binary = std::env::current_exe().unwrap();
        let outer = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let (data, logs) = (outer.path().join("data"), outer.path().join("logs"));
        for path in [&data, &logs] {
            fs::create_dir(path).unwrap();
        }
        (outer, data, logs)
    }

    fn log_of(data: &Path) -> PathBuf {
        Folders::of(data).log().unwrap().to_owned()
    }

    #[test]
    fn a_log_is_bound_to_one_data_directory() {
        let (outer, data, logs) = made();
        bind(&data, &logs).unwrap();
        let log = log_of(&data);
        assert_eq!(log.parent().unwrap(), logs.canonicalize().unwrap());
        assert_eq!(owner(&log).unwrap(), data.canonicalize().unwrap());
        bind(&data, &logs).unwrap();
        bind(&data, &log).unwrap();
        assert_eq!(log_of(&data), log, "it was bound already");
        let held = hold(&data).unwrap();
        assert!(hold(&data).unwrap_err().contains("in use"));
        assert!(look(&data).unwrap_err().contains("in use"));
        drop(held);
        // Another database beside it has another log.
        let other = outer.path().join("other");
        fs::create_dir(&other).unwrap();
        bind(&other, &logs).unwrap();
        assert_ne!(log_of(&other), log);
        // A copy is refused, until it has its own.
        let copy = outer.path().join("copy");
        fs::create_dir(&copy).unwrap();
        symlink(&log, copy.join(LOG_LINK_NAME)).unwrap();
        for said in [hold(&copy).unwrap_err(), look(&copy).unwrap_err()] {
            assert!(said.contains("two databases can't have one log"), "{said}");
        }
        fs::remove_file(copy.join(LOG_LINK_NAME)).unwrap();
        bind(&copy, &logs).unwrap();
        assert!(hold(&copy).unwrap().is_some());
        // A directory that was moved takes its log along.
        let moved = outer.path().join("moved");
        fs::rename(&data, &moved).unwrap();
        assert!(hold(&moved).unwrap().is_some());
        assert_eq!(
            (log_of(&moved), owner(&log).unwrap()),
            (log.clone(), moved.canonicalize().unwrap())
        );
        fs::write(log.join("of others"), "").unwrap();
        discard(&log).unwrap();
        assert_eq!(fs::read_dir(&log).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_or_obstructed_log_is_refused_with_the_way_out() {
        let (outer, data, logs) = made();
        let said = bind(&data, &outer.path().join("nowhere")).unwrap_err();
        assert!(said.contains("nowhere can't be used") && said.contains("install -d"), "{said}");
        fs::create_dir(data.join("inner")).unwrap();
        let said = bind(&data, &data.join("inner")).unwrap_err();
        assert!(said.contains("lies in the data directory"), "{said}");
        fs::write(data.join(LOG_LINK_NAME), "").unwrap();
        assert!(bind(&data, &logs).unwrap_err().contains("Move that away"));
        fs::remove_file(data.join(LOG_LINK_NAME)).unwrap();
        bind(&data, &logs).unwrap();
        let said = bind(&data, outer.path()).unwrap_err();
        assert!(said.contains("mv ") && said.contains("new ones go to"), "{said}");
        let log = log_of(&data);
        let name = "wal_0000_00000001.wal";
        for path in [&log, &data] {
            fs::write(path.join(name), "").unwrap();
        }
        assert!(hold(&data).unwrap_err().contains("a move was cut off"));
        fs::remove_file(data.join(name)).unwrap();
        fs::rename(&log, outer.path().join("elsewhere")).unwrap();
        for said in
            [hold(&data).unwrap_err(), look(&data).unwrap_err(), bind(&data, &logs).unwrap_err()]
        {
            assert!(said.contains("Mount its file system"), "{said}");
        }
    }

    #[test]
    fn a_directory_in_the_data_directory_may_be_named_and_is_its_own() {
        let (outer, data, _) = made();
        bind(&data, &data.join(LOG_LINK_NAME)).unwrap();
        assert_eq!(log_of(&data), data.join(LOG_LINK_NAME).canonicalize().unwrap());
        drop(hold(&data).unwrap());
        // Copied as a whole it is a log of its own.
        let copy = outer.path().join("copy");
        fs::create_dir_all(copy.join(LOG_LINK_NAME)).unwrap();
        let mark = data.join(LOG_LINK_NAME).join(LOG_OWNER_NAME);
        fs::copy(mark, copy.join(LOG_LINK_NAME).join(LOG_OWNER_NAME)).unwrap();
        assert!(hold(&copy).unwrap().is_some());
    }
}
