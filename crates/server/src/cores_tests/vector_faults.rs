//! Vectors on disk whose reads fail or stall: answers of searches, other work meanwhile, and return of all resources.
//! The disk is the real one, with faults injected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::faults::{SHARD, Server};
use crate::access::fair::Guest;
use crate::disk::BLOCK;
use crate::engine::read::SearchOutcome;
use crate::engine::{Query, Scope, VectorStorage};
use crate::error::{Error, Result};
use crate::router::Found;
use crate::shard::core::SyncPolicy;
use crate::shard::reply::{Answers, single};
use crate::shard::request::{Request, SearchAnswer, SearchRequest};
use crate::snapshot::snapshot_name;
use crate::types::DocId;
use crate::types::realm::Realm;

/// Values of a vector, so that its row is one page of the disk.
const DIMENSION: usize = BLOCK / size_of::<f32>();

/// Most reads of a core in flight.
const READS_MAX: usize = 32;

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// Name prefix of snapshot files.
const FILES: &str = "snapshot_";

/// A server whose documents 1 to `documents` are on disk; one more, `in_memory()`, is in memory. Rows that were read
/// are not cached.
fn on_disk(documents: u64) -> Server {
    let vectors = VectorStorage::Disk { unsaved_bytes_max: 64 << 20 };
    let server = Server::of_dimension(DIMENSION, 0, vectors, SyncPolicy::DataOnly);
    (1..=documents).for_each(|id| assert!(server.put(id).is_ok()));
    server.runtime.block_on(server.router().snapshot()).unwrap();
    // Rows leave memory in order, so the last one is that of the last document.
    server.wait_for("all vectors are on disk", |server| {
        let reads = server.counters().vectors.reads.get();
        assert_eq!(read(server, documents).unwrap(), [documents]);
        server.counters().vectors.reads.get() > reads
    });
    server.put(in_memory(documents)).unwrap();
    server
}

/// Id of the document in memory, far from all others.
fn in_memory(documents: u64) -> u64 {
    documents + 10_000
}

/// Reads a document with its vector.
fn read(server: &Server, id: u64) -> Result<Vec<u64>> {
    let ids = [DocId(id)];
    let found = server.runtime.block_on(server.router().get(&ids, Realm::default(), true))?;
    let mut stored = Vec::new();
    for document in found.into_iter().flatten() {
        assert_eq!(document.embedding.unwrap()[..], server.vector(id));
        stored.push(id);
    }
    Ok(stored)
}

/// Query for the `k` nearest to document `id`.
fn near(server: &Server, id: u64, k: usize, is_exact: bool) -> Query {
    Query {
        vector: server.vector(id),
        k,
        ef: 50,
        min_score: 0.0,
        filter: None,
        include_embeddings: false,
        is_exact,
    }
}

/// Result of a search through the router.
async fn search(server: &Server, query: Query) -> Found {
    let begun = Instant::now();
    let mut trace = server.observed.begin(begun);
    server.router().search(query, Guest::default(), begun + FOR_EVER, &mut trace).await.unwrap()
}

fn found(server: &Server, query: Query) -> (Vec<u64>, Found) {
    let found = server.runtime.block_on(search(server, query));
    let mut ids: Vec<u64> = found.hits.iter().map(|hit| hit.id.0).collect();
    ids.sort_unstable();
    (ids, found)
}

/// Sends a search to the core itself, without the timeout of the router.
fn ask(server: &Server, query: Query, patience: Duration) -> Answers<SearchAnswer> {
    let (answers, reply) = single();
    let sent = Instant::now();
    let request = SearchRequest {
        shard: SHARD,
        query: Arc::new(query),
        starts: None,
        scope: Scope::Shard,
        lent: Vec::new(),
        deadline: sent + patience,
        hot_budget: FOR_EVER,
        sent,
        is_traced: false,
        reply,
    };
    assert!(server.life.as_ref().unwrap().core.mailbox.push(Request::Search(request)).is_ok());
    answers
}

fn answer(server: &Server, answers: Answers<SearchAnswer>) -> SearchOutcome {
    server.runtime.block_on(answers.one()).expect("the core answers").outcome.unwrap()
}

/// Offset of a document's vector in the file of the first snapshot.
fn page_of(server: &Server, id: u64) -> u64 {
    let path = server.directory.path().join(snapshot_name(SHARD, 1));
    let content = std::fs::read(path).unwrap();
    let row: Vec<u8> = server.vector(id).iter().flat_map(|value| value.to_le_bytes()).collect();
    let pages: Vec<usize> =
        (0..content.len() / BLOCK).filter(|page| content[page * BLOCK..][..BLOCK] == row).collect();
    assert_eq!(pages.len(), 1, "it is there once");
    (pages[0] * BLOCK) as u64
}

fn assert_nothing_is_held(server: &Server) {
    server.wait_for("all is given back", |server| {
        server.faults.reads().0 == 0 && server.counters().vectors.pending.get() == 0
    });
}

#[test]
fn a_row_whose_read_failed_is_read_again() {
    let server = on_disk(100);
    for times in [1, 2, 5] {
        server.faults.fail_read(FILES, 0..u64::MAX, times);
        let before = server.counters().vectors.reads.get();
        // The first read takes all rows at once; after its failure each row is read by itself.
        let (ids, found) = found(&server, near(&server, 50, 9, false));
        if times == 1 {
            assert_eq!(ids, (46..=54).collect::<Vec<_>>());
            assert_eq!((found.shards_answered, found.reasons.len()), (1, 0));
            assert!(server.counters().vectors.reads.get() > before + 9);
            assert_eq!(server.counters().vectors.lost.get(), 0);
        } else {
            assert_eq!(ids.len(), 9, "others are as near as can be");
            assert_eq!(found.shards_answered, 0, "{:?}", found.reasons);
        }
        server.faults.mend();
    }
    server.faults.fail_read(FILES, 0..u64::MAX, 1);
    assert_eq!(read(&server, 7).unwrap(), [7]);
    assert_nothing_is_held(&server);
}

#[test]
fn a_document_whose_vector_cannot_be_read_is_left_out_and_counted() {
    let mut server = on_disk(100);
    let page = page_of(&server, 50);
    server.faults.fail_read(FILES, page..page + BLOCK as u64, u64::MAX);
    for (round, is_exact) in [false, true, false].into_iter().enumerate() {
        let (ids, found) = found(&server, near(&server, 50, 9, is_exact));
        assert!(!ids.contains(&50) && ids.len() == 9, "{ids:?}");
        assert!((47..=53).filter(|&id| id != 50).all(|id| ids.contains(&id)), "{ids:?}");
        assert_eq!((found.shards_asked, found.shards_answered), (1, 0));
        let why = "shard 0: 1 documents were left out, since their vectors can't be read; the log of \
                   the server names them";
        assert_eq!(found.reasons, [why]);
        assert_eq!(server.counters().vectors.lost.get(), round as u64 + 1);
    }
    // A read of the document fails; a neighbour in one disk read with it is not affected.
    assert!(matches!(read(&server, 50), Err(Error::Unavailable { .. })));
    assert_eq!(read(&server, 51).unwrap(), [51]);
    // A search that does not come near the document is not affected.
    let far = found(&server, near(&server, in_memory(100), 1, false)).1;
    assert_eq!((far.shards_answered, far.reasons.len()), (1, 0));
    // After it is stored again, it is found again.
    server.put(50).unwrap();
    let (ids, again) = found(&server, near(&server, 50, 1, false));
    assert_eq!((ids, again.shards_answered), (vec![50], 1));
    server.restart();
    assert_eq!(found(&server, near(&server, 50, 9, true)).0, (46..=54).collect::<Vec<_>>());
    assert_nothing_is_held(&server);
}

/// At its deadline a search answers with what it has, and says that it waited for the disk. Meanwhile writes are
/// committed, and searches that need nothing from the disk are complete.
#[test]
fn a_search_ends_at_its_deadline_while_reads_stall() {
    let server = on_disk(100);
    server.faults.stall(FILES, FOR_EVER);
    let patience = Duration::from_millis(300);
    let stalled = ask(&server, near(&server, 50, 101, true), patience);
    server.wait_for("a read stalls", |server| server.faults.reads().0 > 0);
    for id in 201..=220 {
        server.put(id).unwrap();
    }
    let whole = ask(&server, near(&server, in_memory(100), 1, false), FOR_EVER);
    let whole = answer(&server, whole);
    assert!(whole.complete && whole.hits[0].id.0 == in_memory(100));
    let outcome = answer(&server, stalled);
    assert!(!outcome.complete && outcome.awaits_disk && outcome.lost.is_empty());
    let ids: Vec<u64> = outcome.hits.iter().map(|hit| hit.id.0).collect();
    assert_eq!(ids, [in_memory(100)], "what is in memory of what there was");
    assert!(matches!(read(&server, 7), Err(Error::Unavailable { .. })), "nobody waits for ever");
    server.put(221).unwrap();
    server.faults.mend();
    assert_nothing_is_held(&server);
    let whole = answer(&server, ask(&server, near(&server, 50, 9, false), FOR_EVER));
    assert!(whole.complete && whole.hits.len() == 9);
    assert_eq!(server.counters().vectors.lost.get(), 0);
}

/// Searches that end at their deadlines while the disk stalls leave nothing waiting for it except the reads in flight.
#[test]
fn searches_that_end_drop_their_waiting_reads() {
    let server = on_disk(400);
    server.faults.stall(FILES, FOR_EVER);
    for _ in 0..10 {
        let exact = |_| ask(&server, near(&server, 50, 10, true), Duration::from_millis(200));
        let asked: Vec<_> = (0..10).map(exact).collect();
        for answers in asked {
            assert!(answer(&server, answers).awaits_disk);
        }
        let pending = server.counters().vectors.pending.get();
        assert!(pending <= READS_MAX as u64, "{pending} reads are left");
    }
    server.faults.mend();
    assert_nothing_is_held(&server);
    assert!(answer(&server, ask(&server, near(&server, 50, 10, true), FOR_EVER)).complete);
    assert!(server.faults.reads().1 <= READS_MAX);
}

/// The number of reads in flight is bounded however many searches there are, and all of these complete.
#[test]
fn reads_are_bounded_while_many_search() {
    let server = on_disk(400);
    server.faults.stall(FILES, Duration::from_millis(50));
    let asked = (0..64).map(|turn| {
        let query = near(&server, 1 + turn * 6, 10, turn % 2 == 0);
        ask(&server, query, FOR_EVER)
    });
    let asked: Vec<_> = asked.collect();
    let answers = server.runtime.block_on(join_all(asked.into_iter().map(Answers::one)));
    for (turn, answer) in answers.into_iter().enumerate() {
        let outcome = answer.expect("the core answers").outcome.unwrap();
        assert!(outcome.complete && outcome.lost.is_empty());
        assert_eq!(outcome.hits[0].id.0, 1 + turn as u64 * 6);
        assert_eq!(outcome.hits.len(), 10);
    }
    assert_eq!(server.faults.reads().1, READS_MAX, "as many as may be");
    assert_nothing_is_held(&server);
}

/// A core that is told to end does not wait for a disk that stalls.
#[test]
fn a_core_ends_while_reads_stall() {
    let mut server = on_disk(100);
    server.faults.stall(FILES, FOR_EVER);
    let stalled = ask(&server, near(&server, 50, 9, true), FOR_EVER);
    server.wait_for("a read stalls", |server| server.faults.reads().0 > 0);
    let life = server.life.take().unwrap();
    assert!(life.core.mailbox.push(Request::Stop).is_ok());
    assert!(life.core.join());
    drop(stalled);
    server.faults.mend();
    server.open();
    assert_eq!(found(&server, near(&server, 50, 9, true)).0, (46..=54).collect::<Vec<_>>());
}
