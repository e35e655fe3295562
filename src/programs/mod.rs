//! The programs: the arguments of each, its exit codes, and what it prints. The files in `src/bin` only
//! call these functions, so that `kyrodb ctl` and `kyrodb_ctl` run the same code.
//!
//! | Module | Program | Command of `kyrodb` |
//! |---|---|---|
//! | [`server`] | `kyrodb_server` | `serve`, `demo`, `doctor`, `plan`, `verify`, `repair` |
//! | [`ctl`] | `kyrodb_ctl` | `ctl` |
//! | [`backup`] | `kyrodb_backup` | `backup` |
//! | [`mod@bench`] | `kyrodb_load_tester` | `bench` |
//! | [`front`] | `kyrodb` | |

pub mod backup;
pub mod bench;
pub mod ctl;
pub mod front;
pub mod server;
