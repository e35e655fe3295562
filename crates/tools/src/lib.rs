//! Clients of a KyroDB server: control program, demo, load tester, drivers of other engines, manual pages.

#![forbid(unsafe_code)]

pub mod credentials;
pub mod ctl;
pub mod dataset;
pub mod demo;
pub mod load;
pub mod packaging;
pub mod table;

#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_proto::proto;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types as types;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types::{clock, error, sabotage, sync};
