//! The load tester: arguments → [`crate::load`] → what it measured, and an exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::load::{Arguments, Fault, run};

/// What its command line can have.
pub(super) fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program. The first of the words is its name, as in the command line of a process.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    if let Some(code) = crate::packaging::if_asked(words, command) {
        return code;
    }
    match run(&Arguments::parse_from(words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fault::Usage(why)) => {
            eprintln!("kyrodb_load_tester: {why}");
            ExitCode::from(2)
        }
        Err(Fault::Failed(why)) => {
            eprintln!("kyrodb_load_tester: {why}");
            ExitCode::FAILURE
        }
    }
}
