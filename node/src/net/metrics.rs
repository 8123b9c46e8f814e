//! Figures of the network layer, for `/metrics`.
//!
//! Labels are closed sets (reasons, directions), never peers or addresses: the number of series does not grow with the mesh.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Why a frame, a message or a stream was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum DropReason {
    /// No lane to the peer was up when the frame was sent.
    NoLane,
    /// The queue of the peer was full; its lane was closed.
    QueueFull,
    /// Empty or larger than the cap, refused on our side.
    TooLarge,
    /// A gossip message larger than the cap, ours or another's.
    GossipTooLarge,
    /// Gossip that arrived or was published faster than it was taken.
    GossipBacklog,
    /// Gossip that libp2p refused to publish.
    GossipPublish,
    /// A bulk stream beyond the limit of its peer, or malformed.
    Bulk,
}

/// Why the connection of a member (or of somebody who pretends to be one) was refused or closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum RefuseReason {
    /// A frame above the cap or one that cannot be decoded.
    BadFrame,
    /// The first frame was not a hello, or it did not come in time.
    BadHello,
    /// The other side speaks another protocol version.
    ForeignVersion,
    /// The lane was silent for too long.
    Silent,
    /// Its frames were not taken fast enough.
    Overflow,
    /// Two connections to one peer: one is enough.
    Duplicate,
}

impl DropReason {
    const ALL: [Self; 7] =
        [Self::NoLane, Self::QueueFull, Self::TooLarge, Self::GossipTooLarge, Self::GossipBacklog, Self::GossipPublish, Self::Bulk];
}

impl RefuseReason {
    const ALL: [Self; 6] = [Self::BadFrame, Self::BadHello, Self::ForeignVersion, Self::Silent, Self::Overflow, Self::Duplicate];
}

/// Which side opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Direction {
    /// The other side dialed.
    Inbound,
    /// We dialed.
    Outbound,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Dropped {
    reason: DropReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Refused {
    reason: RefuseReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Way {
    direction: Direction,
}

/// Counters of one network layer; clones share the same figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// Lanes up now.
    pub(super) lanes: Gauge,
    /// Clones of a node id that were seen.
    pub(super) clones: Counter,
    /// Answers of the Tailscale command that could not be used.
    pub(super) tailscale_bad: Counter,
    dropped: Family<Dropped, Counter>,
    refused: Family<Refused, Counter>,
    handshake_failed: Family<Way, Counter>,
    bytes: Family<Way, Counter>,
    frames: Family<Way, Counter>,
}

impl Counters {
    /// Registers all figures under the prefix `clawmesh_net`.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let counters = Self::default();
        let registry = registry.sub_registry_with_prefix("clawmesh_net");
        let c = counters.clone();
        registry.register("lanes", "Lanes that are up", c.lanes);
        registry.register("clones", "Times two running nodes with one id were seen", c.clones);
        registry.register("tailscale_bad", "Unusable answers of the Tailscale command", c.tailscale_bad);
        registry.register("dropped", "Frames, messages and streams not delivered, by reason", c.dropped);
        registry.register("refused", "Connections refused or closed by this node, by reason", c.refused);
        registry.register("handshake_failed", "Connections whose handshake failed", c.handshake_failed);
        registry.register("bytes", "Bytes of frames on lanes", c.bytes);
        registry.register("frames", "Frames on lanes", c.frames);
        counters.show_zeros();
        counters
    }

    /// A series that only appears with the first trouble cannot be watched for it.
    fn show_zeros(&self) {
        for reason in DropReason::ALL {
            drop(self.dropped.get_or_create(&Dropped { reason }));
        }
        for reason in RefuseReason::ALL {
            drop(self.refused.get_or_create(&Refused { reason }));
        }
        for direction in [Direction::Inbound, Direction::Outbound] {
            drop(self.handshake_failed.get_or_create(&Way { direction }));
            self.traffic(direction);
        }
    }

    /// Counts one thing that was not delivered.
    pub(super) fn drop(&self, reason: DropReason) {
        self.dropped.get_or_create(&Dropped { reason }).inc();
    }

    /// Counts one connection refused or closed.
    pub(super) fn refuse(&self, reason: RefuseReason) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    /// Counts one handshake that failed.
    pub(super) fn handshake(&self, direction: Direction) {
        self.handshake_failed.get_or_create(&Way { direction }).inc();
    }

    /// The counters of frames and of bytes in one direction, to be kept by a hot loop.
    pub(super) fn traffic(&self, direction: Direction) -> (Counter, Counter) {
        let way = Way { direction };
        (self.frames.get_or_create_owned(&way), self.bytes.get_or_create_owned(&way))
    }

    /// How often something was dropped for this reason.
    #[cfg(test)]
    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get_or_create(&Dropped { reason }).get()
    }

    /// How often a connection was refused for this reason.
    #[cfg(test)]
    pub(super) fn refused(&self, reason: RefuseReason) -> u64 {
        self.refused.get_or_create(&Refused { reason }).get()
    }

    /// How many handshakes failed in this direction.
    #[cfg(test)]
    pub(super) fn handshakes_failed(&self, direction: Direction) -> u64 {
        self.handshake_failed.get_or_create(&Way { direction }).get()
    }
}
