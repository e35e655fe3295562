//! Clients of a KyroDB server: control program, demo, load tester, drivers of other engines, manual pages.

#![forbid(unsafe_code)]

pub mod credentials;
pub mod ctl;
pub mod dataset;
pub mod demo;
pub mod load;
pub mod packaging;
pub mod table;

// Modules below, by the paths that the modules here use.
use kyrodb_proto::proto;
use kyrodb_types as types;
