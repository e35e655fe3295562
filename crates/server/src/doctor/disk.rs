//! The file system of the data directory and the device below it.

use std::path::Path;
use std::time::Duration;

use super::Host;
use super::probes::LogProbe;
use super::report::{About, Check};
use super::tree::shown;
use crate::disk::owner::TooOpen;

/// A mount, as `/proc/self/mountinfo` has it.
struct Mount {
    device: String,
    point: String,
    kind: String,
    source: String,
    options: String,
}

pub(super) fn file_system(host: &Host<'_>) -> Check {
    let about = About {
        name: "file_system",
        why: "the log and snapshots are written with O_DIRECT and made durable with fdatasync; ext4 \
              and XFS do both as the device can, others copy, or only pretend",
    };
    let Some(mount) = mount(host) else {
        return about.unknown("no mount is told for this directory");
    };
    let Mount { kind, source, point, .. } = &mount;
    let found = format!("{kind} on {source}, mounted at {point}");
    let has = |option: &str| mount.options.split(',').any(|have| have == option);
    if has("nobarrier") || has("barrier=0") {
        let found = format!("{found} without barriers: a sync does not reach the device");
        return about.bad(found, format!("mount -o remount,barrier {point}, and in /etc/fstab"));
    }
    if has("data=journal") {
        let found = format!("{found} with data=journal, which switches O_DIRECT off");
        return about.warn(found, "remove data=journal in /etc/fstab and mount it anew");
    }
    let elsewhere = "kyrodb_server --data-dir PATH, with PATH on ext4 or XFS";
    match kind.as_str() {
        "ext4" | "xfs" => about.ok(found),
        "tmpfs" | "ramfs" | "devtmpfs" => {
            about.bad(format!("{found}: nothing there is durable"), elsewhere)
        }
        _ => about.warn(found, elsewhere),
    }
}

pub(super) fn access(host: &Host<'_>) -> Check {
    let about = About {
        name: "access",
        why: "the files hold all documents, and tenants' ids; another user of the machine has no \
              business there",
    };
    match &host.probes.too_open {
        None => about.ok("for its owner and group alone"),
        Some(TooOpen { mode, change }) => {
            about.warn(format!("open to all users of this machine, mode {mode:04o}"), shown(change))
        }
    }
}

pub(super) fn direct_io(host: &Host<'_>) -> Check {
    let about = About {
        name: "direct_io",
        why: "a sync of pages of the cache that failed can't be told from one that worked; so \
              nothing is written through it",
    };
    match &host.probes.direct_io {
        Ok(()) => about.ok("a block was written"),
        Err(error) => {
            about.bad(shown(error), "kyrodb_server --data-dir PATH, with PATH on ext4 or XFS")
        }
    }
}

/// Median time of a sync above which there is a warning: it bounds what one client can write.
const SYNC_P50_MAX: Duration = Duration::from_millis(2);
const SYNC_P99_MAX: Duration = Duration::from_millis(20);

pub(super) fn sync_latency(host: &Host<'_>) -> Check {
    let about = About {
        name: "sync_latency",
        why: "an acknowledged write has waited for one write and one fdatasync; writes that come \
              meanwhile share the next",
    };
    let syncs = match &host.probes.syncs {
        Ok(syncs) => syncs,
        Err(error) if host.probes.direct_io.is_ok() => {
            return about.bad(shown(error), "look at the device: dmesg --level err,warn");
        }
        Err(_) => return about.unknown("nothing could be written"),
    };
    let found = format!(
        "p50 {}, p99 {} of {} writes of 4 KiB with fdatasync",
        in_ms(syncs.p50),
        in_ms(syncs.p99),
        syncs.count
    );
    if syncs.p50 > SYNC_P50_MAX || syncs.p99 > SYNC_P99_MAX {
        let change = "kyrodb_server --data-dir PATH, with PATH on a device with power-loss \
                      protection; or, where the last 100 ms may be lost: \
                      KYRODB__PERSISTENCE__FSYNC_POLICY=periodic";
        return about.warn(found, change);
    }
    about.ok(found)
}

/// Median time of a sync below which the device has a protected cache: writing a flash cell takes longer.
const PROTECTED_P50_MAX: Duration = Duration::from_micros(200);

pub(super) fn power_loss(host: &Host<'_>) -> Check {
    let about = About {
        name: "power_loss_protection",
        why: "a device with capacitors may confirm a flush from its memory, fast and safely; one \
              without has to wait for the medium, or lies",
    };
    let Ok(syncs) = &host.probes.syncs else {
        return about.unknown("nothing could be written");
    };
    let cache = block_file(host, "queue/write_cache");
    let cache = cache.unwrap_or_else(|| "of unknown kind".into());
    let inferred = format!(
        "an inference from a median of {} and a write cache that is `{cache}`; the data sheet \
         decides",
        in_ms(syncs.p50)
    );
    if syncs.p50 <= PROTECTED_P50_MAX {
        return about.ok(format!("seems so, or the device ignores flushes: {inferred}"));
    }
    about.warn_only(format!("seems not, or the device is far away or shared: {inferred}"))
}

fn in_ms(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

pub(super) fn scheduler(host: &Host<'_>) -> Check {
    let about = About {
        name: "disk_scheduler",
        why: "bfq holds requests back to be fair between processes; a flash device does better \
              without a scheduler that reorders",
    };
    let Some(line) = block_file(host, "queue/scheduler") else {
        return about.unknown("the device below the file system tells none");
    };
    let chosen = line.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0));
    // A device with only one scheduler has no brackets.
    let chosen = chosen.unwrap_or(&line);
    let is_rotating = block_file(host, "queue/rotational").as_deref() == Some("1");
    let kind = if is_rotating { "says that it rotates" } else { "does not rotate" };
    let name = block_name(host);
    let found = format!("{}; {name} {kind}", shown(chosen));
    match chosen {
        "none" | "mq-deadline" | "kyber" => about.ok(found),
        _ => {
            about.warn(found, format!("echo mq-deadline > /sys/class/block/{name}/queue/scheduler"))
        }
    }
}

/// A file of the device, or of the device that it is a partition of.
fn block_file(host: &Host<'_>, name: &str) -> Option<String> {
    block_directories(host)?.iter().find_map(|path| host.tree.line(&format!("{path}/{name}")))
}

/// Name of the device with a queue.
fn block_name(host: &Host<'_>) -> String {
    let directories = block_directories(host).unwrap_or_default();
    let with_queue =
        directories.iter().find(|path| host.tree.has_directory(&format!("{path}/queue")));
    let uevent = with_queue.and_then(|path| host.tree.text(&format!("{path}/uevent")));
    let name = uevent.as_deref().and_then(|text| {
        let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(shown(name))
    });
    name.unwrap_or_else(|| "DEVICE".into())
}

fn block_directories(host: &Host<'_>) -> Option<[String; 2]> {
    let mount = mount(host)?;
    let by_number = format!("sys/dev/block/{}", mount.device);
    if host.tree.has_directory(&by_number) {
        return Some([by_number.clone(), format!("{by_number}/..")]);
    }
    // Some file systems, such as btrfs, have a device number of their own.
    let name = mount.source.strip_prefix("/dev/").filter(|name| !name.contains(['/', '.']))?;
    let by_name = format!("sys/class/block/{name}");
    Some([by_name.clone(), format!("{by_name}/..")])
}

pub(super) fn free_space(host: &Host<'_>) -> Check {
    let about = About {
        name: "free_space",
        why: "inserts are refused where less than the reserve is free, and a start needs a log \
              segment a shard beside it",
    };
    let room = match &host.probes.room {
        Ok(room) => room,
        Err(error) => return about.unknown(shown(error)),
    };
    let persistence = &host.config.persistence;
    let reserve = room.reserve(persistence.disk_reserve_bytes);
    let cores = host.cores.as_ref().map_or(1, Vec::len);
    let shards = if host.config.runtime.shards > 0 { host.config.runtime.shards } else { cores };
    // A shard prepares its next segment while it writes one.
    let segments = (shards as u64 * 2).saturating_mul(persistence.wal_segment_bytes);
    let found = format!(
        "{} MiB of {} free; the reserve is {} MiB, log segments take {} MiB",
        room.available >> 20,
        room.total >> 20,
        reserve >> 20,
        segments >> 20
    );
    let change = "make room, or kyrodb_server --data-dir PATH on a larger file system";
    if room.available < reserve {
        return about.bad(found, change);
    }
    if room.available - reserve < segments { about.warn(found, change) } else { about.ok(found) }
}

/// The checks above that matter for the log, if it has a directory of its own.
pub(super) fn log(host: &Host<'_>) -> Option<Check> {
    let about = About {
        name: "log_directory",
        why: "an acknowledged write has waited for the log, which has a directory of its own \
              (persistence.wal_dir), and inserts are refused where its file system is full",
    };
    let LogProbe { directory, syncs, room } = host.probes.log.as_ref()?;
    let shown = shown(&directory.display().to_string());
    let change = "mount it, or persistence.wal_dir = PATH, with PATH on ext4 or XFS";
    let (syncs, room) = match (syncs, room) {
        (Ok(syncs), Ok(room)) => (syncs, room),
        (Err(error), _) | (_, Err(error)) => {
            return Some(about.bad(format!("{shown}: {error}"), change));
        }
    };
    let reserve = room.reserve(host.config.persistence.disk_reserve_bytes);
    let found = format!(
        "{shown}: p50 {}, p99 {} of writes with fdatasync; {} MiB free, the reserve is {} MiB",
        in_ms(syncs.p50),
        in_ms(syncs.p99),
        room.available >> 20,
        reserve >> 20
    );
    if room.available < reserve {
        return Some(about.bad(found, "make room there, or move the log to a larger file system"));
    }
    if syncs.p50 > SYNC_P50_MAX || syncs.p99 > SYNC_P99_MAX {
        let change = "persistence.wal_dir = PATH, with PATH on a device with power-loss protection";
        return Some(about.warn(found, change));
    }
    Some(about.ok(found))
}

/// The mount that the directory is on: the longest path that contains it, and of two at one place the later, which
/// hides the other.
fn mount(host: &Host<'_>) -> Option<Mount> {
    let text = host.tree.text("proc/self/mountinfo")?;
    let mut best: Option<Mount> = None;
    for mount in text.lines().filter_map(parse_mount) {
        let is_above = host.probes.directory.starts_with(Path::new(&mount.point));
        let is_longer = best.as_ref().is_none_or(|best| mount.point.len() >= best.point.len());
        if is_above && is_longer {
            best = Some(mount);
        }
    }
    best.map(|mount| Mount {
        point: shown(&mount.point),
        kind: shown(&mount.kind),
        source: shown(&mount.source),
        ..mount
    })
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let after: Vec<&str> = after.split(' ').collect();
    let device = *before.get(2)?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (major, minor) = device.split_once(':')?;
    if !is_number(major) || !is_number(minor) {
        return None;
    }
    Some(Mount {
        device: device.to_owned(),
        point: unescape(before.get(4)?),
        kind: (*after.first()?).to_owned(),
        source: unescape(after.get(1)?),
        options: format!("{},{}", before.get(5)?, after.get(2).unwrap_or(&"")),
    })
}

/// The kernel writes blanks and similar characters in names as `\040`.
fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    for (escaped, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
    {
        plain = plain.replace(escaped, character);
    }
    plain
}
