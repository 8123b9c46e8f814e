//! Runs seeds and sums up what they showed.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use crate::{plan::Fixed, world::World};

pub use crate::world::{Report, Violation};

/// Runs one seed.  A panic of the core is a violation, too.
pub fn seed(seed: u64, fixed: Fixed, trace: Option<Box<dyn Write + Send>>) -> Report {
    let run = AssertUnwindSafe(|| World::new(seed, fixed, trace).run(seed));
    catch_unwind(run).unwrap_or_else(|why| {
        let text = why.downcast_ref::<String>().cloned();
        let text = text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Report {
            seed,
            violation: Some(Violation { rule: "panic".into(), at: 0, node: String::new(), why: text }),
            hash: String::new(),
            virtual_ms: 0,
            steps: 0,
            faults: 0,
            acked: 0,
            seen: BTreeMap::new(),
        }
    })
}

/// Many seeds in sum.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Runs that ended in a violation.
    pub violations: Vec<(u64, Violation)>,
    /// Virtual ms in all.
    pub virtual_ms: u64,
    /// Inputs handed to cores in all.
    pub steps: u64,
    /// Faults injected in all.
    pub faults: u64,
    /// Tasks acknowledged in all.
    pub acked: u64,
    /// How often each thing was seen, and in how many seeds.
    pub seen: BTreeMap<String, (u64, u64)>,
}

impl Summary {
    fn add(&mut self, r: Report) {
        self.seeds += 1;
        self.virtual_ms += r.virtual_ms;
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
}

/// Runs the seeds `from..from + n` on `jobs` threads; `tell` hears of each finished seed.
pub fn many(from: u64, n: u64, fixed: Fixed, jobs: usize, tell: &(dyn Fn(u64, &Report) + Sync)) -> Summary {
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let sum = Mutex::new(Summary::default());
    std::thread::scope(|s| {
        for _ in 0..jobs.max(1) {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    let r = seed(from + i, fixed, None);
                    tell(done.fetch_add(1, Ordering::Relaxed) + 1, &r);
                    if let Ok(mut sum) = sum.lock() {
                        sum.add(r);
                    }
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.violations.sort_by_key(|(s, _)| *s);
    sum
}
