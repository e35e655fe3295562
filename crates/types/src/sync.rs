//! Atomics and the queue that threads share without a lock, in the modules that are model-checked.
//!
//! Those modules name [`crate::sync`] where others name the standard library, so that `models/`, a crate that
//! compiles the same files, can put loom's types in their place: with these a model checker tries every order of the
//! threads, and every value that a load may see. Nothing else belongs here.

pub use crossbeam_queue::SegQueue;

pub use std::sync::atomic;
