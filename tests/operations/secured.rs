//! Drills of keys and certificates.

use kyrodb::proto::QueryRequest;
use tonic::{Code, Request};

use crate::Runbook;
use crate::common::certificates::{Authority, Signed};
use crate::common::{Process, directory, eventually, runtime};

fn key(tenant: &str) -> String {
    format!("kyro_{tenant}_{}", "k".repeat(32))
}

fn entry(tenant: &str, more: &str) -> String {
    format!(
        "  - key: {}\n    tenant_id: {tenant}\n    tenant_name: {tenant}\n    max_vectors: 10\n    \
         enabled: true\n{more}",
        key(tenant)
    )
}

fn key_file(flood: &str) -> String {
    let root = entry("root", "    is_admin: true\n");
    format!("api_keys:\n{}{}{root}", entry("flood", flood), entry("calm", ""))
}

/// Results of requests with the key of a tenant.
fn ask(process: &Process, tenant: &str, times: usize) -> Vec<Code> {
    runtime().block_on(async {
        let client = process.client().await;
        let answers = (0..times).map(|_| {
            let mut client = client.clone();
            let mut request = Request::new(QueryRequest { doc_id: 1, ..QueryRequest::default() });
            request.metadata_mut().insert("x-api-key", key(tenant).parse().unwrap());
            async move { crate::code(client.query(request).await) }
        });
        futures_util::future::join_all(answers).await
    })
}

fn start(directory: &std::path::Path) -> (Process, std::path::PathBuf) {
    let keys = directory.join("keys.yaml");
    std::fs::write(&keys, key_file("")).unwrap();
    let path = keys.to_string_lossy().into_owned();
    let settings =
        [("runtime.shards", "1"), ("auth.enabled", "true"), ("auth.api_keys_file", path.as_str())];
    (Process::start(&directory.join("data"), &settings), keys)
}

#[test]
fn one_tenant_floods_the_server() {
    let directory = directory();
    let (process, keys) = start(directory.path());
    let mut runbook = Runbook::open("One tenant floods the server", directory.path());
    runbook.ask(&process);
    ask(&process, "flood", 300);
    ask(&process, "calm", 3);
    let refused = runbook.next();
    assert_eq!(refused.code, 1);
    assert!(refused.text.contains("API key"), "{}", refused.text);
    runbook.set("KYRODB_API_KEY", key("calm"));
    runbook.again().has(1, &["is_admin"]);
    runbook.set("KYRODB_API_KEY", key("root"));
    runbook
        .again()
        .has(0, &["tenant_id: calm", "query_count: 3", "tenant_id: flood", "query_count: 300"]);
    std::fs::write(&keys, key_file("    max_qps: 1\n")).unwrap();
    runbook.next().has(0, &["3 keys are in force"]);
    let codes = ask(&process, "flood", 100);
    let allowed = codes.iter().filter(|code| **code == Code::Ok).count();
    assert!((1..90).contains(&allowed), "{allowed}");
    assert!(codes.contains(&Code::ResourceExhausted));
    assert!(ask(&process, "calm", 100).iter().all(|code| *code == Code::Ok));
    runbook.done();
    process.stop();
}

#[test]
fn the_key_file_is_wrong() {
    let directory = directory();
    let (process, keys) = start(directory.path());
    let mut runbook = Runbook::open("The key file is wrong", directory.path());
    runbook.ask(&process);
    runbook.set("KYRODB_API_KEY", key("root"));
    std::fs::write(&keys, key_file("").replace("max_vectors: 10", "max_vectors: 0")).unwrap();
    let said = runbook.next().has(1, &["entry 1: max_vectors", "entry 3: max_vectors"]);
    assert!(!said.text.contains(&"k".repeat(32)), "{}", said.text);
    assert_eq!(ask(&process, "calm", 1), [Code::Ok]);
    std::fs::write(&keys, key_file("")).unwrap();
    runbook.again().has(0, &["3 keys are in force"]);
    runbook.done();
    process.stop();
}

#[test]
fn a_certificate_expires() {
    let directory = directory();
    let authority = Authority::new();
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let write = |signed: &Signed| {
        std::fs::write(path("key.pem"), &signed.key).unwrap();
        std::fs::write(path("cert.pem"), &signed.certificate).unwrap();
    };
    write(&authority.sign(2001));
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let settings = [
        ("runtime.shards", "1"),
        ("server.tls.enabled", "true"),
        ("server.tls.cert_path", certificate.as_str()),
        ("server.tls.key_path", key.as_str()),
    ];
    let process = Process::spawn(&directory.path().join("data"), &settings);
    let runtime = runtime();
    let log_has = async |what: &str| {
        eventually(what, async || process.log().contains(what)).await;
    };
    runtime.block_on(log_has("is ready"));
    let mut runbook = Runbook::open("A certificate expires", directory.path());
    runbook.set("KYRODB_URL", format!("https://localhost:{}", process.http.port()));
    runbook.set("KYRODB_CA_CERT", path("ca.pem"));
    // The program does not trust an expired certificate, so it can't ask; the server notices new files itself.
    runbook.next().has(2, &["expired"]);
    write(&authority.sign(2090));
    runtime.block_on(log_has("the certificate has changed"));
    runbook.again().has(0, &["reloaded"]);
    runbook.next().has(0, &["ready: true"]);
    // Files that do not match are refused by name, and the valid ones stay in force.
    std::fs::write(path("key.pem"), authority.sign(2090).key).unwrap();
    runtime.block_on(log_has("is not used"));
    runbook.again().has(0, &["ready: true"]);
    runbook.done();
    process.stop();
}
