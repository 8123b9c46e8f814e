//! The program `clawmesh`.
fn main() {}
