//! Conditions that keep a server from starting, each with the remedy in its message.

use std::net::TcpListener;

use crate::common::{Launch, Process, directory};
use crate::{SETTINGS, assert_says, made};

#[test]
fn settings_that_can_not_be_used_are_named() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let config = directory.path().join("kyrodb.toml");
    std::fs::write(&config, "[hnsw]\nef_serach = 80\n\n[server]\nhttp_prot = 9\n").unwrap();
    let mut launch = Launch::new(&data_dir, &[("hnsw.m", "3"), ("hnsw.distnace", "cosine")]);
    launch.command.arg("--config").arg(&config);
    let said = launch.spawn().refuses();
    assert_says(
        &said,
        &[
            "kyrodb.toml: unknown key `hnsw.ef_serach`; did you mean `hnsw.ef_search`?",
            "unknown key `server.http_prot`; did you mean `server.http_port`?",
            "KYRODB__HNSW__DISTNACE: unknown key KYRODB__HNSW__DISTNACE; did you mean \
             KYRODB__HNSW__DISTANCE?",
            "hnsw.m: 3 is not between 5 and 128",
        ],
    );
    let mut launch = Launch::new(&data_dir, &[]);
    launch.command.args(["--config", "no/such/file.yaml"]);
    assert_says(&launch.spawn().refuses(), &["no/such/file.yaml", "can't be read"]);
    let said = Process::refused(&data_dir, &[("persistence.fsync_policy", "none")]);
    assert_says(&said, &["persistence.fsync_policy none is refused", "production"]);
    assert!(!data_dir.exists(), "a refused start leaves nothing behind");
}

#[test]
fn the_defaults_are_printed_in_both_formats() {
    let print = |format: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
        command.args(["--generate-config", format]).output().unwrap()
    };
    for format in ["toml", "yaml"] {
        let output = print(format);
        assert_eq!(output.status.code(), Some(0));
        assert_says(&String::from_utf8(output.stdout).unwrap(), &["ef_search", "fsync_policy"]);
    }
    let output = print("xml");
    assert_eq!(output.status.code(), Some(1));
    assert_says(&String::from_utf8(output.stderr).unwrap(), &["`xml`", "toml or yaml"]);
}

#[test]
fn a_port_in_use_is_named_with_the_setting_that_moves_it() {
    let directory = directory();
    let launch = Launch::new(&directory.path().join("data"), &[]);
    let taken = TcpListener::bind(("127.0.0.1", launch.grpc_port)).unwrap();
    let port = launch.grpc_port.to_string();
    let ends = |launch: Launch| {
        let process = launch.spawn();
        let log = process.log_path();
        assert_eq!(process.wait(), Some(75), "it may work later");
        std::fs::read_to_string(log).unwrap()
    };
    assert_says(&ends(launch), &["gRPC", &port, "in use", "--port"]);
    drop(taken);
    // A port that becomes free within seconds, as that of a client, is waited for.
    let launch = Launch::new(&directory.path().join("waiting"), &[]);
    let taken = TcpListener::bind(("127.0.0.1", launch.grpc_port)).unwrap();
    let mut process = launch.spawn();
    let begun = std::time::Instant::now();
    while !process.log().contains("Trying again") {
        assert!(begun.elapsed() < crate::common::PATIENCE, "{}", process.log());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    drop(taken);
    process.wait_ready();
    process.stop();
    let launch = Launch::new(&directory.path().join("data"), &[]);
    let _taken = TcpListener::bind(("127.0.0.1", launch.http_port)).unwrap();
    let port = launch.http_port.to_string();
    assert_says(&ends(launch), &["HTTP", &port, "in use", "server.http_port"]);
}

#[test]
fn a_directory_that_can_not_hold_data_is_refused() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    // For the server this looks like a file without permission, but not for one that runs as root.
    let launch = Launch::new(&directory.path().join("log"), &[]);
    let said = with_data_dir(launch, &file.join("data")).spawn().refuses();
    assert_says(&said, &["can't be made", "file/data"]);
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped in part: there is no /dev/shm");
    };
    let launch = Launch::new(&directory.path().join("log"), &[]);
    let said = with_data_dir(launch, &memory.path().join("data")).spawn().refuses();
    assert_says(&said, &["tmpfs", "O_DIRECT", "ext4 or XFS", "--data-dir"]);
}

/// The launch with another data directory; its output stays where it was.
fn with_data_dir(mut launch: Launch, data_dir: &std::path::Path) -> Launch {
    // The last option on the command line counts; the variable has a lower precedence.
    let port = launch.grpc_port.to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    command.arg("--data-dir").arg(data_dir).args(["--port", &port]);
    command.env("KYRODB__SERVER__HTTP_PORT", launch.http_port.to_string());
    launch.command = command;
    launch
}

#[test]
fn too_little_lockable_memory_is_named_with_how_to_raise_it() {
    let directory = directory();
    let mut launch = Launch::new(&directory.path().join("data"), &[]);
    let arguments: Vec<_> = launch.command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let program = launch.command.get_program().to_owned();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -l 64 && exec \"$0\" \"$@\""]).arg(program).args(arguments);
    for (name, value) in launch.command.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    launch.command = command;
    let said = launch.spawn().refuses();
    assert_says(&said, &["memlock limit is 64 KiB", "512 KiB", "ulimit -l", "LimitMEMLOCK"]);
}

#[test]
fn two_servers_do_not_share_a_directory() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let first = Process::start(&data_dir, SETTINGS);
    let said = Process::refused(&data_dir, SETTINGS);
    assert_says(&said, &["in use by another server", &first.pid().to_string(), "--data-dir"]);
    first.kill();
    // The lock of a killed process is released.
    Process::start(&data_dir, SETTINGS).stop();
}

#[test]
fn a_directory_made_for_something_else_is_refused() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, 5);
    let refused = |setting: (&str, &str)| Process::refused(&data_dir, &[setting]);
    assert_says(&refused(("hnsw.dimension", "16")), &["vectors of 8 values", "16", "Set it to 8"]);
    let said = refused(("hnsw.distance", "euclidean"));
    assert_says(&said, &["made with hnsw.distance cosine", "euclidean"]);
    // Values with which the directory was made are accepted, given or not.
    let settings = [("hnsw.dimension", "8"), ("runtime.shards", "2")];
    Process::start(&data_dir, &settings).stop();
    Process::start(&data_dir, &[]).stop();
}

#[test]
fn a_directory_without_documents_takes_any_dimension() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    for (dimension, is_killed) in [("384", false), ("16", true), ("0", false), ("384", true)] {
        let process = Process::start(&data_dir, &[("hnsw.dimension", dimension)]);
        if is_killed { process.kill() } else { process.stop() }
    }
    // The first document decides, and its decision stays, also after it is deleted.
    let process = Process::start(&data_dir, &[("hnsw.dimension", "8")]);
    crate::common::runtime().block_on(async {
        let mut client = process.client().await;
        crate::store(&mut client, 1).await;
        let request = kyrodb::proto::DeleteRequest { doc_id: 1, namespace: String::new() };
        assert!(client.delete(request).await.unwrap().into_inner().existed);
    });
    process.kill();
    let said = Process::refused(&data_dir, &[("hnsw.dimension", "16")]);
    assert_says(&said, &["vectors of 8 values"]);
    Process::start(&data_dir, &[("hnsw.dimension", "8")]).stop();
}
