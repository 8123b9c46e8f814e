//! Time as the core sees it.

/// One reading of the clocks, handed in with every input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Milliseconds of a clock that never goes back and counts suspend (`CLOCK_BOOTTIME`,
    /// `mach_continuous_time`).  Its zero is arbitrary, per boot.
    pub ms: u64,
    /// Milliseconds since 1970 by the wall clock.  Only shown to people, and a lower bound for the
    /// incarnation in task ids: no rule of coordination reads it.
    pub wall_ms: u64,
}

/// Turns readings into *awake* time: gaps in which the machine slept or the process was stopped are
/// cut out, so that every deadline of the core moves by the gap (L1).
#[derive(Debug, Clone, Default)]
pub struct AwakeClock {
    last: Option<u64>,
    skipped: u64,
}

/// A gap between two inputs that means "we were asleep", in ms.  The driver wakes the core every
/// [`crate::config::WAKE_MAX_MS`] at the latest, four times as often.
pub const GAP_MS: u64 = 2_000;

impl AwakeClock {
    /// The awake time of this reading, and the gap that was cut out (0 when there was none).
    /// A reading below the last one counts as the last one.
    pub fn advance(&mut self, ms: u64) -> (u64, u64) {
        let last = self.last.unwrap_or(ms);
        let gap = ms.saturating_sub(last);
        self.last = Some(ms.max(last));
        let cut = if gap > GAP_MS && !crate::mutant::on(29) { gap } else { 0 };
        self.skipped += cut;
        (ms.max(last) - self.skipped, cut)
    }

    /// Time passed over: no gap.
    pub(crate) fn leap(&mut self, ms: u64) {
        self.last = self.last.map(|t| t.saturating_add(ms));
    }
}
