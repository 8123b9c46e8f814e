//! The life that the product leads: a few machines that are always on, and laptops with people in front of them.
//!
//! Time 0 is a Monday at seven in the morning.  Lids are closed at lunch, in the evening and on most of the weekend;
//! work comes in bursts while somebody is there; now and then something breaks, most of the time nothing happens.

use crate::{plan::Fault, rng::Dice};

/// A day, an hour, a minute, a second; ms.
pub(crate) const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;
const SECOND: u64 = 1_000;
/// The time of day at which a world begins.
const DAWN: u64 = 7 * HOUR;
/// Nothing long is asked for in the last hours, so that a world comes to its end.
const EVENING: u64 = 3 * HOUR;

/// Something that strikes: when, what, whom, and for how long; ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stroke {
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    pub(crate) node: Option<usize>,
    pub(crate) lasts: Option<u64>,
}

/// What happens in a mesh of people.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Faults and lids, in order.
    pub(crate) strokes: Vec<Stroke>,
    /// When a user does something, in order.
    pub(crate) deeds: Vec<u64>,
}

/// From this time on nobody asks for anything that takes long.
pub(crate) fn evening(days: u64) -> u64 {
    (days * DAY).saturating_sub(EVENING)
}

/// The life of `nodes` nodes, of which the first `servers` are always on.
pub(crate) fn draw(seed: u64, nodes: usize, servers: usize, days: u64) -> Life {
    let mut life = Life::default();
    for node in 0..nodes {
        let mut d = Dice::split(seed, &format!("life {node}"));
        for day in 0..days {
            if node < servers { life.server(&mut d, node, day) } else { life.radio(&mut d, node, day) }
        }
        if node >= servers {
            life.lids(&mut d, node, days);
        }
    }
    let mut d = Dice::split(seed, "site");
    (0..days).for_each(|day| life.site(&mut d, day));
    let mut d = Dice::split(seed, "work days");
    (0..days).for_each(|day| life.work(&mut d, day));
    let end = days * DAY;
    life.strokes.retain(|s| s.at < end);
    life.deeds.retain(|at| *at < end);
    life.strokes.sort_unstable();
    life.deeds.sort_unstable();
    life
}

/// The fifth and sixth day of seven.
fn weekend(day: u64) -> bool {
    day % 7 >= 5
}

impl Life {
    fn add(&mut self, at: u64, fault: Fault, node: usize, lasts: u64) {
        self.strokes.push(Stroke { at, fault, node: Some(node), lasts: Some(lasts) });
    }

    /// In so many of a thousand days, at any time of it.
    fn sometimes(&mut self, d: &mut Dice, permille: u64, day: u64, fault: Fault, node: usize, lasts: (u64, u64)) {
        if d.permille(permille) {
            let at = day * DAY + d.range(0, DAY);
            let ms = d.range(lasts.0, lasts.1);
            self.add(at, fault, node, ms);
        }
    }

    fn server(&mut self, d: &mut Dice, node: usize, day: u64) {
        self.sometimes(d, 120, day, Fault::Leave, node, (20 * SECOND, 3 * MINUTE));
        self.sometimes(d, 50, day, Fault::Kill, node, (SECOND, 20 * SECOND));
        self.sometimes(d, 20, day, Fault::Power, node, (MINUTE, 30 * MINUTE));
        self.sometimes(d, 15, day, Fault::StoreBad, node, (SECOND, MINUTE));
        self.sometimes(d, 20, day, Fault::Full, node, (MINUTE, 30 * MINUTE));
        self.sometimes(d, 50, day, Fault::Stall, node, (SECOND, 8 * SECOND));
        self.sometimes(d, 30, day, Fault::Pause, node, (SECOND, 20 * SECOND));
        self.sometimes(d, 5, day, Fault::Destroy, node, (0, 0));
        self.sometimes(d, 20, day, Fault::ClockJump, node, (0, 0));
    }

    /// What Wi-Fi, processes and disks of a laptop do by themselves.
    fn radio(&mut self, d: &mut Dice, node: usize, day: u64) {
        for _ in 0..d.range(0, 3) {
            let at = day * DAY + d.range(HOUR, 14 * HOUR);
            let fault = d.pick(&[Fault::Reset, Fault::Replace, Fault::Flap, Fault::Pause]).unwrap_or(Fault::Reset);
            let ms = d.range(50, 20 * SECOND);
            self.add(at, fault, node, ms);
        }
        self.sometimes(d, 300, day, Fault::Isolate, node, (10 * SECOND, 10 * MINUTE));
        self.sometimes(d, 80, day, Fault::Isolate, node, (30 * MINUTE, 4 * HOUR));
        self.sometimes(d, 60, day, Fault::Leave, node, (20 * SECOND, 3 * MINUTE));
        self.sometimes(d, 30, day, Fault::Kill, node, (SECOND, 20 * SECOND));
        self.sometimes(d, 15, day, Fault::Power, node, (MINUTE, 30 * MINUTE));
        self.sometimes(d, 10, day, Fault::StoreBad, node, (SECOND, MINUTE));
        self.sometimes(d, 15, day, Fault::Full, node, (MINUTE, 30 * MINUTE));
        self.sometimes(d, 5, day, Fault::Destroy, node, (0, 0));
        self.sometimes(d, 30, day, Fault::ClockJump, node, (0, 0));
    }

    /// When the lid of a laptop is open, and what happens when it is closed.
    fn lids(&mut self, d: &mut Dice, node: usize, days: u64) {
        // It is open when the world begins.
        let mut open: Vec<(u64, u64)> = Vec::new();
        for day in 0..days {
            let off = weekend(day);
            let clock = |h: u64, m: u64| (day * DAY + h * HOUR + m * MINUTE).saturating_sub(DAWN);
            if d.percent(if off { 70 } else { 8 }) && day > 0 {
                continue;
            }
            let from = if day == 0 { 0 } else { clock(if off { 9 } else { 7 }, d.range(30, if off { 420 } else { 150 })) };
            let to = if off { from + d.range(HOUR, 5 * HOUR) } else { clock(16, d.range(0, 390)) };
            if !off && d.percent(65) {
                let lunch = clock(11, d.range(45, 135));
                open.push((from, lunch));
                open.push((lunch + d.range(20 * MINUTE, 70 * MINUTE), to));
            } else {
                open.push((from, to));
            }
        }
        open.retain(|(from, to)| from < to);
        let ends: Vec<u64> = open.iter().skip(1).map(|(from, _)| *from).chain([days * DAY]).collect();
        for ((from, to), back) in open.into_iter().zip(ends) {
            self.suspends(d, node, from, to);
            let away = back.saturating_sub(to);
            // Some stay open all night.
            if away == 0 || d.percent(8) {
                continue;
            }
            let fault = match d.range(0, 99) {
                _ if away < 2 * HOUR => Fault::Sleep,
                0..70 => Fault::Sleep,
                70..92 => Fault::Leave,
                _ => Fault::Power,
            };
            self.add(to, fault, node, away);
        }
    }

    /// Short suspends while it is open.
    fn suspends(&mut self, d: &mut Dice, node: usize, from: u64, to: u64) {
        for _ in 0..d.range(0, 2) {
            let (at, ms) = (d.range(from, to), d.range(3 * SECOND, 10 * MINUTE));
            if at + ms < to {
                self.add(at, Fault::Sleep, node, ms);
            }
        }
    }

    /// What befalls all of them: the network, and the power.
    fn site(&mut self, d: &mut Dice, day: u64) {
        let mut all = |permille: u64, fault: Fault, lasts: (u64, u64)| {
            if d.permille(permille) {
                let at = day * DAY + d.range(0, DAY);
                self.strokes.push(Stroke { at, fault, node: None, lasts: Some(d.range(lasts.0, lasts.1)) });
            }
        };
        all(350, Fault::Partition, (5 * SECOND, 20 * MINUTE));
        all(100, Fault::OneWay, (5 * SECOND, 10 * MINUTE));
        all(50, Fault::Bridge, (5 * SECOND, 10 * MINUTE));
        all(300, Fault::Slow, (SECOND, 2 * MINUTE));
        all(20, Fault::KillAll, (30 * SECOND, 20 * MINUTE));
    }

    /// Bursts of work while people are there, a few timers at night.
    fn work(&mut self, d: &mut Dice, day: u64) {
        let bursts = if weekend(day) { d.range(0, 3) } else { d.range(4, 14) };
        for _ in 0..bursts {
            let mut at = day * DAY + d.range(0, 12 * HOUR);
            let pace = d.range(50, 10 * SECOND);
            for _ in 0..d.range(1, 12) {
                self.deeds.push(at);
                at += d.range(1, 2 * pace);
            }
        }
        for _ in 0..d.range(0, 8) {
            self.deeds.push(day * DAY + d.range(0, DAY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nights_are_quiet_and_days_are_not() {
        let life = draw(1, 8, 2, 14);
        let hour = |at: u64| (at + DAWN) % DAY / HOUR;
        let day = life.deeds.iter().filter(|at| (7..19).contains(&hour(**at))).count();
        assert!(day * 10 > life.deeds.len() * 8, "{day} of {}", life.deeds.len());
        let lids: Vec<&Stroke> = life.strokes.iter().filter(|s| s.fault == Fault::Sleep && s.lasts.is_some_and(|l| l > 8 * HOUR)).collect();
        assert!(lids.len() > 30 && lids.iter().all(|s| s.node.is_some_and(|n| n >= 2)), "servers do not sleep");
        assert!(lids.iter().all(|s| (10..24).contains(&hour(s.at))), "lids are closed in the evening");
        assert!(life.strokes.is_sorted() && life.strokes.iter().all(|s| s.at < 14 * DAY));
    }
}
