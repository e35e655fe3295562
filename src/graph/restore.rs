//! Puts a graph back together from what [`Graph::frozen_links`] and its like gave, block by block
//! in any order. Trusts a checksum for the bytes, and checks what a walk rests on: links lead to
//! slots that are there, and levels to lists that are.

use std::sync::atomic::Ordering;

use super::frozen::Frame;
use super::layer::LINE_LINKS;
use super::{Graph, LEVEL_MAX};
use crate::types::Slot;

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

    /// Puts back lists on level 0, from `start` on.
    ///
    /// # Errors
    /// If a link leads nowhere.
    pub fn restore_links(
        &mut self,
        frame: &Frame,
        start: u32,
        values: &[u32],
    ) -> Result<(), String> {
        let row_values = self.list_values();
        check(frame.slots, start, row_values, values, frame.slots)?;
        self.layers.base.restore(start as usize, row_values, values);
        Ok(())
    }

    /// Puts back lists above level 0, from `start` on.
    ///
    /// # Errors
    /// If a link leads nowhere.
    pub fn restore_upper_links(
        &mut self,
        frame: &Frame,
        start: u32,
        values: &[u32],
    ) -> Result<(), String> {
        let row_values = self.upper_list_values();
        check(frame.upper_lists, start, row_values, values, frame.slots)?;
        self.layers.upper.restore(start as usize, row_values, values);
        Ok(())
    }

    /// Puts back level + 1 of a slot, 0 if it is not linked.
    ///
    /// # Errors
    /// If there is no such level.
    pub fn restore_level(&mut self, slot: Slot, level: u8) -> Result<(), String> {
        if level > LEVEL_MAX + 1 {
            return Err(format!("slot {} is on level {}", slot.0, level - 1));
        }
        self.reserve(slot);
        self.levels.get(slot.index()).store(level, Ordering::Relaxed);
        Ok(())
    }

    /// Puts back the number of a slot's first list above level 0, + 1.
    pub fn restore_upper_start(&mut self, slot: Slot, start: u32) {
        self.reserve(slot);
        self.layers.restore_upper_start(slot, start);
    }

    /// All of it is back: checks that it fits together.
    ///
    /// # Errors
    /// If it does not.
    pub fn finish_restore(&mut self, frame: &Frame) -> Result<(), String> {
        let mut linked = 0;
        let mut used = Vec::new();
        for slot in (0..frame.slots).map(Slot) {
            let Some(level) = self.level(slot) else { continue };
            linked += 1;
            let start = self.layers.upper_start(slot);
            let is_there = start > 0 && start - 1 + u32::from(level) <= frame.upper_lists;
            if level > 0 && !is_there {
                return Err(format!("slot {} has no lists on its {level} levels", slot.0));
            }
            if level > 0 {
                used.push(start - 1..start - 1 + u32::from(level));
            }
        }
        if linked != frame.linked {
            return Err(format!("{linked} nodes are linked; the header says {}", frame.linked));
        }
        used.sort_unstable_by_key(|lists| lists.start);
        if used.is_sorted_by(|before, after| before.end <= after.start) {
            self.layers.restore_upper_count(frame.upper_lists);
            self.layers.restore_free(&used);
        } else {
            return Err("two nodes have the same lists".into());
        }
        *self.linked_count.get_mut() = linked;
        *self.entry.get_mut() = frame.entry;
        let entry_is_there = match self.entry() {
            None => linked == 0,
            Some((slot, level)) => slot.0 < frame.slots && self.level(slot) == Some(level),
        };
        if entry_is_there { Ok(()) } else { Err("the entry of the graph is not in it".into()) }
    }
}

fn check(
    rows: u32,
    start: u32,
    row_values: usize,
    values: &[u32],
    slots: u32,
) -> Result<(), String> {
    let end = u64::from(start) + (values.len() / row_values) as u64;
    if !values.len().is_multiple_of(row_values) || end > u64::from(rows) {
        return Err("more lists than there are nodes for".into());
    }
    match values.iter().max() {
        Some(&link) if link > slots => Err(format!("a link to slot {}", link - 1)),
        _ => Ok(()),
    }
}
