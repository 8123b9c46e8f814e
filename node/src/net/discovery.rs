//! Finding other nodes without being told: mDNS on the local network, and the peers of the local Tailscale client.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, mdns, multiaddr::Protocol, swarm::behaviour::toggle::Toggle};
use rand::RngExt;
use serde::Deserialize;
use tokio::{io::AsyncReadExt, process::Command, sync::mpsc, time::timeout};

use super::{book::Trust, metrics::Counters};

/// Addresses without peer ids, and how much they are believed.
pub(super) type Found = (Trust, Vec<Multiaddr>);

/// mDNS, or nothing where there is no multicast or the user does not want it.
pub(super) fn mdns(enabled: bool, local: PeerId) -> Toggle<mdns::tokio::Behaviour> {
    let config = mdns::Config {
        ttl: Duration::from_secs(60),
        // A node that starts may miss its own first query; asking again soon is what makes it visible (5 % of starts measured).
        query_interval: Duration::from_millis(rand::rng().random_range(1000..2000)),
        enable_ipv6: false,
    };
    let behaviour = enabled.then(|| mdns::tokio::Behaviour::new(config, local));
    match behaviour.transpose() {
        Ok(behaviour) => behaviour.into(),
        Err(e) => {
            tracing::warn!(error = %e, "mDNS does not work here; nodes are found by ticket and known addresses only");
            None.into()
        }
    }
}

/// Whether this address begins with a name that must be looked up first.
pub(super) fn is_named(addr: &Multiaddr) -> bool {
    name_and_port(addr).is_some()
}

/// Looks up the name in a seed's address (`/dns4/host/tcp/8889`), again and again, as the answer may change, and sends the addresses
/// on `found`. Ends when nobody listens any more.
pub(super) async fn resolve(seed: Multiaddr, found: mpsc::Sender<Found>) {
    let Some((name, port)) = name_and_port(&seed) else {
        return;
    };
    loop {
        match timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name.as_str(), port))).await {
            Ok(Ok(answers)) => {
                let addrs = answers.take(LOOKUP_MAX).map(|a| multiaddr(a.ip(), port)).collect();
                if found.send((Trust::Seed, addrs)).await.is_err() {
                    return;
                }
            }
            Ok(Err(e)) => tracing::debug!(name, error = %e, "the name of a seed was not found"),
            Err(_) => tracing::debug!(name, "no answer about the name of a seed"),
        }
        let pause = rand::rng().random_range(LOOKUP_PERIOD.mul_f32(0.8)..LOOKUP_PERIOD.mul_f32(1.2));
        tokio::time::sleep(pause).await;
    }
}

fn name_and_port(addr: &Multiaddr) -> Option<(String, u16)> {
    let mut parts = addr.iter();
    match (parts.next()?, parts.next()?) {
        (Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name), Protocol::Tcp(port)) => Some((name.into_owned(), port)),
        _ => None,
    }
}

/// Asks the Tailscale client for the peers that are online, again and again, and sends their addresses on `found`.
/// Ends when the program does not exist or nobody listens any more.
pub(super) async fn tailscale(command: PathBuf, ports: Vec<u16>, found: mpsc::Sender<Found>, counters: Counters) {
    loop {
        match ask_tailscale(&command).await {
            Ok(ips) => {
                let addrs = ips.iter().flat_map(|ip| ports.iter().map(|port| multiaddr(*ip, *port))).collect();
                if found.send((Trust::Guess, addrs)).await.is_err() {
                    return;
                }
            }
            Err(TailscaleError::Missing) => {
                tracing::debug!(command = %command.display(), "no Tailscale client here");
                return;
            }
            Err(TailscaleError::Failed(e)) => {
                counters.tailscale_bad.inc();
                tracing::debug!(command = %command.display(), error = e, "the Tailscale client gave no usable answer");
            }
        }
        let pause = rand::rng().random_range(TAILSCALE_PERIOD.mul_f32(0.8)..TAILSCALE_PERIOD.mul_f32(1.2));
        tokio::time::sleep(pause).await;
    }
}

#[derive(Debug)]
enum TailscaleError {
    Missing,
    Failed(String),
}

async fn ask_tailscale(command: &Path) -> Result<Vec<IpAddr>, TailscaleError> {
    let mut child = Command::new(command)
        .args(["status", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => TailscaleError::Missing,
            _ => TailscaleError::Failed(e.to_string()),
        })?;
    let stdout = child.stdout.take().ok_or_else(|| TailscaleError::Failed("no output".into()))?;
    let mut text = Vec::new();
    let reading = async {
        stdout.take(STATUS_BYTES_MAX + 1).read_to_end(&mut text).await?;
        child.wait().await
    };
    match timeout(TAILSCALE_TIMEOUT, reading).await {
        Ok(Ok(status)) if status.success() => online(&text).map_err(TailscaleError::Failed),
        Ok(Ok(status)) => Err(TailscaleError::Failed(status.to_string())),
        Ok(Err(e)) => Err(TailscaleError::Failed(e.to_string())),
        Err(_) => Err(TailscaleError::Failed("no answer in time".into())),
    }
}

fn online(text: &[u8]) -> Result<Vec<IpAddr>, String> {
    if text.len() as u64 > STATUS_BYTES_MAX {
        return Err(format!("more than {STATUS_BYTES_MAX} bytes"));
    }
    let status: Status = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let peers = status.peers.unwrap_or_default();
    let ips = peers.into_values().filter(|p| p.online).flat_map(|p| p.ips.unwrap_or_default());
    Ok(ips.take(TAILSCALE_IPS_MAX).collect())
}

fn multiaddr(ip: IpAddr, port: u16) -> Multiaddr {
    Multiaddr::from(ip).with(Protocol::Tcp(port))
}

#[derive(Deserialize)]
struct Status {
    /// `null` on a tailnet of one.
    #[serde(rename = "Peer")]
    peers: Option<std::collections::BTreeMap<String, TailscalePeer>>,
}

#[derive(Deserialize)]
struct TailscalePeer {
    #[serde(rename = "Online", default)]
    online: bool,
    #[serde(rename = "TailscaleIPs")]
    ips: Option<Vec<IpAddr>>,
}

/// A container that was restarted has another address; nobody waits longer for it than this.
const LOOKUP_PERIOD: Duration = Duration::from_secs(15);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
const LOOKUP_MAX: usize = 64;
const TAILSCALE_PERIOD: Duration = Duration::from_secs(30);
const TAILSCALE_TIMEOUT: Duration = Duration::from_secs(5);
/// About a kilobyte per peer was seen; enough for a tailnet of thousands.
const STATUS_BYTES_MAX: u64 = 4 * 1024 * 1024;
const TAILSCALE_IPS_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_peers_that_are_online_are_named() {
        let text = br#"{"Self":{"TailscaleIPs":["100.64.0.1"]},"Peer":{
            "a":{"Online":true,"TailscaleIPs":["100.64.0.2","fd7a::2"],"Extra":1},
            "b":{"Online":false,"TailscaleIPs":["100.64.0.3"]},
            "c":{"Online":true,"TailscaleIPs":null}}}"#;
        let expected: Vec<IpAddr> = vec!["100.64.0.2".parse().unwrap(), "fd7a::2".parse().unwrap()];
        assert_eq!(online(text).unwrap(), expected);
        assert_eq!(online(br#"{"Peer":null}"#).unwrap(), Vec::<IpAddr>::new());
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(online(b"logged out").is_err());
        assert!(online(&vec![b' '; STATUS_BYTES_MAX as usize + 1]).is_err());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_stand_in_command_is_asked_and_a_missing_one_is_no_trouble() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tailscale");
        let script =
            "#!/bin/sh\n[ \"$*\" = 'status --json' ] && echo '{\"Peer\":{\"x\":{\"Online\":true,\"TailscaleIPs\":[\"100.64.0.9\"]}}}'\n";
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(ask_tailscale(&path).await.unwrap(), ["100.64.0.9".parse::<IpAddr>().unwrap()]);
        let missing = ask_tailscale(&dir.path().join("none")).await;
        assert!(matches!(missing, Err(TailscaleError::Missing)));
    }
}
