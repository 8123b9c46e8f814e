//! Many seeds: `run` and `coverage`.

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use clawmesh_sim::{
    coverage::Coverage,
    plan::{Fixed, Profile},
    run::{self, Report, Summary},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Seeds, show};

/// The sum is kept after so many quick seeds.
const CHUNK: u64 = 1_000;
/// Without a terminal, progress is said after so many seeds.
const TELL_EVERY: u64 = 500;

pub(super) fn run(seeds: &Seeds, gate: bool, resume: Option<&Path>, twice: u64, out: Option<&Path>, fixed: &Fixed) -> Result<bool, String> {
    let mut sum = match resume {
        Some(file) => kept(file, seeds.from, fixed)?,
        None => Summary { from: seeds.from, flags: fixed.flags(), ..Summary::default() },
    };
    let progress = Progress::new(seeds.seeds, sum.seeds, fixed);
    while sum.seeds < seeds.seeds {
        let n = chunk(seeds.jobs, fixed).min(seeds.seeds - sum.seeds);
        sum.join(run::many_and_twice(seeds.from + sum.seeds, n, fixed, seeds.jobs, twice, &|r| progress.tell(r)));
        if let Some(file) = resume {
            write(file, &sum)?;
        }
    }
    progress.end();
    if let Some(file) = out {
        write(file, &sum)?;
    }
    let coverage = gate.then(|| Coverage::of(&sum));
    if seeds.json {
        show::json(&sum);
    } else {
        show::print(&show::summary(&sum));
    }
    let mut ok = sum.violations.is_empty();
    if let Some(c) = coverage {
        ok &= c.complete();
        eprintln!("{}", show::verdict(&c));
    }
    Ok(ok)
}

pub(super) fn coverage(seeds: &Seeds, fixed: &Fixed) -> bool {
    let progress = Progress::new(seeds.seeds, 0, fixed);
    let sum = run::many(seeds.from, seeds.seeds, fixed, seeds.jobs, &|r| progress.tell(r));
    progress.end();
    let c = Coverage::of(&sum);
    if seeds.json {
        show::json(&c);
    } else {
        show::print(&show::coverage(&c));
    }
    eprintln!("{}", show::verdict(&c));
    c.complete() && sum.violations.is_empty()
}

/// Seeds of many virtual days, or of many nodes, take long: the sum is kept more often.
fn chunk(jobs: usize, fixed: &Fixed) -> u64 {
    let cost = match fixed.profile {
        Profile::Laptop => 20 * fixed.days.unwrap_or(1),
        Profile::Full => 20,
        _ => 1,
    };
    (CHUNK / cost).max(jobs as u64)
}

/// The sum of an earlier run of the same seeds.
fn kept(file: &Path, from: u64, fixed: &Fixed) -> Result<Summary, String> {
    let fresh = Summary { from, flags: fixed.flags(), ..Summary::default() };
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(fresh),
        Err(e) => return Err(format!("can't read {}: {e}", file.display())),
    };
    let sum: Summary = serde_json::from_str(&text)
        .map_err(|e| format!("{} is no summary of this program ({e}): name another file, or delete it", file.display()))?;
    if (sum.from, &sum.flags) != (fresh.from, &fresh.flags) {
        let old = format!("--from {}{}", sum.from, sum.flags);
        return Err(format!("{} is of a run with {old}: give the same flags, or name another file", file.display()));
    }
    Ok(sum)
}

/// Whole or not at all: a run that is cut off here goes on from the sum before.
fn write(file: &Path, sum: &Summary) -> Result<(), String> {
    let text = serde_json::to_string_pretty(sum).map_err(|e| e.to_string())?;
    let new = file.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).map_err(|e| format!("can't write {}: {e}", file.display()))
}

/// A bar on a terminal, a line now and then elsewhere; violations at once.
struct Progress<'a> {
    bar: ProgressBar,
    live: bool,
    done: AtomicU64,
    bad: AtomicU64,
    total: u64,
    fixed: &'a Fixed,
}

impl<'a> Progress<'a> {
    fn new(total: u64, done: u64, fixed: &'a Fixed) -> Self {
        let bar = ProgressBar::new(total).with_position(done);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} seeds, {per_sec}, {eta} left {msg}") {
            bar.set_style(style);
        }
        bar.reset_eta();
        Self { bar, live: stderr().is_terminal(), done: AtomicU64::new(done), bad: AtomicU64::new(0), total, fixed }
    }

    fn tell(&self, r: &Report) {
        if let Some(v) = &r.violation {
            let bad = self.bad.fetch_add(1, Ordering::Relaxed) + 1;
            let text = format!("seed {}: {} at {} ms on {}: {}", r.seed, v.rule, v.at, v.node, v.why);
            let command = run::replay_command(r.seed, self.fixed);
            self.bar.suspend(|| eprintln!("{text}\n  {command}"));
            self.bar.set_message(format!("({bad} violations)"));
        }
        self.bar.inc(1);
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.live && (done.is_multiple_of(TELL_EVERY) || done == self.total) {
            eprintln!("{done}/{} seeds, {:.1} per second", self.total, self.bar.per_sec());
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
