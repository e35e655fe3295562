//! Limits of the system for a process: open files, and connections that wait to be accepted.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use kyrodb::proto::SnapshotRequest;
use kyrodb::server::Listeners;

use super::common::{
    Launch, Process, config, directory, eventually, free_port, get, insert, metric, runtime, vector,
};

/// Shorter than the time after which a client retries its connection.
const FIRST_TRY: Duration = Duration::from_millis(900);

/// A server under limits that a shell sets first.
fn start_under(limits: &str, data_dir: &std::path::Path) -> Process {
    let mut launch = Launch::new(data_dir, &[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limits} && exec \"$@\""), "sh"]);
    shell.arg(launch.command.get_program()).args(launch.command.get_args());
    for (key, value) in launch.command.get_envs() {
        shell.env(key, value.expect("nothing is unset"));
    }
    launch.command = shell;
    let mut process = launch.spawn();
    process.wait_ready();
    process
}

fn soft_limit(process: &Process) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn the_soft_limit_of_open_files_is_raised() {
    let directory = directory();
    let process = start_under("ulimit -Sn 200 && ulimit -Hn 700", directory.path());
    assert_eq!(soft_limit(&process), "700");
    process.stop();
}

#[test]
fn connections_leave_descriptors_for_files_and_pages() {
    const FILES: usize = 300;
    let directory = directory();
    let process = start_under(&format!("ulimit -n {FILES}"), directory.path());
    assert!(process.log().contains("server.max_connections"), "{}", process.log());
    runtime().block_on(async {
        let mut client = process.client().await;
        let idle: Vec<TcpStream> =
            (0..FILES).filter_map(|_| TcpStream::connect(process.grpc).ok()).collect();
        let pages: Vec<TcpStream> =
            (0..FILES).filter_map(|_| TcpStream::connect(process.http).ok()).collect();
        // Segments are of 4 MiB: the log continues in others.
        let large = "v".repeat(60_000);
        for id in 1..=150 {
            client.insert(insert(id, &vector(id, 8), &[("k", &large)])).await.unwrap();
        }
        let taken = client.create_snapshot(SnapshotRequest::default()).await.unwrap();
        assert_eq!(taken.into_inner().documents_snapshotted, 150);
        drop(pages);
        eventually("pages are served", || async {
            get(process.http, "/metrics").is_ok_and(|(code, _)| code == 200)
        })
        .await;
        let metrics = get(process.http, "/metrics").unwrap().1;
        assert!(metric(&metrics, "kyrodb_connections_refused_total").unwrap() > 0.0);
        drop(idle);
    });
    process.stop();
}

#[test]
fn connections_that_come_at_once_are_taken_at_their_first_try() {
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    // The standard library uses a backlog of 128.
    let count = somaxconn.trim().parse::<usize>().unwrap().min(300);
    let directory = directory();
    let (grpc, http) = (free_port().to_string(), free_port().to_string());
    let settings = [("server.port", &*grpc), ("server.http_port", &*http)];
    let listeners = Listeners::bind(&config(directory.path(), &settings)).unwrap();
    for listener in [&listeners.grpc, &listeners.http] {
        let address: SocketAddr = listener.local_addr().unwrap();
        let waiting: Vec<_> =
            (0..count).map(|_| TcpStream::connect_timeout(&address, FIRST_TRY)).collect();
        let late = waiting.iter().filter(|stream| stream.is_err()).count();
        assert_eq!(late, 0, "of {count} at {address}");
    }
}
