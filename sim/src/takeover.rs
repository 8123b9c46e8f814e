//! Measures in a quiet world: how long a takeover takes and what it says, and what an idle mesh costs.

use std::collections::BTreeMap;
use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    plan::{Fixed, Profile},
    world::World,
};

/// How the coordinator goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Its process is killed; its host resets the connections.
    Kill,
    /// Its machine loses power or its network: nobody is told.
    Silent,
    /// It leaves in order.
    Leave,
}

/// One takeover.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Virtual ms from the coordinator's end until another one serves.
    pub ms: u64,
    /// Messages of the election in that time, by name.
    pub messages: BTreeMap<&'static str, u64>,
    /// Bytes that each node received in a second of rest before it, on average.
    pub idle_bytes: f64,
}

/// The median, the 99th percentile and the worst.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// Half of the runs were not above it.
    pub p50: u64,
    /// 99 of 100 runs were not above it.
    pub p99: u64,
    /// No run was above it.
    pub max: u64,
}

impl Spread {
    fn of(mut v: Vec<u64>) -> Self {
        v.sort_unstable();
        let at = |permille: usize| v.get((v.len() * permille).div_ceil(1_000).max(1) - 1).copied().unwrap_or(0);
        Self { p50: at(500), p99: at(990), max: at(1_000) }
    }
}

/// Takeovers in sum.
#[derive(Debug, Clone, Serialize)]
pub struct Takeovers {
    /// Nodes of each mesh.
    pub nodes: usize,
    /// How the coordinator went.
    pub end: End,
    /// Runs that had a takeover.
    pub runs: u64,
    /// Runs in which nobody took over within a virtual minute.
    pub failed: u64,
    /// Virtual ms until another node serves.
    pub takeover_ms: Spread,
    /// The seed of the slowest run.
    pub slowest: u64,
    /// Messages of the whole election, over links.
    pub messages: Spread,
    /// Messages by name, mean of all runs.
    pub by_name: BTreeMap<String, f64>,
    /// Bytes that a node receives in a second of rest, mean; a gossip message counts once per node.
    pub idle_bytes_per_node_second: f64,
}

/// `runs` takeovers, each in a world of its own, from this seed on; `trace` says where the lines of the first one go, and
/// `tell` hears of each.
pub fn measure(nodes: usize, from: u64, runs: u64, end: End, mut trace: Option<Box<dyn Write + Send>>, tell: &dyn Fn()) -> Takeovers {
    let fixed = Fixed {
        nodes: Some(nodes),
        profile: Profile::Calm,
        tasks: Some(0),
        voters: Some(false),
        storm_ms: Some(3_600_000),
        ..Fixed::default()
    };
    let mut samples = Vec::new();
    let mut slowest = (0, from);
    for seed in from..from + runs {
        let sample = World::new(seed, &fixed, trace.take()).takeover(end);
        slowest = slowest.max((sample.as_ref().map_or(u64::MAX, |s| s.ms), seed));
        samples.extend(sample);
        tell();
    }
    let mut by_name: BTreeMap<String, f64> = BTreeMap::new();
    for (name, n) in samples.iter().flat_map(|s| &s.messages) {
        *by_name.entry((*name).to_owned()).or_default() += *n as f64 / samples.len() as f64;
    }
    Takeovers {
        nodes,
        end,
        runs: samples.len() as u64,
        failed: runs - samples.len() as u64,
        slowest: slowest.1,
        takeover_ms: Spread::of(samples.iter().map(|s| s.ms).collect()),
        messages: Spread::of(samples.iter().map(|s| s.messages.values().sum()).collect()),
        by_name,
        idle_bytes_per_node_second: samples.iter().map(|s| s.idle_bytes).sum::<f64>() / samples.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_coordinator_is_replaced_in_a_second_and_a_silent_one_in_five() {
        for (end, limit) in [(End::Leave, 500), (End::Kill, 1_500), (End::Silent, 5_000)] {
            let t = measure(3, 0, 5, end, None, &|| ());
            assert_eq!((t.runs, t.failed), (5, 0));
            assert!(t.takeover_ms.p50 <= limit, "{end:?}: {t:?}");
            assert!(t.messages.max < 60 && t.idle_bytes_per_node_second > 0.0, "{t:?}");
        }
    }

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let s = Spread::of((1..=200).rev().collect());
        assert_eq!((s.p50, s.p99, s.max), (100, 198, 200));
        assert_eq!(Spread::of(vec![7]).p50, 7);
    }
}
