//! What threads have in common without a lock: the atomics and the queue of the parts that are
//! modelled.
//!
//! Those name [`crate::sync`] where others name the standard library, so that `models/`, a crate that
//! has the same files, can put others in their place: with them a model checker tries every order in
//! which threads may come, and every value that a load may see. Nothing else belongs here.

pub(crate) use crossbeam_queue::SegQueue;

pub(crate) use std::sync::atomic;
