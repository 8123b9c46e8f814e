//! The network layer: bytes between members of one mesh. It knows libp2p and nothing of the protocol above.
//!
//! Everything here runs on a runtime of its own with one worker thread (measured faster than more). The outside holds a [`Net`] and
//! a receiver of [`NetEvent`]s; peers are named by their raw public keys.
//!
//! For each peer the events are: `Up`, then any of `Frame`, `Silent`, `Heard`, `Reset`, then `Closed`, which is followed by
//! `Reset` (it came back at once) or by `Down`. Frames are in order and complete between two of `Up`, `Reset`, `Closed`.
//! `Gossip`, `Subscribed`, `Learned` and `Clone` may come at any time, also before `Up` and after `Down`.

mod book;
mod bulk;
mod dht;
mod discovery;
mod gossip;
mod identity;
mod lane;
mod link;
mod metrics;
mod roster;
mod swarm;
#[cfg(test)]
mod tests;
mod ticket;
mod transport;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use libp2p::Multiaddr;
use prometheus_client::registry::Registry;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
    time::timeout,
};

#[allow(unused_imports, reason = "the whole interface of the layer, whatever the caller needs today")]
pub(crate) use self::{
    bulk::{BulkError, BulkReader, BulkRequest, BulkWriter, REQUEST_MAX},
    gossip::{GOSSIP_MAX, Topic},
    identity::{Identity, IdentityError, peer_id, raw, signed_by},
    metrics::{Counters, DropReason, RefuseReason},
    ticket::{Ticket, TicketError, mesh_id},
};
use self::{link::LaneSender, swarm::Command};

/// A node: its raw ed25519 public key.
pub(crate) type Peer = [u8; 32];

/// What the network needs to know at start.
#[derive(Clone)]
pub(crate) struct NetConfig {
    /// Our key pair.
    pub(crate) identity: Identity,
    /// The mesh's secret.
    pub(crate) key: [u8; 32],
    /// The mesh's name.
    pub(crate) mesh_name: String,
    /// A number that differs at each start of this node; tells a restart from a clone.
    pub(crate) boot: u64,
    /// TCP port to listen on; 0 takes any free one.
    pub(crate) port: u16,
    /// Members from an earlier life and where they were; dialed for ever.
    pub(crate) known: Vec<(Peer, Vec<Multiaddr>)>,
    /// Addresses of members whose ids are not known (or follow as `/p2p/…`), by number or name (`/dns4/host/tcp/8889`); dialed for
    /// ever.
    pub(crate) seeds: Vec<Multiaddr>,
    /// Find and be found by multicast on the local network.
    pub(crate) mdns: bool,
    /// The Tailscale client to ask for peers, e.g. `tailscale`; `None` asks nobody.
    pub(crate) tailscale: Option<PathBuf>,
    /// The port that nodes on the tailnet are expected at, beside our own; 8889 unless configured.
    pub(crate) tailscale_port: u16,
    /// Listen on 127.0.0.1 only; other hosts cannot connect.
    pub(crate) listen_loopback_only: bool,
}

/// What the network tells. See the module's text for the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NetEvent {
    /// A lane to this peer is up.
    Up {
        /// Who.
        peer: Peer,
    },
    /// The lane was replaced and frames may be lost, both ways: as `Down` and `Up` in one.
    Reset {
        /// Who.
        peer: Peer,
    },
    /// The last lane is gone; the peer is being dialed again. `Down` or `Reset` follows within about a second.
    Closed {
        /// Who.
        peer: Peer,
    },
    /// The peer could not be reached again at once. It is dialed for ever and may come `Up` any time.
    Down {
        /// Who.
        peer: Peer,
        /// Its host answered that nobody listens: the process is gone, not the line.
        refused: bool,
    },
    /// Nothing was heard for a second; the lane is still open.
    Silent {
        /// Who.
        peer: Peer,
    },
    /// Heard again after `Silent`.
    Heard {
        /// Who.
        peer: Peer,
    },
    /// A frame arrived on the lane.
    Frame {
        /// From whom.
        peer: Peer,
        /// At most [`FRAME_MAX`] bytes, never empty, unchecked.
        bytes: Bytes,
    },
    /// A signed message that its author sent to everybody. Our own are not among them.
    Gossip {
        /// The author, proved by its signature.
        source: Peer,
        /// What it is about.
        topic: Topic,
        /// At most [`GOSSIP_MAX`] bytes, unchecked.
        bytes: Bytes,
    },
    /// A peer subscribed to gossip: what was published before it did not reach it.
    Subscribed {
        /// Who.
        peer: Peer,
        /// To what.
        topic: Topic,
    },
    /// News about where a member can be reached; to be kept for the next start.
    Learned {
        /// Who.
        peer: Peer,
        /// All addresses known now, best first, at most 16.
        addrs: Vec<Multiaddr>,
    },
    /// Two processes run with this peer's key: a copied home directory. The newer one is used.
    Clone {
        /// Who.
        peer: Peer,
    },
    /// We can be reached at this address.
    Listening {
        /// Where.
        addr: Multiaddr,
    },
    /// We can no longer be reached at this address.
    Unlistening {
        /// Where.
        addr: Multiaddr,
    },
}

/// Why the network could not be started. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// Another program (or node) listens there.
    #[error("port {port} is taken by another program, maybe by another clawmesh node; use --mesh-port 0 for any free port")]
    PortTaken {
        /// The port asked for.
        port: u16,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on port {port}: {source}")]
    Listen {
        /// The port asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The thread or the runtime could not be made.
    #[error("cannot start the network's own thread: {0}")]
    Thread(io::Error),
    /// A part of libp2p refused its configuration.
    #[error("BUG: the network cannot be set up: {0}")]
    Setup(String),
}

/// Lanes in use, shared between the loop (writes) and the handle (reads).
type Lanes = Arc<RwLock<HashMap<Peer, LaneSender>>>;
type Addresses = Arc<RwLock<Vec<Multiaddr>>>;

/// A running network. Dropping it stops it, too, without saying goodbye; [`Net::stop`] does it properly.
pub(crate) struct Net {
    lanes: Lanes,
    addresses: Addresses,
    commands: mpsc::Sender<Command>,
    counters: Counters,
    bulk: Option<mpsc::Receiver<BulkRequest>>,
    stopped: oneshot::Receiver<()>,
    #[cfg(test)]
    mute: Arc<AtomicBool>,
}

impl Net {
    /// Starts listening and dialing. The receiver is bounded ([`EVENTS_MAX`]): a slow reader slows the peers' lanes and loses
    /// nothing but gossip.
    ///
    /// # Errors
    /// The port is taken or cannot be used, or the thread cannot be made.
    pub(crate) async fn start(config: NetConfig, registry: &mut Registry) -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        let port = config.port;
        probe_port(port, config.listen_loopback_only)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("clawmesh-net")
            .enable_all()
            .build()
            .map_err(NetError::Thread)?;
        let (events_tx, events) = mpsc::channel(EVENTS_MAX);
        let (commands, commands_rx) = mpsc::channel(COMMANDS_MAX);
        let (bulk_tx, bulk) = mpsc::channel(bulk::WAITING_MAX);
        let lanes = Lanes::default();
        let addresses = Addresses::default();
        let mute = Arc::new(AtomicBool::new(false));
        let counters = Counters::register(registry);
        let shared = swarm::Shared {
            lanes: lanes.clone(),
            addresses: addresses.clone(),
            counters: counters.clone(),
            events: events_tx,
            bulk: bulk_tx,
            mute: mute.clone(),
        };
        // The runtime lives on a plain thread, as it must not be dropped on a thread of another runtime.
        let (keep, kept) = oneshot::channel();
        let (stopped_tx, stopped) = oneshot::channel();
        let handle = runtime.handle().clone();
        keep_runtime(runtime, kept, stopped_tx)?;
        let (listening_tx, listening) = oneshot::channel();
        let built = {
            let _entered = handle.enter();
            swarm::Loop::build(config, shared, registry, commands_rx, listening_tx)
        };
        let main = built?;
        handle.spawn(async move {
            main.run().await;
            drop(keep);
        });
        match timeout(LISTEN_TIMEOUT, listening).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(source))) => return Err(NetError::Listen { port, source }),
            Ok(Err(_)) => return Err(NetError::Setup("the loop ended at once".into())),
            Err(_) => {
                return Err(NetError::Listen { port, source: io::ErrorKind::TimedOut.into() });
            }
        }
        let net = Self {
            lanes,
            addresses,
            commands,
            counters,
            bulk: Some(bulk),
            stopped,
            #[cfg(test)]
            mute,
        };
        Ok((net, events))
    }

    /// Queues a frame for a peer; never waits. Frames of one peer arrive in order.
    ///
    /// # Errors
    /// The reason why it was dropped, which is counted as well. A full queue (4096 frames or 16 MiB) also closes the lane, so
    /// that order is never broken without a `Closed` or `Reset`.
    pub(crate) fn send(&self, peer: &Peer, bytes: Bytes) -> Result<(), DropReason> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let result = lanes.get(peer).ok_or(DropReason::NoLane).and_then(|lane| lane.send(bytes));
        if let Err(reason) = result {
            self.counters.drop(reason);
        }
        result
    }

    /// Sends a message to everybody, signed. Too large ones and those beyond the backlog are dropped and counted.
    pub(crate) fn publish(&self, topic: Topic, bytes: Bytes) {
        if bytes.len() > GOSSIP_MAX {
            self.counters.drop(DropReason::GossipTooLarge);
        } else if self.commands.try_send(Command::Publish(topic, bytes)).is_err() {
            self.counters.drop(DropReason::GossipBacklog);
        }
    }

    /// Announces in the index that we provide `key`, until [`Self::stop_provide`].
    pub(crate) async fn provide(&self, key: Vec<u8>) {
        self.command(Command::Provide(key)).await;
    }

    /// Stops announcing; others may go on naming us for 90 s.
    pub(crate) async fn stop_provide(&self, key: Vec<u8>) {
        self.command(Command::StopProvide(key)).await;
    }

    /// Who provides `key`, as far as the index knows: a hint, maybe stale, incomplete or empty. Takes at most about 2 s.
    pub(crate) async fn find_providers(&self, key: Vec<u8>) -> Vec<Peer> {
        let (tx, rx) = oneshot::channel();
        self.command(Command::Find(key, tx)).await;
        rx.await.unwrap_or_default()
    }

    /// Asks a peer for something large and returns its answer as a stream.
    ///
    /// # Errors
    /// No lane to the peer, a request above [`REQUEST_MAX`], or the stream could not be opened.
    pub(crate) async fn bulk_request(&self, peer: Peer, request: Bytes) -> Result<BulkReader, BulkError> {
        if request.len() > REQUEST_MAX {
            return Err(BulkError::TooLarge(request.len()));
        }
        let (tx, rx) = futures::channel::oneshot::channel();
        self.command(Command::Bulk(peer, tx)).await;
        match rx.await {
            Ok(Ok(stream)) => bulk::ask(stream, &request).await,
            Ok(Err(e)) => Err(BulkError::Failed(e)),
            Err(_) => Err(BulkError::NotConnected),
        }
    }

    /// The questions of other nodes; `None` the second time. At most 64 wait, and 16 streams per peer are open.
    pub(crate) fn take_bulk_requests(&mut self) -> Option<mpsc::Receiver<BulkRequest>> {
        self.bulk.take()
    }

    /// Dials an address now, and from then on until a member answers there.
    pub(crate) async fn dial(&self, addr: Multiaddr) {
        self.command(Command::Dial(addr)).await;
    }

    /// Where we listen: each interface, and 127.0.0.1.
    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Peers whose lane is up, in no order.
    pub(crate) fn lanes(&self) -> Vec<Peer> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Sends what is queued (for at most 250 ms), closes everything and releases the port, in less than 500 ms.
    pub(crate) async fn stop(self) {
        let Self { commands, stopped, .. } = self;
        // The loop always takes its commands; if it is gone already, so is everything else.
        let _ = commands.send(Command::Stop).await;
        let _ = timeout(STOP_TIMEOUT, stopped).await;
    }

    /// Stops (or resumes) all writers, as a hung process would.
    #[cfg(test)]
    fn mute(&self, mute: bool) {
        self.mute.store(mute, std::sync::atomic::Ordering::Relaxed);
    }

    async fn command(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the network is stopped, a command was ignored");
        }
    }
}

/// libp2p listens with SO_REUSEPORT, with which two nodes would share a port and each get half of the connections; a listener
/// without it shows that the port is taken. Tried on Linux only.
fn probe_port(port: u16, loopback_only: bool) -> Result<(), NetError> {
    if port == 0 {
        return Ok(());
    }
    let host = if loopback_only { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    match TcpListener::bind((host, port)) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(NetError::PortTaken { port }),
        Err(source) => Err(NetError::Listen { port, source }),
    }
}

fn keep_runtime(runtime: Runtime, kept: oneshot::Receiver<()>, stopped: oneshot::Sender<()>) -> Result<(), NetError> {
    let keeper = move || {
        // Resolved by dropping the other half, at the end of the loop.
        let _ = kept.blocking_recv();
        runtime.shutdown_timeout(Duration::from_millis(200));
        let _ = stopped.send(());
    };
    std::thread::Builder::new().name("clawmesh-net-keeper".into()).spawn(keeper).map(drop).map_err(NetError::Thread)
}

/// Largest frame, in bytes.
pub(crate) const FRAME_MAX: usize = 1024 * 1024;
/// Events that wait for the upper layer.
pub(crate) const EVENTS_MAX: usize = 4096;
const COMMANDS_MAX: usize = 1024;
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);
const STOP_TIMEOUT: Duration = Duration::from_millis(480);
