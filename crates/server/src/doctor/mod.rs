//! `--doctor`: checks the host and the file system of the data directory, and recommends changes.
//!
//! `/proc` and `/sys` are read below a root of the caller's choice ([`Tree`]), so that tests check hosts that they do
//! not run on. Results of system calls are taken once, beforehand ([`Probes`]). Every check is a function of these two
//! and of the configuration.
//!
//! An unreadable value is [`Verdict::Unknown`], never ok. Everything that is read has a bound. Nothing on the host is
//! changed; the only write is to a file of 1 MiB in the data directory, or where that would be made, which loses its
//! name before anything is written to it.

mod cgroup;
mod cpu;
mod disk;
mod kernel;
mod memory;
mod network;
mod probes;
mod report;
#[cfg(test)]
mod tests;
mod tree;

use std::path::Path;

use crate::config::Config;
use crate::shard::cpus;

pub use probes::{LogProbe, Probes, Syncs};
pub use report::{Check, Report, Verdict};
pub use tree::Tree;

/// Checks this host. Takes up to about five seconds if the disk is slow.
///
/// # Errors
/// If no check is possible: there is no `/proc`, or the path of the data directory is not a directory.
pub fn run(config: &Config) -> Result<Report, String> {
    let tree = Tree::new(Path::new("/"));
    if tree.text("proc/self/status").is_none() {
        return Err("/proc can't be read: mount it, `mount -t proc proc /proc`".into());
    }
    let probes = Probes::take(&tree, &config.persistence)?;
    Ok(examine(&tree, &probes, config))
}

/// Bytes of memory that this process may use, by its control group and the host. `None` if neither can be read.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    cgroup::memory_limit(&Tree::new(Path::new("/")))
}

/// Report on a host, from its files and the probes.
#[must_use]
pub fn examine(tree: &Tree, probes: &Probes, config: &Config) -> Report {
    let host = Host::new(tree, probes, config);
    let mut checks = vec![
        kernel::version(&host),
        kernel::io_uring(&host),
        kernel::memlock(&host),
        kernel::open_files(&host),
        kernel::clock_source(&host),
        cpu::count(&host),
        cpu::smt(&host),
        cpu::governor(&host),
        cpu::numa(&host),
        cpu::l3(&host),
        cpu::steal(&host),
        cgroup::cpu(&host),
        cgroup::memory(&host),
        memory::huge_pages(&host),
        memory::swap(&host),
        network::ports(&host),
        disk::access(&host),
        disk::file_system(&host),
        disk::direct_io(&host),
        disk::sync_latency(&host),
        disk::power_loss(&host),
        disk::scheduler(&host),
        disk::free_space(&host),
    ];
    checks.extend(disk::log(&host));
    Report::new(&probes.directory, checks)
}

/// Inputs of a check.
struct Host<'a> {
    tree: &'a Tree,
    probes: &'a Probes,
    config: &'a Config,
    /// CPUs that this process may run on; `None` if unknown.
    allowed: Option<Vec<usize>>,
    /// CPUs on which a server would pin its cores.
    cores: Option<Vec<usize>>,
}

impl<'a> Host<'a> {
    fn new(tree: &'a Tree, probes: &'a Probes, config: &'a Config) -> Self {
        let status = tree.text("proc/self/status");
        let allowed = status.as_deref().and_then(|text| {
            let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            tree::cpu_list(list)
        });
        let placed = allowed.as_ref().map(|cpus| cpus::place(cpus, config.runtime.cores));
        let cores = placed.and_then(Result::ok).map(|placement| placement.cores);
        Self { tree, probes, config, allowed, cores }
    }
}
