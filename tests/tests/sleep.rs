//! A machine that is about to sleep: logind tells its node, and another one coordinates before it sleeps (L3).
#![cfg(target_os = "linux")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clawmesh_tests::{AGES, Gate, LONG, Mesh, SHORT, Task, wait_until};
use tokio::runtime::Runtime;
use zbus::{connection::Builder, object_server::SignalEmitter};

/// A bus of its own, and on it a logind that does what it is told.
struct Logind {
    bus: Child,
    address: String,
    runtime: Runtime,
    connection: zbus::Connection,
    locks: Locks,
}

/// What was asked for, and the other end of the pipe that stands for it.
type Locks = Arc<Mutex<Vec<(String, String, std::fs::File)>>>;

struct Manager(Locks);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn inhibit(&self, what: &str, who: &str, _why: &str, mode: &str) -> zbus::fdo::Result<zbus::OwnedFd> {
        assert_eq!(who, "clawmesh");
        let (read, write) = rustix::pipe::pipe().map_err(|e| zbus::fdo::Error::Failed(e.to_string()))?;
        let read = std::fs::File::from(read);
        self.0.lock().expect("no test panics with it").push((what.to_owned(), mode.to_owned(), read));
        Ok(write.into())
    }
    #[zbus(signal)]
    async fn prepare_for_sleep(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
}

const PATH: &str = "/org/freedesktop/login1";

impl Logind {
    fn start() -> Self {
        let mut bus = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is installed");
        let mut address = String::new();
        BufReader::new(bus.stdout.take().expect("it has one")).read_line(&mut address).expect("its address");
        let address = address.trim().to_owned();
        let (runtime, locks) = (Runtime::new().expect("a runtime"), Locks::default());
        let connection = runtime
            .block_on(async {
                Builder::address(address.as_str()).name("org.freedesktop.login1").serve_at(PATH, Manager(locks.clone())).build().await
            })
            .expect("a logind on the bus");
        Self { bus, address, runtime, connection, locks }
    }

    fn says(&self, start: bool) {
        self.runtime
            .block_on(async {
                let emitter = SignalEmitter::new(&self.connection, PATH)?;
                Manager::prepare_for_sleep(&emitter, start).await
            })
            .expect("the signal leaves");
    }

    /// Takes the first lock of this kind that was asked for.
    fn lock(&self, what: &str, mode: &str) -> std::fs::File {
        wait_until(&format!("the node asks for a lock '{what}' '{mode}'"), SHORT, || {
            let mut locks = self.locks.lock().expect("no test panics with it");
            let at = locks.iter().position(|(w, m, _)| w == what && m == mode).ok_or("not yet")?;
            Ok::<_, &str>(locks.remove(at).2)
        })
    }
}

impl Drop for Logind {
    fn drop(&mut self) {
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}

/// Waits until the node lets go of a lock.
fn released(mut lock: std::fs::File) {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(lock.read(&mut [0]).ok()));
    assert_eq!(told.recv_timeout(SHORT), Ok(Some(0)), "the lock is held");
}

#[test]
#[ignore = "needs dbus-daemon, of the Debian package dbus-daemon"]
fn a_coordinator_that_is_about_to_sleep_hands_over_and_comes_back() {
    let logind = Logind::start();
    let mesh = Mesh::of(3).node_env(0, "DBUS_SYSTEM_BUS_ADDRESS", &logind.address).start();
    let sleeper = mesh.coordinator();
    assert_eq!(sleeper.name(), "n0", "the one that hears this logind");
    let lock = logind.lock("sleep", "delay");

    let id = sleeper.status().expect("it answers")["node"].clone();
    let from = Instant::now();
    logind.says(true);
    released(lock);
    println!("it lets the machine sleep after {} ms", from.elapsed().as_millis());
    sleeper.pause();
    let new = wait_until("another node coordinates", LONG, || {
        let s = mesh[1].status()?;
        match s["coordinator"].as_str() {
            Some(new) if new != id => Ok(new.to_owned()),
            other => Err(format!("{other:?}")),
        }
    });
    let took = from.elapsed();
    println!("{new} coordinates after {} ms", took.as_millis());
    assert!(took < Duration::from_millis(1_500), "{took:?}: as long as for a node that said nothing");
    let seen = mesh[1].json(["nodes"]);
    let state = seen.as_array().into_iter().flatten().find(|n| n["name"] == sleeper.name()).map(|n| n["state"].clone());
    assert_eq!(state.as_ref().and_then(|s| s.as_str()), Some("asleep"), "{seen}");
    mesh[2].cli(["run", "--", "echo", "meanwhile"]).ok().stdout_is("meanwhile\n");

    sleeper.resume();
    logind.says(false);
    let again = logind.lock("sleep", "delay");
    wait_until("it follows", LONG, || {
        let s = sleeper.status()?;
        if s["coordinator"] == new.as_str() { Ok(()) } else { Err(format!("{}", s["coordinator"])) }
    });
    sleeper.cli(["run", "--", "echo", "back"]).ok().stdout_is("back\n");
    drop(again);
}

#[test]
#[ignore = "needs dbus-daemon, of the Debian package dbus-daemon"]
fn a_machine_on_which_a_task_runs_does_not_fall_asleep() {
    let logind = Logind::start();
    let mesh = Mesh::of(0).build();
    let node = mesh.another("n0").env("DBUS_SYSTEM_BUS_ADDRESS", &logind.address).start();
    let gate = Gate::new(mesh.dir(), "gate");
    let ids = node.submit(&[Task::sh(&gate.wait())]);
    let awake = logind.lock("idle", "block");
    gate.open();
    node.all_complete(&ids, AGES);
    released(awake);
}
