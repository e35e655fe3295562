//! Background work: linking documents into the graph, removing dead ones from it, freeing versions that no view can
//! see, and, when idle, measuring recall ([`super::recall`]).
//!
//! One task per core, in the queue with the small share of CPU time. After every step, of some tens of microseconds, it
//! looks into the mailbox, and lets searches go first. And it rests while the log is written: the executor submits I/O,
//! and sees that it is done, only when no task is running, so a busy upkeep would make every commit wait for the
//! preemption timer, four times over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use super::contention::REST;
use super::core::{Core, Settings};
use super::doing::Doing;
use super::state::{Flush, Shard};
use crate::engine::LinkProgress;

/// Steps on one shard before the next shard gets its turn.
const STEPS: usize = 16;

/// Runs until the core ends.
pub(super) async fn run(core: Rc<Core>) {
    loop {
        let shards: Vec<Rc<Shard>> = core.shards.borrow().values().cloned().collect();
        let mut is_idle = true;
        for shard in &shards {
            for _ in 0..STEPS {
                let begun = Instant::now();
                let piece = core.heart.doing.begin(Doing::Link);
                let progress = shard.upkeep_step(core.is_open.get());
                drop(piece);
                match progress {
                    LinkProgress::Idle => break,
                    LinkProgress::More => is_idle = false,
                }
                shard.try_snapshot(&core);
                shard.tell_room(&core);
                core.rest(begun).await;
                core.give_way().await;
            }
            shard.try_snapshot(&core);
            shard.tell_room(&core);
            shard.after_upkeep(&core.settings);
            shard.drop_stale_sample(shards.len());
        }
        core.hot.hot.set(core.hot_count());
        core.hot.bound.set(shards.iter().map(|shard| shard.debt_bound(&core)).sum());
        if is_idle && !core.compare_some(&shards).await {
            core.upkeep.wait().await;
        }
    }
}

impl Core {
    /// Pauses if other threads want the CPU while there are searches. Called after each step of upkeep.
    async fn rest(&self, begun: Instant) {
        let now = Instant::now();
        let is_searched = self.search_cost.is_searched(now);
        if self.contention.note(now, now.saturating_duration_since(begun), is_searched) {
            glommio::timer::sleep(REST).await;
        }
    }

    fn hot_count(&self) -> usize {
        let shards = self.shards.borrow();
        shards.values().map(|shard| shard.counters.hot_documents.get() as usize).sum()
    }
}

impl Shard {
    /// Does a step of upkeep. Before the directory `is_open`, other shards of the graph may not be restored, and no
    /// step may link to their slots.
    fn upkeep_step(&self, is_open: bool) -> LinkProgress {
        if self.check_readable().is_err() || self.shares_its_graph() && !is_open {
            return LinkProgress::Idle;
        }
        let step = AssertUnwindSafe(|| {
            let mut engine = self.engine.borrow_mut();
            let Some(engine) = &mut *engine else {
                return LinkProgress::Idle;
            };
            let linked = engine.linked_count();
            let progress = engine.link_step();
            // A step links a document or removes dead nodes.
            let added = engine.linked_count().saturating_sub(linked);
            self.counters.links.add(u64::from(added));
            match progress {
                LinkProgress::Idle => self.pace.borrow_mut().note_idle(),
                LinkProgress::More if added > 0 => {
                    self.pace.borrow_mut().note_linked(Instant::now());
                }
                // Only dead nodes are left, and no document waits to be linked.
                LinkProgress::More if engine.hot_count() == 0 => {
                    self.pace.borrow_mut().note_idle();
                }
                LinkProgress::More => {}
            }
            progress
        });
        catch_unwind(step).unwrap_or_else(|_| {
            self.fence("linking a document panicked");
            LinkProgress::Idle
        })
    }

    /// Answers requests that wait for the hot tier to be linked, and wakes writers that wait for room in it.
    fn after_upkeep(&self, settings: &Settings) {
        self.publish();
        let linked_to = self.engine.borrow().as_ref().map_or(0, |engine| engine.hot_position());
        let is_done = |flush: &mut Flush| linked_to >= flush.end;
        let done: Vec<Flush> = self.flushes.borrow_mut().extract_if(.., is_done).collect();
        for flush in done {
            flush.reply.send(Ok(flush.count));
        }
        self.end_compactions();
        if !self.loads.borrow().is_empty() {
            self.pump_loads(settings);
        }
    }
}
