//! Atomic replacement of a directory, existing or not, by a complete one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Result;
use super::storage::{sync_directory, sync_tree};

/// A directory beside the target, which becomes the target or is removed.
pub(super) struct Staged {
    path: PathBuf,
    target: PathBuf,
    is_done: bool,
}

impl Staged {
    /// Creates the directory.
    pub(super) fn begin(target: &Path, id: &str) -> Result<Self> {
        let target = match fs::canonicalize(target) {
            Ok(target) => target,
            Err(_) => std::path::absolute(target).map_err(|error| error.to_string())?,
        };
        let parent = target.parent().ok_or("the root directory can't be restored to")?;
        fs::create_dir_all(parent)
            .map_err(|error| format!("{} can't be made: {error}", parent.display()))?;
        check_same_device(&target, parent)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = parent.join(format!(".{name}.restore-{id}.tmp"));
        // Left by a killed restore of this backup.
        if path.is_dir() {
            fs::remove_dir_all(&path)
                .map_err(|error| format!("{} can't be removed: {error}", path.display()))?;
        }
        fs::create_dir(&path)
            .map_err(|error| format!("{} can't be made: {error}", path.display()))?;
        Ok(Self { path, target, is_done: false })
    }

    /// Path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it the target, durably, and removes the former one, which is locked by us if `is_former_ours`. A target
    /// that another process has created meanwhile stays.
    pub(super) fn finish(mut self, is_former_ours: bool) -> Result<()> {
        let failed = |error: std::io::Error| {
            format!("{} can't be put in place: {error}", self.target.display())
        };
        let has_former = is_former_ours;
        if has_former {
            take_over(&self.target, &self.path)?;
        }
        sync_tree(&self.path)?;
        let parent = self.target.parent().unwrap_or(&self.target).to_owned();
        if has_former {
            exchange(&self.path, &self.target).map_err(failed)?;
        } else {
            put_new(&self.path, &self.target).map_err(failed)?;
        }
        sync_directory(&parent).map_err(failed)?;
        self.is_done = true;
        if has_former && let Err(error) = fs::remove_dir_all(&self.path) {
            let path = self.path.display();
            return Err(format!(
                "it is restored, but the former data could not be removed: {error}. Remove {path}."
            ));
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_done
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!("{} is left and may be removed: {error}", self.path.display());
        }
    }
}

/// Refuses a mount point, which can't be replaced.
fn check_same_device(target: &Path, parent: &Path) -> Result<()> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    match (device(target), device(parent)) {
        (Ok(target_device), Ok(parent_device)) if target_device != parent_device => Err(format!(
            "{0} is a mount point, which can't be replaced as a whole. Restore to a new directory \
             in it, --data-dir {0}/restored, and start the server there.",
            target.display()
        )),
        _ => Ok(()),
    }
}

/// Gives the files the owner and the directory the mode of those that they replace: a server does not run as the user
/// who restores.
fn take_over(former: &Path, path: &Path) -> Result<()> {
    let failed = |error| format!("{} can't be given its owner: {error}", path.display());
    let metadata = fs::metadata(former).map_err(failed)?;
    let mode = fs::Permissions::from_mode(metadata.permissions().mode());
    fs::set_permissions(path, mode).map_err(failed)?;
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let found = fs::metadata(&path).map_err(failed)?;
        if (found.uid(), found.gid()) != (metadata.uid(), metadata.gid()) {
            chown(&path, Some(metadata.uid()), Some(metadata.gid())).map_err(failed)?;
        }
        if found.is_dir() {
            for entry in fs::read_dir(&path).map_err(failed)? {
                open.push(entry.map_err(failed)?.path());
            }
        }
    }
    Ok(())
}

/// Renames a directory to an unused name. A server may have created its directory there meanwhile.
fn put_new(staged: &Path, target: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, staged, CWD, target, RenameFlags::NOREPLACE) {
        // This rename replaces an empty directory, and nothing else.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(staged, target),
        renamed => renamed.map_err(Into::into),
    }
}

/// Exchanges two directories, atomically if the file system supports it.
fn exchange(staged: &Path, target: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
        exchanged => return exchanged.map_err(Into::into),
    }
    let aside = staged.with_extension("former");
    fs::rename(target, &aside)?;
    fs::rename(staged, target).inspect_err(|_| {
        let back = fs::rename(&aside, target);
        tracing::debug!(?back, "put back");
    })?;
    fs::rename(&aside, staged)
}
