//! Lookup of API keys in a time that discloses nothing about any key.
//!
//! Keys are looked up by a keyed hash with a random secret of this process: a client can neither choose nor guess the
//! place of a key, and every lookup, of a valid key or not, costs one hash and one comparison.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring::hmac;
use ring::rand::SystemRandom;

use super::keys::Entry;
use super::tenant::Tenant;

/// Longest key that is looked up, in bytes.
const KEY_BYTES_MAX: usize = 512;

type Digest = [u8; 32];

/// Rights of a key, shared by the calls that were opened with it: changes of the key file apply to these calls too.
pub struct Grant {
    /// The tenant whose documents it opens; `None` until the data directory is open.
    pub tenant: Option<Arc<Tenant>>,
    /// Name of the tenant in the key file.
    pub tenant_id: String,
    max_vectors: AtomicU64,
    is_admin: AtomicBool,
    is_in_force: AtomicBool,
}

impl Grant {
    fn new(entry: &Entry, tenant: Option<Arc<Tenant>>) -> Self {
        Self {
            tenant,
            tenant_id: entry.tenant_id.clone(),
            max_vectors: AtomicU64::new(entry.max_vectors),
            is_admin: AtomicBool::new(entry.is_admin),
            is_in_force: AtomicBool::new(true),
        }
    }

    /// Most documents of the tenant.
    #[must_use]
    pub fn max_vectors(&self) -> u64 {
        self.max_vectors.load(Ordering::Relaxed)
    }

    /// The key permits operators' requests.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.is_admin.load(Ordering::Relaxed)
    }

    /// The key is enabled, as of the last reading of the key file.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.is_in_force.load(Ordering::Relaxed)
    }

    fn is_of(&self, tenant: Option<&Arc<Tenant>>) -> bool {
        match (&self.tenant, tenant) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        }
    }
}

/// The keys in force.
pub(super) struct Keyring {
    secret: hmac::Key,
    grants: HashMap<Digest, Arc<Grant>>,
}

impl Keyring {
    /// A keyring without keys.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub(super) fn empty() -> Result<Self, String> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let secret = secret.map_err(|_| "the system gives no random bytes".to_owned())?;
        Ok(Self { secret, grants: HashMap::new() })
    }

    /// A keyring of the enabled keys among these; keys of this keyring keep their grants.
    pub(super) fn next(
        &self,
        entries: &[Entry],
        tenant: impl Fn(&Entry) -> Option<Arc<Tenant>>,
    ) -> Self {
        let enabled = entries.iter().filter(|entry| entry.enabled);
        let grant = |entry: &Entry| {
            let (digest, tenant) = (digest(&self.secret, &entry.key), tenant(entry));
            let known = self.grants.get(&digest).filter(|known| known.is_of(tenant.as_ref()));
            let Some(known) = known else { return (digest, Arc::new(Grant::new(entry, tenant))) };
            known.max_vectors.store(entry.max_vectors, Ordering::Relaxed);
            known.is_admin.store(entry.is_admin, Ordering::Relaxed);
            (digest, known.clone())
        };
        Self { secret: self.secret.clone(), grants: enabled.map(grant).collect() }
    }

    /// Revokes the keys of this keyring that `next` does not have, also for calls that are open.
    pub(super) fn retire(&self, next: &Self) {
        for (digest, grant) in &self.grants {
            if !next.grants.get(digest).is_some_and(|kept| Arc::ptr_eq(kept, grant)) {
                grant.is_in_force.store(false, Ordering::Relaxed);
            }
        }
    }

    /// The grant of a key; `None` if the key is unknown or disabled.
    pub(super) fn find(&self, key: &str) -> Option<Arc<Grant>> {
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        self.grants.get(&digest(&self.secret, key)).cloned()
    }

    /// Number of keys in force.
    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }
}

fn digest(secret: &hmac::Key, key: &str) -> Digest {
    let tag = hmac::sign(secret, key.as_bytes());
    tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
