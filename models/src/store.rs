//! The files of `store` that are modelled, and the items that they name.

pub mod arena;
#[path = "../../src/store/chain.rs"]
pub mod chain;
pub mod chain_model;
#[path = "../../src/store/life.rs"]
mod life;
#[path = "../../src/store/member.rs"]
pub mod member;
#[path = "../../src/store/pin.rs"]
mod pin;
#[path = "../../src/store/readers.rs"]
mod readers;
pub mod readers_model;
pub mod view_model;
