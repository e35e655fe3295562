//! Where backups are: a directory, or a bucket of S3-compatible storage. What both do
//! alike is here; only they know where a file of a backup lies.
//!
//! A backup is there once its record is, which comes last and goes first.

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

/// A backup to which nothing was added for so long is not being written any more.
pub const UNFINISHED_AGE: Duration = Duration::from_secs(86_400);

/// Where backups are.
pub struct Storage {
    place: Box<dyn Place>,
}

/// All backups of a storage.
pub struct Listed {
    /// Those that can be read, newest first.
    pub backups: Vec<Backup>,
    /// What is wrong with the others.
    pub damaged: Vec<String>,
}

/// What a kind of storage has to know.
trait Place {
    fn shown(&self) -> String;

    /// See [`Storage::overlap`].
    fn overlap(&self, directory: &Path) -> Overlap;

    /// The backups there are, and whatever ought to be one.
    fn names(&self) -> Result<Vec<String>>;

    /// The record of a backup, if there is one. The name is plain.
    fn record(&self, id: &str) -> Result<Option<Vec<u8>>>;

    fn open(&self, file: &Stored) -> Result<Viewed>;

    fn claim(&self, to_remove: bool) -> Result<Option<Box<dyn Any>>>;

    /// See [`Storage::retire`].
    fn retire(&self, ids: &[String], is_known: &dyn Fn(&str) -> bool) -> Result<Retired>;

    fn begin(&self, id: &str, parents: &[Backup]) -> Result<Box<dyn Unpublished>>;

    fn remove(&self, id: &str) -> Result<()>;

    fn remove_unfinished(&self, age: Duration) -> Result<Vec<String>>;
}

/// A backup that is being written; removed when it is dropped before it was published.
trait Unpublished {
    fn create(&self, name: &str, bytes: u64) -> Result<Box<dyn Sink>>;

    fn open(&self, name: &str) -> Result<Viewed>;

    fn publish(self: Box<Self>, record: &[u8]) -> Result<()>;
}

/// A file that is being written; nothing of it stays when it is dropped before it was finished.
trait Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<()>;

    fn finish(self: Box<Self>) -> Result<()>;
}

/// How a directory and the place of the backups lie to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// Neither has anything of the other; the directory may lie beside the backups.
    Apart,
    /// They are one directory.
    Same,
    /// The directory has the backups, or one of them, in it.
    Around,
    /// The directory is a backup or lies in one, which is named.
    InBackup(String),
}

/// What the newest backup may be called where one is named.
pub const LATEST: &str = "latest";

impl Storage {
    /// The backups in this directory, which need not be there, or at this URL: `file:///PATH`, or
    /// `s3://BUCKET/PREFIX` with the endpoint and credentials of the usual `AWS_` variables.
    ///
    /// # Errors
    /// If the URL is none of these, or a variable is wrong.
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

    /// Its place, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        self.place.shown()
    }

    /// How a directory, which need not be there, and the backups lie to each other.
    #[must_use]
    pub fn overlap(&self, directory: &Path) -> Overlap {
        self.place.overlap(directory)
    }

    /// The name of a backup that is asked for: [`LATEST`] is that of the newest.
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

    /// What a backup says of itself.
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
    /// If it is missing, of another length than it should be, or can't be opened.
    pub fn open(&self, file: &Stored) -> Result<Viewed> {
        let opened =
            self.place.open(file).map_err(|why| format!("backup {}: {why}", file.backup))?;
        verify::check_length(file, opened.bytes())?;
        Ok(opened)
    }

    /// The right to add backups, which many may have at once, or to remove some, which one has
    /// alone: a reference must not go while a backup is made on it. Given back when dropped. Where
    /// nothing can be locked, [`begin`](Self::begin) and [`retire`](Self::retire) see to that.
    ///
    /// # Errors
    /// If others are at work.
    pub fn claim(&self, to_remove: bool) -> Result<Claim> {
        self.place.claim(to_remove).map(|held| Claim { _held: held })
    }

    /// Marks backups that are to be removed, for as long as what it returns is kept, so that none
    /// is made on them any more; and says which of them are needed all the same, by backups that
    /// are being made or that are not `is_known`.
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

    /// Removes a backup. It is gone at once, whatever happens then.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.place.remove(id).map_err(|why| format!("backup {id} can't be removed: {why}"))
    }

    /// Removes what was left by whoever was killed, and has not changed for this long; the names.
    ///
    /// # Errors
    /// If it can't be removed.
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
    /// Those that are needed.
    pub needed: BTreeSet<String>,
    _marks: Option<Box<dyn Any>>,
}

/// A backup being written. It is removed when it is dropped before it was published.
pub struct Draft {
    unpublished: Box<dyn Unpublished>,
}

impl Draft {
    /// Makes a file durable whose content `fill` gives: about so many bytes.
    ///
    /// # Errors
    /// If it can't be written, as on a full disk; or what `fill` returns.
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

    /// Makes the backup one of the storage's, durable.
    ///
    /// # Errors
    /// If that fails. Nothing is left of the backup then.
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
