//! Whole networks in one process, on loopback.

mod lanes;
mod services;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use libp2p::{Multiaddr, multiaddr::Protocol};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::*;

/// A network, its events, and what is needed to start it again.
struct Node {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    config: NetConfig,
    peer: Peer,
    /// Whose addresses were told; these events come at any time, so `wait` keeps them.
    learned: Vec<(Peer, Vec<Multiaddr>)>,
}

impl Node {
    async fn start(config: NetConfig) -> Self {
        let (net, events) = Net::start(config.clone(), &mut Registry::default()).await.unwrap();
        let peer = config.identity.peer();
        Self { net, events, config, peer, learned: vec![] }
    }

    async fn alone() -> Self {
        Self::start(config()).await
    }

    /// Knows the others' addresses and not their ids.
    async fn with_seeds(others: &[&Node]) -> Self {
        Self::start(NetConfig { seeds: others.iter().map(|n| n.addr()).collect(), ..config() }).await
    }

    fn addr(&self) -> Multiaddr {
        self.net.addresses().into_iter().next().unwrap()
    }

    fn port(&self) -> u16 {
        self.addr().iter().find_map(|p| if let Protocol::Tcp(port) = p { Some(port) } else { None }).unwrap()
    }

    /// The first event that fits; others are dropped.
    async fn wait(&mut self, what: &str, fits: impl Fn(&NetEvent) -> bool) -> NetEvent {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the network ended");
                if fits(&event) {
                    return event;
                }
                if let NetEvent::Learned { peer, addrs } = event {
                    self.learned.push((peer, addrs));
                }
            }
        };
        timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("no {what} in time"))
    }

    async fn up(&mut self, peer: Peer) {
        self.wait("Up", |e| *e == NetEvent::Up { peer }).await;
    }

    /// Waits until the addresses of a peer are known.
    async fn learned(&mut self, from: Peer) -> Vec<Multiaddr> {
        if let Some((_, addrs)) = self.learned.iter().rfind(|(peer, _)| *peer == from) {
            return addrs.clone();
        }
        match self.wait("Learned", |e| matches!(e, NetEvent::Learned { peer, .. } if *peer == from)).await {
            NetEvent::Learned { addrs, .. } => addrs,
            other => panic!("{other:?}"),
        }
    }

    async fn frame(&mut self) -> Bytes {
        match self.wait("Frame", |e| matches!(e, NetEvent::Frame { .. })).await {
            NetEvent::Frame { bytes, .. } => bytes,
            other => panic!("{other:?}"),
        }
    }

    /// Takes and drops events, so that the network does not wait for us.
    fn ignore_events(&mut self) {
        let (_, empty) = mpsc::channel(1);
        let mut events = std::mem::replace(&mut self.events, empty);
        tokio::spawn(async move { while events.recv().await.is_some() {} });
    }

    async fn connections(&self) -> usize {
        let (tx, rx) = oneshot::channel();
        self.net.commands.send(Command::Connections(tx)).await.unwrap();
        rx.await.unwrap()
    }
}

fn config() -> NetConfig {
    NetConfig {
        identity: Identity::generate(),
        key: [1; 32],
        mesh_name: "test".into(),
        boot: 1,
        port: 0,
        known: vec![],
        seeds: vec![],
        mdns: false,
        tailscale: None,
        tailscale_port: 8889,
        listen_loopback_only: true,
    }
}

/// Asks again and again until the answer is yes.
async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asking = async {
        while !ask().await {
            sleep(POLL).await;
        }
    };
    timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn pair() -> (Node, Node) {
    let mut a = Node::alone().await;
    let mut b = Node::with_seeds(&[&a]).await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.up(pb), b.up(pa));
    (a, b)
}

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
