//! A fixed piece of work with every operation of a machine, on both of its shards.

use super::change::Change;
use super::machine::Machine;
use crate::disk::DiskError;
use crate::engine::testing::Random;

/// One operation.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Changes of these kinds in one group.
    Write(&'static [u64]),
    Rotate,
    Seal,
    /// Begins a snapshot, with all documents linked, or continues it, for this number of pieces.
    Snapshot(u64),
}

/// Puts; merged and replaced metadata, a delete; a batch delete, one within a namespace.
const PUTS: Op = Op::Write(&[0, 1, 2, 3, 4, 0]);
const UPDATES: Op = Op::Write(&[5, 6, 7, 0]);
const DELETES: Op = Op::Write(&[9, 0, 8]);

/// Done on each shard, one after the other: the third snapshot releases the first, and the log before the second.
const OPS: [Op; 26] = [
    PUTS,
    UPDATES,
    Op::Rotate,
    DELETES,
    Op::Snapshot(u64::MAX),
    PUTS,
    Op::Seal,
    Op::Snapshot(3),
    UPDATES,
    Op::Snapshot(u64::MAX),
    PUTS,
    DELETES,
    Op::Rotate,
    UPDATES,
    Op::Snapshot(u64::MAX),
    DELETES,
    PUTS,
    Op::Seal,
    UPDATES,
    Op::Rotate,
    PUTS,
    Op::Snapshot(2),
    Op::Rotate,
    UPDATES,
    Op::Snapshot(u64::MAX),
    PUTS,
];

/// Number of operations of the script.
pub(super) const LENGTH: usize = OPS.len() * super::machine::SHARDS as usize;

/// Does the operation with this number. Another `seed` gives other documents.
pub(super) fn perform(machine: &mut Machine, index: usize, seed: u64) -> Result<(), DiskError> {
    let shard = index % machine.nodes.len();
    match OPS[index / machine.nodes.len()] {
        Op::Write(kinds) => {
            let mut random = Random((seed << 32) + (index as u64) * 1_000);
            let ids = &machine.nodes[shard].ids;
            let change = |&kind: &u64| Change::of_kind(kind, &mut random, ids);
            let changes = kinds.iter().map(change).collect();
            machine.write(shard, changes)
        }
        Op::Rotate => machine.rotate(shard),
        Op::Seal => machine.seal(shard),
        Op::Snapshot(pieces) => {
            if machine.nodes[shard].running.is_none() {
                machine.link(shard, u64::MAX);
            }
            machine.snapshot(shard, pieces).map(|_| ())
        }
    }
}
