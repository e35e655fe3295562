//! The server program: arguments → configuration → server → exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kyrodb::config::{self, Config, LogFormat, Overrides};
use kyrodb::demo;
use kyrodb::server::{Listeners, Server};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
    let overrides = Overrides {
        file: arguments.config,
        port: arguments.port,
        data_dir: arguments.data_dir.or_else(|| arguments.demo.then(|| demo::DATA_DIR.into())),
    };
    let config = config::load(&overrides, std::env::vars())
        .map_err(|faults| format!("the configuration can't be used:\n  {}", faults.join("\n  ")))?;
    start_log(&config, arguments.demo)?;
    for warning in config.warnings() {
        eprintln!("kyrodb_server: warning: {warning}");
    }
    let listeners = Listeners::bind(&config)?;
    let server = Server::start(config, listeners)?;
    if arguments.demo {
        let shown = server.block_on(demo::run(server.grpc_address()));
        if arguments.once || shown.is_err() {
            let ended = server.shut_down();
            shown?;
            return Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        demo::print_how_to_go_on(server.grpc_address(), server.http_address());
    }
    let signal = server.wait_for_signal().map_err(|error| error.to_string())?;
    tracing::info!("{signal}: shutting down");
    Ok(if server.shut_down() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
        .with_ansi(logging.file.is_none() && std::io::IsTerminal::is_terminal(&std::io::stdout()));
    match logging.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
