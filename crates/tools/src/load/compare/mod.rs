//! Comparison of several engines at equal work: equal vectors, equal queries in one order, one clock, and in turns, so
//! that events on the machine affect all of them.
//!
//! Each engine is loaded (`engine`), then searches at increasing beam widths until it reaches the recall, then is
//! measured in laps (`lap`): searches, then inserts. `table` shows the results. An engine that fails is excluded from
//! then on; its earlier results are kept.

mod engine;
mod lap;
mod table;

use std::sync::Arc;

use serde_json::json;

use super::Fault;
use super::arguments::{Comparison, Settings};
use super::output::Output;
use super::peers::{Connection, Place, Shape};
use super::record::Summary;
use super::setup::Bench;
use super::sweep::widths;
use engine::{Engine, Point};
use lap::{Inputs, Job, Lap};

/// Beam widths that are measured beyond the one that reaches the recall, for the chart.
const BEYOND: usize = 2;

/// Largest share of failed requests of a lap; beyond it an engine is excluded.
const FAILURE_RATIO_MAX: f64 = 0.01;

/// Measures KyroDB and the peers.
///
/// # Errors
/// If an engine could not be measured to the end. Earlier results are shown.
pub(super) async fn run(
    settings: &Settings,
    bench: &Bench,
    output: &mut Output,
) -> Result<(), Fault> {
    let Some(comparison) = &settings.comparison else {
        return Err(Fault::Usage("there is nothing to compare".into()));
    };
    let dimension = bench.requests.data.base.width;
    let shape = Shape::of(&bench.server, dimension, settings.k, settings.timeout)?;
    let mut race = Race {
        engines: Vec::new(),
        inputs: Arc::new(Inputs::new(bench.requests.data.clone(), settings)),
        settings,
        comparison,
        shape,
        number: 0,
    };
    let measured = tokio::select! {
        measured = race.measure(bench, output) => measured,
        pressed = tokio::signal::ctrl_c() => {
            output.end();
            race.stop(if pressed.is_ok() { "interrupted" } else { "no signals" });
            Ok(())
        }
    };
    race.leave(bench, output).await;
    table::tell(&race, output)?;
    measured?;
    let troubles = race
        .engines
        .iter()
        .filter_map(|engine| engine.trouble.as_ref().map(|why| format!("{}: {why}", engine.name)));
    let troubles: Vec<String> = troubles.collect();
    if troubles.is_empty() {
        return Ok(());
    }
    Err(Fault::Failed(format!("the comparison is partial: {}", troubles.join("; "))))
}

/// State of a comparison.
struct Race<'a> {
    engines: Vec<Engine>,
    inputs: Arc<Inputs>,
    settings: &'a Settings,
    comparison: &'a Comparison,
    shape: Shape,
    /// Laps so far.
    number: usize,
}

impl Race<'_> {
    async fn measure(&mut self, bench: &Bench, output: &mut Output) -> Result<(), Fault> {
        self.meet(bench, output).await;
        let base = self.inputs.data.clone();
        for engine in &mut self.engines {
            engine.load(&base.base, output).await;
        }
        for engine in &mut self.engines {
            engine.fill(bench, self.settings.concurrency, &self.shape, output).await;
        }
        self.sweep(output).await?;
        for job in [Job::Search, Job::Insert] {
            for round in 0..self.comparison.rounds as usize {
                self.round(job, round, output).await?;
            }
        }
        Ok(())
    }

    /// Connects to each engine, and gets its facts, before time is spent on any.
    async fn meet(&mut self, bench: &Bench, output: &Output) {
        let (client, server) = (bench.clients[0].clone(), bench.server.clone());
        let mut first = Connection::kyrodb(client, server, &self.shape);
        let facts = first.facts().await;
        let mut kyrodb = Engine::new("kyrodb", None);
        kyrodb.greet(facts.map(|facts| (first, facts)), output);
        kyrodb.loaded = bench.loaded.filter(|loaded| {
            // A partial load has no rate.
            loaded.documents == self.inputs.data.base.count()
        });
        self.engines.push(kyrodb);
        for target in &self.comparison.targets {
            let (kind, word) = (target.kind, target.kind.word());
            let mut engine = match &target.place {
                Place::At(address) => Engine::new(word, Some((kind, address.clone()))),
                Place::Absent(reason) => Engine::absent(word, reason.clone()),
            };
            if let Place::At(address) = &target.place {
                let opened = Connection::open(kind, address, &self.shape).await;
                engine.greet(opened, output);
            }
            self.engines.push(engine);
        }
    }

    /// Finds each engine's smallest beam width that reaches the recall, all engines at one width before the next.
    async fn sweep(&mut self, output: &mut Output) -> Result<(), Fault> {
        for width in widths(self.settings.k) {
            for index in 0..self.engines.len() {
                let engine = &mut self.engines[index];
                let good = engine.curve.iter().filter(|p| p.recall >= self.comparison.recall);
                if good.count() > BEYOND || !engine.is_in() {
                    continue;
                }
                engine.set_width(width, output).await;
                let lap = Lap { job: Job::Search, in_flight: self.settings.concurrency };
                let Some(summary) = self.lap(index, "sweep", lap, output).await? else { continue };
                let (recall, qps) = (summary.figures.recall.unwrap_or(0.0), summary.figures.qps);
                let engine = &mut self.engines[index];
                output.say(&format!(
                    "{} at width {width}: recall {recall:.4}, {qps:.1} a second",
                    engine.name
                ));
                engine.curve.push(Point { width, recall, qps });
            }
        }
        for engine in self.engines.iter_mut().filter(|engine| engine.is_in()) {
            let good = engine.curve.iter().find(|point| point.recall >= self.comparison.recall);
            engine.is_good = good.is_some();
            engine.width = good.or_else(|| engine.curve.last()).map(|point| point.width);
        }
        Ok(())
    }

    /// Measures each engine once, beginning with another one each round.
    async fn round(&mut self, job: Job, round: usize, output: &mut Output) -> Result<(), Fault> {
        let count = self.engines.len();
        let mut places = vec![1, self.settings.concurrency];
        places.dedup();
        for index in (0..count).map(|turn| (turn + round) % count) {
            for &in_flight in &places {
                let engine = &mut self.engines[index];
                let Some(width) = engine.width.filter(|_| engine.is_in()) else { continue };
                engine.set_width(width, output).await;
                let lap = Lap { job, in_flight };
                let name = format!("round {}", round + 1);
                if let Some(summary) = self.lap(index, &name, lap, output).await? {
                    let engine = &mut self.engines[index];
                    engine.laps.entry(lap).or_default().push(summary.figures);
                }
            }
            if job == Job::Insert {
                self.engines[index].clean_up(&self.inputs, output).await;
            }
        }
        Ok(())
    }

    /// Measures one engine at one job. `None`: it is excluded.
    async fn lap(
        &mut self,
        index: usize,
        round: &str,
        lap: Lap,
        output: &mut Output,
    ) -> Result<Option<Summary>, Fault> {
        let engine = &mut self.engines[index];
        if !engine.is_in() {
            return Ok(None);
        }
        self.number += 1;
        let label = format!("{}, {round}: {}", engine.name, lap.told());
        output.begin(label.clone());
        let written = engine.written.clone();
        let run = lap::run(&mut engine.sessions, &self.inputs, &written, lap, self.settings).await;
        output.end();
        let mut summary = run?;
        (summary.run, summary.label) = (self.number, label);
        summary.ef = engine.current_width;
        let mut line = json!(summary);
        line["kind"] = "lap".into();
        line["engine"] = engine.name.into();
        line["round"] = round.into();
        line["job"] = lap.job.word().into();
        line["in_flight"] = lap.in_flight.into();
        output.write_json(&line)?;
        engine.judge(&summary, lap, output);
        Ok(engine.is_in().then_some(summary))
    }

    /// Ends the comparison early.
    fn stop(&mut self, why: &str) {
        for engine in self.engines.iter_mut().filter(|engine| engine.is_in()) {
            engine.trouble = Some(why.to_owned());
        }
    }

    /// Removes inserted documents and tables, as far as possible.
    async fn leave(&mut self, bench: &Bench, output: &Output) {
        for engine in &mut self.engines {
            engine.leave(bench, &self.inputs, &self.shape, output).await;
        }
    }
}
