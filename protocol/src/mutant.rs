//! Rules broken on purpose, so that the simulator can prove that each breach is noticed.
//!
//! Without the feature `mutants` there is nothing to choose: [`on`] is the constant `false` and the
//! compiler drops what it guards.  The product never has the feature (a test in `tests/tests/house.rs`
//! asks cargo).  The table of the variants is in the simulator, `sim/src/mutants.rs`.

#[cfg(feature = "mutants")]
static CHOSEN: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Breaks rule number `n` from now on, in every mesh of this process; 0 mends all.  Change it only while
/// no mesh runs: one that has been both is neither.
#[cfg(feature = "mutants")]
pub fn choose(n: u8) {
    CHOSEN.store(n, core::sync::atomic::Ordering::SeqCst);
}

/// Variant `n` is the chosen one.
#[cfg(feature = "mutants")]
#[inline]
pub fn on(n: u8) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == n
}

/// Variant `n` is the chosen one: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn on(_: u8) -> bool {
    false
}
