//! The command line, and with the workload file, the settings of a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Fault;
use super::client::Door;
use super::peers::Target;
use super::workload::{Weights, Workload};
use crate::credentials::api_key;
use crate::ctl::client::with_scheme;
use crate::dataset::is_vectors_name;
use crate::types::limits::DIMENSION_MAX;

/// Highest rate of one generator, in requests per second.
const RATE_MAX: f64 = 1_000_000.0;

/// Longest run, in seconds.
const DURATION_SECONDS_MAX: f64 = 86_400.0;

/// Most requests in flight, and most connections.
const CONCURRENCY_MAX: usize = 10_000;
const CONNECTIONS_MAX: usize = 1_000;

/// Most random vectors.
const DATASET_MAX: usize = 10_000_000;

/// Most values in all random vectors: 8 GiB.
const VALUES_MAX: usize = 1 << 31;

/// Most results of a search.
const K_MAX: u32 = 1_000;

/// Widest beam.
const EF_MAX: u32 = 10_000;

/// Defaults: requests per second, length in seconds of a run and of a point of a sweep.
const RATE: f64 = 1_000.0;
const DURATION_SECONDS: f64 = 30.0;
const POINT_SECONDS: f64 = 5.0;

/// Sends a KyroDB server a known load, and says how fast and how right it answers.
///
/// Without --data it first inserts --dataset random vectors under the ids from 1 on, and searches
/// for them. Requests come at random moments at --qps, and their latency counts from the moment
/// they were due. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "kyrodb_load_tester", version)]
pub struct Arguments {
    /// gRPC address of the server; https:// for one with TLS. `host:port` will do
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051", global = true)]
    pub(super) server: String,

    #[command(flatten)]
    pub(super) entry: Entry,

    /// Requests a second [default: 1000]
    #[arg(long, value_name = "N", global = true, conflicts_with = "closed")]
    pub(super) qps: Option<f64>,

    /// Seconds of a run, or of each point of a sweep [default: 30, of a sweep 5]
    #[arg(long, value_name = "SECONDS", global = true)]
    pub(super) duration: Option<f64>,

    /// Most requests in flight; with --closed, as many all the time
    #[arg(long, value_name = "N", default_value_t = 32, global = true)]
    pub(super) concurrency: usize,

    /// Random vectors to insert and search for
    #[arg(long, value_name = "N", default_value_t = 2048, global = true)]
    pub(super) dataset: usize,

    /// Values in a random vector
    #[arg(long, value_name = "N", default_value_t = 384, global = true)]
    pub(super) dimension: usize,

    /// Deadline of each request, which the server is told
    #[arg(long, value_name = "MS", default_value_t = 5000, global = true)]
    pub(super) request_timeout_ms: u64,

    /// Exit with 1 when a larger part of the requests fails
    #[arg(long, value_name = "RATIO", default_value_t = 1.0, global = true)]
    pub(super) max_failure_ratio: f64,

    /// Connections that the requests are spread over
    #[arg(long, value_name = "N", default_value_t = 4, global = true)]
    pub(super) connections: usize,

    /// Seconds of the same load before anything is counted
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, global = true)]
    pub(super) warm_up: f64,

    /// As fast as --concurrency allows, instead of at a rate
    #[arg(long, global = true)]
    pub(super) closed: bool,

    /// Results a search [default: 10]
    #[arg(long, value_name = "N", global = true)]
    pub(super) k: Option<u32>,

    /// Beam width of a search; 0 is the server's own [default: 0]
    #[arg(long, value_name = "N", global = true)]
    pub(super) ef: Option<u32>,

    /// What decides vectors, arrivals and choices
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    pub(super) seed: u64,

    /// A TOML file: a mix of operations (weights), k, ef, filter, rate, duration
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) workload: Option<PathBuf>,

    /// A directory with base.npy, queries.npy and, for recall, gt_ids.npy
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "base")]
    pub(super) data: Option<PathBuf>,

    /// The vectors of the documents: .npy, .fvecs or .bvecs
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) base: Option<PathBuf>,

    /// The vectors to search with: .npy, .fvecs or .bvecs
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) queries: Option<PathBuf>,

    /// The exact neighbours of each query, as rows of the base: .npy or .ivecs
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) truth: Option<PathBuf>,

    /// Load what the server lacks of the base first, by BulkLoadHnsw
    #[arg(long, global = true)]
    pub(super) load: bool,

    /// Write a line of JSON a second, and a summary of each run
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) json: Option<PathBuf>,

    /// Write pictures and tables as one page of HTML
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) report: Option<PathBuf>,

    /// Write the pictures to a directory
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) svg: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// What a server that is not open to everybody asks for.
#[derive(Args)]
pub(super) struct Entry {
    /// File with an API key; else the variable KYRODB_API_KEY. A key with is_admin: the load tester
    /// asks for the server's settings. There is no option for the key itself: others on the machine
    /// could read it
    #[arg(long, value_name = "PATH", global = true)]
    key_file: Option<PathBuf>,

    /// PEM of the authority that signs the server's certificate, if the system does not know it
    #[arg(long, value_name = "PATH", global = true)]
    ca_cert: Option<PathBuf>,

    /// PEM certificate to show, where the server asks for one
    #[arg(long, value_name = "PATH", global = true)]
    client_cert: Option<PathBuf>,

    /// PEM key of that certificate
    #[arg(long, value_name = "PATH", global = true)]
    client_key: Option<PathBuf>,
}

impl Entry {
    fn settle(&self, url: &str) -> Result<Door, Fault> {
        let usage = |why: String| Err(Fault::Usage(why));
        if self.client_cert.is_some() != self.client_key.is_some() {
            return usage("--client-cert and --client-key go together".into());
        }
        let has_files = self.ca_cert.is_some() || self.client_cert.is_some();
        // `host:port` alone will do.
        let url = match url.contains("://") || !url.contains(':') {
            true => url.to_owned(),
            false => with_scheme(url, has_files),
        };
        if has_files && !url.starts_with("https://") {
            return usage(format!(
                "--server {url} is not asked with TLS: certificates go with an https:// address"
            ));
        }
        let read = |name: &str, path: &Option<PathBuf>| {
            let Some(path) = path else { return Ok(None) };
            let shown = path.display();
            let read = std::fs::read(path);
            read.map(Some).map_err(|error| Fault::Usage(format!("{name} {shown}: {error}")))
        };
        let ca_cert = read("--ca-cert", &self.ca_cert)?;
        let is_pem = |pem: &Vec<u8>| CertificateDer::pem_slice_iter(pem).next().is_some();
        if let Some(path) = self.ca_cert.as_ref().filter(|_| !ca_cert.as_ref().is_some_and(is_pem))
        {
            return usage(format!("--ca-cert {}: there is no certificate in it", path.display()));
        }
        let cert = read("--client-cert", &self.client_cert)?;
        let identity = cert.zip(read("--client-key", &self.client_key)?);
        let key = api_key(self.key_file.as_deref()).map_err(Fault::Usage)?;
        Ok(Door { url, key, ca_cert, identity })
    }
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Measure one thing over a range of another
    Sweep {
        #[command(subcommand)]
        what: Sweep,
    },
    /// Measure KyroDB and other engines beside each other, at the same work
    ///
    /// Each engine searches at the narrowest width that has the recall, one request in flight and
    /// then --concurrency; then stores documents, one a request. The engines take turns, and
    /// figures are medians of the rounds. A peer gets a table `kyrodb_compare`, which is replaced
    /// and at the end dropped, with KyroDB's distance, m and ef_construction. Peers: pgvector
    /// (postgresql://USER@HOST:PORT/DATABASE or "host=DIRECTORY user=USER"), chroma, qdrant, milvus
    /// (http://HOST:PORT).
    Compare(Compare),
}

#[derive(Args)]
pub(super) struct Compare {
    /// An engine and where it answers; may be given more than once
    #[arg(long, value_name = "ENGINE=ADDRESS")]
    peer: Vec<String>,

    /// An engine that could not be started, and why: it stands in the table with the reason
    #[arg(long, value_name = "ENGINE=REASON")]
    absent: Vec<String>,

    /// Least recall
    #[arg(long, value_name = "RATIO", default_value_t = 0.95)]
    recall: f64,

    #[command(flatten)]
    rounds: Rounds,
}

#[derive(Args)]
pub(super) struct Rounds {
    /// Rounds in which engines, or widths, take turns; the median of the rounds counts
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=99)
    )]
    pub(super) rounds: u32,
}

/// A comparison, checked.
pub(super) struct Comparison {
    pub(super) targets: Vec<Target>,
    pub(super) recall: f64,
    pub(super) rounds: u32,
}

impl Compare {
    fn settle(&self) -> Result<Comparison, Fault> {
        check("--recall", self.recall, 0.0, 1.0, "a part of all")?;
        let peers = self.peer.iter().map(|text| Target::peer(text));
        let absent = self.absent.iter().map(|text| Target::absent(text));
        let targets = peers.chain(absent).collect::<Result<Vec<Target>, Fault>>()?;
        for (index, target) in targets.iter().enumerate() {
            if targets[..index].iter().any(|other| other.kind == target.kind) {
                let word = target.kind.word();
                return Err(Fault::Usage(format!("{word} is named twice: give one of the two")));
            }
        }
        Ok(Comparison { targets, recall: self.recall, rounds: self.rounds.rounds })
    }
}

impl Comparison {
    /// As in lines of JSON; without addresses, which may contain passwords.
    pub(super) fn shown(&self) -> serde_json::Value {
        let peers: Vec<&str> = self.targets.iter().map(|target| target.kind.word()).collect();
        serde_json::json!({"recall": self.recall, "rounds": self.rounds, "peers": peers})
    }
}

#[derive(Subcommand)]
pub(super) enum Sweep {
    /// Recall, rate and latency at these beam widths, as fast as --concurrency allows
    Ef {
        /// Beam widths
        #[arg(
            value_delimiter = ',',
            required = true,
            value_parser = clap::value_parser!(u32).range(1..=10_000)
        )]
        widths: Vec<u32>,

        #[command(flatten)]
        rounds: Rounds,
    },
    /// The highest rate that keeps the promise, at the narrowest beam that has the recall
    Rate {
        /// Longest 99th percentile of the latency
        #[arg(long, value_name = "MS")]
        slo_p99_ms: f64,

        /// Least recall
        #[arg(long, value_name = "RATIO")]
        recall: f64,

        /// Runs of the bisection; each halves what is left between the highest rate that is
        /// known to be good and the lowest that is not
        #[arg(
            long,
            value_name = "N",
            default_value_t = 7,
            value_parser = clap::value_parser!(u32).range(1..=20)
        )]
        steps: u32,
    },
}

/// Settings of all runs: arguments take precedence over the workload file, and that over defaults. Checked.
pub(super) struct Settings {
    pub(super) door: Door,
    pub(super) rate: f64,
    pub(super) duration: Duration,
    pub(super) warm_up: Duration,
    pub(super) timeout: Duration,
    pub(super) concurrency: usize,
    pub(super) connections: usize,
    pub(super) failure_ratio_max: f64,
    pub(super) seed: u64,
    pub(super) k: u32,
    pub(super) ef: u32,
    pub(super) weights: Weights,
    pub(super) filter: Option<crate::proto::MetadataFilter>,
    pub(super) source: Source,
    pub(super) may_load: bool,
    pub(super) json: Option<PathBuf>,
    pub(super) comparison: Option<Comparison>,
}

/// Source of the vectors.
pub(super) enum Source {
    /// Generated here.
    Random { count: usize, dimension: usize },
    /// Read from files.
    Files { base: PathBuf, queries: PathBuf, truth: Option<PathBuf> },
}

impl Arguments {
    /// Checks the arguments.
    ///
    /// # Errors
    /// If a value is out of its bounds, or two of them contradict each other.
    pub(super) fn settle(&self) -> Result<Settings, Fault> {
        let workload = match &self.workload {
            Some(path) => Workload::read(path).map_err(Fault::Usage)?,
            None => Workload::default(),
        };
        let is_sweep = self.command.is_some();
        let usual = if is_sweep { POINT_SECONDS } else { DURATION_SECONDS };
        let duration = self.duration.or(workload.duration).unwrap_or(usual);
        let rate = self.qps.or(workload.rate).unwrap_or(RATE);
        let k = self.k.or(workload.k).unwrap_or(10);
        let ef = self.ef.or(workload.ef).unwrap_or(0);
        check("--qps", rate, 0.001, RATE_MAX, "run several load testers for more")?;
        check("--duration", duration, 0.1, DURATION_SECONDS_MAX, "seconds")?;
        check("--warm-up", self.warm_up, 0.0, DURATION_SECONDS_MAX, "seconds")?;
        check("--max-failure-ratio", self.max_failure_ratio, 0.0, 1.0, "a part of all")?;
        let timeout_ms = self.request_timeout_ms;
        check("--request-timeout-ms", timeout_ms as f64, 1.0, 3.6e6, "milliseconds")?;
        check_count("--concurrency", self.concurrency, CONCURRENCY_MAX)?;
        check_count("--connections", self.connections, CONNECTIONS_MAX)?;
        check_count("--dataset", self.dataset, DATASET_MAX)?;
        check_count("--dimension", self.dimension, DIMENSION_MAX)?;
        let values = self.dataset.saturating_mul(self.dimension);
        check_count("--dataset times --dimension", values, VALUES_MAX)?;
        check_count("--k", k as usize, K_MAX as usize)?;
        check("--ef", f64::from(ef), 0.0, f64::from(EF_MAX), "0 is the server's own")?;
        let comparison = match &self.command {
            Some(Command::Compare(compare)) => Some(compare.settle()?),
            _ => None,
        };
        let source = self.source()?;
        if is_sweep {
            self.check_sweep(&workload, &source)?;
        }
        Ok(Settings {
            door: self.entry.settle(&self.server)?,
            rate,
            duration: Duration::from_secs_f64(duration),
            warm_up: Duration::from_secs_f64(self.warm_up),
            timeout: Duration::from_millis(timeout_ms),
            concurrency: self.concurrency,
            connections: self.connections.min(self.concurrency),
            failure_ratio_max: self.max_failure_ratio,
            seed: self.seed,
            k,
            ef,
            weights: workload.weights,
            filter: workload.filter,
            source,
            may_load: self.load,
            json: self.json.clone(),
            comparison,
        })
    }

    fn source(&self) -> Result<Source, Fault> {
        let usage = |why: &str| Err(Fault::Usage(why.into()));
        if let Some(directory) = &self.data {
            if self.queries.is_some() || self.truth.is_some() {
                return usage("--data names all files; --queries and --truth go with --base");
            }
            if !directory.is_dir() {
                let name = directory.display();
                return usage(&format!("--data {name}: no such directory"));
            }
            let truth = directory.join("gt_ids.npy");
            return Ok(Source::Files {
                base: directory.join("base.npy"),
                queries: directory.join("queries.npy"),
                truth: truth.exists().then_some(truth),
            });
        }
        match (&self.base, &self.queries) {
            (Some(base), Some(queries)) => {
                for path in [base, queries] {
                    if !is_vectors_name(path) {
                        let name = path.display();
                        return usage(&format!("{name}: vectors are .npy, .fvecs or .bvecs"));
                    }
                }
                let (base, queries) = (base.clone(), queries.clone());
                Ok(Source::Files { base, queries, truth: self.truth.clone() })
            }
            (Some(_), None) => usage("--base needs --queries: what to search with"),
            (None, Some(_)) => usage("--queries needs --base: the documents to search in"),
            (None, None) if self.truth.is_some() => {
                usage("--truth needs --base and --queries, whose neighbours it names")
            }
            (None, None) if self.load => usage(
                "--load needs --data, or --base and --queries; without them random vectors \
                       are inserted anyway",
            ),
            (None, None) => Ok(Source::Random { count: self.dataset, dimension: self.dimension }),
        }
    }

    fn check_sweep(&self, workload: &Workload, source: &Source) -> Result<(), Fault> {
        let what = match &self.command {
            Some(Command::Compare(_)) => "a comparison",
            _ => "a sweep",
        };
        if !matches!(source, Source::Files { truth: Some(_), .. }) {
            return Err(Fault::Usage(format!(
                "{what} needs ground truth, for the recall: --data DIR with gt_ids.npy, or \
                 --truth FILE (.npy or .ivecs)"
            )));
        }
        if !workload.weights.is_search_alone() {
            return Err(Fault::Usage(format!(
                "{what} is of searches alone: leave other operations out of the workload"
            )));
        }
        if let Some(Command::Sweep { what: Sweep::Rate { slo_p99_ms, recall, .. } }) = &self.command
        {
            check("--slo-p99-ms", *slo_p99_ms, 0.001, 3.6e6, "milliseconds")?;
            check("--recall", *recall, 0.0, 1.0, "a part of all")?;
        }
        Ok(())
    }
}

fn check(name: &str, value: f64, min: f64, max: f64, hint: &str) -> Result<(), Fault> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Fault::Usage(format!("{name} is {value}; it has to be {min} to {max} ({hint})")))
}

fn check_count(name: &str, value: usize, max: usize) -> Result<(), Fault> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(Fault::Usage(format!("{name} is {value}; it has to be 1 to {max}")))
}
