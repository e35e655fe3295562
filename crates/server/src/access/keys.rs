//! Reading and checking the file of API keys. Errors name every fault and no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::watched::{open_to_others, read_regular};

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Least characters of the secret part.
const SECRET_MIN: usize = 32;

/// Prefix of every key.
const PREFIX: &str = "kyro_";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    api_keys: Vec<Entry>,
}

/// An entry of the key file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// The whole key, a secret.
    pub(super) key: String,
    /// Id of its tenant.
    pub tenant_id: String,
    /// Display name of the tenant.
    pub tenant_name: String,
    /// Requests per second; 0 for the server's default.
    #[serde(default)]
    pub max_qps: u32,
    /// Most documents of the tenant.
    pub max_vectors: u64,
    /// The key permits operators' requests.
    #[serde(default)]
    pub is_admin: bool,
    /// The key is enabled.
    pub enabled: bool,
    /// Time of creation, for display.
    #[serde(default)]
    created_at: Option<String>,
}

/// Reads the file.
///
/// # Errors
/// All faults, one per line; none shows a secret.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, String> {
    let shown = path.display();
    let unread = |error: std::io::Error| format!("the key file {shown} can't be read: {error}");
    let bytes = read_regular(path, FILE_BYTES_MAX).map_err(unread)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("the key file {shown} can't be read: it is not UTF-8"))?;
    if let Some(why) = open_to_others(path) {
        tracing::warn!("the key file {why}");
    }
    parse(&text).map_err(|faults| format!("the key file {shown}: {}", faults.join("; ")))
}

fn parse(text: &str) -> Result<Vec<Entry>, Vec<String>> {
    let parsed: Result<KeyFile, _> = serde_norway::from_str(text);
    let file = parsed.map_err(|error| {
        // The message may quote the text that it found, which may be a key.
        let place =
            error.location().map(|at| format!("line {}, column {}", at.line(), at.column()));
        let place = place.unwrap_or_else(|| "its beginning".into());
        vec![format!(
            "it is not what it should be at {place}: a list `api_keys`, of entries with key, \
             tenant_id, tenant_name, max_vectors, enabled, and maybe max_qps, is_admin, created_at"
        )]
    })?;
    let mut faults = Vec::new();
    let mut seen = BTreeMap::new();
    for (index, entry) in file.api_keys.iter().enumerate() {
        let number = index + 1;
        let mut fault = |what: String| faults.push(format!("entry {number}: {what}"));
        entry.check().into_iter().for_each(&mut fault);
        if let Some(first) = seen.insert(entry.key.as_str(), number) {
            fault(format!("has the same key as entry {first}"));
        }
    }
    let ids: BTreeSet<&str> = file.api_keys.iter().map(|entry| entry.tenant_id.as_str()).collect();
    if ids.is_empty() {
        faults.push("it has no key: nobody could use the server".into());
    }
    if faults.is_empty() { Ok(file.api_keys) } else { Err(faults) }
}

impl Entry {
    fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match key_parts(&self.key) {
            Err(why) => faults.push(format!("key: {why}")),
            Ok(tenant) if tenant != self.tenant_id => faults.push(format!(
                "tenant_id `{}` is not the tenant that the key names, `{tenant}`",
                self.tenant_id
            )),
            Ok(_) => {}
        }
        if !is_tenant(&self.tenant_id) {
            faults.push(format!("tenant_id `{}`: letters, digits and _ only", self.tenant_id));
        }
        if self.tenant_name.trim().is_empty() {
            faults.push("tenant_name is empty".into());
        }
        if self.max_vectors == 0 {
            faults.push("max_vectors: has to be above 0".into());
        }
        if let Some(created) = &self.created_at
            && chrono::DateTime::parse_from_rfc3339(created).is_err()
        {
            faults.push(format!(
                "created_at `{created}` is no RFC 3339 time such as 2026-01-31T12:00:00Z"
            ));
        }
        faults
    }
}

/// The tenant that a well-formed key names.
pub(super) fn key_parts(key: &str) -> Result<&str, &'static str> {
    let rest = key.strip_prefix(PREFIX).ok_or("does not begin with kyro_")?;
    let (tenant, secret) = rest.rsplit_once('_').ok_or("is not kyro_<tenant>_<secret>")?;
    if !is_tenant(tenant) {
        return Err("its tenant is not of letters, digits and _");
    }
    if secret.len() < SECRET_MIN {
        return Err("its secret has fewer than 32 characters");
    }
    if !secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("its secret is not of letters and digits alone");
    }
    Ok(tenant)
}

fn is_tenant(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdefABCDEF0123456789";

    fn entry(change: &str, by: &str) -> String {
        let entry = format!(
            "- key: kyro_acme_corp_{SECRET}\n  tenant_id: acme_corp\n  tenant_name: Acme\n  \
             max_vectors: 10\n  enabled: true\n  created_at: 2026-01-31T12:00:00+01:00\n"
        );
        assert!(entry.contains(change), "{change}");
        entry.replace(change, by)
    }

    fn faults(entries: &[String]) -> String {
        parse(&format!("api_keys:\n{}", entries.concat())).err().unwrap_or_default().join("; ")
    }

    #[test]
    fn a_good_file_is_read() {
        let text = format!("api_keys:\n{}", entry("", ""));
        let entries = parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"));
        let [only] = entries.as_slice() else { panic!("{} entries", entries.len()) };
        assert_eq!((only.tenant_id.as_str(), only.max_qps, only.is_admin), ("acme_corp", 0, false));
    }

    #[test]
    fn every_fault_is_named_and_no_secret_is() {
        let same = "the tenant that the key names, `acme_corp`";
        let wrong = [
            (SECRET, "short", "fewer than 32"),
            ("23456789abcdef", "2345678-abcdef", "letters and digits alone"),
            ("kyro_acme", "kyra_acme", "begin with kyro_"),
            ("kyro_acme_corp_", "kyro_acme-corp_", "letters, digits and _"),
            ("tenant_id: acme_corp", "tenant_id: other", same),
            ("tenant_name: Acme", "tenant_name: ' '", "tenant_name is empty"),
            ("max_vectors: 10", "max_vectors: 0", "above 0"),
            ("2026-01-31T12:00:00+01:00", "yesterday", "RFC 3339"),
            ("enabled: true", "enabled: perhaps", "line 6"),
            ("  enabled: true\n", "", "line 2"),
            ("max_vectors", "max_vector", "line 5"),
        ];
        for (change, by, what) in wrong {
            let faults = faults(&[entry(change, by)]);
            assert!(faults.contains(what), "{by}: {faults}");
            assert!(!faults.contains("0123456789abc"), "{faults}");
        }
        let twice = faults(&[entry("", ""), entry("", "")]);
        assert!(twice.contains("entry 2: has the same key as entry 1"), "{twice}");
        let all = faults(&[entry("max_vectors: 10", "max_vectors: 0"), entry(SECRET, "short")]);
        assert!(all.contains("entry 1: max_vectors") && all.contains("entry 2: key"), "{all}");
        assert!(faults(&[]).contains("no key") && parse("api_keys: []").is_err());
    }

    #[test]
    fn a_file_that_is_half_written_is_refused() {
        let whole = format!("api_keys:\n{}{}", entry("", ""), entry("acme_corp", "b"));
        let second = whole.rfind("- key").unwrap();
        for cut in second + 1..whole.len() - 44 {
            assert!(parse(&whole[..cut]).is_err(), "{}", &whole[..cut]);
        }
    }
}
