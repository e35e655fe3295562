//! Backups in a bucket of S3-compatible storage, which has neither directories nor locks.
//!
//! ```text
//! PREFIX/<id>/backup.json           the record, written last, where there is none
//!            /wal_*.wal …           the files
//! PREFIX/.adding/<id>/parents       a backup is being made that needs these
//!                    /upload-<n>    a file is being sent in parts, under this upload id
//! PREFIX/.removing/<id>.<random>    a prune is about to remove this backup
//! ```
//!
//! A process that adds a backup first writes which others it needs, and then checks whether one of them is about to be
//! removed. A process that removes backups first writes which, and then checks which of them are needed. If both run,
//! one of them sees the other, since a request sees earlier writes: either the backup is not begun, or the backups that
//! it needs stay. No lock is held and no clock is read, so a process that was killed blocks no other: at the worst a
//! backup is kept that could be removed, or can't be added to, until a prune finds the mark a day old.
//!
//! Cleaning up removes the object `parents` first and then looks for a record; a backup is published only if that
//! object still exists after its record was written. So a backup taken for abandoned is either not touched or not
//! published. One gap is left: a process that adds nothing for a day, and is killed between writing its record and the
//! check after it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, age};
use super::upload::Upload;
use super::{Overlap, Place, Retired, Sink, Unpublished};
use crate::backup::Result;
use crate::backup::record::{Backup, RECORD_NAME, Stored, is_id, is_plain};
use crate::disk::view::Viewed;

const ADDING: &str = ".adding";
const REMOVING: &str = ".removing";
const PARENTS: &str = "parents";

/// Lengths of a backup's files, in bytes.
type Lengths = BTreeMap<String, u64>;

/// Backups below a prefix.
pub(super) struct Bucket {
    client: Rc<Client>,
    /// Lengths of the files of backups whose files were listed.
    lengths: RefCell<BTreeMap<String, Lengths>>,
}

impl Bucket {
    /// `BUCKET/PREFIX`.
    pub(super) fn at(place: &str) -> Result<Self> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_bucket = !bucket.is_empty() && bucket.bytes().all(is_good);
        if !is_bucket || object_store::path::Path::parse(prefix).is_err() {
            return Err(format!(
                "s3://{place} names no place for backups. Say --backup-dir s3://BUCKET/PREFIX, \
                 with the name of the bucket and a path in it."
            ));
        }
        Ok(Self::of(Client::of_environment(bucket, prefix)?))
    }

    pub(super) fn of(client: Client) -> Self {
        Self { client: Rc::new(client), lengths: RefCell::default() }
    }

    fn record_path(&self, id: &str) -> object_store::path::Path {
        self.client.path(&format!("{id}/{RECORD_NAME}"))
    }

    /// The backups that unpublished ones need.
    fn needed_by_unpublished(&self) -> Result<BTreeSet<String>> {
        let mut names = Vec::new();
        self.client.each(ADDING, |name, _| names.push(name.to_owned()))?;
        let mut needed = BTreeSet::new();
        for name in names.iter().filter(|name| name.ends_with(&format!("/{PARENTS}"))) {
            let parents = self.client.read(&self.client.path(name))?.unwrap_or_default();
            needed.extend(String::from_utf8_lossy(&parents).lines().map(str::to_owned));
        }
        Ok(needed)
    }

    /// The backups that are about to be removed.
    fn retired(&self) -> Result<BTreeSet<String>> {
        let mut retired = BTreeSet::new();
        self.client.each(REMOVING, |name, _| {
            let mark = name.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
            retired.extend(mark.map(|(id, _)| id.to_owned()));
        })?;
        Ok(retired)
    }

    /// Removes the remains of an abandoned backup; false if it was published.
    fn remove_left(&self, id: &str) -> Result<bool> {
        let mut uploads = Vec::new();
        let folder = format!("{ADDING}/{id}");
        self.client.each(&folder, |name, _| uploads.push(name.to_owned()))?;
        uploads.retain(|name| !name.ends_with(&format!("/{PARENTS}")));
        self.client.remove(&self.client.path(&format!("{folder}/{PARENTS}")))?;
        for name in uploads {
            let mark = self.client.read(&self.client.path(&name))?.unwrap_or_default();
            let mark = String::from_utf8_lossy(&mark).into_owned();
            if let Some((path, upload)) = mark.split_once('\n')
                && let Ok(path) = object_store::path::Path::parse(path)
            {
                self.client.abort(&path, &upload.to_owned())?;
            }
        }
        let is_published = self.client.bytes(&self.record_path(id))?.is_some();
        if !is_published {
            self.client.remove_below(id)?;
        }
        self.client.remove_below(&folder)?;
        Ok(!is_published)
    }
}

impl Place for Bucket {
    fn shown(&self) -> String {
        self.client.shown()
    }

    fn overlap(&self, _: &Path) -> Overlap {
        Overlap::Apart
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.client.each("", |name, _| {
            let id = name.split_once('/').filter(|(_, name)| *name == RECORD_NAME);
            names.extend(id.map(|(id, _)| id.to_owned()).filter(|id| is_plain(id)));
        })?;
        Ok(names)
    }

    fn record(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.client.read(&self.record_path(id))
    }

    fn open(&self, file: &Stored) -> Result<Viewed> {
        let mut lengths = self.lengths.borrow_mut();
        if !lengths.contains_key(&file.backup) {
            let mut found = Lengths::new();
            self.client.each(&file.backup, |name, meta| {
                let name = name.split_once('/').map_or(name, |(_, name)| name);
                found.insert(name.to_owned(), meta.size);
            })?;
            lengths.insert(file.backup.clone(), found);
        }
        let bytes = lengths.get(&file.backup).and_then(|found| found.get(&file.name)).copied();
        let name = format!("{}/{}", file.backup, file.name);
        let bytes =
            bytes.ok_or_else(|| format!("{name}: no such file in {}", self.client.shown()))?;
        Ok(self.client.open(self.client.path(&name), &file.name, bytes))
    }

    /// Checks that the bucket exists and is readable before anything is written.
    fn claim(&self, _: bool) -> Result<Option<Box<dyn Any>>> {
        self.retired().map(|_| None)
    }

    fn retire(&self, ids: &[String], is_known: &dyn Fn(&str) -> bool) -> Result<Retired> {
        let random = RandomState::new().hash_one(std::process::id());
        let path = |id: &String| self.client.path(&format!("{REMOVING}/{id}.{random:016x}"));
        let marks =
            Marks { client: Rc::clone(&self.client), paths: ids.iter().map(path).collect() };
        for path in &marks.paths {
            self.client.put(path, b"")?;
        }
        // In this order: a backup is published before its mark as unpublished is removed.
        let mut needed = self.needed_by_unpublished()?;
        for id in self.names()?.iter().filter(|id| !is_known(id)) {
            let record = self.record(id)?;
            if let Some(backup) = record.and_then(|record| Backup::decode(&record).ok()) {
                needed.extend(backup.files.into_iter().map(|file| file.backup));
                needed.extend(backup.parent_id);
            }
        }
        Ok(Retired { needed, _marks: Some(Box::new(marks)) })
    }

    fn begin(&self, id: &str, parents: &[Backup]) -> Result<Box<dyn Unpublished>> {
        let adding = self.client.path(&format!("{ADDING}/{id}/{PARENTS}"));
        let needed: String = parents.iter().map(|parent| format!("{}\n", parent.id)).collect();
        let taken = || format!("there is another backup {id} already. Try again.");
        if !self.client.put_new(&adding, needed.as_bytes())? {
            return Err(taken());
        }
        let mut is_taken = false;
        self.client.each(id, |_, _| is_taken = true)?;
        if is_taken {
            self.client.remove(&adding)?;
            return Err(taken());
        }
        let (client, id) = (Rc::clone(&self.client), id.to_owned());
        let draft = Growing { client, id, adding, uploads: Cell::new(0), is_published: false };
        let retired = self.retired()?;
        for parent in parents.iter().map(|parent| &parent.id) {
            if retired.contains(parent) || self.client.bytes(&self.record_path(parent))?.is_none() {
                return Err(format!(
                    "backup {parent} is being removed by a prune. Take another reference, or make \
                     a full backup. If that prune was killed, this passes within a day, with the \
                     next prune; or remove what is below {}/{REMOVING}.",
                    self.client.shown()
                ));
            }
        }
        Ok(Box::new(draft))
    }

    fn remove(&self, id: &str) -> Result<()> {
        self.client.remove(&self.record_path(id))?;
        self.client.remove_below(id)
    }

    fn remove_unfinished(&self, least: Duration) -> Result<Vec<String>> {
        struct Found {
            /// Age of the latest object.
            age: Duration,
            has_record: bool,
            is_being_made: bool,
        }
        let mut backups: BTreeMap<String, Found> = BTreeMap::new();
        let mut marks = Vec::new();
        self.client.each("", |name, meta| {
            let is_mark = name.starts_with(&format!("{REMOVING}/"));
            if is_mark && age(meta) >= least {
                marks.push(meta.location.clone());
            }
            let adding = name.strip_prefix(&format!("{ADDING}/"));
            let Some((id, file)) = adding.unwrap_or(name).split_once('/') else { return };
            // Other programs may keep objects here as well.
            if is_id(id) {
                let none = Found { age: Duration::MAX, has_record: false, is_being_made: false };
                let found = backups.entry(id.to_owned()).or_insert(none);
                found.age = found.age.min(age(meta));
                found.has_record |= adding.is_none() && file == RECORD_NAME;
                found.is_being_made |= adding.is_some();
            }
        })?;
        let mut removed = Vec::new();
        for (id, found) in backups {
            let is_left = (found.is_being_made || !found.has_record) && found.age >= least;
            if is_left && self.remove_left(&id)? {
                removed.push(id);
            }
        }
        for mark in marks {
            self.client.remove(&mark)?;
        }
        Ok(removed)
    }
}

/// Marks of backups that are about to be removed.
struct Marks {
    client: Rc<Client>,
    paths: Vec<object_store::path::Path>,
}

impl Drop for Marks {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(why) = self.client.remove(path) {
                tracing::warn!("{path} is left and may be removed: {why}");
            }
        }
    }
}

/// A backup without a record yet.
struct Growing {
    client: Rc<Client>,
    id: String,
    /// Mark that it is being made.
    adding: object_store::path::Path,
    uploads: Cell<u32>,
    is_published: bool,
}

impl Growing {
    fn path(&self, name: &str) -> object_store::path::Path {
        self.client.path(&format!("{}/{name}", self.id))
    }
}

impl Unpublished for Growing {
    fn create(&self, name: &str, bytes: u64) -> Result<Box<dyn Sink>> {
        let number = self.uploads.get();
        self.uploads.set(number + 1);
        let mark = self.client.path(&format!("{ADDING}/{}/upload-{number}", self.id));
        Ok(Box::new(Upload::begin(&self.client, self.path(name), mark, bytes)))
    }

    fn open(&self, name: &str) -> Result<Viewed> {
        let path = self.path(name);
        let bytes = self.client.bytes(&path)?;
        let bytes = bytes.ok_or_else(|| format!("{path} was written, and is not there"))?;
        Ok(self.client.open(path, name, bytes))
    }

    fn publish(mut self: Box<Self>, record: &[u8]) -> Result<()> {
        let path = self.path(RECORD_NAME);
        if !self.client.put_new(&path, record)? {
            // The existing backup must not be removed when this draft is dropped.
            self.is_published = true;
            return Err(format!("{path} is there already, of another backup"));
        }
        if self.client.bytes(&self.adding)?.is_none() {
            return Err(
                "nothing was added to it for a day, so that it was taken for left. Try again."
                    .into(),
            );
        }
        self.is_published = true;
        if let Err(why) = self.client.remove(&self.adding) {
            tracing::warn!("{} is left and may be removed: {why}", self.adding);
        }
        Ok(())
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        let removed = self
            .client
            .remove(&self.path(RECORD_NAME))
            .and_then(|()| self.client.remove_below(&self.id))
            .and_then(|()| self.client.remove_below(&format!("{ADDING}/{}", self.id)));
        if let Err(why) = removed {
            let (shown, id) = (self.client.shown(), &self.id);
            tracing::warn!("{shown}/{id} is left and may be removed: {why}");
        }
    }
}
