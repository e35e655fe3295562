//! Which CPUs this process may use, how cores and gateway share them, and how near to each other they
//! are.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};

/// How the CPUs are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The CPU of each core: distinct.
    pub cores: Vec<usize>,
    /// The other CPUs: gateway, HTTP, pulse and blocking work run there. All CPUs where there
    /// are too few to set any aside.
    pub others: Vec<usize>,
    /// The cores have their CPUs to themselves, and may spin for a moment before they sleep.
    pub is_dedicated: bool,
    /// NUMA nodes that the cores lie on, as far as is known.
    pub nodes: usize,
}

/// Below this many CPUs none is kept free of everything but its core: the threads that remain,
/// and the clients on the same machine, need them too.
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

/// The NUMA node of a CPU, by what the kernel says below `/sys`; 0 where it says nothing.
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
    /// Takes as many CPUs for cores as before, but from each NUMA node its share, and puts those of a
    /// node next to each other: they share the memory that is near. `root` is where `/sys` is.
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
            // What is due up to here, rounded: the shares add up to all cores.
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

    /// A tree of files that says on which node each CPU is; of `None` it says nothing.
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
        // In blocks, of which one used to give all CPUs for the gateway.
        let two = placed(&[node(0, 8), node(1, 8)].concat(), 0);
        assert_eq!(two.cores, [2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15]);
        assert_eq!((two.others, two.nodes), (vec![0, 1, 8, 9], 2));
        // The second threads of both have the higher numbers.
        let threads = [node(0, 2), node(1, 2), node(0, 2), node(1, 2)].concat();
        assert_eq!(placed(&threads, 8).cores, [0, 1, 4, 5, 2, 3, 6, 7]);
        let uneven = placed(&[node(0, 6), node(1, 2)].concat(), 4);
        assert_eq!((uneven.cores, uneven.nodes), (vec![3, 4, 5, 7], 2));
        // One node, one core, or nothing known: as it was.
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
