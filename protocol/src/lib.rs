#![no_std]
#![deny(missing_docs)]
//! The rules of the mesh: a deterministic, sans-IO core.
extern crate alloc;
pub mod codec;
pub mod config;
mod election;
pub mod face;
pub mod gate;
mod handover;
mod health;
mod hold;
pub mod ids;
pub mod io;
pub mod mesh;
pub mod message;
pub mod mutant;
mod origin;
pub mod placement;
mod query;
mod queue;
pub mod quorum;
pub mod record;
pub mod relay;
pub mod rest;
pub mod rule;
mod schedule;
pub mod skill;
pub mod spec;
mod suspend;
mod table;
mod takeover;
pub mod time;
mod versions;
mod view;
mod worker;
mod writes;
