//! Signs of life during a call, for clients that asked for them.

use rmcp::{
    RoleServer,
    model::{ProgressNotificationParam, ProgressToken},
    service::{Peer, RequestContext},
};
use tokio::time::Instant;

/// Tells the client of one call how it goes.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    since: Instant,
}

impl Progress {
    /// For the client behind this request; silent unless it gave a token.
    pub(super) fn of(cx: &RequestContext<RoleServer>) -> Self {
        Self { peer: cx.peer.clone(), token: cx.meta.get_progress_token(), since: Instant::now() }
    }
    /// Says that the call is alive.  The number is the seconds that it took: it only rises, as the protocol wants it.
    pub(super) async fn tell(&self, what: &str) {
        let Some(token) = self.token.clone() else { return };
        let told = ProgressNotificationParam::new(token, self.since.elapsed().as_secs_f64()).with_message(what);
        if let Err(e) = self.peer.notify_progress(told).await {
            tracing::debug!(error = %e, "no progress could be told");
        }
    }
}
