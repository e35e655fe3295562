//! The invariants of a whole graph, checked from outside: for tests, and for a verification of
//! what was recovered.

use super::Graph;
use crate::types::Slot;
use crate::types::stripe::Stripe;

/// Results of [`check`] for a sound graph.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Nodes in the graph.
    pub linked: u32,
    /// Nodes that no walk on level 0 can reach from the entry.
    pub unreachable: Vec<Slot>,
}

/// Checks every list of every linked slot below `slot_count`.
///
/// # Errors
/// The first violation: a link to a slot that is not linked, has left, or does not reach that level,
/// to the node itself, or twice; an entry that is not on the top level; a wrong count.
pub fn check(graph: &Graph, slot_count: u32) -> Result<Report, String> {
    let linked: Vec<Slot> =
        (0..slot_count).map(Slot).filter(|&s| graph.level(s).is_some()).collect();
    if linked.len() as u32 != graph.linked_count() {
        return Err(format!("{} linked, {} counted", linked.len(), graph.linked_count()));
    }
    for &slot in linked.iter().filter(|&&slot| !graph.has_left(slot)) {
        for level in 0..=graph.level(slot).unwrap_or(0) {
            check_list(graph, slot_count, slot, level)?;
        }
    }
    let staying = linked.iter().filter(|&&slot| !graph.has_left(slot));
    let top = staying.filter_map(|&slot| graph.level(slot)).max();
    match (graph.entry(), top) {
        (None, None) => {}
        (Some((entry, level)), Some(top)) if level == top && graph.level(entry) == Some(top) => {}
        (entry, top) => return Err(format!("the entry is {entry:?}, the top level {top:?}")),
    }
    Ok(Report {
        linked: graph.linked_count(),
        unreachable: unreachable(graph, &linked, slot_count),
    })
}

/// Checks the lists of the first `count` slots of one of several owners, where the nodes of the others
/// are not there: as [`check`], as far as its own nodes go.
///
/// # Errors
/// The first violation.
pub fn check_part(graph: &Graph, stripe: Stripe, count: u32) -> Result<(), String> {
    for slot in stripe.slots(count) {
        let Some(top) = graph.level(slot) else { continue };
        for level in 0..=top {
            for near in graph.neighbours(slot, level) {
                let is_there = graph.level(near).is_some_and(|top| top >= level);
                if near == slot || stripe.owns(near) && !is_there {
                    let at = format!("node {} on level {level}", slot.0);
                    return Err(format!("{at} links to {}, which is not there", near.0));
                }
            }
        }
    }
    Ok(())
}

fn check_list(graph: &Graph, slot_count: u32, slot: Slot, level: u8) -> Result<(), String> {
    let neighbours = graph.neighbours(slot, level);
    let at = format!("node {} on level {level}", slot.0);
    if neighbours.len() > graph.links_max(level) {
        return Err(format!("{at} has {} links", neighbours.len()));
    }
    for (index, &neighbour) in neighbours.iter().enumerate() {
        if neighbour == slot {
            return Err(format!("{at} links to itself"));
        }
        if neighbours[..index].contains(&neighbour) {
            return Err(format!("{at} links to {} twice", neighbour.0));
        }
        let is_there = neighbour.0 < slot_count
            && graph.level(neighbour).is_some_and(|top| top >= level)
            && !graph.has_left(neighbour);
        if !is_there {
            return Err(format!("{at} links to {}, which is not there", neighbour.0));
        }
    }
    Ok(())
}

fn unreachable(graph: &Graph, linked: &[Slot], slot_count: u32) -> Vec<Slot> {
    let mut reached = vec![false; slot_count as usize];
    let mut open: Vec<Slot> = graph.entry().into_iter().map(|(slot, _)| slot).collect();
    for slot in &open {
        reached[slot.index()] = true;
    }
    while let Some(slot) = open.pop() {
        graph.for_each_neighbour(slot, 0, |neighbour| {
            if !std::mem::replace(&mut reached[neighbour.index()], true) {
                open.push(neighbour);
            }
        });
    }
    let is_lost = |&slot: &Slot| !reached[slot.index()] && !graph.has_left(slot);
    linked.iter().copied().filter(is_lost).collect()
}
