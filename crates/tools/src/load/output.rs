//! Output of results: tables for people on standard output, lines of JSON, progress on a terminal, and at the end the
//! report.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::Fault;
use super::arguments::{Comparison, Settings};
use super::chart::Chart;
use super::machine::Machine;
use super::record::{Figures, Interval, Summary};
use super::report;
use super::setup::Bench;
use super::work::{Mode, Plan, RunResult};

/// Facts common to all runs, contained in each summary.
#[derive(Serialize)]
pub(super) struct Context {
    pub(super) versions: Value,
    pub(super) settings: Value,
    pub(super) machine: Machine,
}

/// All outputs.
pub(super) struct Output {
    context: Context,
    json: Option<(String, BufWriter<File>)>,
    bar: ProgressBar,
    results: Vec<(Summary, Vec<Interval>)>,
    more: More,
}

/// Parts of the report besides runs.
#[derive(Default)]
pub(super) struct More {
    pub(super) remarks: Vec<String>,
    pub(super) charts: Vec<Chart>,
    pub(super) tables: Vec<Table>,
}

/// Lines below their titles; the first cell of each names its subject.
pub(super) struct Table {
    pub(super) title: &'static str,
    /// Text, aligned to the left; else numbers, to the right.
    pub(super) is_text: bool,
    pub(super) lines: Vec<Vec<String>>,
}

impl Output {
    /// Opens the file of JSON lines, if one is requested.
    ///
    /// # Errors
    /// If it can't be written.
    pub(super) fn open(settings: &Settings, bench: &Bench) -> Result<Self, Fault> {
        let open = |path: &std::path::PathBuf| {
            let name = path.display().to_string();
            match File::create(path) {
                Ok(file) => Ok((name, BufWriter::new(file))),
                Err(error) => Err(Fault::Usage(format!("--json {name}: {error}"))),
            }
        };
        let json = settings.json.as_ref().map(open).transpose()?;
        let versions =
            json!({"load_tester": env!("CARGO_PKG_VERSION"), "server": bench.server.version});
        let data = &bench.requests.data;
        let settings = json!({
            "server": settings.door.url,
            "data": data.name,
            "documents": data.base.count(),
            "dimension": data.base.width,
            "concurrency": settings.concurrency,
            "connections": settings.connections,
            "request_timeout_ms": settings.timeout.as_millis() as u64,
            "warm_up_seconds": settings.warm_up.as_secs_f64(),
            "seed": settings.seed,
            "weights": settings.weights.by_word(),
            "k": settings.k,
            "comparison": settings.comparison.as_ref().map(Comparison::shown),
            "hnsw_m": bench.server.hnsw_m,
            "hnsw_ef_construction": bench.server.hnsw_ef_construction,
            "hnsw_ef_search": bench.server.hnsw_ef_search,
            "hnsw_distance": bench.server.hnsw_distance,
            "fsync_policy": bench.server.fsync_policy,
        });
        let context = Context { versions, settings, machine: Machine::this() };
        let bar = ProgressBar::hidden();
        Ok(Self { context, json, bar, results: Vec::new(), more: More::default() })
    }

    /// Prints a line, above the progress bar.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| {
            // The reader may have closed the pipe, which is not a fault.
            let written = writeln!(std::io::stdout(), "{line}");
            tracing::trace!(?written);
        });
    }

    /// Shows a current activity on a terminal.
    pub(super) fn begin(&mut self, what: String) {
        let style = ProgressStyle::with_template("{prefix} [{elapsed}] {msg}");
        let style = style.expect("the template is well-formed");
        self.bar = ProgressBar::new_spinner().with_style(style).with_prefix(what);
        self.bar.enable_steady_tick(Duration::from_millis(250));
    }

    /// Ends the current activity.
    pub(super) fn end(&mut self) {
        self.bar.finish_and_clear();
        self.bar = ProgressBar::hidden();
    }

    /// Prints tables and remarks, and keeps them for the report.
    pub(super) fn say_more(&mut self, more: More) {
        for table in &more.tables {
            self.say(&format!("\n{}", aligned(&table.lines, table.is_text)));
        }
        for remark in &more.remarks {
            self.say(remark);
        }
        self.more = more;
    }

    /// Writes a line of JSON with the facts common to all runs.
    pub(super) fn write_with_context(&mut self, line: Value) -> Result<(), Fault> {
        let mut line = line;
        if let (Value::Object(line), Value::Object(context)) = (&mut line, json!(self.context)) {
            line.extend(context);
        }
        self.write_json(&line)
    }

    pub(super) fn write_json(&mut self, line: &impl Serialize) -> Result<(), Fault> {
        let Some((name, file)) = &mut self.json else { return Ok(()) };
        // Flushed at once, so that no later failure loses it.
        let written = serde_json::to_string(line)
            .map_err(std::io::Error::from)
            .and_then(|text| writeln!(file, "{text}").and_then(|()| file.flush()));
        written.map_err(|error| Fault::Failed(format!("--json {name}: {error}")))
    }

    pub(super) fn begin_run(&mut self, plan: &Plan) {
        let rate = match plan.mode {
            Mode::Open(rate) => format!(", {rate:.0} a second"),
            Mode::Closed => String::new(),
        };
        self.begin(format!("{}{rate}, {:.0?}", plan.label, plan.duration));
    }

    pub(super) fn interval(&mut self, interval: &Interval) -> Result<(), Fault> {
        let figures = &interval.figures;
        let recall = figures.recall.map_or(String::new(), |recall| format!(", recall {recall:.3}"));
        self.bar.set_message(format!(
            "{:.0} a second, p50 {:.2} ms, p99 {:.2} ms, {} failed{recall}",
            figures.qps, figures.p50_ms, figures.p99_ms, figures.failed
        ));
        self.write_json(interval)
    }

    pub(super) fn end_run(&mut self, result: &RunResult) -> Result<(), Fault> {
        self.end();
        self.results.push((result.summary.clone(), result.intervals.clone()));
        self.write_with_context(json!(result.summary))
    }

    /// A line for each run.
    pub(super) fn say_table(&self, summaries: &[Summary]) {
        if summaries.is_empty() {
            return;
        }
        let rows = summaries.iter().map(|summary| (summary.label.as_str(), &summary.figures));
        self.say(&table("RUN", summaries[0].k, rows));
        for summary in summaries {
            for remark in summary.remarks() {
                self.say(&format!("{}: {remark}", summary.label));
            }
        }
    }

    /// Prints further remarks on one run.
    pub(super) fn say_operations(&self, summary: &Summary) {
        if summary.operations.len() > 1 {
            let rows = summary.operations.iter().map(|(word, figures)| (*word, figures));
            self.say(&format!("\n{}", table("OPERATION", summary.k, rows)));
        }
        let target = summary.target_qps.map_or(String::new(), |qps| format!(" of {qps:.1} asked"));
        self.say(&format!(
            "\nachieved QPS {:.1}{target}; {} requests, {} failed, failure ratio {:.4}",
            summary.figures.qps,
            summary.figures.requests,
            summary.figures.failed,
            summary.failure_ratio
        ));
        if let (Some(lag), Some(bound)) = (summary.lag_p99_ms, summary.lag_max_ms) {
            self.say(&format!(
                "the load tester sent 99 in 100 requests at most {lag:.2} ms late; above \
                 {bound:.2} ms it would be the bottleneck"
            ));
        }
    }

    /// Writes the report and the charts of all results so far.
    ///
    /// # Errors
    /// If they can't be written.
    pub(super) fn finish(&mut self, html: Option<&Path>, svg: Option<&Path>) -> Result<(), Fault> {
        self.bar.finish_and_clear();
        report::write(&self.context, &self.results, &self.more, html, svg).map_err(Fault::Failed)
    }
}

/// Titles of the columns of figures.
pub(super) fn titles(k: u32) -> [String; 9] {
    let recall = format!("RECALL@{k}");
    ["REQUESTS", "FAILED", "QPS", "P50 MS", "P95 MS", "P99 MS", "P99.9 MS", "MAX MS", &recall]
        .map(str::to_owned)
}

/// The cells below [`titles`].
pub(super) fn cells(figures: &Figures) -> [String; 9] {
    [
        figures.requests.to_string(),
        figures.failed.to_string(),
        format!("{:.1}", figures.qps),
        format!("{:.2}", figures.p50_ms),
        format!("{:.2}", figures.p95_ms),
        format!("{:.2}", figures.p99_ms),
        format!("{:.2}", figures.p999_ms),
        format!("{:.2}", figures.max_ms),
        figures.recall.map_or_else(|| "-".into(), |recall| format!("{recall:.4}")),
    ]
}

/// Lines of figures below their titles, right-aligned.
fn table<'a>(first: &str, k: u32, rows: impl Iterator<Item = (&'a str, &'a Figures)>) -> String {
    let head = std::iter::once(first.to_owned()).chain(titles(k)).collect();
    let body = rows.map(|(label, figures)| {
        std::iter::once(label.to_owned()).chain(cells(figures)).collect::<Vec<String>>()
    });
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    aligned(&lines, false)
}

/// Lines of cells as columns; the first is aligned to the left, the others if they are text.
fn aligned(lines: &[Vec<String>], is_text: bool) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let shown = lines.iter().map(|line| {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if is_text || column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    });
    shown.collect::<Vec<String>>().join("\n")
}
