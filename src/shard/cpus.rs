//! Which CPUs this process may use, and how cores and gateway share them.

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
    Ok(Placement { cores: cores.to_vec(), others: others.to_vec(), is_dedicated })
}

#[cfg(test)]
mod tests {
    use super::*;

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
