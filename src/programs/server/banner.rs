//! What a person who starts the server on a terminal reads once it is ready: addresses, data directory, and the
//! next command.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::{Config, LogFormat};

/// HTTP address that `kyrodb_ctl` asks without `--url`.
const CTL_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 51_051);

/// Set by systemd for a service that tells when it is ready.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Prints the banner on a terminal. Prints nothing where there is none, under systemd, and beside logs in JSON.
pub(super) fn show(config: &Config, grpc: SocketAddr, http: SocketAddr) {
    let is_service = std::env::var_os(NOTIFY_SOCKET).is_some();
    if is_service || config.logging.format == LogFormat::Json {
        return;
    }
    let mut terminal: Box<dyn Write + Send> = if std::io::stderr().is_terminal() {
        Box::new(std::io::stderr())
    } else if std::io::stdout().is_terminal() {
        Box::new(std::io::stdout())
    } else {
        return;
    };
    let text = text(config, grpc, http);
    // A terminal that is held must not hold up the server: nothing waits for this thread.
    let shown = std::thread::Builder::new().name("kyro-banner".into()).spawn(move || {
        let written = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
        tracing::trace!(?written);
    });
    tracing::trace!(is_shown = shown.is_ok());
}

fn text(config: &Config, grpc: SocketAddr, http: SocketAddr) -> String {
    let scheme = if config.server.tls.enabled { "https" } else { "http" };
    let data_dir = &config.persistence.data_dir;
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.clone());
    let mut text =
        format!("\n  KyroDB {} is ready; Ctrl-C ends it.\n\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: &str| {
        let written = writeln!(text, "  {name:<5} {value}");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    };
    line("gRPC", &format!("{scheme}://{grpc}"));
    line("HTTP", &format!("{scheme}://{http}/"));
    line("data", &shown(&data_dir));
    line("next", &next_command(config, scheme, http));
    text.push('\n');
    text
}

/// A path on one line.
fn shown(path: &Path) -> String {
    path.to_string_lossy().replace(char::is_control, "?")
}

/// A command that works as it is typed, on this machine; with keys, once a file is named.
fn next_command(config: &Config, scheme: &str, http: SocketAddr) -> String {
    let mut address = http;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut command = "kyrodb_ctl".to_owned();
    if scheme != "http" || address != CTL_DEFAULT {
        command.push_str(&format!(" --url {scheme}://{address}"));
    }
    if config.auth.enabled {
        command.push_str(" --key-file FILE");
    }
    command.push_str(" status");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_banner_has_addresses_directory_and_the_next_command() {
        let mut config = Config::default();
        config.persistence.data_dir = "/srv/kyrodb".into();
        let said = text(&config, address("127.0.0.1:50051"), address("127.0.0.1:51051"));
        for line in [
            "  gRPC  http://127.0.0.1:50051",
            "  HTTP  http://127.0.0.1:51051/",
            "  data  /srv/kyrodb",
            "  next  kyrodb_ctl status",
        ] {
            assert!(said.lines().any(|other| other == line), "{line}:\n{said}");
        }
        config.persistence.data_dir = "data".into();
        let said = text(&config, address("127.0.0.1:1"), address("127.0.0.1:2"));
        let here = std::env::current_dir().unwrap().join("data");
        assert!(said.contains(&format!("data  {}", here.display())), "{said}");
    }

    #[test]
    fn the_next_command_reaches_a_server_with_other_addresses_tls_and_keys() {
        let mut config = Config::default();
        let next = |config: &Config, scheme, http| next_command(config, scheme, address(http));
        let other = next(&config, "http", "0.0.0.0:7");
        assert_eq!(other, "kyrodb_ctl --url http://127.0.0.1:7 status");
        let other = next(&config, "http", "[::]:7");
        assert_eq!(other, "kyrodb_ctl --url http://[::1]:7 status");
        config.auth.enabled = true;
        let other = next(&config, "https", "127.0.0.1:51051");
        assert_eq!(other, "kyrodb_ctl --url https://127.0.0.1:51051 --key-file FILE status");
    }
}
