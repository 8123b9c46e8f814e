//! Machines made of network namespaces, joined by a bridge in a namespace of its own.  Needs root and Linux.

use std::{
    fmt::Write as _,
    fs::File,
    io::Write as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Several machines on one switch.  Dropped, the namespaces are removed.
#[derive(Debug)]
pub struct Lan {
    bridge: String,
    machines: Vec<String>,
}

impl Lan {
    /// A switch with so many machines, of the addresses 10.77.0.1, 10.77.0.2, …; without `multicast` the switch drops
    /// what is sent to groups, as tailnets and many wireless networks do.
    ///
    /// # Panics
    /// When namespaces cannot be made.
    pub fn new(machines: u8, multicast: bool) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("cm{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut lan = Self { bridge: format!("{prefix}-br"), machines: Vec::new() };
        let bridge = lan.bridge.clone();
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "set", "lo", "up"]);
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        for i in 1..=machines {
            let name = format!("{prefix}-{i}");
            ip(&["netns", "add", &name]);
            lan.machines.push(name.clone());
            let port = format!("p{i}");
            ip(&["-n", &name, "link", "set", "lo", "up"]);
            ip(&["link", "add", "eth0", "netns", &name, "type", "veth", "peer", "name", &port, "netns", &bridge]);
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"]);
            if !multicast {
                ip(&["-n", &bridge, "link", "set", &port, "type", "bridge_slave", "mcast_flood", "off"]);
            }
            ip(&["-n", &name, "addr", "add", &format!("10.77.0.{i}/24"), "dev", "eth0"]);
            ip(&["-n", &name, "link", "set", "eth0", "up"]);
            ip(&["-n", &name, "route", "add", "224.0.0.0/4", "dev", "eth0"]);
        }
        lan
    }
    /// The machines' namespaces.
    pub fn machines(&self) -> &[String] {
        &self.machines
    }
    /// Pulls the plug of one machine, counted from 0, out of the switch: packets vanish in silence, no connection is
    /// closed and the machine's own link stays up.
    pub fn unplug(&self, machine: usize) {
        ip(&["-n", &self.bridge, "link", "set", &format!("p{}", machine + 1), "nomaster"]);
    }
    /// From now on the switch drops what goes from the first to the second machine of each pair, counted from 0, and nothing
    /// else; an earlier cut ends.  Both sides' connections stay open, as on a real network.
    ///
    /// # Panics
    /// When the switch does not take the rules.
    pub fn cut(&self, pairs: impl IntoIterator<Item = (usize, usize)>) {
        // One transaction: no packet sees half of the rules.  The first line makes the table, so that it can be deleted.
        let mut rules = "table bridge faults\ndelete table bridge faults\ntable bridge faults {\n chain forward {\n".to_owned();
        rules.push_str("  type filter hook forward priority 0; policy accept;\n");
        for (from, to) in pairs {
            writeln!(rules, "  iifname \"p{}\" oifname \"p{}\" drop", from + 1, to + 1).expect("a text can be written to");
        }
        rules.push_str(" }\n}\n");
        nft(&self.bridge, &rules);
    }
    /// Ends the cut.
    pub fn heal(&self) {
        self.cut([]);
    }
    /// Sends what `machine` sends to a port of another address to a different address and port instead: lines of
    /// (address, port, other address, other port).  For proxies between the nodes.
    ///
    /// # Panics
    /// When the machine does not take the rules.
    pub fn redirect(&self, machine: usize, routes: &[(String, u16, String, u16)]) {
        let mut rules = "table ip detour\ndelete table ip detour\ntable ip detour {\n chain output {\n".to_owned();
        rules.push_str("  type nat hook output priority -100; policy accept;\n");
        for (to, port, instead, other) in routes {
            writeln!(rules, "  ip daddr {to} tcp dport {port} dnat to {instead}:{other}").expect("a text can be written to");
        }
        rules.push_str(" }\n}\n");
        nft(&self.machines[machine], &rules);
    }
    /// The address of a machine, counted from 0.
    pub fn address(machine: usize) -> String {
        format!("10.77.0.{}", machine + 1)
    }
    /// Puts it back.
    pub fn plug(&self, machine: usize) {
        ip(&["-n", &self.bridge, "link", "set", &format!("p{}", machine + 1), "master", "br0"]);
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.machines.iter().chain([&self.bridge]) {
            // What was never made cannot be removed; the rest must go all the same.
            drop(Command::new("ip").args(["netns", "del", name]).output());
        }
    }
}

/// Runs something in a network namespace, on a thread of its own.
///
/// # Panics
/// When the namespace is not there.
pub fn enter<T: Send>(name: &str, what: impl FnOnce() -> T + Send) -> T {
    thread::scope(|s| {
        let inside = s.spawn(|| {
            let namespace = File::open(format!("/run/netns/{name}")).expect("the namespace is there");
            use std::os::fd::AsFd;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("a thread can enter a namespace");
            what()
        });
        inside.join().expect("the thread inside the namespace ends in order")
    })
}

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().expect("the program 'ip' can be started");
    assert!(done.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr));
}

/// Gives a namespace rules for its packets, all or none.
fn nft(namespace: &str, rules: &str) {
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", namespace, "nft", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().expect("the program 'ip' can be started");
    child.stdin.take().expect("stdin is a pipe").write_all(rules.as_bytes()).expect("nft reads its rules");
    let done = child.wait_with_output().expect("nft ends");
    assert!(done.status.success(), "nft: {}\n{rules}", String::from_utf8_lossy(&done.stderr));
}
