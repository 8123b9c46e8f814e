//! `clawmesh-sim`: runs worlds, and replays the ones that went wrong.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use clawmesh_sim::{
    mutants,
    plan::{Fixed, Plan, Profile},
    run::{self, Report, Summary},
};

/// Runs the core of clawmesh in a virtual world that tries to break it.
///
/// Each seed is a world: nodes, network, disks, users and faults are drawn from it, and the same seed
/// always gives the same run.  The checkers judge every step by the invariants of the protocol.
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
        /// How many seeds.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Threads; each runs its own seeds.
        #[arg(long, default_value_t = jobs())]
        jobs: usize,
        /// Print the summary as JSON (progress and violations go to stderr as ever).
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// Run one seed again; exit code 1 when an invariant was violated.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Print all that happens.
        #[arg(long)]
        trace: bool,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// Break one rule of the protocol at a time and show which checker notices; exit code 1 when a broken rule survives.
    ///
    /// Builds itself with the broken variants in a target folder of its own first: target/mutants.
    Mutants(mutants::MutantsArgs),
}

#[derive(Args)]
struct WorldArgs {
    /// Fix the number of nodes (1 to 64) instead of drawing it.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    nodes: Option<u64>,
    /// Which family of worlds.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

impl WorldArgs {
    fn fixed(&self) -> Fixed {
        Fixed { nodes: self.nodes.map(|n| n as usize), profile: self.profile }
    }
    fn flags(&self) -> String {
        let nodes = self.nodes.map(|n| format!(" --nodes {n}")).unwrap_or_default();
        let profile = match self.profile {
            Profile::Mixed => String::new(),
            p => format!(" --profile {}", format!("{p:?}").to_lowercase()),
        };
        nodes + &profile
    }
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    // A panic inside a run is reported as that seed's violation; its usual message would only be noise.
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    match Cli::parse().command {
        Cmd::Run { seeds, from, jobs, json, world } => run_many(seeds, from, jobs, json, &world),
        Cmd::Replay { seed, trace, json, world } => replay(seed, trace, json, &world),
        Cmd::Mutants(args) => exit(mutants::command(&args, jobs())),
    }
}

fn run_many(seeds: u64, from: u64, jobs: usize, json: bool, world: &WorldArgs) -> ExitCode {
    let start = Instant::now();
    let live = stderr().is_terminal();
    let tell = |done: u64, r: &Report| {
        if let Some(v) = &r.violation {
            eprintln!("\rseed {}: {} at {} ms on {}: {}", r.seed, v.rule, v.at, v.node, v.why);
            eprintln!("  cargo run --release -p clawmesh-sim -- replay --seed {}{} --trace", r.seed, world.flags());
        }
        let step = if live { 10 } else { 500 };
        if done.is_multiple_of(step) || done == seeds {
            let rate = done as f64 / start.elapsed().as_secs_f64().max(0.001);
            eprint!("{}{done}/{seeds} seeds, {rate:.1} per second{}", if live { "\r" } else { "" }, if live { "  " } else { "\n" });
        }
    };
    let sum = run::many(from, seeds, world.fixed(), jobs, &tell);
    if live {
        eprintln!();
    }
    let secs = start.elapsed().as_secs_f64();
    let text = if json { serde_json::to_string_pretty(&sum).unwrap_or_default() } else { table(&sum, secs) };
    // Who closed the pipe has read enough.
    let _ = writeln!(stdout(), "{text}");
    exit(sum.violations.is_empty())
}

fn table(s: &Summary, secs: f64) -> String {
    let mut t = String::new();
    for (what, (n, seeds)) in &s.seen {
        t += &format!("{n:>10} in {seeds:>6} seeds  {what}\n");
    }
    t += &format!(
        "{} seeds in {secs:.1} s ({:.1} per second), {:.1} virtual hours, {} steps, {} faults, {} tasks acknowledged, {} violations",
        s.seeds,
        s.seeds as f64 / secs.max(0.001),
        s.virtual_ms as f64 / 3.6e6,
        s.steps,
        s.faults,
        s.acked,
        s.violations.len()
    );
    t
}

fn replay(seed: u64, trace: bool, json: bool, world: &WorldArgs) -> ExitCode {
    let out: Option<Box<dyn Write + Send>> = if trace { Some(Box::new(std::io::BufWriter::new(stdout()))) } else { None };
    let r = run::seed(seed, world.fixed(), out);
    let text = if json { serde_json::to_string_pretty(&r).unwrap_or_default() } else { account(&r, world.fixed()) };
    let _ = writeln!(stdout(), "{text}");
    exit(r.violation.is_none())
}

fn account(r: &Report, fixed: Fixed) -> String {
    let mut t = format!("seed {}: {}\n", r.seed, Plan::draw(r.seed, fixed).line());
    t += &format!("{} virtual ms, {} steps, {} faults, {} tasks acknowledged, hash {}\n", r.virtual_ms, r.steps, r.faults, r.acked, r.hash);
    t += &match &r.violation {
        Some(v) => format!("{} violated at {} ms on {}: {}", v.rule, v.at, v.node, v.why),
        None => "no violation".to_owned(),
    };
    t
}

fn exit(ok: bool) -> ExitCode {
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
