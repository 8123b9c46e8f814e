//! A deterministic virtual world that runs the core of clawmesh: the very code that ships.
//!
//! A seed decides everything: sizes, delays, disks, faults, users, and the cores' own randomness.  The
//! [`oracle`] writes down what truly happened; the checkers in [`check`] judge it, one per invariant of
//! the protocol.  See `README.md` beside this crate for how to run it and how to read a trace.

#![deny(missing_docs, unreachable_pub)]

pub mod check;
mod core;
pub mod coverage;
mod diurnal;
mod layout;
pub mod mutants;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod run;
pub mod scale;
pub mod shrink;
pub mod takeover;
mod world;
