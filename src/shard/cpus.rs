//! Which CPUs this process may use, how cores and gateway share them, and how near to each other they
//! are.

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
    /// Puts cores next to each other that share a NUMA node, and so the memory that is near; `root`
    /// is where `/sys` is.
    #[must_use]
    pub fn sorted_by_node(mut self, root: &Path) -> Self {
        self.cores.sort_by_key(|&cpu| (node_of(root, cpu), cpu));
        let mut nodes: Vec<usize> = self.cores.iter().map(|&cpu| node_of(root, cpu)).collect();
        nodes.dedup();
        self.nodes = nodes.len();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_of_a_node_lie_next_to_each_other() {
        let root = tempfile::tempdir().unwrap();
        // Two nodes, whose second threads have the higher numbers, and one CPU that is offline.
        for cpu in 0..8 {
            let directory = root.path().join(format!("sys/devices/system/cpu/cpu{cpu}"));
            std::fs::create_dir_all(directory.join("cache")).unwrap();
            if cpu != 7 {
                std::fs::create_dir(directory.join(format!("node{}", cpu % 4 / 2))).unwrap();
            }
        }
        let placed = |cpus: &[usize]| {
            let placement = place(cpus, cpus.len()).unwrap().sorted_by_node(root.path());
            (placement.nodes, placement.cores)
        };
        assert_eq!(placed(&[0, 1, 2, 3, 4, 5, 6]), (2, vec![0, 1, 4, 5, 2, 3, 6]));
        assert_eq!(placed(&[0, 1, 4]), (1, vec![0, 1, 4]));
        assert_eq!(placed(&[7, 9]), (1, vec![7, 9]), "nothing is known of them");
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
