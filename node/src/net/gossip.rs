//! Heartbeats and adverts for everybody: two gossipsub topics, signed by their authors.

use std::time::Duration;

use libp2p::{
    gossipsub::{self, IdentTopic, MessageAuthenticity, TopicHash, ValidationMode},
    identity::Keypair,
};
use prometheus_client::registry::Registry;

use super::NetError;

/// What a gossip message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// The coordinator is alive.
    Heartbeat,
    /// A node tells about itself.
    Advert,
}

impl Topic {
    pub(super) const ALL: [Self; 2] = [Self::Heartbeat, Self::Advert];

    pub(super) fn ident(self) -> IdentTopic {
        IdentTopic::new(match self {
            Self::Heartbeat => "clawmesh/heartbeat/1",
            Self::Advert => "clawmesh/advert/1",
        })
    }

    pub(super) fn of(hash: &TopicHash) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.ident().hash() == *hash)
    }
}

/// The behaviour, subscribed to all topics. `small` meshes (up to about 20 nodes) publish to everybody at once.
///
/// # Errors
/// Only if the constants below contradict each other.
pub(super) fn behaviour(keypair: &Keypair, small: bool, registry: &mut Registry) -> Result<gossipsub::Behaviour, NetError> {
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix("/mesh/gossip")
        .heartbeat_interval(Duration::from_secs(1))
        .heartbeat_initial_delay(Duration::from_millis(200))
        .mesh_outbound_min(1)
        .mesh_n_low(3)
        .mesh_n(4)
        .mesh_n_high(6)
        .gossip_lazy(3)
        .flood_publish(small)
        .validation_mode(ValidationMode::Strict)
        .duplicate_cache_time(Duration::from_secs(30))
        .max_transmit_size(TRANSMIT_MAX)
        .build()
        .map_err(|e| NetError::Setup(format!("gossipsub: {e}")))?;
    let mut behaviour = gossipsub::Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), config)
        .map_err(|e| NetError::Setup(format!("gossipsub: {e}")))?
        .with_metrics(registry.sub_registry_with_prefix("gossipsub"), gossipsub::MetricsConfig::default());
    for topic in Topic::ALL {
        behaviour.subscribe(&topic.ident()).map_err(|e| NetError::Setup(format!("gossipsub: {e}")))?;
    }
    Ok(behaviour)
}

/// Largest gossip message, in bytes, checked on publishing and on arrival.
pub(crate) const GOSSIP_MAX: usize = 8 * 1024;
/// Several messages and their control data travel in one piece.
const TRANSMIT_MAX: usize = 64 * 1024;
