//! Makes a bad run small: fewer faults, then fewer nodes, tasks, and less time, as long as it stays bad in the same way.

use std::collections::BTreeSet;

use crate::{
    plan::{Fixed, Plan},
    run::{self, Report},
};

/// What the smaller run must still show.
#[derive(Debug, Clone)]
pub enum Goal {
    /// A violation of the same rule as the whole run.
    Violation(String),
    /// This counter (`sometimes: …`, `rule: E5`, …) is above zero.
    Seen(String),
}

impl Goal {
    fn met(&self, r: &Report) -> bool {
        match self {
            Self::Violation(rule) => r.violation.as_ref().is_some_and(|v| v.rule == *rule),
            Self::Seen(what) => r.seen.contains_key(what),
        }
    }
}

/// The smallest run found.
#[derive(Debug)]
pub struct Small {
    /// What has to be fixed to get it.
    pub fixed: Fixed,
    /// What it shows.
    pub report: Report,
    /// Runs it took to find it.
    pub runs: u64,
}

struct Search<'a> {
    seed: u64,
    goal: &'a Goal,
    best: Fixed,
    report: Report,
    runs: u64,
    tell: &'a dyn Fn(u64, &str),
}

impl Search<'_> {
    /// Takes the smaller world when it still shows the goal.
    fn take(&mut self, smaller: Fixed) -> bool {
        let r = run::seed(self.seed, &smaller, None);
        self.runs += 1;
        let ok = self.goal.met(&r);
        if ok {
            (self.best, self.report) = (smaller, r);
        }
        (self.tell)(self.runs, &self.best.flags());
        ok
    }

    fn faults(&mut self) {
        let all: Vec<u32> = Plan::draw(self.seed, &self.best).strikes.iter().map(|s| s.no).collect();
        ddmin(all, |keep| {
            let only: BTreeSet<u32> = keep.iter().copied().collect();
            let smaller = Fixed { only: Some(only), ..self.best.clone() };
            self.take(smaller)
        });
    }

    /// Lowers one number as far as it goes, by halves and then by ones.
    fn number(&mut self, now: u64, least: u64, set: impl Fn(&mut Fixed, u64)) {
        let (mut high, mut low) = (now, least);
        while low < high {
            let mid = low + (high - low) / 2;
            let mut smaller = self.best.clone();
            set(&mut smaller, mid);
            if self.take(smaller) { high = mid } else { low = mid + 1 }
        }
    }
}

/// The smallest run of a seed that still shows the goal; none when the whole run does not show it.  `tell` hears of the
/// progress: runs so far and the flags of the smallest world yet.
pub fn shrink(seed: u64, fixed: &Fixed, goal: Option<Goal>, tell: &dyn Fn(u64, &str)) -> Option<Small> {
    let report = run::seed(seed, fixed, None);
    let goal = goal.or_else(|| report.violation.as_ref().map(|v| Goal::Violation(v.rule.clone())))?;
    if !goal.met(&report) {
        return None;
    }
    let mut s = Search { seed, goal: &goal, best: fixed.clone(), report, runs: 1, tell };
    loop {
        let before = s.best.clone();
        s.faults();
        let plan = Plan::draw(seed, &s.best);
        s.number(plan.nodes as u64, 1, |f, n| f.nodes = Some(n as usize));
        s.number(plan.tasks as u64, 0, |f, n| f.tasks = Some(n as usize));
        // In steps of a tenth of a second: less says nothing.
        s.number(Plan::draw(seed, &s.best).storm_ms / 100, 1, |f, n| f.storm_ms = Some(n * 100));
        if s.best == before {
            break;
        }
    }
    Some(Small { fixed: s.best, report: s.report, runs: s.runs })
}

/// Zeller's ddmin: a part of `all` that is still bad and of which no single piece can be left out.
fn ddmin(all: Vec<u32>, mut bad: impl FnMut(&[u32]) -> bool) -> Vec<u32> {
    let mut now = all;
    if bad(&[]) {
        return Vec::new();
    }
    let mut pieces = 2;
    while now.len() > 1 {
        let size = now.len().div_ceil(pieces);
        let without = (0..now.len()).step_by(size).map(|at| {
            let kept = now.iter().enumerate().filter(|(i, _)| *i < at || *i >= at + size);
            kept.map(|(_, v)| *v).collect::<Vec<u32>>()
        });
        let candidates: Vec<Vec<u32>> = without.collect();
        if let Some(smaller) = candidates.into_iter().find(|c| bad(c)) {
            now = smaller;
            pieces = (pieces - 1).max(2);
        } else if size == 1 {
            break;
        } else {
            pieces = (pieces * 2).min(now.len());
        }
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ddmin_keeps_exactly_what_matters() {
        let needs = |keep: &[u32]| [3, 17, 18].iter().all(|n| keep.contains(n));
        assert_eq!(ddmin((0..40).collect(), needs), [3, 17, 18]);
        assert_eq!(ddmin((0..40).collect(), |_| true), [0u32; 0]);
        assert_eq!(ddmin(vec![7], |k| k.contains(&7)), [7]);
    }

    #[test]
    fn a_run_that_shows_a_crash_shrinks_to_one_fault_on_few_nodes() {
        let fixed = Fixed { nodes: Some(4), storm_ms: Some(15_000), tasks: Some(10), ..Fixed::default() };
        let goal = || Goal::Seen("fault: Kill".into());
        let found = (0..50).find_map(|seed| Some((seed, shrink(seed, &fixed, Some(goal()), &|_, _| {})?)));
        let (seed, small) = found.expect("some of fifty seeds kills a process");
        assert_eq!(small.fixed.nodes, Some(1));
        assert_eq!(small.fixed.only.as_ref().map(BTreeSet::len), Some(1));
        let again = run::seed(seed, &small.fixed, None);
        assert_eq!(again.hash, small.report.hash, "what it prints replays it");
        assert!(shrink(seed, &fixed, Some(Goal::Seen("no such thing".into())), &|_, _| {}).is_none());
    }
}
