//! systemd's logind: <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.login1.html>.

use std::time::Duration;

use clawmesh_protocol::face::Command;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use zbus::{Connection, OwnedFd};

use super::{LOOK, tell};
use crate::daemon::Call;

/// Pause before the bus is tried again; there may be none at all, as in most containers.
const AGAIN: Duration = Duration::from_secs(60);

/// What was said has been handed to the links when the core answers; it leaves within this time.
const FLUSH: Duration = Duration::from_millis(300);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    /// A lock, held as long as the descriptor is open.
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
    /// The machine is about to sleep (true), or has woken up.
    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

pub(super) async fn watch(calls: mpsc::Sender<Call>, busy: impl Fn() -> bool) {
    loop {
        match serve(&calls, &busy).await {
            Ok(()) => tracing::debug!("the system bus is gone; it is tried again in a minute"),
            Err(e) => tracing::debug!(error = %e, "no logind to tell of this machine's sleep; it is tried again in a minute"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Until the bus is gone.
async fn serve(calls: &mpsc::Sender<Call>, busy: &impl Fn() -> bool) -> zbus::Result<()> {
    let bus = Connection::system().await?;
    let logind = ManagerProxy::new(&bus).await?;
    let mut sleeps = logind.receive_prepare_for_sleep().await?;
    // While it is open, the machine waits for us before it sleeps: for five seconds at most, unless its owner set another time.
    let delay = || logind.inhibit("sleep", "clawmesh", "another node takes this one's place in the mesh", "delay");
    let mut before_sleep = Some(delay().await?);
    let mut awake: Option<OwnedFd> = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tracing::debug!("logind tells before this machine sleeps");
    loop {
        tokio::select! {
            signal = sleeps.next() => {
                let Some(signal) = signal else { return Ok(()) };
                if signal.args()?.start {
                    tracing::info!("this machine goes to sleep");
                    tell(calls, Command::Suspend).await;
                    tokio::time::sleep(FLUSH).await;
                    drop(before_sleep.take());
                } else {
                    tracing::info!("this machine is awake again");
                    tell(calls, Command::Resume).await;
                    if before_sleep.is_none() {
                        before_sleep = Some(delay().await?);
                    }
                }
            }
            _ = look.tick() => match (busy(), awake.is_some()) {
                (true, false) => {
                    // Some systems refuse it to services; then the machine may sleep, which costs an attempt at worst.
                    awake = logind.inhibit("idle", "clawmesh", "a task of the mesh runs", "block").await
                        .inspect_err(|e| tracing::debug!(error = %e, "this machine may sleep while a task runs")).ok();
                }
                (false, true) => awake = None,
                _ => {}
            },
        }
    }
}
