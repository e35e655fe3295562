//! The key file: at the start, and while the server runs.

use kyrodb::proto::QueryRequest;
use tonic::Code;

use crate::common::{Client, Process, eventually, runtime};
use crate::{ACME, BETA, Entry, Place, ROOT, by, key_file, put, write_keys};

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
        // Noticed without being told.
        write_keys(&place.keys, &[ACME, BETA, ROOT]);
        let mut other = client.clone();
        eventually("the new key is taken", || {
            let mut client = other.clone();
            async move { code(&mut client, &BETA).await == Code::Ok }
        })
        .await;
        put(&mut client, &BETA, 1).await.unwrap();
        assert_eq!(code(&mut client, &ACME).await, Code::Ok);
        // Half a file, and none: the keys of before stay.
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
        // A key that is switched off, at once on a signal.
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
    // Lost, while other tenants have come: the documents still tell whose they are.
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
    // Changed by hand, so that one tenant would see another's documents: refused.
    let text = std::fs::read_to_string(&numbers).unwrap();
    let swapped = text.replace("beta_2", "x").replace("aaa", "beta_2").replace("\"x\"", "\"aaa\"");
    std::fs::write(&numbers, swapped).unwrap();
    let said = Process::refused(&place.data_dir(), &place.settings());
    assert!(said.contains("tenants.json") && said.contains("made anew"), "{said}");
    // The way out that it names.
    std::fs::remove_file(&numbers).unwrap();
    let process = place.start();
    assert!(found(&process, &BETA) && !found(&process, &early));
    process.stop();
}

/// `--check-config` says what a start would, of files as well, and touches nothing.
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
