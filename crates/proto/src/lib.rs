//! The wire format of KyroDB, generated from proto/, and the bounds on messages before they are decoded.

#![forbid(unsafe_code)]

pub mod proto;
