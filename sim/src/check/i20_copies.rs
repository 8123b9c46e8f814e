//! I20: no more copies are reported than there are (or were, before a disk was destroyed) on disks.

use super::Check;
use crate::oracle::{Disks, Entry, Fact};

/// Compares each acknowledgement with the disks.
pub(super) struct Copies;

impl Check for Copies {
    fn name(&self) -> &'static str {
        "I20"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        let Fact::Acked(id, c) = &e.fact else { return Ok(()) };
        let n = disks.ever.get(id).map_or(0, |s| s.len());
        if (*c as usize) <= n { Ok(()) } else { Err(format!("{id:?} was acknowledged with {c} copies, {n} disks ever held it")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn more_copies_than_disks_are_caught() {
        let put = (0, batch(1, vec![rec(task(1), epoch(1, 0), 1)]));
        let ok = vec![put.clone(), (0, Fact::Durable(1)), (0, Fact::Acked(task(1), 1))];
        assert_eq!(judge(Copies, ok), None);
        assert!(judge(Copies, vec![put, (0, Fact::Durable(1)), (0, Fact::Acked(task(1), 2))]).is_some());
    }
}
