//! TCP, then the private-network cipher, then noise, then yamux; and what the sockets are told.

use std::{io, time::Duration};

use libp2p::{
    PeerId, Transport,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    identity::Keypair,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    tcp, yamux,
};

/// The whole stack. `key` is the mesh's secret, `mesh_id` keeps meshes apart that share a key.
///
/// # Errors
/// The key pair cannot sign (never for ed25519).
pub(super) fn build(
    keypair: &Keypair,
    key: [u8; 32],
    mesh_id: [u8; 32],
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let psk = PreSharedKey::new(key);
    let noise = noise::Config::new(keypair)?.with_prologue(mesh_id.to_vec());
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_MAX);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)).map(|stream, _| {
        tune(&stream.0);
        stream
    });
    Ok(tcp
        .and_then(move |stream, _| PnetConfig::new(psk).handshake(stream))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        // A wrong key shows as a hang half of the time, and so does a client that says nothing: neither holds a slot longer.
        .timeout(HANDSHAKE_TIMEOUT)
        .boxed())
}

/// What a failed dial tells about the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialFailure {
    /// The host is there and nobody listens.
    Refused,
    /// No way to the host, or no answer.
    Unreachable,
    /// Somebody answered and the handshake failed: another key, or another program.
    Handshake,
}

/// Sorts the error of one dialed address. The transport wraps its errors several times, so this looks for the innermost one.
pub(super) fn classify(error: &io::Error) -> DialFailure {
    match innermost_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => DialFailure::Refused,
        Some(
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut,
        ) => DialFailure::Unreachable,
        _ => DialFailure::Handshake,
    }
}

fn innermost_kind(error: &io::Error) -> Option<io::ErrorKind> {
    let mut kind = meaningful(error);
    let mut next: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|e| e as _);
    // Bounded: error chains are short, and a cycle must not hang the network.
    for _ in 0..16 {
        let Some(current) = next else { break };
        next = match current.downcast_ref::<io::Error>() {
            Some(inner) => {
                kind = meaningful(inner).or(kind);
                inner.get_ref().map(|e| e as _)
            }
            None => current.source(),
        };
    }
    // `Either` passes `source` on to what its arm wraps and so hides an i/o error that is the arm itself; its text still tells.
    kind.or_else(|| {
        error
            .to_string()
            .contains("refused")
            .then_some(io::ErrorKind::ConnectionRefused)
    })
}

fn meaningful(error: &io::Error) -> Option<io::ErrorKind> {
    Some(error.kind()).filter(|kind| *kind != io::ErrorKind::Other)
}

/// Options that make a dead peer visible and keep the send queue of the kernel short. Failures are not fatal: the lane's own
/// heartbeat finds dead peers, too.
fn tune(stream: &tokio::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(1))
        .with_interval(Duration::from_secs(1));
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "macos",
        target_os = "ios"
    ))]
    let keepalive = keepalive.with_retries(2);
    if let Err(e) = socket.set_tcp_keepalive(&keepalive) {
        tracing::debug!(error = %e, "keepalive was not set");
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(e) = tune_linux(&socket) {
        tracing::debug!(error = %e, "socket options were not set");
    }
}

/// Only Linux has both; on other systems the lane heartbeat alone finds a dead peer. Not tried elsewhere.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn tune_linux(socket: &socket2::SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(Duration::from_millis(2000)))?;
    // Without it, bulk fills megabytes of kernel queue and the lane waits behind them: measured 5 ms instead of 3 ms at p50.
    socket.set_tcp_notsent_lowat(128 * 1024)
}

/// Above what one peer needs (lane, gossip, kad, identify, 16 bulk streams), below what yamux refuses (4096).
const STREAMS_MAX: usize = 1024;
/// Time for a connection to be dialed and to finish all handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
