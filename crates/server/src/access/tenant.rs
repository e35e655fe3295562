//! Tenants: their numbers, which are a part of the ids of their documents and so never change, and the state of each in
//! memory.
//!
//! The numbers are in `tenants.json`, an object of tenant_id → number. It is durable before any document has a number
//! from it; if it is lost, it is rebuilt from the documents, each of which names its tenant too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::bucket::Bucket;
use super::fair::Party;
use super::files::write_whole;
use super::usage::Usage;
use crate::engine::accounts::{Account, Accounts};
use crate::observe::counters::Counter;
use crate::types::realm::TenantMark;

/// Name of the file in the data directory.
pub(super) const FILE_NAME: &str = "tenants.json";

/// State of one tenant while the server runs.
pub struct Tenant {
    /// Name and number, as its documents carry them.
    pub mark: Arc<TenantMark>,
    /// Its number.
    pub index: u32,
    /// Count of its documents.
    pub account: Arc<Account>,
    /// Searches and reads by id since the start.
    pub queries: Counter,
    /// Rate limit of its requests.
    pub bucket: Bucket,
    /// Its searches in flight.
    pub party: Party,
    /// Its listings, and deletes by filter, in flight.
    pub sweeps: Party,
    /// Bytes held by its requests: until they are answered, for streams until they are read.
    pub request_bytes: Arc<AtomicU64>,
    /// Bytes held by its answers until its clients have taken them.
    pub answer_bytes: Arc<AtomicU64>,
    /// Usage before the start.
    pub(super) before: Usage,
}

/// All tenants that ever existed, by name.
pub(super) struct Tenants {
    path: PathBuf,
    accounts: Arc<Accounts>,
    by_id: BTreeMap<String, Arc<Tenant>>,
}

impl Tenants {
    /// Reads the numbers of tenants, and compares them with those in documents.
    ///
    /// # Errors
    /// If the file can't be read, or contradicts the documents.
    pub(super) fn open(
        directory: &Path,
        accounts: Arc<Accounts>,
        before: &BTreeMap<String, Usage>,
    ) -> Result<Self, String> {
        let path = directory.join(FILE_NAME);
        let mut indexes = read(&path)?;
        let names: BTreeMap<u32, &str> =
            indexes.iter().map(|(id, &index)| (index, id.as_str())).collect();
        let found = accounts.names();
        let mut missing = BTreeMap::new();
        for (&index, id) in &found {
            match names.get(&index) {
                Some(&listed) if listed == id => {}
                Some(listed) => {
                    return Err(format!(
                        "{}: number {index} is tenant `{listed}` there, but documents with that \
                         number are of tenant `{id}`. Restore the file from a backup, or remove it: \
                         it is made anew from the documents.",
                        path.display()
                    ));
                }
                None if indexes.contains_key(id) || missing.contains_key(id) => {
                    return Err(format!(
                        "{}: tenant `{id}` has another number there than {index}, which its \
                         documents have. Restore the file from a backup, or remove it: it is made \
                         anew from the documents.",
                        path.display()
                    ));
                }
                None => {
                    missing.insert(id.clone(), index);
                }
            }
        }
        if !missing.is_empty() {
            let count = missing.len();
            tracing::warn!("{FILE_NAME} did not name {count} tenants that have documents");
            indexes.extend(missing);
            save(&path, &indexes)?;
        }
        let mut tenants = Self { path, accounts, by_id: BTreeMap::new() };
        for (id, index) in indexes {
            tenants.add(id, index, before);
        }
        Ok(tenants)
    }

    fn add(&mut self, id: String, index: u32, before: &BTreeMap<String, Usage>) {
        let mark = TenantMark { id: id.clone(), index: index.to_string() };
        let tenant = Tenant {
            mark: Arc::new(mark),
            index,
            account: self.accounts.of(index),
            queries: Counter::default(),
            bucket: Bucket::default(),
            party: Party::default(),
            sweeps: Party::default(),
            request_bytes: Arc::default(),
            answer_bytes: Arc::default(),
            before: before.get(&id).copied().unwrap_or_default(),
        };
        self.by_id.insert(id, Arc::new(tenant));
    }

    /// Numbers those of these tenants that have no number yet, in the order of their names.
    ///
    /// # Errors
    /// If the numbers can't be made durable; then none is assigned.
    pub(super) fn enroll<'a>(&mut self, ids: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let mut fresh: Vec<&str> = ids.filter(|id| !self.by_id.contains_key(*id)).collect();
        fresh.sort_unstable();
        fresh.dedup();
        if fresh.is_empty() && self.path.exists() {
            return Ok(());
        }
        let mut indexes: BTreeMap<String, u32> =
            self.by_id.iter().map(|(id, tenant)| (id.clone(), tenant.index)).collect();
        let mut added = Vec::new();
        for id in fresh {
            // Equal to the number of tenants, unless tenants were removed from the file.
            let after = indexes.values().max().map_or(0, |last| last + 1);
            let index = after.max(indexes.len() as u32);
            indexes.insert(id.to_owned(), index);
            added.push((id.to_owned(), index));
        }
        save(&self.path, &indexes)?;
        for (id, index) in added {
            self.add(id, index, &BTreeMap::new());
        }
        Ok(())
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Tenant>> {
        self.by_id.get(id).cloned()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_id.values()
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, u32>, String> {
    let shown = path.display();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("{shown} can't be read: {error}")),
    };
    let indexes: BTreeMap<String, u32> = serde_json::from_slice(&text).map_err(|error| {
        format!(
            "{shown} is damaged: {error}. Restore it from a backup, or remove it: it is made anew \
             from the documents."
        )
    })?;
    let mut by_index = BTreeMap::new();
    for (id, index) in &indexes {
        if let Some(other) = by_index.insert(index, id) {
            return Err(format!(
                "{shown}: tenants `{other}` and `{id}` have the same number {index}, and would see \
                 each other's documents. Restore the file from a backup, or remove it: it is made \
                 anew from the documents."
            ));
        }
    }
    Ok(indexes)
}

fn save(path: &Path, indexes: &BTreeMap<String, u32>) -> Result<(), String> {
    let text = serde_json::to_string_pretty(indexes).expect("plain data serializes");
    write_whole(path, text.as_bytes())
        .map_err(|error| format!("{} can't be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(tenants: &Tenants) -> Vec<(String, u32)> {
        tenants.all().map(|tenant| (tenant.mark.id.clone(), tenant.index)).collect()
    }

    fn open(directory: &Path) -> Result<Tenants, String> {
        Tenants::open(directory, Arc::default(), &BTreeMap::new())
    }

    #[test]
    fn numbers_are_given_by_name_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut tenants = open(directory.path()).unwrap();
        tenants.enroll(["beta", "alpha", "beta"].into_iter()).unwrap();
        let first = [("alpha".to_owned(), 0), ("beta".to_owned(), 1)];
        assert_eq!(numbers(&tenants), first);
        let mut tenants = open(directory.path()).unwrap();
        tenants.enroll(["aaa", "beta"].into_iter()).unwrap();
        let all = [("aaa".to_owned(), 2), first[0].clone(), first[1].clone()];
        assert_eq!(numbers(&tenants), all);
        assert_eq!(numbers(&open(directory.path()).unwrap()), all);
        let text = std::fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        let map: BTreeMap<String, u32> = serde_json::from_str(&text).unwrap();
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        for (text, what) in [
            ("{\"a\": 0", "is damaged"),
            ("{\"a\": -1}", "is damaged"),
            ("{\"a\": 0, \"b\": 0}", "have the same number 0"),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = open(directory.path()).err().unwrap();
            assert!(refused.contains(what) && refused.contains("made anew"), "{refused}");
        }
    }

    #[test]
    fn a_number_is_not_given_twice_where_the_file_has_lost_some() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE_NAME), "{\"z\": 7}").unwrap();
        let mut tenants = open(directory.path()).unwrap();
        tenants.enroll(["a"].into_iter()).unwrap();
        assert_eq!(numbers(&tenants), [("a".to_owned(), 8), ("z".to_owned(), 7)]);
    }
}
