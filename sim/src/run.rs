//! Runs seeds and sums up what they showed.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use crate::{plan::Fixed, rng::Dice, world::World};

pub use crate::world::{Report, Violation};

/// Runs one seed.  A panic of the core is a violation, too.
pub fn seed(seed: u64, fixed: &Fixed, trace: Option<Box<dyn Write + Send>>) -> Report {
    let run = AssertUnwindSafe(|| World::new(seed, fixed, trace).run());
    catch_unwind(run).unwrap_or_else(|why| {
        let text = why.downcast_ref::<String>().cloned();
        let text = text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Report {
            seed,
            violation: Some(Violation { rule: "panic".into(), at: 0, node: String::new(), why: text }),
            hash: String::new(),
            virtual_ms: 0,
            skipped_ms: 0,
            steps: 0,
            faults: 0,
            acked: 0,
            ends: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    })
}

/// The one command that runs this seed again, line by line.
pub fn replay_command(seed: u64, fixed: &Fixed) -> String {
    format!("cargo run --release -p clawmesh-sim -- replay --seed {seed}{} --trace", fixed.flags())
}

/// Many seeds in sum.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The first seed.
    pub from: u64,
    /// Seeds run.
    pub seeds: u64,
    /// What was fixed for all of them, as flags.
    pub flags: String,
    /// Runs that ended in a violation, by seed.
    pub violations: Vec<(u64, Violation)>,
    /// Virtual ms in all.
    pub virtual_ms: u64,
    /// Of these, quiet ones that were passed over.
    #[serde(default)]
    pub skipped_ms: u64,
    /// Inputs handed to cores in all.
    pub steps: u64,
    /// Faults injected in all.
    pub faults: u64,
    /// Tasks acknowledged in all.
    pub acked: u64,
    /// Real time that the runs took, ms.
    pub took_ms: u64,
    /// How often each thing was seen, and in how many seeds.
    pub seen: BTreeMap<String, (u64, u64)>,
}

impl Summary {
    fn add(&mut self, r: Report) {
        self.seeds += 1;
        self.virtual_ms += r.virtual_ms;
        self.skipped_ms += r.skipped_ms;
        self.steps += r.steps;
        self.faults += r.faults;
        self.acked += r.acked;
        for (k, n) in r.seen {
            let s = self.seen.entry(k).or_default();
            s.0 += n;
            s.1 += 1;
        }
        if let Some(v) = r.violation {
            self.violations.push((r.seed, v));
        }
    }

    /// Adds the sum of the seeds that come next.
    pub fn join(&mut self, more: Self) {
        self.seeds += more.seeds;
        self.virtual_ms += more.virtual_ms;
        self.skipped_ms += more.skipped_ms;
        self.steps += more.steps;
        self.faults += more.faults;
        self.acked += more.acked;
        self.took_ms += more.took_ms;
        self.violations.extend(more.violations);
        for (k, (n, seeds)) in more.seen {
            let s = self.seen.entry(k).or_default();
            *s = (s.0 + n, s.1 + seeds);
        }
    }
}

/// Runs a seed a second time and compares (I18).
fn twice(mut r: Report, fixed: &Fixed) -> Report {
    let again = seed(r.seed, fixed, None);
    *r.seen.entry("run twice and compared".into()).or_default() += 1;
    if again.hash != r.hash && r.violation.is_none() {
        let why = format!("two runs of the seed differ: hash {} and {}, {} and {} steps", r.hash, again.hash, r.steps, again.steps);
        r.violation = Some(Violation { rule: "I18".into(), at: 0, node: String::new(), why });
    }
    r
}

/// Runs the seeds `from..from + n` on `jobs` threads; `tell` hears of each finished seed.
pub fn many(from: u64, n: u64, fixed: &Fixed, jobs: usize, tell: &(dyn Fn(&Report) + Sync)) -> Summary {
    many_and_twice(from, n, fixed, jobs, 0, tell)
}

/// The same; `percent` of the seeds run twice, and both runs have to be the same (I18).
pub fn many_and_twice(from: u64, n: u64, fixed: &Fixed, jobs: usize, percent: u64, tell: &(dyn Fn(&Report) + Sync)) -> Summary {
    let start = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Summary { from, flags: fixed.flags(), ..Summary::default() });
    std::thread::scope(|s| {
        for _ in 0..jobs.max(1) {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    let r = seed(from + i, fixed, None);
                    let r = if Dice::split(from + i, "twice").percent(percent) { twice(r, fixed) } else { r };
                    tell(&r);
                    if let Ok(mut sum) = sum.lock() {
                        sum.add(r);
                    }
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.violations.sort_by_key(|(s, _)| *s);
    sum.took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_join_as_if_run_at_once() {
        let quick = Fixed { nodes: Some(2), tasks: Some(5), storm_ms: Some(3_000), ..Fixed::default() };
        let tell = |_: &Report| {};
        let mut first = many(0, 2, &quick, 1, &tell);
        first.join(many(2, 2, &quick, 1, &tell));
        let all = many(0, 4, &quick, 2, &tell);
        assert_eq!((first.seeds, first.steps, first.acked), (all.seeds, all.steps, all.acked));
        assert_eq!(first.seen, all.seen);
    }
}
