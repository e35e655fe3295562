//! A whole server in one process: connects the parts, starts them, and stops them.
//!
//! ```text
//! ports → directory and lock → cores → MANIFEST → logs → ready ⇄ serving → drain → settle → seal → end
//! ```
//!
//! HTTP answers from the first step on, gRPC says UNAVAILABLE until the last.

mod dimension;
pub mod directory;
mod listen;
pub mod log;
mod log_file;
mod open;
mod open_files;
mod pid_file;
mod plan;
mod reload;
mod repair;
mod settings;
mod systemd;
mod verify;

pub use self::reload::{Reloaded, Reloader};
pub use self::repair::{Whole, repair_directory, verify_whole};
pub use self::verify::verify;

use std::net::{TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use self::directory::GuardedLock;
use self::listen::patiently;
use self::open::{Cores, Parts, Started};
use self::pid_file::PidFile;
use self::plan::check_memory;
pub use self::plan::plan;
use self::systemd::Systemd;
use crate::access::Access;
use crate::config::{Config, Origins, Running, VectorStorage};
use crate::gateway::{self, Gateway};
use crate::observe::Observed;
use crate::router::check::check_hits;
use crate::shard::cpus::{self, Placement};
use crate::shard::preflight;
use crate::sizing;
use crate::status::health::{Health, Phase};
use crate::status::http::{self, Http, Pages, Reload};
use crate::tls::Tls;

/// Connections that may wait to be accepted: as many as the system allows (net.core.somaxconn).
const BACKLOG: i32 = 65_535;

/// The listening ports of a server.
pub struct Listeners {
    /// Port of gRPC.
    pub grpc: TcpListener,
    /// Port of HTTP.
    pub http: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the configuration, and retries for some seconds.
    ///
    /// # Errors
    /// The address that can't be bound, why, and the remedy.
    pub fn bind(config: &Config) -> Result<Self, String> {
        let server = &config.server;
        Ok(Self {
            grpc: patiently(|| bind("gRPC", &server.host, server.port, "--port N or server.port"))?,
            http: patiently(|| {
                bind("HTTP", server.http_host(), server.http_port(), "server.http_port")
            })?,
        })
    }
}

fn bind(what: &str, host: &str, port: u16, setting: &str) -> Result<TcpListener, String> {
    let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
    let addresses = (bare, port)
        .to_socket_addrs()
        .map_err(|error| format!("the {what} host `{host}` does not resolve: {error}"))?;
    let mut failed = format!("the {what} host `{host}` has no address");
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => {
                // The standard library uses a backlog of 128: beyond that, clients that connect together would wait a
                // second for their retry.
                if let Err(error) = socket2::SockRef::from(&listener).listen(BACKLOG) {
                    tracing::warn!("{what} has a short queue of new connections: {error}");
                }
                return Ok(listener);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                failed = format!(
                    "{what} can't listen on {address}: the port is in use, by another KyroDB or \
                     by a client whose own port it is (`ss -tanp sport = :{port}` tells). Choose \
                     another one with {setting}."
                );
            }
            Err(error) => failed = format!("{what} can't listen on {address}: {error}"),
        }
    }
    Err(failed)
}

/// Removes `server.pid_file` for a process that ends during its start, without shutting a server down.
pub fn forget_pid(config: &Config) {
    if let Some(path) = &config.server.pid_file {
        pid_file::remove(path);
    }
}

/// A running server.
pub struct Server {
    config: Arc<Config>,
    health: Arc<Health>,
    observed: Arc<Observed>,
    access: Arc<Access>,
    reloader: Arc<Reloader>,
    pages: Arc<Pages>,
    runtime: tokio::runtime::Runtime,
    drain: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    cores: Cores,
    started: Started,
    grpc_address: std::net::SocketAddr,
    http_address: std::net::SocketAddr,
    // The pages describe all parts above until they are down.
    http: Http,
    // Tells systemd about the shutdown while it takes.
    _systemd: Systemd,
    _pid_file: Option<PidFile>,
    // Released last: another server may start once everything else is down.
    _lock: GuardedLock,
}

impl Server {
    /// Checks the files that a configuration names besides the data directory: API keys and certificates.
    ///
    /// # Errors
    /// All faults of these files.
    pub fn check(config: &Config) -> Result<(), String> {
        let faults = [
            Access::new(config).err(),
            Tls::new(&config.server.tls).err(),
            check_memory(config).err(),
        ];
        let faults: Vec<String> = faults.into_iter().flatten().collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }

    /// Starts a server, which is ready when this returns. `origins` tells where each value of the configuration comes
    /// from.
    ///
    /// # Errors
    /// The obstacle, and the remedy.
    pub fn start(config: Config, origins: Origins, listeners: Listeners) -> Result<Self, String> {
        let begun = Instant::now();
        let running = Running { config: config.clone(), origins };
        let running = Arc::new(ArcSwap::from_pointee(running));
        let config = Arc::new(config);
        let observed = Arc::new(Observed::default());
        let health = Arc::new(Health::new(observed.clone()));
        health.judge_by(config.slo.clone());
        observed.memory.set_max(sizing::memory_max(&config.memory));
        let on_disk = config.storage.vectors == VectorStorage::Nvme;
        observed.has_vectors_on_disk.store(on_disk, Ordering::Relaxed);
        check_memory(&config)?;
        let room = open_files::fit(config.server.max_connections);
        let access = Arc::new(Access::new(&config)?);
        let tls = Tls::new(&config.server.tls)?;
        if let Some(tls) = &tls {
            let first = observed.certificate_end.set(tls.not_after());
            debug_assert!(first.is_ok(), "a server starts once");
        }
        let systemd = Systemd::start(health.clone()).map_err(|error| error.to_string())?;
        let placement = cpus::place(&cpus::allowed(), config.runtime.cores)
            .map_err(|error| error.to_string())?
            .by_node(Path::new("/"));
        let io_memory_bytes = preflight::check_system(placement.cores.len())?;
        let lock = GuardedLock::take(&config.persistence)?;
        let pid_file = config.server.pid_file.as_deref().map(PidFile::write).transpose()?;
        let address = |listener: &TcpListener| listener.local_addr().map_err(|e| e.to_string());
        let (grpc_address, http_address) = (address(&listeners.grpc)?, address(&listeners.http)?);
        health.modes.restore(&config.persistence.data_dir);
        let pages = Arc::new(Pages {
            running: running.clone(),
            data_dir: config.persistence.data_dir.clone(),
            health: health.clone(),
            observed: observed.clone(),
            access: access.clone(),
            shards: OnceLock::new(),
            reload: OnceLock::new(),
            reloading: Arc::default(),
        });
        let http = http::spawn(listeners.http, tls.clone(), pages.clone(), room.http);
        let http = http.map_err(|error| error.to_string())?;

        let runtime = gateway_runtime(&placement).map_err(|error| error.to_string())?;
        #[cfg(feature = "otel")]
        gateway::otlp::start(&config.telemetry, &observed, runtime.handle())?;
        let gateway =
            Gateway::new(config.clone(), observed.clone(), health.clone(), access.clone());
        let (drain, draining) = watch::channel(false);
        let limits = gateway::Limits {
            connections_max: room.grpc,
            address_max: config.server.max_connections_per_address,
            idle: Duration::from_secs(config.server.connection_timeout_secs),
        };
        let serving = {
            let _entered = runtime.enter();
            let routes = gateway.routes()?;
            let set = listeners.grpc.set_nonblocking(true);
            set.map_err(|error| error.to_string())?;
            let listener = tokio::net::TcpListener::from_std(listeners.grpc)
                .map_err(|error| error.to_string())?;
            let door = gateway::Door { listener, tls: tls.clone() };
            runtime.spawn(gateway::serve(door, routes, limits, observed.clone(), draining))
        };
        let parts =
            Parts { config: &config, observed: &observed, health: &health, access: &access };
        let (cores, started, lock) =
            open::bring_up(parts, &placement, io_memory_bytes, &runtime, lock)?;
        access.open()?;
        runtime.spawn(access.clone().keep());
        if let Some(tls) = &tls {
            runtime.spawn(tls.clone().keep());
        }
        runtime.spawn(check_hits(Arc::downgrade(&started.router)));
        gateway.open(started.router.clone(), started.dimension);
        let first = pages.shards.set(started.router.clone());
        debug_assert!(first.is_ok(), "a server starts once");
        let reloader = Arc::new(Reloader {
            running,
            turn: Mutex::default(),
            access: access.clone(),
            health: health.clone(),
            gateway,
            router: started.router.clone(),
            tls,
        });
        tracing::info!(
            grpc = %grpc_address,
            http = %http_address,
            data_dir = %config.persistence.data_dir.display(),
            shards = started.router.shards(),
            partitions = started.router.partitions(),
            cores = placement.cores.len(),
            cpus = ?placement.cores,
            documents = observed.shards().iter().map(|shard| shard.documents.get()).sum::<u64>(),
            records_read = started.records,
            ready_ms = begun.elapsed().as_millis() as u64,
            "KyroDB {} is ready",
            env!("CARGO_PKG_VERSION"),
        );
        // The log of the start is written before systemd and callers learn that the server is ready.
        log::flush();
        health.set_phase(Phase::Serving);
        Ok(Self {
            config,
            health,
            observed,
            access,
            reloader,
            pages,
            runtime,
            drain,
            serving,
            cores,
            started,
            grpc_address,
            http_address,
            http,
            _systemd: systemd,
            _pid_file: pid_file,
            _lock: lock,
        })
    }

    /// Address of gRPC.
    #[must_use]
    pub fn grpc_address(&self) -> std::net::SocketAddr {
        self.grpc_address
    }

    /// Address of HTTP.
    #[must_use]
    pub fn http_address(&self) -> std::net::SocketAddr {
        self.http_address
    }

    /// The part that applies another configuration.
    #[must_use]
    pub fn reloader(&self) -> Arc<Reloader> {
        self.reloader.clone()
    }

    /// Sets the action of `/admin/reload`, and returns that of SIGHUP: `reload` with notifications to systemd. Called
    /// once.
    pub fn on_reload(&self, reload: Box<Reload>) -> Arc<Reload> {
        let told: Arc<Reload> = Arc::new(move || {
            systemd::reloading();
            let done = reload();
            systemd::reloaded();
            done
        });
        let first = self.pages.reload.set(told.clone());
        debug_assert!(first.is_ok(), "a way to reload is set once");
        told
    }

    /// Health of the server.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Counters of the server.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Runs a future on the gateway's threads, and waits for it.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Shuts the server down: stops accepting, completes requests in flight and takes a last snapshot of the changes,
    /// within `server.shutdown_timeout_secs`, and seals the logs. False if requests were cut off or a core had
    /// panicked.
    #[must_use]
    pub fn shut_down(self) -> bool {
        let is_emergency = self.health.modes.is_emergency();
        let patience = match is_emergency {
            true => Duration::ZERO,
            false => Duration::from_secs(self.config.server.shutdown_timeout_secs),
        };
        let begun = Instant::now();
        systemd::stopping();
        self.health.set_phase(Phase::Draining);
        self.drain.send_replace(true);
        let drained = self
            .runtime
            .block_on(async { tokio::time::timeout(patience, self.serving).await.is_ok() });
        if !drained {
            tracing::warn!("requests were cut off after {patience:?} of shutting down");
        }
        let left = patience.saturating_sub(begun.elapsed());
        let settle = self.started.router.settle();
        let settled = async { tokio::time::timeout(left, settle).await.is_ok() };
        if !self.runtime.block_on(settled) {
            tracing::warn!("no time was left for a last snapshot: the next start has more to do");
        }
        // Handlers that are still running lose their clients, not their writes.
        self.runtime.shutdown_background();
        // The reloader holds a path to the shards, so it is dropped with them.
        drop((self.started, self.reloader));
        let ended = self.cores.stop();
        self.access.save_usage(true);
        drop(self.http);
        tracing::info!("the logs are sealed; good-bye");
        // Requests that are cut off by an emergency stop are not a failure.
        (drained || is_emergency) && ended
    }
}

/// The threads of the gateway: on the CPUs that no core has to itself.
fn gateway_runtime(placement: &Placement) -> std::io::Result<tokio::runtime::Runtime> {
    let next = AtomicUsize::new(0);
    let others = placement.is_dedicated.then(|| placement.others.clone());
    // With fewer than two workers one busy stream would hold up all other requests.
    let workers = placement.others.len().max(2);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(2)
        .thread_name_fn(move || format!("kyro-gw-{}", next.fetch_add(1, Ordering::Relaxed)))
        .on_thread_start(move || {
            if let Some(cpus) = &others {
                let mut set = rustix::thread::CpuSet::new();
                cpus.iter().for_each(|&cpu| set.set(cpu));
                let pinned = rustix::thread::sched_setaffinity(None, &set);
                debug_assert!(pinned.is_ok(), "the CPUs are allowed");
            }
        })
        .enable_all()
        .build()
}
