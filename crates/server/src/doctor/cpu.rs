//! CPUs: those this process may use, how they are related, and what takes time from them.

use std::collections::BTreeSet;

use super::Host;
use super::report::{About, Check};
use super::tree::as_list;
use crate::shard::cpus;

const CPUS: &str = "sys/devices/system/cpu";
const NO_AFFINITY: &str = "/proc/self/status does not tell which CPUs may be used";

pub(super) fn count(host: &Host<'_>) -> Check {
    let about = About {
        name: "cpus",
        why: "with fewer than four, cores share their CPUs with the gateway, and searches wait for \
              its threads",
    };
    let Some(allowed) = &host.allowed else {
        return about.unknown(NO_AFFINITY);
    };
    let online = host.tree.list(&format!("{CPUS}/online"));
    let online = online.map_or_else(|| "an unknown number".into(), |cpus| cpus.len().to_string());
    let found = format!("{} of {online}: {}", allowed.len(), as_list(allowed));
    match cpus::place(allowed, host.config.runtime.cores) {
        Err(error) => about.bad(format!("{found}; {error}"), "KYRODB__RUNTIME__CORES=0"),
        Ok(placement) => {
            let cores = as_list(&placement.cores);
            let found = format!("{found}; cores on {cores}");
            if placement.is_dedicated {
                about.ok(format!("{found}, the gateway on {}", as_list(&placement.others)))
            } else {
                let change = "give it four CPUs or more: taskset -c LIST kyrodb_server …, \
                              AllowedCPUs= in a systemd unit, docker run --cpuset-cpus LIST";
                about.warn(format!("{found}, and nothing set aside for the gateway"), change)
            }
        }
    }
}

pub(super) fn smt(host: &Host<'_>) -> Check {
    let about = About {
        name: "smt",
        why: "two hardware threads share caches and execution units: what runs beside a core \
              slows its searches, by an amount that changes all the time",
    };
    let (Some(allowed), Some(cores)) = (&host.allowed, &host.cores) else {
        return about.unknown(NO_AFFINITY);
    };
    let mut first_of_each = BTreeSet::new();
    let mut is_shared = false;
    for &cpu in allowed {
        let path = format!("{CPUS}/cpu{cpu}/topology/thread_siblings_list");
        let Some(siblings) = host.tree.list(&path) else {
            return about.unknown(format!("/{path} can't be read"));
        };
        is_shared |= siblings.len() > 1 && cores.contains(&cpu);
        first_of_each.insert(siblings.iter().copied().find(|c| allowed.contains(c)).unwrap_or(cpu));
    }
    if !is_shared {
        return about.ok("no core shares its execution units");
    }
    let firsts: Vec<usize> = first_of_each.into_iter().collect();
    about.warn(
        "cores run on CPUs with a sibling",
        format!(
            "taskset -c {} kyrodb_server …, with the siblings left idle; for the whole host: \
             echo off > /{CPUS}/smt/control",
            as_list(&firsts)
        ),
    )
}

pub(super) fn governor(host: &Host<'_>) -> Check {
    let about = About {
        name: "governor",
        why: "another governor than performance lowers the clock of a core that waits, and the \
              next search begins slow",
    };
    let Some(allowed) = &host.allowed else {
        return about.unknown(NO_AFFINITY);
    };
    let mut governors = BTreeSet::new();
    for cpu in allowed {
        match host.tree.line(&format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor")) {
            Some(governor) => governors.insert(governor),
            None => {
                let found = format!(
                    "CPU {cpu} has no governor to be seen, as in a virtual machine, where the \
                     host decides"
                );
                return about.unknown(found);
            }
        };
    }
    let found = governors.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    if governors.iter().all(|governor| governor == "performance") {
        return about.ok(found);
    }
    let change = format!("echo performance | tee /{CPUS}/cpu*/cpufreq/scaling_governor");
    about.warn(found, change)
}

pub(super) fn numa(host: &Host<'_>) -> Check {
    const NODES: &str = "sys/devices/system/node";
    let about = About {
        name: "numa",
        why: "a core's memory is on its own node, but requests and answers cross between nodes \
              where gateway and cores are on different ones",
    };
    let Some(allowed) = &host.allowed else {
        return about.unknown(NO_AFFINITY);
    };
    let Some(nodes) = host.tree.list(&format!("{NODES}/online")) else {
        return about.unknown(format!("/{NODES}/online can't be read"));
    };
    let mut used = Vec::new();
    for &node in &nodes {
        // A node of memory alone has an empty list.
        let path = format!("{NODES}/node{node}/cpulist");
        let Some(text) = host.tree.text(&path) else {
            return about.unknown(format!("/{path} can't be read"));
        };
        let cpus = super::tree::cpu_list(&text).unwrap_or_default();
        if cpus.iter().any(|cpu| allowed.contains(cpu)) {
            used.push(node);
        }
    }
    match used.as_slice() {
        [] => about.unknown("no node has the CPUs that may be used"),
        [node] => about.ok(format!("one node is used: {node}")),
        [first, ..] => about.warn(
            format!("{} nodes are used: {}", used.len(), as_list(&used)),
            format!("numactl --cpunodebind={first} --membind={first} kyrodb_server …"),
        ),
    }
}

/// Most caches of a CPU that are read.
const CACHES_MAX: usize = 8;

pub(super) fn l3(host: &Host<'_>) -> Check {
    let about = About {
        name: "l3",
        why: "a message between CPUs with different last-level caches goes through memory or the \
              interconnect",
    };
    let Some(allowed) = &host.allowed else {
        return about.unknown(NO_AFFINITY);
    };
    let mut domains: BTreeSet<Vec<usize>> = BTreeSet::new();
    for &cpu in allowed {
        let cache = |index: usize| format!("{CPUS}/cpu{cpu}/cache/index{index}");
        let index = (0..CACHES_MAX)
            .find(|&index| host.tree.number(&format!("{}/level", cache(index))) == Some(3));
        let shared = index.and_then(|i| host.tree.list(&format!("{}/shared_cpu_list", cache(i))));
        let Some(mut shared) = shared else {
            return about.unknown(format!("the last-level cache of CPU {cpu} is not told"));
        };
        shared.retain(|cpu| allowed.contains(cpu));
        domains.insert(shared);
    }
    let lists: Vec<String> = domains.iter().map(|domain| as_list(domain)).collect();
    if domains.len() <= 1 {
        return about.ok(format!("one domain: {}", lists.join("")));
    }
    let largest = domains.iter().max_by_key(|domain| domain.len());
    let largest = largest.map_or_else(String::new, |domain| as_list(domain));
    about.warn(
        format!("{} domains: {}", lists.len(), super::tree::shown(&lists.join(" | "))),
        format!("where one domain has CPUs enough: taskset -c {largest} kyrodb_server …"),
    )
}

/// Ticks (1/100 s) that have to pass before the share of steal says anything.
const TICKS_MIN: u64 = 30;

/// Share of steal, in percent, from which on it is worth a warning.
const STEAL_PERCENT_MAX: f64 = 1.0;

pub(super) fn steal(host: &Host<'_>) -> Check {
    let about = About {
        name: "steal",
        why: "the hypervisor runs somebody else while a core has work; nothing in here makes up \
              for it: take a machine with CPUs of its own",
    };
    let Some(now) = host.tree.text("proc/stat").as_deref().and_then(ticks) else {
        return about.unknown("/proc/stat does not tell");
    };
    let percent = |(steal, total): (u64, u64)| steal as f64 * 100.0 / total.max(1) as f64;
    let mut highest = percent(now);
    let mut found = format!("{highest:.1} % since the host started");
    let before = host.probes.stat_before.as_deref().and_then(ticks);
    if let Some((steal, total)) = before
        && now.1.saturating_sub(total) >= TICKS_MIN
    {
        let recent = percent((now.0.saturating_sub(steal), now.1 - total));
        found = format!("{found}, {recent:.1} % just now");
        highest = highest.max(recent);
    }
    if highest > STEAL_PERCENT_MAX { about.warn_only(found) } else { about.ok(found) }
}

/// Stolen ticks of all CPUs, and all ticks.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    const STEAL: usize = 7;
    // The later columns, time of guests, are contained in the first ones.
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let numbers: Result<Vec<u64>, _> =
        line.split_whitespace().take(STEAL + 1).map(str::parse).collect();
    let numbers = numbers.ok()?;
    let total = numbers.iter().try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks))?;
    Some((*numbers.get(STEAL)?, total))
}
