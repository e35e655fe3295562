//! Checks before the first core starts that the system offers the facilities that cores need; errors name the missing
//! one and the remedy. glommio itself would panic or exit.

use std::io;

use rustix::process::{Resource, getrlimit};

use crate::disk::BLOCK;

/// Memlock limit that glommio requires, in bytes.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Most I/O memory registered for each core, in bytes, if the limit allows; log writes use it.
const IO_MEMORY_BYTES_MAX: u64 = 4 << 20;

/// io_uring rings of a core. Each registers all of the core's I/O memory, and the kernel counts it each time.
const RINGS: u64 = 3;

/// Locked memory left for the rings themselves and for other uses, in bytes.
const MEMLOCK_SPARE_BYTES: u64 = 1 << 20;

/// Bit of CAP_IPC_LOCK: a process that has it is not held to the memlock limit.
const CAP_IPC_LOCK: u32 = 14;

/// Memlock limit under which `cores` cores can register all their I/O memory, in bytes.
pub fn memlock_advised(cores: usize) -> u64 {
    MEMLOCK_SPARE_BYTES + cores as u64 * RINGS * IO_MEMORY_BYTES_MAX
}

/// Whether a process is exempt from its memlock limit, by `/proc/PID/status`.
pub fn is_exempt_from_memlock(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// Checks io_uring and the memlock limit. Returns the I/O memory that each of `cores` may register, in bytes, and warns
/// if that is less than advised.
///
/// # Errors
/// The missing facility, and how to get it.
pub fn check_system(cores: usize) -> Result<usize, String> {
    check_io_uring()?;
    let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_exempt = limit >= MEMLOCK_BYTES_MIN && is_exempt_from_memlock(&status);
    let bytes = io_memory(if is_exempt { u64::MAX } else { limit }, cores)?;
    if (bytes as u64) < IO_MEMORY_BYTES_MAX {
        tracing::warn!(
            "memlock: {} KiB let each core register {} KiB of memory for log writes; {} KiB are \
             advised for {cores} cores. `LimitMEMLOCK=infinity` in a systemd unit, `ulimit -l \
             unlimited` in a shell",
            limit >> 10,
            bytes >> 10,
            memlock_advised(cores) >> 10,
        );
    }
    Ok(bytes)
}

/// Checks whether io_uring can be used.
///
/// # Errors
/// Why it can't, and the remedy.
pub fn check_io_uring() -> Result<(), String> {
    let Err(error) = io_uring::IoUring::new(8) else {
        return Ok(());
    };
    let sysctl = std::fs::read_to_string(SYSCTL).ok();
    Err(explain(&error, sysctl.as_deref().map(str::trim)))
}

/// The likely reason why io_uring can't be used: the sysctl, the seccomp filter, the kernel or a limit.
fn explain(error: &io::Error, sysctl: Option<&str>) -> String {
    let why = match (error.raw_os_error(), sysctl) {
        (_, Some("2")) => {
            "it is switched off: kernel.io_uring_disabled = 2. \
             Run `sysctl -w kernel.io_uring_disabled=0`"
        }
        (Some(libc_errno::EPERM), Some("1")) => {
            "it is kept for a group: kernel.io_uring_disabled = 1. Add this user to the group of \
             kernel.io_uring_group, or run `sysctl -w kernel.io_uring_disabled=0`"
        }
        (Some(libc_errno::EPERM | libc_errno::EACCES), _) => {
            "a seccomp filter or security module forbids it, as container runtimes do by default. \
             Allow io_uring_setup, io_uring_enter and io_uring_register: for Docker and Podman \
             with `--security-opt seccomp=PROFILE.json`, for systemd with \
             `SystemCallFilter=@aio` beside the others"
        }
        (Some(libc_errno::ENOSYS), _) => {
            "this kernel has none, or a seccomp filter hides it. KyroDB needs Linux 5.8 or later \
             with CONFIG_IO_URING; 6.1 or later is advised"
        }
        (Some(libc_errno::ENOMEM), _) => {
            "memory can't be locked for it. Raise the memlock limit: `ulimit -l unlimited`, or \
             `LimitMEMLOCK=infinity` in a systemd unit"
        }
        _ => "the kernel refuses it",
    };
    format!("io_uring can't be used ({error}): {why}.")
}

/// Error numbers that are told apart; equal on every Linux architecture.
mod libc_errno {
    pub(super) const EPERM: i32 = 1;
    pub(super) const ENOMEM: i32 = 12;
    pub(super) const EACCES: i32 = 13;
    pub(super) const ENOSYS: i32 = 38;
}

fn io_memory(memlock_bytes: u64, cores: usize) -> Result<usize, String> {
    if memlock_bytes < MEMLOCK_BYTES_MIN {
        return Err(format!(
            "the memlock limit is {} KiB; at least {} KiB are needed, and {} MiB are advised for \
             {cores} cores. Raise it: `ulimit -l unlimited` in the shell, `LimitMEMLOCK=infinity` \
             in a systemd unit, or a `memlock` line in /etc/security/limits.conf.",
            memlock_bytes >> 10,
            MEMLOCK_BYTES_MIN >> 10,
            memlock_advised(cores) >> 20,
        ));
    }
    let share = memlock_bytes.saturating_sub(MEMLOCK_SPARE_BYTES) / (cores.max(1) as u64 * RINGS);
    let bytes = share.min(IO_MEMORY_BYTES_MAX) / BLOCK as u64 * BLOCK as u64;
    // With 0 bytes registered, buffers come from ordinary memory.
    Ok(bytes.max(BLOCK as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_uring_errors_name_their_cause() {
        let explain = |errno, sysctl| explain(&io::Error::from_raw_os_error(errno), sysctl);
        assert!(explain(1, Some("2")).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(explain(1, Some("1")).contains("io_uring_group"));
        assert!(explain(1, Some("0")).contains("seccomp"));
        assert!(explain(1, None).contains("seccomp"));
        assert!(explain(38, None).contains("Linux 5.8"));
        assert!(explain(12, Some("0")).contains("memlock"));
    }

    #[test]
    fn memlock_is_shared_out_or_its_lack_is_named() {
        let message = io_memory(64 << 10, 3).unwrap_err();
        assert!(message.contains("64 KiB") && message.contains("512 KiB"), "{message}");
        assert!(message.contains("37 MiB") && message.contains("LimitMEMLOCK"), "{message}");
        assert_eq!(io_memory(8 << 20, 2), Ok(((7 << 20) / 6) >> 12 << 12));
        assert_eq!(io_memory(memlock_advised(2), 2), Ok(4 << 20));
        assert_eq!(io_memory(memlock_advised(2) - 1, 2), Ok((4 << 20) - 4096));
        assert_eq!(io_memory(u64::MAX, 2), Ok(4 << 20));
        assert_eq!(io_memory(600 << 10, 2), Ok(4096));
    }

    #[test]
    fn root_is_not_held_to_the_limit() {
        assert!(is_exempt_from_memlock("Name:\ta\nCapEff:\t000001ffffffffff\n"));
        assert!(!is_exempt_from_memlock("CapEff:\t0000000000000000\n"));
        assert!(!is_exempt_from_memlock("CapPrm:\t000001ffffffffff\n"));
    }

    #[test]
    fn this_system_will_do() {
        assert!(check_system(2).is_ok());
    }
}
