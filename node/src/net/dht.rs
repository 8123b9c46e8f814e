//! The index from skills to nodes, in Kademlia provider records. Every answer is a hint: the truth is with the nodes themselves.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    num::NonZeroUsize,
    time::Duration,
};

use libp2p::{
    PeerId, StreamProtocol,
    kad::{self, QueryId, RecordKey, store::MemoryStore, store::MemoryStoreConfig},
};
use tokio::{sync::oneshot, time::Instant};

use super::{Peer, identity::raw};

/// Kademlia with its records in memory.
pub(super) type Behaviour = kad::Behaviour<MemoryStore>;

/// The behaviour in server mode; `nodes` is how many are expected and stretches the time to live above 50.
pub(super) fn behaviour(local: PeerId, nodes: usize) -> Behaviour {
    let store = MemoryStoreConfig {
        // The default of 20 silently drops providers.
        max_providers_per_key: 4096,
        max_provided_keys: 65_536,
        // Plain records are not used; nobody shall fill our memory with them.
        max_records: 0,
        max_value_bytes: 0,
    };
    let mut config = kad::Config::new(StreamProtocol::new("/mesh/kad/1.0.0"));
    config
        .set_query_timeout(Duration::from_secs(2))
        .set_provider_record_ttl(Some(stretch(TTL, nodes)))
        // Republished by `Index`, which knows how many nodes there are now; the behaviour's own interval is fixed at start.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_replication_factor(NonZeroUsize::new(20).unwrap_or(NonZeroUsize::MIN))
        // Requests fail when an answer is above the limit; 16 KiB would do for 100 providers only.
        .set_max_packet_size(1 << 20)
        // Only members whose lane was up enter the table; see the swarm loop.
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    let mut behaviour = kad::Behaviour::with_config(local, MemoryStore::with_config(local, store), config);
    // Otherwise it waits for a confirmed external address, which never comes on a LAN.
    behaviour.set_mode(Some(kad::Mode::Server));
    behaviour
}

/// What we provide and what we are looking for.
#[derive(Default)]
pub(super) struct Index {
    /// At most [`KEYS_MAX`].
    provided: BTreeSet<Vec<u8>>,
    republish_at: Option<Instant>,
    /// At most [`QUERIES_MAX`].
    queries: HashMap<QueryId, Query>,
}

struct Query {
    found: HashSet<PeerId>,
    /// Set by the first find: the rest of the mesh gets this long to add to it.
    until: Option<Instant>,
    answer: oneshot::Sender<Vec<Peer>>,
}

impl Index {
    /// Makes us a provider of a key until [`Self::stop_provide`].
    pub(super) fn provide(&mut self, kad: &mut Behaviour, key: Vec<u8>, now: Instant, nodes: usize) {
        if self.provided.len() >= KEYS_MAX {
            tracing::warn!(max = KEYS_MAX, "too many keys for the index, this one is not announced");
            return;
        }
        announce(kad, &key);
        self.provided.insert(key);
        self.republish_at.get_or_insert(now + stretch(REPUBLISH, nodes));
    }

    /// Others go on answering with us until the record's time is over.
    pub(super) fn stop_provide(&mut self, kad: &mut Behaviour, key: &[u8]) {
        kad.stop_providing(&RecordKey::new(&key));
        self.provided.remove(key);
    }

    /// Looks a key up; the answer may be empty, stale or incomplete.
    pub(super) fn find(&mut self, kad: &mut Behaviour, key: &[u8], answer: oneshot::Sender<Vec<Peer>>) {
        if self.queries.len() >= QUERIES_MAX {
            // Dropping the sender tells the caller that there is no answer.
            return;
        }
        let id = kad.get_providers(RecordKey::new(&key));
        self.queries.insert(id, Query { found: HashSet::new(), until: None, answer });
    }

    /// Takes in an answer of the network.
    pub(super) fn on_event(&mut self, event: kad::Event, now: Instant) {
        let kad::Event::OutboundQueryProgressed { id, result: kad::QueryResult::GetProviders(result), step, .. } = event else {
            return;
        };
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = result {
            query.found.extend(providers);
            if !query.found.is_empty() {
                query.until.get_or_insert(now + SETTLE);
            }
        }
        if step.last {
            self.finish(id);
        }
    }

    /// Republishes what is due and ends queries that found something a while ago.
    pub(super) fn tick(&mut self, kad: &mut Behaviour, now: Instant, nodes: usize) {
        let settled: Vec<_> = self.queries.iter().filter(|(_, q)| q.until.is_some_and(|t| t <= now)).map(|(id, _)| *id).collect();
        for id in settled {
            if let Some(mut query) = kad.query_mut(&id) {
                query.finish();
            }
            self.finish(id);
        }
        if self.republish_at.is_some_and(|t| t <= now) {
            self.republish(kad, now, nodes);
        }
    }

    /// Announces everything again.
    fn republish(&mut self, kad: &mut Behaviour, now: Instant, nodes: usize) {
        for key in &self.provided {
            announce(kad, key);
        }
        self.republish_at = (!self.provided.is_empty()).then(|| now + stretch(REPUBLISH, nodes));
    }

    /// A node joined: what we provide is announced again soon, and once for all that join together.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.republish_at = self.republish_at.map(|at| at.min(now + JOIN_SETTLE));
    }

    fn finish(&mut self, id: QueryId) {
        if let Some(query) = self.queries.remove(&id) {
            let peers = query.found.iter().filter_map(raw).collect();
            // Who asked may have lost interest.
            let _ = query.answer.send(peers);
        }
    }
}

fn announce(kad: &mut Behaviour, key: &[u8]) {
    if let Err(e) = kad.start_providing(RecordKey::new(&key)) {
        tracing::warn!(error = %e, "a key could not be announced to the index");
    }
}

/// Above 50 nodes everything gets slower in proportion, so that the traffic of one node stays the same.
fn stretch(base: Duration, nodes: usize) -> Duration {
    let factor = u32::try_from(nodes.div_ceil(50)).unwrap_or(u32::MAX).clamp(1, 100);
    base * factor
}

/// Records of a dead node stay this long.
const TTL: Duration = Duration::from_secs(90);
/// A record may miss two publications before it is gone.
const REPUBLISH: Duration = Duration::from_secs(30);
/// Between the first provider found and the answer.
const SETTLE: Duration = Duration::from_millis(300);
/// Nodes that start together are given this long.
const JOIN_SETTLE: Duration = Duration::from_secs(2);
const KEYS_MAX: usize = 4096;
const QUERIES_MAX: usize = 256;
