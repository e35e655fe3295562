//! The load tester: [`kyrodb::programs::bench`].

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    kyrodb::programs::bench::main(&std::env::args_os().collect::<Vec<OsString>>())
}
