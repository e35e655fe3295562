//! Hash index of the cache: a table of chains, as many as there are places. It is never rehashed, so no access waits
//! for that.

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// Places by the hash of their key.
pub(super) struct Index {
    /// First place of each chain, plus one; 0 if there is none, so that pages of the table are touched only as needed.
    heads: Box<[u32]>,
    /// The next place in the chain of each place.
    nexts: Vec<u32>,
}

impl Index {
    /// Bytes per place.
    pub(super) const PLACE_BYTES: usize = 2 * size_of::<u32>();

    /// An index for at most `places_max` places, at least one.
    pub(super) fn new(places_max: usize) -> Self {
        Self { heads: vec![0; places_max.max(1)].into(), nexts: Vec::with_capacity(places_max) }
    }

    fn chain(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.heads.len() as u128) >> 64) as usize
    }

    /// The place with this hash for which `is_it` is true.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut place = self.heads[self.chain(hash)].wrapping_sub(1);
        while place != NONE {
            if is_it(place) {
                return Some(place);
            }
            place = self.nexts[place as usize];
        }
        None
    }

    /// Adds a place under this hash: the next unused one, or one that was removed.
    pub(super) fn insert(&mut self, hash: u64, place: u32) {
        let chain = self.chain(hash);
        let next = self.heads[chain].wrapping_sub(1);
        match self.nexts.get_mut(place as usize) {
            Some(slot) => *slot = next,
            None => self.nexts.push(next),
        }
        self.heads[chain] = place + 1;
    }

    /// Removes a place that was added under this hash.
    pub(super) fn remove(&mut self, hash: u64, place: u32) {
        let next = self.nexts[place as usize];
        let chain = self.chain(hash);
        let mut before = self.heads[chain].wrapping_sub(1);
        if before == place {
            self.heads[chain] = next.wrapping_add(1);
            return;
        }
        while before != NONE {
            let after = &mut self.nexts[before as usize];
            if *after == place {
                *after = next;
                return;
            }
            before = *after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    #[test]
    fn index_finds_inserted_places_and_no_others() {
        let mut index = Index::new(50);
        let mut values = Vec::new();
        for round in 0..5_000_u64 {
            let value = mix(round) % 120;
            let found = index.find(mix(value), |place| values[place as usize] == value);
            assert_eq!(found.is_some(), values.contains(&value));
            if found.is_some() {
                continue;
            }
            let place = match values.len() {
                50 => (mix(round ^ 77) % 50) as usize,
                length => length,
            };
            if let Some(old) = values.get_mut(place) {
                index.remove(mix(*old), place as u32);
                *old = value;
            } else {
                values.push(value);
            }
            index.insert(mix(value), place as u32);
        }
        assert_eq!(values.len(), 50);
    }
}
