//! `/debug/pprof/threads` (and `goroutine`, by which name people look for it): what each thread of the
//! process is at, as the kernel says, and for a core what it is doing. Where threads spend their time,
//! with stacks, is what `/debug/pprof/profile` tells.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::aside::aside;
use super::http::Pages;

/// Clock ticks in a second, as Linux counts them for programs on every architecture.
const TICKS: f64 = 100.0;

/// `/debug/pprof/`: what there is.
pub(super) async fn index() -> Response {
    let text = "profile?seconds=N&format=svg|pprof|folded   where CPU time goes, with stacks\n\
                threads   what each thread is at (also as goroutine?debug=1)\n\
                heap      why there is none, and where memory is counted\n";
    plain(text.into())
}

pub(super) async fn threads(State(pages): State<Arc<Pages>>) -> Response {
    let doing: Vec<&str> =
        pages.health.hearts().iter().map(|heart| heart.doing.now().word()).collect();
    match aside(move || all(&doing)).await {
        Ok(text) => plain(text),
        Err(refused) => refused,
    }
}

fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// One line a thread, by name.
fn all(doing: &[&str]) -> String {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut lines: Vec<String> = tasks
        .filter_map(|task| {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name));
            let id = task.file_name().to_string_lossy().into_owned();
            line(&id, &read("stat").ok()?, &read("wchan").unwrap_or_default(), doing)
        })
        .collect();
    lines.sort();
    let mut text = format!("threads: {}\n", lines.len());
    for line in lines {
        let written = writeln!(text, "{line}");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }
    text
}

/// What `/proc/PID/task/TID/stat` and `wchan` say of a thread.
fn line(id: &str, stat: &str, wchan: &str, doing: &[&str]) -> Option<String> {
    // The name stands in brackets, and may have some of its own.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let state = match *fields.first()? {
        "R" => "running",
        "S" => "sleeping",
        "D" => "waiting for a device",
        "T" | "t" => "stopped",
        other => other,
    };
    let cpu = (ticks(11)? + ticks(12)?) as f64 / TICKS;
    let processor = fields.get(36)?;
    let wchan = match wchan.trim() {
        "" | "0" => String::new(),
        place => format!(" in {place}"),
    };
    let core = name.strip_prefix("kyro-core-").and_then(|core| core.parse::<usize>().ok());
    let doing = core.and_then(|core| doing.get(core));
    let doing = doing.map(|doing| format!(", doing: {doing}")).unwrap_or_default();
    Some(format!("{name} (thread {id}): {state}{wchan}, CPU {processor}, {cpu:.2} s{doing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_a_line() {
        let zeros = "0 ".repeat(23);
        let stat = format!("77 (kyro-core-1) S 1 1 1 0 -1 0 1 0 2 0 150 50 {zeros}3 0 0");
        let said = line("77", &stat, "futex_wait\n", &["other", "link"]).unwrap();
        let expected =
            "kyro-core-1 (thread 77): sleeping in futex_wait, CPU 3, 2.00 s, doing: link";
        assert_eq!(said, expected);
        assert_eq!(line("77", "nonsense", "", &[]), None);
    }

    #[test]
    fn this_thread_is_among_all() {
        let text = all(&[]);
        assert!(text.starts_with("threads: ") && text.contains(", CPU "), "{text}");
    }
}
