//! The program `clawmesh`.
#![allow(dead_code)]
mod exec;
mod facts;
mod skills;
mod store;
fn main() {}
