//! The program `clawmesh`.
mod exec;
fn main() {}
