//! A server with TLS and API keys: credentials of the load tester, and its errors without them.

use std::path::PathBuf;
use std::process::Command;

use crate::common::certificates::Authority;
use crate::common::{Process, directory, eventually, runtime};
use crate::{assert_says, said, tester};

/// A short run.
const SHORT: [&str; 10] =
    ["--dataset", "32", "--dimension", "8", "--qps", "50", "--warm-up", "0", "--duration", "0.5"];

struct Secured {
    directory: tempfile::TempDir,
    server: Process,
}

fn key(tenant: &str) -> String {
    format!("kyro_{tenant}_{}", "k".repeat(32))
}

impl Secured {
    fn start(is_mutual: bool) -> Self {
        let directory = directory();
        let authority = Authority::new();
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let (own, clients) = (authority.sign(2090), authority.sign(2090));
        let entry = |tenant: &str, is_admin: bool| {
            format!(
                "  - {{key: {}, tenant_id: {tenant}, tenant_name: {tenant}, max_vectors: 1000, \
                 enabled: true, is_admin: {is_admin}}}\n",
                key(tenant)
            )
        };
        let keys = format!("api_keys:\n{}{}", entry("root", true), entry("acme", false));
        let files = [
            ("ca.pem", authority.pem()),
            ("cert.pem", own.certificate),
            ("key.pem", own.key),
            ("client.pem", clients.certificate),
            ("client.key", clients.key),
            ("other.pem", Authority::new().pem()),
            ("keys.yaml", keys),
            ("root.txt", key("root") + "\n"),
        ];
        for (name, content) in files {
            std::fs::write(path(name), content).unwrap();
        }
        let (cert, private, ca, keys) =
            (path("cert.pem"), path("key.pem"), path("ca.pem"), path("keys.yaml"));
        let mut settings = vec![
            ("runtime.shards", "1"),
            ("server.tls.enabled", "true"),
            ("server.tls.cert_path", cert.as_str()),
            ("server.tls.key_path", private.as_str()),
            ("auth.enabled", "true"),
            ("auth.api_keys_file", keys.as_str()),
        ];
        if is_mutual {
            settings.push(("server.tls.ca_cert_path", ca.as_str()));
            settings.push(("server.tls.require_client_cert", "true"));
        }
        let server = Process::spawn(&directory.path().join("data"), &settings);
        let is_ready = async || server.log().contains("is ready");
        runtime().block_on(eventually("the server is ready", is_ready));
        Self { directory, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program, with options whose values are files.
    fn command(&self, files: &[(&str, &str)]) -> Command {
        let mut command = tester(&SHORT);
        command.args(["--server", &format!("https://localhost:{}", self.server.grpc.port())]);
        for (option, name) in files {
            command.arg(option).arg(self.path(name));
        }
        command
    }

    #[track_caller]
    fn ends(&self, mut command: Command, code: i32, parts: &[&str]) {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert_says(&said(&output), parts);
        let secret = "k".repeat(32);
        assert!(!said(&output).contains(&secret), "a secret is shown: {}", said(&output));
    }
}

#[test]
fn a_server_with_tls_and_keys_is_measured() {
    let secured = Secured::start(false);
    let known = ("--ca-cert", "ca.pem");
    let good = ["0 failed", "failure ratio 0.0000"];
    secured.ends(secured.command(&[known, ("--key-file", "root.txt")]), 0, &good);
    let mut command = secured.command(&[known]);
    command.env("KYRODB_API_KEY", key("root"));
    secured.ends(command, 0, &good);

    let without = ["GetConfig", "--key-file", "KYRODB_API_KEY"];
    secured.ends(secured.command(&[known]), 1, &without);
    let mut command = secured.command(&[known]);
    command.env("KYRODB_API_KEY", key("acme"));
    secured.ends(command, 1, &["needs a key with is_admin"]);
    let mut command = secured.command(&[known]);
    command.env("KYRODB_API_KEY", key("nobody"));
    secured.ends(command, 1, &without);

    // Neither the system nor another authority has signed this certificate.
    let output = secured.command(&[]).output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    assert_says(&said(&output), &["certificate", "--ca-cert"]);
    let unknown = ["can't be reached", "certificate", "--ca-cert"];
    secured.ends(secured.command(&[("--ca-cert", "other.pem")]), 1, &unknown);
    secured.ends(secured.command(&[("--ca-cert", "keys.yaml")]), 2, &["keys.yaml", "certificate"]);
    secured.server.stop();
}

#[test]
fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let secured = Secured::start(true);
    let known = [("--ca-cert", "ca.pem"), ("--key-file", "root.txt")];
    let shown = [("--client-cert", "client.pem"), ("--client-key", "client.key")];
    secured.ends(secured.command(&[known, shown].concat()), 0, &["0 failed"]);
    let output = secured.command(&known).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_says(&said(&output), &["--client-cert"]);
    secured.server.stop();
}
