//! `/debug/pprof/profile`: where this process spends its CPU time, over a number of seconds.
//!
//! ```text
//! kernel: a clock a thread → ring of stacks → sampler → stacks and counts → symbols → flame | pprof
//! ```
//!
//! The kernel takes the samples (`perf_event_open`), along frame pointers, into memory that it shares
//! with this process; no thread gets a signal, so no call that a core or the gateway waits in is
//! interrupted, and nothing runs between requests. A profiler that works by SIGPROF would have
//! both against it: `io_uring_enter` and `epoll_wait` return EINTR, and stacks are walked in a handler.

mod flame;
mod pprof;
mod sampler;
mod symbols;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use self::sampler::{Sampler, Samples};
use self::symbols::Symbols;
use super::pages::Parameters;
use crate::clock::unix_ms;

/// Longest profile, and default length of a profile, in seconds.
const SECONDS_MAX: u64 = 60;
const SECONDS_DEFAULT: u64 = 10;

/// Samples of a running thread a second. 99 rather than 100: work with a beat of its own is not always
/// met at the same place.
const HERTZ_MAX: u64 = 999;
const HERTZ_DEFAULT: u64 = 99;

/// Between two looks into the rings, which have room for several times what comes meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Somebody profiles. There is one for the process, as there is one process to look at.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The right to profile, until this is dropped.
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        let before = IS_TAKEN.swap(true, Ordering::AcqRel);
        (!before).then_some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IS_TAKEN.store(false, Ordering::Release);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// A flame graph.
    Svg,
    /// The protobuf of pprof.
    Pprof,
    /// A stack a line, and how often it was seen.
    Folded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    time: Duration,
    hertz: u64,
    format: Format,
}

impl Asked {
    fn read(parameters: &Parameters, headers: &HeaderMap) -> Result<Self, String> {
        let mut asked = Self {
            time: Duration::from_secs(SECONDS_DEFAULT),
            hertz: HERTZ_DEFAULT,
            format: if wants_pprof(headers) { Format::Pprof } else { Format::Svg },
        };
        let number = |name: &str, text: &str, max: u64| {
            let read = text.parse::<u64>().ok().filter(|number| (1..=max).contains(number));
            read.ok_or_else(|| format!("{name}: `{text}` is not a whole number from 1 to {max}"))
        };
        for (name, value) in &parameters.0 {
            match name.as_str() {
                "seconds" => {
                    asked.time = Duration::from_secs(number("seconds", value, SECONDS_MAX)?);
                }
                "hz" => asked.hertz = number("hz", value, HERTZ_MAX)?,
                "format" => {
                    asked.format = match value.as_str() {
                        "svg" => Format::Svg,
                        "pprof" => Format::Pprof,
                        "folded" => Format::Folded,
                        other => {
                            let why = "is none of: svg, pprof, folded";
                            return Err(format!("format: `{other}` {why}"));
                        }
                    };
                }
                other => return Err(format!("`{other}` is none of: seconds, hz, format")),
            }
        }
        Ok(asked)
    }
}

/// The client can't read pictures, but protobuf.
fn wants_pprof(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let of_pprof = ["application/x-protobuf", "application/protobuf", "application/octet-stream"];
    accepted.is_some_and(|accepted| of_pprof.iter().any(|kind| accepted.contains(kind)))
}

fn refuse(code: StatusCode, why: String) -> Response {
    (code, Json(json!({ "error": why }))).into_response()
}

/// Takes a profile. It ends early where the client goes away or the server comes to its end: all of it
/// is dropped with this future.
pub(super) async fn profile(parameters: Parameters, headers: HeaderMap) -> Response {
    let asked = match Asked::read(&parameters, &headers) {
        Ok(asked) => asked,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
    };
    let Some(turn) = Turn::take() else {
        let why = "another profile is being taken: one at a time".into();
        return refuse(StatusCode::CONFLICT, why);
    };
    let samples = match sample(asked).await {
        Ok(samples) => samples,
        Err(why) => return refuse(StatusCode::NOT_IMPLEMENTED, why),
    };
    // Names are looked up on another thread, for pages that are asked for meanwhile, and the next
    // profile begins when that is over.
    let drawn = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let drawn = draw(&samples, asked);
        // What was read of the program for the names, many times as much as a profile.
        backtrace::clear_symbol_cache();
        drawn
    });
    match drawn.await {
        Ok(Ok((kind, body))) => ([(header::CONTENT_TYPE, kind)], body).into_response(),
        Ok(Err(why)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, why),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Where a thread was while it ran.
pub(super) struct Busiest {
    /// Functions of its most frequent stack, the innermost first.
    pub(super) functions: Vec<String>,
    /// Samples that found it there, and all that found it running.
    pub(super) there: u64,
    pub(super) running: u64,
}

/// Where the threads of this process, by name, are while they run, for `seconds`. One that does
/// not run meanwhile is not among them.
///
/// # Errors
/// The answer to the client if there is no profile.
pub(super) async fn busiest(seconds: &str) -> Result<HashMap<Arc<str>, Busiest>, Response> {
    let hertz = HERTZ_MAX.to_string();
    let pairs = [("seconds", seconds), ("hz", &hertz), ("format", "folded")];
    let parameters = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let asked = Asked::read(&Query(parameters), &HeaderMap::new())
        .map_err(|why| refuse(StatusCode::BAD_REQUEST, why))?;
    let Some(turn) = Turn::take() else {
        let why = "another profile is being taken: one at a time".into();
        return Err(refuse(StatusCode::CONFLICT, why));
    };
    let samples = sample(asked).await.map_err(|why| refuse(StatusCode::NOT_IMPLEMENTED, why))?;
    let named = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let symbols = Symbols::of(&samples);
        let mut threads: HashMap<Arc<str>, Busiest> = HashMap::new();
        for (stack, count) in &samples.stacks {
            let thread = threads.entry(stack.thread.clone());
            let found = thread.or_insert(Busiest { functions: Vec::new(), there: 0, running: 0 });
            found.running += count;
            if *count > found.there {
                found.there = *count;
                found.functions =
                    symbols.frames(stack).map(|frame| frame.function.clone()).collect();
            }
        }
        threads
    });
    named.await.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn sample(asked: Asked) -> Result<Samples, String> {
    let (begun, begun_unix_ms) = (Instant::now(), unix_ms());
    let mut sampler = Sampler::begin(asked.hertz)?;
    while let Some(left) = asked.time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(LOOK)).await;
        sampler.look();
    }
    Ok(sampler.end(begun_unix_ms, begun.elapsed()))
}

fn draw(samples: &Samples, asked: Asked) -> Result<(&'static str, Vec<u8>), String> {
    let symbols = Symbols::of(samples);
    match asked.format {
        Format::Svg => flame::svg(samples, &symbols).map(|body| ("image/svg+xml", body)),
        Format::Folded => {
            let text = flame::folded(samples, &symbols).join("\n") + "\n";
            Ok(("text/plain; charset=utf-8", text.into_bytes()))
        }
        Format::Pprof => Ok(("application/octet-stream", pprof::encode(samples, &symbols))),
    }
}

/// `/debug/pprof/heap`: there is no such profile, and this says where the figures are instead.
pub(super) async fn heap() -> Response {
    let why = "no profile of the heap: the allocator is the system's, which keeps none. What memory is \
               used for is counted part by part: kyrodb_memory_bytes on /metrics and memory_bytes of \
               each shard on /stats; vectors, codes and lists of the graph are mapped, and not of the \
               heap at all. Allocations can be traced from outside with `heaptrack --pid`";
    refuse(StatusCode::NOT_IMPLEMENTED, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)], accept: Option<&'static str>) -> Result<Asked, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        Asked::read(&Query(pairs.collect()), &headers)
    }

    #[test]
    fn what_is_asked_has_bounds() {
        let seconds = Duration::from_secs;
        let all = asked(&[("seconds", "60"), ("hz", "999"), ("format", "folded")], None).unwrap();
        assert_eq!(all, Asked { time: seconds(60), hertz: 999, format: Format::Folded });
        let default = Asked { time: seconds(10), hertz: 99, format: Format::Svg };
        assert_eq!(asked(&[], Some("*/*")).unwrap(), default);
        assert_eq!(asked(&[], Some("application/x-protobuf")).unwrap().format, Format::Pprof);
        let said = asked(&[("format", "svg")], Some("application/octet-stream")).unwrap();
        assert_eq!(said.format, Format::Svg);
        for (name, value) in [
            ("seconds", "0"),
            ("seconds", "61"),
            ("seconds", "-1"),
            ("seconds", "1.5"),
            ("hz", "1000"),
            ("hz", "0"),
            ("format", "png"),
            ("second", "5"),
        ] {
            let why = asked(&[(name, value)], None).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
    }

    #[test]
    fn there_is_one_turn_at_a_time() {
        let first = Turn::take();
        assert!(first.is_some() && Turn::take().is_none());
        drop(first);
        assert!(Turn::take().is_some());
    }
}
