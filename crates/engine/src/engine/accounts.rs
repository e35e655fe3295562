//! Counts of each tenant's documents over all shards, and their limits. A tenant's documents are those with its
//! number in the upper half of their ids.
//!
//! Each shard keeps its own part of the counts, by the writes that it stages and applies; the sums are shared. So
//! they stay right whatever becomes of the client that asked for a write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Store;
use crate::store::slices::slices;
use crate::types::DocId;
use crate::types::payload::TENANT_KEY;

/// The document counts of one tenant.
#[derive(Debug, Default)]
pub struct Account {
    /// Live documents, once everything staged is applied.
    documents: AtomicU64,
    inserted: AtomicU64,
    deleted: AtomicU64,
}

impl Account {
    /// Live documents, once everything staged is applied.
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

    /// Counts one more document, of at most `max`; false if there is no room.
    fn take(&self, max: u64) -> bool {
        let is_free = |count| (count < max).then_some(count + 1);
        self.documents.fetch_update(Ordering::AcqRel, Ordering::Relaxed, is_free).is_ok()
    }
}

/// The accounts of all tenants, and the tenant names found in documents at the start.
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

    /// Tenant names found in documents at the start, by the tenant's number.
    #[must_use]
    pub fn names(&self) -> BTreeMap<u32, String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_name(&self, tenant: u32, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(tenant).or_insert_with(|| name.to_owned());
    }
}

/// The counts of one shard; empty if there are no tenants.
#[derive(Default)]
pub(super) struct Ledger {
    accounts: Option<Arc<Accounts>>,
    tenants: BTreeMap<u32, Entry>,
}

struct Entry {
    account: Arc<Account>,
    /// Documents of this shard that are live now, and those that will be once everything staged is applied.
    live: u64,
    after_staged: u64,
}

impl Drop for Ledger {
    /// The shard is gone; when it is recovered, its documents are counted again.
    fn drop(&mut self) {
        for entry in self.tenants.values() {
            entry.account.documents.fetch_sub(entry.after_staged, Ordering::AcqRel);
        }
    }
}

impl Ledger {
    /// Counts the documents of a shard that was just recovered, in slices, and follows its writes from there on.
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

    /// Counts a new document; false if its tenant has `max` already.
    pub(super) fn take(&mut self, id: DocId, max: u64) -> bool {
        let Some(entry) = self.entry(id.tenant()) else { return true };
        let is_taken = entry.account.take(max);
        entry.after_staged += u64::from(is_taken);
        is_taken
    }

    /// Uncounts a document whose delete is staged, or that is not stored after all.
    pub(super) fn give_back(&mut self, id: DocId) {
        if let Some(entry) = self.entry(id.tenant()) {
            entry.after_staged -= 1;
            entry.account.documents.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Notes that a new document is applied.
    pub(super) fn note_new(&mut self, id: DocId) {
        if let Some(entry) = self.entry(id.tenant()) {
            entry.live += 1;
            entry.account.inserted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a document's delete is applied.
    pub(super) fn note_gone(&mut self, id: DocId) {
        if let Some(entry) = self.entry(id.tenant()) {
            entry.live -= 1;
            entry.account.deleted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets staged writes that will not be applied.
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
