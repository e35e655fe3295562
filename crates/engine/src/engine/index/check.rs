//! Comparison of the metadata index with the documents, in both directions.

use roaring::RoaringBitmap;

use super::MetadataIndex;
use crate::store::Store;
use crate::types::Slot;
use crate::types::payload::Payload;

impl MetadataIndex {
    /// Compares the entries indexed so far with the metadata in the slots. Returns the number of pairs.
    ///
    /// # Errors
    /// A pair without a posting, or a posting without a pair.
    pub(in crate::engine) fn check(&self, store: &Store) -> Result<u64, String> {
        let pairs = self.check_documents(store)?;
        self.check_postings(store)?;
        Ok(pairs)
    }

    /// Checks that each pair of each document has its posting.
    fn check_documents(&self, store: &Store) -> Result<u64, String> {
        let (mut slots, mut pairs, mut payload_bytes) = (RoaringBitmap::new(), 0, 0);
        let is_read = |slot: &Slot| self.stripe.number(*slot) < self.indexed_to;
        for slot in store.slots().filter(is_read) {
            let Some(payload) = store.stored_payload(slot) else { continue };
            slots.insert(slot.0);
            payload_bytes += payload.bytes().len();
            for (text, value) in payload.pairs() {
                pairs += 1;
                if !self.has(slot, text, value) {
                    let id = store.doc_id(slot).0;
                    return Err(format!(
                        "document {id} has {text:?} = {value:?}, unknown to the index"
                    ));
                }
            }
        }
        if slots != self.slots {
            let wrong: Vec<u32> = (&slots ^ &self.slots).iter().take(8).collect();
            return Err(format!("of slots {wrong:?} either the index or the store has metadata"));
        }
        if payload_bytes != self.payload_bytes {
            return Err(format!(
                "{payload_bytes} bytes of metadata, {} counted",
                self.payload_bytes
            ));
        }
        Ok(pairs)
    }

    fn has(&self, slot: Slot, text: &str, value: &str) -> bool {
        match self.keys.get(text) {
            Some(key) if key.present().contains(slot.0) => {
                key.coarse().contains(slot.0)
                    || key.exact(value).is_some_and(|slots| slots.contains(slot.0))
            }
            _ => self.untracked.contains(slot.0),
        }
    }

    /// Checks that each posting is of a slot whose metadata has the pair.
    fn check_postings(&self, store: &Store) -> Result<(), String> {
        let payload =
            |slot: u32| self.slots.contains(slot).then(|| store.stored_payload(Slot(slot)));
        let payload = |slot: u32| payload(slot).flatten();
        let stale = |slot: u32, what: &str| {
            Err(format!("slot {slot} is in the index with {what}, which no document there has"))
        };
        for (text, key) in &self.keys {
            let mut with_value = key.coarse().clone();
            for slot in key.present() {
                if payload(slot).and_then(|payload| payload.get(text)).is_none() {
                    return stale(slot, &format!("{text:?}"));
                }
            }
            for (value, slots) in key.values() {
                let mut of_value = RoaringBitmap::new();
                slots.add_to(&mut of_value);
                for slot in &of_value {
                    let has = |payload: &Payload| payload.get(text) == Some(&*value);
                    if !payload(slot).is_some_and(has) {
                        return stale(slot, &format!("{text:?} = {value:?}"));
                    }
                }
                with_value |= of_value;
            }
            if with_value != *key.present() {
                let wrong: Vec<u32> = (&with_value ^ key.present()).iter().take(8).collect();
                return Err(format!("slots {wrong:?} of {text:?} have a value or the key alone"));
            }
        }
        match (&self.untracked - &self.slots).min() {
            Some(slot) => stale(slot, "a key that has no set"),
            None => Ok(()),
        }
    }
}
