//! How many documents each tenant has, over all shards, and may have. A tenant's documents are
//! those with its number in the upper half of their ids.
//!
//! Each shard keeps its own part of the counts, which follows what it stages and what it applies;
//! the sums are shared. So they are right whatever becomes of who asked for a write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Store;
use crate::store::slices::slices;
use crate::types::DocId;
use crate::types::payload::TENANT_KEY;

/// The documents of one tenant.
#[derive(Debug, Default)]
pub struct Account {
    /// Alive, once everything staged is applied.
    documents: AtomicU64,
    inserted: AtomicU64,
    deleted: AtomicU64,
}

impl Account {
    /// Documents alive, once everything staged is applied.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }

    /// New documents since the start.
    #[must_use]
    pub fn inserted(&self) -> u64 {
        self.inserted.load(Ordering::Relaxed)
    }

    /// Documents deleted since the start.
    #[must_use]
    pub fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }

    /// Takes a place of at most `max`; false if there is none.
    fn take(&self, max: u64) -> bool {
        let is_free = |count| (count < max).then_some(count + 1);
        self.documents.fetch_update(Ordering::AcqRel, Ordering::Relaxed, is_free).is_ok()
    }
}

/// The accounts of all tenants, and the names under which documents were found at the start.
#[derive(Debug, Default)]
pub struct Accounts {
    by_tenant: Mutex<BTreeMap<u32, Arc<Account>>>,
    names: Mutex<BTreeMap<u32, String>>,
}

impl Accounts {
    /// The account of a tenant, by its number.
    #[must_use]
    pub fn of(&self, tenant: u32) -> Arc<Account> {
        let mut accounts = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(tenant).or_default().clone()
    }

    /// The names of tenants that documents were found to have at the start, by number.
    #[must_use]
    pub fn names(&self) -> BTreeMap<u32, String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_name(&self, tenant: u32, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(tenant).or_insert_with(|| name.to_owned());
    }
}

/// What one shard has counted; nothing where there are no tenants.
#[derive(Default)]
pub(super) struct Ledger {
    accounts: Option<Arc<Accounts>>,
    tenants: BTreeMap<u32, Entry>,
}

struct Entry {
    account: Arc<Account>,
    /// Documents of this shard that are alive, and that will be once everything staged is applied.
    live: u64,
    after_staged: u64,
}

impl Drop for Ledger {
    /// The shard is gone, and its documents are counted by another that is brought back from them.
    fn drop(&mut self) {
        for entry in self.tenants.values() {
            entry.account.documents.fetch_sub(entry.after_staged, Ordering::AcqRel);
        }
    }
}

impl Ledger {
    /// Counts what is in the shard, which was just brought back, in slices, and goes on from there.
    pub(super) async fn open(
        accounts: Option<Arc<Accounts>>,
        store: &Store,
        rest: &impl AsyncFn(),
    ) -> Self {
        let mut ledger = Self { accounts, tenants: BTreeMap::new() };
        let Some(accounts) = ledger.accounts.clone() else { return ledger };
        let mut named = BTreeMap::new();
        for slice in slices(store.slot_count()) {
            let slots = slice.map(|number| store.stripe().slot(number));
            for slot in slots.filter(|&slot| store.is_live(slot)) {
                let tenant = store.doc_id(slot).tenant();
                let is_named = named.entry(tenant).or_insert(false);
                if !*is_named && let Some(name) = store.payload(slot).get(TENANT_KEY) {
                    accounts.note_name(tenant, name);
                    *is_named = true;
                }
                if let Some(entry) = ledger.entry(tenant) {
                    entry.live += 1;
                }
            }
            rest().await;
        }
        ledger.abandon_staged();
        ledger
    }

    fn entry(&mut self, tenant: u32) -> Option<&mut Entry> {
        let accounts = self.accounts.as_ref()?;
        Some(self.tenants.entry(tenant).or_insert_with(|| Entry {
            account: accounts.of(tenant),
            live: 0,
            after_staged: 0,
        }))
    }

    /// Takes a place for a new document; false if its tenant has `max` of them.
    pub(super) fn take(&mut self, id: DocId, max: u64) -> bool {
        let Some(entry) = self.entry(id.tenant()) else { return true };
        let is_taken = entry.account.take(max);
        entry.after_staged += u64::from(is_taken);
        is_taken
    }

    /// Gives the place of a document back whose end is staged, or that is not stored after all.
    pub(super) fn give_back(&mut self, id: DocId) {
        if let Some(entry) = self.entry(id.tenant()) {
            entry.after_staged -= 1;
            entry.account.documents.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A new document is there.
    pub(super) fn note_new(&mut self, id: DocId) {
        if let Some(entry) = self.entry(id.tenant()) {
            entry.live += 1;
            entry.account.inserted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A document is gone.
    pub(super) fn note_gone(&mut self, id: DocId) {
        if let Some(entry) = self.entry(id.tenant()) {
            entry.live -= 1;
            entry.account.deleted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is staged will not be.
    pub(super) fn abandon_staged(&mut self) {
        for entry in self.tenants.values_mut() {
            let (before, now) = (entry.after_staged, entry.live);
            entry.after_staged = now;
            if now >= before {
                entry.account.documents.fetch_add(now - before, Ordering::AcqRel);
            } else {
                entry.account.documents.fetch_sub(before - now, Ordering::AcqRel);
            }
        }
    }
}
