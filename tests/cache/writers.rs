//! Reading one's own writes, while others write and ask the same questions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kyrodb::proto::{DeleteRequest, InsertRequest, SearchRequest, UpdateMetadataRequest};

use crate::common::{Client, ids, insert, runtime, search, vector};
use crate::{DIMENSION, find, is_hit, start};

const WRITERS: u64 = 4;
const READERS: u64 = 3;
const ROUNDS: u64 = 150;

/// A writer has a namespace of its own, or, one in two, none.
fn namespace(writer: u64) -> String {
    if writer.is_multiple_of(2) { format!("writer {writer}") } else { String::new() }
}

/// What a writer asks, and whoever else does: for the document that it writes.
fn question(writer: u64) -> SearchRequest {
    SearchRequest { namespace: namespace(writer), ..search(&own(writer), 2) }
}

/// No other document is as near to it.
fn own(writer: u64) -> Vec<f32> {
    vector(writer * 50 + 1_000 + writer, DIMENSION)
}

/// Searches some times; the last answer is the one that counts, and none may differ from it.
async fn found(client: &mut Client, writer: u64, hits: &AtomicU64) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for _ in 0..3 {
        let response = find(client, &question(writer)).await;
        hits.fetch_add(u64::from(is_hit(&response)), Ordering::Relaxed);
        let results = response.results.into_iter();
        let of_writer = results.filter(|result| result.doc_id == 1 + writer);
        let state = of_writer.map(|result| (result.doc_id, result.metadata["n"].clone()));
        all.push(state.collect::<Vec<_>>());
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "writer {writer}: {all:?}");
    all.pop().unwrap()
}

async fn write(mut client: Client, writer: u64, hits: Arc<AtomicU64>) {
    let id = 1 + writer;
    for round in 0..ROUNDS {
        let text = round.to_string();
        let document = insert(id, &own(writer), &[("n", &text)]);
        let document = InsertRequest { namespace: namespace(writer), ..document };
        client.insert(document).await.unwrap();
        assert_eq!(found(&mut client, writer, &hits).await, [(id, text)], "round {round}");
        let text = format!("{round} changed");
        let metadata = [("n".to_owned(), text.clone())].into();
        let update = UpdateMetadataRequest { doc_id: id, metadata, ..Default::default() };
        client.update_metadata(update).await.unwrap();
        assert_eq!(found(&mut client, writer, &hits).await, [(id, text)], "round {round}");
        let delete = DeleteRequest { doc_id: id, namespace: String::new() };
        assert!(client.delete(delete).await.unwrap().into_inner().existed);
        assert_eq!(found(&mut client, writer, &hits).await, [], "round {round}");
    }
}

/// Asks what writers ask, so that answers of every moment are kept. What one has seen of a document is
/// never older than what it saw before.
async fn read(mut client: Client, is_over: Arc<AtomicBool>, hits: Arc<AtomicU64>) {
    let mut newest = [0; WRITERS as usize];
    while !is_over.load(Ordering::Relaxed) {
        for writer in 0..WRITERS {
            let response = find(&mut client, &question(writer)).await;
            hits.fetch_add(u64::from(is_hit(&response)), Ordering::Relaxed);
            let own = response.results.iter().find(|result| result.doc_id == 1 + writer);
            let Some(own) = own else { continue };
            let (round, is_changed) = match own.metadata["n"].split_once(' ') {
                Some((round, _)) => (round, 1),
                None => (own.metadata["n"].as_str(), 0),
            };
            let state = 2 * round.parse::<u64>().unwrap() + is_changed;
            let newest = &mut newest[writer as usize];
            assert!(state >= *newest, "writer {writer}: {state} after {newest}");
            *newest = state;
        }
    }
}

fn own_writes_are_seen(partitions: &str) {
    let inside = start(&[("runtime.partitions", partitions)]);
    runtime().block_on(async {
        let mut client = inside.client().await;
        // Others, whom nobody changes.
        for id in 100..200 {
            client.insert(insert(id, &vector(id, DIMENSION), &[("n", "0")])).await.unwrap();
        }
        let (hits, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let client = inside.client().await;
            readers.push(tokio::spawn(read(client, is_over.clone(), hits.clone())));
        }
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            writers.push(tokio::spawn(write(inside.client().await, writer, hits.clone())));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
        let hits = hits.load(Ordering::Relaxed);
        println!("{hits} hits, with {partitions} graphs");
        assert!(hits > WRITERS * ROUNDS, "{hits} hits");
        assert!(ids(&find(&mut client, &question(0)).await).is_empty());
    });
}

#[test]
fn own_writes_are_seen_in_one_graph() {
    own_writes_are_seen("1");
}

#[test]
fn own_writes_are_seen_in_several_graphs() {
    own_writes_are_seen("3");
}
