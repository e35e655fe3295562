//! Model of a view that is opened while an owner drops versions and fills slots again.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::life::{self, ALIVE, Life};
use super::member::Member;
use super::pin;
use crate::plain::Plain;
use crate::types::Lsn;

/// The owner that writes, and the one that reads.
const WRITER: u32 = 0;
const READER: u32 = 1;

/// A slot of the writer.
struct World {
    members: [Member; 2],
    life: Life,
    /// Its vector and its metadata: each is the LSN that it is from; 0 stands for no metadata.
    row: Plain,
    payload: Plain,
    /// True if a list of the graph leads to the slot.
    is_led_to: AtomicBool,
}

/// The version of LSN 1 in a slot dies at LSN 2, and nothing leads to the slot any more. The owner drops its
/// metadata, and fills the slot again at LSN 3, once no reader looks at it: as `Store::reclaim` and `Store::put` do,
/// with their conditions. A reader opens a view meanwhile, sees one version or none, and looks at the vector also if
/// a list leads to it. So does a reader that opens a second view before it closes the first.
///
/// Caught: a reader that does not ask again for the applied LSN after it has set its pin, or sets its pin again for
/// the second view, or removes it too early; an owner (its code is written here once more) that asks for pins before
/// it has published, or fills a slot again that was left at the state of a pin; a life that is written or read in the
/// other order, or with a `died` that is stored or loaded relaxed; any load or store of `applied` or of a pin that is
/// relaxed.
///
/// Without either of the fences, or with weaker ones, the model fails too. That alone does not show that they are
/// needed, as loom takes the loads and stores around them for weaker than they are.
///
/// Not caught, as nothing depends on it here: a `born`, or the end of a version, that is relaxed.
pub fn a_view_keeps_what_it_sees() {
    loom::model(|| run(search));
    loom::model(|| run(search_twice));
}

fn run(search: fn(&World)) {
    let world = Arc::new(World {
        members: [Member::new(2), Member::new(2)],
        life: Life::default(),
        row: Plain::new(1),
        payload: Plain::new(1),
        is_led_to: AtomicBool::new(true),
    });
    life::write(&world.life, [1, ALIVE]);
    world.members[0].set_applied(Lsn(1));
    let reader = thread::spawn({
        let world = Arc::clone(&world);
        move || search(&world)
    });
    delete_and_put(&world);
    reader.join().expect("the reader ends");
}

fn delete_and_put(world: &World) {
    let member = &world.members[WRITER as usize];
    let (died, applied) = (Lsn(2), Lsn(2));
    life::end(&world.life, died);
    member.set_applied(applied);
    world.is_led_to.store(false, Ordering::Release);
    let left = applied;
    let oldest = Lsn(pin::oldest(&world.members, WRITER));
    if died <= oldest.min(applied) {
        world.payload.set(0);
    }
    if left < oldest {
        world.row.set(3);
        world.payload.set(3);
        life::write(&world.life, [3, ALIVE]);
        member.set_applied(Lsn(3));
    }
}

fn search(world: &World) {
    let mut pins = Vec::new();
    pin::pin(&world.members, READER, &mut pins, true);
    look(world, pins[WRITER as usize]);
    pin::publish(&world.members, READER, None);
}

fn search_twice(world: &World) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    pin::pin(&world.members, READER, &mut first, true);
    pin::pin(&world.members, READER, &mut second, false);
    look(world, first[WRITER as usize]);
    pin::publish(&world.members, READER, Some(&second));
    look(world, second[WRITER as usize]);
    pin::publish(&world.members, READER, None);
}

/// Checks that the version that a view of `lsn` sees is there.
fn look(world: &World, lsn: Lsn) {
    let seen = match lsn {
        Lsn(1) => Some(1),
        Lsn(2) => None,
        _ => Some(3),
    };
    if world.is_led_to.load(Ordering::Acquire) {
        let row = world.row.get();
        assert!(seen.is_none_or(|seen| seen == row), "a vector of {row} at {lsn:?}");
    }
    assert_eq!(life::is_visible(&world.life, lsn), seen.is_some(), "at {lsn:?}");
    if let Some(seen) = seen {
        assert_eq!([world.row.get(), world.payload.get()], [seen, seen], "at {lsn:?}");
    }
}
