//! Models of nodes that leave the graph while others link to dead ones.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

use super::dead_links::{DeadLinks, LastLook};
use crate::types::Slot;

/// The node that is linked while others leave.
const LINKED: Slot = Slot(7);

/// A dead node of each owner, which is about to leave the graph, and the list of the node that is linked. All other
/// lists have been searched before that; the list of the linked node is still empty.
#[derive(Default)]
struct World {
    dead_links: DeadLinks,
    /// A bit for each owner to whose dead node the list leads. That others see it has to follow from `dead_links`
    /// alone.
    list: AtomicU32,
    has_left: [AtomicBool; 2],
}

impl World {
    /// A linker that found only dead nodes links to all of them that there are.
    fn link(&self) {
        if self.dead_links.begin() {
            let is_there = |&owner: &usize| !self.has_left[owner].load(Ordering::Relaxed);
            let list = (0..2).filter(is_there).map(|owner| 1 << owner).sum();
            self.list.store(list, Ordering::Relaxed);
            self.dead_links.end(LINKED);
        }
    }

    /// `owner` lets its node leave, if it may do so now.
    fn unlink(&self, owner: usize) {
        let mut last_look = LastLook::default();
        last_look.begin(&self.dead_links);
        while let Some(slot) = last_look.next() {
            assert_eq!(slot, LINKED);
            // Every dead node is marked.
            self.list.store(0, Ordering::Relaxed);
        }
        if last_look.is_done() {
            self.leave(owner);
            last_look.end(&self.dead_links);
        }
    }

    fn leave(&self, owner: usize) {
        let leads = self.list.load(Ordering::Relaxed) & 1 << owner != 0;
        assert!(!leads, "a list leads to the node of owner {owner}");
        self.has_left[owner].store(true, Ordering::Relaxed);
    }

    /// Like `unlink`, for an owner that is fenced before it has looked at the nodes it has to look at.
    fn unlink_fenced(&self, owner: usize) {
        let mut last_look = LastLook::default();
        last_look.begin(&self.dead_links);
        if last_look.is_done() {
            self.leave(owner);
            last_look.end(&self.dead_links);
        } else {
            last_look.give_up(&self.dead_links);
        }
    }

    /// Checks the state when all threads have ended.
    fn check(&self) {
        let list = self.list.load(Ordering::Relaxed);
        for (owner, has_left) in self.has_left.iter().enumerate() {
            let has_left = has_left.load(Ordering::Relaxed);
            assert!(!has_left || list & 1 << owner == 0, "linked to the node of owner {owner}");
        }
    }
}

fn run(others: impl IntoIterator<Item = fn(&World)>) {
    let world = Arc::new(World::default());
    let spawn = |other: fn(&World)| {
        let world = Arc::clone(&world);
        thread::spawn(move || other(&world))
    };
    let threads: Vec<_> = others.into_iter().map(spawn).collect();
    world.unlink(0);
    threads.into_iter().for_each(|thread| thread.join().expect("the others end"));
    world.check();
}

/// One thread links to dead nodes while an owner lets its own leave: either the owner looks at the linked node, or
/// the linker finds the dead node gone.
///
/// Caught: a linker that begins while nodes leave, or says that it has ended before it says what it has linked; an
/// owner that goes on while a linker is at work, or asks what was linked before it has kept others out, or not at
/// all; a beginning or a closing that does not acquire, an end or an opening that does not release.
///
/// Not caught, as nothing depends on it here: that beginning and closing release, and an end acquires.
pub fn nothing_is_linked_to_a_node_that_leaves() {
    loom::model(|| run([World::link as fn(&World)]));
}

/// Two owners let nodes leave, and one takes it on itself to look at the nodes that were linked to those of both: the
/// other does not let its own go before that is done, and takes over if the first is fenced.
///
/// Caught, beside what the former model does: an owner that gives up and loses the nodes it has taken, or hands them
/// back after it has let others go on, or lets them go on though it has not begun; an owner that keeps others out
/// only if there is something to look at, or is done before it has looked.
pub fn one_looks_for_all_at_what_was_linked() {
    loom::model(|| run([World::link as fn(&World), |world| world.unlink(1)]));
    loom::model(|| run([World::link as fn(&World), |world| world.unlink_fenced(1)]));
}
