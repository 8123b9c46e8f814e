//! A machine's sleep (L3): the mesh is told before this machine sleeps, and a machine on which a task runs is not sent to
//! sleep because nobody touches it.  A lid that is closed, or a person who asks for it, still sends it to sleep.
//!
//! Linux: logind, on the system bus.  macOS and Windows: only the second half, by the crate `keepawake`, and **not
//! tried**: this was written and built on Linux.  There, as on a Linux without logind, a sleep is noticed when it is over (L1),
//! and the mesh misses a sleeping coordinator after about two seconds.

use std::time::Duration;

use clawmesh_protocol::face::Command;
use tokio::sync::{mpsc, oneshot};

use crate::daemon::Call;

#[cfg(target_os = "linux")]
mod logind;

/// How often is looked whether anything runs.
const LOOK: Duration = Duration::from_secs(1);
/// The core answers within milliseconds; a machine that goes to sleep does not wait for one that does not.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Runs until it is dropped.  `busy` says whether a task runs here.
pub(crate) async fn watch(calls: mpsc::Sender<Call>, busy: impl Fn() -> bool) {
    #[cfg(target_os = "linux")]
    logind::watch(calls, busy).await;
    #[cfg(not(target_os = "linux"))]
    {
        drop(calls);
        elsewhere(busy).await;
    }
}

/// Hands a command to the core and waits for its answer, two seconds at most.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only logind tells before the machine sleeps"))]
async fn tell(calls: &mpsc::Sender<Call>, cmd: Command) {
    let (reply, answer) = oneshot::channel();
    if calls.send(Call { cmd, reply }).await.is_ok() && tokio::time::timeout(ANSWER_MAX, answer).await.is_err() {
        tracing::warn!("the mesh was not told of this machine's sleep in time");
    }
}

/// Keeps the machine awake while something runs.  A thread of its own holds the wish: on Windows it belongs to its thread.
#[cfg(not(target_os = "linux"))]
async fn elsewhere(busy: impl Fn() -> bool) {
    let (wish, wishes) = std::sync::mpsc::channel::<bool>();
    std::thread::spawn(move || {
        let mut held = None;
        while let Ok(on) = wishes.recv() {
            drop(held.take());
            if on {
                let made = keepawake::Builder::default()
                    .display(false)
                    .idle(true)
                    .sleep(false)
                    .reason("a task of the mesh runs")
                    .app_name("clawmesh")
                    .app_reverse_domain("dev.clawmesh")
                    .create();
                held = made.inspect_err(|e| tracing::debug!(error = %e, "this machine may sleep while a task runs")).ok();
            }
        }
    });
    let (mut look, mut on) = (tokio::time::interval(LOOK), false);
    loop {
        look.tick().await;
        if busy() != on {
            on = !on;
            if wish.send(on).is_err() {
                return;
            }
        }
    }
}
