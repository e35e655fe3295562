//! Log output: a reader that stalls only blocks the log; contents for the journal, a log file and logrotate.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::common::{
    Client, Launch, PATIENCE, Process, Settings, connect, directory, get, http, metric, runtime,
    search, vector,
};
use crate::{DIMENSION, ONE_SHARD, SETTINGS, assert_says, store};

/// Settings with which some hundred requests log more than the queue holds.
const TALKATIVE: Settings<'static> =
    &[("runtime.shards", "1"), ("logging.level", "trace"), ("logging.slow_query_ms", "1")];

const DROPPED: &str = "kyrodb_log_lines_dropped_total";

/// A server whose standard output is not read. It ends when dropped.
struct Unread {
    child: Child,
    launched: (u16, u16),
}

impl Unread {
    fn start(data_dir: &Path) -> Self {
        let mut launch = Launch::new(data_dir, TALKATIVE);
        let launched = (launch.grpc_port, launch.http_port);
        let command = launch.command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let unread = Self { child, launched };
        unread.until("ready", |unread| {
            get(unread.http(), "/ready").is_ok_and(|(code, _)| code == 200)
        });
        unread
    }

    fn http(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.launched.1).into()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    async fn client(&self) -> Client {
        connect(([127, 0, 0, 1], self.launched.0).into()).await
    }

    /// Sends requests until lines have been dropped, and then some more: each is answered.
    fn ask_until_lines_are_dropped(&self) {
        runtime().block_on(async {
            let mut client = self.client().await;
            store(&mut client, 20).await;
            let begun = Instant::now();
            let (mut more, mut asked) = (100, 0);
            while more > 0 {
                let search = client.search(search(&vector(more, DIMENSION), 3));
                let answer = tokio::time::timeout(Duration::from_secs(20), search).await;
                asked += 1;
                assert_eq!(answer.expect("a search hangs").unwrap().into_inner().results.len(), 3);
                let is_dropping = more < 100 || asked % 50 == 0 && self.dropped() > 0.0;
                more -= u64::from(is_dropping);
                assert!(begun.elapsed() < 4 * PATIENCE, "nothing is dropped");
            }
        });
        assert_eq!(get(self.http(), "/livez").unwrap().0, 200);
        assert_eq!(http(self.http(), "POST", "/admin/snapshot").unwrap().code, 200);
    }

    fn dropped(&self) -> f64 {
        metric(&get(self.http(), "/metrics").unwrap().1, DROPPED).unwrap()
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = std::process::Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(sent.unwrap().success());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "SIGTERM does not end it");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ended = self.child.kill().and_then(|()| self.child.wait());
        }
    }
}

#[test]
fn an_unread_log_blocks_no_request() {
    let directory = directory();
    let mut unread = Unread::start(&directory.path().join("data"));
    unread.ask_until_lines_are_dropped();
    assert!(unread.terminate().success(), "it ends in good order");
}

#[test]
fn a_log_that_is_read_again_tells_what_was_dropped() {
    let directory = directory();
    let mut unread = Unread::start(&directory.path().join("data"));
    unread.ask_until_lines_are_dropped();
    let mut output = BufReader::new(unread.child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("lines of the log were dropped") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the log ends");
    }
    assert!(line.contains("lost="), "{line}");
    assert!(unread.dropped() > 0.0);
    let rest = std::thread::spawn(move || {
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        rest
    });
    assert!(unread.terminate().success());
    assert!(rest.join().unwrap().contains("the logs are sealed; good-bye"));
}

#[test]
fn health_going_down_and_up_has_a_line_each() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), ONE_SHARD);
    let until = |line: &str| {
        let begun = Instant::now();
        while !process.log().contains(line) {
            assert!(begun.elapsed() < PATIENCE, "never in the log: {line}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let switch = |what: &str| {
        let answer = http(process.http, "POST", &format!("/admin/read-only?state={what}"));
        assert_eq!(answer.unwrap().code, 200);
    };
    switch("on");
    until("WARN kyrodb_server::status::transitions: health: degraded: read-only");
    switch("off");
    until("INFO kyrodb_server::status::transitions: health: healthy");
    process.stop();
}

/// The variable by which systemd says that a file, or a socket, is the journal.
fn journal_is(file: &File) -> String {
    let about = file.metadata().unwrap();
    format!("{}:{}", about.dev(), about.ino())
}

fn written(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_journal_gets_priorities_and_a_start_refused_is_an_error() {
    let directory = directory();
    let path = directory.path().join("journal");
    let journal = File::create(&path).unwrap();
    let data_dir = directory.path().join("data");
    let first = Process::start(&data_dir, ONE_SHARD);
    let mut launch = Launch::new(&data_dir, ONE_SHARD);
    launch.command.env("JOURNAL_STREAM", journal_is(&journal));
    launch.command.stdout(journal.try_clone().unwrap()).stderr(journal);
    assert!(!launch.command.status().unwrap().success(), "the directory is in use");
    first.stop();
    let text = written(&path);
    assert_says(&text, &["<3>kyrodb_server: "]);
    let launch = |log: &str| {
        let file = File::create(&path).unwrap();
        let mut launch = Launch::new(&data_dir, ONE_SHARD);
        launch.command.env("JOURNAL_STREAM", journal_is(&file)).env("RUST_LOG", log);
        launch.command.stdout(file.try_clone().unwrap()).stderr(file);
        launch.command.args(["--demo", "--once"]);
        launch.command.status().unwrap();
    };
    launch("info");
    let text = written(&path);
    assert!(text.lines().any(|line| line.starts_with("<6>")), "{text}");
}

#[test]
fn a_log_file_has_the_reason_of_a_start_refused_and_is_opened_again() {
    let directory = directory();
    let path = directory.path().join("kyrodb.log");
    let file = path.to_string_lossy().into_owned();
    let settings = [SETTINGS[0], ("logging.file", file.as_str())];
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, &settings);
    let refused = Process::refused(&data_dir, &settings);
    assert_says(&refused, &["in use"]);
    let until = |text: &str| {
        let begun = Instant::now();
        while !std::fs::read_to_string(&path).is_ok_and(|log| log.contains(text)) {
            assert!(begun.elapsed() < PATIENCE, "never in the log: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until("ERROR kyrodb::start: kyrodb_server: ");
    assert_says(&written(&path), &["in use"]);
    let moved = directory.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    process.signal("HUP");
    until("SIGHUP: reload: changed: nothing");
    assert!(!written(&moved).contains("SIGHUP"));
    let warnings = File::create(directory.path().join("journal")).unwrap();
    process.stop();
    until("good-bye");
    // Under systemd, warnings also go to the journal.
    let mut launch = Launch::new(&data_dir, &settings);
    launch.command.env("JOURNAL_STREAM", journal_is(&warnings)).stdout(Stdio::null());
    launch.command.env("KYRODB__LOGGING__FILE", directory.path().join("none/kyrodb.log"));
    launch.command.stderr(warnings);
    assert!(!launch.command.status().unwrap().success());
    let text = written(&directory.path().join("journal"));
    assert_says(&text, &["<3>kyrodb_server: the log file", "LogsDirectory=kyrodb"]);
}
