//! Resources that a data set needs, computed before buying a machine: memory by part, and disk space. And the memory
//! that a server may use.
//!
//! Figures are sums over the parts of the engine per document; `tests/server` compares them with a running server.

use std::fmt::{Display, Formatter, Result as FmtResult};
use std::path::{Path, PathBuf};

use crate::config::{Config, MemorySection, PersistenceSection};
use crate::disk::folders::{Folders, place};
use crate::disk::space::Room;
use crate::doctor;
use crate::engine::Params;
use crate::engine::memory::Memory;
use crate::shard::snapshot::Due;

/// Share of the available memory that is used by default, 9/10: the rest is for the kernel, and for growth between two
/// measurements.
const SHARE: u64 = 9;
const SHARE_OF: u64 = 10;

/// Memory of the program with its threads and their stacks, and of each core's buffers for reads and writes.
const PROGRAM_BYTES: u64 = 48 << 20;
const CORE_BYTES: u64 = 16 << 20;

/// One in this many versions in memory may be dead and not reclaimed yet.
const DEAD_SHARE: u64 = 32;

/// Segments of a shard's log in addition to the bytes after which a snapshot is due: the active one, the next one, and
/// the one in which the older snapshot begins.
const SEGMENTS_BESIDE: u64 = 3;

/// Factor of those bytes that is kept: the log is kept from the older of two snapshots on.
const LOGS_KEPT: u64 = 2;

/// Memory limit of a server in bytes; `u64::MAX` if none is configured and the available memory is unknown.
#[must_use]
pub fn memory_max(memory: &MemorySection) -> u64 {
    match memory.max_bytes {
        0 => doctor::memory_limit().map_or(u64::MAX, |bytes| bytes / SHARE_OF * SHARE),
        bytes => bytes,
    }
}

/// Size of the data set to plan for.
#[derive(Clone, Copy, Debug)]
pub struct DataSet {
    /// Number of documents.
    pub rows: u64,
    /// Bytes of keys and values of the metadata per document.
    pub metadata_bytes: usize,
}

/// Resources that a data set needs.
#[derive(Clone, Debug)]
pub struct Plan {
    data: DataSet,
    params: Params,
    document: Memory,
    cores: u64,
    shards: u64,
    /// When a snapshot of a shard is due.
    due: Due,
    segment_bytes: u64,
    /// Most bytes of vectors in memory that no snapshot has, for vectors on disk.
    unsaved_bytes: u64,
    cache_bytes: u64,
    memory_max: u64,
    /// Directory of the files, and free bytes there, if known.
    data_dir: PathBuf,
    disk_free: Option<u64>,
    /// Directory of the log, and free bytes there, if it has a file system of its own.
    log: Option<(PathBuf, Option<u64>)>,
}

impl Plan {
    /// Plans for the data with this configuration, on `cores` cores.
    #[must_use]
    pub fn new(
        config: &Config,
        params: Params,
        data: DataSet,
        cores: usize,
        shards: usize,
    ) -> Self {
        let persistence = &config.persistence;
        let shards = shards as u64;
        let on_disk = u64::from(params.vectors.are_on_disk());
        Self {
            data,
            document: Memory::of_document(&params, data.metadata_bytes),
            unsaved_bytes: on_disk * config.storage.unsaved_bytes,
            cache_bytes: on_disk * config.cache.document_bytes,
            params,
            cores: cores as u64,
            shards,
            due: Due {
                mutations: persistence.snapshot_interval_mutations,
                log_bytes: persistence.max_wal_size_bytes,
            },
            segment_bytes: persistence.wal_segment_bytes,
            memory_max: memory_max(&config.memory),
            data_dir: persistence.data_dir.clone(),
            disk_free: free(&persistence.data_dir),
            log: elsewhere(persistence).map(|log| (log.clone(), free(&log))),
        }
    }

    /// Memory in total, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let documents = self.data.rows.saturating_mul(self.document.sum() as u64);
        let whole = documents.saturating_add(documents / DEAD_SHARE);
        whole.saturating_add(self.program_bytes()).saturating_add(self.vector_bytes())
    }

    /// Bytes of vectors on disk that are in memory nevertheless, cached or not yet written: at most all vectors.
    fn vector_bytes(&self) -> u64 {
        let all = self.data.rows.saturating_mul(Memory::of_row(self.params.dimension) as u64);
        self.unsaved_bytes.min(all).saturating_add(self.cache_bytes.min(all))
    }

    /// Most bytes on the disk of the data directory.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let log_bytes = if self.log.is_none() { self.log_bytes() } else { 0 };
        self.snapshot_bytes().saturating_add(log_bytes)
    }

    /// True if it fits into the memory that the server may use.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.memory_bytes() <= self.memory_max
    }

    /// True if it fits onto the disk, as far as that is known.
    #[must_use]
    pub fn fits_on_disk(&self) -> bool {
        let log_free = self.log.as_ref().and_then(|(_, free)| *free);
        self.disk_free.is_none_or(|free| self.disk_bytes() <= free)
            && log_free.is_none_or(|free| self.log_bytes() <= free)
    }

    fn program_bytes(&self) -> u64 {
        PROGRAM_BYTES + self.cores * CORE_BYTES
    }

    /// Bytes of snapshots. Vectors and metadata lie in files of which at least half is in use; the other parts are
    /// written whole, and there are two snapshots beside the one being written.
    fn snapshot_bytes(&self) -> u64 {
        let Memory { links, ids, .. } = self.document;
        let whole = (links + ids) as u64;
        self.data.rows.saturating_mul(2 * self.carried_bytes() + 3 * whole)
    }

    /// Bytes per document that the next snapshot may leave in place: vector and metadata.
    fn carried_bytes(&self) -> u64 {
        (Memory::of_row(self.params.dimension) + self.data.metadata_bytes) as u64
    }

    /// Bytes of the logs of all shards: for each, a snapshot is due separately.
    fn log_bytes(&self) -> u64 {
        let written = self.data.rows.saturating_mul(self.carried_bytes()) / self.shards.max(1);
        let asks = self.due.log_bytes_max(written).saturating_mul(LOGS_KEPT);
        let segments = SEGMENTS_BESIDE.saturating_mul(self.segment_bytes);
        asks.saturating_add(segments).saturating_mul(self.shards)
    }
}

fn write_verdict(f: &mut Formatter<'_>, bytes: u64, free: Option<u64>) -> FmtResult {
    let Some(free) = free else { return Ok(()) };
    let verdict = if bytes <= free { "fits" } else { "does NOT fit" };
    write!(f, "\n  That {verdict} into the {} that are free there.", human(free))
}

/// Directory of the log, if it is on another file system than the data directory.
fn elsewhere(persistence: &PersistenceSection) -> Option<PathBuf> {
    let folders = Folders::of(&persistence.data_dir);
    let log = folders.log().map(Path::to_owned).or_else(|| persistence.wal_dir.clone())?;
    let device = |path: &Path| {
        let absolute = std::path::absolute(path).ok()?;
        absolute.ancestors().find_map(place).map(|(device, _)| device)
    };
    (device(&log) != device(&persistence.data_dir)).then_some(log)
}

/// Free bytes on the file system of this directory, existing or not.
fn free(directory: &Path) -> Option<u64> {
    let absolute = std::path::absolute(directory).ok()?;
    let room = absolute.ancestors().find_map(|existing| Room::of(existing).ok())?;
    Some(room.available)
}

/// Formats bytes for people.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let Params { dimension, graph, codes, .. } = &self.params;
        let DataSet { rows, metadata_bytes } = self.data;
        let codes = match (*codes, self.params.vectors.are_on_disk()) {
            (false, _) => "without codes",
            (true, false) => "with 8-bit codes",
            (true, true) => "with 8-bit codes, vectors on disk",
        };
        writeln!(
            f,
            "{rows} documents of {dimension} values and {metadata_bytes} bytes of metadata, \
             hnsw.m {}, {codes}, {} shards on {} cores\n",
            graph.m, self.shards, self.cores
        )?;
        writeln!(f, "{:<34}{:>12}{:>14}", "Memory", "a document", "in all")?;
        let Memory { vectors, codes, links, ids, metadata, metadata_index, hot_tier } =
            self.document;
        let parts = [
            ("vectors", vectors),
            ("codes", codes),
            ("links of the graph", links),
            ("ids and lifetimes", ids),
            ("metadata", metadata),
            ("index of the metadata, at most", metadata_index),
            ("what leads to unlinked documents", hot_tier),
        ];
        for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0) {
            let all = human(rows.saturating_mul(bytes as u64));
            writeln!(f, "  {name:<32}{:>12}{all:>14}", format!("{bytes} B"))?;
        }
        let dead = rows.saturating_mul(self.document.sum() as u64) / DEAD_SHARE;
        writeln!(f, "  {:<44}{:>14}", "versions that are replaced, at most", human(dead))?;
        if self.vector_bytes() > 0 {
            let name = "vectors: not saved yet, and cached, at most";
            writeln!(f, "  {name:<44}{:>14}", human(self.vector_bytes()))?;
        }
        writeln!(f, "  {:<44}{:>14}", "the program", human(self.program_bytes()))?;
        writeln!(f, "  {:<44}{:>14}", "together", human(self.memory_bytes()))?;
        let verdict = match (self.memory_max, self.fits()) {
            (u64::MAX, _) => "There is no bound on memory (memory.max_bytes).".to_owned(),
            (max, true) => format!("That fits into the {} that this server may use.", human(max)),
            (max, false) => format!(
                "That does NOT fit into the {} that this server may use (memory.max_bytes, or nine \
                 tenths of what there is).",
                human(max)
            ),
        };
        writeln!(f, "  {verdict}\n")?;
        writeln!(f, "Disk, at most ({})", self.data_dir.display())?;
        writeln!(f, "  {:<44}{:>14}", "snapshots", human(self.snapshot_bytes()))?;
        if self.log.is_none() {
            writeln!(f, "  {:<44}{:>14}", "the log", human(self.log_bytes()))?;
        }
        write!(f, "  {:<44}{:>14}", "together", human(self.disk_bytes()))?;
        write_verdict(f, self.disk_bytes(), self.disk_free)?;
        let Some((log, free)) = &self.log else { return Ok(()) };
        writeln!(f, "\n\nDisk of the log, at most ({})", log.display())?;
        write!(f, "  {:<44}{:>14}", "the log", human(self.log_bytes()))?;
        write_verdict(f, self.log_bytes(), *free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::VectorStorage as Storage;
    use crate::engine::testing::params;
    use crate::graph;

    fn plan(rows: u64, max_bytes: u64) -> Plan {
        plan_of(Storage::Memory, rows, max_bytes)
    }

    fn plan_of(vectors: Storage, rows: u64, max_bytes: u64) -> Plan {
        let mut config = Config::default();
        config.memory.max_bytes = max_bytes;
        let graph = graph::Params { m: 16, ef_construction: 200, seed: 0 };
        let params = Params { dimension: 384, graph, vectors, ..params() };
        Plan::new(&config, params, DataSet { rows, metadata_bytes: 20 }, 2, 2)
    }

    #[test]
    fn plans_tell_whether_a_data_set_fits() {
        let small = plan(1_000, 1 << 30);
        assert!(small.fits());
        let large = plan(10_000_000, 1 << 30);
        assert!(!large.fits());
        let text = large.to_string();
        assert!(text.contains("does NOT fit into the 1.0 GiB"), "{text}");
        let on_disk = plan_of(Storage::Disk { unsaved_bytes_max: 0 }, 10_000_000, 1 << 30);
        assert!(on_disk.memory_bytes() < large.memory_bytes() / 2);
        assert_eq!(on_disk.disk_bytes(), large.disk_bytes());
        assert!(on_disk.to_string().contains("cached, at most"));
        assert_eq!(plan_of(Storage::Disk { unsaved_bytes_max: 0 }, 0, 1 << 30).vector_bytes(), 0);
        let endless = plan(u64::MAX, u64::MAX);
        assert!(endless.disk_bytes() > 1 << 62 && !endless.fits_on_disk());
        assert!(endless.to_string().contains("does NOT fit into the"), "{endless}");
        assert!(small.to_string().contains("free there"), "{small}");
        // The bytes per document were measured: some 2,300.
        let each = (large.memory_bytes() - small.memory_bytes()) / (10_000_000 - 1_000);
        assert!((2_100..2_500).contains(&each), "{each}");
    }

    #[test]
    fn the_log_is_as_long_as_a_snapshot_may_let_it_become() {
        // Two shards, with three segments of 32 MiB in addition. A row of 384 values takes 1,536 bytes.
        let logs = |rows| plan(rows, 1 << 30).log_bytes() / 2 - 3 * (32 << 20);
        assert_eq!(logs(1_000), 2 * (100 << 20));
        let third = 1_000_000 / 2 * (1_536 + 20) / 3;
        assert_eq!(logs(1_000_000), 2 * third);
        assert_eq!(logs(1_000_000_000), 2 * 16 * (100 << 20));
    }

    #[test]
    fn a_log_on_another_file_system_is_told_by_itself() {
        let mut config = Config::default();
        let together = plan(1_000_000, 1 << 30);
        let persistence = &mut config.persistence;
        persistence.data_dir = env!("CARGO_MANIFEST_DIR").into();
        persistence.wal_dir = Some(env!("CARGO_MANIFEST_DIR").into());
        assert_eq!(elsewhere(persistence), None, "it is the same one");
        persistence.wal_dir = Some("/proc/self".into());
        let of = elsewhere(persistence);
        assert_eq!(of.as_deref(), Some(Path::new("/proc/self")));
        let apart = Plan { log: of.map(|log| (log, Some(1 << 20))), ..together.clone() };
        assert_eq!(apart.disk_bytes() + apart.log_bytes(), together.disk_bytes());
        assert!(!apart.fits_on_disk());
        let text = apart.to_string();
        let (_, log) = text.split_once("Disk of the log, at most (/proc/self)").unwrap();
        assert!(log.contains("does NOT fit into the 1.0 MiB"), "{text}");
    }

    #[test]
    fn the_bound_is_what_is_configured_or_less_than_there_is() {
        assert_eq!(memory_max(&MemorySection { max_bytes: 7 }), 7);
        let there_is = doctor::memory_limit().unwrap();
        let bound = memory_max(&MemorySection { max_bytes: 0 });
        assert!(bound < there_is && bound > there_is / 2, "{bound} of {there_is}");
    }
}
