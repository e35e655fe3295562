//! Acknowledged changes are there after a restart, exactly.

use super::SETTINGS;
use super::common::documents::{Change, Contents, Random, read};
use super::common::{Client, Inside, get, ids, metric, runtime, search};

const COUNT: u64 = 300;

/// Makes random changes, one after the other; `contents` follow.
async fn change(client: &mut Client, random: &mut Random, contents: &mut Contents) {
    for _ in 0..900 {
        let change = Change::random(random, 1, COUNT);
        change.send(client, contents).await.unwrap();
        change.apply(contents);
    }
}

async fn assert_contents(client: &mut Client, contents: &Contents) {
    let all: Vec<u64> = (1..=COUNT).collect();
    let found = read(client, &all).await;
    for id in &all {
        assert_eq!(found.get(id), contents.get(id), "document {id}");
    }
    for (id, document) in contents.iter().step_by(7) {
        let answer = client.search(search(&document.vector, 3)).await.unwrap().into_inner();
        assert_eq!(ids(&answer)[0], *id);
        assert_eq!(answer.results[0].score, 1.0);
        for hit in answer.results {
            let metadata = hit.metadata.into_iter().collect();
            assert_eq!(contents[&hit.doc_id].metadata, metadata, "{}", hit.doc_id);
        }
    }
}

#[test]
fn everything_acknowledged_is_there_after_restarts_and_nothing_else() {
    let (mut random, mut contents) = (Random::new(20, 0), Contents::new());
    let mut server = Inside::start(SETTINGS);
    for _ in 0..3 {
        runtime().block_on(async {
            let mut client = server.client().await;
            change(&mut client, &mut random, &mut contents).await;
            assert_contents(&mut client, &contents).await;
        });
        server.restart(SETTINGS);
        runtime().block_on(async {
            let mut client = server.client().await;
            assert_contents(&mut client, &contents).await;
        });
        let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
        let count = metric(&metrics, "kyrodb_hnsw_vector_count");
        assert_eq!(count, Some(contents.len() as f64));
    }
}
