//! The server program: [`kyrodb::programs::server`].

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    kyrodb::programs::server::main(&std::env::args_os().collect::<Vec<OsString>>())
}
