//! A profile as stacks in lines, and as a flame graph of them: the name of the thread first, then who
//! calls whom.

use std::collections::BTreeMap;

use inferno::flamegraph::{self, Options};

use super::sampler::Samples;
use super::symbols::{KERNEL, Symbols};

/// `thread;caller;called count`, in order.
pub(super) fn folded(samples: &Samples, symbols: &Symbols) -> Vec<String> {
    // What is one function to people may be at several addresses.
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (stack, count) in &samples.stacks {
        let mut names = vec![stack.thread.as_ref()];
        let functions = symbols.frames(stack).map(|frame| frame.function.as_str());
        names.extend(functions.collect::<Vec<_>>().into_iter().rev());
        if stack.is_in_kernel {
            names.push(KERNEL);
        }
        // Types of arrays have what separates frames.
        let names: Vec<String> = names.iter().map(|name| name.replace(';', ",")).collect();
        *counts.entry(names.join(";")).or_insert(0) += count;
    }
    counts.into_iter().map(|(names, count)| format!("{names} {count}")).collect()
}

/// The flame graph.
///
/// # Errors
/// If it can't be drawn.
pub(super) fn svg(samples: &Samples, symbols: &Symbols) -> Result<Vec<u8>, String> {
    let mut lines = folded(samples, symbols);
    if lines.is_empty() {
        // No thread has run for as long as a sample stands for.
        lines.push("idle 1".into());
    }
    let mut options = Options::default();
    let seconds = samples.took.as_secs_f64();
    options.title = format!("KyroDB: CPU time of {seconds:.1} s, {} threads", samples.threads);
    let kernel = if samples.has_kernel { "" } else { ", without time in the kernel" };
    let (hertz, lost) = (samples.hertz, samples.lost);
    options.subtitle = Some(format!("{hertz} samples a second{kernel}, {lost} lost"));
    let mut picture = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut picture)
        .map_err(|error| format!("the flame graph can't be drawn: {error}"))?;
    Ok(picture)
}
