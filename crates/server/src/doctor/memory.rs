//! Huge pages and swap.

use super::Host;
use super::report::{About, Check};
use super::tree::shown;

pub(super) fn huge_pages(host: &Host<'_>) -> Check {
    const ENABLED: &str = "sys/kernel/mm/transparent_hugepage/enabled";
    let about = About {
        name: "huge_pages",
        why: "a walk goes all over the vectors and the graph; with small pages nearly every row \
              costs a translation of its address, in a virtual machine two",
    };
    let Some(line) = host.tree.line(ENABLED) else {
        return about.unknown(format!("/{ENABLED} can't be read"));
    };
    let chosen = line.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0));
    match chosen {
        Some(chosen @ ("always" | "madvise")) => about.ok(format!("{chosen}: arenas ask for them")),
        Some(chosen) => about.warn(shown(chosen), format!("echo madvise > /{ENABLED}")),
        None => about.unknown(format!("`{line}` names no choice")),
    }
}

pub(super) fn swap(host: &Host<'_>) -> Check {
    let about = About {
        name: "swap",
        why: "a search that touches a page that was swapped out waits for the disk",
    };
    let Some(text) = host.tree.text("proc/swaps") else {
        return about.unknown("/proc/swaps can't be read");
    };
    if !text.starts_with("Filename") {
        return about.unknown("/proc/swaps holds no table");
    }
    let areas: Vec<&str> =
        text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    if areas.is_empty() {
        return about.ok("none");
    }
    let swappiness = host.tree.line("proc/sys/vm/swappiness").unwrap_or_else(|| "unknown".into());
    about.warn(
        format!("{}; vm.swappiness is {swappiness}", shown(&areas.join(", "))),
        "swapoff -a, and remove its lines from /etc/fstab; or MemorySwapMax=0 in a systemd unit",
    )
}
