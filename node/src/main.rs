//! The program `clawmesh`.
#![deny(unreachable_pub)]
#![allow(dead_code, unused_imports)]
mod api;
mod bench;
mod cli;
mod client;
mod demo;
mod exec;
mod facts;
mod nursery;
mod output;
mod skills;
mod store;

mod daemon {
    //! Stand-in.
    use crate::{
        cli::UpArgs,
        output::{Failure, Output},
    };
    pub(crate) fn up(args: UpArgs, _output: Output) -> Result<(), Failure> {
        Err(Failure::refused(format!("this build has no daemon ({args:?})")))
    }
    pub(crate) fn ticket(home: &std::path::Path) -> Result<String, Failure> {
        Err(Failure::refused(format!("{} holds no mesh", home.display())))
    }
}
fn main() -> std::process::ExitCode {
    cli::main()
}
