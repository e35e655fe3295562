//! One pinned executor: its task queues, its shards, its start and its end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use glommio::{
    ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, PoolPlacement, Shares,
    TaskQueueHandle,
};

use super::breaker::{self, Breaker};
use super::contention::Contention;
use super::event::{Event, Waiters};
use super::keeper::{Change, Keeper};
use super::mailbox::Mailbox;
use super::open::Pending;
use super::pacing::{HotShares, SearchCost};
use super::pulse::Heart;
use super::reply::{self, Reply};
use super::request::Request;
use super::snapshot::Due;
use super::state::Shard;
use super::task::{spawn, spawn_vital};
use super::vectors::{self, CacheParams, Vectors};
use crate::error::{Error, Result};
use crate::observe::Observed;
use crate::shard::direct::DirectDisk;
use crate::types::ShardId;
use crate::wal::Writer;

/// Time that a task queue runs before the executor handles I/O, wakes and other queues.
const PREEMPT_PERIOD: Duration = Duration::from_millis(1);

/// Preemption period of the executor's own queue, in which a core begins. glommio sleeps if a round was over before its
/// first task ran ([`super::pulse`]); no other thread could wake a core that did so in its first round, so that round
/// must be long.
const FIRST_ROUND: Duration = Duration::from_secs(10);

/// When an acknowledged write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// fdatasync before the acknowledgement.
    DataOnly,
    /// fdatasync, and file metadata too, before the acknowledgement.
    Full,
    /// Acknowledge first, sync by timer.
    Periodic(Duration),
    /// Never sync.
    Never,
}

/// Settings that all cores of a server share.
#[derive(Clone)]
pub struct Settings {
    /// The data directory.
    pub directory: PathBuf,
    /// When an acknowledged write is durable.
    pub sync: SyncPolicy,
    /// Length of a log segment.
    pub segment_bytes: u64,
    /// When a snapshot of a shard is due.
    pub snapshots: Due,
    /// Hot documents from which on linking gets as large a share of the CPU as searches.
    pub hot_soft_max: usize,
    /// Hot documents at which a bulk load pauses.
    pub bulk_hot_max: usize,
    /// Most messages waiting in the mailbox of a core.
    pub mailbox_capacity: usize,
    /// Bytes of I/O memory that each core registers with the kernel.
    pub io_memory_bytes: usize,
    /// A core has its CPU to itself and may spin before it sleeps.
    pub is_dedicated: bool,
    /// Rules of the circuit breakers of the logs.
    pub breaker: breaker::Params,
    /// Period of checking room on the disk, log files, breakers and memory.
    pub watch_period: Duration,
    /// Searches per second of the whole server, at most, that are repeated exactly to measure recall.
    pub recall_per_second: f64,
    /// Cache of vectors read from disk, for each core.
    pub document_cache: CacheParams,
}

/// A core as other threads see it.
pub struct CoreHandle {
    /// Queue of requests to the core.
    pub mailbox: Arc<Mailbox<Request>>,
    /// Heartbeat of the core.
    pub heart: Arc<Heart>,
    thread: ExecutorJoinHandle<()>,
}

impl CoreHandle {
    /// Starts the core `index` on `cpu`. `keeper` is the mailbox of the first core, which keeps
    /// MANIFEST; `None` for that core itself.
    ///
    /// # Errors
    /// If the executor can't be made. See [`super::preflight`] for what a system must offer.
    pub fn spawn(
        index: usize,
        cpu: usize,
        settings: Settings,
        keeper: Option<Arc<Mailbox<Request>>>,
        observed: Arc<Observed>,
    ) -> Result<Self> {
        let mailbox = Arc::new(Mailbox::new(settings.mailbox_capacity, observed.traffic.clone()));
        let heart = Arc::new(Heart::default());
        let spin = Duration::from_micros(if settings.is_dedicated { 50 } else { 0 });
        let pool = PoolPlacement::Unbound(1);
        let builder = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            // Its blocking thread keeps this name; the core gives itself another one.
            .name("kyro-block")
            .ring_depth(256)
            .io_memory(settings.io_memory_bytes)
            .preempt_timer(FIRST_ROUND)
            .spin_before_park(spin)
            .blocking_thread_pool_placement(pool);
        let (inbox, pulse) = (mailbox.clone(), heart.clone());
        let thread = builder
            .spawn(move || async move {
                let _gone = Gone { mailbox: inbox.clone(), heart: pulse.clone() };
                let life = Core::run(index, settings, keeper, observed, inbox, pulse.clone());
                pulse.run(life).await;
            })
            .map_err(|error| Error::Internal(format!("core {index} on CPU {cpu}: {error}")))?;
        Ok(Self { mailbox, heart, thread })
    }

    /// Waits for the thread to end. False if it panicked.
    #[must_use]
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

/// Marks the core as ended when dropped, also by a panic. Requests in the mailbox are dropped then; their senders see
/// that the answer will not come.
struct Gone {
    mailbox: Arc<Mailbox<Request>>,
    heart: Arc<Heart>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.mailbox.close();
        self.heart.stop();
    }
}

/// The task queues of a core.
#[derive(Clone, Copy)]
pub(super) struct Queues {
    /// Receives requests. A queue of its own, so that a new search gets its first slice, enough for most, even among
    /// many long searches.
    pub(super) receive: TaskQueueHandle,
    /// Searches and reads that take longer than a slice.
    pub(super) serve: TaskQueueHandle,
    /// Commits of the logs.
    pub(super) commit: TaskQueueHandle,
    /// Linking and other background work.
    pub(super) upkeep: TaskQueueHandle,
}

/// State of a core that its tasks share.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) disk: Rc<DirectDisk>,
    pub(super) queues: Queues,
    pub(super) observed: Arc<Observed>,
    /// Reader and cache of vectors on disk.
    pub(super) vectors: Vectors,
    pub(super) shards: RefCell<BTreeMap<ShardId, Rc<Shard>>>,
    /// All shards of all cores are in service, and MANIFEST says so.
    pub(super) is_open: Cell<bool>,
    /// Raised when there is something to link or to clean up.
    pub(super) upkeep: Event,
    /// Documents in the hot tiers of this core.
    pub(super) hot: Rc<HotShares>,
    /// Measured cost of searches on this core, and time of the last search.
    pub(super) search_cost: SearchCost,
    /// Whether other threads want the CPU of this core.
    pub(super) contention: Contention,
    pub(super) heart: Arc<Heart>,
    mailbox: Arc<Mailbox<Request>>,
    /// Raised by background work that found messages in the mailbox.
    pub(super) mail: Event,
    /// Searches now running that take longer than a slice.
    pub(super) long_searches: Cell<usize>,
    /// Reads of documents by id that wait for their vectors.
    pub(super) disk_gets: Cell<usize>,
    /// Groups of the log being written or synced.
    writes_in_flight: Cell<usize>,
    /// Tasks that wait until `writes_in_flight` is 0.
    log_at_rest: Waiters,
    keeper: Option<Arc<Mailbox<Request>>>,
    own_keeper: Rc<Keeper>,
    commits: RefCell<Vec<glommio::task::JoinHandle<()>>>,
    /// Shards that were read and are not in service until all shards are read.
    pub(super) pending: RefCell<BTreeMap<ShardId, Pending>>,
}

impl Core {
    async fn run(
        index: usize,
        settings: Settings,
        keeper: Option<Arc<Mailbox<Request>>>,
        observed: Arc<Observed>,
        mailbox: Arc<Mailbox<Request>>,
        heart: Arc<Heart>,
    ) {
        let name = format!("kyro-core-{index}");
        let named = rustix::thread::set_name(&std::ffi::CString::new(name).unwrap_or_default());
        debug_assert!(named.is_ok(), "a thread may name itself");
        // Upkeep has this latency too: it decides how long a queue runs before the executor checks the others.
        let matters = Latency::Matters(PREEMPT_PERIOD);
        let executor = glommio::executor();
        let hot = Rc::new(HotShares::new(settings.hot_soft_max));
        let queues = Queues {
            receive: executor.create_task_queue(Shares::Static(1000), matters, "receive"),
            serve: executor.create_task_queue(Shares::Static(1000), matters, "serve"),
            commit: executor.create_task_queue(Shares::Static(1000), matters, "commit"),
            upkeep: executor.create_task_queue(Shares::Dynamic(hot.clone()), matters, "upkeep"),
        };
        let sync_metadata = settings.sync == SyncPolicy::Full;
        let disk = match DirectDisk::open(&settings.directory, sync_metadata).await {
            Ok(disk) => Rc::new(disk),
            Err(error) => {
                tracing::error!(core = index, "the data directory can't be used: {error}");
                return;
            }
        };
        let core = Rc::new(Self {
            vectors: Vectors::new(settings.document_cache, index, observed.add_document_cache()),
            settings,
            disk: disk.clone(),
            queues,
            observed,
            shards: RefCell::default(),
            is_open: Cell::new(false),
            upkeep: Event::default(),
            hot,
            search_cost: SearchCost::default(),
            contention: Contention::default(),
            heart: heart.clone(),
            mailbox: mailbox.clone(),
            mail: Event::default(),
            long_searches: Cell::new(0),
            disk_gets: Cell::new(0),
            writes_in_flight: Cell::new(0),
            log_at_rest: Waiters::default(),
            keeper,
            own_keeper: Rc::default(),
            commits: RefCell::default(),
            pending: RefCell::default(),
        });
        let inbox = mailbox.clone();
        spawn_vital(queues.receive, async move { heart.beat(|| inbox.nudge()).await });
        if core.keeper.is_none() {
            spawn_vital(queues.upkeep, core.own_keeper.clone().run(disk));
        }
        spawn_vital(queues.upkeep, super::upkeep::run(core.clone()));
        spawn_vital(queues.upkeep, super::watch::run(core.clone()));
        spawn(queues.upkeep, vectors::run_training(core.clone()));
        // The core ends when this task ends. The task runs in its own queue, so it is awaited here.
        let serving =
            glommio::spawn_local_into(super::serve::run(core.clone(), mailbox), queues.receive);
        serving.expect("the queue was just made").await;
        core.close().await;
    }

    /// Takes a shard into service. `partitions` is the number of graphs that answer a search together.
    pub(super) fn adopt(
        self: &Rc<Self>,
        shard: Rc<Shard>,
        writer: Writer<DirectDisk>,
        partitions: usize,
    ) {
        shard.breaker.replace(Breaker::new(self.settings.breaker));
        let shards = self.observed.shards().len();
        shard.sampler.begin(self.settings.recall_per_second, shards, partitions);
        self.shards.borrow_mut().insert(shard.id, shard.clone());
        let commit = super::commit::run(self.clone(), shard.clone(), writer);
        let guarded = async move {
            // A panic that reached the executor would end the core and all its shards.
            if AssertUnwindSafe(commit).catch_unwind().await.is_err() {
                shard.fence("a commit panicked");
            }
        };
        let task = glommio::spawn_local_into(guarded, self.queues.commit);
        self.commits.borrow_mut().push(task.expect("the queue exists").detach());
        self.upkeep.raise();
    }

    /// Fences all shards of this core: after a panic their state in memory is not known.
    pub(super) fn fence_all(&self, what: &str) {
        let shards: Vec<Rc<Shard>> = self.shards.borrow().values().cloned().collect();
        shards.iter().for_each(|shard| shard.fence(what));
    }

    /// Number of requests in the mailbox.
    pub(super) fn waiting(&self) -> usize {
        self.mailbox.len()
    }

    fn is_writing(&self) -> bool {
        self.writes_in_flight.get() > 0
    }

    /// Lets other tasks run between two steps of background work.
    ///
    /// First the mailbox: the executor handles wakes from other threads only once a round of [`PREEMPT_PERIOD`] is
    /// over, so background work looks at the mailbox itself. Then the log: background work would keep the executor from
    /// seeing that a write has completed. The share of background work in CPU time is set by the shares of its queue.
    pub(super) async fn give_way(&self) {
        if !self.mailbox.is_empty() || self.long_searches.get() > 0 {
            self.mail.raise();
            glommio::executor().yield_task_queue_now().await;
        } else {
            glommio::executor().yield_if_needed().await;
        }
        // Waits for one write and not for all: if writes follow each other without a gap, the next has begun by then,
        // and nothing would be linked or saved.
        let has_waited = Cell::new(false);
        self.log_at_rest.until(|| !self.is_writing() || has_waited.replace(true)).await;
    }

    /// Counts a write to the log in `writes_in_flight` until the guard is dropped.
    pub(super) fn begin_write(&self) -> WriteInFlight<'_> {
        self.writes_in_flight.set(self.writes_in_flight.get() + 1);
        WriteInFlight(self)
    }

    /// The shard `id`, if this core owns it.
    pub(super) fn shard(&self, id: ShardId) -> Option<Rc<Shard>> {
        self.shards.borrow().get(&id).cloned()
    }

    /// Asks the first core for a change of MANIFEST, and waits until it is durable.
    pub(super) async fn keep(&self, change: Change) -> Result<(), String> {
        let (answers, reply) = reply::single();
        match &self.keeper {
            None => self.own_keeper.ask(change, reply),
            Some(mailbox) => {
                if mailbox.push(Request::Keep(change, reply)).is_err() {
                    return Err("the first core takes no more requests".into());
                }
            }
        }
        answers.one().await.unwrap_or_else(|| Err("the first core is gone".into()))
    }

    /// Passes a change of MANIFEST to the first core; the result goes to `reply`.
    pub(super) fn keep_for(&self, change: Change, reply: Reply<Result<(), String>>) {
        assert!(self.keeper.is_none(), "only the first core keeps MANIFEST");
        self.own_keeper.ask(change, reply);
    }

    /// Waits until everything staged is durable and the logs are sealed.
    async fn close(&self) {
        let shards: Vec<Rc<Shard>> = self.shards.borrow().values().cloned().collect();
        for shard in &shards {
            shard.is_closing.set(true);
            shard.staged_event.raise();
            shard.log_moved.wake();
        }
        for shard in &shards {
            shard.end_snapshots().await;
        }
        for commit in self.commits.take() {
            commit.await;
        }
        self.save_access_log().await;
    }
}

/// Guard that counts a write to the log while it is in flight.
pub(super) struct WriteInFlight<'a>(&'a Core);

impl Drop for WriteInFlight<'_> {
    fn drop(&mut self) {
        self.0.writes_in_flight.set(self.0.writes_in_flight.get() - 1);
        self.0.log_at_rest.wake();
    }
}
