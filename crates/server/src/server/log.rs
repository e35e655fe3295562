//! The log as configured: level, format and destination. Lines go through [`LogQueue`]s, so that the logging thread
//! never waits for a write.
//!
//! | `logging.file` | Started by systemd | Lines | Warnings and errors also |
//! |---|---|---|---|
//! | not set | no | standard output | |
//! | not set | yes | standard output, with priorities of syslog (`<4>`) | |
//! | set | no | the file | |
//! | set | yes | the file | standard error, which is the journal, with priorities |

use std::fs::File;
use std::io::{Result, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::log_file::LogFile;
use crate::config::{Config, LogFormat, LoggingSection};
use crate::observe::log_queue::{self, LOSS_TARGET, LogQueue, QUEUE_BYTES_MAX, Sink};

/// Longest wait of an orderly exit for the rest of its log to be written.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for a message to be written to standard error.
const COMPLAINT_PATIENCE: Duration = Duration::from_millis(500);

/// Target of a line that goes to the log file only: standard error has its text already.
const FILE_TARGET: &str = "kyrodb::start";

/// Suppresses messages about buffers that can't be registered with io_uring: `shard/preflight` reports that once.
const QUIET: &str = concat!("glommio", "::sys::uring=error");

/// The log of a process.
pub struct Log {
    set_level: Box<SetLevel>,
    has_file: bool,
}

type SetLevel = dyn Fn(&Config) -> std::result::Result<(), String> + Send + Sync;

impl Log {
    /// Starts the log. With the demo, which prints for a person, only warnings appear, on standard error. Panics are
    /// logged as well.
    ///
    /// # Errors
    /// If the file can't be written, or `RUST_LOG` is invalid.
    pub fn start(config: &Config, is_demo: bool) -> std::result::Result<Self, String> {
        let logging = &config.logging;
        let filter = move |config: &Config| {
            let level = if is_demo { "warn" } else { config.logging.level.word() };
            let filter = EnvFilter::try_from_default_env()
                .or_else(|_| EnvFilter::try_new(format!("{level},{QUIET}")));
            filter.map_err(|error| format!("RUST_LOG: {error}"))
        };
        let lines = Lines::start(logging, is_demo)?;
        let is_colored = lines.is_colored && std::io::IsTerminal::is_terminal(&std::io::stdout());
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter(config)?)
            .with_writer(lines)
            // Such errors are printed to standard error, and if that can't be written either, as on a full disk,
            // printing panics: a lost line must not cost a core.
            .log_internal_errors(false)
            .with_ansi(is_colored);
        let set_level: Box<SetLevel> = match logging.format {
            LogFormat::Text => {
                let log = log.with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Box::new(move |config| {
                    handle.reload(filter(config)?).map_err(|error| error.to_string())
                })
            }
            LogFormat::Json => {
                let log = log.json().with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Box::new(move |config| {
                    handle.reload(filter(config)?).map_err(|error| error.to_string())
                })
            }
        };
        std::panic::set_hook(Box::new(tell_of_panic));
        Ok(Self { set_level, has_file: logging.file.is_some() })
    }

    /// Sets the configured level; `RUST_LOG` takes precedence.
    ///
    /// # Errors
    /// If `RUST_LOG` is invalid.
    pub fn set_level(&self, config: &Config) -> std::result::Result<(), String> {
        (self.set_level)(config)
    }

    /// Warns on standard error, and in the log file, that something in the configuration has no effect.
    pub fn warn(&self, what: &str) {
        complain(Level::WARN, &format!("warning: {what}"));
        if self.has_file {
            tracing::warn!(target: FILE_TARGET, "{what}");
        }
    }

    /// Writes to the log file why the server does not start or has not ended well; `main` prints it to standard error.
    pub fn refuse(&self, why: &str) {
        if self.has_file {
            tracing::error!(target: FILE_TARGET, "kyrodb_server: {why}");
        }
    }
}

/// Waits for a bounded time until all lines so far are written: for a process that ends.
pub fn flush() {
    log_queue::flush(END_PATIENCE);
}

/// Reopens log files that were moved.
pub fn reopen() {
    log_queue::reopen();
}

/// Prints a message of this program on standard error, which may be the journal.
pub fn complain(level: Level, what: &str) {
    let mut text = format!("kyrodb_server: {what}\n").into_bytes();
    if is_journal(std::io::stderr()) {
        text = with_priority(level, &text);
    }
    // The reader of standard error may be stuck: that must not keep the process from ending.
    let (say, said) = std::sync::mpsc::channel();
    let write = move || {
        let _is_waited_for = say.send(std::io::stderr().write_all(&text));
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _written = said.recv_timeout(COMPLAINT_PATIENCE);
    }
}

fn tell_of_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    // A panic of a log thread would log each line that can't be logged.
    if matches!(name, "kyro-log" | "kyro-journal") {
        return;
    }
    let trace = std::backtrace::Backtrace::capture();
    match trace.status() {
        std::backtrace::BacktraceStatus::Captured => {
            tracing::error!("the thread `{name}` {panic}\n{trace}");
        }
        _ => tracing::error!("the thread `{name}` {panic}"),
    }
    // Panics of other threads are contained, and those threads must not wait.
    if name == "main" {
        flush();
    }
}

/// True if the stream is the journal: systemd passes the device and inode that it has.
fn is_journal(stream: impl AsFd) -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Some((device, inode)) = told.split_once(':') else { return false };
    rustix::fs::fstat(stream)
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// The syslog priority, by which `journalctl -p` selects.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => b'3',
        Level::WARN => b'4',
        Level::INFO => b'6',
        _ => b'7',
    }
}

/// The text with a priority before each line: each becomes an entry of the journal.
fn with_priority(level: Level, text: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(text.len() + 3);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        marked.extend([b'<', priority(level), b'>']);
        marked.extend(line);
    }
    marked
}

/// Destinations of lines.
struct Lines {
    main: Arc<LogQueue>,
    is_main_journal: bool,
    is_colored: bool,
    /// Warnings and errors go there as well.
    journal: Option<Arc<LogQueue>>,
}

impl Lines {
    fn start(logging: &LoggingSection, is_demo: bool) -> std::result::Result<Self, String> {
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let queue = |name, sink| {
            LogQueue::start(name, QUEUE_BYTES_MAX, sink).map_err(|error| error.to_string())
        };
        let lines = match &logging.file {
            Some(path) => {
                let sink =
                    LogFile::open(path, logging).map_err(|error| cannot_open(path, &error))?;
                let is_journal = is_journal(&stderr);
                let journal = is_journal.then(|| queue("kyro-journal", stream(&stderr)?));
                Self {
                    main: queue("kyro-log", Box::new(sink))?,
                    is_main_journal: false,
                    is_colored: false,
                    journal: journal.transpose()?,
                }
            }
            None => Self {
                main: queue("kyro-log", if is_demo { stream(&stderr) } else { stream(&stdout) }?)?,
                is_main_journal: if is_demo { is_journal(&stderr) } else { is_journal(&stdout) },
                is_colored: true,
                journal: None,
            },
        };
        let queues = [Some(&lines.main), lines.journal.as_ref()];
        log_queue::install(queues.into_iter().flatten().cloned().collect());
        Ok(lines)
    }
}

fn cannot_open(path: &Path, error: &std::io::Error) -> String {
    format!(
        "the log file {} can't be opened: {error}. Choose with logging.file a file in a directory \
         that this user may write: in a systemd unit, `LogsDirectory=kyrodb` makes /var/log/kyrodb; \
         without logging.file the log goes to standard output, which is the journal there",
        path.display()
    )
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, level: Level::INFO, target: "" }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        let target = [LOSS_TARGET, FILE_TARGET].into_iter().find(|&own| own == about.target());
        Line { lines: self, level: *about.level(), target: target.unwrap_or_default() }
    }
}

/// Collects the line of one event, which is queued as a whole.
struct Line<'a> {
    lines: &'a Lines,
    level: Level,
    target: &'static str,
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> Result<usize> {
        let is_about_loss = self.target == LOSS_TARGET;
        let main = &self.lines.main;
        if self.lines.is_main_journal {
            main.push(&with_priority(self.level, text), is_about_loss);
        } else {
            main.push(text, is_about_loss);
        }
        if let Some(journal) = &self.lines.journal
            && self.level <= Level::WARN
            && self.target != FILE_TARGET
        {
            journal.push(&with_priority(self.level, text), is_about_loss);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Standard output or standard error, without the shared buffer and lock of the standard library.
struct Stream(File);

fn stream(stream: impl AsFd) -> std::result::Result<Box<dyn Sink>, String> {
    let own = stream.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    Ok(Box::new(Stream(own.into())))
}

impl Sink for Stream {
    fn write_line(&mut self, line: &[u8]) -> Result<()> {
        self.0.write_all(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_message_has_its_priority() {
        let marked = with_priority(Level::WARN, b"one\ntwo\n");
        assert_eq!(marked, b"<4>one\n<4>two\n");
        assert_eq!([Level::ERROR, Level::INFO, Level::TRACE].map(priority), *b"367");
    }
}
