//! Measurements, run by hand: `cargo test -p clawmesh -- --ignored --nocapture sustained`.

use super::*;

/// Scattered keys are the worst case; `tasks` is what a mesh does: new keys rise, a record is
/// rewritten a few times soon after, and the high water mark goes with every batch.
#[test]
#[ignore = "a measurement, not a check"]
fn sustained_small_puts_per_second() {
    for (what, in_flight, batches) in [
        ("scattered", 4000_u64, 100_000_u64),
        ("scattered", 16, 30_000),
        ("tasks", 4000, 200_000),
        ("tasks", 256, 200_000),
        ("tasks", 16, 50_000),
        ("tasks", 1, 5_000),
    ] {
        let dir = std::env::var("BENCH_DIR").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
        let dir = tempfile::tempdir_in(dir).unwrap();
        let rig = Rig::open(dir.path());
        let cpu = cpu_seconds();
        let started = Instant::now();
        let (mut done, mut groups, mut worst) = (0, 0_u64, Duration::ZERO);
        for no in 1..=batches {
            let keys = if what == "tasks" {
                [key(no), key(no.saturating_sub(300)), KEY_HW.to_vec()]
            } else {
                [0, 1, 2].map(|p| {
                    let hash = blake3::hash(&(no * 3 + p).to_le_bytes());
                    [b"task/", &hash.as_bytes()[..20]].concat()
                })
            };
            rig.commit(Batch { no, puts: keys.map(|k| (k, vec![no as u8; 200])).to_vec(), ..Batch::default() });
            while no - done >= in_flight {
                match rig.done.recv_timeout(PATIENCE).unwrap() {
                    Completion::Committed { upto, took, .. } => {
                        done = upto;
                        groups += 1;
                        worst = worst.max(took);
                    }
                    Completion::Failed { error } => panic!("{error}"),
                }
            }
        }
        rig.store.close().unwrap();
        let took = started.elapsed().as_secs_f64();
        println!(
            "{what}, 3 puts of 200 bytes per batch, {in_flight} in flight: {:.0} records/s, {:.0} batches/s, {:.0} batches per commit, worst commit {worst:?}, {:.2} cpu-s in {took:.2} s",
            (batches * 3) as f64 / took,
            batches as f64 / took,
            batches as f64 / groups.max(1) as f64,
            cpu_seconds() - cpu,
        );
    }
}

#[cfg(unix)]
fn cpu_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

#[cfg(not(unix))]
fn cpu_seconds() -> f64 {
    0.0
}
