//! Write versions of a shard: counters per realm that move with every change, by which a search knows that a cached
//! answer is still right.
//!
//! A counter is odd while documents that it covers are being changed, and even at rest; it never goes back. The owner
//! of the documents makes it odd *before* it changes the first of them, and even once all are changed, which is
//! before the client hears. A cache reads the counters *before* the search whose answer it keeps, and gives the
//! answer again only if the counters have the same values then:
//!
//! - A search that begins after a write was acknowledged reads a counter that has moved: an answer kept before the
//!   write is not given.
//! - Between the change and its acknowledgement a search may see the new document; any request after that search
//!   reads at least an odd counter, and is not given an old answer.
//! - An answer found while a counter is odd is not kept.
//! - An answer that was found later than its counters were read is newer than they are, never older.
//!
//! A search of one namespace does not read documents of another one: its answer depends on documents of its realm
//! alone. There are `BUCKETS` counters, and realms that hash to one counter are not told apart: their answers are
//! dropped too early, never too late. A document counts in each realm by which a search could reach it: its tenant
//! and all tenants, each in its namespace and in any namespace.
//!
//! Linking documents, and removing dead ones from the graph, is no change: a walk may find other documents after it,
//! but the earlier answer was right for the same documents, and still is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mix;
use crate::payload::{Payload, TENANT_INDEX_KEY};
use crate::realm::Realm;

/// Counters of a shard, 8 KiB: several times the number of realms that are written at one time on most servers.
const BUCKETS: usize = 1 << 10;

/// The counters of one shard.
pub struct Changes(Box<[AtomicU64]>);

impl Default for Changes {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// Index of the counter, in every shard, that a search depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket(u16);

impl Bucket {
    /// The counter of searches in this realm.
    #[must_use]
    pub fn of(realm: &Realm) -> Self {
        let tenant = realm.tenant.as_ref().map(|mark| mark.index.as_str());
        Self::among(tenant, &realm.namespace)
    }

    /// The counter of documents of one tenant (`None`: of all) in one namespace (empty: in any).
    fn among(tenant: Option<&str>, namespace: &str) -> Self {
        let mut hash = u64::from(tenant.is_some());
        for text in [tenant.unwrap_or_default(), namespace] {
            for &byte in text.as_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            // No text has this byte: it keeps the end of one part from being read as the start of the next.
            hash = mix(hash ^ 0xff);
        }
        Self((hash % BUCKETS as u64) as u16)
    }
}

impl Changes {
    /// Reads a counter; the second value is true if it is at rest.
    fn read(&self, bucket: Bucket) -> (u64, bool) {
        let count = self.0[usize::from(bucket.0)].load(Ordering::Acquire);
        (count, count.is_multiple_of(2))
    }
}

/// The counters of some shards, read together and hashed to 128 bits: equal stamps mean equal counters, but for a
/// collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64, u64);

impl Stamp {
    /// Reads the counters of these shards; `None` if one of them is odd at this moment.
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

    /// The lower bits of the stamp.
    #[must_use]
    pub fn digest(self) -> u64 {
        self.0
    }
}

/// The counters of a shard for its owner, the only thread that moves them.
#[derive(Default)]
pub struct Changing {
    changes: Option<Arc<Changes>>,
    /// Counters that are odd now.
    open: Vec<Bucket>,
}

impl Changing {
    /// Counts in `changes` from now on.
    pub fn begin(&mut self, changes: Arc<Changes>) {
        self.open.clear();
        self.changes = Some(changes);
    }

    /// Announces that a document with this metadata is about to be inserted, changed or removed.
    pub fn touch(&mut self, payload: &Payload) {
        let Some(changes) = &self.changes else { return };
        let namespace = payload.namespace();
        // A missing tenant or an empty namespace gives one counter twice; it is moved once.
        for tenant in [None, payload.get(TENANT_INDEX_KEY)] {
            for namespace in ["", namespace] {
                let bucket = Bucket::among(tenant, namespace);
                let count = &changes.0[usize::from(bucket.0)];
                let before = count.load(Ordering::Relaxed);
                if before.is_multiple_of(2) {
                    // Stored before the change, for readers that see the change.
                    count.store(before + 1, Ordering::SeqCst);
                    self.open.push(bucket);
                }
            }
        }
    }

    /// Makes the odd counters even: all announced changes are done.
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
    use crate::realm::TenantMark;

    fn realm(tenant: Option<&str>, namespace: &str) -> Realm {
        let mark = |index: &str| TenantMark { id: format!("t{index}"), index: index.into() };
        Realm { tenant: tenant.map(|index| Arc::new(mark(index))), namespace: namespace.into() }
    }

    fn stamp(changes: &Changes, realm: &Realm) -> Option<Stamp> {
        Stamp::read([changes].into_iter(), Bucket::of(realm))
    }

    /// A change moves the counter of each realm that the document is part of, and no other counter.
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
        // Without a cache nothing is counted.
        let mut changing = Changing::default();
        changing.touch(&Payload::new([], "").unwrap());
        changing.settle();
        assert_eq!(now().as_ref(), stamps.last());
    }
}
