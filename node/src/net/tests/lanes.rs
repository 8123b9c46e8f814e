//! Connections and lanes: coming up, staying one, carrying frames, and going down.

use tokio::net::TcpStream;

use super::{super::metrics::Direction, *};

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
    eventually("all lanes", || async { [&a, &b, &c].iter().all(|n| n.net.lanes().len() == 2) }).await;
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
        eventually("one connection", || async { a.connections().await == 1 && b.connections().await == 1 }).await;
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
        eventually("one connection for good", || async { a.connections().await == 1 && b.connections().await == 1 }).await;
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
            a.net.send(&b.peer, Bytes::copy_from_slice(&n.to_be_bytes())).unwrap();
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
    timeout(DEADLINE * 2, async { tokio::join!(sending, receiving) }).await.unwrap();
}

#[tokio::test]
async fn the_largest_frame_passes_and_a_larger_or_empty_one_is_refused_at_home() {
    let (a, mut b) = pair().await;
    assert_eq!(a.net.send(&b.peer, Bytes::from(vec![0; FRAME_MAX + 1])), Err(DropReason::TooLarge));
    assert_eq!(a.net.send(&b.peer, Bytes::new()), Err(DropReason::TooLarge));
    assert_eq!(a.net.send(&[9; 32], Bytes::from_static(b"x")), Err(DropReason::NoLane));
    assert_eq!(a.net.counters.dropped(DropReason::TooLarge), 2);
    a.net.send(&b.peer, Bytes::from(vec![7; FRAME_MAX])).unwrap();
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
    b.wait("Closed", |e| *e == NetEvent::Closed { peer: a.peer }).await;
    assert_eq!(b.net.counters.refused(RefuseReason::BadFrame), 1);
    assert!(b.net.lanes().contains(&c.peer));
    // It is a member still, and may come back.
    b.wait("Reset or Up", |e| matches!(e, NetEvent::Reset { .. } | NetEvent::Up { .. })).await;
    a.wait("Closed", |e| *e == NetEvent::Closed { peer: b.peer }).await;
}

#[tokio::test]
async fn an_overflowing_queue_closes_the_lane_instead_of_leaving_a_gap() {
    let (mut a, b) = pair().await;
    a.net.mute(true);
    // The queue, and what the writer may hold already.
    let sent = (0..10_000).take_while(|_| a.net.send(&b.peer, Bytes::from_static(&[1; 100])).is_ok()).count();
    assert!((4096..5000).contains(&sent), "{sent}");
    assert_eq!(a.net.counters.dropped(DropReason::QueueFull), 1);
    a.net.mute(false);
    a.wait("Closed", |e| *e == NetEvent::Closed { peer: b.peer }).await;
    assert_eq!(a.net.counters.refused(RefuseReason::Overflow), 1);
}

#[tokio::test]
async fn another_key_or_another_name_never_gets_in() {
    let a = Node::alone().await;
    let other_key = Node::start(NetConfig { key: [2; 32], seeds: vec![a.addr()], ..config() }).await;
    let other_name = Node::start(NetConfig { mesh_name: "other".into(), seeds: vec![a.addr()], ..config() }).await;
    eventually("failed handshakes", || async {
        [&other_key, &other_name].iter().all(|n| n.net.counters.handshakes_failed(Direction::Outbound) >= 2)
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
            1 => socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap(),
            2 => socket.write_all(&[n; 4096]).await.unwrap(),
            _ => drop(socket),
        }
    }
    a.net.send(&b.peer, Bytes::from_static(b"during")).unwrap();
    assert_eq!(b.frame().await, "during");
    eventually("20 failed handshakes", || async { a.net.counters.handshakes_failed(Direction::Inbound) == 20 }).await;
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
    let again = NetConfig { port, boot: 2, ..a.config.clone() };
    a.net.send(&b.peer, Bytes::from_static(b"bye")).unwrap();
    let start = Instant::now();
    a.net.stop().await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(b.frame().await, "bye");
    b.wait("Closed", |e| *e == NetEvent::Closed { peer }).await;
    b.wait("Down", |e| *e == NetEvent::Down { peer, refused: true }).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
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
    assert!((700..2000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
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
    let copy = Node::start(NetConfig { boot: 2, port: 0, ..original.config.clone() }).await;
    a.wait("Clone", |e| *e == NetEvent::Clone { peer: copy.peer }).await;
    assert!(a.net.counters.clones.get() >= 1);
}
