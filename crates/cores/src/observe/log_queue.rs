//! Output of the log: a bounded queue of lines, and one thread that writes them.
//!
//! Threads that serve only append to the queue, under a lock that is held for the copy of one line.
//! Where the reader of the log stalls (a pipe that is not read, journald or a disk that hangs), the
//! writing thread alone waits: the queue fills, and further lines are dropped and counted.
//!
//! Not `tracing-appender`: its queue is bounded by lines and not by bytes, it can't reopen a moved file, and it does
//! not log the number of dropped lines.

use std::io::Result;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Most bytes of lines that wait or are being written; further lines are dropped.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Bytes of an empty buffer that are kept for the next lines.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// Longest wait of an aborting process for its last lines to be written.
pub const FATAL_PATIENCE: Duration = Duration::from_secs(1);

/// Target of the line with the number of dropped lines. It is queued even if there is no room.
pub const LOSS_TARGET: &str = "kyrodb::log";

/// Destination of lines: standard output, or a file.
pub trait Sink: Send {
    /// Writes one line, which ends with a newline.
    ///
    /// # Errors
    /// If it was not written; it counts as dropped.
    fn write_line(&mut self, line: &[u8]) -> Result<()>;

    /// Opens the file by its name again, after it may have been moved.
    ///
    /// # Errors
    /// If it can't be opened; lines continue to go to the old file.
    fn reopen(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A buffer of lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// End of each line in `bytes`.
    ends: Vec<usize>,
}

impl Lines {
    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
        self.bytes.shrink_to(BUFFER_BYTES_KEPT);
        self.ends.shrink_to(BUFFER_BYTES_KEPT / 64);
    }
}

#[derive(Default)]
struct State {
    waiting: Lines,
    /// Bytes that the thread has taken and not written yet.
    writing_bytes: usize,
    /// Dropped lines that the log does not mention yet.
    untold: u64,
    /// Lines queued, and lines written or dropped, since the start.
    queued: u64,
    done: u64,
    wants_reopen: bool,
}

/// The queue.
pub struct LogQueue {
    bytes_max: usize,
    state: Mutex<State>,
    /// Wakes the thread.
    wake: Condvar,
    /// Signals that the thread has made progress.
    moved: Condvar,
    dropped: AtomicU64,
}

impl LogQueue {
    /// Starts the thread `name`, which writes to `sink` until the process ends. `bytes_max`: see
    /// [`QUEUE_BYTES_MAX`].
    ///
    /// # Errors
    /// If the thread can't be made.
    pub fn start(name: &str, bytes_max: usize, sink: Box<dyn Sink>) -> Result<Arc<Self>> {
        let queue = Arc::new(Self {
            bytes_max,
            state: Mutex::default(),
            wake: Condvar::new(),
            moved: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let written = queue.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || written.write(sink))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line, which ends with a newline, or drops it if there is no room. `is_about_loss`: the line reports
    /// dropped lines, and is always queued.
    pub fn push(&self, line: &[u8], is_about_loss: bool) {
        let mut state = self.lock();
        let held = state.waiting.bytes.len() + state.writing_bytes;
        if held + line.len() > self.bytes_max && !is_about_loss {
            state.untold += 1;
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_first = state.waiting.ends.is_empty();
        state.waiting.push(line);
        state.queued += 1;
        drop(state);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// Lines that were dropped or could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Makes the thread reopen its file before the next line.
    pub fn reopen(&self) {
        self.lock().wants_reopen = true;
        self.wake.notify_one();
    }

    /// Waits until all lines queued so far are written, for at most `patience`. True if they are.
    pub fn flush(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        let wanted = state.queued;
        let begun = Instant::now();
        while state.done < wanted {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            state = self.moved.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Body of the writing thread.
    fn write(&self, mut sink: Box<dyn Sink>) {
        let (mut batch, mut flows) = (Lines::default(), true);
        loop {
            if self.take(&mut batch)
                && let Err(error) = sink.reopen()
            {
                tracing::error!("the log file can't be opened again, the old one is kept: {error}");
            }
            for line in batch.iter() {
                // After a panic of the sink, further lines are still written.
                let written = std::panic::AssertUnwindSafe(|| sink.write_line(line));
                flows = std::panic::catch_unwind(written).is_ok_and(|written| written.is_ok());
                if !flows {
                    self.lock().untold += 1;
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            let lost = self.put_back(&mut batch, flows);
            if lost > 0 {
                tracing::warn!(target: LOSS_TARGET, lost, "lines of the log were dropped: it was \
                    not taken as fast as it was written, or could not be written");
            }
        }
    }

    /// Waits for lines and takes them all. True if the file has to be reopened first.
    fn take(&self, batch: &mut Lines) -> bool {
        let mut state = self.lock();
        while state.waiting.ends.is_empty() && !state.wants_reopen {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.waiting, batch);
        state.writing_bytes = batch.bytes.len();
        std::mem::take(&mut state.wants_reopen)
    }

    /// Returns a batch that was written or dropped. Gives the number of lost lines that the log has to mention now: 0
    /// until lines are written again.
    fn put_back(&self, batch: &mut Lines, flows: bool) -> u64 {
        let mut state = self.lock();
        state.writing_bytes = 0;
        state.done += batch.ends.len() as u64;
        let lost = if flows { std::mem::take(&mut state.untold) } else { 0 };
        drop(state);
        batch.clear();
        self.moved.notify_all();
        lost
    }
}

/// The queues of this process, once logging is set up.
static QUEUES: OnceLock<Vec<Arc<LogQueue>>> = OnceLock::new();

/// Sets the queues that the functions below act on. Called once.
pub fn install(queues: Vec<Arc<LogQueue>>) {
    let first = QUEUES.set(queues);
    debug_assert!(first.is_ok(), "the log is started once");
}

fn installed() -> &'static [Arc<LogQueue>] {
    QUEUES.get().map_or(&[], Vec::as_slice)
}

/// Lines that were dropped since the start.
#[must_use]
pub fn dropped() -> u64 {
    installed().iter().map(|queue| queue.dropped()).sum()
}

/// Waits until logged lines are written, for at most `patience`. For a process that ends.
pub fn flush(patience: Duration) {
    let begun = Instant::now();
    for queue in installed() {
        queue.flush(patience.saturating_sub(begun.elapsed()));
    }
}

/// Reopens the log files.
pub fn reopen() {
    installed().iter().for_each(|queue| queue.reopen());
}

/// Ends the process at once, after its last lines are written.
pub fn abort() -> ! {
    flush(FATAL_PATIENCE);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A sink that writes when a test permits it, with success or failure.
    struct Gate {
        passes: Receiver<bool>,
        seen: Sender<String>,
    }

    impl Sink for Gate {
        fn write_line(&mut self, line: &[u8]) -> Result<()> {
            match self.passes.recv().unwrap_or(false) {
                true => self.seen.send(String::from_utf8_lossy(line).into_owned()).unwrap(),
                false => return Err(Error::from(ErrorKind::BrokenPipe)),
            }
            Ok(())
        }

        fn reopen(&mut self) -> Result<()> {
            self.seen.send("opened again\n".into()).unwrap();
            Ok(())
        }
    }

    fn gate(bytes_max: usize) -> (Arc<LogQueue>, Sender<bool>, Receiver<String>) {
        let ((pass, passes), (seen, told)) = (channel(), channel());
        let queue = LogQueue::start("gate", bytes_max, Box::new(Gate { passes, seen })).unwrap();
        (queue, pass, told)
    }

    #[test]
    fn a_stalled_writer_blocks_no_thread_and_lost_lines_are_counted() {
        let (queue, pass, seen) = gate(100);
        for number in 0..1_000 {
            queue.push(format!("line {number:04}\n").as_bytes(), false);
        }
        assert_eq!(queue.dropped(), 990, "ten lines of ten bytes are held");
        assert!(!queue.flush(Duration::from_millis(20)), "nothing was written");
        queue.push(b"990 are lost\n", true);
        (0..11).for_each(|_| pass.send(true).unwrap());
        assert!(queue.flush(Duration::from_secs(60)));
        let lines: Vec<String> = seen.try_iter().collect();
        assert_eq!(lines.len(), 11);
        assert_eq!(
            (&*lines[0], &*lines[9], &*lines[10]),
            ("line 0000\n", "line 0009\n", "990 are lost\n")
        );
        assert_eq!(queue.lock().untold, 0, "they were to be told of");
        queue.push(b"there is room again\n", false);
        pass.send(true).unwrap();
        assert!(queue.flush(Duration::from_secs(60)));
        assert_eq!(queue.dropped(), 990);
    }

    #[test]
    fn unwritten_lines_are_counted_and_reported_once_writing_works() {
        let (queue, pass, seen) = gate(1_000);
        queue.push(b"a\n", false);
        pass.send(false).unwrap();
        assert!(queue.flush(Duration::from_secs(60)));
        assert_eq!((queue.dropped(), queue.lock().untold), (1, 1));
        queue.push(b"b\n", false);
        pass.send(true).unwrap();
        assert!(queue.flush(Duration::from_secs(60)));
        assert_eq!((queue.dropped(), queue.lock().untold), (1, 0));
        assert_eq!(seen.recv().unwrap(), "b\n");
    }

    #[test]
    fn a_file_is_opened_again_before_the_next_line() {
        let (queue, pass, seen) = gate(1_000);
        queue.reopen();
        assert_eq!(seen.recv().unwrap(), "opened again\n");
        queue.push(b"a\n", false);
        pass.send(true).unwrap();
        assert_eq!(seen.recv().unwrap(), "a\n");
    }
}
