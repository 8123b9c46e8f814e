//! Which rules of the protocol were at work, and which situations were met: a check that nothing could have failed proves
//! nothing.

use clawmesh_protocol::rule::Rule;
use serde::Serialize;

use crate::run::Summary;

/// What enough seeds must have met at least once.
pub const SOMETIMES: &[&str] = &[
    "end: at rest",
    "event: claimed",
    "event: joined",
    "processes started",
    "results told",
    "cancels confirmed",
    "attempt ended: lost",
    "attempt ended: crashed",
    "sometimes: two coordinators at once",
    "sometimes: records were pulled at a takeover or join",
    "sometimes: a running attempt was killed",
    "sometimes: a second or later attempt",
    "sometimes: a disk was destroyed",
    "sometimes: a node left in order",
    "sometimes: a change of voters was under way",
    "operator: voters changed",
    "sometimes: a submit came through a relay",
    "relay: a forged one",
    "dropped: relay_again",
];

/// One rule.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its number.
    pub rule: String,
    /// The README of the protocol does not mark it as missing.
    pub implemented: bool,
    /// How often it decided something.
    pub fired: u64,
    /// In how many seeds.
    pub seeds: u64,
}

/// What a number of seeds covered.
#[derive(Debug, Clone, Serialize)]
pub struct Coverage {
    /// Seeds run.
    pub seeds: u64,
    /// All rules.
    pub rules: Vec<Row>,
    /// What should have been met and was not.
    pub never: Vec<String>,
}

impl Coverage {
    /// Judges a sum.
    pub fn of(sum: &Summary) -> Self {
        let seen = |what: &str| sum.seen.get(what).copied().unwrap_or_default();
        let rules = Rule::ALL.into_iter().map(|r| {
            let rule = format!("{r:?}");
            let (fired, seeds) = seen(&format!("rule: {rule}"));
            Row { implemented: implemented(&rule), rule, fired, seeds }
        });
        let never = SOMETIMES.iter().filter(|s| seen(s).0 == 0).map(|s| (*s).to_owned());
        Self { seeds: sum.seeds, rules: rules.collect(), never: never.collect() }
    }

    /// Rules that are there and did nothing.
    pub fn idle(&self) -> Vec<&str> {
        self.rules.iter().filter(|r| r.implemented && r.fired == 0).map(|r| r.rule.as_str()).collect()
    }

    /// Nothing is missing.
    pub fn complete(&self) -> bool {
        self.idle().is_empty() && self.never.is_empty()
    }
}

/// The protocol's own text says what is there: its line begins with the rule's number, and `*(not yet)*` follows that of
/// a missing one.
fn implemented(rule: &str) -> bool {
    let readme = include_str!("../../protocol/README.md");
    let line = readme.lines().find_map(|l| l.strip_prefix(&format!("- **{rule}** ")));
    line.is_some_and(|l| !l.starts_with("*(not yet)*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_says_which_rules_are_there() {
        assert!(implemented("D1") && implemented("V1") && implemented("E9"));
        assert!(!implemented("D9"), "there is no such rule");
        let there = Rule::ALL.into_iter().filter(|r| implemented(&format!("{r:?}"))).count();
        assert!(there >= 46, "{there} rules are there: has the README's form changed?");
    }

    #[test]
    fn an_idle_rule_and_an_unseen_situation_are_missed() {
        let mut sum = Summary::default();
        for r in Rule::ALL {
            sum.seen.insert(format!("rule: {r:?}"), (1, 1));
        }
        for s in SOMETIMES {
            sum.seen.insert((*s).to_owned(), (1, 1));
        }
        assert!(Coverage::of(&sum).complete());
        sum.seen.remove("rule: W1");
        assert_eq!(Coverage::of(&sum).idle(), ["W1"]);
        sum.seen.remove(SOMETIMES[3]);
        assert_eq!(Coverage::of(&sum).never, [SOMETIMES[3]]);
    }
}
