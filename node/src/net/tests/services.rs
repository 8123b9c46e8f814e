//! What runs beside the lanes: gossip, index, bulk, discovery, figures.

use super::*;

#[tokio::test]
async fn gossip_reaches_everybody_and_large_messages_nobody() {
    let mut a = Node::alone().await;
    let mut b = Node::with_seeds(&[&a]).await;
    let mut c = Node::with_seeds(&[&a, &b]).await;
    for (node, from) in [(&mut b, a.peer), (&mut c, a.peer)] {
        node.up(from).await;
    }
    for _ in 0..2 {
        a.wait("Subscribed", |e| matches!(e, NetEvent::Subscribed { topic: Topic::Advert, .. })).await;
    }
    a.net.publish(Topic::Advert, Bytes::from(vec![1; GOSSIP_MAX + 1]));
    assert_eq!(a.net.counters.dropped(DropReason::GossipTooLarge), 1);
    a.net.publish(Topic::Advert, Bytes::from(vec![2; GOSSIP_MAX]));
    let expected = NetEvent::Gossip { source: a.peer, topic: Topic::Advert, bytes: Bytes::from(vec![2; GOSSIP_MAX]) };
    assert_eq!(b.wait("Gossip", |e| matches!(e, NetEvent::Gossip { .. })).await, expected);
    assert_eq!(c.wait("Gossip", |e| matches!(e, NetEvent::Gossip { .. })).await, expected);
}

#[tokio::test]
async fn the_index_names_who_provides_and_forgets_who_stops() {
    let (mut a, mut b) = pair().await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.learned(pb), b.learned(pa));
    a.net.provide(b"skill".to_vec()).await;
    eventually("a provider", || async { b.net.find_providers(b"skill".to_vec()).await == [a.peer] }).await;
    assert_eq!(b.net.find_providers(b"other".to_vec()).await, Vec::<Peer>::new());
    a.net.stop_provide(b"skill".to_vec()).await;
    assert_eq!(a.net.find_providers(b"unheard".to_vec()).await, Vec::<Peer>::new());
}

#[tokio::test]
async fn bulk_carries_large_answers_and_says_when_one_was_cut() {
    let (a, mut b) = pair().await;
    let mut requests = b.net.take_bulk_requests().unwrap();
    assert!(b.net.take_bulk_requests().is_none());
    let asker = a.peer;
    tokio::spawn(async move {
        while let Some(BulkRequest { peer, request, mut responder }) = requests.recv().await {
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
    let mut whole = a.net.bulk_request(b.peer, Bytes::from_static(b"whole")).await.unwrap();
    timeout(DEADLINE, whole.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.len(), 8 << 20);
    assert!(answer.iter().enumerate().all(|(n, b)| *b == (n % 251) as u8));
    let mut cut = a.net.bulk_request(b.peer, Bytes::from_static(b"cut")).await.unwrap();
    let error = timeout(DEADLINE, cut.read_to_end(&mut Vec::new())).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let too_large = a.net.bulk_request(b.peer, Bytes::from(vec![0; REQUEST_MAX + 1])).await.unwrap_err();
    assert!(matches!(too_large, BulkError::TooLarge(_)));
    assert!(matches!(a.net.bulk_request([9; 32], Bytes::new()).await, Err(BulkError::NotConnected)));
}

#[tokio::test]
async fn a_peer_gets_sixteen_bulk_streams_and_no_more() {
    let (a, mut b) = pair().await;
    let mut requests = b.net.take_bulk_requests().unwrap();
    let mut answers = Vec::new();
    let mut held = Vec::new();
    for _ in 0..16 {
        answers.push(a.net.bulk_request(b.peer, Bytes::from_static(b"?")).await.unwrap());
        held.push(timeout(DEADLINE, requests.recv()).await.unwrap().unwrap());
    }
    if let Ok(mut one_more) = a.net.bulk_request(b.peer, Bytes::from_static(b"?")).await {
        timeout(DEADLINE, one_more.read_to_end(&mut Vec::new())).await.unwrap().unwrap_err();
    }
    assert_eq!(b.net.counters.dropped(DropReason::Bulk), 1);
    held.pop();
    a.net.bulk_request(b.peer, Bytes::from_static(b"?")).await.unwrap();
    timeout(DEADLINE, requests.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let a = Node::alone().await;
    for loopback in [true, false] {
        let config = NetConfig { port: a.port(), listen_loopback_only: loopback, ..config() };
        let error = Net::start(config, &mut Registry::default()).await.err().unwrap();
        assert!(matches!(error, NetError::PortTaken { port } if port == a.port()), "{error}");
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
    let mut b = Node::start(NetConfig { known: vec![(a.peer, vec![a.addr()])], ..config() }).await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.up(pb), b.up(pa));
}

#[tokio::test]
async fn a_seed_may_have_a_name() {
    let mut a = Node::alone().await;
    let seed = format!("/dns4/localhost/tcp/{}", a.port());
    let mut b = Node::start(NetConfig { seeds: vec![seed.parse().unwrap()], ..config() }).await;
    let (pa, pb) = (a.peer, b.peer);
    tokio::join!(a.up(pb), b.up(pa));
}

#[tokio::test]
async fn what_was_sent_before_a_stop_arrives() {
    let (a, mut b) = pair().await;
    for n in 0..2000u32 {
        a.net.send(&b.peer, Bytes::copy_from_slice(&n.to_be_bytes())).unwrap();
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
    let tailnet = NetConfig { tailscale: Some(client), tailscale_port: a.port(), ..config() };
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
    for name in ["clawmesh_net_lanes", "clawmesh_net_dropped_total{reason=\"NoLane\"} 0", "libp2p_swarm", "gossipsub_mesh"] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    net.stop().await;
}
