//! How much an attempt costs beside a bare spawn.

use super::*;

/// `cargo test -p clawmesh spawn_rate -- --ignored --nocapture`. The two take turns, because the machine's mood changes.
#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spawn_rate_beside_a_plain_loop() {
    const ROUNDS: usize = 15;
    for in_flight in [1, 2, 4, 8] {
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(tokio::task::block_in_place(|| plain_rate(in_flight)));
            ours.push(executor_rate(in_flight).await);
        }
        plain.sort_by(f64::total_cmp);
        ours.sort_by(f64::total_cmp);
        let (plain, ours) = (plain[ROUNDS / 2], ours[ROUNDS / 2]);
        println!("{in_flight} in flight: plain {plain:.0}/s, executor {ours:.0}/s, {:.0} %", 100.0 * ours / plain);
    }
}

const SPAWNS: usize = 300;

fn plain_rate(in_flight: usize) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..in_flight {
            scope.spawn(|| {
                for _ in 0..SPAWNS / in_flight {
                    assert!(std::process::Command::new("/bin/true").output().unwrap().status.success());
                }
            });
        }
    });
    SPAWNS as f64 / started.elapsed().as_secs_f64()
}

async fn executor_rate(in_flight: usize) -> f64 {
    let mut rig = Rig::new();
    let driver = tokio::spawn(async move {
        let started = Instant::now();
        for number in 0..SPAWNS + in_flight {
            if number >= in_flight {
                assert_eq!(rig.exit().await.1.kind, Kind::Done);
            }
            if number < SPAWNS {
                let job = rig.job(command(&["/bin/true"]));
                rig.start(job);
            }
        }
        SPAWNS as f64 / started.elapsed().as_secs_f64()
    });
    driver.await.unwrap()
}
