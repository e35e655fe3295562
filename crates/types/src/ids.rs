//! Ids of documents, shards and slots, positions in a log, and the hash that places a document.

/// A document's id as the client gave it; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocId(pub u64);

/// Index of a shard, 0-based. Stable for the life of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

/// Index of one version of a document in the arenas of its partition: unique among all shards of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// The slot as an array index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Position of a record in the log of its shard. The first record has LSN 1; 0 means that there is none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl DocId {
    /// The id of a tenant's document: the tenant's number, then its own id.
    #[must_use]
    pub fn of_tenant(tenant: u32, id: u32) -> Self {
        Self(u64::from(tenant) << 32 | u64::from(id))
    }

    /// The number of the tenant whose document this is, where there are tenants.
    #[must_use]
    pub fn tenant(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The shard, of `shards`, that owns this document. Part of the on-disk format: another placement would look for
    /// every stored document in the wrong log.
    #[must_use]
    pub fn shard(self, shards: u32) -> ShardId {
        // Multiply-shift maps the hash onto 0..shards without the bias or cost of a modulo.
        let hash = mix(self.0);
        ShardId(((u128::from(hash) * u128::from(shards)) >> 64) as u32)
    }
}

/// SplitMix64's finaliser: a fixed bijection of u64 whose output bits all depend on all input
/// bits. Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
#[inline]
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_is_even_and_never_changes() {
        for shards in [1, 2, 4, 7] {
            let mut counts = vec![0_u32; shards as usize];
            for id in 1..=70_000 {
                counts[DocId(id).shard(shards).0 as usize] += 1;
            }
            let mean = 70_000 / shards;
            assert!(counts.iter().all(|&n| n.abs_diff(mean) < mean / 20), "{counts:?}");
        }
        // Golden values: documents on disk are placed by them.
        let shards: Vec<u32> = [1, 2, 3, 1 << 40, u64::MAX].map(|id| DocId(id).shard(16).0).into();
        assert_eq!(shards, [9, 9, 1, 1, 14]);
    }
}
