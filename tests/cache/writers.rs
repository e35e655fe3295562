//! Reading one's own writes, while others write and send equal queries.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kyrodb::proto::{
    DeleteRequest, InsertRequest, QueryRequest, SearchRequest, UpdateMetadataRequest,
};

use crate::common::{Client, Inside, ids, insert, runtime, search, vector};
use crate::model::PATIENT;
use crate::on_disk::{assert_reads, start_on_disk};
use crate::{DIMENSION, find, is_hit, start};

const WRITERS: u64 = 4;
const READERS: u64 = 3;
const ROUNDS: u64 = 150;

/// Ids of documents that do not change.
const OTHERS: Range<u64> = 100..200;

/// Namespace of a writer; every other writer has none.
fn namespace(writer: u64) -> String {
    if writer.is_multiple_of(2) { format!("writer {writer}") } else { String::new() }
}

/// Query of a writer and of the readers: for the document that it writes.
fn question(writer: u64) -> SearchRequest {
    let include_embeddings = true;
    SearchRequest { namespace: namespace(writer), include_embeddings, ..search(&own(writer, 0), 2) }
}

/// Vector of a writer in a round, different each time; no other document is as near to the first.
fn own(writer: u64, round: u64) -> Vec<f32> {
    let mut own = vector(writer * 50 + 1_000 + writer, DIMENSION);
    own[0] += round as f32 * 1e-3;
    own
}

/// An embedding is this vector, scaled to length 1.
fn assert_is(vector: &[f32], embedding: &[f32], context: &str) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    let is_same = vector.iter().zip(embedding).all(|(a, b)| (a / length - b).abs() < 1e-6);
    assert!(is_same && embedding.len() == DIMENSION, "{context}: {embedding:?}, not {vector:?}");
}

/// Asserts that a returned vector is that of this round.
fn assert_is_of(round: u64, writer: u64, embedding: &[f32]) {
    assert_is(&own(writer, round), embedding, &format!("round {round}"));
}

/// Reads all unchanging documents repeatedly, so that a small vector cache always evicts. The last pass begins after
/// all writes have ended.
async fn read_others(mut client: Client, is_over: Arc<AtomicBool>) {
    loop {
        let is_last = is_over.load(Ordering::Relaxed);
        for doc_id in OTHERS {
            let request =
                QueryRequest { doc_id, include_embedding: true, namespace: String::new() };
            let read = client.query(request).await.unwrap().into_inner();
            assert_is(&vector(doc_id, DIMENSION), &read.embedding, &format!("document {doc_id}"));
        }
        if is_last {
            return;
        }
    }
}

/// Searches some times; none of the answers may differ from the last.
async fn found(client: &mut Client, writer: u64, hits: &AtomicU64) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for _ in 0..3 {
        let response = find(client, &question(writer)).await;
        hits.fetch_add(u64::from(is_hit(&response)), Ordering::Relaxed);
        let results = response.results.into_iter();
        let of_writer = results.filter(|result| result.doc_id == 1 + writer);
        let state = of_writer.map(|result| {
            assert_is_of(state(&result.metadata["n"]) / 2, writer, &result.embedding);
            (result.doc_id, result.metadata["n"].clone())
        });
        all.push(state.collect::<Vec<_>>());
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "writer {writer}: {all:?}");
    all.pop().unwrap()
}

/// Twice the round of a document, plus one if its metadata has changed since.
fn state(text: &str) -> u64 {
    let (round, is_changed) = match text.split_once(' ') {
        Some((round, _)) => (round, 1),
        None => (text, 0),
    };
    2 * round.parse::<u64>().unwrap() + is_changed
}

/// Asserts the state of a document that is read by its id.
async fn assert_read(client: &mut Client, writer: u64, expected: Option<&str>) {
    let (doc_id, include_embedding) = (1 + writer, true);
    let request = QueryRequest { doc_id, include_embedding, namespace: namespace(writer) };
    let read = client.query(request).await.unwrap().into_inner();
    assert_eq!(read.found.then(|| read.metadata["n"].as_str()), expected);
    if let Some(text) = expected {
        assert_is_of(state(text) / 2, writer, &read.embedding);
    }
}

async fn write(mut client: Client, writer: u64, hits: Arc<AtomicU64>) {
    let id = 1 + writer;
    for round in 0..ROUNDS {
        let text = round.to_string();
        let document = insert(id, &own(writer, round), &[("n", &text)]);
        let document = InsertRequest { namespace: namespace(writer), ..document };
        client.insert(document).await.unwrap();
        assert_read(&mut client, writer, Some(&text)).await;
        assert_eq!(found(&mut client, writer, &hits).await, [(id, text)], "round {round}");
        let text = format!("{round} changed");
        let metadata = [("n".to_owned(), text.clone())].into();
        let update = UpdateMetadataRequest { doc_id: id, metadata, ..Default::default() };
        client.update_metadata(update).await.unwrap();
        assert_read(&mut client, writer, Some(&text)).await;
        assert_eq!(found(&mut client, writer, &hits).await, [(id, text)], "round {round}");
        let delete = DeleteRequest { doc_id: id, namespace: String::new() };
        assert!(client.delete(delete).await.unwrap().into_inner().existed);
        assert_read(&mut client, writer, None).await;
        assert_eq!(found(&mut client, writer, &hits).await, [], "round {round}");
    }
}

/// Sends the writers' queries, so that answers of every moment are kept. A reader never sees an older state of a
/// document after a newer one.
async fn read(mut client: Client, is_over: Arc<AtomicBool>, hits: Arc<AtomicU64>) {
    let mut newest = [0; WRITERS as usize];
    while !is_over.load(Ordering::Relaxed) {
        for writer in 0..WRITERS {
            let response = find(&mut client, &question(writer)).await;
            hits.fetch_add(u64::from(is_hit(&response)), Ordering::Relaxed);
            let own = response.results.iter().find(|result| result.doc_id == 1 + writer);
            let Some(own) = own else { continue };
            let state = state(&own.metadata["n"]);
            assert_is_of(state / 2, writer, &own.embedding);
            let newest = &mut newest[writer as usize];
            assert!(state >= *newest, "writer {writer}: {state} after {newest}");
            *newest = state;
        }
    }
}

fn own_writes_are_seen(inside: &Inside) {
    runtime().block_on(async {
        let mut client = inside.client().await;
        for id in OTHERS {
            client.insert(insert(id, &vector(id, DIMENSION), &[("n", "0")])).await.unwrap();
        }
        let (hits, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let client = inside.client().await;
            readers.push(tokio::spawn(read(client, is_over.clone(), hits.clone())));
        }
        readers.push(tokio::spawn(read_others(inside.client().await, is_over.clone())));
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
        println!("{hits} hits");
        assert!(hits > WRITERS * ROUNDS, "{hits} hits");
        assert!(ids(&find(&mut client, &question(0)).await).is_empty());
    });
}

#[test]
fn own_writes_are_seen_in_one_graph() {
    own_writes_are_seen(&start(&[("runtime.partitions", "1")]));
}

#[test]
fn own_writes_are_seen_in_several_graphs() {
    own_writes_are_seen(&start(&[("runtime.partitions", "3")]));
}

/// With vectors on disk, and a vector cache with room for a few.
#[test]
fn own_writes_are_seen_with_vectors_on_disk() {
    for partitions in ["1", "3"] {
        let settings = [("runtime.partitions", partitions), PATIENT[0], PATIENT[1]];
        let inside = start_on_disk(&settings, 48, DIMENSION, 20);
        own_writes_are_seen(&inside);
        assert_reads(&inside, 10);
    }
}
