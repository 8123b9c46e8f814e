//! Failures on demand for tests. In the product this is an empty type whose check is nothing.

use std::io;

/// Decides whether the next fsync fails. Cloning shares the plan.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    plan: std::sync::Arc<std::sync::Mutex<Option<(u32, io::ErrorKind)>>>,
    #[cfg(test)]
    room: std::sync::Arc<std::sync::Mutex<Option<(u64, u64)>>>,
}

impl Faults {
    /// Called before each fsync of the database and the side file.
    #[cfg(not(test))]
    pub(super) fn before_sync(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn before_sync(&self) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        match plan.as_mut() {
            Some((1, kind)) => {
                let kind = *kind;
                *plan = None;
                Err(io::Error::new(kind, "injected failure"))
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// (free, total) bytes that the disk is to claim, instead of asking it.
    #[cfg(not(test))]
    pub(super) fn room(&self) -> Option<(u64, u64)> {
        None
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> Option<(u64, u64)> {
        *self.room.lock().unwrap()
    }

    /// From now on the disk claims `free` of `total` bytes.
    #[cfg(test)]
    pub(super) fn claim_room(&self, free: u64, total: u64) {
        *self.room.lock().unwrap() = Some((free, total));
    }

    /// The `nth` fsync from now (1 = the next) fails with `kind`.
    #[cfg(test)]
    pub(super) fn fail_sync_in(&self, nth: u32, kind: io::ErrorKind) {
        *self.plan.lock().unwrap() = Some((nth, kind));
    }
}
