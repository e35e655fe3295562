//! A directory that is opened with another number of shards: all documents move, and otherwise stay unchanged.

use kyrodb::proto::{DeleteRequest, SearchRequest};

use crate::common::documents::query;
use crate::common::{Process, directory, insert, runtime, vector};
use crate::{DIMENSION, assert_says, segments, store};

const DOCUMENTS: u64 = 300;

/// A client's view of the documents 1 to [`DOCUMENTS`], deleted ones too, and of a search.
async fn seen(process: &Process) -> (Vec<String>, Vec<(u64, u32)>) {
    let mut client = process.client().await;
    let mut documents = Vec::new();
    for id in 1..=DOCUMENTS {
        let mut found = query(&mut client, id, "").await;
        found.served_from = 0;
        let mut metadata: Vec<_> = std::mem::take(&mut found.metadata).into_iter().collect();
        metadata.sort();
        documents.push(format!("{found:?} {metadata:?}"));
    }
    let query_embedding = vector(77, DIMENSION);
    // Wide enough to be exact.
    let request = SearchRequest { query_embedding, k: 50, ef_search: 2_000, ..Default::default() };
    let answer = client.search(request).await.unwrap().into_inner();
    let hits = answer.results.iter().map(|hit| (hit.doc_id, hit.score.to_bits())).collect();
    (documents, hits)
}

#[test]
fn documents_move_unchanged() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let settings = |shards: &'static str| [("runtime.shards", shards)];
    let process = Process::start(&data_dir, &settings("2"));
    let before = runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, DOCUMENTS).await;
        for doc_id in [3, 50, 51, 299] {
            let request = DeleteRequest { doc_id, ..Default::default() };
            assert!(client.delete(request).await.unwrap().into_inner().existed);
        }
        client.insert(insert(9, &vector(1_009, DIMENSION), &[("n", "again")])).await.unwrap();
        seen(&process).await
    });
    process.kill();
    let mut shards_before = "2";
    for shards in ["5", "1", "3"] {
        let started = Process::start(&data_dir, &settings(shards));
        let said = started.log();
        assert_says(&said, &["shards were made anew", "documents=296"]);
        assert_says(&said, &[&format!("before={shards_before}"), &format!("after={shards}")]);
        assert_eq!(runtime().block_on(seen(&started)), before);
        let names = segments(&data_dir);
        assert!(names.iter().all(|path| {
            let name = crate::name(path);
            name[4..8].parse::<u32>().unwrap() < shards.parse().unwrap()
        }));
        // It can be written to, and is unchanged after another start, with this number of shards or none configured.
        runtime().block_on(async {
            let request = insert(9, &vector(1_009, DIMENSION), &[("n", "again")]);
            started.client().await.insert(request).await.unwrap();
        });
        if shards == "5" {
            started.kill()
        } else {
            started.stop()
        }
        let started = Process::start(&data_dir, &[]);
        assert!(!started.log().contains("made anew"), "{}", started.log());
        assert_eq!(runtime().block_on(seen(&started)), before);
        started.stop();
        shards_before = shards;
    }
}

/// Another number of shards means another graph. It is linked once, and not by every start.
#[test]
fn a_graph_is_linked_again_once() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, &[("runtime.shards", "1")]);
    runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, 2_000).await;
    });
    process.stop();
    let process = Process::start(&data_dir, &[("runtime.shards", "2")]);
    assert_says(&process.log(), &["shards were made anew", "documents=2000"]);
    process.stop();
    let process = Process::start(&data_dir, &[]);
    assert!(!process.log().contains("linked anew"), "{}", process.log());
    let metrics = crate::common::get(process.http, "/metrics").unwrap().1;
    let linked = crate::common::metric_sum(&metrics, "kyrodb_shard_links_total");
    assert!(linked < 100.0, "{linked} documents were linked at the start");
    process.stop();
}
