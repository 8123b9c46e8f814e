//! What this machine is and how busy it is, for placement and for people.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::time::Duration;
use std::time::{Instant, SystemTime};

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// At most this many addresses are told to others; container hosts have hundreds.
const ADDRESSES_MAX: usize = 32;

/// One look at this machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) host_name: String,
    /// `linux`, `darwin` or `win32`, the names OpenClaw uses; any other system by its Rust name.
    pub(crate) platform: &'static str,
    /// The processor's architecture by its Rust name, such as `x86_64` or `aarch64`.
    pub(crate) architecture: &'static str,
    /// Sorted, without loopback and link-local ones; at most 32.
    pub(crate) addresses: Vec<Address>,
    /// Processors this process may use, limits of its container included. At least 1.
    pub(crate) cpu_count: u32,
    /// Share of all processors in use since the last sample, 0 to 100. None in the first sample of a process.
    pub(crate) cpu_percent: Option<f32>,
    /// In bytes; the container's limit where there is one.
    pub(crate) memory_total: u64,
    pub(crate) memory_available: u64,
    /// The file system that holds the node's home, in bytes. 0 when the system does not tell.
    pub(crate) disk_total: u64,
    /// What the node's user may still write there, in bytes.
    pub(crate) disk_free: u64,
    /// Processes that want a processor, mean of one minute. None on Windows, which has no such figure.
    pub(crate) load_one: Option<f64>,
    /// When this was taken, for reckoning.
    pub(crate) taken: Instant,
    /// When this was taken, for people.
    pub(crate) taken_at: SystemTime,
}

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) kind: AddressKind,
    pub(crate) ip: IpAddr,
    /// The name of its interface, such as `eth0`.
    pub(crate) interface: String,
}

/// Where an address can be reached from, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AddressKind {
    /// A private network: RFC 1918, or unique local IPv6.
    Private,
    /// A tailnet.
    Tailscale,
    /// Anything else.
    Public,
}

impl AddressKind {
    /// The kind of an address that is neither loopback nor link-local; None for those two.
    pub(crate) fn of(ip: IpAddr) -> Option<AddressKind> {
        let is_link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let is_private = match ip {
            IpAddr::V4(v4) => v4.is_private(),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        match ip {
            _ if ip.is_loopback() || ip.is_unspecified() || is_link_local => None,
            _ if is_tailscale(ip) => Some(AddressKind::Tailscale),
            _ if is_private => Some(AddressKind::Private),
            _ => Some(AddressKind::Public),
        }
    }
}

/// Whether Tailscale gives out such addresses: 100.64.0.0/10 and fd7a:115c:a1e0::/48.
/// Some providers use the first range too (carrier-grade NAT), so this is a likelihood, not a proof.
pub(crate) fn is_tailscale(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => matches!(v6.segments(), [0xfd7a, 0x115c, 0xa1e0, ..]),
    }
}

/// `linux`, `darwin` or `win32`; any other system by its Rust name.
pub(crate) fn platform() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        other => other,
    }
}

/// Takes samples; keeps what makes them cheap (well under a millisecond on Linux) and what processor usage is reckoned from.
#[derive(Debug)]
pub(crate) struct Sampler {
    system: Option<System>,
    home: PathBuf,
    refresh: RefreshKind,
    last_cpu: Option<Instant>,
}

impl Sampler {
    /// `home` decides which file system's space is told. It need not exist yet.
    pub(crate) fn new(home: &Path) -> Sampler {
        let refresh =
            RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_usage()).with_memory(MemoryRefreshKind::nothing().with_ram());
        // Where the system tells nothing, the rest is still worth having.
        let system = System::new_with_specifics(refresh).ok();
        Sampler { last_cpu: system.as_ref().map(|_| Instant::now()), system, home: home.to_owned(), refresh }
    }

    /// Looks at the machine. Meant for every five seconds; more often than five times a second, processor usage says nothing.
    pub(crate) fn sample(&mut self) -> Facts {
        let mut cpu_percent = None;
        let (mut memory_total, mut memory_available) = (0, 0);
        if let Some(system) = &mut self.system {
            system.refresh_specifics(self.refresh);
            let since = self.last_cpu.replace(Instant::now()).map(|last| last.elapsed());
            let is_long_enough = since.is_some_and(|since| since >= sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
            cpu_percent = is_long_enough.then(|| system.global_cpu_usage().clamp(0.0, 100.0));
            (memory_total, memory_available) = memory(system);
        }
        let (disk_total, disk_free) = disk_space(&self.home);
        Facts {
            host_name: host_name(),
            platform: platform(),
            architecture: std::env::consts::ARCH,
            addresses: addresses(),
            cpu_count: std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok()).unwrap_or(1),
            cpu_percent,
            memory_total,
            memory_available,
            disk_total,
            disk_free,
            load_one: load_one(),
            taken: Instant::now(),
            taken_at: SystemTime::now(),
        }
    }
}

/// The machine's own figures, or the container's limits where those are narrower.
fn memory(system: &System) -> (u64, u64) {
    let (total, available) = (system.total_memory(), system.available_memory());
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < total => (limits.total_memory, limits.free_memory.min(available)),
        _ => (total, available),
    }
}

fn host_name() -> String {
    System::host_name().ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

fn load_one() -> Option<f64> {
    if cfg!(windows) { None } else { System::load_average().ok().map(|load| load.one) }
}

/// This machine's addresses now. Empty when the system does not tell.
pub(crate) fn addresses() -> Vec<Address> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<Address> = interfaces
        .into_iter()
        .filter_map(|interface| {
            let ip = interface.ip();
            Some(Address { kind: AddressKind::of(ip)?, ip, interface: interface.name })
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// Total and free bytes of the file system of `path`, or of the nearest folder above it that exists.
/// Asks for this one file system only: looking at all of them would hang on a dead network drive.
#[cfg(unix)]
fn disk_space(path: &Path) -> (u64, u64) {
    let found = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    found.map_or((0, 0), |disk| (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize)))
}

/// The disk with the longest mount point above `path`. Not tried on Windows.
#[cfg(not(unix))]
fn disk_space(path: &Path) -> (u64, u64) {
    let kind = sysinfo::DiskRefreshKind::nothing().with_storage();
    let Ok(disks) = sysinfo::Disks::new_with_refreshed_list_specifics(kind) else {
        return (0, 0);
    };
    let above = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    let nearest = above.max_by_key(|disk| disk.mount_point().as_os_str().len());
    nearest.map_or((0, 0), |disk| (disk.total_space(), disk.available_space()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_complete_and_cheap() {
        let mut sampler = Sampler::new(&std::env::temp_dir().join("not/there/yet"));
        let first = sampler.sample();
        assert!(!first.host_name.is_empty());
        assert!(first.cpu_count >= 1);
        assert!(first.memory_total > 0 && first.memory_available <= first.memory_total);
        assert!(first.disk_total > 0 && first.disk_free <= first.disk_total);
        assert!(first.addresses.iter().all(|address| !address.ip.is_loopback()));
        assert!(["linux", "darwin", "win32"].contains(&first.platform));
        // Right after the first one, usage cannot be known.
        assert_eq!(first.cpu_percent, None);
        let started = Instant::now();
        for _ in 0..20 {
            sampler.sample();
        }
        let each = started.elapsed() / 20;
        assert!(each < Duration::from_millis(100), "{each:?} for a sample");
    }

    #[test]
    fn tailnet_addresses_are_recognised() {
        let kind = |ip: &str| AddressKind::of(ip.parse().unwrap());
        for ip in ["100.64.0.0", "100.101.102.103", "100.127.255.255", "fd7a:115c:a1e0::1", "fd7a:115c:a1e0:ab12::53"] {
            assert_eq!(kind(ip), Some(AddressKind::Tailscale), "{ip}");
        }
        for ip in ["100.63.255.255", "100.128.0.0", "8.8.8.8", "2001:db8::1"] {
            assert_eq!(kind(ip), Some(AddressKind::Public), "{ip}");
        }
        for ip in ["10.1.2.3", "192.168.1.1", "172.16.0.1", "fd00::1", "fd7a:115c:a1e1::1"] {
            assert_eq!(kind(ip), Some(AddressKind::Private), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "169.254.3.4", "fe80::1", "0.0.0.0"] {
            assert_eq!(kind(ip), None, "{ip}");
        }
    }
}
