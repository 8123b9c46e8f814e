//! Whole networks in one process, on loopback.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use libp2p::{Multiaddr, multiaddr::Protocol};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{metrics::Direction, *};

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
        let (net, events) = Net::start(config.clone(), &mut Registry::default())
            .await
            .unwrap();
        let peer = config.identity.peer();
        Self {
            net,
            events,
            config,
            peer,
            learned: vec![],
        }
    }

    async fn alone() -> Self {
        Self::start(config()).await
    }

    /// Knows the others' addresses and not their ids.
    async fn with_seeds(others: &[&Node]) -> Self {
        Self::start(NetConfig {
            seeds: others.iter().map(|n| n.addr()).collect(),
            ..config()
        })
        .await
    }

    fn addr(&self) -> Multiaddr {
        self.net.addresses().into_iter().next().unwrap()
    }

    fn port(&self) -> u16 {
        self.addr()
            .iter()
            .find_map(|p| {
                if let Protocol::Tcp(port) = p {
                    Some(port)
                } else {
                    None
                }
            })
            .unwrap()
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
        timeout(DEADLINE, search)
            .await
            .unwrap_or_else(|_| panic!("no {what} in time"))
    }

    async fn up(&mut self, peer: Peer) {
        self.wait("Up", |e| *e == NetEvent::Up { peer }).await;
    }

    /// Waits until the addresses of a peer are known.
    async fn learned(&mut self, from: Peer) -> Vec<Multiaddr> {
        if let Some((_, addrs)) = self.learned.iter().rfind(|(peer, _)| *peer == from) {
            return addrs.clone();
        }
        match self
            .wait(
                "Learned",
                |e| matches!(e, NetEvent::Learned { peer, .. } if *peer == from),
            )
            .await
        {
            NetEvent::Learned { addrs, .. } => addrs,
            other => panic!("{other:?}"),
        }
    }

    async fn frame(&mut self) -> Bytes {
        match self
            .wait("Frame", |e| matches!(e, NetEvent::Frame { .. }))
            .await
        {
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
        self.net
            .commands
            .send(Command::Connections(tx))
            .await
            .unwrap();
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
    timeout(DEADLINE, asking)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn pair() -> (Node, Node) {
    let mut a = Node::alone().await;
    let mut b = Node::with_seeds(&[&a]).await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.up(pb), b.up(pa));
    (a, b)
}

#[tokio::test]
async fn three_nodes_find_each_other_through_one_address() {
    let mut a = Node::alone().await;
    let mut b = Node::with_seeds(&[&a]).await;
    a.up(b.peer).await;
    b.up(a.peer).await;
    assert_eq!(a.learned(b.peer).await, [b.addr()]);
    assert_eq!(b.learned(a.peer).await, [a.addr()]);
    let mut c = Node::with_seeds(&[&a, &b]).await;
    c.up(a.peer).await;
    eventually("all lanes", || async {
        [&a, &b, &c].iter().all(|n| n.net.lanes().len() == 2)
    })
    .await;
}

#[tokio::test]
async fn simultaneous_dials_end_in_exactly_one_connection() {
    for round in 0..8 {
        let (mut a, mut b) = (Node::alone().await, Node::alone().await);
        let (to_a, to_b) = (a.addr(), b.addr());
        tokio::join!(a.net.dial(to_b), b.net.dial(to_a));
        let (pa, pb) = (a.peer, b.peer);
        tokio::join!(a.up(pb), b.up(pa));
        // Dials under way count, so this cannot be true before both have come to their end.
        eventually("one connection", || async {
            a.connections().await == 1 && b.connections().await == 1
        })
        .await;
        // What is left works, and nobody was told that the other is down. A late swap may cost a frame, so it is sent again.
        a.ignore_events();
        let sending = async {
            loop {
                let _ = a.net.send(&pb, Bytes::from_static(b"still here"));
                sleep(POLL).await;
            }
        };
        let receiving = async {
            loop {
                match b.events.recv().await.unwrap() {
                    NetEvent::Frame { bytes, .. } => return bytes,
                    NetEvent::Down { .. } => panic!("round {round}: down"),
                    _ => {}
                }
            }
        };
        let received = timeout(DEADLINE, async {
            tokio::select! { never = sending => never, bytes = receiving => bytes }
        });
        assert_eq!(received.await.unwrap(), "still here");
        eventually("one connection for good", || async {
            a.connections().await == 1 && b.connections().await == 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_burst_arrives_complete_and_in_order_even_if_it_is_taken_late() {
    let (a, mut b) = pair().await;
    let total: u32 = 10_000;
    let sending = async {
        for n in 0..total {
            // Waits for room as the protocol's window would; the queue itself closes the lane when it overflows.
            while a.net.lanes.read().unwrap()[&b.peer].room() < 100 {
                sleep(Duration::from_millis(1)).await;
            }
            a.net
                .send(&b.peer, Bytes::copy_from_slice(&n.to_be_bytes()))
                .unwrap();
        }
    };
    let events = &mut b.events;
    let receiving = async {
        // Longer than a silence: back-pressure must not be taken for one.
        sleep(Duration::from_millis(1500)).await;
        let mut expected: u32 = 0;
        while expected < total {
            match events.recv().await.unwrap() {
                NetEvent::Frame { bytes, .. } => {
                    assert_eq!(bytes, expected.to_be_bytes().as_slice());
                    expected += 1;
                }
                NetEvent::Learned { .. } | NetEvent::Subscribed { .. } => {}
                other => panic!("{other:?} after {expected} frames"),
            }
        }
    };
    timeout(DEADLINE * 2, async { tokio::join!(sending, receiving) })
        .await
        .unwrap();
}

#[tokio::test]
async fn the_largest_frame_passes_and_a_larger_or_empty_one_is_refused_at_home() {
    let (a, mut b) = pair().await;
    assert_eq!(
        a.net.send(&b.peer, Bytes::from(vec![0; FRAME_MAX + 1])),
        Err(DropReason::TooLarge)
    );
    assert_eq!(a.net.send(&b.peer, Bytes::new()), Err(DropReason::TooLarge));
    assert_eq!(
        a.net.send(&[9; 32], Bytes::from_static(b"x")),
        Err(DropReason::NoLane)
    );
    assert_eq!(a.net.counters.dropped(DropReason::TooLarge), 2);
    a.net
        .send(&b.peer, Bytes::from(vec![7; FRAME_MAX]))
        .unwrap();
    assert_eq!(b.frame().await, vec![7; FRAME_MAX]);
}

#[tokio::test]
async fn an_oversized_frame_of_a_member_closes_its_connection_and_nothing_else() {
    let (mut a, mut b) = pair().await;
    let mut c = Node::with_seeds(&[&b]).await;
    c.up(b.peer).await;
    b.up(c.peer).await;
    // Past the check of `send`, as a faulty or hostile member would.
    let lane = a.net.lanes.read().unwrap()[&b.peer].clone();
    lane.send_unchecked(Bytes::from(vec![0; FRAME_MAX + 1]));
    b.wait("Closed", |e| *e == NetEvent::Closed { peer: a.peer })
        .await;
    assert_eq!(b.net.counters.refused(RefuseReason::BadFrame), 1);
    assert!(b.net.lanes().contains(&c.peer));
    // It is a member still, and may come back.
    b.wait("Reset or Up", |e| {
        matches!(e, NetEvent::Reset { .. } | NetEvent::Up { .. })
    })
    .await;
    a.wait("Closed", |e| *e == NetEvent::Closed { peer: b.peer })
        .await;
}

#[tokio::test]
async fn an_overflowing_queue_closes_the_lane_instead_of_leaving_a_gap() {
    let (mut a, b) = pair().await;
    a.net.mute(true);
    // The queue, and what the writer may hold already.
    let sent = (0..10_000)
        .take_while(|_| a.net.send(&b.peer, Bytes::from_static(&[1; 100])).is_ok())
        .count();
    assert!((4096..5000).contains(&sent), "{sent}");
    assert_eq!(a.net.counters.dropped(DropReason::QueueFull), 1);
    a.net.mute(false);
    a.wait("Closed", |e| *e == NetEvent::Closed { peer: b.peer })
        .await;
    assert_eq!(a.net.counters.refused(RefuseReason::Overflow), 1);
}

#[tokio::test]
async fn another_key_or_another_name_never_gets_in() {
    let a = Node::alone().await;
    let other_key = Node::start(NetConfig {
        key: [2; 32],
        seeds: vec![a.addr()],
        ..config()
    })
    .await;
    let other_name = Node::start(NetConfig {
        mesh_name: "other".into(),
        seeds: vec![a.addr()],
        ..config()
    })
    .await;
    eventually("failed handshakes", || async {
        [&other_key, &other_name]
            .iter()
            .all(|n| n.net.counters.handshakes_failed(Direction::Outbound) >= 2)
            && a.net.counters.handshakes_failed(Direction::Inbound) >= 2
    })
    .await;
    for mut node in [a, other_key, other_name] {
        assert!(node.net.lanes().is_empty());
        while let Ok(event) = node.events.try_recv() {
            assert!(matches!(event, NetEvent::Listening { .. }), "{event:?}");
        }
    }
}

#[tokio::test]
async fn garbage_and_silence_on_the_port_are_counted_and_harm_nobody() {
    let (mut a, mut b) = pair().await;
    let mut silent = Vec::new();
    for n in 0..20u8 {
        let mut socket = TcpStream::connect(("127.0.0.1", a.port())).await.unwrap();
        match n % 4 {
            0 => silent.push(socket),
            1 => socket
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap(),
            2 => socket.write_all(&[n; 4096]).await.unwrap(),
            _ => drop(socket),
        }
    }
    a.net.send(&b.peer, Bytes::from_static(b"during")).unwrap();
    assert_eq!(b.frame().await, "during");
    eventually("20 failed handshakes", || async {
        a.net.counters.handshakes_failed(Direction::Inbound) == 20
    })
    .await;
    // Silent clients were put out, too.
    for mut socket in silent {
        let ended = timeout(DEADLINE, socket.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "a silent client is still connected");
    }
    b.net.send(&a.peer, Bytes::from_static(b"after")).unwrap();
    assert_eq!(a.frame().await, "after");
}

#[tokio::test]
async fn a_stopped_node_is_refused_at_once_and_its_restart_is_noticed() {
    let (a, mut b) = pair().await;
    let (peer, port) = (a.peer, a.port());
    // Its address must be known before it can be dialed again.
    b.learned(peer).await;
    let again = NetConfig {
        port,
        boot: 2,
        ..a.config.clone()
    };
    a.net.send(&b.peer, Bytes::from_static(b"bye")).unwrap();
    let start = Instant::now();
    a.net.stop().await;
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(b.frame().await, "bye");
    b.wait("Closed", |e| *e == NetEvent::Closed { peer }).await;
    b.wait("Down", |e| {
        *e == NetEvent::Down {
            peer,
            refused: true,
        }
    })
    .await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    // The port is free again.
    let mut a = Node::start(again).await;
    b.up(peer).await;
    a.up(b.peer).await;
}

#[tokio::test]
async fn a_hung_peer_is_silent_then_heard_and_in_the_end_closed() {
    let (a, mut b) = pair().await;
    let peer = a.peer;
    a.net.mute(true);
    let start = Instant::now();
    b.wait("Silent", |e| *e == NetEvent::Silent { peer }).await;
    assert!(
        (700..2000).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    a.net.mute(false);
    b.wait("Heard", |e| *e == NetEvent::Heard { peer }).await;
    a.net.mute(true);
    b.wait("Silent", |e| *e == NetEvent::Silent { peer }).await;
    b.wait("Closed", |e| *e == NetEvent::Closed { peer }).await;
    assert_eq!(b.net.counters.refused(RefuseReason::Silent), 1);
}

#[tokio::test]
async fn a_copied_home_is_noticed() {
    let mut a = Node::alone().await;
    let original = Node::with_seeds(&[&a]).await;
    a.up(original.peer).await;
    let copy = Node::start(NetConfig {
        boot: 2,
        port: 0,
        ..original.config.clone()
    })
    .await;
    a.wait("Clone", |e| *e == NetEvent::Clone { peer: copy.peer })
        .await;
    assert!(a.net.counters.clones.get() >= 1);
}

#[tokio::test]
async fn gossip_reaches_everybody_and_large_messages_nobody() {
    let mut a = Node::alone().await;
    let mut b = Node::with_seeds(&[&a]).await;
    let mut c = Node::with_seeds(&[&a, &b]).await;
    for (node, from) in [(&mut b, a.peer), (&mut c, a.peer)] {
        node.up(from).await;
    }
    for _ in 0..2 {
        a.wait("Subscribed", |e| {
            matches!(
                e,
                NetEvent::Subscribed {
                    topic: Topic::Advert,
                    ..
                }
            )
        })
        .await;
    }
    a.net
        .publish(Topic::Advert, Bytes::from(vec![1; GOSSIP_MAX + 1]));
    assert_eq!(a.net.counters.dropped(DropReason::GossipTooLarge), 1);
    a.net
        .publish(Topic::Advert, Bytes::from(vec![2; GOSSIP_MAX]));
    let expected = NetEvent::Gossip {
        source: a.peer,
        topic: Topic::Advert,
        bytes: Bytes::from(vec![2; GOSSIP_MAX]),
    };
    assert_eq!(
        b.wait("Gossip", |e| matches!(e, NetEvent::Gossip { .. }))
            .await,
        expected
    );
    assert_eq!(
        c.wait("Gossip", |e| matches!(e, NetEvent::Gossip { .. }))
            .await,
        expected
    );
}

#[tokio::test]
async fn the_index_names_who_provides_and_forgets_who_stops() {
    let (mut a, mut b) = pair().await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.learned(pb), b.learned(pa));
    a.net.provide(b"skill".to_vec()).await;
    eventually("a provider", || async {
        b.net.find_providers(b"skill".to_vec()).await == [a.peer]
    })
    .await;
    assert_eq!(
        b.net.find_providers(b"other".to_vec()).await,
        Vec::<Peer>::new()
    );
    a.net.stop_provide(b"skill".to_vec()).await;
    assert_eq!(
        a.net.find_providers(b"unheard".to_vec()).await,
        Vec::<Peer>::new()
    );
}

#[tokio::test]
async fn bulk_carries_large_answers_and_says_when_one_was_cut() {
    let (a, mut b) = pair().await;
    let mut requests = b.net.take_bulk_requests().unwrap();
    assert!(b.net.take_bulk_requests().is_none());
    let asker = a.peer;
    tokio::spawn(async move {
        while let Some(BulkRequest {
            peer,
            request,
            mut responder,
        }) = requests.recv().await
        {
            assert_eq!(peer, asker);
            let blob: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
            responder.write_all(&blob).await.unwrap();
            if request == "whole" {
                responder.shutdown().await.unwrap();
            } else {
                responder.flush().await.unwrap();
            }
        }
    });
    let mut answer = Vec::new();
    let mut whole = a
        .net
        .bulk_request(b.peer, Bytes::from_static(b"whole"))
        .await
        .unwrap();
    timeout(DEADLINE, whole.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.len(), 8 << 20);
    assert!(
        answer
            .iter()
            .enumerate()
            .all(|(n, b)| *b == (n % 251) as u8)
    );
    let mut cut = a
        .net
        .bulk_request(b.peer, Bytes::from_static(b"cut"))
        .await
        .unwrap();
    let error = timeout(DEADLINE, cut.read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let too_large = a
        .net
        .bulk_request(b.peer, Bytes::from(vec![0; REQUEST_MAX + 1]))
        .await
        .unwrap_err();
    assert!(matches!(too_large, BulkError::TooLarge(_)));
    assert!(matches!(
        a.net.bulk_request([9; 32], Bytes::new()).await,
        Err(BulkError::NotConnected)
    ));
}

#[tokio::test]
async fn a_peer_gets_sixteen_bulk_streams_and_no_more() {
    let (a, mut b) = pair().await;
    let mut requests = b.net.take_bulk_requests().unwrap();
    let mut answers = Vec::new();
    let mut held = Vec::new();
    for _ in 0..16 {
        answers.push(
            a.net
                .bulk_request(b.peer, Bytes::from_static(b"?"))
                .await
                .unwrap(),
        );
        held.push(timeout(DEADLINE, requests.recv()).await.unwrap().unwrap());
    }
    if let Ok(mut one_more) = a.net.bulk_request(b.peer, Bytes::from_static(b"?")).await {
        timeout(DEADLINE, one_more.read_to_end(&mut Vec::new()))
            .await
            .unwrap()
            .unwrap_err();
    }
    assert_eq!(b.net.counters.dropped(DropReason::Bulk), 1);
    held.pop();
    a.net
        .bulk_request(b.peer, Bytes::from_static(b"?"))
        .await
        .unwrap();
    timeout(DEADLINE, requests.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let a = Node::alone().await;
    for loopback in [true, false] {
        let config = NetConfig {
            port: a.port(),
            listen_loopback_only: loopback,
            ..config()
        };
        let error = Net::start(config, &mut Registry::default())
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error, NetError::PortTaken { port } if port == a.port()),
            "{error}"
        );
        assert!(error.to_string().contains("--mesh-port 0"));
    }
}

#[tokio::test]
async fn nobody_dials_itself() {
    let mut a = Node::alone().await;
    a.net.dial(a.addr()).await;
    let mut b = Node::with_seeds(&[&a, &a]).await;
    b.up(a.peer).await;
    a.up(b.peer).await;
    assert_eq!(a.connections().await, 1);
    assert_eq!(a.net.lanes(), [b.peer]);
}

#[tokio::test]
async fn a_known_peer_is_dialed_without_being_told() {
    let mut a = Node::alone().await;
    let mut b = Node::start(NetConfig {
        known: vec![(a.peer, vec![a.addr()])],
        ..config()
    })
    .await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.up(pb), b.up(pa));
}

#[tokio::test]
async fn a_seed_may_have_a_name() {
    let mut a = Node::alone().await;
    let seed = format!("/dns4/localhost/tcp/{}", a.port());
    let mut b = Node::start(NetConfig {
        seeds: vec![seed.parse().unwrap()],
        ..config()
    })
    .await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.up(pb), b.up(pa));
}

#[tokio::test]
async fn what_was_sent_before_a_stop_arrives() {
    let (a, mut b) = pair().await;
    for n in 0..2000u32 {
        a.net
            .send(&b.peer, Bytes::copy_from_slice(&n.to_be_bytes()))
            .unwrap();
    }
    let peer = a.peer;
    a.net.stop().await;
    for n in 0..2000u32 {
        assert_eq!(b.frame().await, n.to_be_bytes().as_slice());
    }
    b.wait("Closed", |e| *e == NetEvent::Closed { peer }).await;
}

#[cfg(unix)]
#[tokio::test]
async fn peers_on_the_tailnet_are_dialed_without_configuration() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let client = dir.path().join("tailscale");
    let status = r#"{"Self":{},"Peer":{"k":{"Online":true,"TailscaleIPs":["127.0.0.1"]}}}"#;
    std::fs::write(&client, format!("#!/bin/sh\necho '{status}'\n")).unwrap();
    std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut a = Node::alone().await;
    let tailnet = NetConfig {
        tailscale: Some(client),
        tailscale_port: a.port(),
        ..config()
    };
    let mut b = Node::start(tailnet).await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.up(pb), b.up(pa));
}

#[tokio::test]
async fn figures_are_registered() {
    let mut registry = Registry::default();
    let (net, _events) = Net::start(config(), &mut registry).await.unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for name in [
        "clawmesh_net_lanes",
        "clawmesh_net_dropped_total{reason=\"NoLane\"} 0",
        "libp2p_swarm",
        "gossipsub_mesh",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    net.stop().await;
}

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
