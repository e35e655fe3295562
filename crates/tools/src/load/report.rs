//! The report: charts and tables of all runs, as one self-contained HTML page.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::chart::{Chart, Line};
use super::output::{Context, More, Table, cells, titles};
use super::record::{Figures, Interval, Summary};
use super::sweep::typical;

type Results = [(Summary, Vec<Interval>)];

/// A line of a chart: its name, and the figure that it shows.
type Shown = (&'static str, fn(&Figures) -> f64);

/// Writes the page, and the charts as files, where requested.
///
/// # Errors
/// The chart or file that could not be drawn or written.
pub(super) fn write(
    context: &Context,
    results: &Results,
    more: &More,
    html: Option<&Path>,
    svg: Option<&Path>,
) -> Result<(), String> {
    if html.is_none() && svg.is_none() {
        return Ok(());
    }
    let mut pictures = Vec::new();
    let own = charts(results);
    for chart in own.iter().chain(&more.charts) {
        pictures.push((chart.name, chart.draw()?));
    }
    if let Some(directory) = svg {
        let failed = |error: std::io::Error| format!("--svg {}: {error}", directory.display());
        std::fs::create_dir_all(directory).map_err(failed)?;
        for (name, picture) in &pictures {
            std::fs::write(directory.join(format!("{name}.svg")), picture).map_err(failed)?;
        }
    }
    if let Some(path) = html {
        let page = page(context, results, more, &pictures);
        let failed = |error: std::io::Error| format!("--report {}: {error}", path.display());
        std::fs::write(path, page).map_err(failed)?;
    }
    Ok(())
}

/// The charts for which there are enough results.
fn charts(results: &Results) -> Vec<Chart> {
    let summaries = || results.iter().map(|(summary, _)| summary);
    let mut charts = Vec::new();
    let closed = summaries().filter(|s| s.mode == "closed" && s.figures.recall.is_some());
    let closed = typical(closed);
    if closed.len() > 1 {
        charts.push(recall_chart(&closed));
    }
    let mut open: Vec<&Summary> = summaries().filter(|s| s.target_qps.is_some()).collect();
    if open.len() > 1 {
        open.sort_by(|a, b| a.target_qps.unwrap_or(0.0).total_cmp(&b.target_qps.unwrap_or(0.0)));
        charts.push(rate_chart(&open));
    }
    if let Some((summary, intervals)) = results.last().filter(|(_, i)| !i.is_empty()) {
        charts.push(time_chart(summary, intervals));
    }
    charts
}

fn recall_chart(closed: &[&Summary]) -> Chart {
    let point = |s: &&Summary| (s.figures.recall.unwrap_or(0.0), s.figures.qps);
    let line = Line {
        name: "closed loop".into(),
        points: closed.iter().map(point).collect(),
        words: closed.iter().map(|summary| format!("ef {}", summary.ef)).collect(),
    };
    Chart {
        name: "recall_qps",
        title: "Searches a second against recall, closed loop".into(),
        x: "recall",
        y: "searches a second",
        is_log: false,
        from_zero: false,
        lines: vec![line],
    }
}

fn rate_chart(open: &[&Summary]) -> Chart {
    const SHOWN: [Shown; 3] = [("p50", |f| f.p50_ms), ("p95", |f| f.p95_ms), ("p99", |f| f.p99_ms)];
    let lines = SHOWN.map(|(name, figure)| Line {
        name: name.into(),
        points: open
            .iter()
            .map(|summary| (summary.target_qps.unwrap_or(0.0), figure(&summary.figures)))
            .collect(),
        words: Vec::new(),
    });
    Chart {
        name: "latency_rate",
        title: "Latency against the rate that is asked, open loop".into(),
        x: "requests a second",
        y: "latency in ms",
        is_log: true,
        from_zero: true,
        lines: lines.into(),
    }
}

fn time_chart(summary: &Summary, intervals: &[Interval]) -> Chart {
    const SHOWN: [Shown; 4] = [
        ("p50", |f| f.p50_ms),
        ("p95", |f| f.p95_ms),
        ("p99", |f| f.p99_ms),
        ("longest", |f| f.max_ms),
    ];
    // The rest after the last whole second has too few requests for percentiles.
    let is_whole = |i: &&Interval| i.seconds > 0.5 && i.figures.max_ms > 0.0;
    let answered = || intervals.iter().filter(is_whole);
    let lines = SHOWN.map(|(name, figure)| Line {
        name: name.into(),
        points: answered().map(|i| (i.second, figure(&i.figures))).collect(),
        words: Vec::new(),
    });
    Chart {
        name: "latency_time",
        title: format!("Latency of what was answered in each second, run {}", summary.label),
        x: "seconds",
        y: "latency in ms",
        is_log: true,
        from_zero: true,
        lines: lines.into(),
    }
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;\
padding:0 1rem;color:#22262b}table{border-collapse:collapse;margin:1rem 0;width:100%}\
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e1e4e8;\
font-variant-numeric:tabular-nums}th{font-weight:600}\
th:first-child,td:first-child{text-align:left}.facts td,.facts th{text-align:left}\
svg{max-width:100%;height:auto}.remark{color:#a3182b}";

fn page(context: &Context, results: &Results, more: &More, pictures: &[(&str, String)]) -> String {
    let mut body = String::from("<h1>KyroDB under load</h1>\n");
    for (summary, _) in results {
        for remark in summary.remarks() {
            let text = escape(&format!("{}: {remark}", summary.label));
            push(&mut body, format_args!("<p class=\"remark\">{text}</p>\n"));
        }
    }
    for remark in &more.remarks {
        push(&mut body, format_args!("<p class=\"remark\">{}</p>\n", escape(remark)));
    }
    for (name, picture) in pictures {
        push(&mut body, format_args!("<figure id=\"{name}\">{picture}</figure>\n"));
    }
    for table in &more.tables {
        push_lines(&mut body, table);
    }
    if let Some((summary, _)) = results.first() {
        body.push_str("<h2>Runs</h2>\n");
        let runs = results.iter().map(|(summary, _)| (summary.label.clone(), &summary.figures));
        push_table(&mut body, "RUN", summary.k, runs);
    }
    for (summary, _) in results.iter().filter(|(summary, _)| summary.operations.len() > 1) {
        push(&mut body, format_args!("<h2>Operations, {}</h2>\n", escape(&summary.label)));
        let rows = summary.operations.iter().map(|(word, figures)| ((*word).to_owned(), figures));
        push_table(&mut body, "OPERATION", summary.k, rows);
    }
    body.push_str("<h2>What was measured where</h2>\n<table class=\"facts\">\n");
    let machine = serde_json::json!(context.machine);
    push_facts(&mut body, "version of the ", &context.versions);
    push_facts(&mut body, "", &machine);
    push_facts(&mut body, "", &context.settings);
    body.push_str("</table>\n");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>KyroDB under load</title>\
         <style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String never fails.
    let _ = text.write_fmt(arguments);
}

fn push_table<'a>(
    body: &mut String,
    first: &str,
    k: u32,
    rows: impl Iterator<Item = (String, &'a Figures)>,
) {
    let heads = titles(k).map(|title| format!("<th>{title}</th>")).concat();
    push(body, format_args!("<table>\n<tr><th>{first}</th>{heads}</tr>\n"));
    for (label, figures) in rows {
        let cells = cells(figures).map(|cell| format!("<td>{cell}</td>")).concat();
        push(body, format_args!("<tr><td>{}</td>{cells}</tr>\n", escape(&label)));
    }
    body.push_str("</table>\n");
}

fn push_lines(body: &mut String, table: &Table) {
    let class = if table.is_text { " class=\"facts\"" } else { "" };
    push(body, format_args!("<h2>{}</h2>\n<table{class}>\n", table.title));
    for (index, line) in table.lines.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells = line.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        push(body, format_args!("<tr>{}</tr>\n", cells.collect::<String>()));
    }
    body.push_str("</table>\n");
}

fn push_facts(body: &mut String, before: &str, facts: &Value) {
    for (name, value) in facts.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (name, value) = (escape(&name.replace('_', " ")), escape(&value));
        push(body, format_args!("<tr><td>{before}{name}</td><td>{value}</td></tr>\n"));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
