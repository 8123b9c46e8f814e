//! The node: starts everything in order, runs until it is told to stop, stops everything in order.
//! A step that fails takes back the steps before it.

mod agent;
mod backend;
mod bulk;
mod clock;
mod driver;
mod figures;
mod home;
mod notes;
mod run;
mod seal;
mod sharing;
mod transfer;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clawmesh_protocol::{
    codec,
    config::{Config, D, K, PROTO, Timing, Tune},
    face::Command,
    ids::{Hash, Peer, Ver},
    io::{Input, Recovered},
    mesh::{Mesh, Side},
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::{
    agent::Agents,
    driver::{CALLS_MAX, Driver, End, Hands, INPUTS_MAX, Sources},
    figures::{BlobFigures, Figures, NoteFigures},
    home::KnownPeer,
    notes::Notes,
    seal::Seal,
};
pub(crate) use self::{driver::Call, transfer::Progress};
use crate::{
    api::{self, ApiMetrics, NodeInfo},
    cli::{MemoryFlag, UpArgs},
    depot::{Depot, Limits},
    exec::{self, Executor},
    facts::Sampler,
    memory::{Notebook, Pen},
    net::{Identity, Net, NetConfig, Ticket},
    output::{Failure, Mode, Output},
    share::Offers,
    skills::{Library, Root, SkillSources, Surroundings},
    store::{Completion, HomeLock, LockError, Options, Store, StoreMetrics},
};

/// The mesh port that nodes on a tailnet are expected at.
const MESH_PORT: u16 = 8889;
/// How long the node may take to hand over and say goodbye.
const LEAVE_MAX: Duration = Duration::from_millis(1_200);
/// How often the machine is looked at.
const FACTS_EVERY: Duration = Duration::from_secs(5);
/// How often the skill folders and the disk's free space are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Addresses in a ticket.
const TICKET_ADDRS: usize = 4;

/// Runs a node until it is stopped.
///
/// # Errors
/// What could not be started, and what to type next; nothing is left running then.
pub(crate) fn up(args: UpArgs, output: Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("clawmesh")
        .enable_all()
        .build()
        .map_err(|e| Failure::refused(format!("cannot start the program's threads: {e}")))?;
    let done = runtime.block_on(node(args, output));
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

/// The ticket of the mesh that this home belongs to, without a running node.
///
/// # Errors
/// The home belongs to no mesh, or its file can't be read.
pub(crate) fn ticket(home: &Path) -> Result<String, Failure> {
    match home::mesh(home).map_err(|e| Failure::refused(e.to_string()))? {
        Some(t) => Ok(t.to_string()),
        None => Err(Failure::refused(format!("the home {} belongs to no mesh yet", home.display())).next("clawmesh up")),
    }
}

/// The ticket with the addresses this node has now.
fn ticket_now(home: &Path, net: &Net, me: Peer) -> Option<String> {
    let mut t = home::mesh(home).ok()??;
    let id = crate::net::peer_id(&me.0)?;
    let mut addrs = reachable(net);
    addrs.truncate(TICKET_ADDRS);
    // 127.0.0.1 serves several nodes on one machine.
    addrs.extend(net.addresses().into_iter().filter(|a| is_loopback(a) && is_v4(a)));
    addrs.dedup();
    t.addrs = addrs.into_iter().filter_map(|a| a.with_p2p(id).ok()).collect();
    Some(t.to_string())
}

/// Where other machines may reach this node; on a machine without a network, its loopback.
fn reachable(net: &Net) -> Vec<Multiaddr> {
    let all = net.addresses();
    let out: Vec<Multiaddr> = all.iter().filter(|a| !is_loopback(a) && !is_link_local(a)).cloned().collect();
    if out.is_empty() { all.into_iter().filter(is_v4).collect() } else { out }
}

fn first_part(a: &Multiaddr) -> Option<Protocol<'_>> {
    a.iter().next()
}

fn is_v4(a: &Multiaddr) -> bool {
    matches!(first_part(a), Some(Protocol::Ip4(_)))
}

fn is_loopback(a: &Multiaddr) -> bool {
    match first_part(a) {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

fn is_link_local(a: &Multiaddr) -> bool {
    match first_part(a) {
        Some(Protocol::Ip4(ip)) => ip.is_link_local(),
        Some(Protocol::Ip6(ip)) => ip.is_unicast_link_local(),
        _ => false,
    }
}

/// Which mesh this home belongs to: the one it knows, the ticket's, or a new one.
fn choose_mesh(args: &UpArgs) -> Result<(Ticket, bool), Failure> {
    let refused = |e: home::HomeError| Failure::refused(e.to_string());
    let known = home::mesh(&args.home).map_err(refused)?;
    let joining = match &args.join {
        None => None,
        Some(text) => Some(text.parse::<Ticket>().map_err(|e| Failure::refused(e.to_string()).next("clawmesh invite"))?),
    };
    match (known, joining) {
        (Some(k), Some(j)) if k.mesh_id() != j.mesh_id() => Err(Failure::refused(format!(
            "the home {} belongs to the mesh '{}', the ticket is for another mesh, '{}': a home belongs to one mesh",
            args.home.display(),
            k.mesh_name,
            j.mesh_name
        ))
        .next("clawmesh up --home OTHER-DIR --join TICKET")),
        (Some(k), None) if args.new_mesh.is_some() => {
            Err(Failure::refused(format!("the home {} belongs to the mesh '{}' already", args.home.display(), k.mesh_name))
                .next("clawmesh up"))
        }
        (_, Some(j)) => {
            home::set_mesh(&args.home, &j).map_err(refused)?;
            Ok((j, false))
        }
        (Some(k), None) => Ok((k, false)),
        (None, None) => {
            let key: [u8; 32] = rand::random();
            let name = args.new_mesh.clone().unwrap_or_else(|| format!("mesh-{}", data_encoding::HEXLOWER.encode(&key_name(&key))));
            let t = Ticket { mesh_name: name, key, addrs: Vec::new() };
            home::set_mesh(&args.home, &t).map_err(refused)?;
            Ok((t, true))
        }
    }
}

/// Three bytes that tell nothing of the key.
fn key_name(key: &[u8; 32]) -> [u8; 3] {
    let h = Hash::of(key).0;
    [h[0], h[1], h[2]]
}

/// An address as people type it: a multiaddr, or host:port.
fn seed(text: &str) -> Result<Multiaddr, Failure> {
    let wrong = || Failure::usage(format!("'{text}' is no address: write host:port, as in 192.168.1.7:8889, or a multiaddr"));
    if text.starts_with('/') {
        return text.parse().map_err(|_| wrong());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let kind = match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => format!("/ip4/{ip}"),
        Ok(std::net::IpAddr::V6(ip)) => format!("/ip6/{ip}"),
        Err(_) => {
            use std::net::ToSocketAddrs;
            let ip = (host, port).to_socket_addrs().ok().and_then(|mut a| a.next()).ok_or_else(wrong)?.ip();
            if ip.is_ipv4() { format!("/ip4/{ip}") } else { format!("/ip6/{ip}") }
        }
    };
    format!("{kind}/tcp/{port}").parse().map_err(|_| wrong())
}

fn lock(home: &Path) -> Result<HomeLock, Failure> {
    HomeLock::take(home).map_err(|e| match e {
        LockError::Held { .. } => Failure::refused(e.to_string()).next("clawmesh status"),
        other => Failure::refused(other.to_string()),
    })
}

/// D3: is the database at least as new as the side file's mark?
fn new_enough(side: &[u8], hw: Option<&[u8]>) -> bool {
    let Ok(side) = codec::decode::<Side>(side) else { return false };
    let hw = hw.and_then(|b| codec::decode::<Ver>(b).ok()).unwrap_or_default();
    hw >= side.hw
}

struct OpenedStore {
    store: Arc<Store>,
    recovered: Recovered,
    commits: mpsc::UnboundedReceiver<Completion>,
    notes: Vec<String>,
}

/// `known`: this node's key was in the home before, so others may remember starts of it which a new store knows nothing of.
fn open_store(home: &Path, known: bool, registry: &mut Registry) -> Result<OpenedStore, Failure> {
    // Bounded by the store's own queue: a completion per batch, 4,096 at most.
    let (tx, commits) = mpsc::unbounded_channel();
    let mut options = Options::new(Box::new(move |c| {
        let _ = tx.send(c);
    }));
    options.metrics = StoreMetrics::new(registry);
    if known {
        options.boot_floor = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    }
    let o = Store::open(&home.join("store"), options, new_enough).map_err(|e| Failure::refused(e.to_string()))?;
    let blobs: BTreeSet<Hash> = o.store.blobs().list().map(|b| Hash(b.hash.0)).collect();
    let recovered =
        Recovered { entries: o.entries, side: o.side, store: o.store_id, boot: o.boot, quarantined: o.report.quarantined, blobs };
    Ok(OpenedStore { store: Arc::new(o.store), recovered, commits, notes: o.report.notes })
}

fn core_config(args: &UpArgs, me: Peer, name: String, priority: u32, slots: u32) -> Config {
    Config {
        peer: me,
        name,
        prio: priority,
        can_lead: true,
        slots,
        agent_slots: args.agent.slots,
        commands: args.commands,
        labels: args.labels.clone(),
        lost_after_ms: u64::try_from(args.lost_after.as_millis()).unwrap_or(u64::MAX),
        version: env!("CARGO_PKG_VERSION").into(),
        replicas: K,
        copies: D,
        tune: Tune::default(),
        proto: PROTO,
        timing: Timing::default(),
    }
}

async fn node(args: UpArgs, output: Output) -> Result<(), Failure> {
    crate::telemetry::start();
    let home_dir = args.home.clone();
    home::prepare(&home_dir).map_err(|e| Failure::refused(e.to_string()))?;
    let _lock = lock(&home_dir)?;
    let stop = CancellationToken::new();
    watch_signals(stop.clone())?;

    let bound = api::bind(args.api_port).await.map_err(|e| Failure::refused(e.to_string()))?;
    let key = home_dir.join("node.key");
    let known_before = key.exists();
    let identity = Identity::load_or_create(&key).map_err(|e| Failure::refused(e.to_string()))?;
    let me = Peer(identity.peer());
    let (mesh_ticket, created) = choose_mesh(&args)?;
    let seeds = args.peers.iter().map(String::as_str).map(seed).collect::<Result<Vec<_>, _>>()?;

    let mut registry = Registry::default();
    let core = registry.sub_registry_with_prefix("clawmesh");
    let figures = Figures::new(core);
    let blob_figures = BlobFigures::new(core);
    let note_figures = NoteFigures::new(core);
    let OpenedStore { store, mut recovered, commits, notes } = open_store(&home_dir, known_before, core)?;
    for n in &notes {
        tracing::warn!("{n}");
        if output.mode() == Mode::Human {
            output.note(n);
        }
    }
    let (sampler, facts) = sample(&home_dir).await;
    let mut own = home::own(&home_dir).map_err(|e| Failure::refused(e.to_string()))?;
    own.name = args.name.clone().or(own.name);
    own.priority = args.priority.or(own.priority);
    own.memory = match &args.memory {
        MemoryFlag::AsBefore => own.memory,
        MemoryFlag::On(dir) => Some(dir.clone()),
        MemoryFlag::Off => None,
    };
    home::set_own(&home_dir, &own).map_err(|e| Failure::refused(e.to_string()))?;
    let name = own.name.clone().unwrap_or_else(|| facts.host_name.clone());
    let slots = args.slots.unwrap_or(facts.cpu_count);
    let agents = Agents::new(&args.agent, own.agent.as_ref())?;

    let known = home::peers(&home_dir);
    let expects_others = !mesh_ticket.addrs.is_empty() || !seeds.is_empty();
    let seal = Seal::new(identity.clone(), mesh_ticket.mesh_id());
    let pen = Pen::new(identity.clone(), mesh_ticket.mesh_id());
    let net_config = NetConfig {
        identity,
        key: mesh_ticket.key,
        mesh_name: mesh_ticket.mesh_name.clone(),
        boot: recovered.boot,
        port: args.mesh_port,
        known: home::for_net(&known),
        seeds: mesh_ticket.addrs.iter().cloned().chain(seeds).collect(),
        mdns: args.mdns,
        tailscale: args.tailscale_command.clone().or_else(|| which::which("tailscale").ok()),
        tailscale_port: MESH_PORT,
        listen_loopback_only: args.loopback_only,
    };
    let (mut net, net_events) = Net::start(net_config, &mut registry).await.map_err(|e| Failure::refused(e.to_string()))?;
    let bulk_requests = net.take_bulk_requests();
    let net = Arc::new(net);

    let work_dir = home_dir.join("work");
    let swept = work_dir.clone();
    let swept = tokio::task::spawn_blocking(move || Executor::clean_up(&swept)).await;
    if let Ok(Err(e)) = swept {
        tracing::warn!(error = %e, "work folders of an earlier run could not be removed");
    }
    let (exec, exits) = Executor::new(exec::Settings::default(), tokio::runtime::Handle::current());

    let (inputs, input_rx) = mpsc::channel(INPUTS_MAX);
    let (calls, call_rx) = mpsc::channel::<Call>(CALLS_MAX);
    let (learned, learned_rx) = mpsc::channel(256);

    let mut first = Vec::new();
    let config = core_config(&args, me, name.clone(), own.priority.unwrap_or(0), slots);
    let recovered = std::mem::take(&mut recovered);
    let mut mesh = Mesh::new(config, recovered, clock::now(), rand::random(), &mut first);
    if mesh.unreadable() > 0 {
        shut(net, store).await;
        return Err(Failure::refused(written_by_newer(mesh.unreadable(), &home_dir)));
    }
    for k in known.iter().filter(|k| k.peer != me) {
        mesh.remember_peer(k.peer);
    }
    if expects_others {
        mesh.expect_others();
    }
    mesh.handle(clock::now(), Input::Facts(run::facts(&facts)), &mut first);
    let shelf: run::Shelf = Arc::default();
    let present = agents.present();
    if let Some(program) = agents.missing() {
        tracing::warn!(program = %program.display(), "the agent is not here, or is not executable: prompts go to other nodes until it is");
    }
    mesh.handle(clock::now(), Input::Agent(present.clone()), &mut first);
    let library = open_library(&home_dir, &args, &shelf).await;
    mesh.handle(clock::now(), Input::Skills(run::catalogue(&shelf.read().unwrap_or_else(PoisonError::into_inner))), &mut first);

    let shared = {
        let depot = open_depot(&args, &store).await?;
        let fetcher = transfer::Fetcher::new(me, net.clone(), depot.clone(), calls.clone(), blob_figures.clone(), stop.clone());
        sharing::Shared { me, net: net.clone(), depot, offers: Offers::open(&home_dir), fetcher, figures: blob_figures.clone() }
    };
    let notebook = match &own.memory {
        Some(base) => Some(open_notes(&home_dir, base, &name, pen, &store).await?),
        None => None,
    };
    let notes = Notes::new(me, notebook.clone(), net.clone(), shared.fetcher.clone(), note_figures);
    let api_metrics = ApiMetrics::register(&mut registry);
    let info = NodeInfo {
        mesh: mesh_ticket.mesh_name.clone(),
        api: bound.addr(),
        mesh_addresses: Vec::new(),
        ticket: mesh_ticket.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        home: home_dir.clone(),
        commands: args.commands,
    };
    let backend = Arc::new(backend::Node {
        me,
        calls: calls.clone(),
        inputs: inputs.clone(),
        store: store.clone(),
        net: net.clone(),
        exec: exec.clone(),
        registry: Arc::new(registry),
        shelf: shelf.clone(),
        info,
        stop: stop.clone(),
        shared: shared.clone(),
        notes: notes.clone(),
    });
    let addr = bound.addr();
    let serving = match bound.serve(&home_dir, me, backend.clone(), api_metrics) {
        Ok(s) => s,
        Err(e) => {
            drop(backend);
            shut(net, store).await;
            return Err(Failure::refused(format!("cannot write the API's files into {}: {e}", home_dir.display())));
        }
    };

    let hands = Hands {
        net: net.clone(),
        store: store.clone(),
        exec: exec.clone(),
        shelf: shelf.clone(),
        agents: agents.clone(),
        work_dir,
        figures,
        seal,
        shared: shared.clone(),
        notes: notes.clone(),
        preparing: Arc::default(),
        inputs: inputs.clone(),
    };
    let helpers = CancellationToken::new();
    tokio::spawn(helpers.clone().run_until_cancelled_owned(agent::watch(agents, present.clone(), inputs.clone())));
    tokio::spawn(helpers.clone().run_until_cancelled_owned(notes.watch(inputs.clone())));
    spawn_helpers(&helpers, library, shelf, sampler, inputs, store.clone(), net.clone());
    let desk = bulk::Desk::new(store.clone(), exec.clone(), &shared, notebook, args.blob_rate);
    spawn_bulk(&helpers, bulk_requests, desk);
    tokio::spawn(helpers.clone().run_until_cancelled_owned(shared.watch()));
    let runs = exec.clone();
    tokio::spawn(helpers.clone().run_until_cancelled_owned(crate::power::watch(calls.clone(), move || !runs.running().is_empty())));
    tokio::spawn(keep_peers(helpers.clone(), home_dir.clone(), known, learned_rx));

    announce(&output, &args, &name, &present, own.memory.as_deref(), me, addr, created, &home_dir, &net);
    let mut driver = Driver::new(mesh, hands, std::mem::take(&mut first));
    let mut sources = Sources { net: net_events, commits, exits, calls: call_rx, inputs: input_rx, learned };
    let end = run_until(&mut driver, &mut sources, stop.clone(), calls).await;
    stop.cancel();

    // Down in the opposite order.
    helpers.cancel();
    for j in exec.running() {
        tracing::info!(attempt = %j.key, what = %j.label, age = ?j.age, "ended because the node stops");
    }
    let grace = async {
        serving.shutdown().await;
        exec.kill_all(Duration::from_millis(200)).await;
    };
    let _ = tokio::time::timeout(Duration::from_millis(900), grace).await;
    drop((driver, sources, backend));
    shut(net, store).await;
    match end {
        End::Left => Ok(()),
        End::Failed(why) => Err(Failure::refused(why).next("clawmesh up")),
        End::Cloned => Err(Failure::refused(
            "another process runs with this node's key: this home is a copy of another node's; delete 'node.key' and 'store' in it to make it a node of its own",
        )
        .next("clawmesh up")),
    }
}

/// Drives the core until the node has left; a stop begins the leaving.
async fn run_until(driver: &mut Driver, sources: &mut Sources, stop: CancellationToken, calls: mpsc::Sender<Call>) -> End {
    let leave = async {
        stop.cancelled().await;
        let (reply, _answer) = oneshot::channel();
        // The loop ends itself when the core has left; this is only the upper bound.
        let _ = calls.send(Call { cmd: Command::Leave, reply }).await;
        drop(calls);
        tokio::time::sleep(LEAVE_MAX).await;
    };
    tokio::select! {
        end = driver.run(sources) => end,
        () = leave => End::Left,
    }
}

/// Why a store is not used whose entries only a newer version can read (V3).
fn written_by_newer(entries: usize, home: &Path) -> String {
    format!(
        "{entries} entries of the store in {} were written by a newer clawmesh, and this one ({}) cannot read them; nothing was lost: \
         install the version that ran here last, or a newer one, and start it again",
        home.display(),
        env!("CARGO_PKG_VERSION")
    )
}

/// Says goodbye on the wire and closes the store.  Both are shared with helpers that are about to end.
async fn shut(net: Arc<Net>, store: Arc<Store>) {
    if let Some(net) = sole(net).await {
        net.stop().await;
    }
    if let Some(store) = sole(store).await
        && let Ok(Err(e)) = tokio::task::spawn_blocking(move || store.close()).await
    {
        tracing::warn!(error = %e, "the store did not close in order");
    }
}

/// Waits up to 100 ms until nobody else holds it.
async fn sole<T>(mut shared: Arc<T>) -> Option<T> {
    for _ in 0..20 {
        match Arc::try_unwrap(shared) {
            Ok(t) => return Some(t),
            Err(s) => shared = s,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

fn watch_signals(stop: CancellationToken) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::refused(format!("cannot listen for signals: {e}"));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).map_err(failed)?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = hup.recv() => {}
            }
            stop.cancel();
        });
    }
    #[cfg(not(unix))]
    {
        let _ = failed;
        tokio::spawn(async move {
            // Ctrl-C is all there is here (not tried).
            let _ = tokio::signal::ctrl_c().await;
            stop.cancel();
        });
    }
    Ok(())
}

async fn sample(home: &Path) -> (Sampler, crate::facts::Facts) {
    let home = home.to_owned();
    let took = tokio::task::spawn_blocking(move || {
        let mut s = Sampler::new(&home);
        let f = s.sample();
        (s, f)
    });
    match took.await {
        Ok(t) => t,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

async fn open_depot(args: &UpArgs, store: &Store) -> Result<Depot, Failure> {
    let limits = Limits { blob: args.blob_max, cache: args.blob_cache };
    let (dir, room) = (args.home.join("blobs"), Arc::new(store.room()));
    let shown = dir.display().to_string();
    let opened = tokio::task::spawn_blocking(move || Depot::open(&dir, limits, room)).await;
    match opened {
        Ok(Ok(depot)) => Ok(depot),
        Ok(Err(e)) => Err(Failure::refused(format!("cannot open the shared blobs in {shown}: {e}"))),
        Err(e) => Err(Failure::refused(format!("cannot open the shared blobs in {shown}: {e}"))),
    }
}

async fn open_notes(home: &Path, base: &Path, name: &str, pen: Pen, store: &Store) -> Result<Notebook, Failure> {
    let (dir, base, name, room) = (home.join("notes"), base.to_owned(), name.to_owned(), Arc::new(store.room()));
    let opened = tokio::task::spawn_blocking(move || Notebook::open(&dir, &base, &name, pen, room)).await;
    match opened {
        Ok(Ok(book)) => Ok(book),
        Ok(Err(e)) => Err(Failure::refused(e.to_string())),
        Err(e) => Err(Failure::refused(format!("BUG: {e}"))),
    }
}

async fn open_library(home: &Path, args: &UpArgs, shelf: &run::Shelf) -> Option<Library> {
    let mut own = vec![Root::skills(home.join("skills"))];
    own.extend(args.skills.iter().map(Root::extra));
    let sources = SkillSources { own, openclaw: args.openclaw_skills.then(Surroundings::current) };
    let shelf = shelf.clone();
    tokio::task::spawn_blocking(move || {
        let library = Library::open(sources);
        let scan = library.current().clone();
        *shelf.write().unwrap_or_else(PoisonError::into_inner) = scan;
        library
    })
    .await
    .ok()
}

/// What looks at the world from time to time and tells the core.
fn spawn_helpers(
    stop: &CancellationToken,
    library: Option<Library>,
    shelf: run::Shelf,
    sampler: Sampler,
    inputs: mpsc::Sender<Input>,
    store: Arc<Store>,
    net: Arc<Net>,
) {
    tokio::spawn(stop.clone().run_until_cancelled_owned(watch_facts(sampler, inputs.clone())));
    tokio::spawn(stop.clone().run_until_cancelled_owned(watch_space(store, inputs.clone())));
    if let Some(l) = library {
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch_skills(l, shelf, inputs, net)));
    }
}

async fn watch_facts(mut sampler: Sampler, inputs: mpsc::Sender<Input>) {
    loop {
        tokio::time::sleep(FACTS_EVERY).await;
        let Ok((s, f)) = tokio::task::spawn_blocking(move || {
            let f = sampler.sample();
            (sampler, f)
        })
        .await
        else {
            return;
        };
        sampler = s;
        if inputs.send(Input::Facts(run::facts(&f))).await.is_err() {
            return;
        }
    }
}

async fn watch_space(store: Arc<Store>, inputs: mpsc::Sender<Input>) {
    let mut low = false;
    loop {
        let s = store.clone();
        let looked = tokio::task::spawn_blocking(move || s.space()).await;
        if let Ok(Ok(space)) = looked
            && space.low != low
        {
            low = space.low;
            if low {
                tracing::warn!(
                    free = space.free,
                    floor = space.floor,
                    total = space.total,
                    "the disk is nearly full: new tasks are refused until there is room again"
                );
            } else {
                tracing::info!(free = space.free, "the disk has room again");
            }
            if inputs.send(Input::Full(low)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Advertises what the folders hold, in gossip (by the core) and in the DHT (here).
async fn watch_skills(mut library: Library, shelf: run::Shelf, inputs: mpsc::Sender<Input>, net: Arc<Net>) {
    let mut provided: BTreeSet<String> = BTreeSet::new();
    loop {
        let catalogue = run::catalogue(&shelf.read().unwrap_or_else(PoisonError::into_inner));
        let names: BTreeSet<String> = catalogue.skills.iter().map(|s| s.name.clone()).collect();
        for gone in provided.difference(&names) {
            net.stop_provide(dht_key(gone)).await;
        }
        for new in names.difference(&provided) {
            net.provide(dht_key(new)).await;
        }
        provided = names;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let shelf = shelf.clone();
            let Ok((l, changed)) = tokio::task::spawn_blocking(move || {
                let changed = library.rescan_if_changed().cloned();
                let is_new = changed.is_some();
                if let Some(scan) = changed {
                    *shelf.write().unwrap_or_else(PoisonError::into_inner) = scan;
                }
                (library, is_new)
            })
            .await
            else {
                return;
            };
            library = l;
            if changed {
                break;
            }
        }
        let catalogue = run::catalogue(&shelf.read().unwrap_or_else(PoisonError::into_inner));
        if inputs.send(Input::Skills(catalogue)).await.is_err() {
            return;
        }
    }
}

fn dht_key(skill: &str) -> Vec<u8> {
    format!("skill/{skill}").into_bytes()
}

fn spawn_bulk(stop: &CancellationToken, requests: Option<mpsc::Receiver<crate::net::BulkRequest>>, desk: bulk::Desk) {
    let Some(mut requests) = requests else { return };
    let token = stop.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        // Bounded by the network: 16 streams per peer.
        while let Some(r) = requests.recv().await {
            tokio::spawn(token.clone().run_until_cancelled_owned(desk.clone().serve(r)));
        }
    }));
}

/// Remembers where members are, at most once a second.
async fn keep_peers(stop: CancellationToken, home: PathBuf, mut known: Vec<KnownPeer>, mut learned: mpsc::Receiver<(Peer, Vec<String>)>) {
    while let Some(Some((peer, addrs))) = stop.run_until_cancelled(learned.recv()).await {
        let mut news = vec![(peer, addrs)];
        while let Ok(n) = learned.try_recv() {
            news.push(n);
        }
        let before = known.clone();
        for (peer, addrs) in news {
            known.retain(|k| k.peer != peer);
            known.insert(0, KnownPeer { peer, addrs });
        }
        if known != before {
            let (h, k) = (home.clone(), known.clone());
            let saved = tokio::task::spawn_blocking(move || home::set_peers(&h, &k)).await;
            if let Ok(Err(e)) = saved {
                tracing::warn!(error = %e, "the known peers could not be kept");
            }
        }
        let _ = stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
    }
}

#[expect(clippy::too_many_arguments, reason = "what a person wants to know at the start")]
fn announce(
    output: &Output,
    args: &UpArgs,
    name: &str,
    agent: &str,
    memory: Option<&Path>,
    me: Peer,
    api: std::net::SocketAddr,
    created: bool,
    home: &Path,
    net: &Net,
) {
    let ticket = ticket_now(home, net, me).unwrap_or_default();
    if output.mode() == Mode::Json {
        let addresses: Vec<String> = net.addresses().iter().map(ToString::to_string).collect();
        let v = serde_json::json!({ "node": me, "name": name, "agent": agent, "memory": memory, "api": api.to_string(), "mesh_addresses": addresses, "ticket": ticket, "created": created });
        let _ = output.line(&v.to_string());
        return;
    }
    if output.mode() == Mode::Quiet {
        return;
    }
    let given = if std::env::var_os("CLAWMESH_HOME").is_some() || home.ends_with(".clawmesh") {
        String::new()
    } else {
        format!(" --home {}", home.display())
    };
    let _ = output.line(&format!(
        "{name} is up: API on {api}, mesh on {}",
        net.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    ));
    if created {
        let _ = output.line("A new mesh was created. On each other machine, type:");
        let _ = output.line(&format!("\n  clawmesh up --join {ticket}\n"));
    } else {
        let _ = output.line(&format!("To add another machine: clawmesh up --join $(clawmesh{given} invite)"));
    }
    if args.commands {
        let _ = output.line("Whoever holds the ticket may run commands on this machine ('up --no-commands' refuses them).");
    }
    if !agent.is_empty() && args.agent.slots > 0 {
        let _ = output
            .line(&format!("Prompts of the mesh are run here by {agent}, which may do what you may ('up --no-agents' refuses them)."));
    }
    if let Some(base) = memory {
        let _ = output.line(&format!(
            "Notes are shared: what is noted here goes to every node that shares them, and theirs come to {} ('up --no-memory' ends it).",
            base.join("memory").join("mesh").display()
        ));
    }
    let _ = output.line(&format!("Then, in another terminal: clawmesh{given} run -- uname -a"));
}
