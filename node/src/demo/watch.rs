//! Looks at all nodes again and again: who coordinates, and how much is done.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{progress::Progress, report::Reign};
use crate::{api::types::StatusReport, nursery::Doors, output::Failure};

/// Pause between two looks while nothing happens.
const CALM: Duration = Duration::from_millis(100);
/// Pause between two looks while a takeover is being measured: the measured time is that much too long at most, and an answer's.
const CLOSE: Duration = Duration::from_millis(20);
/// When nothing at all moves for this long, the demo gives up.
const STALL_MAX: Duration = Duration::from_secs(45);

/// How much is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Acknowledged by the mesh, or refused.
    pub(super) answered: usize,
    /// Ended, by the coordinator's count.
    pub(super) ended: usize,
    /// Reigns seen.
    pub(super) reigns: usize,
}

/// A reign as it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Index of the node.
    pub(super) index: usize,
    /// Its name.
    pub(super) node: String,
    /// Its epoch.
    pub(super) epoch: u64,
    /// First look that showed it serving.
    pub(super) from: Instant,
    /// Last look that did.
    pub(super) until: Instant,
}

/// What all parts of the demo know.
#[derive(Debug)]
pub(super) struct Watch {
    done: watch::Sender<Done>,
    reigns: Mutex<Vec<Seen>>,
    close: AtomicBool,
    /// Ends the pause before the next look.
    now: Notify,
}

impl Default for Watch {
    fn default() -> Self {
        Self { done: watch::Sender::new(Done::default()), reigns: Mutex::default(), close: AtomicBool::new(false), now: Notify::new() }
    }
}

impl Watch {
    /// How much is done now.
    pub(super) fn done(&self) -> Done {
        *self.done.borrow()
    }
    /// So many more were answered.
    pub(super) fn answered(&self, n: usize) {
        self.done.send_modify(|d| d.answered += n);
    }
    /// Look more often, or less.
    pub(super) fn closely(&self, on: bool) {
        self.close.store(on, Ordering::Relaxed);
        self.now.notify_one();
    }
    /// The last reign.
    pub(super) fn reign(&self) -> Option<Seen> {
        self.reigns.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }
    /// Waits until `enough` is true.
    ///
    /// # Errors
    /// Nothing has moved for 45 s; `what` says what was waited for.
    pub(super) async fn until(&self, what: &str, enough: impl Fn(&Done) -> bool) -> Result<(), Failure> {
        let mut done = self.done.subscribe();
        loop {
            if enough(&done.borrow_and_update()) {
                return Ok(());
            }
            match tokio::time::timeout(STALL_MAX, done.changed()).await {
                Ok(Ok(())) => {}
                // The sender is a field of self.
                Ok(Err(_)) => return Err(Failure::refused("BUG: nobody watches the mesh any more")),
                Err(_) => {
                    let d = self.done();
                    return Err(Failure::refused(format!(
                        "nothing has moved for {}, while waiting for {what}: {} tasks acknowledged, {} ended",
                        humantime::format_duration(STALL_MAX),
                        d.answered,
                        d.ended
                    )));
                }
            }
        }
    }
    /// Looks for ever.
    pub(super) async fn run(&self, doors: &Doors, tasks: usize, progress: &Progress) -> Failure {
        loop {
            let views = doors.look().await;
            self.take(&views, Instant::now());
            let done = self.done();
            progress.update(done.answered as u64, done.ended.min(tasks) as u64, tasks as u64, &leader(&views));
            let pause = if self.close.load(Ordering::Relaxed) { CLOSE } else { CALM };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.now.notified() => {}
            }
        }
    }
    fn take(&self, views: &[(usize, StatusReport)], now: Instant) {
        let ended = views.iter().map(|(_, s)| s.view.queue.ended as usize).max().unwrap_or(0);
        let mut reigns = self.reigns.lock().unwrap_or_else(PoisonError::into_inner);
        // Only a node's own word: what others believe lags behind.
        for (index, s) in views.iter().filter(|(_, s)| s.view.role == "coordinator") {
            note(&mut reigns, *index, &s.view.name, s.view.epoch, now);
        }
        let seen = reigns.len();
        self.done.send_if_modified(|d| {
            let before = *d;
            // A new coordinator's first count may be behind: an end does not become undone.
            d.ended = d.ended.max(ended);
            d.reigns = seen;
            *d != before
        });
    }
    /// The reigns with times from `start`.
    pub(super) fn reigns(&self, start: Instant) -> Vec<Reign> {
        let reigns = self.reigns.lock().unwrap_or_else(PoisonError::into_inner);
        reigns
            .iter()
            .map(|s| Reign { node: s.node.clone(), epoch: s.epoch, from_s: from(start, s.from), until_s: from(start, s.until) })
            .collect()
    }
}

/// Prolongs the reign, or begins one.
fn note(reigns: &mut Vec<Seen>, index: usize, node: &str, epoch: u64, now: Instant) {
    match reigns.iter_mut().find(|r| r.index == index && r.epoch == epoch) {
        Some(r) => r.until = now,
        None => reigns.push(Seen { index, node: node.to_owned(), epoch, from: now, until: now }),
    }
}

/// Seconds from `start`, negative before it.
fn from(start: Instant, at: Instant) -> f64 {
    match at.checked_duration_since(start) {
        Some(d) => d.as_secs_f64(),
        None => -start.duration_since(at).as_secs_f64(),
    }
}

/// The live line.
fn leader(views: &[(usize, StatusReport)]) -> String {
    let up = views.iter().map(|(_, s)| s.view.name.as_str()).collect::<Vec<_>>().join(", ");
    match views.iter().find(|(_, s)| s.view.role == "coordinator") {
        Some((_, s)) => {
            let q = &s.view.queue;
            let waiting = q.critical + q.high + q.normal + q.low;
            format!("{} coordinates (epoch {}), {} waiting, {} running; up: {up}", s.view.name, s.view.epoch, waiting, q.running)
        }
        None => format!("electing; up: {up}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reign_is_prolonged_and_a_new_epoch_is_a_new_one() {
        let mut reigns = Vec::new();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        note(&mut reigns, 0, "alpha", 1, at(0));
        note(&mut reigns, 0, "alpha", 1, at(500));
        note(&mut reigns, 1, "beta", 2, at(700));
        note(&mut reigns, 0, "alpha", 3, at(900));
        let seen: Vec<_> = reigns.iter().map(|r| (r.node.as_str(), r.epoch, r.until - r.from)).collect();
        let ms = Duration::from_millis;
        assert_eq!(seen, [("alpha", 1, ms(500)), ("beta", 2, ms(0)), ("alpha", 3, ms(0))]);
    }

    #[test]
    fn times_before_the_start_are_negative() {
        let start = Instant::now() + Duration::from_secs(10);
        assert!(from(start, start - Duration::from_secs(2)) < -1.9);
        assert!(from(start, start + Duration::from_secs(2)) > 1.9);
    }
}
