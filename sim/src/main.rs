//! `clawmesh-sim`: runs worlds, and replays the ones that went wrong.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A panic inside a run is reported as that seed's violation; its usual message would only be noise.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    cli::main()
}
