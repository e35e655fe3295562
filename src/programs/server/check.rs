//! `--verify-wal`, `--verify` and `--repair`: the server program as a check of its directory.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::config::{self, Config, Overrides};
use crate::server;

use super::Arguments;

/// Does what was asked for, and prints what was found.
pub(super) fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let is_json = arguments.json;
    let (is_whole, is_repair) = (arguments.verify, arguments.repair);
    let config = configuration(arguments)?;
    let directory = config.persistence.data_dir.clone();
    if is_repair {
        let Some(repaired) = server::repair_directory(&directory, &config)? else {
            let nothing = "there is nothing to repair";
            if is_json {
                print(&serde_json::json!({ "is_repaired": false, "what": nothing }), true)?;
            } else {
                print(&nothing, false)?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        print(&repaired, is_json)?;
        return Ok(code(repaired.is_lossless));
    }
    // It draws nothing where standard error is no terminal.
    let bar = ProgressBar::no_length();
    let style = ProgressStyle::with_template("checking {bar:40} {pos}/{len} {msg}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let progress = &mut |file: &str, done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(file.to_owned());
    };
    if is_whole {
        let whole = server::verify_whole(&directory, &config, progress);
        bar.finish_and_clear();
        let whole = whole?;
        print(&whole, is_json)?;
        Ok(code(whole.files.is_clean))
    } else {
        let report = server::verify(&directory, progress);
        bar.finish_and_clear();
        let report = report?;
        print(&report, is_json)?;
        Ok(code(report.is_clean))
    }
}

pub(super) fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The configuration. One that a server would refuse is no reason to check nothing, where the
/// directory is given.
pub(super) fn configuration(arguments: Arguments) -> Result<Config, String> {
    let Arguments { config: file, data_dir, .. } = arguments;
    let is_asked_for = file.is_some();
    let overrides = Overrides { file, data_dir: data_dir.clone(), ..Overrides::default() };
    match (config::load(&overrides, std::env::vars_os()), data_dir) {
        (Ok((config, _)), _) => Ok(config),
        (Err(_), Some(data_dir)) if !is_asked_for => {
            let mut config = Config::default();
            config.persistence.data_dir = data_dir;
            Ok(config)
        }
        (Err(faults), _) => Err(faults.join("\n  ")),
    }
}

/// Prints a report for programs or for people.
pub(super) fn print<T: Serialize + Display>(report: &T, is_json: bool) -> Result<(), String> {
    let text = if is_json {
        let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        format!("{json}\n")
    } else {
        let text = report.to_string();
        if text.ends_with('\n') { text } else { format!("{text}\n") }
    };
    // Who reads only the first lines, as with `| head`, has seen enough.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("the report can't be written: {error}"))
        }
        _ => Ok(()),
    }
}
