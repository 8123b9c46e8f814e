//! Power cuts: a writer in a process of its own works on a file system in a disk image; at a
//! random moment it is stopped and the image copied. The copy is what had reached the disk, and
//! the store in it must hold everything that was acknowledged. A killed process alone shows
//! nothing of this, because its writes live on in the page cache.
//!
//! Needs root, loop devices and `mkfs.ext4`; `POWER_CUTS` sets the number (20):
//! `cargo test -p clawmesh -- --ignored --nocapture power_cuts`.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::*;

#[test]
#[ignore = "needs root, loop devices and mkfs.ext4"]
fn acknowledged_records_survive_power_cuts() {
    let cuts = std::env::var("POWER_CUTS").map_or(20, |n| n.parse().unwrap());
    for cut in 0..cuts {
        let dir = tempfile::tempdir().unwrap();
        let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
        let file = fs::File::create(&image).unwrap();
        file.set_len(512 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let log = dir.path().join("log");
        {
            let disk = Mounted::new(&image, dir.path().join("mnt"));
            let mut writer = half("power_writer", &disk.at, &log);
            // This waits for nothing: the moment of the cut is what is drawn here.
            std::thread::sleep(Duration::from_millis(rand::random_range(150..1500)));
            run(Command::new("kill").args(["-STOP", &writer.id().to_string()]));
            run(Command::new("cp").arg("--sparse=always").args([&image, &copy]));
            writer.kill().unwrap();
            writer.wait().unwrap();
        }
        let disk = Mounted::new(&copy, dir.path().join("mnt"));
        let status = half("power_reader", &disk.at, &log).wait().unwrap();
        assert!(status.success(), "cut {cut} lost something");
    }
}

/// Writes for ever into `POWER_DIR` and notes each acknowledged batch in `POWER_LOG`.
#[test]
#[ignore = "half of the power cuts"]
fn power_writer() {
    let (Some(dir), Some(log)) = (path("POWER_DIR"), path("POWER_LOG")) else {
        return;
    };
    let rig = Rig::open_with(&dir, |o| o.ballast_max_bytes = 64 << 20).unwrap();
    let mut log = fs::File::create(log).unwrap();
    writeln!(log, "id {}", rig.store_id).unwrap();
    for round in 0.. {
        for no in round * 40 + 1..=(round + 1) * 40 {
            rig.commit(batch(no));
        }
        let mut acked = 0;
        while acked < (round + 1) * 40 {
            match rig.done.recv_timeout(PATIENCE).unwrap() {
                Completion::Committed { upto, .. } => acked = upto,
                Completion::Failed { error } => panic!("{error}"),
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
        return; // the cut came before the store was open
    };
    let mut lines = log.lines();
    let Some(id) = lines.next() else { return };
    let acked: u64 = lines.next_back().map_or(0, |l| l.parse().unwrap());
    let rig = Rig::open_with(&dir, |o| o.ballast_max_bytes = 64 << 20).unwrap();
    assert!(!rig.report.quarantined, "{:?}", rig.report);
    assert_eq!(format!("id {}", rig.store_id), id);
    let found: HashMap<_, _> = rig.entries.iter().cloned().collect();
    for no in 1..=acked {
        assert_eq!(found.get(&key(no)), Some(&value(no)), "{no} of {acked}");
    }
    let number = |v: &[u8]| u64::from_be_bytes(v.try_into().unwrap());
    let mark = found.get(KEY_HW).map_or(0, |v| number(v));
    let promised = rig.side.as_deref().map_or(0, number);
    assert!(mark >= acked && promised >= acked / 10 * 10 && promised <= mark);
    eprintln!("{acked} acknowledged, {mark} found {:?}", rig.report.notes);
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
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// Starts this test program again, for one of the two halves.
fn half(name: &str, disk: &Path, log: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("store::tests::power::{name}"))
        .env("POWER_DIR", disk.join("home/store"))
        .env("POWER_LOG", log)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
