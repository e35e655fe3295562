//! Backups during writes: a restored directory has a state that existed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::documents::Document;
use crate::common::{Client, Process, Settings, insert, runtime, vector};
use crate::{Place, assert_contents, bulk, snapshot};

const CLIENTS: usize = 4;
const FIRST: u64 = 1_000_000;

/// Several shards, and frequent snapshots: files appear and disappear all the time.
const SETTINGS: Settings<'static> =
    &[("runtime.shards", "3"), ("persistence.snapshot_interval_mutations", "300")];

/// Pause of clients between writes while a backup is made: the data grow meanwhile, and a backup that never catches up
/// would never end.
const PAUSE_BESIDE_BACKUP: Duration = Duration::from_millis(10);

/// Number of acknowledged documents, by client.
type Acknowledged = Arc<[AtomicU64; CLIENTS]>;

fn counts(acknowledged: &Acknowledged) -> [u64; CLIENTS] {
    std::array::from_fn(|client| acknowledged[client].load(Ordering::SeqCst))
}

/// Signals to clients.
#[derive(Default)]
struct Flags {
    is_backing_up: AtomicBool,
    stop: AtomicBool,
}

/// Stores one document after the other, each with the numbers of documents of all clients that were acknowledged before
/// it was sent.
async fn work(mut client: Client, own: usize, acknowledged: Acknowledged, flags: Arc<Flags>) {
    for number in 1.. {
        if flags.stop.load(Ordering::SeqCst) {
            return;
        }
        if flags.is_backing_up.load(Ordering::SeqCst) {
            tokio::time::sleep(PAUSE_BESIDE_BACKUP).await;
        }
        let seen = counts(&acknowledged).map(|count| count.to_string()).join(" ");
        let text = "x".repeat((number as usize * 37) % 9_000);
        let id = own as u64 * FIRST + number;
        let request = insert(id, &vector(id, 8), &[("seen", &seen), ("text", &text)]);
        assert!(client.insert(request).await.unwrap().into_inner().success);
        acknowledged[own].store(number, Ordering::SeqCst);
    }
}

/// Contents of a restored directory: by client, the numbers of its documents, and the numbers stored in each.
type Found = Vec<BTreeMap<u64, Vec<u64>>>;

fn found(process: &Process, most: [u64; CLIENTS]) -> Found {
    let read = async |client: &mut Client, own: usize| {
        // A document in flight has the next number.
        let ids: Vec<u64> = (1..=most[own] + 1).map(|n| own as u64 * FIRST + n).collect();
        let seen = |text: &str| text.split(' ').map(|n| n.parse().unwrap()).collect();
        let documents = bulk(client, &ids).await;
        let entry =
            |(id, document): (u64, Document)| (id % FIRST, seen(&document.metadata["seen"]));
        documents.into_iter().map(entry).collect()
    };
    runtime().block_on(async {
        let mut client = process.client().await;
        let mut found = Found::new();
        for own in 0..CLIENTS {
            found.push(read(&mut client, own).await);
        }
        found
    })
}

/// Each client's documents are the first that it sent, no fewer than were acknowledged before; and for each document,
/// all documents that were acknowledged before it was sent are there.
fn assert_existed(found: &Found, before: [u64; CLIENTS], after: [u64; CLIENTS]) {
    let counts: Vec<u64> = found.iter().map(|documents| documents.len() as u64).collect();
    for (client, documents) in found.iter().enumerate() {
        let numbers: BTreeSet<u64> = documents.keys().copied().collect();
        assert_eq!(numbers, (1..=counts[client]).collect(), "client {client} has a gap");
        let (least, most) = (before[client], after[client] + 1);
        assert!((least..=most).contains(&counts[client]), "{least} {counts:?} {most}");
        for (number, seen) in documents {
            for (other, seen) in seen.iter().enumerate() {
                let what = format!("document {number} of client {client} has seen");
                assert!(*seen <= counts[other], "{what} {seen} of client {other}: {counts:?}");
            }
        }
    }
}

#[test]
fn a_backup_under_writes_is_a_state_that_existed() {
    exists(&Place::new(1));
}

pub(crate) fn exists(place: &Place) {
    let process = Process::start(&place.data_dir(), SETTINGS);
    let acknowledged: Acknowledged = Arc::default();
    let flags: Arc<Flags> = Arc::default();
    let runtime = runtime();
    let workers: Vec<_> = (0..CLIENTS)
        .map(|own| {
            let client = runtime.block_on(process.client());
            runtime.spawn(work(client, own, acknowledged.clone(), flags.clone()))
        })
        .collect();
    let mut made: Vec<(String, [u64; CLIENTS], [u64; CLIENTS])> = Vec::new();
    for round in 1..=5 {
        // Each shard fills a segment in about two rounds.
        while counts(&acknowledged).iter().sum::<u64>() < round * 1_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = counts(&acknowledged);
        flags.is_backing_up.store(true, Ordering::SeqCst);
        let id = match made.last() {
            Some((parent, ..)) => place.create_on(parent),
            None => place.create(&[]),
        };
        made.push((id, before, counts(&acknowledged)));
        flags.is_backing_up.store(false, Ordering::SeqCst);
    }
    flags.stop.store(true, Ordering::SeqCst);
    for worker in workers {
        runtime.block_on(worker).unwrap();
    }
    process.stop();
    for (index, (id, before, after)) in made.iter().enumerate() {
        let target = place.path(&format!("restored{index}"));
        crate::succeeds(&mut place.command_on(&target, &["restore", "--backup-id", id]));
        let process = Process::start(&target, SETTINGS);
        let found = found(&process, *after);
        let documents: usize = found.iter().map(BTreeMap::len).sum();
        assert_existed(&found, *before, *after);
        let listed = place.list();
        let item = listed.iter().find(|item| item["id"] == *id.as_str()).unwrap();
        assert_eq!(item["vector_count"], documents as u64, "counted and found");
        process.stop();
    }
}

/// The server writes and takes snapshots as without a backup; a server can continue on a restored directory.
#[test]
fn a_restored_directory_is_gone_on_with() {
    let mut place = Place::new(2);
    let process = Process::start(&place.data_dir(), crate::SETTINGS);
    place.change(&process, 300);
    let id = place.create(&[]);
    let contents = place.contents.clone();
    place.change(&process, 100);
    process.stop();
    let restored = place.restored("restored", &["--backup-id", &id]);
    assert_contents(&restored, &contents);
    place.contents = contents;
    place.change(&restored, 300);
    runtime().block_on(async { snapshot(&mut restored.client().await).await });
    place.change(&restored, 50);
    restored.kill();
    let again = Process::start(&place.path("restored"), crate::SETTINGS);
    assert_contents(&again, &place.contents);
    again.stop();
    // The two histories differ: no file of one is taken for a file of the other.
    let target = place.path("restored");
    let arguments = ["create", "--incremental", "--reference", &id];
    let printed = crate::succeeds(&mut place.command_on(&target, &arguments));
    let second = printed.lines().next().unwrap().strip_prefix("Backup ID: ").unwrap();
    let process = place.restored("third", &["--backup-id", second]);
    assert_contents(&process, &place.contents);
    process.stop();
}
