//! `kyrodb_ctl dump` and `load`: all documents out of one server and into another.

use std::path::Path;
use std::process::{Command, Output};

use kyrodb::proto::{ListDocumentsRequest, ListedDocument};

use crate::common::documents::{Document, Random};
use crate::common::{Client, Process, directory, runtime};

const SETTINGS: &[(&str, &str)] = &[("runtime.shards", "2"), ("hnsw.distance", "euclidean")];
const COUNT: u64 = 1_300;

fn ctl(process: &Process, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kyrodb_ctl"))
        .args(arguments)
        .env("KYRODB_GRPC_URL", format!("http://{}", process.grpc))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

async fn listed(client: &mut Client) -> Vec<ListedDocument> {
    let request =
        ListDocumentsRequest { limit: 10_000, include_embeddings: true, ..Default::default() };
    client.list_documents(request).await.unwrap().into_inner().documents
}

#[test]
fn dumped_documents_can_be_loaded() {
    let directory = directory();
    let file = directory.path().join("dump.jsonl");
    let path = file.to_str().unwrap();
    let runtime = runtime();
    let source = Process::start(&directory.path().join("source"), SETTINGS);
    let contents = runtime.block_on(async {
        let mut client = source.client().await.max_decoding_message_size(usize::MAX);
        let mut random = Random::new(7, 1);
        for id in 1..=COUNT {
            client.insert(Document::random(&mut random).insert(id * 2)).await.unwrap();
        }
        listed(&mut client).await
    });
    assert_eq!(contents.len() as u64, COUNT);
    let dumped = ctl(&source, &["dump", path]);
    assert!(dumped.status.success(), "{}", said(&dumped));
    assert!(said(&dumped).contains("1300 documents were written to"), "{}", said(&dumped));
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(whole.iter().filter(|&&byte| byte == b'\n').count() as u64, COUNT);
    let again = ctl(&source, &["dump", path]);
    assert_eq!(again.status.code(), Some(2), "{}", said(&again));
    assert!(said(&again).contains("--resume"), "{}", said(&again));
    // A file that was cut off in the middle of a line is continued to an equal end.
    std::fs::write(&file, &whole[..whole.len() / 3]).unwrap();
    let resumed = ctl(&source, &["dump", path, "--resume"]);
    assert!(resumed.status.success(), "{}", said(&resumed));
    assert!(std::fs::read(&file).unwrap() == whole);
    let red = ctl(&source, &["dump", "--namespace", "red"]);
    let lines = String::from_utf8(red.stdout).unwrap();
    let of_red = contents.iter().filter(|document| document.namespace == "red").count();
    assert!(of_red > 0 && lines.lines().count() == of_red, "{of_red}");
    assert!(lines.lines().all(|line| line.contains(r#""namespace":"red""#)));

    let target = Process::start(&directory.path().join("target"), SETTINGS);
    for _ in 0..2 {
        let loaded = ctl(&target, &["load", path]);
        assert!(loaded.status.success(), "{}", said(&loaded));
        assert_eq!(said(&loaded), "1300 documents are stored\n");
    }
    let same = runtime.block_on(async {
        listed(&mut target.client().await.max_decoding_message_size(usize::MAX)).await
    });
    assert!(same == contents, "every document is as it was, bit by bit");
    bad_lines(&target, &file);
    source.stop();
    target.stop();
}

/// A document that can't be loaded is named, and those before it are loaded.
fn bad_lines(target: &Process, file: &Path) {
    let good = r#"{"doc_id":9001,"embedding":[1,2,3,4,5,6,7,8]}"#;
    for (bad, code, why) in [
        ("{\"doc_id\":9002", 2, "line 2:"),
        (r#"{"doc_id":9002,"embedding":[1,2]}"#, 1, "this collection has"),
        (r#"{"doc_id":9002,"vector":[1]}"#, 2, "unknown field `vector`"),
    ] {
        std::fs::write(file, format!("{good}\n{bad}\n")).unwrap();
        let loaded = ctl(target, &["load", file.to_str().unwrap()]);
        assert_eq!(loaded.status.code(), Some(code), "{}", said(&loaded));
        assert!(said(&loaded).contains(why), "{}", said(&loaded));
    }
    let gone = ctl(target, &["load", "/nowhere"]);
    assert_eq!(gone.status.code(), Some(2), "{}", said(&gone));
}
