//! The files of `store` that are modelled, and the items that they name.

pub mod arena;
#[path = "../../crates/engine/src/store/chain.rs"]
pub mod chain;
pub mod chain_model;
#[path = "../../crates/engine/src/store/life.rs"]
mod life;
#[path = "../../crates/engine/src/store/member.rs"]
pub mod member;
#[path = "../../crates/engine/src/store/pin.rs"]
mod pin;
#[path = "../../crates/engine/src/store/readers.rs"]
mod readers;
pub mod readers_model;
pub mod view_model;
