//! Puts the swarm together.

use std::{net::Ipv4Addr, num::NonZeroUsize, time::Duration};

use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, identify, multiaddr::Protocol};
use prometheus_client::registry::Registry;

use super::{
    super::{NetConfig, NetError, dht, discovery, gossip, lane, ticket, transport},
    Behaviour,
};

/// The swarm, not listening yet.
///
/// # Errors
/// A part refused its configuration.
pub(super) fn build_swarm(config: &NetConfig, local: PeerId, registry: &mut Registry) -> Result<Swarm<Behaviour>, NetError> {
    let keypair = config.identity.keypair();
    let setup = |what: &str, e: String| NetError::Setup(format!("{what}: {e}"));
    let mesh_id = ticket::mesh_id(&config.key, &config.mesh_name);
    let transport = transport::build(keypair, config.key, mesh_id).map_err(|e| setup("noise", e.to_string()))?;
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established(Some(ESTABLISHED_MAX))
        // Not one: then each side may close the other's of two simultaneous dials, and none is left.
        .with_max_established_per_peer(Some(4));
    let identify = identify::Config::new("/mesh/id/1.0.0".into(), keypair.public())
        .with_agent_version(concat!("clawmesh/", env!("CARGO_PKG_VERSION")).into())
        .with_push_listen_addr_updates(true)
        .with_cache_size(0);
    let nodes = config.known.len() + 1;
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        lane: lane::Behaviour::default(),
        gossip: gossip::behaviour(keypair, nodes <= SMALL_MESH, registry)?,
        kad: dht::behaviour(local, nodes),
        identify: identify::Behaviour::new(identify),
        mdns: discovery::mdns(config.mdns, local),
    };
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(86_400))
        .with_max_negotiating_inbound_streams(1024)
        .with_notify_handler_buffer_size(NonZeroUsize::new(256).unwrap_or(NonZeroUsize::MIN))
        .with_per_connection_event_buffer_size(256);
    Ok(Swarm::new(transport, behaviour, local, swarm_config))
}

/// Where to listen: everywhere, or on this host only.
pub(super) fn listen_addr(port: u16, loopback_only: bool) -> Multiaddr {
    let host = if loopback_only { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    Multiaddr::from(host).with(Protocol::Tcp(port))
}

/// Handshakes under way; each is over after three seconds.
const PENDING_INCOMING_MAX: u32 = 256;
const ESTABLISHED_MAX: u32 = 4096;
/// Up to here every message goes to everybody directly.
const SMALL_MESH: usize = 20;
