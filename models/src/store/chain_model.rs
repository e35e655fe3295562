//! Model of a chain of slots that a reader follows while its owner changes it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use super::chain::Chains;
use crate::plain::Plain;
use crate::types::Slot;

/// Vectors by slot, and the chain of their only owner.
struct World {
    chains: Chains,
    rows: [Plain; 3],
    /// The last slot of the chain + 1, as a view opened now would have it.
    applied: AtomicU32,
}

impl World {
    /// Writes a vector, and adds its slot after `last`.
    fn put(&self, last: Option<Slot>, slot: Slot) {
        self.rows[slot.index()].set(1);
        self.chains.push(0, last, slot);
        self.applied.store(slot.0 + 1, Ordering::Release);
    }
}

/// While a reader follows a chain, its owner adds slots 0, 1 and 2, takes off slot 0, and takes out slot 1; or takes
/// slot 1 out from between the others. The chain is empty at first, and had slot 2 and then slot 0 before. The reader
/// comes to an end, sees the vectors of all slots that it passes, and misses none that was there when it began.
///
/// Caught: a link or a first slot that is stored or loaded relaxed, wherever one leads to a slot; a slot that forgets
/// its link when it is taken off or out; a slot that is added with the link it had before, or leads to its end only
/// after something leads to it.
///
/// Not caught, as nothing depends on it here: that the mark of a slot that is taken off is set with `Release`, and
/// last.
pub fn a_chain_is_followed_while_it_changes() {
    loom::model(|| {
        run(|world| {
            world.put(None, Slot(0));
            world.put(Some(Slot(0)), Slot(1));
            assert_eq!(world.chains.pop(0), Some(Slot(0)));
            world.put(Some(Slot(1)), Slot(2));
            world.chains.take_out(0, None, Slot(1));
        });
    });
    loom::model(|| {
        run(|world| {
            world.put(None, Slot(0));
            world.put(Some(Slot(0)), Slot(1));
            world.put(Some(Slot(1)), Slot(2));
            world.chains.take_out(0, Some(Slot(0)), Slot(1));
        });
    });
}

fn run(change: impl Fn(&World)) {
    let (chains, rows) = (Chains::new(1, 3), Default::default());
    let world = Arc::new(World { chains, rows, applied: AtomicU32::new(0) });
    world.put(None, Slot(2));
    world.put(Some(Slot(2)), Slot(0));
    assert_eq!([0, 0].map(|owner| world.chains.pop(owner)), [2, 0].map(|slot| Some(Slot(slot))));
    world.applied.store(0, Ordering::Relaxed);
    let reader = thread::spawn({
        let world = Arc::clone(&world);
        move || follow(&world)
    });
    change(&world);
    reader.join().expect("the reader ends");
}

fn follow(world: &World) {
    let applied = world.applied.load(Ordering::Acquire).checked_sub(1).map(Slot);
    let mut last = None;
    let mut next = world.chains.first(0);
    while let Some(slot) = next {
        assert!(last < Some(slot), "no slot comes twice");
        assert_eq!(world.rows[slot.index()].get(), 1, "what is in a chain is there");
        last = Some(slot);
        next = world.chains.after(slot);
    }
    assert!(last >= applied, "{applied:?} was there, and {last:?} is the last that is found");
}
