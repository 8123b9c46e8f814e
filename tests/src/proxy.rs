//! Slow lines: everything that nodes on machines of their own say to each other goes through a program that holds it
//! back for a while, as a long line does.  For kernels that cannot delay packets themselves.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Lan, enter};

/// First port of the proxy; each pair of machines has its own.
const FIRST_PORT: u16 = 20_000;
/// Most machines.
const MACHINES_MAX: usize = 16;
/// Pieces on the way on one line; at 16 KiB each it is more than any window.
const ON_THE_WAY: usize = 256;
/// How often a thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(200);

/// Delays between machines, ms; may be changed at any time.
#[derive(Debug)]
struct Delays {
    ms: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Delays {
    fn of(&self, from: usize, to: usize) -> Duration {
        Duration::from_millis(self.ms[from * MACHINES_MAX + to].load(Ordering::Relaxed))
    }
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Proxies on one machine of the network, between all pairs of the first machines.  Dropped, all lines end.
#[derive(Debug)]
pub struct SlowLines {
    delays: Arc<Delays>,
}

impl SlowLines {
    /// The first `machines` of the network reach each other's `port` through a proxy on the machine `host`, which is none
    /// of them.  To be made before the nodes start.
    ///
    /// # Panics
    /// When a machine does not take the detour, or a port of the proxy is not free.
    pub fn new(lan: &Lan, machines: usize, host: usize, port: u16) -> Self {
        assert!(machines <= MACHINES_MAX && host >= machines, "the proxy has a machine of its own");
        let delays =
            Arc::new(Delays { ms: (0..MACHINES_MAX * MACHINES_MAX).map(|_| AtomicU64::new(0)).collect(), over: AtomicBool::new(false) });
        for from in 0..machines {
            let others = || (0..machines).filter(move |to| *to != from);
            let door = |to: usize| FIRST_PORT + u16::try_from(from * MACHINES_MAX + to).expect("a small number");
            let routes: Vec<_> = others().map(|to| (Lan::address(to), port, Lan::address(host), door(to))).collect();
            lan.redirect(from, &routes);
            for to in others() {
                let (name, delays, door) = (lan.machines()[host].clone(), delays.clone(), door(to));
                let listener = enter(&name, || TcpListener::bind((Lan::address(host), door)).expect("a port of the proxy is free"));
                listener.set_nonblocking(true).expect("a listener can be asked");
                thread::spawn(move || enter(&name, || serve(&listener, &delays, from, to, port)));
            }
        }
        Self { delays }
    }
    /// From now on each byte from any machine to any other takes so long.
    pub fn delay_all(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).expect("a short time");
        self.delays.ms.iter().for_each(|d| d.store(ms, Ordering::Relaxed));
    }
    /// From now on each byte from one machine to the other takes so long; the way back is another line.
    pub fn delay(&self, from: usize, to: usize, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).expect("a short time");
        self.delays.ms[from * MACHINES_MAX + to].store(ms, Ordering::Relaxed);
    }
}

impl Drop for SlowLines {
    fn drop(&mut self) {
        self.delays.over.store(true, Ordering::Relaxed);
    }
}

/// Takes connections of `from` and makes each one to `to`.
fn serve(listener: &TcpListener, delays: &Arc<Delays>, from: usize, to: usize, port: u16) {
    while !delays.over() {
        let Ok((near, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        // Nobody there: the caller is hung up on, which is what it would have seen a moment earlier.
        let Ok(far) = TcpStream::connect((Lan::address(to), port)) else { continue };
        for (a, b, (x, y)) in [(&near, &far, (from, to)), (&far, &near, (to, from))] {
            let (Ok(input), Ok(output)) = (a.try_clone(), b.try_clone()) else { continue };
            let (queue, due) = sync_channel(ON_THE_WAY);
            let (d, e) = (delays.clone(), delays.clone());
            thread::spawn(move || take(input, &queue, &d, x, y));
            thread::spawn(move || give(output, &due, &e));
        }
    }
}

/// Reads, and notes when each piece is due on the other side; an empty piece is the end.
fn take(mut from: TcpStream, queue: &SyncSender<(Instant, Vec<u8>)>, delays: &Delays, x: usize, y: usize) {
    let mut piece = vec![0; 16 << 10];
    // A read that waits sees the end of the trial all the same.
    drop(from.set_read_timeout(Some(LOOK)));
    while !delays.over() {
        let n = match from.read(&mut piece) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
            Err(_) => 0,
        };
        if queue.send((Instant::now() + delays.of(x, y), piece[..n].to_vec())).is_err() || n == 0 {
            return;
        }
    }
}

fn give(mut to: TcpStream, due: &Receiver<(Instant, Vec<u8>)>, delays: &Delays) {
    drop(to.set_nodelay(true));
    while let Ok((at, piece)) = due.recv() {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if delays.over() || piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
