//! A client that changes documents of its own, and records which changes were acknowledged and which were in flight
//! when its server died.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::Status;

use crate::common::Client;
use crate::common::documents::{Change, Contents, Document, Random};

/// Documents of one client.
const DOCUMENTS: u64 = 250;

/// Documents in one stream, all different.
const STREAM_DOCUMENTS: u64 = 60;

/// How a client writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// One change after the other, of every kind.
    Changes,
    /// Streams of BulkLoadHnsw.
    BulkLoad,
    /// Streams of BulkInsert.
    BulkInsert,
}

/// Record of a client.
pub(crate) struct Journal {
    pub(crate) worker: u64,
    /// Its documents after all acknowledged changes.
    pub(crate) contents: Contents,
    /// Changes in flight when the server died.
    pub(crate) under_way: Vec<Change>,
    /// Changes acknowledged in this round.
    pub(crate) acknowledged: u64,
}

impl Journal {
    pub(crate) fn new(worker: u64, contents: Contents) -> Self {
        Self { worker, contents, under_way: Vec::new(), acknowledged: 0 }
    }

    /// The documents if all changes in flight were done.
    pub(crate) fn after_all(&self) -> Contents {
        let mut contents = self.contents.clone();
        self.under_way.iter().for_each(|change| change.apply(&mut contents));
        contents
    }
}

/// The first document of a client.
fn first_id(worker: u64) -> u64 {
    worker * 100_000 + 1
}

/// The documents of a client.
pub(crate) fn ids_of(worker: u64) -> Vec<u64> {
    (first_id(worker)..first_id(worker) + DOCUMENTS).collect()
}

/// Makes changes until the server is gone.
pub(crate) async fn work(
    kind: Kind,
    mut client: Client,
    mut journal: Journal,
    mut random: Random,
    is_killed: Arc<AtomicBool>,
) -> Journal {
    loop {
        journal.under_way = match kind {
            Kind::Changes => vec![Change::random(&mut random, first_id(journal.worker), DOCUMENTS)],
            Kind::BulkLoad | Kind::BulkInsert => stream(&mut random, first_id(journal.worker)),
        };
        match send(kind, &mut client, &journal).await {
            Ok(()) => {
                journal.contents = journal.after_all();
                journal.acknowledged += journal.under_way.len() as u64;
                journal.under_way.clear();
            }
            Err(status) => {
                assert!(is_killed.load(Ordering::SeqCst), "{kind:?} failed: {status:?}");
                return journal;
            }
        }
    }
}

async fn send(kind: Kind, client: &mut Client, journal: &Journal) -> Result<(), Status> {
    let changes = &journal.under_way;
    let requests = || {
        let put = |change: &Change| match change {
            Change::Put(id, document) => document.insert(*id),
            _ => unreachable!("streams are of puts"),
        };
        tokio_stream::iter(changes.iter().map(put).collect::<Vec<_>>())
    };
    match kind {
        Kind::Changes => changes[0].send(client, &journal.contents).await,
        Kind::BulkLoad => {
            let answer = client.bulk_load_hnsw(requests()).await?.into_inner();
            assert_eq!((answer.success, answer.total_loaded), (true, STREAM_DOCUMENTS));
            Ok(())
        }
        Kind::BulkInsert => {
            let answer = client.bulk_insert(requests()).await?.into_inner();
            assert_eq!((answer.success, answer.total_inserted), (true, STREAM_DOCUMENTS));
            Ok(())
        }
    }
}

/// Puts of consecutive documents.
fn stream(random: &mut Random, first: u64) -> Vec<Change> {
    let start = random.below(DOCUMENTS);
    (0..STREAM_DOCUMENTS)
        .map(|i| Change::Put(first + (start + i) % DOCUMENTS, Document::random(random)))
        .collect()
}
