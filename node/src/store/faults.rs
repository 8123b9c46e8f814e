//! Failures on demand for tests. In the product this is an empty type whose check is nothing.

use std::io;

/// Decides whether the next fsync fails. Cloning shares the plan.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    plan: std::sync::Arc<std::sync::Mutex<Option<(u32, io::ErrorKind)>>>,
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

    /// The `nth` fsync from now (1 = the next) fails with `kind`.
    #[cfg(test)]
    pub(super) fn fail_sync_in(&self, nth: u32, kind: io::ErrorKind) {
        *self.plan.lock().unwrap() = Some((nth, kind));
    }
}
