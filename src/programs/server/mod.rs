//! The server program: arguments → configuration → server → exit code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, mpsc};

use clap::{CommandFactory, Parser};
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;

use crate::config::{self, Config, Origins, Overrides};
use crate::demo;
use crate::disk::owner::restrict_new_files;
use crate::server::log::{self, Log};
use crate::server::{Listeners, Server, forget_pid};
use crate::status::http::Reload;

mod banner;
mod check;
mod doctor;
mod plan;

/// A vector database for people who answer for the 99th percentile.
#[derive(Parser)]
#[command(name = "kyrodb_server", version)]
struct Arguments {
    /// Configuration file, YAML or TOML by its extension
    #[arg(short, long, value_name = "PATH", env = "KYRODB_CONFIG")]
    config: Option<PathBuf>,

    /// Port of gRPC; HTTP is on the port 1000 above
    #[arg(short, long, value_name = "N", env = "KYRODB_PORT")]
    port: Option<u16>,

    /// Data directory [default: ./data, with --demo ./data/demo]
    #[arg(short, long, value_name = "PATH", env = "KYRODB_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Print the default configuration and exit: toml or yaml
    #[arg(long, value_name = "FORMAT")]
    generate_config: Option<String>,

    /// Check the configuration, and the keys and certificates that it names, change nothing, and
    /// exit: 0 good, 1 not, with all that is wrong
    #[arg(long, conflicts_with = "generate_config")]
    check_config: bool,

    /// Load the sample data, show some searches, and keep serving
    #[arg(long)]
    demo: bool,

    /// With --demo: exit after the searches
    #[arg(long, requires = "demo")]
    once: bool,

    /// Check the log in the data directory, change nothing, and exit: 0 clean, 1 damaged, 2 not
    /// checked
    #[arg(long, conflicts_with_all = ["demo", "generate_config"])]
    verify_wal: bool,

    /// Check the whole data directory: its files as --verify-wal does, then every shard's graph
    /// and documents. Changes nothing; exit codes as for --verify-wal
    #[arg(long, conflicts_with_all = ["demo", "generate_config", "verify_wal"])]
    verify: bool,

    /// With --verify: make the directory usable again, say exactly what is lost, and put the files
    /// of before into `quarantine/` there. Exit codes: 0 nothing was lost, 1 something was, 2 not
    /// repaired
    #[arg(long, requires = "verify")]
    repair: bool,

    /// Look at this host and the data directory's file system, say what to change, and exit: 0 fit,
    /// 1 something is bad, 2 it could not look. A sync of the disk is timed for some seconds
    #[arg(long, conflicts_with_all = ["demo", "generate_config", "verify_wal", "verify"])]
    doctor: bool,

    /// Print what a data set of --rows documents needs in memory and on the disk with this
    /// configuration, and exit: 0 it fits here, 1 it does not, 2 it can't be told
    #[arg(long, requires = "rows",
        conflicts_with_all = ["demo", "generate_config", "verify_wal", "verify", "doctor"])]
    plan: bool,

    /// With --plan: documents
    #[arg(long, value_name = "N", requires = "plan",
        value_parser = clap::value_parser!(u64).range(..=1_000_000_000_000))]
    rows: Option<u64>,

    /// With --plan: values in a vector [default: hnsw.dimension]
    #[arg(long, value_name = "N", requires = "plan")]
    dim: Option<usize>,

    /// With --plan: bytes of keys and values in the metadata of a document
    #[arg(long, value_name = "N", requires = "plan", default_value_t = 64)]
    metadata_bytes: usize,

    /// With --verify-wal, --verify or --doctor: print the report as JSON
    #[arg(long, conflicts_with = "plan")]
    json: bool,
}

/// Exit code of a start that may work later, EX_TEMPFAIL of sysexits.h: a port or an address is not to be
/// had. A start that is refused ends with 1.
const TRY_AGAIN: u8 = 75;

/// Target of this program's own log lines, by which RUST_LOG and readers of the log choose.
const TARGET: &str = "kyrodb_server";

/// What its command line can have.
pub(super) fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program. The first of the words is its name, as in the command line of a process.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    if let Some(code) = crate::packaging::if_asked(words, command) {
        return code;
    }
    restrict_new_files();
    let arguments = Arguments::parse_from(words);
    if arguments.verify_wal || arguments.verify || arguments.doctor || arguments.plan {
        let run = match () {
            () if arguments.doctor => doctor::run,
            () if arguments.plan => plan::run,
            () => check::run,
        };
        return run(arguments).unwrap_or_else(|message| {
            eprintln!("kyrodb_server: {message}");
            ExitCode::from(2)
        });
    }
    if arguments.json {
        eprintln!("kyrodb_server: --json goes with --verify-wal, --verify or --doctor");
        return ExitCode::from(2);
    }
    match run(arguments) {
        Ok(code) => code,
        Err(message) => {
            log::complain(Level::ERROR, &message);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, String> {
    if let Some(format) = &arguments.generate_config {
        let text = config::generate(format)?;
        #[expect(clippy::print_stdout, reason = "this is what was asked for")]
        {
            print!("{text}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (file, port, data_dir) = (arguments.config, arguments.port, arguments.data_dir);
    let overrides = Overrides { file, port, data_dir, is_again: false };
    let (config, origins) = load(&overrides, arguments.demo)?;
    if arguments.check_config {
        Server::check(&config)?;
        for warning in config.warnings() {
            eprintln!("kyrodb_server: warning: {warning}");
        }
        #[expect(clippy::print_stdout, reason = "this is what was asked for")]
        {
            println!("the configuration is good");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let log = Arc::new(Log::start(&config, arguments.demo)?);
    let ended = serve(&log, config, origins, overrides, (arguments.demo, arguments.once));
    if let Err(why) = &ended {
        log.refuse(why);
    }
    log::flush();
    ended
}

/// Brings the server up, and returns when it is down.
fn serve(
    log: &Arc<Log>,
    config: Config,
    origins: Origins,
    mut overrides: Overrides,
    (is_demo, once): (bool, bool),
) -> Result<ExitCode, String> {
    let signals = Signals::listen(&config).map_err(|error| format!("signals: {error}"))?;
    for warning in config.warnings() {
        log.warn(&warning);
    }
    let listeners = match Listeners::bind(&config) {
        Ok(listeners) => listeners,
        Err(why) => {
            log::complain(Level::ERROR, &why);
            log.refuse(&why);
            return Ok(ExitCode::from(TRY_AGAIN));
        }
    };
    let server = Server::start(config.clone(), origins, listeners)?;
    let (reloader, log) = (server.reloader(), log.clone());
    overrides.is_again = true;
    let reload: Box<Reload> = Box::new(move || {
        // Also where the configuration is refused: who moved the file waits for it.
        log::reopen();
        let (config, origins) = load(&overrides, is_demo)?;
        log.set_level(&config)?;
        reloader.apply(config, origins).map(|reloaded| reloaded.to_string())
    });
    signals.server_is_up(server.on_reload(reload));
    if is_demo {
        let shown = server.block_on(demo::run(server.grpc_address()));
        if once || shown.is_err() {
            let ended = server.shut_down();
            shown?;
            return Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        demo::print_how_to_go_on(server.grpc_address(), server.http_address());
    } else {
        banner::show(&config, server.grpc_address(), server.http_address());
    }
    let signal = signals.wait();
    tracing::info!(target: TARGET, "{signal}: shutting down");
    Ok(if server.shut_down() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// SIGTERM and SIGINT, from the first moment on.
struct Signals {
    asked: mpsc::Receiver<&'static str>,
    /// What SIGHUP does; nothing until the server is up.
    reload: Arc<OnceLock<Arc<Reload>>>,
}

impl Signals {
    fn listen(config: &Config) -> std::io::Result<Self> {
        let config = config.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let entered = runtime.enter();
        let [terminate, interrupt, hangup] = kinds.map(signal);
        drop(entered);
        let (mut terminate, mut interrupt, mut hangup) = (terminate?, interrupt?, hangup?);
        let (ask, asked) = mpsc::channel();
        let reload: Arc<OnceLock<Arc<Reload>>> = Arc::default();
        let (is_up, hung_up) = (reload.clone(), reload.clone());
        // Files may lie where reading takes its time: a signal to end is not to wait for that.
        let (reload_now, reloads) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("kyro-reload".into())
            .spawn(move || reloads.into_iter().for_each(|()| reload_by_signal(hung_up.get())))?;
        let listen = async move {
            let mut is_asked = false;
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = hangup.recv() => {
                        // One that comes while another is under way is done after it; more of them
                        // would read the same.
                        reload_now.try_send(()).ok();
                        continue;
                    }
                };
                // While logs are read nothing is in flight, and all that is on disk stays. One
                // who asks twice does not want to wait for what is.
                if is_up.get().is_none() {
                    forget_pid(&config);
                    log::flush();
                    std::process::exit(0);
                } else if is_asked {
                    log::flush();
                    std::process::exit(1);
                }
                is_asked = true;
                if ask.send(name).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("kyro-signals".into())
            .spawn(move || runtime.block_on(listen))?;
        Ok(Self { asked, reload })
    }

    /// From now on a signal asks for an orderly end, and SIGHUP for this.
    fn server_is_up(&self, reload: Arc<Reload>) {
        let first = self.reload.set(reload);
        debug_assert!(first.is_ok(), "a server comes up once");
    }

    /// Waits until the server is asked to end; returns by which signal.
    fn wait(&self) -> &'static str {
        self.asked.recv().unwrap_or("no more signals")
    }
}

fn reload_by_signal(reload: Option<&Arc<Reload>>) {
    match reload.map(|reload| reload()) {
        None => {
            tracing::warn!(target: TARGET, "SIGHUP: reload: the server is starting; nothing is read again")
        }
        Some(Ok(done)) => tracing::info!(target: TARGET, "SIGHUP: reload: {done}"),
        Some(Err(why)) => {
            tracing::error!(target: TARGET, "SIGHUP: reload refused, what was in force stays: {why}")
        }
    }
}

/// The configuration from all its sources.
fn load(overrides: &Overrides, is_demo: bool) -> Result<(Config, Origins), String> {
    let (mut config, origins) = config::load(overrides, std::env::vars_os())
        .map_err(|faults| format!("the configuration can't be used:\n  {}", faults.join("\n  ")))?;
    // The demo's documents are kept apart from a server's own, unless somebody said where.
    if is_demo && config.persistence.data_dir == Config::default().persistence.data_dir {
        config.persistence.data_dir = demo::DATA_DIR.into();
    }
    Ok((config, origins))
}
