//! `/debug/slow` on one screen: a line a search, with the stage that took longest and the reason for it,
//! and the last stalls. At most 40 lines of 100 characters.

use serde_json::Value;

use super::number;
use crate::table::{Column, cut, table};

/// Most lines: one screen.
const LINES_MAX: usize = 40;

/// Most characters of a line.
#[cfg(test)]
const COLUMNS_MAX: usize = 100;

/// Lines above the searches, and above the stalls: what they are, and titles. The stalls have an empty one too.
const ABOVE_SEARCHES: usize = 2;
const ABOVE_STALLS: usize = 3;

/// Least room for stalls, if there are any.
const STALLS_MIN: usize = 3;

/// Most characters of a reason, and of the name that a client gave its request.
const WHY_CHARS_MAX: usize = 33;
const REQUEST_CHARS_MAX: usize = 14;

/// The page as people read it.
#[must_use]
pub fn slow(page: &Value) -> String {
    let list = |name: &str| page[name].as_array().map_or(&[][..], Vec::as_slice);
    let (searches, stalls) = (list("slowest"), list("stalls"));
    let window = number(&page["window_seconds"]);
    let for_stalls =
        if stalls.is_empty() { 0 } else { ABOVE_STALLS + STALLS_MIN.min(stalls.len()) };
    let searches = first(searches, LINES_MAX - ABOVE_SEARCHES - for_stalls);
    let mut text = match searches.len() {
        0 => format!("No search in the last {window} s.\n"),
        count => format!("The {count} slowest searches of the last {window} s, slowest first:\n"),
    };
    if !searches.is_empty() {
        text.push_str(&search_table(searches));
    }
    if !stalls.is_empty() {
        let room = LINES_MAX - ABOVE_SEARCHES - searches.len() - ABOVE_STALLS;
        let (shown, all) = (first(stalls, room), stalls.len());
        text.push_str(&format!("\nStalls of cores, the last {} of {all}:\n", shown.len()));
        text.push_str(&stall_table(shown));
    }
    text
}

fn first(list: &[Value], count: usize) -> &[Value] {
    &list[..list.len().min(count)]
}

fn search_table(searches: &[Value]) -> String {
    let columns = [
        Column::Left("ENDED"),
        Column::Right("TOTAL MS"),
        Column::Left("LONGEST STAGE"),
        Column::Right("K"),
        Column::Right("EF"),
        Column::Left("WHY"),
        Column::Left("REQUEST"),
    ];
    let rows = searches.iter().map(|search| {
        let (stage, ms) = longest_stage(search);
        let total = search["total_ms"].as_f64().unwrap_or(0.0);
        let share = 100.0 * ms / total.max(f64::MIN_POSITIVE);
        let named = ["request_id", "trace_id"].iter().find_map(|name| search[name].as_str());
        [
            time_of_day(number(&search["ended_unix_ms"])),
            format!("{total:.2}"),
            format!("{stage} {share:.0} %"),
            number(&search["k"]).to_string(),
            number(&search["ef"]).to_string(),
            cut(&why(search, stage), WHY_CHARS_MAX),
            cut(named.unwrap_or("-"), REQUEST_CHARS_MAX),
        ]
    });
    table(columns, rows, true)
}

fn stall_table(stalls: &[Value]) -> String {
    let columns = [
        Column::Left("NOTICED"),
        Column::Right("CORE"),
        Column::Right("MS"),
        Column::Left("DOING"),
    ];
    let rows = stalls.iter().map(|stall| {
        [
            time_of_day(number(&stall["noticed_unix_ms"])),
            number(&stall["core"]).to_string(),
            format!("{:.1}", stall["lasted_ms"].as_f64().unwrap_or(0.0)),
            stall["doing"].as_str().unwrap_or("?").to_owned(),
        ]
    });
    table(columns, rows, true)
}

fn longest_stage(search: &Value) -> (&str, f64) {
    let stages = search["stages_ms"].as_object().into_iter().flatten();
    let stages = stages.map(|(name, ms)| (name.as_str(), ms.as_f64().unwrap_or(0.0)));
    stages.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("?", 0.0))
}

/// The reason for a long stage, as OPERATIONS.md explains it, from the work of the search and the state of
/// its core.
fn why(search: &Value, stage: &str) -> String {
    let (work, core) = (&search["work"], &search["core"]);
    let distances = number(&work["distances"]);
    match stage {
        "walk" => format!("graph search, {distances} distances"),
        "scan" if search["exact"] == true => format!("exact search, {distances} distances"),
        "scan" if search["filter"] == true => format!("scan by filter, {distances} distances"),
        "scan" => format!("scan of all, {distances} distances"),
        "hot" => format!("{} documents not linked", number(&core["hot_documents"])),
        "mailbox" | "queue" | "suspended" => {
            let is_so = |name: &str| core[name] == true;
            let busy = [("snapshot_running", "snapshot"), ("linking", "linking")];
            let busy: Vec<&str> =
                busy.iter().filter(|(name, _)| is_so(name)).map(|(_, word)| *word).collect();
            match busy.as_slice() {
                [] => match number(&core["mailbox_depth"]) {
                    0 => "core was busy".into(),
                    depth => format!("core was busy, {depth} in mailbox"),
                },
                words => format!("core was busy: {}", words.join(", ")),
            }
        }
        "reply" if number(&work["shards_answered"]) < number(&work["shards_asked"]) => {
            "a shard did not answer in time".into()
        }
        "admission" | "cache" | "reply" | "merge" | "encode" => {
            "threads of the gateway were busy".into()
        }
        "collect" => "metadata and vectors of results".into(),
        _ => "-".into(),
    }
}

/// Hours, minutes and seconds, UTC.
fn time_of_day(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.map_or_else(|| "-".to_owned(), |time| time.format("%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn search(stage: &str, request_id: &str) -> Value {
        json!({
            "ended_unix_ms": 1_700_000_000_123_u64, "total_ms": 12_345.6,
            "stages_ms": { "admission": 0.2, stage: 11_000.0 },
            "k": 1000, "ef": 10_000, "filter": true, "exact": false,
            "work": { "distances": 9_999_999, "shards_asked": 4, "shards_answered": 4 },
            "core": {
                "hot_documents": 20_000, "mailbox_depth": 1_000, "snapshot_running": true,
                "linking": true,
            },
            "request_id": request_id,
        })
    }

    /// The worst page: all searches and stalls that a server keeps, each with its widest values.
    #[test]
    fn a_full_page_has_forty_lines_of_a_hundred_characters() {
        let stages = ["suspended", "walk", "scan", "hot", "reply", "collect", "new stage"];
        let long = "0123456789abcdef0123456789abcdef0123";
        let searches: Vec<Value> =
            (0..32).map(|index| search(stages[index % stages.len()], long)).collect();
        let stall = json!({
            "core": 127, "noticed_unix_ms": 1_700_000_000_123_u64, "lasted_ms": 10_000.0,
            "doing": "a piece of work with a long name",
        });
        let page = json!({ "window_seconds": 300, "slowest": searches, "stalls": vec![stall; 16] });
        let text = slow(&page);
        assert_eq!(text.lines().count(), 40, "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS_MAX, "{line}");
        }
        for part in [
            "22:13:20  12345.60  suspended 89 %  1000  10000  core was busy: snapshot, linking",
            "graph search, 9999999 distances    0123456789abc…",
            "scan by filter, 9999999 distances",
            "20000 documents not linked",
            "Stalls of cores, the last 3 of 16:",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        // Where there are few searches, there is room for all stalls.
        let page = json!({ "window_seconds": 300, "slowest": [], "stalls": page["stalls"] });
        assert_eq!(slow(&page).lines().count(), 1 + ABOVE_STALLS + 16, "{}", slow(&page));
    }

    #[test]
    fn an_idle_server_has_one_line() {
        let page = json!({ "window_seconds": 300, "slowest": [], "stalls": [] });
        assert_eq!(slow(&page), "No search in the last 300 s.\n");
    }

    #[test]
    fn a_search_that_waited_for_a_shard_is_told_from_one_that_waited_for_the_gateway() {
        let mut waited = search("reply", "a");
        assert_eq!(why(&waited, "reply"), "threads of the gateway were busy");
        waited["work"]["shards_answered"] = 3.into();
        assert_eq!(why(&waited, "reply"), "a shard did not answer in time");
        waited["core"]["snapshot_running"] = false.into();
        waited["core"]["linking"] = false.into();
        assert_eq!(why(&waited, "queue"), "core was busy, 1000 in mailbox");
        waited["core"]["mailbox_depth"] = 0.into();
        assert_eq!(why(&waited, "queue"), "core was busy");
        waited["filter"] = false.into();
        assert_eq!(why(&waited, "scan"), "scan of all, 9999999 distances");
        waited["exact"] = true.into();
        assert_eq!(why(&waited, "scan"), "exact search, 9999999 distances");
    }
}
