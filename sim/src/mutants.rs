//! The protocol with one rule broken at a time: proof that each rule is watched.
//!
//! Every variant is a one-line condition in the core (`clawmesh_protocol::mutant`), numbered as here.  A
//! variant that no checker catches is a missing checker.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::Command;
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};
use std::time::Instant;

use serde::Serialize;

use crate::{
    plan::{Fixed, Profile},
    run::{self, Violation},
};

/// What is known of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It must be caught.
    Watched,
    /// The rule, or the world in which it matters, is missing.
    NotYet(&'static str),
}

/// A broken variant.
struct Mutant {
    no: u8,
    /// What it does wrong.
    broken: &'static str,
    /// The rules it breaks.
    rules: &'static str,
    profile: Profile,
    /// Among the few that every push checks.
    smoke: bool,
    state: State,
}

const fn watched(no: u8, rules: &'static str, broken: &'static str) -> Mutant {
    Mutant { no, broken, rules, profile: Profile::Mixed, smoke: false, state: State::Watched }
}

impl Mutant {
    const fn smoke(mut self) -> Self {
        self.smoke = true;
        self
    }
    const fn not_yet(mut self, why: &'static str) -> Self {
        self.state = State::NotYet(why);
        self
    }
    fn name(&self) -> String {
        format!("M{}", self.no)
    }
}

const VOTERS: &str = "needs worlds with voters";

/// All of them, by number.
const ALL: [Mutant; 43] = [
    watched(1, "E6", "a promise is not made durable").smoke(),
    watched(2, "E6", "Follow leaves before its promise is durable").smoke(),
    watched(3, "T3", "of two outcomes the older version wins").not_yet(VOTERS),
    watched(4, "W1", "one copy is called enough").smoke(),
    watched(5, "T2", "a claimant serves before it has pulled").not_yet(VOTERS),
    watched(6, "E6", "an epoch is claimed again after a restart").smoke(),
    watched(7, "W4", "an acknowledgement of another epoch, store or boot counts"),
    watched(8, "C1", "any nodes count as a majority, not the voters").not_yet(VOTERS),
    watched(9, "S3", "a second report replaces the outcome").smoke(),
    watched(10, "T4", "an inherited record has effects before it is written again").smoke(),
    watched(11, "W3", "a replica takes writes of deposed coordinators"),
    watched(12, "D1", "a replica acknowledges before its disk has it").smoke(),
    watched(13, "T3", "the outcome of who joins late beats the present one"),
    watched(14, "W1", "two voters are enough for a write, a majority for a claim").not_yet(VOTERS),
    watched(15, "T3", "the newest version wins, whatever it says"),
    watched(16, "T3", "a newer record without outcome beats one with"),
    watched(17, "T3", "reconciling ignores what the origin has accepted"),
    watched(18, "O2", "an origin accepts results of deposed coordinators").smoke(),
    watched(19, "O2", "an origin accepts a second result"),
    watched(20, "S2", "a kill of an unknown attempt is ignored"),
    watched(21, "G3", "records are deleted by age, not below the floor"),
    watched(22, "T3", "a cancel on one side of a split is forgotten"),
    watched(23, "S3", "a report is acknowledged before its record is stable").smoke(),
    watched(24, "W5", "a replica drops its copy when its seat is gone").smoke(),
    watched(25, "D1", "a disk says durable before it is"),
    watched(26, "E3", "nobody asks before claiming"),
    watched(27, "E1", "a coordinator that does not hear us counts as alive").not_yet("needs a coordinator that stays deaf"),
    watched(28, "E2", "no council: everybody stands at once").not_yet("needs large worlds and a bound on messages (I17)"),
    watched(29, "L1", "time asleep counts as silence of the workers"),
    watched(30, "S5", "a takeover forgets the crashes of a task"),
    watched(31, "S7", "the smaller side of a split runs inherited tasks at once")
        .not_yet("needs a checker that knows the two sides of a split"),
    watched(32, "E9", "flaps do not delay the next planned takeover"),
    watched(33, "E8", "when two coordinators meet, the higher epoch wins"),
    watched(34, "T3", "what is pulled replaces what is there"),
    watched(35, "V1", "a replica stores records without the fields it does not know").not_yet("needs worlds with a newer version"),
    watched(36, "E11", "hints to lower epochs are followed"),
    watched(37, "C2", "voters are replaced without a joint step").not_yet(VOTERS),
    watched(38, "C2", "the new voters stand alone before the joint step is stable").not_yet(VOTERS),
    watched(39, "C2", "in the joint step the old majority is enough").not_yet(VOTERS),
    watched(40, "C2", "in the joint step the new majority is enough").not_yet(VOTERS),
    watched(41, "C2", "a claimant ignores newer voters that it is told").not_yet(VOTERS),
    watched(42, "C2", "a new coordinator does not write the voters again").not_yet(VOTERS),
    watched(43, "C2", "a claim ignores pending voters").not_yet(VOTERS),
];

/// What the command `mutants` takes.
#[derive(Debug, clap::Args)]
pub struct MutantsArgs {
    /// Only this one, for instance M7; also one that is not yet expected to be caught.
    #[arg(long, value_parser = number)]
    only: Option<u8>,
    /// Only the few that every push checks.
    #[arg(long)]
    smoke: bool,
    /// Give a variant up after so many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Another family of worlds than the one that fits the variant.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn number(s: &str) -> Result<u8, String> {
    let no = s.trim_start_matches(['M', 'm']).parse().ok().filter(|n| ALL.iter().any(|m| m.no == *n));
    no.ok_or_else(|| format!("'{s}' is no variant: M1 to M{}", ALL.len()))
}

/// What became of a variant.
#[derive(Debug, Serialize)]
struct Verdict {
    mutant: String,
    rules: &'static str,
    broken: &'static str,
    /// `caught`, `SURVIVED`, `not yet`.
    verdict: &'static str,
    /// The checker.
    caught_by: Option<String>,
    /// Seeds it took, or all that were tried.
    seeds: u64,
    seed: Option<u64>,
    profile: Profile,
    /// What the checker said, or why nothing can.
    why: String,
}

/// Runs the variants; true when none survived that should not.
pub fn command(args: &MutantsArgs, jobs: usize) -> bool {
    if !cfg!(feature = "mutants") {
        return build_and_run();
    }
    let list = ALL.iter().filter(|m| match args.only {
        Some(n) => m.no == n,
        None => !args.smoke || m.smoke,
    });
    let mut all = Vec::new();
    for m in list {
        let start = Instant::now();
        let v = try_one(m, args, jobs);
        let by = v.caught_by.clone().unwrap_or_default();
        eprintln!(
            "{:>4} {:<10} {:<8} {:>6} seeds {:>6.1} s  {}",
            v.mutant,
            v.verdict,
            by,
            v.seeds,
            start.elapsed().as_secs_f64(),
            v.broken
        );
        all.push(v);
    }
    let text = if args.json { serde_json::to_string_pretty(&all).unwrap_or_default() } else { table(&all) };
    // Who closed the pipe has read enough.
    let _ = writeln!(stdout(), "{text}");
    all.iter().all(|v| v.verdict != "SURVIVED")
}

/// The same command in a build that has the variants, in a folder of its own: this one goes on to run the rules as they are.
fn build_and_run() -> bool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args([
        "run",
        "--locked",
        "--package",
        "clawmesh-sim",
        "--features",
        "mutants",
        "--target-dir",
        "target/mutants",
    ]);
    if !stderr().is_terminal() {
        cargo.arg("--quiet");
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    match cargo.arg("--").args(std::env::args_os().skip(1)).status() {
        Ok(s) => s.success(),
        Err(why) => {
            eprintln!("the build with the broken variants can't be made: cargo could not be started ({why}); is it in PATH?");
            false
        }
    }
}

fn try_one(m: &Mutant, args: &MutantsArgs, jobs: usize) -> Verdict {
    let profile = args.profile.unwrap_or(m.profile);
    let mut v = Verdict {
        mutant: m.name(),
        rules: m.rules,
        broken: m.broken,
        verdict: "SURVIVED",
        caught_by: None,
        seeds: 0,
        seed: None,
        profile,
        why: String::new(),
    };
    if args.only.is_none() {
        let known = match m.state {
            State::Watched => None,
            State::NotYet(why) => Some(("not yet", why)),
        };
        if let Some((verdict, why)) = known {
            (v.verdict, v.why) = (verdict, why.to_owned());
            return v;
        }
    }
    let fixed = Fixed { profile, ..Fixed::default() };
    if let Some((seed, found)) = hunt(m.no, args.from, args.seeds, &fixed, jobs) {
        v.verdict = "caught";
        v.caught_by = Some(found.rule);
        v.seed = Some(seed);
        v.seeds = seed - args.from + 1;
        v.why = found.why;
    } else {
        v.seeds = args.seeds;
    }
    v
}

/// The first seed in which the variant, and not the protocol itself, is caught.
fn hunt(no: u8, from: u64, seeds: u64, fixed: &Fixed, jobs: usize) -> Option<(u64, Violation)> {
    let end = from + seeds;
    let mut at = from;
    while at < end {
        choose(no);
        let found = first(at, end, fixed, jobs);
        choose(0);
        let (seed, violation) = found?;
        if run::seed(seed, fixed, None).violation.is_none() {
            return Some((seed, violation));
        }
        eprintln!("  seed {seed} goes wrong without the variant, too: it proves nothing");
        at = seed + 1;
    }
    None
}

/// The lowest seed in `from..end` with a violation.
fn first(from: u64, end: u64, fixed: &Fixed, jobs: usize) -> Option<(u64, Violation)> {
    let next = AtomicU64::new(from);
    let best: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    let lock = || best.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|s| {
        for _ in 0..jobs.max(1) {
            s.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || lock().as_ref().is_some_and(|(b, _)| *b < seed) {
                        break;
                    }
                    if let Some(v) = run::seed(seed, fixed, None).violation {
                        let mut best = lock();
                        if best.as_ref().is_none_or(|(b, _)| seed < *b) {
                            *best = Some((seed, v));
                        }
                    }
                }
            });
        }
    });
    best.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(feature = "mutants")]
fn choose(no: u8) {
    clawmesh_protocol::mutant::choose(no);
}

/// There is nothing to choose in this build.
#[cfg(not(feature = "mutants"))]
fn choose(_: u8) {}

fn table(all: &[Verdict]) -> String {
    let mut t = format!("{:<5}{:<5}{:<12}{:<9}{:>6}  {}\n", "", "rule", "verdict", "checker", "seeds", "what is broken");
    for v in all {
        let by = v.caught_by.as_deref().unwrap_or("-");
        t += &format!("{:<5}{:<5}{:<12}{by:<9}{:>6}  {}", v.mutant, v.rules, v.verdict, v.seeds, v.broken);
        if v.caught_by.is_none() && !v.why.is_empty() {
            t += &format!(" ({})", v.why);
        }
        t.push('\n');
    }
    let n = |what| all.iter().filter(|v| v.verdict == what).count();
    let mut seeds: Vec<u64> = all.iter().filter(|v| v.verdict == "caught").map(|v| v.seeds).collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or(0);
    t += &format!("{} of {} caught (median {median} seeds), {} not yet, {} survived", n("caught"), all.len(), n("not yet"), n("SURVIVED"));
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variants_are_numbered_in_order() {
        assert!(ALL.iter().zip(1..).all(|(m, n)| m.no == n));
        assert_eq!(ALL.iter().filter(|m| m.smoke).count(), 10);
        assert!(ALL.iter().filter(|m| m.smoke).all(|m| m.state == State::Watched));
        assert_eq!(number("M7"), Ok(7));
        assert!(number("M44").is_err() && number("7x").is_err());
    }

    #[test]
    fn a_build_for_people_has_no_variants() {
        if !cfg!(feature = "mutants") {
            assert!((0..=u8::MAX).all(|n| !clawmesh_protocol::mutant::on(n)));
        }
    }
}
