//! Restores a graph from the blocks that [`Graph::frozen_links`] and its like gave, in any order. A checksum has
//! covered the bytes; checked here are the conditions that a walk rests on: links lead to slots that exist, and
//! levels to lists that exist.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::frozen::Frame;
use super::layer::LINE_LINKS;
use super::{Graph, LEVEL_MAX};
use crate::store::slices::slices;
use crate::types::Slot;
use crate::types::stripe::{BLOCK_SLOTS, Stripe};

impl Graph {
    /// Values of a list on level 0, its padding included.
    #[must_use]
    pub fn list_values(&self) -> usize {
        self.links_max(0).next_multiple_of(LINE_LINKS)
    }

    /// Values of a list above level 0, its padding included.
    #[must_use]
    pub fn upper_list_values(&self) -> usize {
        self.links_max(1).next_multiple_of(LINE_LINKS)
    }

    /// Restores lists on level 0, from that of local slot `start` on.
    ///
    /// # Errors
    /// If a link leads to a slot that can't exist.
    pub fn restore_links(
        &self,
        stripe: Stripe,
        frame: &Frame,
        start: u32,
        values: &[u32],
    ) -> Result<(), String> {
        let row_values = self.list_values();
        check(frame.slots, start, row_values, values, links_max(stripe, frame))?;
        self.layers.base.restore(stripe, start, row_values, values);
        Ok(())
    }

    /// Restores lists above level 0, from number `start` on.
    ///
    /// # Errors
    /// If a link leads to a slot that can't exist.
    pub fn restore_upper_links(
        &self,
        stripe: Stripe,
        frame: &Frame,
        start: u32,
        values: &[u32],
    ) -> Result<(), String> {
        let row_values = self.upper_list_values();
        check(frame.upper_lists, start, row_values, values, links_max(stripe, frame))?;
        self.layers.upper.restore(stripe, start, row_values, values);
        Ok(())
    }

    /// Restores the level + 1 of a slot, 0 if it is not linked.
    ///
    /// # Errors
    /// If there is no such level.
    pub fn restore_level(&self, slot: Slot, level: u8) -> Result<(), String> {
        if level > LEVEL_MAX + 1 {
            return Err(format!("slot {} is on level {}", slot.0, level - 1));
        }
        self.reserve(slot);
        self.levels.get(slot.index()).store(level, Ordering::Relaxed);
        if let Some(level) = level.checked_sub(1) {
            self.high.note(slot, level, |slot| self.level(slot));
        }
        Ok(())
    }

    /// Restores the number of a slot's first list above level 0, + 1.
    pub fn restore_upper_start(&self, stripe: Stripe, slot: Slot, start: u32) {
        self.reserve(slot);
        let row = start.checked_sub(1).map_or(0, |number| stripe.slot(number).0 + 1);
        self.layers.restore_upper_start(slot, row);
    }

    /// Completes the restore of an owner: checks that its parts fit together, in slices. With several owners,
    /// [`Graph::settle`] has to follow for each, once all are restored.
    ///
    /// # Errors
    /// If they do not.
    pub async fn finish_restore(
        &self,
        stripe: Stripe,
        frame: &Frame,
        rest: &impl AsyncFn(),
    ) -> Result<(), String> {
        let mut linked = 0;
        // By list: the number of lists of the node whose first list it is.
        let mut begin = vec![0; frame.upper_lists as usize];
        for slice in slices(frame.slots) {
            for slot in slice.map(|number| stripe.slot(number)) {
                let Some(level) = self.level(slot) else { continue };
                linked += 1;
                if level == 0 {
                    continue;
                }
                let first = self.layers.upper_start(slot).checked_sub(1);
                let first = first.map(|row| stripe.number(Slot(row)));
                let lists = first.map(|first| first..first + u32::from(level));
                let is_there = |lists: &Range<u32>| {
                    lists.end <= frame.upper_lists && are_together(stripe, lists)
                };
                let Some(lists) = lists.filter(is_there) else {
                    return Err(format!("slot {} has no lists on its {level} levels", slot.0));
                };
                if std::mem::replace(&mut begin[lists.start as usize], level) != 0 {
                    return Err("two nodes have the same lists".into());
                }
            }
            rest().await;
        }
        if linked != frame.linked {
            return Err(format!("{linked} nodes are linked; the header says {}", frame.linked));
        }
        let used = (0..).zip(begin).filter(|(_, lists)| *lists > 0);
        let used: Vec<Range<u32>> =
            used.map(|(first, lists)| first..first + u32::from(lists)).collect();
        if !used.is_sorted_by(|before, after| before.end <= after.start) {
            return Err("two nodes have the same lists".into());
        }
        rest().await;
        self.layers.restore_upper(stripe, frame.upper_lists, &used);
        self.owners[stripe.owner() as usize].linked_count.store(linked, Ordering::Relaxed);
        if stripe.owners() > 1 {
            return Ok(());
        }
        self.entry.store(frame.entry, Ordering::Release);
        let entry_is_there = match self.entry() {
            None => linked == 0,
            Some((slot, level)) => slot.0 < frame.slots && self.level(slot) == Some(level),
        };
        if entry_is_there { Ok(()) } else { Err("the entry of the graph is not in it".into()) }
    }

    /// Fits a node of one owner to those of all others as they have been restored, each from a snapshot of its own:
    /// drops links to nodes that do not exist, or not on that level, and duplicate links. All slots are below
    /// `extent`. No thread walks the graph yet. Returns the number of links dropped.
    pub fn settle(&self, slot: Slot, extent: u32) -> usize {
        let Some(top) = self.level(slot) else { return 0 };
        let mut dropped = 0;
        for level in 0..=top {
            let list = self.neighbours(slot, level);
            let mut kept: Vec<Slot> = Vec::with_capacity(list.len());
            for &near in &list {
                let is_there = near.0 < extent && self.level(near).is_some_and(|top| top >= level);
                if is_there && near != slot && !kept.contains(&near) {
                    kept.push(near);
                }
            }
            if kept.len() < list.len() {
                dropped += list.len() - kept.len();
                self.write(slot, level, &kept);
            }
        }
        self.offer_entry(slot, top);
        dropped
    }
}

/// True if these local lists of a node are its row and the rows that follow: the rows of one of several owners have
/// gaps between blocks.
fn are_together(stripe: Stripe, lists: &Range<u32>) -> bool {
    stripe.owners() == 1 || lists.start / BLOCK_SLOTS == (lists.end - 1) / BLOCK_SLOTS
}

/// Largest value of a link: with several owners, links lead to slots that only the other owners know.
fn links_max(stripe: Stripe, frame: &Frame) -> u32 {
    if stripe.owners() == 1 { frame.slots } else { stripe.names_max() as u32 }
}

fn check(
    rows: u32,
    start: u32,
    row_values: usize,
    values: &[u32],
    links_max: u32,
) -> Result<(), String> {
    let end = u64::from(start) + (values.len() / row_values) as u64;
    if !values.len().is_multiple_of(row_values) || end > u64::from(rows) {
        return Err("more lists than there are nodes for".into());
    }
    match values.iter().max() {
        Some(&link) if link > links_max => Err(format!("a link to slot {}", link - 1)),
        _ => Ok(()),
    }
}
