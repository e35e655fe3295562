//! Limits of the control group of this process, for cgroup versions 1 and 2.

use super::Host;
use super::report::{About, Check};
use super::tree::Tree;
use crate::shard::cpus;

const MOUNT: &str = "sys/fs/cgroup";

/// Most levels of groups that are read.
const LEVELS_MAX: usize = 32;

/// Limit that a controller sets for a group and all above it.
enum Found<T> {
    /// The tightest of the limits.
    Limit(T),
    /// There is no limit.
    None,
    /// No limit could be read.
    Unknown,
}

pub(super) fn cpu(host: &Host<'_>) -> Check {
    let about = About {
        name: "cgroup_cpu",
        why: "a group that has used up its quota stops for the rest of a period, up to 100 ms, \
              and every search with it",
    };
    let quota = tightest(host.tree, "cpu", |directory, is_unified| {
        let (quota, period) = if is_unified {
            let line = host.tree.line(&format!("{directory}/cpu.max"))?;
            let (quota, period) = line.split_once(' ')?;
            (quota.to_owned(), period.parse::<f64>().ok()?)
        } else {
            let quota = host.tree.line(&format!("{directory}/cpu.cfs_quota_us"))?;
            (quota, host.tree.number(&format!("{directory}/cpu.cfs_period_us"))? as f64)
        };
        match quota.as_str() {
            "max" | "-1" => Some(f64::INFINITY),
            quota => Some(quota.parse::<f64>().ok()? / period.max(1.0)),
        }
    });
    match quota {
        Found::Unknown => about.unknown("the group's CPU controller can't be read"),
        Found::None => about.ok("no quota"),
        Found::Limit(cpus) if cpus.is_infinite() => about.ok("no quota"),
        Found::Limit(quota) => {
            let allowed = host.allowed.as_deref().unwrap_or_default();
            let change = "in a systemd unit CPUQuota= (empty) and AllowedCPUs=LIST; docker run \
                          --cpuset-cpus LIST in place of --cpus";
            let found = format!("a quota of {quota:.2} CPUs on {} allowed ones", allowed.len());
            let cores = cpus::place(allowed, host.config.runtime.cores);
            match cores {
                Ok(placement) if quota < placement.cores.len() as f64 => {
                    about.bad(format!("{found}, less than there are cores"), change)
                }
                _ => about.warn(found, change),
            }
        }
    }
}

/// Limits of version 1 from here on mean none: it counts in pages up to the largest number.
const NO_LIMIT_BYTES: u64 = 1 << 62;

pub(super) fn memory(host: &Host<'_>) -> Check {
    let about = About {
        name: "memory",
        why: "vectors, graphs and metadata are in memory; at the limit the kernel ends the server",
    };
    let Some(total) = mem_total(host.tree) else {
        return about.unknown("/proc/meminfo does not tell");
    };
    let (limit, found) = match tightest_memory(host.tree) {
        Found::Unknown => {
            let total = total >> 20;
            return about
                .unknown(format!("the host has {total} MiB; the group's limit is unknown"));
        }
        Found::Limit(bytes) if (bytes as u64) < NO_LIMIT_BYTES && (bytes as u64) < total => {
            let limit = bytes as u64;
            (limit, format!("a limit of {} MiB on a host with {}", limit >> 20, total >> 20))
        }
        _ => (total, format!("{} MiB, and no lower limit", total >> 20)),
    };
    let found = format!("{found}; the data directory takes {} MiB", host.probes.data_bytes >> 20);
    // Memory in use is estimated from the size of the newest snapshots; the directory holds up to two of each shard.
    if host.probes.data_bytes / 2 > limit / 10 * 8 {
        let change = "raise it: MemoryMax= in a systemd unit, docker run --memory BYTES, or take a \
                      host with more";
        return about.warn(found, change);
    }
    about.ok(found)
}

/// Bytes that this process may use: the limit of its group, or the memory of the host if that is less. `None` if
/// neither can be read.
pub(super) fn memory_limit(tree: &Tree) -> Option<u64> {
    let total = mem_total(tree)?;
    match tightest_memory(tree) {
        Found::Limit(bytes) => Some(total.min(bytes as u64)),
        Found::None | Found::Unknown => Some(total),
    }
}

fn tightest_memory(tree: &Tree) -> Found<f64> {
    tightest(tree, "memory", |directory, is_unified| {
        let names: &[&str] =
            if is_unified { &["memory.max", "memory.high"] } else { &["memory.limit_in_bytes"] };
        let limits = names.iter().filter_map(|name| {
            let line = tree.line(&format!("{directory}/{name}"))?;
            if line == "max" { Some(u64::MAX) } else { line.parse().ok() }
        });
        limits.min().map(|bytes| bytes as f64)
    })
}

fn mem_total(tree: &Tree) -> Option<u64> {
    let text = tree.text("proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The tightest limit from this process's group up to the root. `read` gets a directory, and whether it is of version
/// 2.
fn tightest(tree: &Tree, controller: &str, read: impl Fn(&str, bool) -> Option<f64>) -> Found<f64> {
    let Some((mount, group, is_unified)) = group(tree, controller) else {
        return Found::Unknown;
    };
    // In a container the path may be the host's, which is not visible: there the own group is the root.
    let is_seen = !group.contains("..") && tree.has_directory(&format!("{mount}{group}"));
    let group = if is_seen { group.trim_end_matches('/') } else { "" };
    let levels = group.split('/').count().min(LEVELS_MAX);
    let directories = (1..=levels).map(|level| {
        let parts: Vec<&str> = group.split('/').take(level).collect();
        format!("{mount}{}", parts.join("/"))
    });
    let limit = directories.filter_map(|directory| read(&directory, is_unified)).reduce(f64::min);
    match limit {
        Some(limit) => Found::Limit(limit),
        // The root has no limits, and in version 2 no files for them.
        None if is_seen && group.is_empty() => Found::None,
        None => Found::Unknown,
    }
}

/// Mount point of a controller, the group of this process there, and whether it is version 2.
fn group(tree: &Tree, controller: &str) -> Option<(String, String, bool)> {
    let text = tree.text("proc/self/cgroup")?;
    let mut unified = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (id, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        if id == "0" && names.is_empty() {
            unified = Some(path.to_owned());
        } else if names.split(',').any(|name| name == controller) {
            let mounts = [format!("{MOUNT}/{names}"), format!("{MOUNT}/{controller}")];
            let mount = mounts.into_iter().find(|mount| tree.has_directory(mount))?;
            return Some((mount, path.to_owned(), false));
        }
    }
    Some((MOUNT.into(), unified?, true))
}
