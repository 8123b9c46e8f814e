//! The program `clawmesh`.
#![deny(unreachable_pub)]
mod api;
mod bench;
mod cli;
mod client;
mod daemon;
mod demo;
mod depot;
mod exec;
mod facts;
mod mcp;
mod memory;
mod net;
mod nursery;
mod output;
mod power;
mod share;
mod skills;
mod store;
mod telemetry;

fn main() -> std::process::ExitCode {
    cli::main()
}
