//! Worlds that are not drawn by default: days of laptops, whose quiet time is passed over, disks that lie, and cores that
//! are made to do things against their will.

use clawmesh_sim::{
    plan::{Fault, Fixed, Profile},
    run,
};

/// A morning in which lids are closed for a while and tasks run for up to an hour.
fn morning() -> Fixed {
    Fixed { nodes: Some(4), profile: Profile::Laptop, storm_ms: Some(2 * 3_600_000), plain: true, ..Fixed::default() }
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

#[test]
fn passing_over_quiet_time_changes_no_outcome() {
    // Of the first 24 seeds all but 1 and 5 end alike: there, what users do next depends on a millisecond.
    for (seed, voters) in [(3, false), (10, false), (9, true)] {
        let fixed = Fixed { voters: Some(voters), ..morning() };
        let quick = run::seed(seed, &fixed, None);
        let slow = run::seed(seed, &Fixed { every_second: true, ..fixed.clone() }, None);
        assert!(quick.violation.is_none() && slow.violation.is_none(), "{seed}: {:?} {:?}", quick.violation, slow.violation);
        // What an operator of voters meets depends on milliseconds; who coordinates does not.
        let of =
            |r: &run::Report| r.ends.clone().into_iter().filter(|(what, _)| !voters || what.starts_with("coordinator")).collect::<Vec<_>>();
        assert_eq!(of(&quick), of(&slow), "seed {seed}");
        assert!(voters || quick.acked == slow.acked);
        assert_eq!(slow.skipped_ms, 0);
        assert!(quick.skipped_ms * 2 > quick.virtual_ms, "{} of {}", quick.skipped_ms, quick.virtual_ms);
        assert!(quick.steps * 2 < slow.steps, "{} and {} steps", quick.steps, slow.steps);
    }
}

#[test]
fn a_day_of_laptops_holds_every_invariant() {
    let fixed = Fixed { profile: Profile::Laptop, ..Fixed::default() };
    let sum = run::many(0, 6, &fixed, jobs(), &|_| {});
    assert!(sum.violations.is_empty(), "{:#?}", sum.violations);
    assert!(sum.virtual_ms >= 6 * 86_400_000 && sum.acked > 300, "{} ms, {} tasks", sum.virtual_ms, sum.acked);
    assert!(sum.seen.contains_key("fault: Sleep") && sum.seen.contains_key("fault: Leave"));
}

#[test]
fn what_a_lying_disk_loses_is_noticed() {
    let fixed = Fixed { profile: Profile::Lying, ..Fixed::default() };
    let sum = run::many(0, 40, &fixed, jobs(), &|_| {});
    assert!(sum.violations.is_empty(), "{:#?}", sum.violations);
    for must in ["lying: a disk lost what it had confirmed", "lying: a store was found older than its mark (D3)"] {
        assert!(sum.seen.contains_key(must), "no world showed: {must}");
    }
}

#[test]
fn what_is_made_to_happen_against_its_will_costs_nothing() {
    let fixed = Fixed { faults: Fault::BUGGIFY.to_vec(), voters: Some(false), nodes: Some(4), ..Fixed::default() };
    let sum = run::many_and_twice(0, 10, &fixed, jobs(), 100, &|_| {});
    assert!(sum.violations.is_empty(), "{:#?}", sum.violations);
    for must in ["buggify: Busy", "buggify: DropAck", "buggify: Refuse"] {
        assert!(sum.seen.contains_key(must), "no world showed: {must}");
    }
    assert_eq!(sum.seen.get("run twice and compared"), Some(&(10, 10)));
}
