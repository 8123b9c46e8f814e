//! The command line: one file per group of commands.  Commands compute; [`Output`] prints.

mod agent;
mod ask;
mod blobs;
mod config;
mod memory;
mod node;
mod quorum;
mod run;
mod share;
mod skills;
mod skills_check;
mod spec;
mod tasks;
#[cfg(test)]
mod tests;
mod up;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use etcetera::BaseStrategy;

use clawmesh_protocol::ids::Peer;

pub(crate) use self::{
    agent::AgentArgs,
    up::{MemoryFlag, UpArgs},
};
use crate::{
    client::Client,
    output::{Failure, Mode, Output},
};

/// A peer-to-peer mesh that lets agents, scripts and people on many machines share their work.
///
/// Start a node with 'clawmesh up', another one elsewhere with 'clawmesh up --join TICKET', then run something from any
/// of them: 'clawmesh run -- uname -a'.
///
/// Exit codes: 0 done, 1 the task failed or the thing was refused, 2 wrong usage, 3 no node reachable, 4 timed out waiting.
/// 'run' ends with the task's own exit code, 124 after a time limit, 125 when the mesh itself failed.
#[derive(Debug, Parser)]
#[command(name = "clawmesh", version, propagate_version = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// The node's home directory [default: ~/.clawmesh].
    #[arg(long, global = true, env = "CLAWMESH_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Print one JSON value; errors as JSON on stderr.
    #[arg(long, global = true)]
    json: bool,
    /// Print the essence only: ids and names.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node, and a mesh when there is none yet.
    Up(Box<up::Flags>),
    /// Stop the node of this home in order.
    Down,
    /// Show the node, who coordinates, the members and the queue.
    Status,
    /// List the nodes, or take this one out of work for a while.
    Nodes {
        #[command(subcommand)]
        what: Option<node::Nodes>,
    },
    /// Name the voters of the mesh, so that at most one side of a split serves.
    Quorum {
        #[command(subcommand)]
        what: Option<quorum::Quorum>,
    },
    /// List the skills of the mesh, or show one.
    Skills {
        #[command(subcommand)]
        what: Option<skills::Skills>,
    },
    /// Share files of any size by the hash of their content.
    Blobs {
        #[command(subcommand)]
        what: Option<blobs::Blobs>,
    },
    /// Write down notes that all nodes keep which share memory, and find them again.
    Memory {
        #[command(subcommand)]
        what: Option<memory::Memory>,
    },
    /// Print the ticket that lets another machine join.
    Invite,
    /// Run a command on some node, and wait for it as if it ran here.
    Run(Box<run::RunArgs>),
    /// Submit a skill, or one of the builtins echo, sleep and fail.
    Submit(Box<run::SubmitArgs>),
    /// Ask an agent somewhere in the mesh, and wait for its answer.
    Ask(Box<ask::AskArgs>),
    /// List tasks, or look at one.
    Tasks {
        #[command(subcommand)]
        what: Option<tasks::Tasks>,
    },
    /// Say what the mesh is.
    Mesh {
        #[command(subcommand)]
        what: node::Mesh,
    },
    /// Read and change settings.
    Config {
        #[command(subcommand)]
        what: config::Config,
    },
    /// Print the node's figures as Prometheus reads them.
    Metrics,
    /// Show the whole thing: three nodes on this machine, some hundred tasks, two of the nodes killed.
    Demo(DemoArgs),
    /// Measure throughput and latency of a running mesh, or of one of three nodes started for it.
    Bench(BenchArgs),
    /// Offer the mesh to an agent as tools of the Model Context Protocol, on stdin and stdout or by HTTP.
    Mcp(crate::mcp::McpArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the program's version.
    Version,
}

/// What `clawmesh demo` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Leave the mesh up at the end.
    #[arg(long)]
    pub(crate) keep: bool,
    /// How many tasks to submit.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub(crate) tasks: u32,
    /// Where the three homes go [default: a temporary directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// What `clawmesh bench` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// No-op tasks submitted in bulk.
    #[arg(long, default_value_t = 20_000, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) tasks: u32,
    /// Single round trips.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub(crate) singles: u32,
    /// Tasks that spawn a process.
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub(crate) processes: u32,
    /// Start a mesh of three nodes for it, even when a node runs on this home.
    #[arg(long)]
    pub(crate) own: bool,
    /// Kill the coordinator so many times and measure how long nobody takes tasks; needs --own.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "own", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) takeovers: u32,
}

/// What every command gets.
struct Context {
    home: PathBuf,
    output: Output,
}

impl Context {
    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::open(&self.home)?)
    }
    /// Prints whom the distributed index named, with the names that the mesh knows them by.
    async fn list_holders(&self, client: &Client, found: &[Peer]) -> Result<(), Failure> {
        let members = client.nodes().await?;
        for p in found {
            let known = members.iter().find(|m| m.node == *p).map_or("not seen yet", |m| m.name.as_str());
            self.output.line(&if self.output.mode() == Mode::Quiet { p.to_string() } else { format!("{known}  {p}") })?;
        }
        Ok(())
    }
}

/// The whole program: reads the arguments, runs the command, says what went wrong.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout with code 0, mistakes to stderr with code 2.  A reader that went away is none.
            let printed = e.print();
            drop(printed);
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(crate::output::EXIT_USAGE));
        }
    };
    let mode = match (cli.global.json, cli.global.quiet) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Quiet,
        (false, false) => Mode::Human,
    };
    let output = Output::new(mode);
    let from_env = std::env::var_os("CLAWMESH_HOME").map(PathBuf::from);
    let output = match &cli.global.home {
        Some(typed) if from_env.as_ref() != Some(typed) => output.with_home(typed),
        _ => output,
    };
    let done = home(cli.global.home).and_then(|home| dispatch(cli.command, Context { home, output: output.clone() }));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) => {
            output.failure(&f);
            ExitCode::from(f.exit)
        }
    }
}

fn home(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let home = match given {
        Some(home) if home.as_os_str().is_empty() => {
            return Err(Failure::usage("the home directory is an empty text: give --home DIR, or unset CLAWMESH_HOME"));
        }
        Some(home) => home,
        None => etcetera::choose_base_strategy()
            .map(|s| s.home_dir().join(".clawmesh"))
            .map_err(|_| Failure::usage("this user has no home directory: give --home DIR"))?,
    };
    std::path::absolute(&home).map_err(|e| Failure::usage(format!("cannot use {} as the home: {e}", home.display())))
}

fn dispatch(command: Command, cx: Context) -> Result<(), Failure> {
    // The daemon makes its own runtimes: networking has one for itself.
    let command = match command {
        Command::Up(flags) => return crate::daemon::up(flags.into_args(cx.home)?, cx.output),
        Command::Completions { shell } => return completions(shell, &cx.output),
        Command::Version => return node::version(&cx.output),
        other => other,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::refused(format!("cannot start the program's threads: {e}")))?;
    let done = runtime.block_on(asynchronous(command, &cx));
    // A read of stdin that nobody waits for any more must not hold the program.
    runtime.shutdown_background();
    done
}

async fn asynchronous(command: Command, cx: &Context) -> Result<(), Failure> {
    match command {
        Command::Down => node::down(cx).await,
        Command::Status => node::status(cx).await,
        Command::Nodes { what } => node::nodes(cx, what).await,
        Command::Quorum { what } => quorum::quorum(cx, what).await,
        Command::Skills { what } => skills::skills(cx, what).await,
        Command::Blobs { what } => blobs::blobs(cx, what).await,
        Command::Memory { what } => memory::memory(cx, what).await,
        Command::Invite => node::invite(cx).await,
        Command::Run(args) => run::run(cx, *args).await,
        Command::Submit(args) => run::submit(cx, *args).await,
        Command::Ask(args) => ask::ask(cx, *args).await,
        Command::Tasks { what } => tasks::tasks(cx, what).await,
        Command::Mesh { what } => node::mesh(cx, what).await,
        Command::Config { what } => config::config(cx, what).await,
        Command::Metrics => node::metrics(cx).await,
        Command::Demo(args) => crate::demo::run(args, cx.output.clone()).await,
        Command::Mcp(args) => crate::mcp::run(args, &cx.home, &cx.output).await,
        Command::Bench(args) => crate::bench::run(args, &cx.home, cx.output.clone()).await,
        Command::Up(_) | Command::Completions { .. } | Command::Version => Ok(()),
    }
}

fn completions(shell: clap_complete::Shell, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "clawmesh", &mut script);
    output.raw(&script)
}
