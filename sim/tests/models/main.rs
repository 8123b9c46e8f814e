//! Exhaustive models of the protocol's core, checked with stateright: every order of messages, crashes and claims within
//! small bounds, and each broken variant that belongs to them is refuted.
//!
//! How two records become one and what is a majority is asked of the shipped code (`shipped.rs`); the rest of a node is
//! written down here in a few lines, because a whole core has too many states.  The simulator runs the whole core.
//!
//! `cargo test --release -p clawmesh-sim --test models -- --ignored --nocapture` checks the large bounds, in minutes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests; clippy only knows those inside #[test]")]

mod open;
mod quorum;
mod shipped;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Model};

/// A term: its number, and who claimed it.  Ordered as [`clawmesh_protocol::ids::Epoch`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
struct Term {
    n: u8,
    by: u8,
}

/// A write: its term and number.
type Version = (Term, u8);

/// All states were seen, no promise was broken, and what must be possible was seen to happen.
fn holds<M>(what: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    let start = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{what}: {} states, depth {}, {:.0} s", checker.unique_state_count(), checker.max_depth(), start.elapsed().as_secs_f64());
    checker.assert_properties();
    assert!(checker.is_done(), "not all states were seen");
}

/// Within these bounds the broken variant breaks a promise; returns the shortest way to it.
fn refuted<M>(what: &str, model: M) -> String
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    let start = Instant::now();
    let always: Vec<&str> =
        model.properties().iter().filter(|p| matches!(p.expectation, stateright::Expectation::Always)).map(|p| p.name).collect();
    let any = stateright::HasDiscoveries::AnyOf(always.iter().copied().collect());
    let checker = model.checker().threads(2).finish_when(any).spawn_bfs().join();
    let found = always.iter().find_map(|p| checker.discovery(p).map(|path| (*p, path.into_actions())));
    let (property, way) = found.unwrap_or_else(|| panic!("{what} breaks nothing in {} states", checker.unique_state_count()));
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: breaks '{property}' in {} steps, {} states, {seconds:.1} s", way.len(), checker.unique_state_count());
    format!("{property}: {way:?}")
}
