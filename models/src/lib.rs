//! Models of what the owners of a partition do to each other's memory without a lock.
//!
//! The files that do it are those of the main package, compiled here with the atomics of loom, which
//! runs a model once for each order in which its threads may come, and for each value that the memory
//! orderings let a load see. What those files name beside atomics is real as well, or stands in for it
//! here: arenas ([`store::arena`]), the queue ([`sync::SegQueue`]) and the graph around a hold
//! ([`graph::Graph`]). Each model says what it was seen to catch when it was broken by hand.
//!
//! loom takes a sequentially consistent load or store for one that only acquires or releases, so a
//! model may fail where the code is right; a fence of that kind is one to it as well. And it leaves out
//! some of what relaxed accesses allow, a store that overtakes a load before it, so a model that
//! passes says nothing of that.

#![allow(dead_code, reason = "the models do not call all that is in the files")]

pub mod graph;
pub mod plain;
pub mod store;
pub mod sync;
pub mod types;
