//! Machines made of network namespaces, joined by a bridge in a namespace of its own.  Needs root and Linux.

use std::{
    fs::File,
    process::Command,
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
