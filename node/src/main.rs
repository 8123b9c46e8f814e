//! The program `clawmesh`.
#![allow(dead_code, reason = "scratch")]
mod exec;
mod facts;
mod skills;
fn main() {}
