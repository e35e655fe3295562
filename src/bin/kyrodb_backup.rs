//! The backup program: [`kyrodb::programs::backup`].

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    kyrodb::programs::backup::main(&std::env::args_os().collect::<Vec<OsString>>())
}
