//! What a seed makes of the world: sizes, delays, disks, load, and which faults are on.
//!
//! Swarm testing: each fault class is on in about half of the seeds and draws its own rate, so that
//! rare combinations are met and a frequent fault can't hide what happens in its absence.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use clawmesh_protocol::config::{PROTO, Timing, Tune};
use serde::Serialize;

use crate::{diurnal, rng::Dice};

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
    /// As mixed, with the sizes of a long run (up to 1,000 nodes) and what the core is made to do against its will.
    Full,
    /// Disks that confirm what is not durable and lose it with the power.  Few promises can hold there.
    Lying,
    /// The product's real life: a few machines that are always on, laptops that sleep, bursts of work; for days.
    Laptop,
}

/// What the caller fixes; the rest is drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Fixed {
    /// Number of nodes, 1 to 1,000.
    pub nodes: Option<usize>,
    /// Family of worlds.
    pub profile: Profile,
    /// With voters, or without.
    pub voters: Option<bool>,
    /// Tasks in all.
    pub tasks: Option<usize>,
    /// Time of load and faults, ms.
    pub storm_ms: Option<u64>,
    /// Kinds of fault that are on, whatever the seed says.
    pub faults: Vec<Fault>,
    /// Kinds of fault that are off, whatever the seed says.
    pub without: Vec<Fault>,
    /// Of the faults of the seed, only those with these numbers strike.
    pub only: Option<BTreeSet<u32>>,
    /// Profile `laptop`: how many days; 1 unless told.
    pub days: Option<u64>,
    /// Profile `laptop`: quiet time is gone through step by step, too.
    pub every_second: bool,
    /// Profile `laptop`: tasks end by themselves and as they are told, without limits of time, so that two runs can be compared.
    pub plain: bool,
}

impl Fixed {
    /// The flags that say the same on the command line; each begins with a blank.
    pub fn flags(&self) -> String {
        let mut t = String::new();
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(v) = value {
                t += &format!(" --{name} {v}");
            }
        };
        flag("nodes", self.nodes.map(|n| n.to_string()));
        flag("profile", (self.profile != Profile::default()).then(|| word(&self.profile)));
        flag("mode", self.voters.map(|v| if v { "quorum" } else { "open" }.to_owned()));
        flag("tasks", self.tasks.map(|n| n.to_string()));
        flag("storm", self.storm_ms.map(|n| n.to_string()));
        self.faults.iter().for_each(|f| flag("fault", Some(word(f))));
        self.without.iter().for_each(|f| flag("without", Some(word(f))));
        flag("only", self.only.as_ref().map(list));
        flag("days", self.days.map(|n| n.to_string()));
        if self.every_second {
            t += " --every-second";
        }
        if self.plain {
            t += " --plain";
        }
        t
    }
}

/// A kind of fault or a profile as it is written on the command line.
pub fn word(v: &impl ValueEnum) -> String {
    v.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// Numbers of faults as they are written on the command line: `3,7,12`, or `none`.
fn list(numbers: &BTreeSet<u32>) -> String {
    if numbers.is_empty() { "none".into() } else { numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",") }
}

/// One fault that will strike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// Its number in this world, from 0.
    pub no: u32,
    /// When, ms after the start.
    pub at: u64,
    /// Its kind.
    pub fault: Fault,
    /// Whom it hits; one of those that are up when it is not said.
    pub node: Option<usize>,
    /// How long it lasts, ms; drawn when it is not said.
    pub lasts: Option<u64>,
}

/// A kind of fault.  Each has a mean time between two of it, for the whole mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
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
    /// Two groups can't reach each other, but one node reaches both.
    Bridge,
    /// Each node reaches its two neighbours only.
    Ring,
    /// The links of a node stall one by one, and come back one by one in another order.
    Swizzle,
    /// A machine sleeps for minutes or hours, as with a closed lid; half of them say so before.
    Sleep,
    /// A node handles everything late for a while.
    SlowCpu,
    /// A wall clock jumps by up to an hour.
    ClockJump,
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
    /// A coordinator says for a while that it is busy, whatever it is asked to take.
    Busy,
    /// What a replica acknowledges is not heard for a while.
    DropAck,
    /// A worker refuses what it is given for a while.
    Refuse,
    /// A node is stopped and comes back with the other of two versions (V3), mostly with the newer one.  Only where versions
    /// are mixed.
    Upgrade,
    /// The coordinator, if there is one, hears nothing more, although its links are up and it is heard.  Only when it is
    /// asked for.
    Deaf,
}

impl Fault {
    /// What the core is made to do against its will; on in the profile `full`, or when named.
    pub const BUGGIFY: [Self; 3] = [Self::Busy, Self::DropAck, Self::Refuse];

    /// What befalls nodes, disks and networks: all that a seed may draw by itself.
    pub const ALL: [Self; 24] = [
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
        Self::Bridge,
        Self::Ring,
        Self::Swizzle,
        Self::Sleep,
        Self::SlowCpu,
        Self::ClockJump,
        Self::Slow,
        Self::Leave,
        Self::Destroy,
        Self::StoreBad,
        Self::Full,
        Self::Stall,
    ];

    fn in_profile(self, p: Profile) -> bool {
        match p {
            Profile::Mixed | Profile::Full => self != Self::Deaf,
            Profile::Lying => matches!(
                self,
                Self::Kill | Self::Power | Self::Fuse | Self::KillAll | Self::Leave | Self::Reset | Self::Partition | Self::Isolate
            ),
            // A laptop's life is drawn as a whole.
            Profile::Calm | Profile::Laptop => false,
            Profile::Crash => matches!(self, Self::Kill | Self::Power | Self::Fuse | Self::CrashLoop | Self::KillAll | Self::Leave),
            Profile::Network => matches!(
                self,
                Self::Pause
                    | Self::Partition
                    | Self::Isolate
                    | Self::OneWay
                    | Self::Flap
                    | Self::Reset
                    | Self::Replace
                    | Self::Slow
                    | Self::Bridge
                    | Self::Ring
                    | Self::Swizzle
            ),
            Profile::Disk => matches!(self, Self::Power | Self::Fuse | Self::Destroy | Self::StoreBad | Self::Full | Self::Stall),
        }
    }

    /// Bounds of the mean time between two of this kind, ms.
    fn every(self) -> (u64, u64) {
        match self {
            Self::Fuse => (2_000, 15_000),
            Self::Reset | Self::Replace | Self::Flap => (1_000, 15_000),
            Self::Destroy | Self::KillAll | Self::Sleep => (20_000, 60_000),
            Self::StoreBad | Self::Full | Self::Leave => (8_000, 40_000),
            Self::Upgrade => (2_000, 12_000),
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
    /// All that will strike, in order of time.
    pub strikes: Vec<Strike>,
    /// Time of load and faults, ms.
    pub storm_ms: u64,
    /// Time of peace after it, at most, ms.
    pub peace_ms: u64,
    /// Link delay: from, to, tail permille, tail up to; ms.
    pub delay: (u64, u64, u64, u64),
    /// Gossip lost, permille per hearer.
    pub gossip_loss: u64,
    /// Gossip that comes a second time, later and out of order; permille per hearer.
    pub gossip_twice: u64,
    /// Clocks run fast or slow by up to so much, parts per million.
    pub drift_ppm: u64,
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
    /// The cores' bounds: the product's, or so small that they are met.
    pub tune: Tune,
    /// Permille of tasks whose submitter is of a newer version and says more than this one understands (V1).
    pub newer: u64,
    /// The highest protocol that its nodes understand (V3).
    pub proto: u32,
    /// Some of them understand the one before only, and are upgraded on the way; some are taken back.
    pub mixed: bool,
    /// How many looks in a row, two a second, must find the mesh at rest.
    pub looks: u32,
    /// The protocol's long times.
    pub timing: Timing,
    /// Quorum mode: mean time between two wishes of the operator, ms.
    pub voters_every_ms: Option<u64>,
    /// Profile `laptop`: how many days; 0 in all others.
    pub days: u64,
    /// Profile `laptop`: the first so many nodes are always on.
    pub servers: usize,
    /// When a user does something, ms after the start; empty when it is drawn on the way.
    pub deeds: Vec<u64>,
    /// Quiet time is passed over.
    pub leaps: bool,
    /// See [`Fixed::plain`].
    pub plain: bool,
    /// Some disks lie.
    pub lying: bool,
}

impl Plan {
    /// The world of a seed.
    pub fn draw(seed: u64, fixed: &Fixed) -> Self {
        let mut d = Dice::split(seed, "plan");
        let drawn = match d.range(0, 99) {
            0..8 => 1,
            8..20 => 2,
            20..50 => 3,
            50..90 => d.range(4, 7) as usize,
            _ => d.range(8, 30) as usize,
        };
        let drawn = if fixed.profile == Profile::Full { size(seed) } else { drawn };
        let nodes = fixed.nodes.unwrap_or(drawn).clamp(1, 1_000);
        let replicas = if d.percent(60) { 3 } else { d.range(1, 5) as usize };
        let copies = if d.percent(60) { 2 } else { d.range(1, 3) as usize };
        let mut faults = Vec::new();
        for f in Fault::ALL {
            let (lo, hi) = f.every();
            let (on, every) = (d.percent(if matches!(f, Fault::KillAll | Fault::Sleep) { 25 } else { 45 }), d.range(lo, hi));
            let wanted = fixed.faults.contains(&f) || (fixed.faults.is_empty() && on && f.in_profile(fixed.profile));
            if wanted && !fixed.without.contains(&f) {
                faults.push((f, every));
            }
        }
        if fixed.faults.contains(&Fault::Deaf) {
            let (lo, hi) = Fault::Deaf.every();
            faults.push((Fault::Deaf, Dice::split(seed, "hearing").range(lo, hi)));
        }
        let mut bug = Dice::split(seed, "buggify");
        for f in Fault::BUGGIFY {
            let (on, every) = (bug.percent(45) && fixed.faults.is_empty() && fixed.profile == Profile::Full, bug.range(3_000, 25_000));
            if (on || fixed.faults.contains(&f)) && !fixed.without.contains(&f) {
                faults.push((f, every));
            }
        }
        let calm = fixed.profile == Profile::Calm;
        let mixed = Self::mixed(seed, fixed);
        if mixed && !fixed.without.contains(&Fault::Upgrade) && (fixed.faults.is_empty() || fixed.faults.contains(&Fault::Upgrade)) {
            let (lo, hi) = Fault::Upgrade.every();
            faults.push((Fault::Upgrade, Dice::split(seed, "upgrades").range(lo, hi)));
        }
        let slow_net = d.percent(20);
        let slow_disk = d.percent(20);
        let big = nodes > 8;
        let storm_ms = if big { d.range(15_000, 25_000) } else { d.range(20_000, 60_000) };
        // Hundreds of nodes say as much in a second as a few in minutes.
        let storm_ms = if nodes > 100 { storm_ms / 2 } else { storm_ms };
        let storm_ms = fixed.storm_ms.unwrap_or(storm_ms);
        let strikes = strikes(seed, &faults, storm_ms, fixed.only.as_ref());
        let tasks = if big { d.range(20, 100) } else { d.range(20, 250) } as usize;
        Self {
            nodes,
            replicas: replicas.max(copies),
            copies,
            lost_after_ms: d.range(3_000, 12_000),
            faults,
            strikes,
            storm_ms,
            peace_ms: 180_000,
            delay: if slow_net { (5, 60, 10, 800) } else { (0, 3, if d.percent(50) { 5 } else { 0 }, 300) },
            gossip_loss: if calm || d.percent(50) { 0 } else { d.range(1, 300) },
            gossip_twice: if calm || d.percent(60) { 0 } else { d.range(1, 200) },
            drift_ppm: if d.percent(60) { 0 } else { d.range(1, 200) },
            fsync: if slow_disk { (2, 60, 20, 1_500) } else { (0, 5, if d.percent(50) { 10 } else { 0 }, 200) },
            command_every_ms: d.range(20, 800),
            tasks: fixed.tasks.unwrap_or(tasks),
            batch: if d.percent(20) { 60 } else { 8 },
            busy: if calm || d.percent(60) { 0 } else { d.range(1, 50) },
            codec: if d.percent(30) { d.range(20, 1_000) } else { 5 },
            late: if calm || d.percent(50) { 0 } else { d.range(10, 60) },
            quarantine: d.percent(20),
            skew_ms: if d.percent(50) { 0 } else { 3_600_000 },
            tune: if calm || d.percent(50) { Tune::default() } else { tight(&mut d) },
            newer: if d.percent(70) { 0 } else { d.range(50, 600) },
            proto: if d.percent(10) || mixed { PROTO } else { PROTO - 1 },
            mixed,
            looks: if d.percent(75) { 4 } else { d.range(20, 120) as u32 },
            timing: if calm { Timing::default() } else { timing(&mut d) },
            voters_every_ms: Self::voters(seed, fixed),
            days: 0,
            servers: 0,
            deeds: Vec::new(),
            leaps: false,
            plain: fixed.plain,
            lying: fixed.profile == Profile::Lying,
        }
        .lived(seed, fixed)
    }

    /// Profile `laptop`: days instead of seconds, the product's own times and bounds, and the faults of such a life.
    fn lived(mut self, seed: u64, fixed: &Fixed) -> Self {
        if fixed.profile != Profile::Laptop {
            return self;
        }
        let mut d = Dice::split(seed, "laptops");
        self.days = fixed.days.unwrap_or(1).max(1);
        self.nodes = fixed.nodes.unwrap_or(d.range(3, 12) as usize);
        self.servers = d.range(1, (self.nodes as u64 / 2).clamp(1, 4)) as usize;
        let life = diurnal::draw(seed, self.nodes, self.servers, self.days);
        self.storm_ms = fixed.storm_ms.unwrap_or(self.days * diurnal::DAY);
        let (on, off) = (&fixed.faults, &fixed.without);
        let mut strokes = life.strokes;
        strokes.retain(|s| (on.is_empty() || on.contains(&s.fault)) && !off.contains(&s.fault) && s.at < self.storm_ms);
        let strikes = (0..).zip(&strokes).map(|(no, s)| Strike { no, at: s.at, fault: s.fault, node: s.node, lasts: s.lasts });
        self.strikes = strikes.filter(|s| fixed.only.as_ref().is_none_or(|o| o.contains(&s.no))).collect();
        let mut kinds: BTreeMap<Fault, u64> = BTreeMap::new();
        strokes.iter().for_each(|s| *kinds.entry(s.fault).or_default() += 1);
        self.faults = kinds.into_iter().map(|(f, n)| (f, self.storm_ms / n)).collect();
        self.deeds = life.deeds;
        self.batch = self.batch.min(20);
        (self.late, self.busy, self.gossip_twice) = (0, 0, 0);
        self.tasks = fixed.tasks.unwrap_or(self.days as usize * 1_000);
        self.lost_after_ms = d.range(15_000, 120_000);
        (self.tune, self.timing) = (Tune::default(), Timing::default());
        self.voters_every_ms = self.voters_every_ms.map(|_| d.range(diurnal::DAY / 4, diurnal::DAY));
        // What began before may take hours.
        self.peace_ms = diurnal::DAY / 2;
        self.leaps = !fixed.every_second;
        self
    }

    /// One world in five has nodes of two versions.  A stream of chance of its own, as with the voters.
    fn mixed(seed: u64, fixed: &Fixed) -> bool {
        let may = matches!(fixed.profile, Profile::Mixed | Profile::Full | Profile::Crash | Profile::Laptop);
        fixed.faults.contains(&Fault::Upgrade) || (may && Dice::split(seed, "versions").percent(20))
    }

    /// Four of ten worlds have voters.  A stream of chance of its own, so that the rest of a world does not depend on it.
    fn voters(seed: u64, fixed: &Fixed) -> Option<u64> {
        let mut d = Dice::split(seed, "mode");
        let (drawn, every) = (d.percent(40), d.range(2_000, 20_000));
        fixed.voters.unwrap_or(drawn).then_some(every)
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(f, ms)| format!("{f:?}/{:.0}s", *ms as f64 / 1e3)).collect();
        format!(
            "{}{}nodes {} K {} d {} tasks {} storm {} s lost_after {} ms delay {:?} gossip loss {} fsync {:?} busy {} late {} faults [{}]",
            if self.voters_every_ms.is_some() { "quorum " } else { "" },
            if self.mixed { "two versions " } else { "" },
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

/// How many nodes the world of a long run has.
fn size(seed: u64) -> usize {
    let mut d = Dice::split(seed, "size");
    match d.range(0, 99) {
        0..60 => d.range(1, 7) as usize,
        60..95 => d.range(8, 50) as usize,
        95..99 => 200,
        _ => 1_000,
    }
}

/// Bounds that a minute of load meets: each on its own coin.
fn tight(d: &mut Dice) -> Tune {
    let mut t = Tune::default();
    let mut or = |v: usize, lo: u64, hi: u64| if d.percent(40) { d.range(lo, hi) as usize } else { v };
    t.submit_window = or(t.submit_window, 1, 12);
    t.tasks_max = or(t.tasks_max, 10, 200);
    t.retain_count = or(t.retain_count, 0, 40);
    t.repl_window = or(t.repl_window, 1, 20_000);
    t.retain_ms = or(t.retain_ms as usize, 2_000, 40_000) as u64;
    t.sticky_ms = or(t.sticky_ms as usize, 1_000, 20_000) as u64;
    t
}

/// When each kind strikes.  Every kind has a stream of its own, and every strike a number, so that leaving one out does
/// not move the others.
fn strikes(seed: u64, faults: &[(Fault, u64)], storm_ms: u64, only: Option<&BTreeSet<u32>>) -> Vec<Strike> {
    let mut all = Vec::new();
    for (fault, every) in faults {
        let mut d = Dice::split(seed, &word(fault));
        let mut at = d.range(500, *every);
        while at < storm_ms {
            all.push((at, *fault));
            at += d.range(every / 2, every * 3 / 2).max(1);
        }
    }
    all.sort_unstable();
    let numbered = (0..).zip(all).map(|(no, (at, fault))| Strike { no, at, fault, node: None, lasts: None });
    numbered.filter(|s| only.is_none_or(|o| o.contains(&s.no))).collect()
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
        assert_eq!(Plan::draw(5, &f).line(), Plan::draw(5, &f).line());
        assert_ne!(Plan::draw(5, &f).line(), Plan::draw(6, &f).line());
    }

    #[test]
    fn a_calm_world_has_no_faults_and_the_mixed_ones_meet_all() {
        let calm = Fixed { profile: Profile::Calm, ..Fixed::default() };
        assert!((0..50).all(|s| Plan::draw(s, &calm).faults.is_empty()));
        let seen: std::collections::BTreeSet<Fault> =
            (0..200).flat_map(|s| Plan::draw(s, &Fixed::default()).faults.into_iter().map(|(f, _)| f)).collect();
        let drawn: std::collections::BTreeSet<Fault> = Fault::ALL.into_iter().chain([Fault::Upgrade]).collect();
        assert_eq!(seen, drawn);
    }

    #[test]
    fn long_runs_meet_all_sizes() {
        let sizes: Vec<usize> = (0..2_000).map(size).collect();
        let share = |lo: usize, hi: usize| sizes.iter().filter(|n| (lo..=hi).contains(*n)).count() / 20;
        assert!((55..65).contains(&share(1, 7)) && (30..40).contains(&share(8, 50)), "{} {}", share(1, 7), share(8, 50));
        assert!(sizes.contains(&200) && sizes.contains(&1_000));
    }

    #[test]
    fn leaving_faults_out_does_not_move_the_others() {
        let all = Plan::draw(3, &Fixed::default()).strikes;
        assert!(all.len() > 4 && all.is_sorted_by_key(|s| s.at));
        let keep: BTreeSet<u32> = [1, 3].into();
        let few = Plan::draw(3, &Fixed { only: Some(keep), ..Fixed::default() }).strikes;
        assert_eq!(few, [all[1].clone(), all[3].clone()]);
    }

    #[test]
    fn what_is_fixed_can_be_typed() {
        let f =
            Fixed { nodes: Some(3), profile: Profile::Crash, faults: vec![Fault::KillAll], only: Some([7, 2].into()), ..Fixed::default() };
        assert_eq!(f.flags(), " --nodes 3 --profile crash --fault kill-all --only 2,7");
        let f = Fixed { profile: Profile::Laptop, days: Some(30), every_second: true, ..Fixed::default() };
        assert_eq!(f.flags(), " --profile laptop --days 30 --every-second");
        assert_eq!(Fixed::default().flags(), "");
    }
}
