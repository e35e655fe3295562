//! The model of a row that its owner takes away while another reads it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::readers::Readers;
use crate::plain::Plain;

/// The one who reads, beside the owner.
const READER: u32 = 1;

/// How many steps there are in which it looks.
const STEPS: usize = 2;

/// What a row has in it once it is gone.
const GONE: u64 = 0;

/// A slot.
struct World {
    readers: Readers,
    /// Which row the word of the slot leads to, + 1; 0 for none, as of one whose vector is on disk.
    cell: AtomicUsize,
    /// Rows have their number + 1 in them.
    rows: [Plain; 2],
}

/// A slot leads to row 0. Its owner puts row 1 there instead, and then none, as `Store::put_unsaved` and
/// `Store::let_rows_go` do; each time it lets go what nobody reads any more of the rows that it has taken
/// out. Another looks where the slot leads, in two steps that follow each other, and reads the row
/// twice in each. What it finds is whole, and stays until its step is over.
///
/// Caught: a step that does not announce itself, or only after it has looked, or ends before it is done
/// with the row; one that announces itself relaxed, which an owner may see without the end of the step
/// before; either fence left out, or weaker, or on the wrong side of what it is to order; a step that
/// ends relaxed, or an owner that looks at announcements relaxed, or for the newest of them; no new epoch,
/// or one that is noted too late, which keeps a row for ever. And of what is written here once more: an
/// owner that asks who is reading, or ends the epoch, before the row is out of reach; a row that goes in
/// the epoch in which it was taken out, or whoever reads it; a word that is swapped or loaded relaxed.
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

/// Puts one row in the place of another, and none in that of this one. What could not go.
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
