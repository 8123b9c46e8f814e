//! `clawmesh mcp`: the mesh as tools of the Model Context Protocol, for agents.
//!
//! A client of the running node like the command line: it holds nothing itself, so it may be started and killed at any
//! time, and several at once.  The only room that knows the crate `rmcp`, which serves the protocol versions 2024-11-05 to
//! 2026-07-28; `args` is what the tools take, `views` what they answer and `text` the same in words, `calls` what they do, `tools` how they are
//! described, `server` and `http` how they are reached, `tasks` the extension by which a client polls a call as a task.
//!
//! Every call is answered within [`CALL_MAX`], because OpenClaw's client gives up after 60 s: long work goes by its id.

mod args;
mod calls;
mod http;
mod progress;
mod server;
mod tasks;
#[cfg(test)]
mod tests;
mod text;
mod tools;
mod views;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use rmcp::{ServiceExt, service::ServerInitializeError, transport::stdio_pipes};

use self::server::Server;
use crate::output::{EXIT_REFUSED, Failure, Output};

/// Longest time of one call, from its arrival to its answer.
const CALL_MAX: Duration = Duration::from_secs(48);
/// Longest wait that a call may ask for; the rest of [`CALL_MAX`] is for the output.
const WAIT_MAX: Duration = Duration::from_secs(45);

/// How `clawmesh mcp` is started.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct McpArgs {
    /// Serve streamable HTTP on this address of this machine, at /mcp, instead of stdin and stdout; clients send the
    /// token in the file 'api.token' of the node's home.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8887", value_parser = loopback)]
    http: Option<SocketAddr>,
}

/// Serves until the client goes (stdin ends) or, with HTTP, until Ctrl-C or SIGTERM.
///
/// # Errors
/// The address cannot be had, the home holds no token, or the client does not speak the protocol.
pub(crate) async fn run(args: McpArgs, home: &Path, output: &Output) -> Result<(), Failure> {
    crate::telemetry::start();
    let server = Server::new(home);
    match args.http {
        Some(addr) => http::serve(addr, home, server, output).await,
        None => stdio(server).await,
    }
}

async fn stdio(server: Server) -> Result<(), Failure> {
    let running = match server.serve(stdio_pipes()).await {
        Ok(running) => running,
        // A client that looks and leaves is none that failed.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(e) => {
            let what = format!("the program on stdin does not speak the Model Context Protocol: {e}");
            return Err(Failure::new(EXIT_REFUSED, "protocol", what).next("clawmesh mcp --help"));
        }
    };
    match running.waiting().await {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::refused(format!("the service ended in disorder: {e}"))),
    }
}

/// An address of this machine only: tools that run commands are not for the network.
fn loopback(typed: &str) -> Result<SocketAddr, String> {
    let addr = match typed.parse::<u16>() {
        Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Err(_) => typed.parse().map_err(|_| "write it as 127.0.0.1:8887 or as a port; 0 takes any free one".to_owned())?,
    };
    if addr.ip().is_loopback() {
        Ok(addr)
    } else {
        Err(format!("{} is not an address of this machine alone; 127.0.0.1 and [::1] are. From elsewhere, use a tunnel", addr.ip()))
    }
}
