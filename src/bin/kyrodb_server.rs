//! The server program: arguments → configuration → server → exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use clap::Parser;
use kyrodb::config::{self, Config, LogFormat, Overrides};
use kyrodb::demo;
use kyrodb::server::{Listeners, Server};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

#[path = "kyrodb_server/check.rs"]
mod check;
#[path = "kyrodb_server/doctor.rs"]
mod doctor;

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

    /// With --verify-wal, --verify or --doctor: print the report as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.verify_wal || arguments.verify || arguments.doctor {
        let run = if arguments.doctor { doctor::run } else { check::run };
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
            eprintln!("kyrodb_server: {message}");
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
    let overrides =
        Overrides { file: arguments.config, port: arguments.port, data_dir: arguments.data_dir };
    let mut config = config::load(&overrides, std::env::vars_os())
        .map_err(|faults| format!("the configuration can't be used:\n  {}", faults.join("\n  ")))?;
    // The demo's documents are kept apart from a server's own, unless somebody said where.
    if arguments.demo && config.persistence.data_dir == Config::default().persistence.data_dir {
        config.persistence.data_dir = demo::DATA_DIR.into();
    }
    start_log(&config, arguments.demo)?;
    let signals = Signals::listen().map_err(|error| format!("signals: {error}"))?;
    for warning in config.warnings() {
        eprintln!("kyrodb_server: warning: {warning}");
    }
    let listeners = Listeners::bind(&config)?;
    let server = Server::start(config, listeners)?;
    signals.server_is_up();
    if arguments.demo {
        let shown = server.block_on(demo::run(server.grpc_address()));
        if arguments.once || shown.is_err() {
            let ended = server.shut_down();
            shown?;
            return Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        demo::print_how_to_go_on(server.grpc_address(), server.http_address());
    }
    let signal = signals.wait();
    tracing::info!("{signal}: shutting down");
    Ok(if server.shut_down() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// SIGTERM and SIGINT, from the first moment on.
struct Signals {
    asked: mpsc::Receiver<&'static str>,
    is_up: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let entered = runtime.enter();
        let [terminate, interrupt, hangup] = kinds.map(signal);
        drop(entered);
        let (mut terminate, mut interrupt, mut hangup) = (terminate?, interrupt?, hangup?);
        let (ask, asked) = mpsc::channel();
        let is_up = Arc::new(AtomicBool::new(false));
        let is_server_up = is_up.clone();
        let listen = async move {
            let mut is_asked = false;
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = hangup.recv() => {
                        tracing::warn!("SIGHUP: nothing is reloaded; restart to change settings");
                        continue;
                    }
                };
                // While logs are read nothing is in flight, and all that is on disk stays. One
                // who asks twice does not want to wait for what is.
                if !is_server_up.load(Ordering::Acquire) {
                    std::process::exit(0);
                } else if is_asked {
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
        Ok(Self { asked, is_up })
    }

    /// From now on a signal asks for an orderly end.
    fn server_is_up(&self) {
        self.is_up.store(true, Ordering::Release);
    }

    /// Waits until the server is asked to end; returns by which signal.
    fn wait(&self) -> &'static str {
        self.asked.recv().unwrap_or("no more signals")
    }
}

/// Starts the log as configured. Beside the demo, which prints for a person, only warnings
/// appear, on standard error.
fn start_log(config: &Config, is_demo: bool) -> Result<(), String> {
    let logging = &config.logging;
    let level = if is_demo { "warn" } else { logging.level.word() };
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(level));
    let filter = filter.map_err(|error| format!("RUST_LOG: {error}"))?;
    let writer = match &logging.file {
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let shown = path.display();
            let file = file.map_err(|error| format!("the log file {shown}: {error}"))?;
            BoxMakeWriter::new(std::sync::Mutex::new(file))
        }
        None if is_demo => BoxMakeWriter::new(std::io::stderr),
        None => BoxMakeWriter::new(std::io::stdout),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // They are printed to standard error, and where that can't be written either, as on a
        // full disk, printing panics: a line that is lost must not cost a core.
        .log_internal_errors(false)
        .with_ansi(logging.file.is_none() && std::io::IsTerminal::is_terminal(&std::io::stdout()));
    match logging.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
