//! What has been written in a shard, by realm: counters by which a search knows that an answer of
//! before is still the answer.
//!
//! A counter is odd while something that it stands for is being changed, and even at rest; it never
//! goes back. The owner of the documents makes it odd *before* it changes the first of them, and even
//! once all is changed, which is before the client hears. Whoever keeps an answer reads the counters
//! *before* the search that finds it, and gives it again only where they say the same:
//!
//! - A search that begins after a write was acknowledged reads a counter that has moved: what was kept
//!   before that is not given.
//! - Between the change and its acknowledgement a search may see what is new; then whoever asks after
//!   it reads an odd counter at least, and is not given what is old.
//! - What is found while a counter is odd is not kept.
//! - An answer that was found later than its counters say is newer than they are, never older.
//!
//! A search of one namespace does not read what is written in another one: its answer rests on documents
//! of its realm alone. There are `BUCKETS` counters, and realms that meet in one are told apart no
//! more: their answers are given up too early, never too late. A document counts where any search could
//! ask for it: as one of its tenant and of all, in its namespace and in any.
//!
//! Linking documents, and taking dead ones out of the graph, is no change: what a walk finds may change
//! by it, but the answer of before was right for the same documents, and is still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::mix;
use crate::types::payload::{Payload, TENANT_INDEX_KEY};
use crate::types::realm::Realm;

/// Counters of a shard, 8 KiB: several times the realms that are written at the same time on most
/// servers.
const BUCKETS: usize = 1 << 10;

/// The counters of one shard.
pub struct Changes(Box<[AtomicU64]>);

impl Default for Changes {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// Which counter of every shard a search depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket(u16);

impl Bucket {
    /// That of searches of this realm.
    #[must_use]
    pub fn of(realm: &Realm) -> Self {
        let tenant = realm.tenant.as_ref().map(|mark| mark.index.as_str());
        Self::among(tenant, &realm.namespace)
    }

    /// That of the documents of a tenant, or of all, in a namespace, or in any if it is empty.
    fn among(tenant: Option<&str>, namespace: &str) -> Self {
        let mut hash = u64::from(tenant.is_some());
        for text in [tenant.unwrap_or_default(), namespace] {
            for &byte in text.as_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            // No text has this byte: what ends one is no part of the next.
            hash = mix(hash ^ 0xff);
        }
        Self((hash % BUCKETS as u64) as u16)
    }
}

impl Changes {
    /// Reads a counter, and whether it is at rest.
    fn read(&self, bucket: Bucket) -> (u64, bool) {
        let count = self.0[usize::from(bucket.0)].load(Ordering::Acquire);
        (count, count.is_multiple_of(2))
    }
}

/// What the counters of some shards say, together: equal ones mean equal counters, as far as 128 bits
/// tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64, u64);

impl Stamp {
    /// Reads the counters of these shards; `None` if any of them is just being moved.
    pub fn read<'a>(changes: impl Iterator<Item = &'a Changes>, bucket: Bucket) -> Option<Self> {
        let mut stamp = Self(u64::from(bucket.0), 1);
        for shard in changes {
            let (count, is_at_rest) = shard.read(bucket);
            if !is_at_rest {
                return None;
            }
            stamp = Self(mix(stamp.0 ^ count), mix(stamp.1.wrapping_add(count)));
        }
        Some(stamp)
    }

    /// A few bits of it.
    #[must_use]
    pub fn digest(self) -> u64 {
        self.0
    }
}

/// The counters of a shard for its owner, the only one who moves them.
#[derive(Default)]
pub struct Changing {
    changes: Option<Arc<Changes>>,
    /// Those that are odd.
    open: Vec<Bucket>,
}

impl Changing {
    /// Moves these counters from now on.
    pub fn begin(&mut self, changes: Arc<Changes>) {
        self.open.clear();
        self.changes = Some(changes);
    }

    /// A document with this metadata is about to be changed, to come or to go.
    pub fn touch(&mut self, payload: &Payload) {
        let Some(changes) = &self.changes else { return };
        let namespace = payload.namespace();
        // Where one of these is not there, it is the same counter twice, which is moved once.
        for tenant in [None, payload.get(TENANT_INDEX_KEY)] {
            for namespace in ["", namespace] {
                let bucket = Bucket::among(tenant, namespace);
                let count = &changes.0[usize::from(bucket.0)];
                let before = count.load(Ordering::Relaxed);
                if before.is_multiple_of(2) {
                    // Comes before the change for whoever sees the change.
                    count.store(before + 1, Ordering::SeqCst);
                    self.open.push(bucket);
                }
            }
        }
    }

    /// All that was to be changed is.
    pub fn settle(&mut self) {
        let Some(changes) = &self.changes else { return };
        for bucket in self.open.drain(..) {
            let count = &changes.0[usize::from(bucket.0)];
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::realm::TenantMark;

    fn realm(tenant: Option<&str>, namespace: &str) -> Realm {
        let mark = |index: &str| TenantMark { id: format!("t{index}"), index: index.into() };
        Realm { tenant: tenant.map(|index| Arc::new(mark(index))), namespace: namespace.into() }
    }

    fn stamp(changes: &Changes, realm: &Realm) -> Option<Stamp> {
        Stamp::read([changes].into_iter(), Bucket::of(realm))
    }

    /// Whoever could have asked for a document is told, and others are not.
    #[test]
    fn a_change_is_seen_in_every_realm_that_the_document_is_part_of() {
        let realms = [
            realm(None, ""),
            realm(None, "a"),
            realm(None, "b"),
            realm(Some("1"), ""),
            realm(Some("1"), "a"),
            realm(Some("2"), ""),
            realm(Some("2"), "a"),
        ];
        for stored in &realms {
            let changes = Arc::new(Changes::default());
            let mut changing = Changing::default();
            changing.begin(changes.clone());
            let payload = Payload::within([("k", "v")], stored).unwrap();
            let before = realms.each_ref().map(|realm| stamp(&changes, realm));
            changing.touch(&payload);
            changing.touch(&payload);
            for (realm, before) in realms.iter().zip(before) {
                let now = stamp(&changes, realm);
                assert_eq!(now.is_none(), realm.admits(&payload), "{stored:?} for {realm:?}");
                assert!(now.is_none() || now == before);
            }
            changing.settle();
            for (realm, before) in realms.iter().zip(before) {
                let is_moved = stamp(&changes, realm) != before;
                assert_eq!(is_moved, realm.admits(&payload), "{stored:?} for {realm:?}");
            }
        }
    }

    #[test]
    fn the_stamp_of_several_shards_moves_with_each_of_them() {
        let shards: Vec<_> = (0..5).map(|_| Arc::new(Changes::default())).collect();
        let everybody = Bucket::of(&Realm::default());
        let now = || Stamp::read(shards.iter().map(|shard| &**shard), everybody);
        let mut stamps = vec![now().unwrap()];
        for shard in &shards {
            let mut changing = Changing::default();
            changing.begin(shard.clone());
            for _ in 0..3 {
                changing.touch(&Payload::new([], "").unwrap());
                assert_eq!(now(), None, "while it is being changed");
                changing.settle();
                let stamp = now().unwrap();
                assert!(!stamps.contains(&stamp));
                stamps.push(stamp);
            }
        }
        // Nobody keeps answers: nothing is counted.
        let mut changing = Changing::default();
        changing.touch(&Payload::new([], "").unwrap());
        changing.settle();
        assert_eq!(now().as_ref(), stamps.last());
    }
}
