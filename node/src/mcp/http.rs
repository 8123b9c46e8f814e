//! Streamable HTTP on this machine: the same door as the API's (`Host`, token, a bound), and no sessions, so that nothing is
//! kept between requests.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::header,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use super::server::Server;
use crate::{
    api::{Token, connection, local_host, types::Problem},
    output::{Failure, Output},
};

/// Open connections at once; the next one waits in the system's queue.
const CONNECTIONS_MAX: usize = 256;
/// Requests at once; above it, `busy`.
const REQUESTS_MAX: usize = 128;
/// Pause after a failed `accept` (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Largest body of a request, bytes: as the API has it, and a little for the envelope.
const BODY_MAX: usize = 17 << 20;

struct Door {
    token: Token,
    requests: Semaphore,
}

/// Serves on `addr` until Ctrl-C or SIGTERM.
///
/// # Errors
/// The address cannot be had, or the home holds no token yet.
pub(super) async fn serve(addr: SocketAddr, home: &Path, server: Server, output: &Output) -> Result<(), Failure> {
    let token = match Token::load(home) {
        Ok(Some(token)) => token,
        Ok(None) => {
            return Err(
                Failure::refused("the token in the home's api.token is damaged: stop the node and start it again").next("clawmesh down")
            );
        }
        Err(e) => {
            let what = format!("{} holds no token yet, which clients must send: {e}", home.display());
            return Err(Failure::new(crate::output::EXIT_NO_NODE, "no_node", what).next("clawmesh up"));
        }
    };
    let taken = |e: std::io::Error| Failure::refused(format!("cannot listen on {addr}: {e}")).next("clawmesh mcp --http 127.0.0.1:0");
    let listener = TcpListener::bind(addr).await.map_err(taken)?;
    let addr = listener.local_addr().map_err(taken)?;

    let stop = tokio_util::sync::CancellationToken::new();
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(BODY_MAX)
        // A page in a browser has an origin; nobody else who may come here does.
        .enforce_origin_validation()
        .with_cancellation_token(stop.child_token());
    let service = StreamableHttpService::new(move || Ok(server.clone()), Arc::new(NeverSessionManager::default()), config);
    let door_of = Arc::new(Door { token, requests: Semaphore::new(REQUESTS_MAX) });
    let router = Router::new().nest_service("/mcp", service).layer(middleware::from_fn_with_state(door_of, door));

    let url = format!("http://{addr}/mcp");
    output.value(&serde_json::json!({ "url": url }), |o| o.line(&url))?;
    output.hint(&format!("curl -H \"Authorization: Bearer $(cat {}/api.token)\" …", home.display()));
    tokio::select! {
        () = accept(listener, router) => {}
        () = ended() => stop.cancel(),
    }
    Ok(())
}

/// Takes connections for ever.  Dropped, it ends those that are open: whoever waits can ask again, and tasks go on.
async fn accept(listener: TcpListener, router: Router) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    // The semaphore is never closed.
    while let Ok(permit) = limit.clone().acquire_owned().await {
        // Ended connections leave the set, so that it holds at most CONNECTIONS_MAX and those that just ended.
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = connection(stream, router.clone());
                open.spawn(async move {
                    if let Err(e) = served.await {
                        tracing::debug!(error = %e, "a connection ended");
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Host, token, bound: in this order, so that a stranger learns nothing and costs nothing.
async fn door(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if !local_host(request.uri(), request.headers()) {
        return Problem::foreign_host("program").into_response();
    }
    if !door.token.admits(request.headers()) {
        return ([(header::WWW_AUTHENTICATE, "Bearer")], Problem::no_token()).into_response();
    }
    let Ok(_permit) = door.requests.try_acquire() else {
        return Problem::busy(format!("{REQUESTS_MAX} requests are under way: try again in a moment")).into_response();
    };
    next.run(request).await
}

/// Ctrl-C, or what service managers send.
async fn ended() {
    let pressed = async {
        if let Err(e) = tokio::signal::ctrl_c().await {
            tracing::debug!(error = %e, "no Ctrl-C on this system");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let told = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut term) => drop(term.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let told = std::future::pending::<()>();
    tokio::select! {
        () = pressed => {}
        () = told => {}
    }
}
