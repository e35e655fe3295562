//! Access control: API keys, tenants, quotas, rate limits, usage.
//!
//! ```text
//! headers → keyring → Caller → charge (tenant's bucket, then that of all tenants) → the request
//! ```
//!
//! A request takes no lock here: keys are swapped as a whole when their file changes, buckets and counts are atomic
//! numbers.

pub mod bucket;
pub mod fair;
mod files;
mod keyring;
mod keys;
mod tenant;
mod usage;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use self::bucket::Bucket;
pub use self::keyring::Grant;
use self::keyring::Keyring;
use self::keys::Entry;
pub use self::tenant::Tenant;
use self::tenant::Tenants;
pub use self::usage::TenantUsage;
use crate::clock::unix_ms;
use crate::config::{Config, RateLimitSection};
use crate::engine::accounts::Accounts;
use crate::error::{Error, Result};
use crate::watched::Watched;

/// Period of checking whether the key file has changed.
const KEYS_LOOK: Duration = Duration::from_secs(1);

/// Period of saving usage.
const USAGE_PERIOD: Duration = Duration::from_secs(60);

/// The caller of a request. The default one is anonymous, for servers without keys.
#[derive(Clone, Default)]
pub struct Caller(Option<Arc<Grant>>);

impl Caller {
    /// True if operators' requests are permitted.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.0.as_ref().is_none_or(|grant| grant.is_admin())
    }

    /// The grant of its key; `None` without keys.
    #[must_use]
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.0.as_ref()
    }
}

/// State of access control.
pub struct Access {
    /// `None` if no keys are required.
    auth: Option<Auth>,
    rate_limit: ArcSwap<RateLimitSection>,
    /// Rate limit of all tenants together.
    global: Bucket,
    /// Values in a vector; 0 until known.
    dimension: AtomicUsize,
}

struct Auth {
    keys_file: PathBuf,
    watched: Watched,
    data_dir: PathBuf,
    accounts: Arc<Accounts>,
    keyring: ArcSwap<Keyring>,
    /// Held while the key file is read. The lock of `state` is not held then, so that requests and shutdown do not wait
    /// for a file system.
    reading: Mutex<()>,
    /// Held while usage is saved.
    saving: Mutex<()>,
    state: Mutex<State>,
}

/// State that changes only with the key file.
struct State {
    entries: Vec<Entry>,
    /// `None` until the data directory is open.
    tenants: Option<Tenants>,
}

impl Access {
    /// Reads the keys, if keys are required.
    ///
    /// # Errors
    /// All faults of the key file.
    pub fn new(config: &Config) -> std::result::Result<Self, String> {
        let auth = config.auth.enabled.then(|| Auth::new(config)).transpose()?;
        let access = Self {
            auth,
            rate_limit: ArcSwap::default(),
            global: Bucket::default(),
            dimension: AtomicUsize::new(0),
        };
        access.set_rate_limit(config.rate_limit.clone());
        Ok(access)
    }

    /// True if keys are required.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.auth.is_some()
    }

    /// Document counts of tenants, kept by the shards; `None` without tenants.
    #[must_use]
    pub fn accounts(&self) -> Option<Arc<Accounts>> {
        self.auth.as_ref().map(|auth| auth.accounts.clone())
    }

    /// Opens access once the documents in the data directory are counted: tenants have their numbers from now on.
    ///
    /// # Errors
    /// If `tenants.json` can't be used, or not be written.
    pub fn open(&self) -> std::result::Result<(), String> {
        let Some(auth) = &self.auth else { return Ok(()) };
        let before = usage::restore(&usage::folder(&auth.data_dir))?;
        let mut tenants = Tenants::open(&auth.data_dir, auth.accounts.clone(), &before)?;
        let mut state = auth.state();
        auth.put_in_force(&state.entries, &mut tenants, &self.rate_limit.load())?;
        state.tenants = Some(tenants);
        Ok(())
    }

    /// Sets the number of values in a vector.
    pub fn set_dimension(&self, dimension: usize) {
        self.dimension.store(dimension, Ordering::Relaxed);
    }

    /// The caller that these headers identify.
    ///
    /// # Errors
    /// If a key is required and missing, or invalid.
    pub fn caller(&self, headers: &http::HeaderMap) -> Result<Caller> {
        let Some(auth) = &self.auth else { return Ok(Caller::default()) };
        let key = match (headers.get("x-api-key"), headers.get(http::header::AUTHORIZATION)) {
            (Some(key), _) => key.to_str().ok(),
            (None, Some(bearer)) => bearer.to_str().ok().and_then(|b| b.strip_prefix("Bearer ")),
            (None, None) => {
                return Err(Error::Unauthenticated(
                    "an API key is needed: send it as `x-api-key: KEY` or `authorization: Bearer KEY`",
                ));
            }
        };
        let grant = key.and_then(|key| auth.keyring.load().find(key));
        let grant = grant.ok_or(Error::Unauthenticated("the API key is not valid"))?;
        Ok(Caller(Some(grant)))
    }

    /// Checks that the key of a caller is still in force: a stream may outlive it.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(&self, caller: &Caller) -> Result<()> {
        match caller.grant().is_none_or(|grant| grant.is_in_force()) {
            true => Ok(()),
            false => Err(Error::Unauthenticated("the API key is not valid any more")),
        }
    }

    /// Takes a token for one request, or one message of a stream.
    ///
    /// # Errors
    /// If the key is not in force any more, or the tenant, or all tenants together, have no token left.
    pub fn charge(&self, caller: &Caller) -> Result<()> {
        self.check(caller)?;
        let tenant = caller.0.as_ref().and_then(|grant| grant.tenant.as_ref());
        let limited = |whose: &str, retry_after| Error::Limited {
            what: format!("{whose} rate limit is reached"),
            retry_after,
        };
        if let Some(tenant) = tenant {
            tenant.bucket.take().map_err(|wait| limited("the tenant's", wait))?;
        }
        self.global.take().map_err(|wait| {
            if let Some(tenant) = tenant {
                tenant.bucket.give_back();
            }
            limited("the server's", wait)
        })
    }

    /// Limits the requests per second of all tenants together; 0 lifts the limit.
    pub fn limit_all(&self, per_second: u32) {
        self.global.set_rate(per_second, per_second);
    }

    /// Reads the key file again. If it is invalid, the previous keys stay in force.
    ///
    /// # Errors
    /// The faults of the file.
    pub fn reload(&self) -> std::result::Result<String, String> {
        let Some(auth) = &self.auth else { return Ok("no keys are asked for".into()) };
        auth.reload(&self.rate_limit.load())
    }

    /// Sets the rate of all tenants together, and the default of each; it applies to tenants once keys are
    /// [read](Access::reload) again.
    pub fn set_rate_limit(&self, rate: RateLimitSection) {
        match rate.enabled {
            true => self.global.set_rate(rate.max_qps_global, rate.burst_capacity),
            false => self.global.set_rate(0, 0),
        }
        self.rate_limit.store(Arc::new(rate));
    }

    /// Usage of tenants, by id; only that of `of`, if given.
    #[must_use]
    pub fn usage(&self, of: Option<&str>) -> Vec<TenantUsage> {
        let Some(auth) = &self.auth else { return Vec::new() };
        let dimension = self.dimension.load(Ordering::Relaxed);
        let state = auth.state();
        let tenants = state.tenants.iter().flat_map(Tenants::all);
        let wanted = tenants.filter(|tenant| of.is_none_or(|id| tenant.mark.id == id));
        let usage = wanted.map(|tenant| TenantUsage::of(tenant, dimension));
        usage.filter(|usage| !usage.is_nothing()).collect()
    }

    /// Saves the usage of tenants durably.
    pub fn save_usage(&self, is_last: bool) {
        let Some(auth) = &self.auth else { return };
        // Counts that change during the save are saved the next time.
        let _turn = auth.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.usage(None);
        let state = auth.state();
        let Some(tenants) = &state.tenants else { return };
        let counts: Vec<_> =
            tenants.all().map(|tenant| (tenant.mark.clone(), tenant.usage())).collect();
        // The disk may be slow, and requests need the lock.
        drop(state);
        let counts = counts.iter().map(|(mark, usage)| (mark.id.as_str(), *usage));
        let folder = usage::folder(&auth.data_dir);
        if let Err(error) = usage::save(&folder, counts, &table, unix_ms() / 1_000, is_last) {
            tracing::error!("usage could not be saved in {}: {error}", folder.display());
        }
    }

    /// Checks the key file and saves usage periodically, until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        if self.auth.is_none() {
            return;
        }
        let (mut looks, mut saves) =
            (tokio::time::interval(KEYS_LOOK), tokio::time::interval(USAGE_PERIOD));
        saves.tick().await;
        loop {
            let is_save = tokio::select! {
                _ = looks.tick() => false,
                _ = saves.tick() => true,
            };
            let access = self.clone();
            let work = move || match is_save {
                true => access.save_usage(false),
                false => access.look(),
            };
            if tokio::task::spawn_blocking(work).await.is_err() {
                tracing::error!("looking after API keys has panicked; it goes on");
            }
        }
    }

    /// Reads the key file again if it has changed.
    fn look(&self) {
        let Some(auth) = &self.auth else { return };
        if !auth.watched.have_changed() {
            return;
        }
        match auth.reload(&self.rate_limit.load()) {
            Ok(done) => tracing::info!("the key file has changed: {done}"),
            Err(why) => tracing::error!("the key file has changed and is not used: {why}"),
        }
    }
}

impl Auth {
    fn new(config: &Config) -> std::result::Result<Self, String> {
        let keys_file = config.auth.api_keys_file.clone().ok_or("auth.api_keys_file is not set")?;
        let watched = Watched::new(vec![keys_file.clone()]);
        let entries = keys::read(&keys_file)?;
        let keyring = Keyring::empty()?.next(&entries, |_| None);
        Ok(Self {
            keys_file,
            watched,
            data_dir: config.persistence.data_dir.clone(),
            accounts: Arc::default(),
            keyring: ArcSwap::from_pointee(keyring),
            reading: Mutex::default(),
            saving: Mutex::default(),
            state: Mutex::new(State { entries, tenants: None }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reload(&self, rate: &RateLimitSection) -> std::result::Result<String, String> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.watched.note_reading();
        let entries = keys::read(&self.keys_file)?;
        let mut state = self.state();
        let State { tenants: Some(tenants), .. } = &mut *state else {
            self.swap(self.keyring.load().next(&entries, |_| None));
            state.entries = entries;
            return Ok("keys were read again".into());
        };
        let count = self.put_in_force(&entries, tenants, rate)?;
        state.entries = entries;
        Ok(format!("{count} keys are in force"))
    }

    /// Numbers new tenants, and puts these keys in force.
    fn put_in_force(
        &self,
        entries: &[Entry],
        tenants: &mut Tenants,
        rate: &RateLimitSection,
    ) -> std::result::Result<usize, String> {
        let enabled = || entries.iter().filter(|entry| entry.enabled);
        tenants.enroll(enabled().map(|entry| entry.tenant_id.as_str()))?;
        let keyring = self.keyring.load().next(entries, |entry| tenants.get(&entry.tenant_id));
        let mut limited = std::collections::BTreeSet::new();
        for entry in enabled() {
            // A tenant has one bucket, with the limit of its first key.
            if limited.insert(&entry.tenant_id)
                && let Some(tenant) = tenants.get(&entry.tenant_id)
            {
                let per_second = match entry.max_qps {
                    0 if rate.enabled => rate.max_qps_per_connection,
                    own => own,
                };
                tenant.bucket.set_rate(per_second, per_second);
            }
        }
        let count = keyring.len();
        self.swap(keyring);
        Ok(count)
    }

    /// Replaces the keyring in force. The lock of `state` allows one call at a time.
    fn swap(&self, keyring: Keyring) {
        let keyring = Arc::new(keyring);
        self.keyring.swap(keyring.clone()).retire(&keyring);
    }
}
