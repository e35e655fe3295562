//! Upserts and deletes of many times the data set. In the end each document is stored once, with its original vector,
//! so that the ground truth of the queries still holds.

use std::time::Instant;

use kyrodb::dataset::Rows;
use kyrodb::engine::{Engine, LinkProgress, Write};
use kyrodb::types::realm::Realm;
use kyrodb::types::{DocId, mix};

use super::{cpu_seconds, put};

/// Most documents that wait to be linked: writes come at the pace of linking.
const HOT_MAX: usize = 64;

/// One in this many changes is a delete; deleted documents come back later.
const DELETES: u64 = 4;

fn apply(engine: &mut Engine, write: Write) {
    for record in engine.stage(write).unwrap().records {
        assert!(engine.apply(engine.applied().next(), record));
    }
    while engine.hot_count() > HOT_MAX {
        engine.link_step();
    }
}

/// Changes `engine`, which holds the rows of `base` as documents 1 to `rows`, `times` times as often as it has
/// documents.
pub(crate) fn churn(engine: &mut Engine, base: &Rows<f32>, rows: usize, times: usize) {
    let (begun, begun_cpu) = (Instant::now(), cpu_seconds());
    let (slots, work) = (engine.store().slot_count(), engine.link_work());
    let vectors: Vec<&[f32]> = base.iter().take(rows).collect();
    let mut deleted: Vec<usize> = Vec::new();
    let mut slots_max = 0;
    for change in 0..(times * rows) as u64 {
        let row = (mix(change) % rows as u64) as usize;
        if change % DELETES == 0 {
            let realm = Realm::default();
            apply(engine, Write::Delete { id: DocId(row as u64 + 1), realm });
            deleted.push(row);
            if deleted.len() > rows / 50 {
                let back = deleted.swap_remove((mix(!change) % deleted.len() as u64) as usize);
                apply(engine, put(DocId(back as u64 + 1), vectors[back]));
            }
        } else {
            apply(engine, put(DocId(row as u64 + 1), vectors[row]));
        }
        slots_max = slots_max.max(engine.store().slot_count());
    }
    for row in deleted {
        apply(engine, put(DocId(row as u64 + 1), vectors[row]));
    }
    while engine.link_step() == LinkProgress::More {}
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - begun_cpu);
    let distances = engine.link_work().distances - work.distances;
    println!(
        "{} changes in {wall:.1} s, {cpu:.1} CPU s, {distances} distances; slots {slots} before, at \
         most {slots_max}; {} documents, {} dead nodes, {:?}",
        times * rows,
        engine.live_count(),
        engine.dead_count(),
        engine.healing(),
    );
}
