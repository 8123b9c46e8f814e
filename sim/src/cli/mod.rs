//! The command line.

mod figures;
mod many;
mod one;
mod show;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clawmesh_sim::{
    mutants,
    plan::{Fault, Fixed, Profile},
    takeover::End,
};

/// Runs the core of clawmesh in a virtual world that tries to break it.
///
/// Each seed is a world: nodes, network, disks, users and faults are drawn from it, and the same seed always gives the
/// same run.  The checkers judge every step by the invariants of the protocol.  A run that breaks one is printed with the
/// one command that replays it.  Exit code 0: all is well.  1: an invariant was violated, or a gate was not passed.
/// 2: the command line makes no sense.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Run many seeds; exit code 1 when an invariant was violated.
    Run {
        #[command(flatten)]
        seeds: Seeds,
        /// Judge the rule coverage of these seeds, too, as 'coverage' does.
        #[arg(long)]
        gate: bool,
        /// Keep the sum in this file after every thousand seeds, and go on from it when it is there: for runs of hours.
        #[arg(long, value_name = "FILE")]
        resume: Option<PathBuf>,
        /// Run so many of a hundred seeds twice, and compare: the same seed must give the same run (I18).
        #[arg(long, value_name = "PERCENT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=100))]
        twice: u64,
        /// Write the summary as JSON into this file, besides what is printed.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// Run one seed again; exit code 1 when an invariant was violated.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Print all that happens, line by line.
        #[arg(long)]
        trace: bool,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// Find the smallest run of a bad seed: fewer faults, then fewer nodes, tasks, and less time; prints the one command
    /// that replays it.
    Shrink {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Instead of a violation, look for the smallest run that shows this line of the summary, such as 'rule: E5'.
        #[arg(long, value_name = "LINE")]
        shows: Option<String>,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// Measure takeovers in a quiet world: virtual time until another node serves, and messages per election.
    Takeover {
        /// Nodes of each mesh, 2 to 1,000.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=1_000))]
        nodes: u64,
        /// How many takeovers, each in a world of its own.
        #[arg(long, default_value_t = 100)]
        runs: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Print all that happens in the first run, line by line.
        #[arg(long)]
        trace: bool,
        /// How the coordinator goes.
        #[arg(long, value_enum, default_value_t = End::Kill)]
        end: End,
        /// Print the figures as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure the takeover of a long queue: time and bytes, by a replica and by a node that holds nothing.
    Scale {
        /// Nodes, 3 to 64.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=64))]
        nodes: u64,
        /// Queued tasks.  A million take about 10 GiB of memory.
        #[arg(long, default_value_t = 100_000)]
        tasks: usize,
        /// Print the figures as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Break one rule of the protocol at a time and show which checker notices; exit code 1 when a broken rule survives.
    ///
    /// Builds itself with the broken variants in a target folder of its own first: target/mutants.
    Mutants(mutants::MutantsArgs),
    /// How often each rule of the protocol (D1 to V3) decided something; exit code 1 when one that is implemented never did.
    Coverage {
        #[command(flatten)]
        seeds: Seeds,
        #[command(flatten)]
        world: WorldArgs,
    },
}

#[derive(Args, Clone)]
struct Seeds {
    /// How many seeds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads; each runs its own seeds.
    #[arg(long, default_value_t = jobs())]
    jobs: usize,
    /// Print the summary as JSON; progress and violations go to stderr as ever.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct WorldArgs {
    /// Fix the number of nodes (1 to 1,000) instead of drawing it.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    nodes: Option<u64>,
    /// Which family of worlds.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Fix the mode instead of drawing it: with voters, or without.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Fix the number of tasks.
    #[arg(long)]
    tasks: Option<usize>,
    /// Fix how long load and faults last, ms of virtual time.
    #[arg(long, value_name = "MS")]
    storm: Option<u64>,
    /// Only this kind of fault, in every seed; may be repeated.
    #[arg(long, value_enum, value_name = "KIND")]
    fault: Vec<Fault>,
    /// Never this kind of fault; may be repeated.
    #[arg(long, value_enum, value_name = "KIND")]
    without: Vec<Fault>,
    /// Of the seed's faults only those with these numbers (3,7,12, or 'none'); 'shrink' finds them.
    #[arg(long, value_name = "NUMBERS", value_parser = numbers)]
    only: Option<BTreeSet<u32>>,
    /// Profile laptop: how many virtual days; 1 unless told.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_660))]
    days: Option<u64>,
    /// Profile laptop: go through quiet time step by step, too, instead of passing over it.
    #[arg(long)]
    every_second: bool,
    /// Profile laptop: only tasks that end by themselves and have no limits of time, so that runs can be compared.
    #[arg(long)]
    plain: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Open,
    Quorum,
}

impl WorldArgs {
    fn fixed(&self) -> Fixed {
        Fixed {
            nodes: self.nodes.map(|n| n as usize),
            profile: self.profile,
            voters: self.mode.map(|m| matches!(m, Mode::Quorum)),
            tasks: self.tasks,
            storm_ms: self.storm,
            faults: self.fault.clone(),
            without: self.without.clone(),
            only: self.only.clone(),
            days: self.days,
            every_second: self.every_second,
            plain: self.plain,
        }
    }
}

fn numbers(text: &str) -> Result<BTreeSet<u32>, String> {
    if text == "none" {
        return Ok(BTreeSet::new());
    }
    let parse = |w: &str| w.trim().parse().map_err(|_| format!("'{w}' is no number of a fault: write 3,7,12, or none"));
    text.split(',').map(parse).collect()
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs what the command line asks for.
pub(crate) fn main() -> ExitCode {
    let ok = match Cli::parse().command {
        Cmd::Run { seeds, gate, resume, twice, out, world } => {
            many::run(&seeds, gate, resume.as_deref(), twice, out.as_deref(), &world.fixed())
        }
        Cmd::Replay { seed, trace, json, world } => Ok(one::replay(seed, trace, json, &world.fixed())),
        Cmd::Shrink { seed, shows, json, world } => Ok(one::shrink(seed, shows, json, &world.fixed())),
        Cmd::Takeover { nodes, runs, from, trace, end, json } => Ok(figures::takeover(nodes as usize, from, runs, end, trace, json)),
        Cmd::Scale { nodes, tasks, json } => figures::scale(nodes as usize, tasks, json).map(|()| true),
        Cmd::Mutants(args) => Ok(mutants::command(&args, jobs())),
        Cmd::Coverage { seeds, world } => Ok(many::coverage(&seeds, &world.fixed())),
    };
    match ok {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}
