//! The program `clawmesh`.
mod exec;
mod facts;
mod skills;
fn main() {}
