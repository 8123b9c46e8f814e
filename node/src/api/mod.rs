//! The HTTP API of a node on 127.0.0.1: everything the CLI, the demo and other programs can ask.
//!
//! Every request passes the same door (`routes::door`): the `Host` header must name this machine, the bearer token must
//! be the one in the node's home, and there is a bound on the requests at once.  `/metrics` and `/healthz` need no token.
//! The rest of the node is seen only through [`Backend`].

mod a2a;
mod auth;
mod backend;
mod blobs;
#[cfg(test)]
pub(crate) mod fake;
mod memory;
mod metrics;
mod problem;
mod routes;
mod settings;
mod skills;
mod tasks;
#[cfg(test)]
mod tests;
pub(crate) mod types;
mod wait;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use clawmesh_protocol::ids::Peer;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::routes::App;
pub(crate) use self::{
    auth::{Token, announced, local_host},
    backend::{Backend, Gone, LogStream, NodeInfo},
    blobs::{BlobView, FetchLine, OfferView, Sharing},
    memory::{Memory, MemoryView, NewNote, NoteView, SyncView},
    metrics::ApiMetrics,
    problem::nearest,
};

/// Open connections at once; the next one waits in the system's queue.  A browser or a library opens a handful.
const CONNECTIONS_MAX: usize = 512;
/// A connection that has not sent the head of its request within this time is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open requests may take to finish when the node stops (long polls end at once).
const GRACE: Duration = Duration::from_millis(800);
/// Pause after a failed `accept` (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The API's port cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody listens there.
    #[error(
        "port {port} on 127.0.0.1 is in use: another node or program listens there; choose another with 'clawmesh up --api-port N' (0 takes any free one)"
    )]
    Taken {
        /// The port that was asked for.
        port: u16,
    },
    /// The system refuses.
    #[error("cannot listen on 127.0.0.1:{port}: {source}; choose another port with 'clawmesh up --api-port N' (0 takes any free one)")]
    Refused {
        /// The port that was asked for.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
}

/// A port that is ours and not yet served: taken first, so that a taken port ends the start before anything else began.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

/// Takes a port on 127.0.0.1; 0 means any free one.
///
/// # Errors
/// [`BindError`]; nothing was started.
pub(crate) async fn bind(port: u16) -> Result<Bound, BindError> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { port },
        _ => BindError::Refused { port, source },
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(refused)?;
    let addr = listener.local_addr().map_err(refused)?;
    Ok(Bound { listener, addr })
}

impl Bound {
    /// The port that was taken.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
    /// Starts to serve, and writes token and `api.json` into the home so that the CLI finds the node.
    ///
    /// # Errors
    /// Those of writing the two files; the port is free again then.
    pub(crate) fn serve(self, home: &Path, node: Peer, backend: Arc<dyn Backend>, metrics: ApiMetrics) -> io::Result<Serving> {
        let token = Token::load_or_create(home)?;
        let announcement = auth::Announcement::write(home, &types::ApiFile { addr: self.addr, pid: std::process::id(), node })?;
        let stop = CancellationToken::new();
        let app = Arc::new(App::new(backend, token, metrics, stop.clone()));
        let task = tokio::spawn(accept(self.listener, app, stop.clone()));
        Ok(Serving { stop, task, _announcement: announcement })
    }
}

/// A running API.  Dropped, it stops at once without waiting for open requests.
#[derive(Debug)]
pub(crate) struct Serving {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Removes `api.json` when the server goes.
    _announcement: auth::Announcement,
}

impl Serving {
    /// Takes no more connections, lets open requests finish for at most 0.8 s, and removes `api.json`.
    pub(crate) async fn shutdown(mut self) {
        self.stop.cancel();
        if let Err(e) = (&mut self.task).await {
            tracing::warn!(error = %e, "the API did not end in order");
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut open = JoinSet::new();
    let router = routes::router(app.clone());
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = limit.clone().acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // Ended connections leave the set, so that it holds at most CONNECTIONS_MAX and those that just ended.
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let conn = graceful.watch(connection(stream, router.clone()));
                let metrics = app.metrics().clone();
                open.spawn(async move {
                    metrics.connection(1);
                    if let Err(e) = conn.await {
                        tracing::debug!(error = %e, "an API connection ended");
                    }
                    metrics.connection(-1);
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept an API connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::info!(open = open.len(), "API connections cut at the end of the grace period");
    }
    open.shutdown().await;
}

/// One connection with the API's bounds: a head that does not come in time ends it.
pub(crate) fn connection(
    stream: TcpStream,
    router: axum::Router,
) -> hyper::server::conn::http1::Connection<TokioIo<TcpStream>, TowerToHyperService<axum::Router>> {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "no TCP_NODELAY on an API connection");
    }
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}
