#![no_std]
#![deny(missing_docs, unreachable_pub)]
//! The rules of the mesh: a deterministic, sans-IO core.
extern crate alloc;
pub mod codec;
pub mod config;
pub mod face;
pub mod gate;
pub mod ids;
pub mod io;
pub mod message;
pub mod record;
pub mod skill;
pub mod spec;
pub mod time;
