//! `/debug/pprof/threads` (and `goroutine`, by which name people look for it): what each thread of the
//! process is at, as the kernel says, and for a core what it is doing; with `seconds=N` also the stack in
//! which each was most often while it ran.
//!
//! There is no stack of a thread that sleeps all the while: only the thread itself can walk it, in the
//! handler of a signal, and a signal ends the waits of `io_uring_enter` and `epoll_wait` with EINTR. Where
//! in the kernel it sleeps is told.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::aside::aside;
use super::http::Pages;
use super::pages::Parameters;
use super::profile::{self, Busiest};

/// Clock ticks in a second, as Linux counts them for programs on every architecture.
const TICKS: f64 = 100.0;

/// `/debug/pprof/`: what there is.
pub(super) async fn index() -> Response {
    let text = "profile?seconds=N&format=svg|pprof|folded   where CPU time goes, with stacks\n\
                threads   what each thread is at (also as goroutine?debug=1); with seconds=N its stack\n\
                heap      why there is none, and where memory is counted\n";
    plain(text.into())
}

pub(super) async fn threads(State(pages): State<Arc<Pages>>, parameters: Parameters) -> Response {
    let busiest = match parameters.get("seconds") {
        None => None,
        Some(seconds) => match profile::busiest(seconds).await {
            Ok(busiest) => Some(busiest),
            Err(refused) => return refused,
        },
    };
    let doing: Vec<&str> =
        pages.health.hearts().iter().map(|heart| heart.doing.now().word()).collect();
    match aside(move || all(&doing, busiest.as_ref())).await {
        Ok(text) => plain(text),
        Err(refused) => refused,
    }
}

fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// One line a thread, by name, and the stack that it was found in, if that was looked for.
fn all(doing: &[&str], busiest: Option<&HashMap<Arc<str>, Busiest>>) -> String {
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
        text.push_str(&line);
        text.push('\n');
        let name = line.rsplit_once(" (thread ").map_or("", |(name, _)| name);
        if let Some(busiest) = busiest {
            text.push_str(&stack(busiest.get(name)));
        }
    }
    text
}

/// The stack that a thread was found in, the innermost function first.
fn stack(found: Option<&Busiest>) -> String {
    let Some(Busiest { functions, there, running }) = found else {
        return "    it did not run meanwhile\n".into();
    };
    let mut text = format!("    in {there} of {running} samples:\n");
    for function in functions {
        let written = writeln!(text, "      {function}");
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
        let text = all(&[], None);
        assert!(text.starts_with("threads: ") && text.contains(", CPU "), "{text}");
        assert!(!text.contains("it did not run"), "no stacks were asked for: {text}");
    }

    #[test]
    fn a_thread_has_the_stack_that_it_was_found_in() {
        let functions = vec!["kyrodb::inner".to_owned(), "kyrodb::outer".to_owned()];
        let found = Busiest { functions, there: 3, running: 4 };
        let expected = "    in 3 of 4 samples:\n      kyrodb::inner\n      kyrodb::outer\n";
        assert_eq!(stack(Some(&found)), expected);
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let seen: String = name.chars().take(15).collect();
        let text = all(&[], Some(&HashMap::from([(seen.as_str().into(), found)])));
        assert!(text.contains(expected), "{seen}: {text}");
    }
}
