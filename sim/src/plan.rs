//! What a seed makes of the world: sizes, delays, disks, load, and which faults are on.
//!
//! Swarm testing: each fault class is on in about half of the seeds and draws its own rate, so that
//! rare combinations are met and a frequent fault can't hide what happens in its absence.

use clap::ValueEnum;
use clawmesh_protocol::config::Timing;
use serde::Serialize;

use crate::rng::Dice;

/// A family of worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Everything, each class with its own coin: the default.
    #[default]
    Mixed,
    /// No faults at all: what must hold on a quiet LAN.
    Calm,
    /// Crashes and restarts only.
    Crash,
    /// Cuts, resets and pauses only.
    Network,
    /// Disks that are slow, full, bad or destroyed.
    Disk,
}

/// What the caller fixes; the rest is drawn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fixed {
    /// Number of nodes, 1 to 64.
    pub nodes: Option<usize>,
    /// Family of worlds.
    pub profile: Profile,
}

/// A kind of fault.  Each has a mean time between two of it, for the whole mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A process is killed at once; its sockets are reset by its host.
    Kill,
    /// A machine loses power: nobody is told.
    Power,
    /// A process dies between two effects of one step.
    Fuse,
    /// One node dies each time soon after it is back, for a while.
    CrashLoop,
    /// All processes are killed at once.
    KillAll,
    /// A process stops and goes on later (SIGSTOP, suspend).
    Pause,
    /// Two groups can't reach each other.
    Partition,
    /// One node is cut off.
    Isolate,
    /// One direction between two nodes is cut.
    OneWay,
    /// One pair is cut and healed quickly, many times.
    Flap,
    /// A connection is reset.
    Reset,
    /// A connection is replaced by a new one without a close in between.
    Replace,
    /// All delays are multiplied for a while.
    Slow,
    /// A node leaves in order and comes back later.
    Leave,
    /// A machine and its disk are gone for good.
    Destroy,
    /// A write or fsync fails; the process restarts a little later.
    StoreBad,
    /// A disk is nearly full for a while.
    Full,
    /// One fsync takes seconds.
    Stall,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::Power,
        Self::Fuse,
        Self::CrashLoop,
        Self::KillAll,
        Self::Pause,
        Self::Partition,
        Self::Isolate,
        Self::OneWay,
        Self::Flap,
        Self::Reset,
        Self::Replace,
        Self::Slow,
        Self::Leave,
        Self::Destroy,
        Self::StoreBad,
        Self::Full,
        Self::Stall,
    ];

    fn in_profile(self, p: Profile) -> bool {
        match p {
            Profile::Mixed => true,
            Profile::Calm => false,
            Profile::Crash => matches!(self, Self::Kill | Self::Power | Self::Fuse | Self::CrashLoop | Self::KillAll | Self::Leave),
            Profile::Network => matches!(
                self,
                Self::Pause | Self::Partition | Self::Isolate | Self::OneWay | Self::Flap | Self::Reset | Self::Replace | Self::Slow
            ),
            Profile::Disk => matches!(self, Self::Power | Self::Fuse | Self::Destroy | Self::StoreBad | Self::Full | Self::Stall),
        }
    }

    /// Bounds of the mean time between two of this kind, ms.
    fn every(self) -> (u64, u64) {
        match self {
            Self::Fuse => (2_000, 15_000),
            Self::Reset | Self::Replace | Self::Flap => (1_000, 15_000),
            Self::Destroy | Self::KillAll => (20_000, 60_000),
            Self::StoreBad | Self::Full | Self::Leave => (8_000, 40_000),
            _ => (3_000, 25_000),
        }
    }
}

/// One world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes.
    pub nodes: usize,
    /// K of the protocol.
    pub replicas: usize,
    /// d of the protocol.
    pub copies: usize,
    /// Silence after which a worker is lost, ms.
    pub lost_after_ms: u64,
    /// Faults that are on: mean time between two, ms.
    pub faults: Vec<(Fault, u64)>,
    /// Time of load and faults, ms.
    pub storm_ms: u64,
    /// Time of peace after it, at most, ms.
    pub peace_ms: u64,
    /// Link delay: from, to, tail permille, tail up to; ms.
    pub delay: (u64, u64, u64, u64),
    /// Gossip lost, permille per hearer.
    pub gossip_loss: u64,
    /// Fsync: from, to, tail permille, tail up to; ms.
    pub fsync: (u64, u64, u64, u64),
    /// Mean time between two commands of the workload, ms.
    pub command_every_ms: u64,
    /// Tasks in all.
    pub tasks: usize,
    /// Most tasks in one submit.
    pub batch: usize,
    /// Permille of nodes' inputs that come late because the machine is busy.
    pub busy: u64,
    /// Permille of messages that go through the codec and are compared.
    pub codec: u64,
    /// Nodes that start late, ms after the others; percent of nodes.
    pub late: u64,
    /// A restart may find a damaged store and import what it can into a new one (D3).
    pub quarantine: bool,
    /// Wall clocks differ by up to this, ms.
    pub skew_ms: u64,
    /// How many looks in a row, two a second, must find the mesh at rest.
    pub looks: u32,
    /// The protocol's long times.
    pub timing: Timing,
}

impl Plan {
    /// The world of a seed.
    pub fn draw(seed: u64, fixed: Fixed) -> Self {
        let mut d = Dice::split(seed, "plan");
        let drawn = match d.range(0, 99) {
            0..8 => 1,
            8..20 => 2,
            20..50 => 3,
            50..90 => d.range(4, 7) as usize,
            _ => d.range(8, 30) as usize,
        };
        let nodes = fixed.nodes.unwrap_or(drawn).clamp(1, 64);
        let replicas = if d.percent(60) { 3 } else { d.range(1, 5) as usize };
        let copies = if d.percent(60) { 2 } else { d.range(1, 3) as usize };
        let mut faults = Vec::new();
        for f in Fault::ALL {
            let (lo, hi) = f.every();
            let (on, every) = (d.percent(if f == Fault::KillAll { 25 } else { 45 }), d.range(lo, hi));
            if on && f.in_profile(fixed.profile) {
                faults.push((f, every));
            }
        }
        let calm = fixed.profile == Profile::Calm;
        let slow_net = d.percent(20);
        let slow_disk = d.percent(20);
        let big = nodes > 8;
        Self {
            nodes,
            replicas: replicas.max(copies),
            copies,
            lost_after_ms: d.range(3_000, 12_000),
            faults,
            storm_ms: if big { d.range(15_000, 25_000) } else { d.range(20_000, 60_000) },
            peace_ms: 180_000,
            delay: if slow_net { (5, 60, 10, 800) } else { (0, 3, if d.percent(50) { 5 } else { 0 }, 300) },
            gossip_loss: if calm || d.percent(50) { 0 } else { d.range(1, 300) },
            fsync: if slow_disk { (2, 60, 20, 1_500) } else { (0, 5, if d.percent(50) { 10 } else { 0 }, 200) },
            command_every_ms: d.range(20, 800),
            tasks: if big { d.range(20, 100) } else { d.range(20, 250) } as usize,
            batch: if d.percent(20) { 60 } else { 8 },
            busy: if calm || d.percent(60) { 0 } else { d.range(1, 50) },
            codec: if d.percent(30) { d.range(20, 1_000) } else { 5 },
            late: if d.percent(50) { 0 } else { d.range(10, 60) },
            quarantine: d.percent(20),
            skew_ms: if d.percent(50) { 0 } else { 3_600_000 },
            looks: if d.percent(75) { 4 } else { d.range(20, 120) as u32 },
            timing: timing(&mut d),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(f, ms)| format!("{f:?}/{:.0}s", *ms as f64 / 1e3)).collect();
        format!(
            "nodes {} K {} d {} tasks {} storm {} s lost_after {} ms delay {:?} gossip loss {} fsync {:?} busy {} late {} faults [{}]",
            self.nodes,
            self.replicas,
            self.copies,
            self.tasks,
            self.storm_ms / 1_000,
            self.lost_after_ms,
            self.delay,
            self.gossip_loss,
            self.fsync,
            self.busy,
            self.late,
            faults.join(" ")
        )
    }
}

/// In most worlds the long times are short, so that what follows from them happens at all.
fn timing(d: &mut Dice) -> Timing {
    let (hold_ms, hold_half_ms, absent_ms) = (d.range(5_000, 60_000), d.range(2_000, 30_000), d.range(5_000, 60_000));
    if d.percent(30) {
        // Half of the mesh may be destroyed: nobody waits ten minutes for it here.
        return Timing { hold_ms, hold_half_ms, absent_ms, ..Timing::default() };
    }
    Timing {
        hold_ms,
        hold_half_ms,
        absent_ms,
        steady_ms: d.range(500, 6_000),
        tenure_ms: d.range(1_000, 10_000),
        settled_ms: d.range(5_000, 60_000),
        stuck_ms: if d.percent(50) { 10_000 } else { d.range(3_000, 10_000) },
        barred_ms: d.range(5_000, 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_world_twice() {
        let f = Fixed::default();
        assert_eq!(Plan::draw(5, f).line(), Plan::draw(5, f).line());
        assert_ne!(Plan::draw(5, f).line(), Plan::draw(6, f).line());
    }

    #[test]
    fn a_calm_world_has_no_faults_and_the_mixed_ones_meet_all() {
        let calm = Fixed { profile: Profile::Calm, ..Fixed::default() };
        assert!((0..50).all(|s| Plan::draw(s, calm).faults.is_empty()));
        let seen: std::collections::BTreeSet<Fault> =
            (0..200).flat_map(|s| Plan::draw(s, Fixed::default()).faults.into_iter().map(|(f, _)| f)).collect();
        assert_eq!(seen.len(), Fault::ALL.len());
    }
}
