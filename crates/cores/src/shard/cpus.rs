//! Which CPUs this process may use, how cores and gateway share them, and on which NUMA node each lies.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};

/// Division of the CPUs between cores and other threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// CPU of each core, all different.
    pub cores: Vec<usize>,
    /// CPUs for gateway, HTTP, pulse and blocking work: those that no core has. All CPUs if there are too few to set
    /// any aside.
    pub others: Vec<usize>,
    /// No other thread runs on the CPUs of cores, so a core may spin for a moment before it sleeps.
    pub is_dedicated: bool,
    /// Number of NUMA nodes with cores, as reported by the kernel.
    pub nodes: usize,
}

/// Number of CPUs below which cores share their CPUs with other threads: the gateway and clients on this machine need
/// them too.
const DEDICATED_CPUS_MIN: usize = 4;

/// CPUs that this process may run on, by the scheduler's affinity and so by the cpuset. Ask
/// before pinning anything.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let mut cpus: Vec<usize> = ids.into_iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    cpus
}

/// Divides `allowed` CPUs among `cores` cores and the rest; 0 cores means as many as fit.
///
/// By default a quarter of the CPUs, but at least one, is left to the gateway: decoding and
/// encoding a request costs about as much as answering it.
///
/// # Errors
/// If there are fewer CPUs than cores.
pub fn place(allowed: &[usize], cores: usize) -> Result<Placement> {
    if allowed.is_empty() {
        return Err(Error::invalid("runtime.cores", "the allowed CPUs can't be read"));
    }
    let count = match cores {
        0 => (allowed.len() - (allowed.len() / 4).max(1)).max(1),
        count => count,
    };
    if count > allowed.len() {
        let why = format!(
            "{count} cores are asked for, but this process may run on {} CPUs ({allowed:?}); \
             lower it, or widen the cpuset",
            allowed.len()
        );
        return Err(Error::invalid("runtime.cores", why));
    }
    // From the end: CPU 0 takes most interrupts.
    let (others, cores) = allowed.split_at(allowed.len() - count);
    let is_dedicated = allowed.len() >= DEDICATED_CPUS_MIN && !others.is_empty();
    let others = if is_dedicated { others } else { allowed };
    Ok(Placement { cores: cores.to_vec(), others: others.to_vec(), is_dedicated, nodes: 1 })
}

/// NUMA node of a CPU, read below `root` (`/sys`); 0 if the kernel does not report it.
#[must_use]
pub fn node_of(root: &Path, cpu: usize) -> usize {
    let directory = root.join(format!("sys/devices/system/cpu/cpu{cpu}"));
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let node = |entry: std::fs::DirEntry| {
        entry.file_name().to_str()?.strip_prefix("node")?.parse::<usize>().ok()
    };
    entries.filter_map(node).min().unwrap_or(0)
}

impl Placement {
    /// Takes an unchanged number of CPUs for cores, but from each NUMA node its share, and lists those of a node next
    /// to each other, since they share near memory. `root` is where `/sys` is mounted.
    #[must_use]
    pub fn by_node(self, root: &Path) -> Self {
        let count = self.cores.len();
        let mut all: Vec<usize> = self.cores.iter().chain(&self.others).copied().collect();
        all.sort_unstable();
        all.dedup();
        let mut by_node: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for cpu in all.iter().copied() {
            by_node.entry(node_of(root, cpu)).or_default().push(cpu);
        }
        if by_node.len() < 2 || count < by_node.len() {
            return self;
        }
        let mut cores = Vec::with_capacity(count);
        let (mut seen, mut nodes) = (0, 0);
        for cpus in by_node.values() {
            // Number of core CPUs due up to this node, rounded: the shares of the nodes add up to all cores.
            seen += cpus.len();
            let due = (count * seen + all.len() / 2) / all.len() - cores.len();
            cores.extend(&cpus[cpus.len() - due.min(cpus.len())..]);
            nodes += usize::from(due > 0);
        }
        let others = match self.is_dedicated {
            true => all.into_iter().filter(|cpu| !cores.contains(cpu)).collect(),
            false => self.others,
        };
        Self { cores, others, nodes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory like `/sys` that says on which node each CPU is; nothing for `None`.
    fn host(nodes: &[Option<usize>]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (cpu, node) in nodes.iter().enumerate() {
            let directory = root.path().join(format!("sys/devices/system/cpu/cpu{cpu}"));
            std::fs::create_dir_all(directory.join("cache")).unwrap();
            if let Some(node) = node {
                std::fs::create_dir(directory.join(format!("node{node}"))).unwrap();
            }
        }
        root
    }

    #[test]
    fn each_node_has_its_share_of_the_cores() {
        let placed = |nodes: &[Option<usize>], cores| {
            let cpus: Vec<usize> = (0..nodes.len()).collect();
            place(&cpus, cores).unwrap().by_node(host(nodes).path())
        };
        let node = |node: usize, count| vec![Some(node); count];
        // Contiguous blocks; the first used to give all CPUs of the gateway.
        let two = placed(&[node(0, 8), node(1, 8)].concat(), 0);
        assert_eq!(two.cores, [2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15]);
        assert_eq!((two.others, two.nodes), (vec![0, 1, 8, 9], 2));
        // The second hardware threads of both nodes have the higher numbers.
        let threads = [node(0, 2), node(1, 2), node(0, 2), node(1, 2)].concat();
        assert_eq!(placed(&threads, 8).cores, [0, 1, 4, 5, 2, 3, 6, 7]);
        let uneven = placed(&[node(0, 6), node(1, 2)].concat(), 4);
        assert_eq!((uneven.cores, uneven.nodes), (vec![3, 4, 5, 7], 2));
        // Unchanged with one node, one core, or no information.
        let cpus: Vec<usize> = (0..8).collect();
        for (nodes, cores) in
            [(node(0, 8), 0), (vec![None; 8], 0), ([node(0, 4), node(1, 4)].concat(), 1)]
        {
            assert_eq!(placed(&nodes, cores), place(&cpus, cores).unwrap());
        }
    }

    #[test]
    fn leaves_cpus_to_the_gateway() {
        let placed = |cpus: &[usize], cores| place(cpus, cores).unwrap();
        assert_eq!(placed(&[0], 0).cores, [0]);
        assert_eq!(placed(&[0, 1], 0).cores, [1]);
        assert_eq!(placed(&[0, 1], 0).others, [0, 1]);
        assert_eq!(placed(&[0, 1], 2).cores, [0, 1]);
        let eight: Vec<usize> = (8..16).collect();
        let placement = placed(&eight, 0);
        assert_eq!((placement.cores.len(), placement.others), (6, vec![8, 9]));
        assert!(placement.is_dedicated);
        assert!(place(&[3, 5], 3).unwrap_err().to_string().contains("[3, 5]"));
    }

    #[test]
    fn this_machine_has_cpus() {
        assert!(!allowed().is_empty());
    }
}
