//! A fixed set of worlds, the seeds that once went wrong, and the proof that a seed means one run.
#![allow(clippy::expect_used, clippy::panic, reason = "a test; clippy only knows those inside #[test]")]

use clawmesh_sim::{
    coverage::SOMETIMES,
    plan::{Fault, Fixed, Profile},
    run,
};

/// How many worlds every test run visits.  Sized for less than a minute on two cores, unoptimised.
const SEEDS: u64 = 200;

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

#[test]
fn a_fixed_set_of_worlds_holds_every_invariant() {
    let sum = run::many(0, SEEDS, &Fixed::default(), jobs(), &|_| {});
    assert_eq!(sum.seeds, SEEDS);
    assert!(sum.violations.is_empty(), "{:#?}", sum.violations);
    assert!(sum.acked > SEEDS * 10, "the worlds must do some work: {} tasks", sum.acked);
    for must in SOMETIMES {
        assert!(sum.seen.contains_key(*must), "no world showed: {must}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 17, 42] {
        let (a, b) = (run::seed(seed, &Fixed::default(), None), run::seed(seed, &Fixed::default(), None));
        assert_eq!((a.hash, a.steps, a.virtual_ms), (b.hash, b.steps, b.virtual_ms), "seed {seed}");
    }
    let hash = |seed| run::seed(seed, &Fixed::default(), None).hash;
    assert_ne!(hash(1), hash(2), "different seeds must differ, or the hash sees nothing");
}

#[test]
fn seeds_that_once_went_wrong_stay_right() {
    let text = include_str!("../seeds.txt");
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let (seed, fixed) = parse(line);
        let r = run::seed(seed, &fixed, None);
        assert!(r.violation.is_none(), "{line}\n{:#?}", r.violation);
    }
}

/// `SEED [nodes=N] [profile=NAME] [mode=open|quorum] [fault=NAME,NAME ...]  # what it taught`
fn parse(line: &str) -> (u64, Fixed) {
    let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
    let seed = words[0].parse().expect("a seed is a number");
    let mut fixed = Fixed::default();
    for w in &words[1..] {
        match w.split_once('=') {
            Some(("nodes", n)) => fixed.nodes = Some(n.parse().expect("nodes is a number")),
            Some(("mode", m)) => fixed.voters = Some(m == "quorum"),
            Some(("fault", f)) => {
                fixed.faults = f.split(',').map(|f| <Fault as clap::ValueEnum>::from_str(f, true).expect("a fault's name")).collect();
            }
            Some(("profile", p)) => fixed.profile = <Profile as clap::ValueEnum>::from_str(p, true).expect("a profile's name"),
            _ => panic!("what is '{w}' in '{line}'?"),
        }
    }
    (seed, fixed)
}
