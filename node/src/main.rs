//! The program `clawmesh`.
#![deny(unreachable_pub)]
#![allow(dead_code, unused_imports)]
mod api;
mod cli;
mod client;
mod exec;
mod facts;
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
