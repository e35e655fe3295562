//! Whose key it is, found so that the time it takes says nothing about any key.
//!
//! Keys are looked up by a keyed hash with a random secret of this process: nobody outside can
//! choose or guess where a key lies, and every key that is asked about, good or bad, costs one hash
//! of it and one look.

use std::collections::HashMap;
use std::sync::Arc;

use ring::hmac;
use ring::rand::SystemRandom;

use super::keys::Entry;
use super::tenant::Tenant;

/// Longest key that is looked up.
const KEY_BYTES_MAX: usize = 512;

type Digest = [u8; 32];

/// What a key allows.
pub struct Grant {
    /// For whose documents; `None` until the data directory is open.
    pub tenant: Option<Arc<Tenant>>,
    /// The tenant's name in the key file.
    pub tenant_id: String,
    /// So many documents may the tenant have.
    pub max_vectors: u64,
    /// It may do what operators do.
    pub is_admin: bool,
}

/// The keys in force.
pub(super) struct Keyring {
    secret: hmac::Key,
    grants: HashMap<Digest, Arc<Grant>>,
}

impl Keyring {
    /// The enabled ones of these keys.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub(super) fn new(
        entries: &[Entry],
        tenant: impl Fn(&Entry) -> Option<Arc<Tenant>>,
    ) -> Result<Self, String> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let secret = secret.map_err(|_| "the system gives no random bytes".to_owned())?;
        let enabled = entries.iter().filter(|entry| entry.enabled);
        let grant = |entry: &Entry| Grant {
            tenant: tenant(entry),
            tenant_id: entry.tenant_id.clone(),
            max_vectors: entry.max_vectors,
            is_admin: entry.is_admin,
        };
        let grants =
            enabled.map(|entry| (digest(&secret, &entry.key), Arc::new(grant(entry)))).collect();
        Ok(Self { secret, grants })
    }

    /// What a key allows; `None` if it is unknown or disabled.
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
