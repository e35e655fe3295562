//! Hosts that are laid out in a directory, and the reports on them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Check, LogProbe, Probes, Report, Syncs, Tree, Verdict, examine};
use crate::config::Config;
use crate::disk::space::Room;

/// A host with eight CPUs that needs no change.
const GOOD: [(&str, &str); 17] = [
    ("proc/sys/kernel/osrelease", "6.12.4-amd64\n"),
    ("proc/self/status", "Name:\tkyrodb_server\nCpus_allowed_list:\t0-7\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            65536                65536                files     \n\
         Max locked memory         unlimited            unlimited            bytes     \n",
    ),
    ("proc/self/cgroup", "0::/kyro.slice/kyrodb.service\n"),
    ("proc/meminfo", "MemTotal:       33554432 kB\nMemFree:        1000 kB\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "7000-7009,50051,51051\n"),
    ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
    ("proc/stat", "cpu  1000 0 500 90000 100 0 10 5 0 0\ncpu0 1 2 3\n"),
    (
        "proc/self/mountinfo",
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
         27 1 259:1 / / rw,relatime - ext4 /dev/nvme0n1p1 rw\n\
         28 27 259:2 / /srv/my\\040data rw,relatime shared:1 - xfs /dev/nvme0n1p2 rw,noquota\n",
    ),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm \n"),
    ("sys/devices/system/cpu/online", "0-7\n"),
    ("sys/devices/system/node/online", "0\n"),
    ("sys/devices/system/node/node0/cpulist", "0-7\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/fs/cgroup/kyro.slice/cpu.max", "max 100000\n"),
];

/// A host, and the results of the probes on it.
struct Made {
    directory: tempfile::TempDir,
    probes: Probes,
    config: Config,
}

impl Made {
    fn good() -> Self {
        let probes = Probes {
            directory: PathBuf::from("/srv/my data/kyrodb"),
            io_uring: Ok(()),
            direct_io: Ok(()),
            syncs: Ok(syncs(60, 150)),
            room: Ok(Room { total: 100 << 30, available: 50 << 30 }),
            data_bytes: 1 << 30,
            too_open: None,
            log: None,
            stat_before: None,
        };
        let directory = tempfile::tempdir().unwrap();
        let made = Self { directory, probes, config: Config::default() };
        for (path, text) in GOOD {
            made.write(path, text);
        }
        for cpu in 0..8 {
            let cpu_path = format!("sys/devices/system/cpu/cpu{cpu}");
            made.write(&format!("{cpu_path}/topology/thread_siblings_list"), &cpu.to_string());
            made.write(&format!("{cpu_path}/cpufreq/scaling_governor"), "performance\n");
            for (index, level, shared) in [(0, 1, cpu.to_string()), (1, 3, "0-7".into())] {
                made.write(&format!("{cpu_path}/cache/index{index}/level"), &level.to_string());
                made.write(&format!("{cpu_path}/cache/index{index}/shared_cpu_list"), &shared);
            }
        }
        made.write("sys/fs/cgroup/kyro.slice/kyrodb.service/memory.max", "max\n");
        // As in the kernel: a partition below its disk, and a link to it.
        let disk = "sys/devices/nvme0n1";
        made.write(&format!("{disk}/uevent"), "MAJOR=259\nDEVNAME=nvme0n1\nDEVTYPE=disk\n");
        made.write(&format!("{disk}/nvme0n1p2/uevent"), "DEVNAME=nvme0n1p2\n");
        made.write(&format!("{disk}/queue/scheduler"), "[none] mq-deadline\n");
        made.write(&format!("{disk}/queue/rotational"), "0\n");
        made.write(&format!("{disk}/queue/write_cache"), "write back\n");
        std::fs::create_dir_all(made.path("sys/dev/block")).unwrap();
        let link = made.path("sys/dev/block/259:2");
        std::os::unix::fs::symlink("../../devices/nvme0n1/nvme0n1p2", link).unwrap();
        made
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn report(&self) -> Report {
        examine(&Tree::new(self.directory.path()), &self.probes, &self.config)
    }

    /// The check of this name, whose verdict has to be this one while all others are ok.
    fn alone(&self, name: &str, verdict: Verdict) -> Check {
        let report = self.report();
        for check in &report.checks {
            let wanted = if check.name == name { verdict } else { Verdict::Ok };
            assert_eq!(check.verdict, wanted, "{check:?}");
        }
        assert_eq!(report.is_fit, verdict != Verdict::Bad);
        report.checks.into_iter().find(|check| check.name == name).unwrap()
    }

    /// The check after a file was given another text.
    fn with(path: &str, text: &str, name: &str, verdict: Verdict) -> Check {
        let made = Self::good();
        made.write(path, text);
        made.alone(name, verdict)
    }
}

fn syncs(p50_us: u64, p99_us: u64) -> Syncs {
    let us = Duration::from_micros;
    Syncs { count: 400, p50: us(p50_us), p99: us(p99_us) }
}

fn assert_says(check: &Check, found: &str, change: &str) {
    assert!(check.found.contains(found), "{check:?}");
    let said = check.change.as_deref().unwrap_or_default();
    assert!(said.contains(change) && !check.why.is_empty(), "{check:?}");
}

#[test]
fn a_good_host_has_nothing_to_change() {
    let check = Made::good().alone("cpus", Verdict::Ok);
    assert_says(&check, "8 of 8: 0-7; cores on 2-7, the gateway on 0-1", "");
    let report = Made::good().report();
    assert!(report.checks.iter().all(|check| check.change.is_none()));
    let mut names: Vec<&str> = report.checks.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), 23);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 23, "every check has a name of its own");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["checks"][0]["verdict"], "ok");
    assert!(report.to_string().contains("23 ok, 0 to look at, 0 bad, 0 unknown"), "{report}");
}

/// The most important rule: an unreadable value is not ok.
#[test]
fn unreadable_values_are_unknown() {
    let mut made = Made::good();
    made.directory = tempfile::tempdir().unwrap();
    made.probes.room = Err("no such device".into());
    made.probes.direct_io = Err("it can't be written".into());
    made.probes.syncs = Err("it can't be written".into());
    for check in made.report().checks {
        let wanted = match check.name {
            // These are probed, not read.
            "io_uring" | "access" => Verdict::Ok,
            "direct_io" => Verdict::Bad,
            _ => Verdict::Unknown,
        };
        assert_eq!(check.verdict, wanted, "{check:?}");
    }
}

/// An invalid file does not count as ok, and its text can't control a terminal.
#[test]
fn nonsensical_values_are_unknown() {
    for (path, _) in GOOD {
        for text in ["", "\u{1b}[2J\n", "-1\n", "99999999999999999999 : -\n"] {
            let made = Made::good();
            made.write(path, text);
            let report = made.report();
            let shown = report.to_string();
            assert!(!shown.contains('\u{1b}'), "{path}: {shown:?}");
            // These two are only reported together with others.
            let is_told =
                !path.ends_with("/available_clocksource") && !path.ends_with("cpu/online");
            let is_all_ok = report.checks.iter().all(|check| check.verdict == Verdict::Ok);
            assert!(!is_told || !is_all_ok, "{path} with {text:?} is taken for good");
        }
    }
    Made::with("proc/stat", "cpu  1 2 3\n", "steal", Verdict::Unknown);
    Made::with("proc/stat", "cpu  1 2 3 4 5 6 7 x\n", "steal", Verdict::Unknown);
    let huge = format!("cpu  {0} {0} 0 0 0 0 0 1\n", u64::MAX);
    Made::with("proc/stat", &huge, "steal", Verdict::Unknown);
    Made::with("proc/sys/kernel/osrelease", "six\n", "kernel", Verdict::Unknown);
    let thp = "sys/kernel/mm/transparent_hugepage/enabled";
    Made::with(thp, "always never\n", "huge_pages", Verdict::Unknown);
    Made::with("proc/meminfo", "MemTotal: much kB\n", "memory", Verdict::Unknown);
}

#[test]
fn kernel_and_limits() {
    let release = "proc/sys/kernel/osrelease";
    assert_says(
        &Made::with(release, "5.4.0-26-generic\n", "kernel", Verdict::Bad),
        "5.8 or later",
        "linux-image",
    );
    Made::with(release, "5.15.0\n", "kernel", Verdict::Warn);
    Made::with(release, "6.1-rc4\n", "kernel", Verdict::Ok);
    let limits = |memlock: &str, files: &str| {
        format!("Max open files  9 {files} files\nMax locked memory  {memlock} 9 bytes\n")
    };
    let path = "proc/self/limits";
    let check = Made::with(path, &limits("65536", "unlimited"), "memlock", Verdict::Bad);
    assert_says(&check, "64 KiB; 512 KiB are needed", "LimitMEMLOCK=infinity");
    let check = Made::with(path, &limits("8388608", "unlimited"), "memlock", Verdict::Warn);
    assert_says(&check, "8192 KiB; 74752 KiB are advised, cores: 6", "ulimit -l unlimited");
    let made = Made::good();
    made.write("proc/self/status", "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-7\n");
    made.write(path, &limits("8388608", "unlimited"));
    assert_says(&made.alone("memlock", Verdict::Ok), "CAP_IPC_LOCK", "");
    let check = Made::with(path, &limits("unlimited", "1024"), "open_files", Verdict::Warn);
    assert_says(&check, "1024; server.max_connections may take 10256", "ulimit -Hn 10256");
    assert_says(&check, "1024", "MAX_CONNECTIONS=768");
    Made::with(path, &limits("unlimited", "64"), "open_files", Verdict::Bad);
    let mut made = Made::good();
    made.write("proc/sys/kernel/io_uring_disabled", "2\n");
    made.probes.io_uring = Err("it is switched off".into());
    let check = made.alone("io_uring", Verdict::Bad);
    assert_says(&check, "switched off", "sysctl -w kernel.io_uring_disabled=0");
    made.write("proc/sys/kernel/io_uring_disabled", "0\n");
    assert_says(&made.alone("io_uring", Verdict::Bad), "", "seccomp=PROFILE.json");
}

#[test]
fn clocks() {
    let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let check = Made::with(path, "hpet\n", "clock_source", Verdict::Warn);
    assert_says(&check, "hpet, and tsc is available", "echo tsc > /sys/devices/system/clocks");
    Made::with(path, "kvm-clock\n", "clock_source", Verdict::Ok);
}

#[test]
fn cpus_and_their_relations() {
    let made = Made::good();
    made.write("proc/self/status", "Cpus_allowed_list:\t2-3\n");
    let check = made.alone("cpus", Verdict::Warn);
    assert_says(&check, "2 of 8: 2-3; cores on 3, and nothing set aside", "taskset -c");
    let mut made = Made::good();
    made.config.runtime.cores = 9;
    let report = made.report();
    let check = report.checks.iter().find(|check| check.name == "cpus").unwrap();
    assert_eq!(check.verdict, Verdict::Bad);
    let made = Made::good();
    for cpu in 0..8 {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        made.write(&path, &format!("{},{}", cpu % 4, cpu % 4 + 4));
    }
    let check = made.alone("smt", Verdict::Warn);
    assert_says(&check, "sibling", "taskset -c 0-3 kyrodb_server");
    let governor = "sys/devices/system/cpu/cpu5/cpufreq/scaling_governor";
    let check = Made::with(governor, "powersave\n", "governor", Verdict::Warn);
    assert_says(&check, "performance, powersave", "echo performance | tee /sys/devices");
    let made = Made::good();
    std::fs::remove_file(made.path(governor)).unwrap();
    assert_says(&made.alone("governor", Verdict::Unknown), "CPU 5", "");
}

#[test]
fn nodes_and_caches() {
    let made = Made::good();
    made.write("sys/devices/system/node/online", "0-2\n");
    made.write("sys/devices/system/node/node0/cpulist", "0-3\n");
    made.write("sys/devices/system/node/node1/cpulist", "4-7\n");
    made.write("sys/devices/system/node/node2/cpulist", "\n");
    let check = made.alone("numa", Verdict::Warn);
    assert_says(&check, "2 nodes are used: 0-1", "numactl --cpunodebind=0 --membind=0");
    let made = Made::good();
    for cpu in 0..8 {
        let shared = if cpu < 3 { "0-2" } else { "3-15" };
        let path = format!("sys/devices/system/cpu/cpu{cpu}/cache/index1/shared_cpu_list");
        made.write(&path, shared);
    }
    let check = made.alone("l3", Verdict::Warn);
    assert_says(&check, "2 domains: 0-2 | 3-7", "taskset -c 3-7 kyrodb_server");
}

#[test]
fn steal_is_seen_since_the_start_and_now() {
    let stat = "cpu  1000 0 0 1000 0 0 0 60 7 7\n";
    let check = Made::with("proc/stat", stat, "steal", Verdict::Warn);
    assert_says(&check, "2.9 % since the host started", "");
    let mut made = Made::good();
    made.probes.stat_before = Some("cpu  1000 0 500 89900 100 0 10 1 0 0\n".into());
    let check = made.alone("steal", Verdict::Warn);
    assert_says(&check, "0.0 % since the host started, 3.8 % just now", "");
    made.probes.stat_before = Some("cpu  1000 0 500 89999 100 0 10 1 0 0\n".into());
    assert!(!made.alone("steal", Verdict::Ok).found.contains("now"), "too short to tell");
}

#[test]
fn groups_of_both_versions() {
    let quota = "sys/fs/cgroup/kyro.slice/cpu.max";
    let check = Made::with(quota, "750000 100000\n", "cgroup_cpu", Verdict::Warn);
    assert_says(&check, "a quota of 7.50 CPUs on 8 allowed", "CPUQuota=");
    Made::with(quota, "200000 100000\n", "cgroup_cpu", Verdict::Bad);
    Made::with(quota, "much 100000\n", "cgroup_cpu", Verdict::Unknown);
    let limit = "sys/fs/cgroup/kyro.slice/memory.high";
    let check = Made::with(limit, "4294967296\n", "memory", Verdict::Ok);
    assert_says(&check, "a limit of 4096 MiB on a host with 32768", "");
    let check = Made::with(limit, "536870912\n", "memory", Verdict::Warn);
    assert_says(&check, "the data directory takes 1024 MiB", "MemoryMax=");
    let made = Made::good();
    let tree = Tree::new(made.directory.path());
    assert_eq!(super::cgroup::memory_limit(&tree), Some(32 << 30));
    made.write(limit, "536870912\n");
    assert_eq!(super::cgroup::memory_limit(&tree), Some(512 << 20));
    std::fs::remove_dir_all(made.path("sys/fs/cgroup")).unwrap();
    made.write("proc/self/cgroup", "4:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n0::/\n");
    made.write("sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us", "150000\n");
    made.write("sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us", "100000\n");
    // A container sees its own group as the root.
    made.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    let check = made.alone("cgroup_cpu", Verdict::Bad);
    assert_says(&check, "1.50 CPUs", "--cpuset-cpus");
    made.write("proc/self/cgroup", "4:memory:/\n2:cpu,cpuacct:/../../etc\n");
    made.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    made.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    made.alone("cgroup_cpu", Verdict::Ok);
}

#[test]
fn memory_of_the_host() {
    let path = "sys/kernel/mm/transparent_hugepage/enabled";
    let check = Made::with(path, "always madvise [never]\n", "huge_pages", Verdict::Warn);
    assert_says(&check, "never", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    let swaps = "Filename Type Size Used Priority\n/dev/sda2 partition 9 0 -2\n";
    let check = Made::with("proc/swaps", swaps, "swap", Verdict::Warn);
    assert_says(&check, "/dev/sda2; vm.swappiness is unknown", "swapoff -a");
}

#[test]
fn the_file_system_is_the_one_that_the_directory_is_on() {
    let check = Made::good().alone("file_system", Verdict::Ok);
    assert_says(&check, "xfs on /dev/nvme0n1p2, mounted at /srv/my data", "");
    let mounted = |kind: &str, options: &str| {
        let line = format!("9 1 259:2 / /srv rw - {kind} /dev/nvme0n1p2 {options}\n");
        line + "8 1 0:5 / /sr rw - tmpfs none rw\n"
    };
    let with = |kind: &str, options: &str, verdict| {
        Made::with("proc/self/mountinfo", &mounted(kind, options), "file_system", verdict)
    };
    assert_says(&with("tmpfs", "rw", Verdict::Bad), "nothing there is durable", "--data-dir");
    assert_says(&with("btrfs", "rw", Verdict::Warn), "btrfs", "ext4 or XFS");
    let check = with("ext4", "rw,barrier=0", Verdict::Bad);
    assert_says(&check, "without barriers", "mount -o remount,barrier /srv");
    with("ext4", "rw,data=journal", Verdict::Warn);
    let mut made = Made::good();
    made.probes.direct_io = Err("the file system has no O_DIRECT".into());
    assert_says(&made.alone("direct_io", Verdict::Bad), "no O_DIRECT", "ext4 or XFS");
}

#[test]
fn ports_that_clients_may_have_are_to_be_reserved() {
    let reserved = "proc/sys/net/ipv4/ip_local_reserved_ports";
    let check = Made::with(reserved, "7000-7009\n", "ports", Verdict::Warn);
    assert_says(&check, "among them 50051 and 51051", "ports=7000-7009,50051,51051");
    let check = Made::with(reserved, "50000-50051\n", "ports", Verdict::Warn);
    assert_says(&check, "among them 51051", "ports=50000-50051,51051");
    Made::with(reserved, "50000-51999\n", "ports", Verdict::Ok);
    Made::with("proc/sys/net/ipv4/ip_local_port_range", "1 2 x", "ports", Verdict::Ok);
    Made::with("proc/sys/net/ipv4/ip_local_port_range", "none", "ports", Verdict::Unknown);
    let mut made = Made::good();
    made.write(reserved, "\n");
    made.config.server.port = 6_000;
    made.config.server.http_port = Some(61_000);
    made.alone("ports", Verdict::Ok);
}

#[test]
fn a_directory_that_all_may_enter_is_to_be_closed() {
    let mut made = Made::good();
    let change = "chmod 0750 /srv/my data/kyrodb".into();
    made.probes.too_open = Some(crate::disk::owner::TooOpen { mode: 0o755, change });
    assert_says(&made.alone("access", Verdict::Warn), "mode 0755", "chmod 0750");
}

#[test]
fn syncs_tell_of_the_device() {
    let mut made = Made::good();
    let check = made.alone("power_loss_protection", Verdict::Ok);
    assert_says(&check, "seems so, or the device ignores flushes: an inference", "");
    assert_says(&check, "0.060 ms and a write cache that is `write back`", "");
    made.probes.syncs = Ok(syncs(900, 3_000));
    let check = made.alone("power_loss_protection", Verdict::Warn);
    assert_says(&check, "seems not", "");
    made.probes.syncs = Ok(syncs(9_000, 30_000));
    let report = made.report();
    let check = report.checks.iter().find(|check| check.name == "sync_latency").unwrap();
    assert_eq!(check.verdict, Verdict::Warn);
    assert_says(check, "p50 9.000 ms, p99 30.000 ms of 400", "FSYNC_POLICY=periodic");
    made.probes.syncs = Err("fdatasync failed".into());
    let report = made.report();
    let verdict = |name| report.checks.iter().find(|check| check.name == name).unwrap().verdict;
    assert_eq!(verdict("sync_latency"), Verdict::Bad);
    assert_eq!(verdict("power_loss_protection"), Verdict::Unknown);
}

#[test]
fn the_device_and_its_room() {
    let scheduler = "sys/devices/nvme0n1/queue/scheduler";
    let check = Made::with(scheduler, "none [bfq]\n", "disk_scheduler", Verdict::Warn);
    let change = "echo mq-deadline > /sys/class/block/nvme0n1/queue/scheduler";
    assert_says(&check, "bfq; nvme0n1 does not rotate", change);
    Made::with(scheduler, "none\n", "disk_scheduler", Verdict::Ok);
    let mut made = Made::good();
    made.probes.room = Ok(Room { total: 100 << 30, available: 1 << 29 });
    let check = made.alone("free_space", Verdict::Bad);
    assert_says(&check, "512 MiB of 102400 free; the reserve is 1024 MiB", "make room");
    made.probes.room = Ok(Room { total: 100 << 30, available: (1 << 30) + 4096 });
    made.alone("free_space", Verdict::Warn);
    assert!(made.report().checks.iter().all(|check| check.name != "log_directory"));
    let room = Ok(Room { total: 100 << 30, available: 50 << 30 });
    let directory = PathBuf::from("/fast/logs");
    made.probes.log = Some(LogProbe { directory, syncs: Ok(syncs(60, 150)), room });
    let log = |made: &Made| {
        let report = made.report();
        let check = report.checks.into_iter().find(|check| check.name == "log_directory").unwrap();
        (check.verdict, check.found)
    };
    assert_eq!(log(&made).0, Verdict::Ok);
    made.probes.log.as_mut().unwrap().syncs = Ok(syncs(9_000, 30_000));
    assert_eq!(log(&made).0, Verdict::Warn);
    made.probes.log.as_mut().unwrap().room = Ok(Room { total: 100 << 30, available: 1 << 29 });
    assert_eq!(log(&made).0, Verdict::Bad);
    made.probes.log.as_mut().unwrap().room = Err("no such directory".into());
    let (verdict, found) = log(&made);
    assert!(verdict == Verdict::Bad && found.contains("/fast/logs: no such"), "{found}");
    made.probes.directory = Path::new("/elsewhere").into();
    let report = made.report();
    let check = report.checks.iter().find(|check| check.name == "disk_scheduler").unwrap();
    assert_eq!(check.verdict, Verdict::Unknown, "the root has no device in this tree");
}
