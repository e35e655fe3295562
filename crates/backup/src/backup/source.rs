//! A consistent view of a data directory: open handles of every file that one MANIFEST names, and a moment up to which
//! they are complete.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::Result;
use crate::clock::unix_ms;
use crate::directory::log::check_there;
use crate::disk::folders::Folders;
use crate::disk::view::{View, Viewed};
use crate::disk::{DiskError, Kind};
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::snapshot::snapshot_name;
use crate::types::ShardId;

/// Attempts: how often MANIFEST may change while its files are opened. A server changes it a few times for each segment
/// it fills.
const ATTEMPTS: usize = 500;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// Files of the state that belong to no shard, and a folder of such files.
const TENANTS_NAME: &str = "tenants.json";
const USAGE_FOLDER: &str = "usage";

/// A data directory as it was at a moment.
pub struct Source {
    /// MANIFEST of the state.
    pub manifest: Manifest,
    /// Open files of the state. A server may remove their names; the handles keep the contents.
    pub view: View,
    /// Small files of the state, by name.
    pub extras: Vec<(String, Vec<u8>)>,
    /// The files contain everything written up to the end of this Unix millisecond, and no snapshot contains more.
    pub at_ms: u64,
}

/// Opens all files of a data directory, whether or not a server is running. Writes nothing.
///
/// # Errors
/// If it is not a data directory, a file is missing or can't be opened, or MANIFEST changes too often.
pub fn open(data_dir: &Path) -> Result<Source> {
    let mut view = View::default();
    let mut missing = None;
    for _ in 0..ATTEMPTS {
        let manifest = read_manifest(data_dir)?;
        let names = names(&manifest);
        // Files opened before stay open: each attempt has less to do.
        view.retain(|name| names.iter().any(|n| n == name));
        missing = open_missing(data_dir, &names, &mut view)?;
        let at_ms = unix_ms();
        // Every group stamped with this millisecond has its stamp when the next one begins.
        while unix_ms() == at_ms {
            std::thread::sleep(Duration::from_micros(100));
        }
        if missing.is_none() && read_manifest(data_dir)? == manifest {
            return Ok(Source { manifest, view, extras: extras(data_dir)?, at_ms });
        }
        std::thread::sleep(PAUSE);
    }
    let shown = data_dir.display();
    Err(match missing {
        Some(name) => format!(
            "{shown}: the file {name} is missing, but MANIFEST names it. `restore` an older \
             backup, or see what `kyrodb_server --data-dir {shown} --verify-wal` says."
        ),
        None => format!("{shown} does not hold still: MANIFEST changes all the time. Try again."),
    })
}

fn read_manifest(data_dir: &Path) -> Result<Manifest> {
    let shown = data_dir.display();
    let file = Viewed::open(&data_dir.join(MANIFEST_NAME), MANIFEST_NAME);
    let file = file.map_err(|error| match error.kind {
        Kind::NotFound => format!(
            "{shown} has no MANIFEST, so it is not the data directory of a server. Say where it \
             is with --data-dir PATH."
        ),
        _ => format!("{shown}: {error}"),
    })?;
    let mut bytes = Vec::new();
    let read = file.read_all(|piece| -> std::result::Result<(), DiskError> {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    read.map_err(|error| format!("{shown}: {error}"))?;
    Manifest::decode(&bytes).map_err(|why| format!("{shown}: {why}"))
}

/// The files that MANIFEST names: segments, and snapshots with the files that hold parts of them.
fn names(manifest: &Manifest) -> Vec<String> {
    let segments = manifest.segments.iter().map(|segment| segment.file.clone());
    let snapshots = manifest.snapshots.iter().flat_map(|snapshot| {
        let shard = ShardId(snapshot.shard);
        snapshot.files.iter().map(move |&number| snapshot_name(shard, number))
    });
    let mut names: Vec<String> = segments.chain(snapshots).collect();
    names.sort();
    names.dedup();
    names
}

/// Opens the files that are not open yet; returns the name of a missing one.
fn open_missing(data_dir: &Path, names: &[String], view: &mut View) -> Result<Option<String>> {
    let folders = Folders::of(data_dir);
    folders.log().map_or(Ok(()), |log| check_there(data_dir, log))?;
    for name in names {
        if view.get(name).is_some() {
            continue;
        }
        match Viewed::open(&folders.find(name), name) {
            Ok(file) => view.put(file),
            Err(error) if error.kind == Kind::NotFound => return Ok(Some(name.clone())),
            Err(error) => return Err(format!("{}: {error}", data_dir.display())),
        }
    }
    Ok(None)
}

/// Read after the files of the shards: a tenant is recorded before its first document.
fn extras(data_dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![TENANTS_NAME.to_owned()];
    let folder = data_dir.join(USAGE_FOLDER);
    match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        entries => {
            let failed = |error| format!("{} can't be listed: {error}", folder.display());
            for entry in entries.map_err(failed)? {
                let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
                if super::record::is_plain(&name) && !name.ends_with(".tmp") {
                    names.push(format!("{USAGE_FOLDER}/{name}"));
                }
            }
        }
    }
    let mut extras = Vec::new();
    for name in names {
        let path = data_dir.join(&name);
        match std::fs::read(&path) {
            Ok(bytes) => extras.push((name, bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::IsADirectory => {}
            Err(error) => return Err(format!("{} can't be read: {error}", path.display())),
        }
    }
    extras.sort();
    Ok(extras)
}
