//! Streamable HTTP on this machine: the same door as the API's (`Host`, token, a bound), and no sessions, so that nothing is
//! kept between requests.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager};
use tokio::sync::Semaphore;

use super::server::Server;
use crate::{
    api::{Token, local_host, types::Problem},
    output::{Failure, Output},
};

/// Requests at once; above it, `busy`.
const REQUESTS_MAX: usize = 128;
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
    let listener = tokio::net::TcpListener::bind(addr).await.map_err(taken)?;
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
    let ended = async move {
        ended().await;
        stop.cancel();
    };
    axum::serve(listener, router).with_graceful_shutdown(ended).await.map_err(|e| Failure::refused(format!("the server ended: {e}")))
}

/// Host, token, bound: in this order, so that a stranger learns nothing and costs nothing.
async fn door(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if !local_host(request.uri(), request.headers()) {
        return Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden_host",
            "this host name is not served",
            "the Host header must name 127.0.0.1, localhost or [::1]: pages of other sites may not talk to this program",
        )
        .into_response();
    }
    if !door.token.admits(request.headers()) {
        let problem = Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the token is missing or wrong",
            "send 'Authorization: Bearer TOKEN' with the token in the file 'api.token' of the node's home",
        );
        return ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response();
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
