//! The protocol with one rule broken at a time: proof that each rule is watched.
//!
//! Every variant is a one-line condition in the core (`clawmesh_protocol::mutant`), numbered as here.  A
//! variant that no checker catches is a missing checker.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{
    plan::{Fault, Fixed, Profile},
    run::{self, Violation},
};

/// A broken variant.
struct Mutant {
    no: u8,
    /// What it does wrong.
    broken: &'static str,
    /// The rules it breaks.
    rules: &'static str,
    /// The checkers that must notice.  A complaint of another one proves nothing and is only counted.
    by: &'static [&'static str],
    world: Where,
    /// Among the few that every push checks.
    smoke: bool,
}

/// The worlds in which the rule matters.
#[derive(Clone, Copy)]
struct Where {
    profile: Profile,
    voters: Option<bool>,
    nodes: Option<usize>,
    storm_ms: Option<u64>,
    tasks: Option<usize>,
    faults: &'static [Fault],
}

const fn watched(no: u8, rules: &'static str, by: &'static [&'static str], broken: &'static str) -> Mutant {
    let world = Where { profile: Profile::Mixed, voters: Some(false), nodes: None, storm_ms: None, tasks: None, faults: &[] };
    Mutant { no, broken, rules, by, world, smoke: false }
}

impl Mutant {
    const fn smoke(mut self) -> Self {
        self.smoke = true;
        self
    }
    /// In worlds with voters.
    const fn quorum(mut self) -> Self {
        self.world.voters = Some(true);
        self
    }
    const fn nodes(mut self, n: usize) -> Self {
        self.world.nodes = Some(n);
        self
    }
    /// A storm this long with so many tasks.
    const fn load(mut self, storm_ms: u64, tasks: usize) -> Self {
        (self.world.storm_ms, self.world.tasks) = (Some(storm_ms), Some(tasks));
        self
    }
    const fn calm(mut self) -> Self {
        self.world.profile = Profile::Calm;
        self
    }
    /// In worlds with these faults only.
    const fn faults(mut self, f: &'static [Fault]) -> Self {
        self.world.faults = f;
        self
    }
    fn name(&self) -> String {
        format!("M{}", self.no)
    }
    fn fixed(&self) -> Fixed {
        let w = self.world;
        Fixed {
            nodes: w.nodes,
            profile: w.profile,
            voters: w.voters,
            storm_ms: w.storm_ms,
            tasks: w.tasks,
            faults: w.faults.to_vec(),
            ..Fixed::default()
        }
    }
}

/// A network that falls into parts.
const SPLITS: &[Fault] = &[Fault::Partition, Fault::Isolate];
/// Nodes that only some others can reach.
const BRIDGES: &[Fault] = &[Fault::Bridge, Fault::OneWay, Fault::Flap];
/// Nodes of two versions, some of which come late or back.
const UPGRADES: &[Fault] = &[Fault::Upgrade, Fault::Kill, Fault::Partition];
/// Processes that end, in order or not.
const DEATHS: &[Fault] = &[Fault::Kill, Fault::CrashLoop];

/// All of them, by number.
const ALL: [Mutant; 46] = [
    watched(1, "E6", &["I1", "I2"], "a promise is not made durable").smoke(),
    watched(2, "E6", &["I1"], "Follow leaves before its promise is durable").smoke(),
    watched(3, "T3", &["I3", "I6"], "of two outcomes the older version wins").quorum(),
    watched(4, "W1", &["I4", "I5", "I20"], "one copy is called enough").smoke(),
    watched(5, "T2", &["I3", "I6"], "a claimant serves before it has pulled").quorum(),
    watched(6, "E6", &["I2", "I8"], "an epoch is claimed again after a restart").smoke(),
    watched(7, "W4", &["I4", "I5"], "what was acknowledged in another epoch counts").faults(SPLITS),
    watched(8, "C1", &["I2", "I3", "I5", "C2"], "any nodes count as a majority, not the voters").quorum().smoke(),
    watched(9, "S3", &["I6"], "a second report replaces the outcome").smoke(),
    watched(10, "T4", &["I4", "I5"], "an inherited record has effects before it is written again"),
    watched(11, "W3", &["I4", "I5", "I7", "I14"], "a replica takes writes of deposed coordinators").faults(BRIDGES),
    watched(12, "D1", &["I4", "I5"], "a replica acknowledges before its disk has it").smoke(),
    watched(13, "T3", &["I6"], "the outcome of who joins late beats the present one"),
    watched(14, "W1", &["I3", "I5"], "two voters are enough for a write, a majority for a claim").quorum(),
    watched(15, "T3", &["I6", "I7", "I11"], "the newest version wins, whatever it says").smoke(),
    watched(16, "T3", &["I6", "I7"], "a newer record without outcome beats one with"),
    watched(17, "T3", &["I6", "I7"], "reconciling ignores what the origin has accepted"),
    watched(18, "O2", &["I6"], "an origin accepts results of deposed coordinators"),
    watched(19, "O2", &["I6"], "an origin accepts a second result"),
    watched(20, "S2", &["I9", "I10", "I15"], "a kill of an unknown attempt is ignored"),
    watched(21, "G3", &["I4", "I11", "I13"], "records are deleted by age, not below the floor"),
    watched(22, "T3", &["I7", "I11"], "a cancel on one side of a split is forgotten"),
    watched(23, "S3", &["I5", "I6", "I15"], "a report is acknowledged before its record is stable").smoke(),
    watched(24, "W5", &["I4", "I13"], "a replica drops its copy when its seat is gone").smoke(),
    watched(25, "D1", &["I4", "I5"], "a disk says durable before it is"),
    watched(26, "E3", &["E3"], "nobody asks before claiming"),
    watched(27, "E1", &["E1"], "a coordinator that does not hear us counts as alive").nodes(5).faults(&[Fault::Deaf]).load(60_000, 0),
    watched(28, "E2", &["I17"], "no council: everybody stands at once").nodes(250).calm().load(15_000, 0),
    watched(29, "L1", &["L1"], "time asleep counts as silence of the workers").faults(&[Fault::Pause, Fault::Sleep]),
    watched(30, "S5", &["I7"], "a takeover forgets the crashes of a task"),
    watched(31, "S7", &["S7"], "the smaller side of a split runs inherited tasks at once").faults(SPLITS),
    watched(32, "E9", &["E9"], "flaps do not delay the next planned takeover").faults(DEATHS),
    watched(33, "E8", &["E8"], "when two coordinators meet, the higher epoch wins").nodes(7).faults(SPLITS),
    watched(34, "T3", &["I6", "I7", "I11"], "what is pulled replaces what is there"),
    watched(35, "V1", &["I8", "V1"], "a replica stores records without the fields it does not know"),
    watched(36, "E11", &["I1"], "hints to lower epochs are followed"),
    watched(37, "C2", &["C2", "I3", "I5"], "voters are replaced without a joint step").quorum(),
    watched(38, "C2", &["C2", "I3", "I5"], "the new voters stand alone before the joint step is stable").quorum(),
    watched(39, "C2", &["C2", "I3", "I5"], "in the joint step the old majority is enough").quorum(),
    watched(40, "C2", &["C2", "I3", "I5"], "in the joint step the new majority is enough").quorum(),
    watched(41, "C2", &["C2", "I3", "I14"], "a claimant ignores newer voters that it is told").quorum(),
    watched(42, "C2", &["C2", "I3", "I5"], "a new coordinator does not write the voters again").quorum(),
    watched(43, "C2", &["C2", "I3", "I5"], "a claim ignores pending voters").quorum(),
    watched(44, "E11", &["E11"], "a relayed message is taken again when it comes again").nodes(4).faults(BRIDGES),
    watched(45, "V3", &["I5", "I14"], "who cannot read a record counts as one of its holders").faults(UPGRADES),
    watched(46, "V3", &["I4", "I5", "I6", "I13", "I15"], "a node goes on with a store that it cannot read").faults(UPGRADES),
];

/// What the command `mutants` takes.
#[derive(Debug, clap::Args)]
pub struct MutantsArgs {
    /// Only this one, for instance M7; may be repeated.
    #[arg(long, value_parser = number)]
    only: Vec<u8>,
    /// Only the ten that every push checks.
    #[arg(long)]
    smoke: bool,
    /// Give a variant up after so many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop after so many minutes in all; what was not tried by then counts as survived.
    #[arg(long, default_value_t = 240)]
    minutes: u64,
    /// Another family of worlds than the one that fits the variant.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Write the result as JSON into this file, besides what is printed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
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
    /// `caught` or `SURVIVED`.
    verdict: &'static str,
    /// The checker.
    caught_by: Option<String>,
    /// Seeds it took, or all that were tried.
    seeds: u64,
    seed: Option<u64>,
    /// The worlds, as flags of `run`.
    worlds: String,
    /// Seeds on the way in which the protocol as it is was refused, too; they prove nothing.
    bad_anyway: Vec<u64>,
    /// Complaints of checkers that watch other rules; they prove nothing either.
    beside: BTreeMap<String, u64>,
    took_s: f64,
    /// What the checker said.
    why: String,
}

/// Runs the variants; true when none survived.
pub fn command(args: &MutantsArgs, jobs: usize) -> bool {
    if !cfg!(feature = "mutants") {
        return build_and_run();
    }
    let until = Instant::now() + Duration::from_secs(args.minutes.saturating_mul(60));
    let list = ALL.iter().filter(|m| if args.only.is_empty() { !args.smoke || m.smoke } else { args.only.contains(&m.no) });
    let mut all = Vec::new();
    for m in list {
        let v = try_one(m, args, jobs, until);
        let by = v.caught_by.clone().unwrap_or_default();
        eprintln!("{:>4} {:<9} {:<8} {:>6} seeds {:>6.1} s  {}", v.mutant, v.verdict, by, v.seeds, v.took_s, v.broken);
        all.push(v);
    }
    let json = serde_json::to_string_pretty(&all).unwrap_or_default();
    // Who closed the pipe has read enough.
    let _ = writeln!(stdout(), "{}", if args.json { json.clone() } else { table(&all) });
    let mut ok = all.iter().all(|v| v.verdict == "caught");
    if let Some(file) = &args.out
        && let Err(why) = std::fs::write(file, json + "\n")
    {
        eprintln!("the result can't be written to {}: {why}; is the folder there, and is there room?", file.display());
        ok = false;
    }
    ok
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

fn try_one(m: &Mutant, args: &MutantsArgs, jobs: usize, until: Instant) -> Verdict {
    let start = Instant::now();
    let mut fixed = m.fixed();
    fixed.profile = args.profile.unwrap_or(fixed.profile);
    let hunt = Hunt {
        m,
        fixed: &fixed,
        end: args.from.saturating_add(args.seeds),
        until,
        next: AtomicU64::new(args.from),
        found: Mutex::new(Found::default()),
    };
    let (hit, bad_anyway) = hunt.run(args.from, jobs);
    let found = hunt.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let tried = hunt.next.into_inner().min(hunt.end) - args.from;
    let seed = hit.as_ref().map(|(s, _)| *s);
    Verdict {
        mutant: m.name(),
        rules: m.rules,
        broken: m.broken,
        verdict: if hit.is_some() { "caught" } else { "SURVIVED" },
        seeds: seed.map_or(tried, |s| s - args.from + 1),
        seed,
        worlds: fixed.flags().trim().to_owned(),
        bad_anyway,
        beside: found.beside,
        took_s: start.elapsed().as_secs_f64(),
        caught_by: hit.as_ref().map(|(_, v)| v.rule.clone()),
        why: hit.map(|(_, v)| v.why).unwrap_or_default(),
    }
}

/// The search for a seed in which a variant is caught.
struct Hunt<'a> {
    m: &'a Mutant,
    fixed: &'a Fixed,
    end: u64,
    until: Instant,
    next: AtomicU64,
    found: Mutex<Found>,
}

/// What the search has met.
#[derive(Default)]
struct Found {
    best: Option<(u64, Violation)>,
    beside: BTreeMap<String, u64>,
}

impl Hunt<'_> {
    /// The first seed in which the variant, and not the protocol itself, is caught; and those in which both are.
    fn run(&self, from: u64, jobs: usize) -> (Option<(u64, Violation)>, Vec<u64>) {
        let mut bad_anyway = Vec::new();
        self.next.store(from, Ordering::Relaxed);
        loop {
            choose(self.m.no);
            let found = self.first(jobs);
            choose(0);
            let Some((seed, violation)) = found else { return (None, bad_anyway) };
            if run::seed(seed, self.fixed, None).violation.is_none() {
                return (Some((seed, violation)), bad_anyway);
            }
            bad_anyway.push(seed);
            self.next.store(seed + 1, Ordering::Relaxed);
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lowest seed from here on in which the right checker complains.
    fn first(&self, jobs: usize) -> Option<(u64, Violation)> {
        self.found().best = None;
        let told = Mutex::new(Instant::now());
        std::thread::scope(|s| {
            for _ in 0..jobs.max(1) {
                s.spawn(|| {
                    loop {
                        let seed = self.next.fetch_add(1, Ordering::Relaxed);
                        let late = self.found().best.as_ref().is_some_and(|(b, _)| *b < seed);
                        if seed >= self.end || late || Instant::now() > self.until {
                            break;
                        }
                        if let Some(v) = run::seed(seed, self.fixed, None).violation {
                            self.judge(seed, v);
                        }
                        self.tell(&told, seed);
                    }
                });
            }
        });
        self.found().best.clone()
    }

    fn judge(&self, seed: u64, v: Violation) {
        let mut f = self.found();
        if !self.m.by.contains(&v.rule.as_str()) {
            *f.beside.entry(v.rule).or_default() += 1;
        } else if f.best.as_ref().is_none_or(|(b, _)| seed < *b) {
            f.best = Some((seed, v));
        }
    }

    /// A sign of life now and then.
    fn tell(&self, told: &Mutex<Instant>, seed: u64) {
        if let Ok(mut at) = told.try_lock()
            && at.elapsed() > Duration::from_secs(15)
        {
            *at = Instant::now();
            eprintln!("{:>4} seed {seed}: not caught yet; beside it {:?}", self.m.name(), self.found().beside);
        }
    }
}

#[cfg(feature = "mutants")]
fn choose(no: u8) {
    clawmesh_protocol::mutant::choose(no);
}

/// There is nothing to choose in this build.
#[cfg(not(feature = "mutants"))]
fn choose(_: u8) {}

fn table(all: &[Verdict]) -> String {
    let mut t = format!("{:<5}{:<5}{:<10}{:<9}{:>6}  {:<60}worlds\n", "", "rule", "verdict", "checker", "seeds", "what is broken");
    for v in all {
        let by = v.caught_by.as_deref().unwrap_or("-");
        t += &format!("{:<5}{:<5}{:<10}{by:<9}{:>6}  {:<60}{}\n", v.mutant, v.rules, v.verdict, v.seeds, v.broken, v.worlds);
    }
    let caught = all.iter().filter(|v| v.verdict == "caught");
    let mut seeds: Vec<u64> = caught.map(|v| v.seeds).collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or(0);
    t += &format!("{} of {} caught (median {median} seeds), {} survived", seeds.len(), all.len(), all.len() - seeds.len());
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variants_are_numbered_in_order() {
        assert!(ALL.iter().zip(1..).all(|(m, n)| m.no == n));
        assert_eq!(ALL.iter().filter(|m| m.smoke).count(), 10);
        assert!(ALL.iter().all(|m| !m.by.is_empty()));
        assert_eq!(number("M7"), Ok(7));
        assert!(number("M47").is_err() && number("7x").is_err());
    }

    #[test]
    fn a_build_for_people_has_no_variants() {
        if !cfg!(feature = "mutants") {
            assert!((0..=u8::MAX).all(|n| !clawmesh_protocol::mutant::on(n)));
        }
    }
}
