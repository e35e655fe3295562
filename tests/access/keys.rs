//! The key file: at the start, and while the server runs.

use kyrodb::proto::{InsertRequest, QueryRequest, SearchRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::common::{Client, PATIENCE, Process, eventually, insert, runtime, search};
use crate::{ACME, BETA, Entry, Place, ROOT, by, key_file, put, vector, write_keys};

async fn code(client: &mut Client, entry: &Entry<'_>) -> Code {
    let request = QueryRequest { doc_id: 1, ..QueryRequest::default() };
    client.query(by(entry, request)).await.err().map_or(Code::Ok, |status| status.code())
}

#[test]
fn a_bad_key_file_is_refused_at_start_with_all_that_is_wrong() {
    let place = Place::new(&[ACME], &[]);
    let wrong = key_file(&[ACME, BETA, ACME]).replace("max_vectors: 1000", "max_vectors: 0");
    std::fs::write(&place.keys, wrong).unwrap();
    let said = Process::refused(&place.data_dir(), &place.settings());
    for what in ["entry 1: max_vectors", "entry 2: max_vectors", "entry 3: has the same key"] {
        assert!(said.contains(what), "{said}");
    }
    assert!(!said.contains(&ACME.key()), "{said}");
    std::fs::remove_file(&place.keys).unwrap();
    let said = Process::refused(&place.data_dir(), &place.settings());
    assert!(said.contains("keys.yaml can't be read"), "{said}");
}

#[test]
fn keys_change_while_the_server_runs_and_a_bad_file_changes_nothing() {
    let place = Place::new(&[ACME, ROOT], &[]);
    let process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        put(&mut client, &ACME, 1).await.unwrap();
        assert_eq!(code(&mut client, &BETA).await, Code::Unauthenticated);
        // Noticed without a signal.
        write_keys(&place.keys, &[ACME, BETA, ROOT]);
        let mut other = client.clone();
        eventually("the new key is taken", || {
            let mut client = other.clone();
            async move { code(&mut client, &BETA).await == Code::Ok }
        })
        .await;
        put(&mut client, &BETA, 1).await.unwrap();
        assert_eq!(code(&mut client, &ACME).await, Code::Ok);
        // A truncated file, and a missing one: the previous keys stay in force.
        let reload = || {
            let headers = [("x-api-key", ROOT.key())];
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            crate::common::http_with(process.http, "POST", "/admin/reload", &headers).unwrap()
        };
        let whole = key_file(&[BETA, ROOT]);
        std::fs::write(&place.keys, &whole[..whole.len() - 60]).unwrap();
        let refused = reload();
        assert_eq!(refused.code, 400, "{refused:?}");
        std::fs::remove_file(&place.keys).unwrap();
        let refused = reload();
        assert!(refused.code == 400 && refused.body.contains("can't be read"), "{refused:?}");
        assert_eq!(code(&mut client, &ACME).await, Code::Ok);
        // A disabled key, applied at once on a signal.
        let off = Entry { more: "enabled: false", ..ACME };
        write_keys(&place.keys, &[off, BETA, ROOT]);
        process.signal("HUP");
        eventually("the key is not taken any more", || {
            let mut client = other.clone();
            async move { code(&mut client, &ACME).await == Code::Unauthenticated }
        })
        .await;
        assert_eq!(code(&mut other, &BETA).await, Code::Ok);
    });
    process.stop();
}

#[test]
fn a_tenant_keeps_its_documents_whatever_becomes_of_the_file_of_numbers() {
    let place = Place::new(&[ACME, BETA, ROOT], &[]);
    let numbers = place.data_dir().join("tenants.json");
    let process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        put(&mut client, &BETA, 1).await.unwrap();
    });
    assert!(numbers.exists());
    process.kill();
    // The file of numbers is lost after other tenants have come: documents still name their tenants.
    std::fs::remove_file(&numbers).unwrap();
    let early = Entry { tenant: "aaa", mark: 'e', more: "" };
    write_keys(&place.keys, &[early, BETA, ROOT]);
    let early = Entry { tenant: "aaa", mark: 'e', more: "" };
    let process = place.start();
    let found = |process: &Process, entry: &Entry<'_>| {
        runtime().block_on(async {
            let request = QueryRequest { doc_id: 1, ..QueryRequest::default() };
            let mut client = process.client().await;
            client.query(by(entry, request)).await.unwrap().into_inner().found
        })
    };
    assert!(found(&process, &BETA) && !found(&process, &early));
    process.kill();
    // Edited so that one tenant would see another's documents: refused.
    let text = std::fs::read_to_string(&numbers).unwrap();
    let swapped = text.replace("beta_2", "x").replace("aaa", "beta_2").replace("\"x\"", "\"aaa\"");
    std::fs::write(&numbers, swapped).unwrap();
    let said = Process::refused(&place.data_dir(), &place.settings());
    assert!(said.contains("tenants.json") && said.contains("made anew"), "{said}");
    // The remedy that the refusal names.
    std::fs::remove_file(&numbers).unwrap();
    let process = place.start();
    assert!(found(&process, &BETA) && !found(&process, &early));
    process.stop();
}

/// `--check-config` reports what a start would, also about files, and changes nothing.
#[test]
fn a_configuration_is_checked_with_the_files_that_it_names() {
    let place = Place::new(&[ACME], &[]);
    let check = |more: &[(&str, &str)]| {
        let settings: Vec<_> = place.settings().into_iter().chain(more.iter().copied()).collect();
        let mut launch = crate::common::Launch::new(&place.data_dir(), &settings);
        let output = launch.command.arg("--check-config").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    assert_eq!(check(&[]), (Some(0), "the configuration is good\n".into()));
    // A key without effect is accepted, and named.
    let (code, said) = check(&[("cache.admission_threshold", "0.5")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: cache.admission_threshold has no effect since"), "{said}");
    let (code, said) = check(&[("hnsw.m", "1"), ("slo.error_rate", "7")]);
    assert!(
        code == Some(1) && said.contains("hnsw.m") && said.contains("slo.error_rate"),
        "{said}"
    );
    std::fs::write(&place.keys, "api_keys: []").unwrap();
    let tls = [
        ("server.tls.enabled", "true"),
        ("server.tls.cert_path", "/nowhere/cert.pem"),
        ("server.tls.key_path", "/nowhere/key.pem"),
    ];
    let (code, said) = check(&tls);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("keys.yaml") && said.contains("/nowhere/cert.pem"), "{said}");
    assert!(!place.data_dir().exists());
}

/// Streams that are open when their key is disabled end with their next message at the latest; earlier messages are
/// kept, and no later one is stored or answered.
#[test]
fn a_stream_ends_with_its_key() {
    let place = Place::new(&[ACME, ROOT], &[]);
    let process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        put(&mut client, &ACME, 1).await.unwrap();
        let document = |id| insert(id, &vector(&ACME, id), &[]);
        let open = || tokio::sync::mpsc::channel::<InsertRequest>(8);
        let ((bulk, bulk_messages), (load, load_messages)) = (open(), open());
        let mut other = client.clone();
        let bulk_ended = tokio::spawn(async move {
            other.bulk_insert(by(&ACME, ReceiverStream::new(bulk_messages))).await.map(|_| ())
        });
        let mut other = client.clone();
        let load_ended = tokio::spawn(async move {
            other.bulk_load_hnsw(by(&ACME, ReceiverStream::new(load_messages))).await.map(|_| ())
        });
        let (searches, search_messages) = tokio::sync::mpsc::channel::<SearchRequest>(8);
        searches.send(search(&vector(&ACME, 1), 1)).await.unwrap();
        let stream = by(&ACME, ReceiverStream::new(search_messages));
        let mut found = client.bulk_search(stream).await.unwrap().into_inner();
        assert!(found.message().await.unwrap().is_some());
        bulk.send(document(2)).await.unwrap();
        load.send(document(3)).await.unwrap();
        let stored = async |id: u64| {
            let request = QueryRequest { doc_id: id, ..QueryRequest::default() };
            process.client().await.query(by(&ACME, request)).await.unwrap().into_inner().found
        };
        eventually("what a pausing client has sent is stored", || stored(2)).await;

        let off = Entry { more: "enabled: false", ..ACME };
        write_keys(&place.keys, &[off, ROOT]);
        process.signal("HUP");
        let other = client.clone();
        eventually("the key is not taken any more", || {
            let mut client = other.clone();
            async move { code(&mut client, &ACME).await == Code::Unauthenticated }
        })
        .await;
        // The streams may have ended by now.
        let _ = (bulk.send(document(4)).await, load.send(document(5)).await);
        for ended in [bulk_ended, load_ended] {
            let status = ended.await.unwrap().unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        }
        // This needs no further message.
        let status = tokio::time::timeout(PATIENCE, found.message()).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        drop(searches);

        write_keys(&place.keys, &[ACME, ROOT]);
        process.signal("HUP");
        eventually("the key is taken again", || {
            let mut client = other.clone();
            async move { code(&mut client, &ACME).await == Code::Ok }
        })
        .await;
        assert!(stored(2).await && stored(3).await);
        assert!(!stored(4).await && !stored(5).await);
    });
    process.stop();
}

/// A pipe or a device in place of the file is refused at once: the keys in force stay, a valid file is accepted
/// afterwards, and the server ends when told to.
#[test]
fn a_pipe_in_the_place_of_the_key_file_holds_up_nothing() {
    let place = Place::new(&[ACME, ROOT], &[]);
    let process = place.start();
    let pipe = place.directory.path().join("pipe");
    let make = || {
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        std::fs::rename(&pipe, &place.keys).unwrap();
    };
    runtime().block_on(async {
        make();
        eventually("the log tells", || async { process.log().contains("it is a FIFO") }).await;
        process.signal("HUP");
        let mut client = process.client().await;
        assert_eq!(code(&mut client, &ACME).await, Code::Ok);
        write_keys(&place.keys, &[ACME, BETA, ROOT]);
        eventually("the good file is taken", || {
            let mut client = client.clone();
            async move { code(&mut client, &BETA).await == Code::Ok }
        })
        .await;
        make();
        let said = || process.log().matches("it is a FIFO").count();
        let before = said();
        eventually("the log tells again", || async { said() > before }).await;
    });
    process.stop();
}

/// The configuration may come from a pipe at the start; a reload does not wait for it.
#[test]
fn a_reload_does_not_wait_for_a_pipe() {
    let directory = crate::common::directory();
    let path = directory.path().join("kyrodb.toml");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let mut launch =
        crate::common::Launch::new(&directory.path().join("data"), &[("runtime.shards", "1")]);
    launch.command.arg("--config").arg(&path);
    let mut process = launch.spawn();
    std::fs::write(&path, "[logging]\nlevel = \"info\"\n").unwrap();
    process.wait_ready();
    process.signal("HUP");
    runtime().block_on(async {
        eventually("the log tells", || async { process.log().contains("it is a FIFO") }).await;
    });
    process.stop();
}

#[test]
fn a_key_file_that_others_can_read_is_told_of() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(&[ACME], &[]);
    let set = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&place.keys, mode).unwrap();
    };
    for (mode, is_told) in [(0o644, true), (0o600, false)] {
        set(mode);
        let process = place.start();
        assert_eq!(process.log().contains("holds secrets and has mode 644"), is_told, "{mode:o}");
        process.stop();
    }
}
