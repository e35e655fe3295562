//! Facts about the machine of the load tester: figures of one machine mean little on another.

use serde::Serialize;

/// The facts of a machine.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    /// CPUs that this program may use.
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
}

impl Machine {
    /// The facts of this machine. Unknown ones are empty or 0.
    pub(super) fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: value(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib << 10),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// Ticks per second of process times in `/proc`, equal on all supported kernels.
const TICKS_A_SECOND: f64 = 100.0;

/// CPU time of this program so far, in seconds; 0 if unknown.
pub(super) fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&text).map_or(0.0, |ticks| ticks as f64 / TICKS_A_SECOND)
}

/// User and system time in a line of `/proc/PID/stat`, in ticks. The name before may contain any text.
fn ticks(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// The first value of a key in lines of `key : value`.
fn value(text: &str, key: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find(|(name, _)| name.trim() == key).map(|(_, v)| v.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_read_behind_any_name() {
        let text = "7 (a ) b) S 1 7 7 0 -1 4194304 9 0 0 0 120 30 0 0 20 0 5 0 99 0 0";
        assert_eq!(ticks(text), Some(150));
        assert_eq!(ticks("7 (a) S 1"), None);
        let before = cpu_seconds();
        let mut sum = 0_u64;
        while cpu_seconds() <= before {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
        }
        assert!(cpu_seconds() > before);
    }

    #[test]
    fn values_are_found_by_key() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2\nprocessor\t: 1\n";
        assert_eq!(value(text, "model name").as_deref(), Some("Some CPU @ 2"));
        assert_eq!(value(text, "processor").as_deref(), Some("0"));
        assert_eq!(value(text, "model"), None);
    }
}
