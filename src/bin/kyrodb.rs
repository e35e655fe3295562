//! The front command: [`kyrodb::programs::front`].

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    kyrodb::programs::front::main(&std::env::args_os().collect::<Vec<OsString>>())
}
