//! Results of a comparison: medians of the rounds, as tables, a chart and lines of JSON.

use serde_json::json;

use super::engine::Engine;
use super::lap::{Job, Lap};
use super::{BEYOND, Race};
use crate::load::Fault;
use crate::load::chart::{Chart, Line};
use crate::load::output::{More, Output, Table};
use crate::load::record::Figures;

/// Least spread of the recalls of an engine over the widths of a sweep; with a smaller one it seems to ignore its
/// width.
const SPREAD_MIN: f64 = 0.001;

/// Shown for a missing value.
const NOTHING: &str = "-";

/// Prints, writes and keeps all results.
///
/// # Errors
/// If the lines of JSON can't be written.
pub(super) fn tell(race: &Race<'_>, output: &mut Output) -> Result<(), Fault> {
    for engine in &race.engines {
        output.write_with_context(line(race, engine))?;
    }
    let more = More {
        remarks: race.engines.iter().flat_map(|engine| remarks(race, engine)).collect(),
        charts: chart(race).into_iter().collect(),
        tables: vec![facts(race), figures(race)],
    };
    output.say_more(more);
    Ok(())
}

/// The median of each figure; requests and failures are sums.
fn medians(rounds: &[Figures]) -> Option<Figures> {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
    let recalls: Vec<f64> = rounds.iter().filter_map(|figures| figures.recall).collect();
    Some(Figures {
        requests: rounds.iter().map(|figures| figures.requests).sum(),
        failed: rounds.iter().map(|figures| figures.failed).sum(),
        qps: of(|f| f.qps)?,
        p50_ms: of(|f| f.p50_ms)?,
        p95_ms: of(|f| f.p95_ms)?,
        p99_ms: of(|f| f.p99_ms)?,
        p999_ms: of(|f| f.p999_ms)?,
        max_ms: of(|f| f.max_ms)?,
        recall: median(recalls),
    })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[middle - 1], upper) })
}

impl Engine {
    fn median(&self, job: Job, in_flight: usize) -> Option<Figures> {
        medians(self.laps.get(&Lap { job, in_flight })?)
    }

    /// Documents per second of the bulk load.
    fn load_rate(&self) -> Option<f64> {
        let loaded = self.loaded?;
        Some(loaded.documents as f64 / loaded.seconds.max(1e-9))
    }
}

fn line(race: &Race<'_>, engine: &Engine) -> serde_json::Value {
    let laps = engine.laps.iter().map(|(lap, rounds)| {
        json!({
            "job": lap.job.word(),
            "in_flight": lap.in_flight,
            "rounds": rounds.len(),
            "median": medians(rounds),
        })
    });
    let curve = engine
        .curve
        .iter()
        .map(|point| json!({"width": point.width, "recall": point.recall, "qps": point.qps}));
    json!({
        "kind": "engine",
        "engine": engine.name,
        "facts": engine.facts,
        "width": engine.width,
        "is_recall_reached": engine.is_good,
        "recall_wanted": race.comparison.recall,
        "curve": curve.collect::<Vec<_>>(),
        "laps": laps.collect::<Vec<_>>(),
        "load_documents": engine.loaded.map(|loaded| loaded.documents),
        "load_seconds": engine.loaded.map(|loaded| loaded.seconds),
        "load_docs_per_second": engine.load_rate(),
        "absent": engine.absent,
        "partial": engine.trouble,
    })
}

/// Facts of each engine.
fn facts(race: &Race<'_>) -> Table {
    let head = ["ENGINE", "VERSION", "INDEX", "DURABLE AT ACK", "SETTINGS"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for engine in &race.engines {
        let name = engine.name.to_owned();
        let rest = match (&engine.facts, &engine.absent) {
            (Some(facts), _) => [
                facts.version.clone(),
                facts.index.clone(),
                facts.durable.word().to_owned(),
                [facts.durable_how.as_str(), facts.settings.as_str()].join(" ").trim().to_owned(),
            ],
            (None, reason) => {
                let reason = reason.as_ref().or(engine.trouble.as_ref());
                let reason = format!("not measured: {}", reason.map_or("", String::as_str));
                let nothing = || NOTHING.to_owned();
                [nothing(), nothing(), nothing(), reason]
            }
        };
        lines.push(std::iter::once(name).chain(rest).collect());
    }
    Table { title: "Engines", is_text: true, lines }
}

/// Figures of each engine.
fn figures(race: &Race<'_>) -> Table {
    let most = race.settings.concurrency;
    let mut places = vec![1, most];
    places.dedup();
    let mut head = vec!["ENGINE".to_owned(), "WIDTH".into(), format!("RECALL@{}", race.settings.k)];
    for n in &places {
        head.extend([format!("QPS x{n}"), format!("P50 MS x{n}"), format!("P99 MS x{n}")]);
    }
    head.extend(places.iter().map(|n| format!("INSERTS/S x{n}")));
    head.push("LOAD DOCS/S".into());
    let mut lines = vec![head];
    for engine in &race.engines {
        let shown = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| NOTHING.to_owned(), |value| format!("{value:.digits$}"))
        };
        let recall = engine.median(Job::Search, most).and_then(|figures| figures.recall);
        let width = engine.width.map_or_else(|| NOTHING.to_owned(), |width| width.to_string());
        let mut line = vec![engine.name.to_owned(), width, shown(recall, 4)];
        for &n in &places {
            let figures = engine.median(Job::Search, n);
            let of = |figure: fn(&Figures) -> f64| figures.as_ref().map(figure);
            line.push(shown(of(|f| f.qps), 1));
            line.push(shown(of(|f| f.p50_ms), 2));
            line.push(shown(of(|f| f.p99_ms), 2));
        }
        for &n in &places {
            line.push(shown(engine.median(Job::Insert, n).map(|figures| figures.qps), 1));
        }
        line.push(shown(engine.load_rate(), 0));
        lines.push(line);
    }
    Table { title: "Figures, by requests in flight", is_text: false, lines }
}

fn remarks(race: &Race<'_>, engine: &Engine) -> Vec<String> {
    let (name, mut remarks) = (engine.name, Vec::new());
    if let Some(why) = &engine.absent {
        remarks.push(format!("{name}: not measured: {why}"));
    }
    if let Some(why) = &engine.trouble {
        let word = if engine.facts.is_some() { "PARTIAL" } else { "NOT MEASURED" };
        remarks.push(format!("{name}: {word}: {why}"));
    }
    if let Some(width) = engine.width.filter(|_| !engine.is_good) {
        remarks.push(format!(
            "{name}: no width up to {width} has recall {}; it is measured at that width",
            race.comparison.recall
        ));
    }
    if engine.facts.is_some() && engine.loaded.is_none() && engine.trouble.is_none() {
        remarks.push(format!(
            "{name}: its documents were there; for a load rate, start it on an empty data \
             directory, and give --load"
        ));
    }
    let recalls = || engine.curve.iter().map(|point| point.recall);
    let spread = recalls().fold(0.0, f64::max) - recalls().fold(1.0, f64::min);
    if engine.curve.len() > BEYOND && spread < SPREAD_MIN {
        remarks.push(format!(
            "{name}: its recall is the same at every width: it seems not to follow it (Chroma does \
             when it keeps one index loaded, as perf/peers.sh starts it)"
        ));
    }
    let failed: u64 = engine.laps.values().flatten().map(|figures| figures.failed).sum();
    if failed > 0 {
        remarks.push(format!("{name}: {failed} requests failed"));
    }
    remarks
}

/// Recall against rate, one line per engine.
fn chart(race: &Race<'_>) -> Option<Chart> {
    let measured = race.engines.iter().filter(|engine| !engine.curve.is_empty());
    let lines: Vec<Line> = measured
        .map(|engine| Line {
            name: engine.name.into(),
            points: engine.curve.iter().map(|point| (point.recall, point.qps)).collect(),
            words: engine.curve.iter().map(|point| point.width.to_string()).collect(),
        })
        .collect();
    let in_flight = race.settings.concurrency;
    (!lines.is_empty()).then(|| Chart {
        name: "engines_recall_qps",
        title: format!("Searches a second against recall, {in_flight} in flight, by search width"),
        x: "recall",
        y: "searches a second",
        is_log: true,
        from_zero: false,
        lines,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_that_of_each_figure() {
        let figures = |qps, p99_ms, recall| Figures {
            requests: 10,
            failed: 1,
            qps,
            p99_ms,
            recall,
            ..Figures::default()
        };
        let rounds =
            [figures(9.0, 1.0, Some(0.5)), figures(1.0, 3.0, Some(0.9)), figures(5.0, 2.0, None)];
        let median = medians(&rounds).unwrap();
        assert_eq!((median.requests, median.failed), (30, 3));
        assert_eq!((median.qps, median.p99_ms, median.recall), (5.0, 2.0, Some(0.7)));
        assert_eq!(medians(&rounds[..2]).unwrap().qps, 5.0);
        assert!(medians(&[]).is_none());
    }
}
