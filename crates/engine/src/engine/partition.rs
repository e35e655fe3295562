//! Data that the shards of a partition share: one graph, the documents that it leads to, and the state of its health.

use std::sync::{Arc, OnceLock};

use super::healing::Ward;
use super::{Engine, Params};
use crate::graph::Graph;
use crate::store::Shared;
use crate::types::metric::Metric;
use crate::types::stripe::Stripe;

/// The graph of a partition, and the data that belongs to it.
#[derive(Clone)]
pub struct Partition {
    pub(super) shared: Arc<Shared>,
    pub(super) graph: Arc<Graph>,
    pub(super) ward: Arc<Ward>,
}

impl Partition {
    pub(super) fn new(params: &Params, owners: u32) -> Self {
        let codes = params.codes.then_some(params.metric == Metric::Cosine);
        Self {
            shared: Arc::new(Shared::new(
                params.dimension,
                codes,
                params.vectors.are_on_disk(),
                owners,
            )),
            graph: Arc::new(Graph::shared(params.graph, owners)),
            ward: Arc::new(Ward::new(owners)),
        }
    }
}

/// A partition of several shards, which is made when the first of them knows the dimension.
pub struct Joint {
    owners: u32,
    partition: OnceLock<Partition>,
}

impl Joint {
    /// A partition of `owners` shards.
    ///
    /// # Panics
    /// If there are none, or more than [`OWNERS_MAX`](crate::types::stripe::OWNERS_MAX).
    #[must_use]
    pub fn new(owners: u32) -> Arc<Self> {
        assert_eq!(Stripe::new(0, owners).owners(), owners);
        Arc::new(Self { owners, partition: OnceLock::new() })
    }

    /// True if the restored graph has yet to be checked for nodes that no walk can reach.
    #[must_use]
    pub fn is_checking(&self) -> bool {
        self.partition.get().is_some_and(|partition| partition.ward.is_check_asked())
    }

    /// The place of shard number `owner` in it.
    #[must_use]
    pub fn home(self: &Arc<Self>, owner: u32) -> Home {
        Home { joint: self.clone(), stripe: Stripe::new(owner, self.owners) }
    }
}

/// The place of a shard in a partition.
#[derive(Clone)]
pub struct Home {
    joint: Arc<Joint>,
    stripe: Stripe,
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "owner {} of {}", self.stripe.owner(), self.stripe.owners())
    }
}

impl Home {
    /// The slots of the shard.
    #[must_use]
    pub fn stripe(&self) -> Stripe {
        self.stripe
    }

    pub(super) fn partition(&self, params: &Params) -> Partition {
        self.joint.partition.get_or_init(|| Partition::new(params, self.joint.owners)).clone()
    }
}

/// Nodes fitted per step.
const STEP_SETTLED: u32 = 512;

/// Progress of fitting one shard's part of a graph to those of the others.
#[derive(Debug, Default)]
pub struct Settling {
    next: u32,
    /// Links dropped so far.
    pub dropped: usize,
}

impl Engine {
    /// Fits some of this shard's restored part of the graph to the parts of the other shards: each comes from a
    /// snapshot of its own, and one may lead to nodes that another does not have any more, or not yet. To be done
    /// once all shards of the partition are restored, and before any search or linking. True when all is done.
    pub fn settle(&mut self, settling: &mut Settling) -> bool {
        let (stripe, count) = (self.store.stripe(), self.store.slot_count());
        if stripe.owners() == 1 {
            return true;
        }
        let end = count.min(settling.next + STEP_SETTLED);
        for number in settling.next..end {
            settling.dropped += self.graph.settle(stripe.slot(number), self.store.extent());
        }
        settling.next = end;
        if end == count && self.linked_count() > 0 {
            // Nodes that have lost all links to them are found by a check.
            self.ward.ask_for_check();
        }
        end == count
    }

    /// Lets the other shards of the partition go on without this one, whose state can't be trusted any more: they
    /// leave out its documents, and wait for nothing that it has begun.
    pub fn fence(&mut self) {
        self.store.member().set_fenced(true);
        // While the nodes that it has chosen are still kept by its view.
        if let Some(linker) = self.linker.take() {
            linker.abandon(&self.graph);
        }
        self.store.abandon_views();
        self.stop_healing();
        self.stop_probe();
    }
}

impl Drop for Engine {
    /// The core of one shard may end before those of others, which go on.
    fn drop(&mut self) {
        if self.store.stripe().owners() > 1 {
            self.fence();
        }
    }
}
