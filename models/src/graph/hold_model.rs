//! Model of a graph node that several threads want to change.

use loom::sync::Arc;
use loom::thread;

use super::Graph;
use crate::plain::Plain;
use crate::store::arena::Arena;
use crate::types::Slot;

/// Tries of each of the two threads.
const TRIES: usize = 2;

/// Two threads want to change the list of a node, and do so whenever they get hold of the node.
///
/// Caught: a hold that is taken or let go relaxed, taken by a load and a store, made and dropped by a thread that did
/// not get it, or never let go.
pub fn one_at_a_time_has_a_node() {
    loom::model(|| {
        let world = Arc::new((Graph { levels: Arena::per_slot(1) }, Plain::default()));
        let other = thread::spawn({
            let world = Arc::clone(&world);
            move || change(&world.0, &world.1)
        });
        let changed = change(&world.0, &world.1) + other.join().expect("the other ends");
        assert!(world.0.hold(Slot(0)).is_some(), "it was let go");
        assert_eq!(world.1.get(), 2 * changed);
    });
}

/// Adds 2 in two steps whenever it gets hold of the node; returns how many times it did.
fn change(graph: &Graph, list: &Plain) -> u64 {
    let mut changed = 0;
    for _ in 0..TRIES {
        if let Some(held) = graph.hold(Slot(0)) {
            list.set(list.get() + 1);
            thread::yield_now();
            list.set(list.get() + 1);
            changed += 1;
            drop(held);
        }
    }
    changed
}
