//! The operator's program: arguments → a request over HTTP → what came of it, and an exit code.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde_json::{Value, json};

use crate::credentials::api_key;
use crate::ctl::client::{Answer, Identity, Place, Server, with_scheme};
use crate::ctl::{show, slo, slow, transfer};
use crate::disk::owner::restrict_new_files;

/// Looks at a KyroDB server and changes how it runs.
///
/// Exit codes: 0 done, or well; 1 the server says no, or is not well; 2 wrong usage, or no answer.
#[derive(Parser)]
#[command(name = "kyrodb_ctl", version)]
struct Arguments {
    /// HTTP address of the server: its gRPC port + 1000. `host:port` will do
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:51051",
        env = "KYRODB_URL",
        global = true
    )]
    url: String,

    /// File with an API key; else the variable KYRODB_API_KEY. There is no option for the key
    /// itself: others on the machine could read it
    #[arg(long, value_name = "PATH", global = true)]
    key_file: Option<PathBuf>,

    /// PEM of the authority that signs the server's certificate, if the system does not know it
    #[arg(long, value_name = "PATH", env = "KYRODB_CA_CERT", global = true)]
    ca_cert: Option<PathBuf>,

    /// PEM of a certificate to show, if the server asks for one
    #[arg(long, value_name = "PATH", env = "KYRODB_CLIENT_CERT", global = true)]
    client_cert: Option<PathBuf>,

    /// PEM of its private key
    #[arg(long, value_name = "PATH", env = "KYRODB_CLIENT_KEY", global = true)]
    client_key: Option<PathBuf>,

    /// Print what the server said as JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// How the server is, on one screen; 1 if it is not ready
    Status,
    /// 0 if it is healthy or degraded, 1 otherwise
    Health,
    /// 0 if requests should be sent there, 1 otherwise
    Ready,
    /// The last minute against each objective, and how much of its allowance that burns
    Slo,
    /// What this key's tenant has used
    Usage {
        /// What all tenants have used; needs an admin key
        #[arg(long)]
        all: bool,
    },
    /// The slowest searches of the last five minutes, each with its longest stage and the reason, and
    /// stalls of cores
    Slow,
    /// Where the server spends its CPU time: a flame graph, by thread and function
    Profile {
        /// How long to look, 1 to 60
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
        seconds: u64,
        /// Where to put it: a picture (.svg), stacks in lines (.folded, .txt), or else the protobuf
        /// that pprof reads
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Samples of a running thread a second, 1 to 999
        #[arg(long, value_name = "N", default_value_t = 99, value_parser = clap::value_parser!(u64).range(1..=999))]
        hz: u64,
    },
    /// Metrics with this text in their name or labels, all if none is given; 1 if there is none
    Metrics {
        /// The text
        part: Option<String>,
    },
    /// The configuration and where its values come from
    Config {
        /// Only what is not a default
        #[arg(long)]
        set: bool,
    },
    /// The breakers of the logs
    Breaker {
        /// What to do
        #[arg(value_enum)]
        action: BreakerAction,
    },
    /// Refuses writes until it is switched off, also over a restart
    ReadOnly {
        /// What to do
        #[arg(value_enum)]
        action: Switch,
    },
    /// Refuses reads and writes until it is switched off, or the server restarts
    Maintenance {
        /// What to do
        #[arg(value_enum)]
        action: Switch,
    },
    /// Limits requests of all tenants together until the configuration is loaded again
    RateLimit {
        /// Requests a second; 0 for no limit
        per_second: u32,
    },
    /// Takes a snapshot of every shard, after which the log before it is dropped
    Snapshot,
    /// Takes deleted and replaced documents out of the graphs now, so that their memory is used again
    Compact,
    /// Drops what snapshots cover of the logs, and says what is kept
    Truncate,
    /// Begins a fresh segment of every log; the one before is complete then
    Rotate,
    /// Gives back memory that is not needed: cached answers, and what profiles have read
    Gc,
    /// Checks the files of the server while it runs: complete segments of the logs, and snapshots
    Scrub {
        /// What to do
        #[arg(value_enum)]
        action: ScrubAction,
        /// With start: how much to read a second, in MiB [default: 32]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
        mib_per_second: Option<u32>,
    },
    /// What each thread of the server is at
    Threads,
    /// Writes every document that the key may see as a line of JSON, in the order of ids
    Dump {
        #[command(flatten)]
        place: Grpc,
        /// To this file, which must not be there yet; to standard output if it is not named
        file: Option<PathBuf>,
        /// Go on behind the last whole line of the file
        #[arg(long, requires = "file")]
        resume: bool,
        /// Only documents of this namespace
        #[arg(long, default_value = "")]
        namespace: String,
    },
    /// Stores the documents of a dump, for the tenant of the key; once more does no harm
    Load {
        #[command(flatten)]
        place: Grpc,
        /// From this file; from standard input if it is not named
        file: Option<PathBuf>,
    },
    /// Reads the configuration, API keys and certificates again, as SIGHUP does
    Reload,
    /// Ends the server: what is in flight is finished first
    Shutdown {
        /// Cut off what is in flight, and take no last snapshot; nothing acknowledged is lost
        #[arg(long)]
        emergency: bool,
    },
    /// Prints a completion script
    Completion {
        /// For this shell
        shell: Shell,
    },
}

/// Where documents go over.
#[derive(Args)]
struct Grpc {
    /// gRPC address of the server
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        env = "KYRODB_GRPC_URL"
    )]
    grpc: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum BreakerAction {
    Status,
    Reset,
    Trip,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScrubAction {
    Status,
    Start,
    Stop,
}

#[derive(Clone, Copy, ValueEnum)]
enum Switch {
    Status,
    On,
    Off,
}

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
    if let Command::Completion { shell } = arguments.command {
        let mut command = Arguments::command();
        clap_complete::generate(shell, &mut command, "kyrodb_ctl", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok((text, is_good)) => {
            let mut output = std::io::stdout();
            // A reader that went away has seen enough.
            output.write_all(text.as_bytes()).and_then(|()| output.flush()).ok();
            if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("kyrodb_ctl: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(String, bool), String> {
    let identity = match (arguments.client_cert.clone(), arguments.client_key.clone()) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        (None, None) => None,
        _ => return Err("--client-cert and --client-key go together".into()),
    };
    let is_tls = arguments.ca_cert.is_some() || identity.is_some();
    let place = Place {
        url: with_scheme(&arguments.url, is_tls),
        key: api_key(arguments.key_file.as_deref())?,
        ca_cert: arguments.ca_cert.clone(),
        identity,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let at = |grpc: &Grpc| Place { url: with_scheme(&grpc.grpc, is_tls), ..place.clone() };
    match &arguments.command {
        Command::Dump { place, file, resume, namespace } => {
            let (place, file) = (at(place), file.as_deref());
            let written = runtime.block_on(transfer::dump(&place, file, *resume, namespace))?;
            return Ok((dumped(written, file, arguments.json), true));
        }
        Command::Load { place, file } => {
            let loaded = runtime.block_on(transfer::load(&at(place), file.as_deref()))?;
            return Ok((self::loaded(&loaded, arguments.json), loaded.failed == 0));
        }
        _ => {}
    }
    let server = Server::at(&place)?;
    runtime.block_on(ask(&server, arguments))
}

async fn ask(server: &Server, arguments: &Arguments) -> Result<(String, bool), String> {
    let answer = match &arguments.command {
        Command::Status => return status(server, arguments.json).await,
        Command::Config { set } => {
            let answer = server.get("/config").await?;
            if answer.is_good() && !arguments.json {
                return Ok((show::config(&answer.body, *set), true));
            }
            answer
        }
        Command::Metrics { part } => {
            let answer = server.get("/metrics").await?;
            let Some(text) = answer.body.as_str().filter(|_| answer.is_good()) else {
                return Ok(shown(&answer, arguments.json));
            };
            return Ok(metrics(text, part.as_deref()));
        }
        Command::Health => server.get("/health").await?,
        Command::Ready => server.get("/ready").await?,
        Command::Slo => return page(server, "/slo", slo::slo, arguments.json).await,
        Command::Usage { all: false } => server.get("/usage?scope=self").await?,
        Command::Usage { all: true } => server.get("/usage?scope=all").await?,
        Command::Slow => return page(server, "/debug/slow", slow::slow, arguments.json).await,
        Command::Profile { seconds, out, hz } => {
            let format = match out.extension().and_then(std::ffi::OsStr::to_str) {
                Some("svg") => "svg",
                Some("folded" | "txt") => "folded",
                _ => "pprof",
            };
            let path = format!("/debug/pprof/profile?seconds={seconds}&hz={hz}&format={format}");
            match server.fetch(&path).await? {
                Ok(profile) => return write(out, &profile),
                Err(refused) => refused,
            }
        }
        Command::Breaker { action } => match action {
            BreakerAction::Status => server.get("/admin/circuit-breaker/status").await?,
            BreakerAction::Reset => server.post("/admin/circuit-breaker/reset").await?,
            BreakerAction::Trip => server.post("/admin/circuit-breaker/trip").await?,
        },
        Command::ReadOnly { action } => switch(server, "/admin/read-only", *action).await?,
        Command::Maintenance { action } => switch(server, "/admin/maintenance", *action).await?,
        Command::RateLimit { per_second } => {
            server.post(&format!("/admin/rate-limit?ops_per_sec={per_second}")).await?
        }
        Command::Snapshot => server.post("/admin/snapshot").await?,
        Command::Compact => server.post("/admin/compact").await?,
        Command::Truncate => server.post("/admin/wal/truncate").await?,
        Command::Rotate => server.post("/admin/wal/rotate").await?,
        Command::Gc => server.post("/admin/gc").await?,
        Command::Scrub { action, mib_per_second } => match (action, mib_per_second) {
            (ScrubAction::Status, _) => server.get("/admin/scrub").await?,
            (ScrubAction::Stop, _) => server.post("/admin/scrub?state=stop").await?,
            (ScrubAction::Start, None) => server.post("/admin/scrub?state=start").await?,
            (ScrubAction::Start, Some(mib)) => {
                server.post(&format!("/admin/scrub?state=start&mib_per_second={mib}")).await?
            }
        },
        Command::Threads => {
            let answer = server.get("/debug/pprof/threads").await?;
            match answer.body.as_str().filter(|_| answer.is_good()) {
                Some(text) => return Ok((text.to_owned(), true)),
                None => answer,
            }
        }
        Command::Reload => server.post("/admin/reload").await?,
        Command::Shutdown { emergency } => {
            let mode = if *emergency { "emergency" } else { "graceful" };
            server.post(&format!("/admin/shutdown?mode={mode}")).await?
        }
        Command::Completion { .. } | Command::Dump { .. } | Command::Load { .. } => {
            unreachable!("these ask no page, and are done with")
        }
    };
    Ok(shown(&answer, arguments.json))
}

/// What is said of a dump. Standard output has the documents, and nothing else.
fn dumped(written: u64, file: Option<&Path>, is_json: bool) -> String {
    match (file, is_json) {
        (None, _) => String::new(),
        (_, true) => format!("{}\n", json!({ "written": written })),
        (Some(file), false) => format!("{written} documents were written to {}\n", file.display()),
    }
}

/// What became of documents that were loaded.
fn loaded(loaded: &transfer::Loaded, is_json: bool) -> String {
    let transfer::Loaded { stored, failed, last_error } = loaded;
    match (is_json, failed) {
        (true, _) => {
            let all = json!({ "stored": stored, "failed": failed, "last_error": last_error });
            format!("{all}\n")
        }
        (false, 0) => format!("{stored} documents are stored\n"),
        (false, _) => format!(
            "{stored} documents are stored; {failed} were refused, the last one: {last_error}\n"
        ),
    }
}

/// Puts what was read into a file.
fn write(path: &Path, bytes: &[u8]) -> Result<(String, bool), String> {
    let shown = path.display();
    std::fs::write(path, bytes).map_err(|error| format!("{shown} can't be written: {error}"))?;
    Ok((format!("{} bytes are in {shown}\n", bytes.len()), true))
}

/// Samples that have `part` before their value.
fn metrics(text: &str, part: Option<&str>) -> (String, bool) {
    let Some(part) = part else { return (text.to_owned(), true) };
    let is_asked_for = |line: &&str| {
        !line.starts_with('#') && line.rsplit_once(' ').is_some_and(|(name, _)| name.contains(part))
    };
    let found: String = text.lines().filter(is_asked_for).map(|line| format!("{line}\n")).collect();
    let is_found = !found.is_empty();
    (if is_found { found } else { format!("no metric has `{part}`\n") }, is_found)
}

/// A page that people read in a form of its own.
async fn page(
    server: &Server,
    path: &str,
    show: fn(&Value) -> String,
    is_json: bool,
) -> Result<(String, bool), String> {
    let answer = server.get(path).await?;
    match answer.is_good() && !is_json {
        true => Ok((show(&answer.body), true)),
        false => Ok(shown(&answer, is_json)),
    }
}

async fn switch(server: &Server, path: &str, action: Switch) -> Result<Answer, String> {
    match action {
        Switch::Status => server.get(path).await,
        Switch::On => server.post(&format!("{path}?state=on")).await,
        Switch::Off => server.post(&format!("{path}?state=off")).await,
    }
}

/// What was said, and whether it was a yes.
fn shown(answer: &Answer, is_json: bool) -> (String, bool) {
    let text = match (is_json, answer.is_good()) {
        (true, _) => format!("{:#}\n", answer.body),
        (false, true) => show::plain(&answer.body),
        (false, false) => format!("{}\n", answer.reason()),
    };
    (text, answer.is_good())
}

async fn status(server: &Server, is_json: bool) -> Result<(String, bool), String> {
    let (health, ready) = (server.get("/health").await?, server.get("/ready").await?);
    let (stats, slo) = (server.get("/stats").await?, server.get("/slo").await?);
    // A server that is not well says so with a status of its own, and has the rest to tell.
    for answer in [&health, &ready, &stats, &slo] {
        if matches!(answer.code, 401 | 403 | 404) {
            return Ok(shown(answer, is_json));
        }
    }
    let is_ready = ready.is_good();
    let bodies = [health, ready, stats, slo].map(|answer| answer.body);
    let text = if is_json {
        let [health, ready, stats, slo] = bodies;
        let all: Value = json!({ "health": health, "ready": ready, "stats": stats, "slo": slo });
        format!("{all:#}\n")
    } else {
        let [health, ready, stats, slo] = bodies;
        show::status(&show::Pages { health, ready, stats, slo })
    };
    Ok((text, is_ready))
}
