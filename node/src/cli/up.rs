//! `clawmesh up`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    agent::{AgentArgs, AgentFlags},
    spec::duration,
};
use crate::output::Failure;

/// Longest name of a node or a mesh, characters.
const NAME_MAX: usize = 64;

/// The flags as typed.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Port of the API on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 8888, value_name = "N")]
    api_port: u16,
    /// Port of the mesh on all addresses; 0 takes any free one.
    #[arg(long, default_value_t = 8889, value_name = "N")]
    mesh_port: u16,
    /// Join the mesh of this ticket ('clawmesh invite' on a member prints it).
    #[arg(long, value_name = "TICKET", conflicts_with = "new_mesh")]
    join: Option<String>,
    /// Name of a mesh to create; without it, a new mesh gets a name by itself.
    #[arg(long, value_name = "NAME", value_parser = name)]
    new_mesh: Option<String>,
    /// The node's name [default: the host name].
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Tasks run at once [default: the number of cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    slots: Option<u32>,
    /// Rank among the candidates for coordinator; the highest coordinates.
    #[arg(long, value_name = "N")]
    priority: Option<u32>,
    /// Silence after which a node counts as lost and its tasks run elsewhere.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = lost_after)]
    lost_after: Duration,
    /// Run no commands for others: skills only.
    #[arg(long)]
    no_commands: bool,
    #[command(flatten)]
    agent: AgentFlags,
    /// Do not look for nodes on the local network.
    #[arg(long)]
    no_mdns: bool,
    /// A label that tasks can ask for; may be given several times.
    #[arg(long = "label", value_name = "LABEL", value_parser = label)]
    labels: Vec<String>,
    /// A directory of skills, on top of the usual ones; may be given several times.
    #[arg(long, value_name = "DIR")]
    skills: Vec<PathBuf>,
    /// Longest shared blob that this node takes.
    #[arg(long, default_value = "64GiB", value_name = "SIZE", value_parser = size)]
    blob_max: u64,
    /// All shared blobs together that nobody has pinned here; the longest unused go first.
    #[arg(long, default_value = "16GiB", value_name = "SIZE", value_parser = size)]
    blob_cache: u64,
    /// How fast shared blobs leave this node, all together, bytes per second; 0 = as fast as they can.
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = rate)]
    blob_rate: u64,
    /// Do not look for skills in OpenClaw's folders, nor into its configuration.
    #[arg(long)]
    no_openclaw_skills: bool,
    /// Share notes with the other nodes that do: everybody's are kept in DIR/memory/mesh [without DIR: in the node's home]. The node
    /// remembers it.
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "no_memory")]
    memory: Option<Option<PathBuf>>,
    /// Share no notes any more; what is there stays.
    #[arg(long)]
    no_memory: bool,
    /// Address of a node (host:port or a multiaddr) to connect to; may be given several times.
    #[arg(long = "peer", value_name = "ADDRESS")]
    peers: Vec<String>,
    /// The Tailscale client.
    #[arg(long, hide = true, value_name = "PATH")]
    tailscale_command: Option<PathBuf>,
    /// Listen for the mesh on 127.0.0.1 only.
    #[arg(long, hide = true)]
    loopback_only: bool,
}

/// What the daemon starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpArgs {
    /// The home directory, absolute; perhaps not there yet.
    pub(crate) home: PathBuf,
    /// Port of the API; 0 = any.
    pub(crate) api_port: u16,
    /// Port of the mesh; 0 = any.
    pub(crate) mesh_port: u16,
    /// A ticket to join with, as typed.
    pub(crate) join: Option<String>,
    /// Name of a mesh to create; never together with `join`.
    pub(crate) new_mesh: Option<String>,
    /// The node's name, 1 to 64 characters without control characters; none = the host's.
    pub(crate) name: Option<String>,
    /// Tasks at once, 0 to 10,000; none = the number of cores.
    pub(crate) slots: Option<u32>,
    /// Rank among candidates; none = what the home remembers, or the default.
    pub(crate) priority: Option<u32>,
    /// Silence after which a worker is lost, 1 s to 1 day.
    pub(crate) lost_after: Duration,
    /// Run commands for members.
    pub(crate) commands: bool,
    /// Agents for members.
    pub(crate) agent: AgentArgs,
    /// Find nodes by mDNS.
    pub(crate) mdns: bool,
    /// Labels, each 1 to 64 characters.
    pub(crate) labels: Vec<String>,
    /// Directories of skills on top of the usual ones.
    pub(crate) skills: Vec<PathBuf>,
    /// Longest shared blob, bytes.
    pub(crate) blob_max: u64,
    /// All shared blobs that nobody has pinned, bytes.
    pub(crate) blob_cache: u64,
    /// Bytes per second of all shared blobs that leave; 0 = no limit, else at least 64 KiB.
    pub(crate) blob_rate: u64,
    /// Take the skills of an OpenClaw on this machine, too.
    pub(crate) openclaw_skills: bool,
    /// Whether notes are shared.
    pub(crate) memory: MemoryFlag,
    /// Addresses to dial, as typed.
    pub(crate) peers: Vec<String>,
    /// Program to ask for the tailnet's peers; none = `tailscale` where it is installed.
    pub(crate) tailscale_command: Option<PathBuf>,
    /// Listen for the mesh on 127.0.0.1 only.
    pub(crate) loopback_only: bool,
}

/// What `up` is told about the notes of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemoryFlag {
    /// As it was last time.
    AsBefore,
    /// Share them, below this folder.
    On(PathBuf),
    /// Do not share them.
    Off,
}

impl Flags {
    pub(super) fn into_args(self, home: PathBuf) -> Result<UpArgs, Failure> {
        if let Some(dir) = self.skills.iter().find(|d| !d.is_dir()) {
            return Err(Failure::usage(format!("{} is not a directory, so it holds no skills", dir.display())));
        }
        // A skill runs in a folder of its own: a relative path would point elsewhere there.
        let absolute = |d: PathBuf| std::path::absolute(&d).map_err(|e| Failure::usage(format!("cannot use {}: {e}", d.display())));
        let skills = self.skills.into_iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
        let memory = match self.memory {
            Some(Some(dir)) if !dir.is_dir() => {
                return Err(Failure::usage(format!("{} is not a directory, so no notes can be kept in it", dir.display())));
            }
            Some(Some(dir)) => MemoryFlag::On(absolute(dir)?),
            Some(None) => MemoryFlag::On(home.clone()),
            None if self.no_memory => MemoryFlag::Off,
            None => MemoryFlag::AsBefore,
        };
        Ok(UpArgs {
            home,
            api_port: self.api_port,
            mesh_port: self.mesh_port,
            join: self.join.map(|t| t.trim().to_owned()),
            new_mesh: self.new_mesh,
            name: self.name,
            slots: self.slots,
            priority: self.priority,
            lost_after: self.lost_after,
            commands: !self.no_commands,
            agent: self.agent.into_args(!self.no_commands, self.slots)?,
            mdns: !self.no_mdns,
            labels: self.labels,
            skills,
            blob_max: self.blob_max,
            blob_cache: self.blob_cache,
            blob_rate: self.blob_rate,
            openclaw_skills: !self.no_openclaw_skills,
            memory,
            peers: self.peers,
            tailscale_command: self.tailscale_command,
            loopback_only: self.loopback_only,
        })
    }
}

fn name(typed: &str) -> Result<String, String> {
    let n = typed.chars().count();
    if n == 0 || n > NAME_MAX || typed.chars().any(char::is_control) || typed.trim() != typed {
        return Err(format!("a name has 1 to {NAME_MAX} characters, no control characters, and no space at its ends"));
    }
    Ok(typed.to_owned())
}

fn size(typed: &str) -> Result<u64, String> {
    typed.parse::<bytesize::ByteSize>().map(|s| s.as_u64()).map_err(|_| "write it as 500MiB or 64GiB".to_owned())
}

fn rate(typed: &str) -> Result<u64, String> {
    match size(typed)? {
        n @ 1..65_536 => {
            Err(format!("{n} bytes per second are too few to show that this node is alive: give at least 64KiB, or 0 for no limit"))
        }
        n => Ok(n),
    }
}

fn label(typed: &str) -> Result<String, String> {
    let n = typed.chars().count();
    if n == 0 || n > NAME_MAX || typed.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("a label has 1 to {NAME_MAX} characters and no spaces"));
    }
    Ok(typed.to_owned())
}

fn lost_after(typed: &str) -> Result<Duration, String> {
    let d = duration(typed)?;
    if d < Duration::from_secs(1) || d > Duration::from_secs(86_400) {
        return Err("it must be 1s to 1day: below, a short pause of a machine would run its tasks twice".into());
    }
    Ok(d)
}
