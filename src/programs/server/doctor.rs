//! `--doctor`: the server program as a check of its host.

use std::process::ExitCode;

use super::{Arguments, check};

/// Looks, and prints what was found.
pub(super) fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let is_json = arguments.json;
    let config = check::configuration(arguments)?;
    let report = crate::doctor::run(&config)?;
    check::print(&report, is_json)?;
    Ok(check::code(report.is_fit))
}
