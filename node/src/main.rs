//! The program `clawmesh`.
#![deny(unreachable_pub)]
#![allow(dead_code, unused_imports)]
mod api;
mod cli;
mod client;
mod daemon;
mod exec;
mod facts;
mod net;
mod output;
mod skills;
mod store;
mod telemetry;

mod demo {
    //! Stand-in.
    use crate::{
        cli::DemoArgs,
        output::{Failure, Output},
    };
    pub(crate) async fn run(args: DemoArgs, _output: Output) -> Result<(), Failure> {
        Err(Failure::refused(format!("this build has no demo ({args:?})")))
    }
}
mod bench {
    //! Stand-in.
    use crate::{
        cli::BenchArgs,
        output::{Failure, Output},
    };
    pub(crate) async fn run(args: BenchArgs, _home: &std::path::Path, _output: Output) -> Result<(), Failure> {
        Err(Failure::refused(format!("this build has no bench ({args:?})")))
    }
}

fn main() -> std::process::ExitCode {
    cli::main()
}
