//! Assignment of shards to partitions: neighbouring shards share one graph.
//!
//! The shards of a partition are the owners of its slots: shard s is owner `owner_of(s)` of
//! partition `partition_of(s)`. Partitions differ by at most one shard.

use std::ops::Range;

use crate::ShardId;

/// A division of `shards` shards among partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    shards: u32,
    partitions: u32,
}

impl Layout {
    /// Divides `shards` shards among `partitions` partitions, each of which has at least one.
    ///
    /// # Panics
    /// If there are fewer shards than partitions, or no partition.
    #[must_use]
    pub fn new(shards: u32, partitions: u32) -> Self {
        assert!(0 < partitions && partitions <= shards, "{partitions} partitions of {shards}");
        Self { shards, partitions }
    }

    /// Number of shards of all partitions.
    #[must_use]
    pub fn shards(self) -> u32 {
        self.shards
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(self) -> u32 {
        self.partitions
    }

    /// The shards of a partition.
    #[must_use]
    pub fn members(self, partition: u32) -> Range<u32> {
        let start = |partition: u32| {
            let start = u64::from(partition) * u64::from(self.shards) / u64::from(self.partitions);
            u32::try_from(start).expect("at most the number of shards")
        };
        start(partition)..start(partition + 1)
    }

    /// The partition of a shard.
    #[must_use]
    pub fn partition_of(self, shard: ShardId) -> u32 {
        let of = |shard: u32| u64::from(shard) * u64::from(self.partitions);
        // The last partition that begins at or before the shard.
        let next = (of(shard.0 + 1) - 1) / u64::from(self.shards);
        u32::try_from(next).expect("below the number of partitions")
    }

    /// The core, of `cores`, that a shard is on: shards of a partition are on neighbouring cores.
    #[must_use]
    pub fn core_of(self, shard: ShardId, cores: usize) -> usize {
        match self.shards as usize <= cores {
            true => shard.0 as usize,
            false => shard.0 as usize * cores / self.shards as usize,
        }
    }

    /// Number of a shard among the owners of its partition.
    #[must_use]
    pub fn owner_of(self, shard: ShardId) -> u32 {
        shard.0 - self.members(self.partition_of(shard)).start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_is_in_one_partition_and_partitions_are_of_equal_size() {
        for shards in 1..70 {
            for partitions in 1..=shards {
                let layout = Layout::new(shards, partitions);
                let mut next = 0;
                for partition in 0..partitions {
                    let members = layout.members(partition);
                    assert_eq!(members.start, next, "{partition} of {layout:?}");
                    let size = members.len() as u32;
                    assert!((shards / partitions..=shards.div_ceil(partitions)).contains(&size));
                    for (owner, shard) in members.clone().enumerate() {
                        assert_eq!(layout.partition_of(ShardId(shard)), partition, "{layout:?}");
                        assert_eq!(layout.owner_of(ShardId(shard)), owner as u32);
                    }
                    next = members.end;
                }
                assert_eq!(next, shards);
                for cores in [1, 2, 5, 80] {
                    let on: Vec<usize> =
                        (0..shards).map(|shard| layout.core_of(ShardId(shard), cores)).collect();
                    assert!(on.is_sorted() && on.iter().all(|&core| core < cores));
                    let counts = (0..cores).map(|core| on.iter().filter(|&&c| c == core).count());
                    let most = (shards as usize).div_ceil(cores);
                    assert!(counts.into_iter().all(|count| count <= most), "{on:?}");
                }
            }
        }
    }
}
