//! The load tester: arguments → [`kyrodb::load`] → what it measured, and an exit code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use kyrodb::load::{Arguments, Fault, run};

fn main() -> ExitCode {
    if let Some(code) = kyrodb::packaging::if_asked(Arguments::command) {
        return code;
    }
    match run(&Arguments::parse()) {
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
