//! Memory of a shard, by part. Counted, not measured: not included are overheads of the allocator and the kernel,
//! scratch memory of searches, and metadata that only a running search still sees.

use super::{Engine, Params};
use crate::graph::Graph;
use crate::store::{Codes, Vectors};
use crate::types::metric::Metric;
use crate::types::payload::Payload;
use crate::types::{DocId, Lsn};

/// Bytes of an allocation of metadata beside its contents: two reference counts, and the pointer to it.
const PAYLOAD_HEADER_BYTES: usize = 2 * size_of::<usize>() + size_of::<Payload>();

/// Bytes of a document in the id index: a slot and a byte of control, in tables that are between 7/16 and 7/8 full.
const ID_TABLE_BYTES: usize = 9;

/// Most bytes of a document's metadata that the metadata index copies, beside its sets.
const INDEX_BYTES_MAX: usize = 256;

/// Bytes of memory of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Vectors, those of dead versions included, as in all parts until they are reclaimed.
    pub vectors: usize,
    /// Their codes.
    pub codes: usize,
    /// Neighbour lists, those of slots that wait to be filled again included.
    pub links: usize,
    /// Document ids, lifetimes, and the index of ids.
    pub ids: usize,
    /// Metadata that is indexed; that is all of it soon after a start.
    pub metadata: usize,
    /// The index of the metadata, its sets as an estimate.
    pub metadata_index: usize,
    /// Links between slots that wait to be linked: a word for each slot.
    pub hot_tier: usize,
}

impl Memory {
    /// Approximate bytes of a live document with `payload_bytes` of metadata: without the room that growth leaves
    /// unused, and without dead versions that wait to be reclaimed.
    #[must_use]
    pub fn of_document(params: &Params, payload_bytes: usize) -> Self {
        // On disk a document has a word that leads there; vectors that wait for a snapshot have a limit of their own.
        let vectors = if params.vectors.are_on_disk() {
            size_of::<u64>()
        } else {
            Self::of_row(params.dimension)
        };
        let codes = Codes::bytes_of_row(params.dimension, params.metric == Metric::Cosine);
        Self {
            vectors,
            codes: if params.codes { codes } else { 0 },
            links: Graph::bytes_of_node(&params.graph),
            ids: size_of::<DocId>() + 2 * size_of::<Lsn>() + ID_TABLE_BYTES,
            metadata: size_of::<usize>() + payload_bytes + PAYLOAD_HEADER_BYTES,
            metadata_index: payload_bytes.min(INDEX_BYTES_MAX),
            hot_tier: size_of::<u32>(),
        }
    }

    /// Bytes of a vector of `dimension` values, padded.
    #[must_use]
    pub fn of_row(dimension: usize) -> usize {
        Vectors::row_values(dimension) * size_of::<f32>()
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn sum(&self) -> usize {
        let Self { vectors, codes, links, ids, metadata, metadata_index, hot_tier } = self;
        vectors + codes + links + ids + metadata + metadata_index + hot_tier
    }
}

impl Engine {
    /// Bytes of memory, by part. Takes some microseconds, and one more for each key of metadata.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let slots = self.store.slot_count() as usize;
        let (payloads, payload_bytes) = (self.index.payloads(), self.index.payload_bytes());
        Memory {
            vectors: self.store.vector_bytes(),
            codes: self.store.code_bytes(),
            links: self.graph.bytes(self.store.stripe(), slots.saturating_sub(self.hot.len())),
            ids: self.store.id_bytes(),
            metadata: self.store.payload_cell_bytes()
                + payload_bytes
                + payloads * PAYLOAD_HEADER_BYTES,
            metadata_index: self.index.estimated_bytes(),
            hot_tier: self.store.chain_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::Pair;
    use crate::engine::write::Write;
    use crate::types::DocId;
    use crate::types::payload::Payload;

    const COUNT: usize = 3_000;

    #[test]
    fn each_part_is_counted_by_the_bytes_of_its_rows() {
        let mut pair = Pair::new(101);
        (1..=COUNT as u64).for_each(|id| pair.put(id));
        let before = pair.engine.memory();
        assert_eq!(before.hot_tier, COUNT * 4, "{before:?}");
        assert_eq!(before.links, 0);
        pair.link_all();
        let memory = pair.engine.memory();
        // Twelve values are a line of 64 bytes as a vector and as a code, which has a scale.
        assert_eq!((memory.vectors, memory.codes), (COUNT * 64, COUNT * (64 + 4)));
        // Up to 24 links on level 0, in two lines; a node in twelve has one line or more above.
        let upper = memory.links - COUNT * (128 + 5);
        assert!((COUNT / 20..COUNT / 6).contains(&(upper / 64)), "{memory:?}");
        // An id, two LSNs, and a slot number in a table that is at least a quarter full.
        let table = memory.ids - COUNT * 24;
        assert!((COUNT * 4..COUNT * 32).contains(&table), "{memory:?}");
        let payloads = pair.model.0.values().map(|(_, payload)| payload.bytes().len() + 40);
        assert_eq!(memory.metadata, payloads.sum::<usize>() + COUNT * 8);
        assert_eq!(memory.hot_tier, before.hot_tier);
    }

    #[test]
    fn metadata_that_is_replaced_or_dropped_is_not_counted_any_more() {
        let mut pair = Pair::new(102);
        for round in 0..6 {
            for _ in 0..1_000 {
                pair.random_write(400);
            }
            pair.link_all();
            let payloads = pair.model.0.values().map(|(_, payload)| payload.bytes().len() + 40);
            let cells = pair.engine.store().payload_cell_bytes();
            let counted = pair.engine.memory().metadata - cells;
            assert_eq!(counted, payloads.sum::<usize>(), "round {round}");
        }
    }

    #[test]
    fn the_estimate_of_the_index_is_near_its_real_size() {
        // By the number of different values: few, many, one for each document.
        for values in [2, 10, 300, u64::MAX] {
            let mut pair = Pair::new(103);
            for id in 1..=20_000 {
                let value = (id * 7 % values).to_string();
                let pairs = [("key", value.as_str()), ("other", "as all")];
                let payload = Payload::new(pairs, "").unwrap();
                let vector = pair.random.vector();
                pair.write(Write::Put {
                    id: DocId(id),
                    vector,
                    payload,
                    tenant_documents_max: None,
                });
            }
            let estimated = pair.engine.memory().metadata_index as f64;
            let counted = pair.engine.metadata_index().bytes() as f64;
            let ratio = estimated / counted;
            assert!((0.6..1.6).contains(&ratio), "{values} values: {estimated} for {counted}");
        }
    }
}
