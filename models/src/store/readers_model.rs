//! Model of a row that its owner takes away while another thread reads it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::readers::Readers;
use crate::plain::Plain;

/// The reading thread, beside the owner.
const READER: u32 = 1;

/// Steps in which the reader looks at the slot.
const STEPS: usize = 2;

/// Contents of a row once it is freed.
const GONE: u64 = 0;

/// A slot.
struct World {
    readers: Readers,
    /// Number + 1 of the row to which the word of the slot leads; 0 for none, as when the vector is on disk.
    cell: AtomicUsize,
    /// The two rows; each holds its number + 1.
    rows: [Plain; 2],
}

/// A slot leads to row 0. Its owner puts row 1 there instead, and then none, as `Store::put_unsaved` and
/// `Store::let_rows_go` do; each time it frees those of the removed rows that have no reader left. Another thread
/// looks where the slot leads, in two steps that follow each other, and reads the row twice in each. The row that it
/// finds is whole, and stays until its step is over.
///
/// Caught: a step that does not announce itself, or only after it has looked, or ends before it is done with the row;
/// one that announces itself relaxed, which an owner may see without the end of the step before; either fence left
/// out, or weaker, or on the wrong side of the accesses that it is to order; a step that ends relaxed, or an owner
/// that looks at announcements relaxed, or for the newest of them; no new epoch, or one that is noted too late, which
/// keeps a row without end. And of the code that is written here once more: an owner that asks who is reading, or
/// ends the epoch, before the row is out of reach; a row that is freed in the epoch in which it was taken out, or
/// while it is read; a word that is swapped or loaded relaxed.
///
/// Not caught: an epoch that is loaded relaxed, as the fence behind it acquires too, or ends relaxed.
pub fn who_reads_a_row_has_it() {
    loom::model(|| {
        let world = Arc::new(World {
            readers: Readers::new(2),
            cell: AtomicUsize::new(1),
            rows: [Plain::new(1), Plain::new(GONE)],
        });
        let reader = thread::spawn({
            let world = Arc::clone(&world);
            move || (0..STEPS).for_each(|_| step(&world))
        });
        let left = take_away(&world);
        reader.join().expect("the reader ends");
        let oldest = world.readers.oldest();
        assert!(left.iter().all(|&(epoch, _)| epoch < oldest), "nobody reads");
        world.readers.begin(READER);
        let oldest = world.readers.oldest();
        assert!(left.iter().all(|&(epoch, _)| epoch < oldest), "who begins now reads none of it");
    });
}

/// Replaces one row by another, and that one by none. Returns the rows that could not be freed yet.
fn take_away(world: &World) -> Vec<(u64, usize)> {
    let mut left = Vec::new();
    world.rows[1].set(2);
    for cell in [2, 0] {
        let row = world.cell.swap(cell, Ordering::SeqCst) - 1;
        left.push((world.readers.leave(), row));
        let oldest = world.readers.oldest();
        left.retain(|&(epoch, row)| {
            let is_read = epoch >= oldest;
            if !is_read {
                world.rows[row].set(GONE);
            }
            is_read
        });
    }
    left
}

fn step(world: &World) {
    world.readers.begin(READER);
    if let Some(row) = world.cell.load(Ordering::Acquire).checked_sub(1) {
        assert_eq!(world.rows[row].get(), row as u64 + 1, "it is whole");
        thread::yield_now();
        assert_eq!(world.rows[row].get(), row as u64 + 1, "it is there still");
    }
    world.readers.end(READER);
}
