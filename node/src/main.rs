//! The program `clawmesh`.
#![allow(dead_code)]
mod net;
fn main() {}
