//! Usage of each tenant, counted across restarts, for billing.
//!
//! ```text
//! usage/usage_state.snap   magic 8 | tenants u32 | for each: id_bytes u16 | id | queries u64 |
//!                          inserts u64 | deletes u64 || CRC-32C u32          little-endian
//! ```
//!
//! It is written every minute and at shutdown, so a crash loses a minute of counts. How many
//! documents a tenant has is not in it: that is counted from the documents at the start.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::write_whole;
use super::tenant::Tenant;

const MAGIC: &[u8; 8] = b"KYUSAGE1";
const STATE_NAME: &str = "usage_state.snap";
const LATEST_NAME: &str = "tenant_usage_latest.csv";

/// Bytes per value of a stored vector.
const VALUE_BYTES: u64 = 4;

/// Counts of one tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Searches and reads by id.
    pub queries: u64,
    /// New documents.
    pub inserts: u64,
    /// Documents deleted.
    pub deletes: u64,
}

/// Usage of a tenant, as `/usage` and the CSV files show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the contract's")]
pub struct TenantUsage {
    pub tenant_id: String,
    pub query_count: u64,
    pub insert_count: u64,
    pub delete_count: u64,
    pub vector_count: u64,
    pub storage_bytes: u64,
    pub storage_mb: f64,
    pub storage_gb: f64,
    pub billable_events: u64,
}

impl TenantUsage {
    /// Usage of a tenant, given `dimension` values per vector.
    pub(super) fn of(tenant: &Tenant, dimension: usize) -> Self {
        let usage = tenant.usage();
        let vector_count = tenant.account.documents();
        let storage_bytes = vector_count * VALUE_BYTES * dimension as u64;
        let rounded = |bytes: u64, shift: u32, digits: i32| {
            let scale = 10_f64.powi(digits);
            (bytes as f64 / (1_u64 << shift) as f64 * scale).round() / scale
        };
        Self {
            tenant_id: tenant.mark.id.clone(),
            query_count: usage.queries,
            insert_count: usage.inserts,
            delete_count: usage.deletes,
            vector_count,
            storage_bytes,
            storage_mb: rounded(storage_bytes, 20, 2),
            storage_gb: rounded(storage_bytes, 30, 4),
            billable_events: usage.queries + usage.inserts + usage.deletes,
        }
    }

    /// True if all counts are 0.
    pub(super) fn is_nothing(&self) -> bool {
        self.billable_events == 0 && self.vector_count == 0
    }
}

impl Tenant {
    /// Counts across restarts.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            queries: self.before.queries + self.queries.get(),
            inserts: self.before.inserts + self.account.inserted(),
            deletes: self.before.deletes + self.account.deleted(),
        }
    }
}

/// The folder of these files.
pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("usage")
}

/// Counts from before the start. A damaged file is moved aside: it must not prevent a start.
///
/// # Errors
/// If the file can't be read.
pub(super) fn restore(folder: &Path) -> Result<BTreeMap<String, Usage>, String> {
    let path = folder.join(STATE_NAME);
    let shown = path.display();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("{shown} can't be read: {error}")),
    };
    if let Some(usage) = decode(&bytes) {
        return Ok(usage);
    }
    let aside = folder.join(format!("{STATE_NAME}.damaged"));
    std::fs::rename(&path, &aside)
        .map_err(|error| format!("{shown} is damaged and can't be put aside: {error}"))?;
    tracing::error!(
        "{shown} is damaged: usage is counted from nothing; the file is now {}",
        aside.display()
    );
    Ok(BTreeMap::new())
}

/// Writes the state, and a table of it for people.
///
/// # Errors
/// If a file can't be written.
pub(super) fn save<'a>(
    folder: &Path,
    tenants: impl Iterator<Item = (&'a str, Usage)>,
    table: &[TenantUsage],
    unix_seconds: u64,
    is_last: bool,
) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    write_whole(&folder.join(STATE_NAME), &encode(tenants))?;
    let csv = csv(table, unix_seconds);
    write_whole(&folder.join(LATEST_NAME), csv.as_bytes())?;
    if is_last {
        let name = format!("tenant_usage_shutdown_{unix_seconds}.csv");
        write_whole(&folder.join(name), csv.as_bytes())?;
    }
    Ok(())
}

fn csv(table: &[TenantUsage], unix_seconds: u64) -> String {
    let mut text = String::from(
        "tenant_id,query_count,insert_count,delete_count,vector_count,storage_bytes,storage_mb,\
         billable_events,timestamp\n",
    );
    for usage in table {
        // Ids consist of letters, digits and _: no quotes are needed.
        let written = writeln!(
            text,
            "{},{},{},{},{},{},{:.2},{},{unix_seconds}",
            usage.tenant_id,
            usage.query_count,
            usage.insert_count,
            usage.delete_count,
            usage.vector_count,
            usage.storage_bytes,
            usage.storage_mb,
            usage.billable_events,
        );
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }
    text
}

fn encode<'a>(tenants: impl Iterator<Item = (&'a str, Usage)>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let mut count = 0_u32;
    bytes.extend(count.to_le_bytes());
    for (id, usage) in tenants {
        count += 1;
        let id_bytes = u16::try_from(id.len()).expect("ids are short parts of keys");
        bytes.extend(id_bytes.to_le_bytes());
        bytes.extend(id.as_bytes());
        for value in [usage.queries, usage.inserts, usage.deletes] {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&count.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<String, Usage>> {
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*sum) {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut tenants = BTreeMap::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (id_bytes, after) = rest.split_first_chunk::<2>()?;
        let (id, after) = after.split_at_checked(u16::from_le_bytes(*id_bytes).into())?;
        let (values, after) = after.split_first_chunk::<24>()?;
        let value = |index: usize| {
            let bytes = values[index * 8..].first_chunk().expect("three values of 8 bytes");
            u64::from_le_bytes(*bytes)
        };
        let usage = Usage { queries: value(0), inserts: value(1), deletes: value(2) };
        tenants.insert(std::str::from_utf8(id).ok()?.to_owned(), usage);
        rest = after;
    }
    rest.is_empty().then_some(tenants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_restored_after_a_restart_and_a_damaged_file_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let folder = folder(directory.path());
        assert_eq!(restore(&folder), Ok(BTreeMap::new()));
        let usage = |n| Usage { queries: n, inserts: n << 40, deletes: u64::MAX - n };
        let all = [("a", usage(1)), ("b_2", usage(2))];
        save(&folder, all.into_iter(), &[], 7, true).unwrap();
        let restored = restore(&folder).unwrap();
        assert_eq!(restored, all.map(|(id, usage)| (id.to_owned(), usage)).into());
        assert!(folder.join("tenant_usage_shutdown_7.csv").exists());
        let path = folder.join(STATE_NAME);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]), None);
        }
        let mut flipped = whole;
        flipped[20] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert_eq!(restore(&folder), Ok(BTreeMap::new()));
        assert!(folder.join("usage_state.snap.damaged").exists() && !path.exists());
    }

    #[test]
    fn usage_table_has_its_documented_columns() {
        let usage = TenantUsage {
            tenant_id: "acme".into(),
            query_count: 3,
            insert_count: 2,
            delete_count: 1,
            vector_count: 1,
            storage_bytes: 1_572_864,
            storage_mb: 1.5,
            storage_gb: 0.0015,
            billable_events: 6,
        };
        assert_eq!(
            csv(&[usage], 1_700_000_000),
            "tenant_id,query_count,insert_count,delete_count,vector_count,storage_bytes,\
             storage_mb,billable_events,timestamp\nacme,3,2,1,1,1572864,1.50,6,1700000000\n"
        );
    }
}
