//! The kernel, io_uring, the limits of the process, and the clock.

use super::Host;
use super::report::{About, Check};
use crate::shard::preflight::{MEMLOCK_BYTES_MIN, is_exempt_from_memlock, memlock_advised};

/// Oldest kernel that glommio supports, and oldest that is advised.
const VERSION_MIN: (u32, u32) = (5, 8);
const VERSION_ADVISED: (u32, u32) = (6, 1);

pub(super) fn version(host: &Host<'_>) -> Check {
    let about = About {
        name: "kernel",
        why: "io_uring is the only way to the disk, and kernels before 6.1 lack years of its repairs",
    };
    let Some(release) = host.tree.line("proc/sys/kernel/osrelease") else {
        return about.unknown("/proc/sys/kernel/osrelease can't be read");
    };
    let mut numbers = release.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return about.unknown(format!("`{release}` is no version"));
    };
    let newer = "install a newer kernel of your distribution, on Debian: \
                 apt-get install linux-image-amd64 && reboot";
    if (major, minor) < VERSION_MIN {
        return about.bad(format!("{release}; 5.8 or later is needed"), newer);
    }
    if (major, minor) < VERSION_ADVISED {
        return about.warn(format!("{release}; 6.1 or later is advised"), newer);
    }
    about.ok(release)
}

pub(super) fn io_uring(host: &Host<'_>) -> Check {
    let about = About { name: "io_uring", why: "without it no core starts" };
    let Err(message) = &host.probes.io_uring else {
        return about.ok("available");
    };
    let change = match host.tree.number("proc/sys/kernel/io_uring_disabled") {
        Some(1 | 2) => "sysctl -w kernel.io_uring_disabled=0",
        _ => {
            "docker run --security-opt seccomp=PROFILE.json … with io_uring_setup, \
              io_uring_enter and io_uring_register allowed; in a systemd unit: \
              SystemCallFilter=@aio"
        }
    };
    about.bad(message.as_str(), change)
}

pub(super) fn memlock(host: &Host<'_>) -> Check {
    let about = About {
        name: "memlock",
        why: "each core registers 4 MiB with each of its three rings of io_uring for log writes; with \
              less, the kernel looks up pages on each of them",
    };
    let Some(limit) = limit(host, "Max locked memory", SOFT) else {
        return about.unknown("/proc/self/limits does not tell");
    };
    let change = "ulimit -l unlimited (as root), LimitMEMLOCK=infinity in a systemd unit, or \
                  docker run --ulimit memlock=-1:-1";
    let found = match limit {
        u64::MAX => "unlimited".to_owned(),
        bytes => format!("{} KiB", bytes >> 10),
    };
    if limit < MEMLOCK_BYTES_MIN {
        return about.bad(format!("{found}; 512 KiB are needed"), change);
    }
    let Some(cores) = &host.cores else {
        return about.unknown(format!("{found}; how many cores there are is not known"));
    };
    let status = host.tree.text("proc/self/status").unwrap_or_default();
    if is_exempt_from_memlock(&status) {
        return about.ok(format!("{found}, which does not hold this user: it has CAP_IPC_LOCK"));
    }
    let advised = memlock_advised(cores.len());
    let found = format!("{found}; {} KiB are advised, cores: {}", advised >> 10, cores.len());
    if limit < advised { about.warn(found, change) } else { about.ok(found) }
}

/// Descriptors in addition to those of connections: rings, log segments, snapshots, listeners.
const OPEN_FILES_SPARE: u64 = 256;

pub(super) fn open_files(host: &Host<'_>) -> Check {
    let about = About {
        name: "open_files",
        why: "every connection takes a file descriptor; where there are too few, the server accepts \
              fewer connections, so that files can be opened",
    };
    // The server raises its soft limit to this at the start.
    let Some(limit) = limit(host, "Max open files", HARD) else {
        return about.unknown("/proc/self/limits does not tell");
    };
    let needed = (host.config.server.max_connections as u64).saturating_add(OPEN_FILES_SPARE);
    let found = match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => format!("{limit}; server.max_connections may take {needed}"),
    };
    if limit >= needed {
        return about.ok(found);
    }
    let change = format!(
        "ulimit -Hn {needed}, LimitNOFILE={needed} in a systemd unit, or \
         KYRODB__SERVER__MAX_CONNECTIONS={}",
        limit.saturating_sub(OPEN_FILES_SPARE).max(1)
    );
    if limit <= OPEN_FILES_SPARE { about.bad(found, change) } else { about.warn(found, change) }
}

/// Columns of the soft and the hard limit.
const SOFT: usize = 0;
const HARD: usize = 1;

/// A limit of this process; `u64::MAX` if there is none.
fn limit(host: &Host<'_>, name: &str, column: usize) -> Option<u64> {
    let text = host.tree.text("proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(column)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

pub(super) fn clock_source(host: &Host<'_>) -> Check {
    const CLOCK: &str = "sys/devices/system/clocksource/clocksource0";
    let about = About {
        name: "clock_source",
        why: "the clock is read at every step of a core; a source that can't be read in user space \
              makes each of these a call of the kernel",
    };
    let Some(source) = host.tree.line(&format!("{CLOCK}/current_clocksource")) else {
        return about.unknown("no clock source is told");
    };
    let in_user_space = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
    if in_user_space.contains(&source.as_str()) {
        return about.ok(source);
    }
    let available = host.tree.line(&format!("{CLOCK}/available_clocksource")).unwrap_or_default();
    let better = in_user_space.iter().find(|name| available.split(' ').any(|have| have == **name));
    match better {
        Some(better) => {
            let change = format!("echo {better} > /{CLOCK}/current_clocksource");
            about.warn(format!("{source}, and {better} is available"), change)
        }
        None => about.warn(
            format!("{source}; available: {available}"),
            "boot with tsc=reliable where the machine's own clock is sound",
        ),
    }
}
