//! The API's own figures.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Why a request was refused before anybody looked at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refused {
    /// The `Host` header names another machine: a web page that tries to reach this node (DNS rebinding).
    Host,
    /// No bearer token, or a wrong one.
    Token,
    /// More than one node can serve at once.
    Busy,
    /// A body above the cap.
    TooLarge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// Counters of the API; cheap to clone, all clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct ApiMetrics {
    requests: Counter,
    refused: Family<Why, Counter>,
    connections: Gauge,
}

impl ApiMetrics {
    /// Counters that show up in `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register("clawmesh_api_requests", "Requests with a valid token", m.requests.clone());
        registry.register("clawmesh_api_refused", "Requests refused at the door, by reason", m.refused.clone());
        registry.register("clawmesh_api_connections", "Open HTTP connections", m.connections.clone());
        m
    }
    /// One request was let in.
    pub(super) fn request(&self) {
        self.requests.inc();
    }
    /// One request was refused at the door.
    pub(super) fn refuse(&self, why: Refused) {
        self.refused.get_or_create(&Why { reason: why.word() }).inc();
    }
    /// How often requests were refused for this reason.
    #[cfg(test)]
    pub(super) fn refused(&self, why: Refused) -> u64 {
        self.refused.get_or_create(&Why { reason: why.word() }).get()
    }
    /// A connection opened (1) or closed (-1).
    pub(super) fn connection(&self, change: i64) {
        self.connections.inc_by(change);
    }
}

impl Refused {
    fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Token => "token",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
        }
    }
}
