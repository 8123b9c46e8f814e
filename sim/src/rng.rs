//! One random stream per concern, all split from the seed, so that a change to one concern (say, one
//! more draw in the workload) does not shift every other one.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// A stream of random numbers for one concern.
#[derive(Debug, Clone)]
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The stream of `concern` for `seed`.
    pub fn split(seed: u64, concern: &str) -> Self {
        let mut h = blake3::Hasher::new();
        h.update(&seed.to_le_bytes());
        h.update(concern.as_bytes());
        Self(Xoshiro256PlusPlus::from_seed(*h.finalize().as_bytes()))
    }
    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }
    /// Uniform in `lo..=hi`; `lo` when the range is empty.
    pub fn range(&mut self, lo: u64, hi: u64) -> u64 {
        if hi <= lo {
            return lo;
        }
        let span = hi - lo + 1;
        if span == 0 { self.bits() } else { lo + self.bits() % span }
    }
    /// An index below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.bits() % n as u64) as usize }
    }
    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.bits() % 100 < percent
    }
    /// True in `n` of a thousand cases.
    pub fn permille(&mut self, n: u64) -> bool {
        self.bits() % 1_000 < n
    }
    /// One of them, none when there are none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }
    /// Mostly `lo..=hi`, now and then (`tail` permille) up to `far`: delays with a heavy tail.
    pub fn tailed(&mut self, lo: u64, hi: u64, tail: u64, far: u64) -> u64 {
        if self.permille(tail) { self.range(hi, far) } else { self.range(lo, hi) }
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn concerns_of_one_seed_differ_and_repeat() {
        let (mut a, mut b, mut c) = (Dice::split(7, "net"), Dice::split(7, "disk"), Dice::split(7, "net"));
        let first = a.bits();
        assert_ne!(first, b.bits());
        assert_eq!(first, c.bits());
    }

    #[test]
    fn ranges_hold_their_bounds() {
        let mut d = Dice::split(1, "x");
        let v: Vec<u64> = (0..200).map(|_| d.range(3, 5)).collect();
        assert!(v.iter().all(|x| (3..=5).contains(x)));
        assert!((3..=5).all(|x| v.contains(&x)));
        assert_eq!(d.range(9, 2), 9);
    }
}
