//! Reload of the configuration of a running server: keys that can change at once do, and the others are named.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;

use super::settings;
use crate::access::Access;
use crate::config::{Config, Origins, Running};
use crate::gateway::Gateway;
use crate::router::{Limits, Router};
use crate::sizing;
use crate::status::health::Health;
use crate::tls::Tls;

/// Sections, and keys of other sections, that take effect at once.
const LIVE: [&str; 8] = [
    "timeouts.",
    "slo.",
    "rate_limit.",
    "logging.level",
    "logging.slow_query_",
    "memory.",
    "server.http_allowed_hosts",
    "storage.max_write_bytes_per_sec",
];

/// Result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that have new values now: `key: before -> now`.
    pub changed: Vec<String>,
    /// Keys whose new values take effect only after a restart.
    pub needs_restart: Vec<String>,
    /// Result for the API keys.
    pub keys: String,
    /// A task trains the cache of vectors on disk; it restarts.
    pub has_training: bool,
}

impl std::fmt::Display for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |lines: &[String]| match lines {
            [] => "nothing".to_owned(),
            lines => lines.join(", "),
        };
        write!(f, "changed: {}; {}", list(&self.changed), self.keys)?;
        if !self.needs_restart.is_empty() {
            write!(f, "; needs a restart: {}", list(&self.needs_restart))?;
        }
        let training = match self.has_training {
            true => "training task restarted",
            false => "no training task runs",
        };
        write!(f, "; {training}")?;
        Ok(())
    }
}

/// The parts of a server that can change.
pub struct Reloader {
    pub(super) running: Arc<ArcSwap<Running>>,
    /// Held during a change.
    pub(super) turn: Mutex<()>,
    pub(super) access: Arc<Access>,
    pub(super) health: Arc<Health>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) router: Arc<Router>,
    pub(super) tls: Option<Arc<Tls>>,
}

/// The limits that a configuration sets for the router.
pub(super) fn limits(config: &Config) -> Limits {
    Limits {
        searches_max: config.timeouts.max_concurrent_queries,
        hot_budget: Duration::from_millis(config.timeouts.hot_tier_ms),
    }
}

impl Reloader {
    /// Applies the changeable keys of a valid configuration, and reads the API keys again.
    ///
    /// # Errors
    /// If the key file or a certificate is invalid: the previous ones stay in force, and all other keys are changed.
    pub fn apply(&self, config: Config, origins: Origins) -> Result<Reloaded, String> {
        self.router.retry_cache();
        self.router.restart_training();
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = Running::clone(&self.running.load());
        let mut reloaded =
            Reloaded { has_training: settings::learns(&running.config), ..Reloaded::default() };
        let is_live = |key: &str| LIVE.iter().any(|live| key.starts_with(live));
        for (key, before, now) in differences(&running.config, &config) {
            if is_live(&key) {
                reloaded.changed.push(format!("{key}: {before} -> {now}"));
            } else {
                reloaded.needs_restart.push(key);
            }
        }
        let Running { config: live, origins: known } = &mut running;
        live.timeouts = config.timeouts;
        live.slo = config.slo;
        live.rate_limit = config.rate_limit;
        live.memory = config.memory;
        live.server.http_allowed_hosts = config.server.http_allowed_hosts;
        live.storage.max_write_bytes_per_sec = config.storage.max_write_bytes_per_sec;
        live.logging.level = config.logging.level;
        live.logging.slow_query_ms = config.logging.slow_query_ms;
        live.logging.slow_query_per_second = config.logging.slow_query_per_second;
        known.retain(|key, _| !is_live(key));
        known.extend(origins.into_iter().filter(|(key, _)| is_live(key)));
        self.router.set_limits(limits(live));
        self.gateway.set_timeouts(&live.timeouts);
        self.gateway.set_logging(&live.logging);
        self.gateway.set_write_rate(live.storage.max_write_bytes_per_sec);
        self.health.judge_by(live.slo.clone());
        self.gateway.set_memory_max(sizing::memory_max(&live.memory));
        self.access.set_rate_limit(live.rate_limit.clone());
        self.running.store(Arc::new(running));
        // Reading files may take long.
        drop(turn);
        let secured = self.tls.as_ref().map_or(Ok(()), |tls| tls.reload());
        reloaded.keys = self.access.reload()?;
        secured.map(|()| reloaded)
    }
}

/// Keys with different values, and these values.
fn differences(before: &Config, after: &Config) -> Vec<(String, Value, Value)> {
    let flat =
        |config: &Config| -> BTreeMap<String, Value> { config.leaves().into_iter().collect() };
    let (before, mut after) = (flat(before), flat(after));
    let pairs = before.into_iter().filter_map(|(key, value)| {
        let now = after.remove(&key).unwrap_or(Value::Null);
        (now != value).then_some((key, value, now))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_keys_are_named() {
        let before = Config::default();
        assert!(differences(&before, &before.clone()).is_empty());
        let mut after = before.clone();
        after.hnsw.m = 20;
        after.server.http_port = Some(7);
        after.timeouts.cold_tier_ms = 9;
        let found = differences(&before, &after);
        let keys: Vec<&str> = found.iter().map(|(key, ..)| key.as_str()).collect();
        assert_eq!(keys, ["hnsw.m", "server.http_port", "timeouts.cold_tier_ms"]);
        assert_eq!((&found[1].1, &found[1].2), (&Value::Null, &7.into()));
    }
}
