//! The clock of the core: it counts time in which the machine sleeps, so that a wake-up is noticed (L1).
//!
//! Linux: `CLOCK_BOOTTIME`.  Apple: `CLOCK_MONOTONIC`, which counts sleep there (not tried).
//! Windows: `Instant`, whose counter goes on during sleep (not tried).  Elsewhere `CLOCK_MONOTONIC`,
//! where a sleep is not seen.

use std::time::{SystemTime, UNIX_EPOCH};

use clawmesh_protocol::time::Now;

/// Both clocks, in milliseconds.
pub(crate) fn now() -> Now {
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    Now { ms: awake_or_asleep_ms(), wall_ms }
}

#[cfg(unix)]
fn awake_or_asleep_ms() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let id = rustix::time::ClockId::Monotonic;
    let t = rustix::time::clock_gettime(id);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(not(unix))]
fn awake_or_asleep_ms() -> u64 {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}
