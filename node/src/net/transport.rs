//! TCP, then the private-network cipher, then noise, then yamux; and what the sockets are told.

use std::{error::Error, io, time::Duration};

use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{
            Boxed,
            timeout::{TransportTimeout, TransportTimeoutError},
        },
        upgrade::Version,
    },
    identity::Keypair,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    tcp, yamux,
};

/// The whole stack. `key` is the mesh's secret, `mesh_id` keeps meshes apart that share a key.
///
/// # Errors
/// The key pair cannot sign (never for ed25519).
pub(super) fn build(keypair: &Keypair, key: [u8; 32], mesh_id: [u8; 32]) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let psk = PreSharedKey::new(key);
    let noise = noise::Config::new(keypair)?.with_prologue(mesh_id.to_vec());
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_MAX);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = TransportTimeout::new(tcp, CONNECT_TIMEOUT).map_err(not_connected).map(|stream, _| {
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

/// Sorts the error of one dialed address: what failed before TCP stood carries a [`Cause`].
pub(super) fn classify(error: &io::Error) -> DialFailure {
    let mut next: Option<&(dyn Error + 'static)> = error.get_ref().map(|e| e as _);
    // Bounded: error chains are short, and a cycle must not hang the network.
    for _ in 0..16 {
        let Some(current) = next else { break };
        if let Some(Cause(kind)) = current.downcast_ref::<Cause>() {
            return if *kind == io::ErrorKind::ConnectionRefused { DialFailure::Refused } else { DialFailure::Unreachable };
        }
        next = match current.downcast_ref::<io::Error>() {
            Some(inner) => inner.get_ref().map(|e| e as _),
            None => current.source(),
        };
    }
    DialFailure::Handshake
}

/// TCP did not come about. Two errors in one, as the layers above show the source of an error and hide the error itself.
#[derive(Debug, thiserror::Error)]
#[error("no connection: {0}")]
struct NotConnected(#[source] Cause);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(io::ErrorKind);

fn not_connected(error: TransportTimeoutError<io::Error>) -> NotConnected {
    NotConnected(Cause(match error {
        TransportTimeoutError::Timeout => io::ErrorKind::TimedOut,
        TransportTimeoutError::TimerError(e) | TransportTimeoutError::Other(e) => e.kind(),
    }))
}

/// Options that make a dead peer visible and keep the send queue of the kernel short. Failures are not fatal: the lane's own
/// heartbeat finds dead peers, too.
fn tune(stream: &tokio::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1));
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"))]
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
/// Time for TCP alone; less than all of it, so that a host that is away differs from one that does not finish the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a connection to be dialed and to finish all handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use libp2p::{
        Multiaddr,
        core::{
            Endpoint,
            transport::{DialOpts, PortUse},
        },
    };

    use super::*;

    async fn dial(addr: Multiaddr) -> io::Error {
        let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let mut transport = build(&Keypair::generate_ed25519(), [0; 32], [0; 32]).unwrap();
        let error = transport.dial(addr, opts).unwrap().await.err();
        error.expect("nobody speaks our protocol there")
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap();
        // Dropped at once, which the dialer sees in the middle of its handshake.
        let (error, _) = tokio::join!(dial(addr.clone()), async { drop(listener.accept().await) });
        assert_eq!(classify(&error), DialFailure::Handshake, "{error:?}");
        // Taken and never answered.
        let (error, _held) = tokio::join!(dial(addr.clone()), listener.accept());
        assert_eq!(classify(&error), DialFailure::Handshake, "{error:?}");
        drop(listener);
        let error = dial(addr).await;
        assert_eq!(classify(&error), DialFailure::Refused, "{error:?}");
        // A network that is not routed anywhere: the broadcast address cannot be dialed.
        let error = dial("/ip4/255.255.255.255/tcp/9".parse().unwrap()).await;
        assert_eq!(classify(&error), DialFailure::Unreachable, "{error:?}");
    }
}
