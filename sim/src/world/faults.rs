//! What goes wrong, and how it is put right.

use clawmesh_protocol::io::Input;

use super::{What, World, net::pair_of};
use crate::{
    plan::{Fault, Strike},
    rng::Dice,
};

/// From the announcement of a sleep to the sleep itself, ms: a machine waits for who has something to do, but not for long.
const DOZE_MS: u64 = 300;

/// The end of a fault.
pub(super) enum Undo {
    Resume(usize, u64),
    /// A sleep that was announced begins.
    Doze(usize, u64),
    Cut(Vec<(usize, usize)>),
    /// A fault that begins later: the way from this side of a pair stalls.
    Clog(usize, usize),
    Slow,
    Full(usize, u64),
    Restart(usize, u64),
    Flap {
        a: usize,
        b: usize,
        left: u32,
    },
}

impl World {
    /// A fault strikes.
    pub(super) fn strike(&mut self, s: &Strike) {
        let Strike { no, fault, lasts, .. } = *s;
        if self.calm {
            return;
        }
        // Its own stream: what one fault draws does not depend on those before it.
        self.chance.fault = Dice::split(self.seed, &format!("strike {no}"));
        let alive = self.alive();
        let Some(node) = self.chance.fault.pick(&alive).map(|n| s.node.unwrap_or(n)).filter(|n| alive.contains(n)) else { return };
        self.lasts = lasts;
        let name = self.nodes[node].cfg.name.clone();
        self.faults += 1;
        self.count(&format!("fault: {fault:?}"));
        self.say(|| format!("FAULT {no}: {fault:?} (at {name})"));
        match fault {
            Fault::Kill => self.kill_process(node, false, (50, 10_000)),
            Fault::Power => self.kill_process(node, true, (500, 15_000)),
            Fault::Fuse => self.nodes[node].fuse = Some(self.chance.fault.range(1, 60)),
            Fault::CrashLoop => {
                self.nodes[node].loops = self.chance.fault.range(2, 6) as u32;
                self.kill_process(node, false, (50, 500));
            }
            Fault::KillAll => {
                let power = self.chance.fault.percent(50);
                alive.into_iter().for_each(|n| self.kill_process(n, power, (50, 4_000)));
            }
            Fault::Pause => self.pause(node),
            Fault::Partition | Fault::Isolate | Fault::OneWay => self.cut_some(fault, node),
            Fault::Flap => {
                let other = self.chance.fault.below(self.nodes.len());
                let left = self.chance.fault.range(2, 6) as u32;
                self.undo(Undo::Flap { a: node, b: other, left });
            }
            Fault::Reset | Fault::Replace => {
                let other = self.chance.fault.below(self.nodes.len());
                if other != node {
                    let pair = pair_of(node, other).0;
                    if fault == Fault::Reset { self.reset(pair) } else { self.replace(pair) }
                }
            }
            Fault::Bridge | Fault::Ring => self.reshape(fault, node),
            Fault::Swizzle => self.swizzle(node),
            Fault::Sleep => self.sleep(node),
            Fault::SlowCpu => {
                self.nodes[node].slow_until = self.now + self.chance.fault.range(500, 15_000);
            }
            Fault::ClockJump => {
                self.nodes[node].skew = self.chance.fault.range(0, 2 * super::node::JUMP_MS);
            }
            Fault::Slow => {
                self.slow = self.chance.fault.range(3, 40);
                self.undo_in(500, 8_000, Undo::Slow);
            }
            Fault::Leave => self.leave(node),
            Fault::Upgrade => self.upgrade(node),
            Fault::Destroy => self.burn(node),
            Fault::StoreBad => {
                let life = self.nodes[node].life;
                self.break_disk(node);
                self.undo_in(50, 2_000, Undo::Restart(node, life));
            }
            Fault::Full => {
                let life = self.nodes[node].life;
                self.give(node, Input::Full(true));
                self.undo_in(500, 10_000, Undo::Full(node, life));
            }
            Fault::Deaf => {
                if let Some(n) = self.serving().first().copied() {
                    self.deafen(n, true);
                }
            }
            Fault::Stall => {
                let ms = self.chance.fault.range(500, 8_000);
                self.stall_disk(node, ms);
            }
            Fault::Busy | Fault::DropAck | Fault::Refuse => {
                let until = self.now + self.chance.fault.range(300, 6_000);
                self.nodes[node].bug = Some((fault, until));
            }
        }
        self.lasts = None;
    }

    fn undo_in(&mut self, lo: u64, hi: u64, undo: Undo) {
        let drawn = self.chance.fault.range(lo, hi);
        let d = self.lasts.take().unwrap_or(drawn);
        self.after(d, What::Undo(undo));
    }

    pub(super) fn kill_process(&mut self, node: usize, power: bool, back: (u64, u64)) {
        self.crash(node, power);
        if self.lasts.is_some() {
            self.nodes[node].away = self.lasts;
        }
        self.come_back(node, back.0, back.1);
    }

    fn pause(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.stop_process(node, true);
        let (lo, hi) = if self.chance.fault.percent(50) { (50, 2_500) } else { (2_000, 20_000) };
        self.undo_in(lo, hi, Undo::Resume(node, life));
    }

    fn cut_some(&mut self, fault: Fault, node: usize) {
        let n = self.nodes.len();
        let mut cuts = Vec::new();
        match fault {
            Fault::OneWay => {
                let other = self.chance.fault.below(n);
                if other != node {
                    cuts.push(pair_of(node, other));
                }
            }
            _ => {
                let far: Vec<bool> =
                    (0..n).map(|i| if fault == Fault::Isolate { i == node } else { self.chance.fault.percent(50) }).collect();
                for a in 0..n {
                    for b in (0..n).filter(|b| *b != a) {
                        if far[a] != far[b] {
                            cuts.push(pair_of(a, b));
                        }
                    }
                }
            }
        }
        for (pair, side) in &cuts {
            self.cut(*pair, *side, true);
        }
        let (lo, hi) = if self.chance.fault.percent(30) { (100, 2_000) } else { (2_000, 20_000) };
        self.undo_in(lo, hi, Undo::Cut(cuts));
    }

    /// Cuts all links but those of a bridge or a ring.
    fn reshape(&mut self, fault: Fault, node: usize) {
        let n = self.nodes.len();
        let side: Vec<bool> = (0..n).map(|_| self.chance.fault.percent(50)).collect();
        let joined = |a: usize, b: usize| match fault {
            Fault::Bridge => side[a] == side[b] || a == node || b == node,
            _ => a.abs_diff(b) == 1 || a.abs_diff(b) == n - 1,
        };
        let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
        let cuts: Vec<_> = pairs.filter(|(a, b)| a != b && !joined(*a, *b)).map(|(a, b)| pair_of(a, b)).collect();
        for (pair, side) in &cuts {
            self.cut(*pair, *side, true);
        }
        self.undo_in(1_000, 20_000, Undo::Cut(cuts));
    }

    /// Clogs the links of a node one after the other, and lets each go at a time of its own.
    fn swizzle(&mut self, node: usize) {
        for (pair, side) in self.pairs_of(node) {
            let (from, to) = (self.chance.fault.range(0, 3_000), self.chance.fault.range(3_000, 12_000));
            let cut = vec![(pair, side)];
            self.after(from, What::Undo(Undo::Clog(pair, side)));
            self.after(to, What::Undo(Undo::Cut(cut)));
        }
    }

    /// A machine sleeps; what is left of the storm may be shorter, then it wakes in peace.
    fn sleep(&mut self, node: usize) {
        let life = self.nodes[node].life;
        if self.nodes[node].core.is_some() && self.now.is_multiple_of(2) {
            // As with logind: the node is told before, and has its word with the others.
            self.count("sometimes: a machine said that it sleeps");
            self.ask_to_sleep(node);
            self.after(DOZE_MS, What::Undo(Undo::Doze(node, life)));
        } else {
            self.stop_process(node, true);
        }
        // Nothing on the way outlives the sleep: its sockets have timed out.
        let left = self.storm_ends.saturating_sub(self.now).max(5_000);
        self.undo_in(5_000, left, Undo::Resume(node, life));
    }

    pub(super) fn leave(&mut self, node: usize) {
        if self.nodes[node].leaving {
            return;
        }
        let life = self.nodes[node].life;
        self.nodes[node].away = self.lasts.take();
        self.ask_to_leave(node);
        // Who does not get done in five seconds is killed, as by a service manager.
        self.undo_in(5_000, 5_000, Undo::Restart(node, life));
    }

    fn burn(&mut self, node: usize) {
        if self.destroyed + 1 < self.plan.copies && self.alive().len() > 1 && self.may_lose(node) {
            self.destroyed += 1;
            self.count("sometimes: a disk was destroyed");
            self.destroy(node);
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Doze(node, life) => {
                if self.nodes[node].life == life && !self.calm {
                    self.stop_process(node, true);
                }
            }
            Undo::Resume(node, life) => {
                if self.nodes[node].life == life {
                    self.stop_process(node, false);
                }
            }
            Undo::Cut(cuts) => {
                if !self.calm {
                    self.say(|| "MENDED".to_owned());
                    cuts.into_iter().for_each(|(pair, side)| self.cut(pair, side, false));
                }
            }
            Undo::Clog(pair, side) => {
                if !self.calm {
                    self.cut(pair, side, true);
                }
            }
            Undo::Slow => self.slow = 1,
            Undo::Full(node, life) => self.give_if(node, life, Input::Full(false)),
            Undo::Restart(node, life) => {
                if self.nodes[node].life == life && self.nodes[node].core.is_some() {
                    self.kill_process(node, false, (10, 3_000));
                }
            }
            Undo::Flap { a, b, left } => self.flap(a, b, left),
        }
    }

    fn flap(&mut self, a: usize, b: usize, left: u32) {
        if a == b || left == 0 || self.calm {
            return;
        }
        let (pair, side) = pair_of(a, b);
        self.cut(pair, side, true);
        self.undo_in(100, 4_000, Undo::Cut(vec![(pair, side)]));
        self.undo_in(4_000, 9_000, Undo::Flap { a, b, left: left - 1 });
    }

    /// The storm is over: everything is mended, everybody who has a disk comes back.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        self.slow = 1;
        self.say(|| "PEACE".to_owned());
        self.mend_all();
        for node in 0..self.nodes.len() {
            self.nodes[node].fuse = None;
            self.nodes[node].loops = 0;
            self.nodes[node].slow_until = 0;
            self.nodes[node].away = None;
            self.nodes[node].bug = None;
            self.stall_disk(node, 0);
            self.stop_process(node, false);
            self.deafen(node, false);
            if self.nodes[node].core.is_some() {
                self.give(node, Input::Full(false));
                self.undrain(node);
            } else {
                self.nodes[node].booting_now();
                self.come_back(node, 10, 2_000);
            }
        }
    }
}
