//! Quiet time is passed over.
//!
//! A mesh that for seven seconds did nothing but say "I am here" will do nothing else until somebody outside does
//! something or one of the core's long times is over: every shorter one has passed in these seconds.  So the clocks of all
//! go on at once up to the next of these moments, and what was heard of lately counts as heard of all the time.

use clawmesh_protocol::{
    io::{Event, Input, Output},
    message::Message,
    relay::Relay,
    rest::REST_MS,
};

use super::{What, World};

/// Nothing but signs of life for so long makes a mesh that rests, ms.
const QUIET_MS: u64 = REST_MS + 1_000;
/// Shorter stretches are gone through, ms.
const LEAP_MIN_MS: u64 = 3_000;
/// A long time of the core is met on foot: this much before it, ms.
const BEFORE_MS: u64 = 700;
/// At least so often everybody is looked at, ms.
const LEAP_MAX_MS: u64 = 3_600_000;
/// How often it is tried, ms.
const NAP_MS: u64 = 250;

/// What comes in while a mesh rests.
pub(super) fn at_rest(input: &Input) -> bool {
    match input {
        Input::Tick | Input::Gossip(..) | Input::Message(_, Message::HbAck(_)) => true,
        Input::Relayed(_, r) | Input::Message(_, Message::Relay(r)) => idle(r),
        _ => false,
    }
}

/// Something that a mesh at rest does not do.
pub(super) fn stirs(output: &Output) -> bool {
    match output {
        Output::WakeAt(_) | Output::Publish { .. } | Output::Dial(..) | Output::Send { msg: Message::HbAck(_), .. } => false,
        Output::Relay { envelope: r, .. } | Output::Send { msg: Message::Relay(r), .. } => !idle(r),
        Output::Event(Event::Relayed { what, .. }) => !matches!(*what, "sent" | "passed" | "taken"),
        _ => true,
    }
}

/// What is said in a relayed channel (E11) while nothing happens.
fn idle(r: &Relay) -> bool {
    r.is_keep() || matches!(r.message(), Some(Message::HbAck(_)))
}

impl World {
    /// Passes over quiet time, if it is one.
    pub(super) fn nap(&mut self) {
        let leap = self.quiet_ms().filter(|ms| *ms >= LEAP_MIN_MS);
        if let Some(ms) = leap {
            self.leap(ms);
        }
        self.after(if leap.is_some() { LEAP_MIN_MS / 2 } else { NAP_MS }, What::Nap);
    }

    /// For how long nothing will happen.
    fn quiet_ms(&self) -> Option<u64> {
        if self.now < self.stirred + QUIET_MS {
            return None;
        }
        let mut quiet = LEAP_MAX_MS;
        for ((at, _), what) in self.queue.range(..(self.now + LEAP_MAX_MS, 0)) {
            match what {
                // They tick, dial in vain, and look; later just as well.
                What::Tick { .. } | What::Nap => {}
                What::Look if self.calm => {}
                What::Dial { pair } if !self.may_connect(*pair) => {}
                _ => {
                    quiet = at.saturating_sub(self.now);
                    break;
                }
            }
        }
        if quiet < LEAP_MIN_MS {
            return None;
        }
        for n in self.nodes.iter().filter(|n| !n.paused) {
            let Some(c) = &n.core else { continue };
            quiet = quiet.min(n.world(c.mesh.rest()?));
        }
        quiet.checked_sub(BEFORE_MS)
    }

    fn leap(&mut self, ms: u64) {
        self.say(|| format!("REST for {ms} ms"));
        self.count("leaps over quiet time");
        let to = self.now + ms;
        let ticks: Vec<(u64, u64)> =
            self.queue.range(..(to + 1_000, 0)).filter(|(_, w)| matches!(w, What::Tick { .. })).map(|(k, _)| *k).collect();
        for k in ticks {
            self.queue.remove(&k);
        }
        for node in 0..self.nodes.len() {
            let n = &mut self.nodes[node];
            let passed = n.local(to) - n.local(self.now);
            if let Some(c) = &mut n.core {
                // It is planned anew, also that of a stopped process, which would have gone off.
                c.tick = None;
                if !n.paused {
                    let mut out = Vec::new();
                    c.mesh.leap(passed, &mut out);
                    out.into_iter().for_each(|o| self.effect(node, o));
                }
            }
        }
        self.now = to;
        self.skipped += ms;
        (0..self.nodes.len()).for_each(|n| self.keep_awake(n));
    }
}
