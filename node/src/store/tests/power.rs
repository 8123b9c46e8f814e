//! Power cuts: a writer in a process of its own works on a file system in a disk image; at a random moment the image is
//! copied. The copy is what had reached the disk, and the store in it must hold everything that was acknowledged. A
//! killed process alone shows nothing of this, because its writes live on in the page cache.
//!
//! The image lies on a disk of its own that is frozen while it is copied, so the copy shows one moment, also one in the
//! middle of an fsync. Some copies are damaged further, and some disks refuse writes: see [`Blow`].
//!
//! Needs root, loop devices and `mkfs.ext4`; `CLAWMESH_POWERCUT_STORE` sets the number (20):
//! `cargo test -p clawmesh -- --ignored --nocapture powercuts`. Prints a line of JSON for each.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::*;

/// What befalls the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// The power is cut.
    Cut,
    /// The same, while sled was writing a snapshot.
    HalfSnapshot,
    /// The same, and the end of the database is gone.
    TornTail,
    /// The same, and one bit of the database is not as it was written.
    FlippedBit,
    /// The same, and a page of the database is empty.
    ZeroedPage,
    /// An fsync fails with an I/O error, and then the power is cut.
    Broken,
    /// The disk has promised more room than it has: in the end it forgets what it had confirmed (seen with a loop device
    /// on a full disk, Linux 6.18).
    Lying,
    /// The disk has no room left from some moment on.
    Full,
}

impl Blow {
    /// Half of them plain cuts.
    fn of(no: u64) -> Blow {
        use Blow::{Broken, Cut, FlippedBit, Full, HalfSnapshot, Lying, TornTail, ZeroedPage};
        [Cut, Broken, Cut, TornTail, Cut, HalfSnapshot, Cut, FlippedBit, Cut, Full, Cut, ZeroedPage, Cut, Lying][no as usize % 14]
    }
    /// The store may be found damaged, and must say so then.
    fn damages(self) -> bool {
        matches!(self, Blow::TornTail | Blow::FlippedBit | Blow::ZeroedPage | Blow::Lying)
    }
    /// The writer ends by itself, because its store fails.
    fn is_noticed(self) -> bool {
        matches!(self, Blow::Broken | Blow::Full | Blow::Lying)
    }
    /// Does it to the files of a store.
    fn strike(self, store: &Path) {
        let data = store.join("sled/db");
        match self {
            Blow::Cut | Blow::Broken | Blow::Full | Blow::Lying => {}
            Blow::HalfSnapshot => {
                remove_snapshots(store);
                fs::write(store.join("sled/snap.0000000000000BAD.generating"), b"half").unwrap();
            }
            Blow::TornTail | Blow::FlippedBit | Blow::ZeroedPage => {
                let mut content = fs::read(&data).unwrap();
                // sled grows its file in large steps: where it has written to is where damage can hurt.
                let end = content.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
                let at = rand::random_range(0..end.max(1));
                match self {
                    Blow::TornTail => content.truncate(end.saturating_sub(at % 50_000)),
                    Blow::FlippedBit => content[at] ^= 1 << rand::random_range(0..8),
                    _ => content[at & !4095..].iter_mut().take(4096).for_each(|b| *b = 0),
                }
                fs::write(&data, content).unwrap();
                if rand::random() {
                    remove_snapshots(store);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs root, loop devices and mkfs.ext4"]
fn powercuts_lose_nothing_acknowledged() {
    let cuts = std::env::var("CLAWMESH_POWERCUT_STORE").map_or(20, |n| n.parse().unwrap());
    let first: u64 = std::env::var("CLAWMESH_POWERCUT_FIRST").map_or(0, |n| n.parse().unwrap());
    for no in first..first + cuts {
        let blow = Blow::of(no);
        let dir = tempfile::tempdir().unwrap();
        let (log, result) = (dir.path().join("log"), dir.path().join("result"));
        let copy = one_blow(dir.path(), blow, &log);
        let disk = Mounted::new(&copy, dir.path().join("after"));
        let store = disk.at.join("home/store");
        if blow == Blow::Full {
            fs::remove_file(disk.at.join("hog")).unwrap();
        }
        if store.join("sled/db").exists() {
            blow.strike(&store);
        }
        let mut reader = half("power_reader", &disk.at, &log);
        let status = reader.env("POWER_RESULT", &result).env("POWER_DAMAGED", u8::from(blow.damages()).to_string()).status().unwrap();
        assert!(status.success(), "cut {no} ({blow:?}) lost something");
        let found = fs::read_to_string(&result).unwrap_or_else(|_| r#""opened":false"#.into());
        println!(r#"{{"kind":"store","cut":{no},"blow":"{blow:?}",{found}}}"#);
    }
}

/// Lets a writer work on a new disk until the blow falls; returns the image that is left.
fn one_blow(dir: &Path, blow: Blow, log: &Path) -> PathBuf {
    let copy = dir.join("copy.img");
    let outer = Mounted::new(&image(&dir.join("outer.img"), 256), dir.join("outer"));
    let inner = image(&outer.at.join("disk.img"), 160);
    let disk = Mounted::new(&inner, dir.join("disk"));
    if blow == Blow::Lying {
        fill(&outer.at, rand::random_range(1..3) << 20);
    }
    if blow == Blow::Full {
        fill(&disk.at, rand::random_range(10..14) << 20);
    }
    let mut writer = half("power_writer", &disk.at, log);
    if blow == Blow::Broken {
        writer.env("POWER_FAIL_SYNC", rand::random_range(1..200).to_string());
    }
    let mut writer = writer.stderr(Stdio::null()).spawn().unwrap();
    if blow.is_noticed() {
        ended(&mut writer);
    } else {
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(log).is_ok_and(|l| l.lines().count() > 1) {
            assert!(Instant::now() < deadline, "nothing was acknowledged");
            std::thread::sleep(Duration::from_millis(1));
        }
        // This waits for nothing: the moment of the cut is what is drawn here.
        std::thread::sleep(Duration::from_millis(rand::random_range(0..700)));
    }
    // Only what was acknowledged before the cut counts.
    let acknowledged = fs::read(log).unwrap_or_default();
    run(Command::new("fsfreeze").arg("--freeze").arg(&outer.at));
    let copied = Command::new("cp").arg("--sparse=always").args([&inner, &copy]).status();
    run(Command::new("fsfreeze").arg("--unfreeze").arg(&outer.at));
    assert!(copied.unwrap().success(), "there is no room for a copy of the image");
    let _ = writer.kill();
    writer.wait().unwrap();
    fs::write(log, acknowledged).unwrap();
    copy
}

/// Waits until the writer has ended because its store has failed; a stuck one is a failure of the test.
fn ended(writer: &mut Child) {
    let deadline = Instant::now() + PATIENCE;
    while writer.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the store does not notice that its disk fails");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes for ever into `POWER_DIR` and notes each acknowledged batch in `POWER_LOG`.
#[test]
#[ignore = "half of the power cuts"]
fn power_writer() {
    let (Some(dir), Some(log)) = (path("POWER_DIR"), path("POWER_LOG")) else {
        return;
    };
    let rig = Rig::open_with(&dir, |o| o.ballast_max_bytes = 1 << 20).unwrap();
    if let Ok(nth) = std::env::var("POWER_FAIL_SYNC") {
        rig.faults.fail_sync_in(nth.parse().unwrap(), ErrorKind::Other);
    }
    let mut log = fs::File::create(log).unwrap();
    writeln!(log, "id {}", rig.store_id).unwrap();
    for round in 0.. {
        for no in round * 40 + 1..=(round + 1) * 40 {
            // A store that has failed takes nothing more; what it says of that is awaited below.
            let _ = rig.store.commit(batch(no));
        }
        let mut acked = 0;
        while acked < (round + 1) * 40 {
            match rig.done.recv_timeout(PATIENCE).unwrap() {
                Completion::Committed { upto, .. } => acked = upto,
                Completion::Failed { .. } => return,
            }
            writeln!(log, "{acked}").unwrap();
        }
    }
}

/// Opens what the cut left in `POWER_DIR` and compares it with the log.
#[test]
#[ignore = "half of the power cuts"]
fn power_reader() {
    let (Some(dir), Some(log)) = (path("POWER_DIR"), path("POWER_LOG")) else {
        return;
    };
    let Ok(log) = fs::read_to_string(log) else {
        return; // the blow came before the store was open
    };
    let mut lines = log.lines();
    let Some(id) = lines.next() else { return };
    let acked: u64 = lines.next_back().map_or(0, |l| l.parse().unwrap());
    let rig = Rig::open_with(&dir, |o| o.ballast_max_bytes = 1 << 20).unwrap();
    let found: HashMap<_, _> = rig.entries.iter().cloned().collect();
    let lost = (1..=acked).filter(|no| !found.contains_key(&key(*no))).count();
    // Whatever happened, nothing wrong is handed out.
    for no in 1..=acked + 10_000 {
        assert!(found.get(&key(no)).is_none_or(|v| *v == value(no)), "record {no} is not what was written");
    }
    let number = |v: &[u8]| u64::from_be_bytes(v.try_into().unwrap());
    let mark = found.get(KEY_HW).map_or(0, |v| number(v));
    let promised = rig.side.as_deref().map_or(0, number);
    assert!(promised >= acked / 10 * 10, "the promise has fallen: {promised} after {acked}");
    if rig.report.quarantined {
        assert!(std::env::var("POWER_DAMAGED").is_ok_and(|d| d == "1"), "{:?}", rig.report);
        assert_ne!(format!("id {}", rig.store_id), id);
    } else {
        assert_eq!(lost, 0, "of {acked}: {:?}", rig.report);
        assert!(mark >= acked && promised <= mark, "{acked} {mark} {promised}");
        assert_eq!(format!("id {}", rig.store_id), id);
    }
    if let Some(result) = path("POWER_RESULT") {
        let quarantined = rig.report.quarantined;
        fs::write(result, format!(r#""acknowledged":{acked},"lost":{lost},"set_aside":{quarantined}"#)).unwrap();
    }
}

/// Batch `no` writes a new record, rewrites one and raises the mark; each tenth one promises.
fn batch(no: u64) -> Batch {
    Batch {
        no,
        puts: vec![
            (key(no), value(no)),
            (key(1_000_000_000 + no % 100), no.to_be_bytes().to_vec()),
            (KEY_HW.to_vec(), no.to_be_bytes().to_vec()),
        ],
        dels: Vec::new(),
        side: no.is_multiple_of(10).then(|| no.to_be_bytes().to_vec()),
    }
}

fn path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// A mounted image; unmounted when dropped.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(image: &Path, at: PathBuf) -> Mounted {
        fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at));
        Mounted { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// A new file of so many MiB with an empty ext4 in it.
fn image(path: &Path, mib: u64) -> PathBuf {
    fs::File::create(path).unwrap().set_len(mib << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(path));
    path.to_owned()
}

/// Leaves `left` bytes of room on a disk.
fn fill(disk: &Path, left: u64) {
    let stat = rustix::fs::statvfs(disk).unwrap();
    let hog = fs::File::create(disk.join("hog")).unwrap();
    rustix::fs::fallocate(&hog, rustix::fs::FallocateFlags::empty(), 0, (stat.f_bavail * stat.f_frsize).saturating_sub(left)).unwrap();
    hog.sync_all().unwrap();
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// This test program again, for one of the two halves.
fn half(name: &str, disk: &Path, log: &Path) -> Command {
    let mut half = Command::new(std::env::current_exe().unwrap());
    half.args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("store::tests::power::{name}"))
        .env("POWER_DIR", disk.join("home/store"))
        .env("POWER_LOG", log)
        .stdout(Stdio::null());
    half
}
