//! Vectors of machines that keep them on disk: read from their files, whatever faults the disk has at the moment.

use crate::disk::sim::SimDisk;
use crate::engine::{Engine, Search, SearchOutcome};
use crate::snapshot::snapshot_name;
use crate::types::{ShardId, Slot};

/// The vector in `slot`, of a shard with this id, padding included.
pub(super) fn row(disk: &SimDisk, id: ShardId, engine: &Engine, slot: Slot) -> Box<[f32]> {
    let Some(spot) = engine.spot(slot) else {
        return engine.row_in_memory(slot).expect("it is in memory or on disk");
    };
    let owner = ShardId(id.0 - engine.store().stripe().owner() + spot.owner);
    let file = disk.content(&snapshot_name(owner, spot.file));
    let bytes = &file[spot.offset as usize..spot.offset as usize + spot.bytes];
    assert!(spot.is_row(bytes), "shard {} has another vector in slot {}", owner.0, slot.0);
    bytemuck::pod_collect_to_vec(bytes).into()
}

/// Runs a search to its end.
pub(super) fn finish(
    disk: &SimDisk,
    id: ShardId,
    engine: &mut Engine,
    mut search: Search,
) -> SearchOutcome {
    while !search.step(engine) {
        for (index, slot) in search.wanted().to_vec().into_iter().enumerate() {
            search.give(index, &row(disk, id, engine, slot));
        }
    }
    engine.finish_search(search)
}
