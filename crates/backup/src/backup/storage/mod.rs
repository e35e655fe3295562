//! Storage of backups: a directory, or a bucket of S3-compatible storage. Their common part is here; only the two
//! modules know where a file of a backup lies.
//!
//! A backup exists once its record does, which is written last and removed first.

mod bucket;
mod client;
mod directory;
mod overlap;
#[cfg(test)]
mod tests;
mod upload;

use std::any::Any;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use self::bucket::Bucket;
use self::directory::Directory;
pub(super) use self::directory::{sync_directory, sync_tree, write_file};
use super::record::{Backup, Stored, is_plain};
use super::{Result, verify};
use crate::disk::view::Viewed;

/// Age of the last change after which an unpublished backup counts as abandoned.
pub const UNFINISHED_AGE: Duration = Duration::from_secs(86_400);

/// A storage of backups.
pub struct Storage {
    place: Box<dyn Place>,
}

/// All backups of a storage.
pub struct Listed {
    /// Readable backups, newest first.
    pub backups: Vec<Backup>,
    /// Faults of the others.
    pub damaged: Vec<String>,
}

/// Operations of a kind of storage.
trait Place {
    fn shown(&self) -> String;

    /// See [`Storage::overlap`].
    fn overlap(&self, directory: &Path) -> Overlap;

    /// Names of all backups, and of entries that look like one.
    fn names(&self) -> Result<Vec<String>>;

    /// The record of a backup, if there is one. The name is safe as a path.
    fn record(&self, id: &str) -> Result<Option<Vec<u8>>>;

    fn open(&self, file: &Stored) -> Result<Viewed>;

    fn claim(&self, to_remove: bool) -> Result<Option<Box<dyn Any>>>;

    /// See [`Storage::retire`].
    fn retire(&self, ids: &[String], is_known: &dyn Fn(&str) -> bool) -> Result<Retired>;

    fn begin(&self, id: &str, parents: &[Backup]) -> Result<Box<dyn Unpublished>>;

    fn remove(&self, id: &str) -> Result<()>;

    fn remove_unfinished(&self, age: Duration) -> Result<Vec<String>>;
}

/// A backup that is being written; removed if it is dropped unpublished.
trait Unpublished {
    fn create(&self, name: &str, bytes: u64) -> Result<Box<dyn Sink>>;

    fn open(&self, name: &str) -> Result<Viewed>;

    fn publish(self: Box<Self>, record: &[u8]) -> Result<()>;
}

/// A file that is being written; removed if it is dropped incomplete.
trait Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<()>;

    fn finish(self: Box<Self>) -> Result<()>;
}

/// Relation of a directory to the storage of backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// Neither contains the other; the directory may lie beside the backups.
    Apart,
    /// They are one directory.
    Same,
    /// The directory contains the backups, or one of them.
    Around,
    /// The directory is, or lies in, this backup.
    InBackup(String),
}

/// Alias for the id of the newest backup.
pub const LATEST: &str = "latest";

impl Storage {
    /// The storage in this directory, which may be missing, or at this URL: `file:///PATH`, or `s3://BUCKET/PREFIX`
    /// with the endpoint and credentials of the usual `AWS_` variables.
    ///
    /// # Errors
    /// If the URL is none of these, or a variable is invalid.
    pub fn at(place: &Path) -> Result<Self> {
        let Some((scheme, rest)) = place.to_str().and_then(|place| place.split_once("://")) else {
            return Ok(Self { place: Box::new(Directory::new(place)) });
        };
        let shown = place.display();
        match scheme {
            "s3" => Ok(Self { place: Box::new(Bucket::at(rest)?) }),
            "file" if rest.starts_with('/') => {
                Ok(Self { place: Box::new(Directory::new(Path::new(rest))) })
            }
            "file" => Err(format!("{shown} names a host. Say file:///PATH, or just the path.")),
            _ => Err(format!(
                "{shown} is of a kind that is not known. Give --backup-dir a directory, or \
                 s3://BUCKET/PREFIX."
            )),
        }
    }

    /// Its location, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        self.place.shown()
    }

    /// Relation of a directory, which may be missing, to the backups.
    #[must_use]
    pub fn overlap(&self, directory: &Path) -> Overlap {
        self.place.overlap(directory)
    }

    /// The id of a requested backup: [`LATEST`] is that of the newest.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(&self, id: &str) -> Result<String> {
        if id != LATEST {
            return Ok(id.to_owned());
        }
        let listed = self.list()?;
        for why in &listed.damaged {
            tracing::warn!("{why}");
        }
        let newest = listed.backups.first().map(|newest| newest.id.clone());
        newest.ok_or_else(|| format!("there is no backup in {}", self.shown()))
    }

    /// The record of a backup.
    ///
    /// # Errors
    /// If there is none, or it can't be read.
    pub fn load(&self, id: &str) -> Result<Backup> {
        let shown = self.shown();
        let record = if is_plain(id) { self.place.record(id)? } else { None };
        let record = record.ok_or_else(|| {
            format!("there is no backup {id} in {shown}; `list` shows those there are")
        })?;
        let backup = Backup::decode(&record).map_err(|why| format!("backup {id}: {why}"))?;
        if backup.id != id {
            let found = &backup.id;
            return Err(format!("what is named {id} in {shown} is the backup {found}"));
        }
        Ok(backup)
    }

    /// All backups.
    ///
    /// # Errors
    /// If they can't be listed.
    pub fn list(&self) -> Result<Listed> {
        let mut listed = Listed { backups: Vec::new(), damaged: Vec::new() };
        for id in self.place.names()? {
            match self.load(&id) {
                Ok(backup) => listed.backups.push(backup),
                Err(why) => listed.damaged.push(why),
            }
        }
        listed.backups.sort_by_key(|backup| (backup.cut_unix_ms, backup.id.clone()));
        listed.backups.reverse();
        listed.damaged.sort();
        Ok(listed)
    }

    /// Opens a file of a backup.
    ///
    /// # Errors
    /// If it is missing, has a wrong length, or can't be opened.
    pub fn open(&self, file: &Stored) -> Result<Viewed> {
        let opened =
            self.place.open(file).map_err(|why| format!("backup {}: {why}", file.backup))?;
        verify::check_length(file, opened.bytes())?;
        Ok(opened)
    }

    /// The right to add backups, which many processes may have at once, or to remove some, which one has alone: a
    /// reference must not be removed while a backup is made on it. Given back when dropped. If nothing can be locked,
    /// [`begin`](Self::begin) and [`retire`](Self::retire) ensure this.
    ///
    /// # Errors
    /// If other processes hold a conflicting right.
    pub fn claim(&self, to_remove: bool) -> Result<Claim> {
        self.place.claim(to_remove).map(|held| Claim { _held: held })
    }

    /// Marks backups to be removed, while the result is kept, so that no further backup is made on them; returns those
    /// that are still needed, by backups that are being made or that are not `is_known`.
    ///
    /// # Errors
    /// If that fails.
    pub fn retire(&self, ids: &[String], is_known: impl Fn(&str) -> bool) -> Result<Retired> {
        if ids.is_empty() {
            return Ok(Retired::default());
        }
        self.place.retire(ids, &is_known)
    }

    /// Begins a backup that needs these others.
    ///
    /// # Errors
    /// If one of them is being removed, or the storage can't be written to.
    pub fn begin(&self, id: &str, parents: &[Backup]) -> Result<Draft> {
        self.place.begin(id, parents).map(|unpublished| Draft { unpublished })
    }

    /// Removes a backup, which ceases to exist at once, whatever fails after that.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.place.remove(id).map_err(|why| format!("backup {id} can't be removed: {why}"))
    }

    /// Removes abandoned remains that have not changed for this long; returns their names.
    ///
    /// # Errors
    /// If they can't be removed.
    pub fn remove_unfinished(&self, age: Duration) -> Result<Vec<String>> {
        self.place.remove_unfinished(age)
    }
}

/// See [`Storage::claim`].
pub struct Claim {
    _held: Option<Box<dyn Any>>,
}

/// See [`Storage::retire`].
#[derive(Default)]
pub struct Retired {
    /// The needed backups.
    pub needed: BTreeSet<String>,
    _marks: Option<Box<dyn Any>>,
}

/// A backup being written. Removed if it is dropped unpublished.
pub struct Draft {
    unpublished: Box<dyn Unpublished>,
}

impl Draft {
    /// Makes a file durable whose content `fill` provides; `bytes` is its estimated length.
    ///
    /// # Errors
    /// If it can't be written, as on a full disk; or the error of `fill`.
    pub fn write(
        &self,
        name: &str,
        bytes: u64,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        pour(self.unpublished.create(name, bytes)?, fill)
    }

    /// Opens a file that was written.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(&self, name: &str) -> Result<Viewed> {
        self.unpublished.open(name)
    }

    /// Publishes the backup, durably.
    ///
    /// # Errors
    /// If that fails. Then no part of the backup is left.
    pub fn publish(self, backup: &Backup) -> Result<()> {
        self.unpublished.publish(&backup.encode())
    }
}

fn pour(
    mut sink: Box<dyn Sink>,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    fill(&mut |bytes| sink.put(bytes))?;
    sink.finish()
}
