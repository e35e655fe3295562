//! Models of the lock-free code by which the owners of a partition work on each other's memory.
//!
//! The files under test are those of the main package, compiled here with the atomics of loom, which runs a model
//! once for each order in which its threads may come, and for each value that the memory orderings let a load see.
//! Other items that those files name are real as well, or have a stand-in here: arenas ([`store::arena`]), the queue
//! ([`sync::SegQueue`]) and the graph around a hold ([`graph::Graph`]). Each model lists the faults that it was seen
//! to catch when the code was broken by hand.
//!
//! loom takes a sequentially consistent load or store for one that only acquires or releases, so a model may fail
//! where the code is right; a fence of that kind is sequentially consistent in loom as well. And loom leaves out some
//! of the effects that relaxed accesses allow, a store that overtakes a load before it, so a model that passes says
//! nothing of those.

#![allow(dead_code, reason = "the models do not call all that is in the files")]

pub mod graph;
pub mod plain;
pub mod store;
pub mod sync;
pub mod types;
