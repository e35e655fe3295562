//! The operator's program: [`kyrodb::programs::ctl`].

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    kyrodb::programs::ctl::main(&std::env::args_os().collect::<Vec<OsString>>())
}
