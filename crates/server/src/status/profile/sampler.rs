//! Samples of all threads of this process, as the kernel takes them: each thread has a clock of its own
//! that runs while the thread does, and a ring in memory that the kernel writes its stacks to.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use perf_event::events::Software;
use perf_event::{Builder, SampleFlag, data};

/// Threads that are looked at. A server has some for each of its CPUs.
const THREADS_MAX: usize = 2_048;

/// Pages of a ring: 64 KiB, 60 of the longest stacks, which come in 60 ms at the highest rate.
const RING_BYTES: usize = 64 << 10;

/// Frames of a stack; what is further out is cut off. The kernel allows 127 unless told otherwise.
const FRAMES_MAX: u16 = 96;

/// Stacks that are told apart; of what comes beyond only the thread is known.
const STACKS_MAX: usize = 50_000;

/// Entries of a stack from here on are no addresses, but say of what those are that follow.
const MARKS: u64 = -4_095_i64 as u64;
const MARK_KERNEL: u64 = -128_i64 as u64;
const MARK_USER: u64 = -512_i64 as u64;

/// A stack, the innermost frame first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stack {
    /// Name of its thread.
    pub(super) thread: Arc<str>,
    /// It was in the kernel.
    pub(super) is_in_kernel: bool,
    /// Where the innermost frame was, and where the others go on when it returns.
    pub(super) addresses: Vec<u64>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Stacks, and how often.
    pub(super) stacks: Vec<(Stack, u64)>,
    /// Samples that the kernel had no room for.
    pub(super) lost: u64,
    /// Threads that were looked at.
    pub(super) threads: usize,
    /// Samples of a running thread a second.
    pub(super) hertz: u64,
    /// When it began, in Unix milliseconds.
    pub(super) begun_unix_ms: u64,
    /// How long it was.
    pub(super) took: Duration,
    /// Time in the kernel was seen as well.
    pub(super) has_kernel: bool,
}

impl Samples {
    /// CPU time that one sample stands for, in nanoseconds.
    pub(super) fn period_ns(&self) -> u64 {
        1_000_000_000 / self.hertz.max(1)
    }
}

struct Thread {
    name: Arc<str>,
    ring: perf_event::Sampler,
}

/// Takes samples until it is dropped.
pub(super) struct Sampler {
    hertz: u64,
    has_kernel: bool,
    threads: HashMap<i32, Thread>,
    seen: usize,
    stacks: HashMap<Stack, u64>,
    lost: u64,
}

impl Sampler {
    /// Begins, with all threads that there are.
    ///
    /// # Errors
    /// If the kernel does not let this process look at itself, with the way out.
    pub(super) fn begin(hertz: u64) -> Result<Self, String> {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        // Where the kernel's part of it is not for this process, its own is.
        let has_kernel = match open(own, hertz, true) {
            Ok(_) => true,
            Err(error) if is_refusal(&error) => {
                open(own, hertz, false).map_err(|error| told(&error))?;
                false
            }
            Err(error) => return Err(told(&error)),
        };
        let mut sampler = Self {
            hertz,
            has_kernel,
            threads: HashMap::new(),
            seen: 0,
            stacks: HashMap::new(),
            lost: 0,
        };
        sampler.find_threads().map_err(|error| told(&error))?;
        Ok(sampler)
    }

    /// Takes what has come, and looks for threads that are new.
    pub(super) fn look(&mut self) {
        for thread in self.threads.values_mut() {
            drain(thread, &mut self.stacks, &mut self.lost);
        }
        // What can't be opened any more, as where files are short, is missing in the profile.
        if let Err(error) = self.find_threads() {
            tracing::debug!("a new thread is not profiled: {error}");
        }
    }

    /// Takes the last that has come.
    pub(super) fn end(mut self, begun_unix_ms: u64, took: Duration) -> Samples {
        for thread in self.threads.values_mut() {
            drain(thread, &mut self.stacks, &mut self.lost);
        }
        let mut stacks: Vec<(Stack, u64)> = self.stacks.drain().collect();
        stacks.sort_by(|(a, _), (b, _)| (&a.thread, &a.addresses).cmp(&(&b.thread, &b.addresses)));
        Samples {
            stacks,
            lost: self.lost,
            threads: self.seen,
            hertz: self.hertz,
            begun_unix_ms,
            took,
            has_kernel: self.has_kernel,
        }
    }

    fn find_threads(&mut self) -> io::Result<()> {
        let ids: Vec<i32> = std::fs::read_dir("/proc/self/task")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        // What a thread has left in its ring when it ended has been taken by the look before.
        self.threads.retain(|id, _| ids.contains(id));
        for id in ids {
            if self.threads.contains_key(&id) || self.threads.len() >= THREADS_MAX {
                continue;
            }
            let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm"));
            let ring = match (&name, open(id, self.hertz, self.has_kernel)) {
                (Ok(_), Ok(ring)) => ring,
                (_, Err(error)) if error.raw_os_error() != Some(ESRCH) => return Err(error),
                // It has ended meanwhile.
                _ => continue,
            };
            let name = name.unwrap_or_default().trim_end().into();
            self.threads.insert(id, Thread { name, ring });
            self.seen += 1;
        }
        Ok(())
    }
}

/// No such process.
const ESRCH: i32 = 3;

/// The clock of one thread, and its ring.
fn open(id: i32, hertz: u64, has_kernel: bool) -> io::Result<perf_event::Sampler> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    builder
        .observe_pid(id)
        .any_cpu()
        .sample_frequency(hertz)
        .sample(SampleFlag::CALLCHAIN)
        .sample_max_stack(FRAMES_MAX)
        .exclude_kernel(!has_kernel)
        .exclude_hv(true)
        .enabled(true);
    builder.build()?.sampled(RING_BYTES)
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Why there are no samples, and what to do.
fn told(error: &io::Error) -> String {
    let way_out = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the kernel does not let this process look at itself. Set the sysctl \
             kernel.perf_event_paranoid to 2 or less, or give the server CAP_PERFMON; in a container or \
             under systemd, allow the system call perf_event_open as well; with very many threads, raise \
             kernel.perf_event_mlock_kb"
        }
        io::ErrorKind::Unsupported => "this kernel has no perf_event_open",
        _ => "the threads can't be sampled",
    };
    format!("no profile: {way_out} ({error})")
}

fn drain(thread: &mut Thread, stacks: &mut HashMap<Stack, u64>, lost: &mut u64) {
    while let Some(record) = thread.ring.next_record() {
        match record.parse_record() {
            Ok(data::Record::Sample(sample)) => {
                let chain = sample.callchain().unwrap_or_default();
                let mut stack = stack(&thread.name, chain);
                if stacks.len() >= STACKS_MAX && !stacks.contains_key(&stack) {
                    stack.addresses.clear();
                }
                *stacks.entry(stack).or_insert(0) += 1;
            }
            Ok(data::Record::Lost(some)) => *lost += some.lost,
            Ok(data::Record::LostSamples(some)) => *lost += some.lost,
            // Nothing else is asked for.
            _ => {}
        }
    }
}

/// The part of a stack that is of this process.
fn stack(thread: &Arc<str>, chain: &[u64]) -> Stack {
    let (mut is_in_kernel, mut is_of_user) = (false, true);
    let mut addresses = Vec::new();
    for &entry in chain {
        match entry {
            MARK_KERNEL => (is_in_kernel, is_of_user) = (true, false),
            MARK_USER => is_of_user = true,
            entry if entry >= MARKS => is_of_user = false,
            0 => {}
            entry if is_of_user => addresses.push(entry),
            _ => {}
        }
    }
    Stack { thread: thread.clone(), is_in_kernel, addresses }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_of_this_process_are_kept() {
        let thread: Arc<str> = "kyro-core-0".into();
        let kernel = stack(&thread, &[MARK_KERNEL, 0xffff_ffff_8000_0000, MARK_USER, 7, 5, 0]);
        assert_eq!((kernel.is_in_kernel, kernel.addresses), (true, vec![7, 5]));
        let user = stack(&thread, &[MARK_USER, 9, 7]);
        assert_eq!((user.is_in_kernel, user.addresses), (false, vec![9, 7]));
        // Of a machine above this one.
        assert!(stack(&thread, &[-32_i64 as u64, 4]).addresses.is_empty());
    }
}
