//! The core of open mode: any side may serve, and the origin, node 0, is the arbiter (E6, T3, W3, O2, O3).

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::{Term, Version, holds, refuted, shipped};

/// One task as a node holds it; outcome 0 is none, otherwise the number of the term that decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Task {
    ver: Version,
    outcome: u8,
    delivered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Role {
    Idle,
    Claiming { term: Term },
    Serving { term: Term, seq: u8, streams: u8 },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Node {
    promised: Term,
    task: Task,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Msg {
    Claim { term: Term, to: u8 },
    Follow { term: Term, from: u8, task: Task },
    Write { term: Term, to: u8, task: Task },
    Deliver { term: Term, outcome: u8 },
    Delivered { term: Term, accepted: u8 },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    nodes: Vec<Node>,
    /// Any of them may arrive next, or never: a split is a message that does not arrive.
    net: BTreeSet<Msg>,
    claims: u8,
    crashes: u8,
    /// What the origin accepted and showed its user; 0 = nothing yet.  Durable there.
    accepted: u8,
    /// The origin's word changed (I6); a disk went back (I7); an old result came through (O2).
    second: bool,
    fell: bool,
    stale: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    Claim(u8),
    Serve(u8),
    Decide(u8),
    Deliver(u8),
    Crash(u8),
    Take(Msg),
}

/// Bounds, and which rule is broken (the numbers are those of `clawmesh-sim mutants`; 0 = none).
#[derive(Clone)]
struct Open {
    nodes: u8,
    claims: u8,
    crashes: u8,
    broken: u8,
    join: shipped::Join,
}

impl Open {
    fn new(nodes: u8, claims: u8, crashes: u8) -> Self {
        Self { nodes, claims, crashes, broken: 0, join: shipped::Join::new() }
    }
    fn broken(self, broken: u8) -> Self {
        Self { broken, ..self }
    }
    fn all(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.nodes
    }

    /// T3; the broken ones are what one would write first.
    fn joined(&self, mine: Task, theirs: Task) -> Task {
        let newer = mine.ver > theirs.ver;
        let blind = match self.broken {
            15 => Some(if newer { mine } else { theirs }),
            34 => Some(theirs),
            _ => None,
        };
        if let Some(t) = blind {
            return Task { ver: mine.ver.max(theirs.ver), ..t };
        }
        let said = |t: Task| {
            (if self.broken == 16 && t.ver == mine.ver.min(theirs.ver) { 0 } else { t.outcome }, t.delivered && self.broken != 17)
        };
        let (outcome, _) = self.join.of(newer, said(mine), said(theirs));
        let delivered = mine.delivered || theirs.delivered;
        Task { ver: mine.ver.max(theirs.ver), outcome, delivered }
    }

    /// What a disk takes; it must never say less than before (I7).
    fn put(s: &mut State, i: u8, t: Task) {
        let old = &mut s.nodes[usize::from(i)].task;
        s.fell |= (old.outcome > 0 && t.outcome == 0) || (old.delivered && !t.delivered) || t.ver < old.ver;
        *old = t;
    }

    /// The coordinator's next version, for everybody it streams to.
    fn write(s: &mut State, i: u8, change: impl FnOnce(&mut Task)) {
        let n = s.nodes[usize::from(i)];
        let Role::Serving { term, seq, streams } = n.role else { return };
        let mut t = n.task;
        change(&mut t);
        t.ver = (term, seq + 1);
        Self::put(s, i, t);
        s.nodes[usize::from(i)].role = Role::Serving { term, seq: seq + 1, streams };
        s.net.extend((0..8).filter(|j| streams & (1 << j) != 0).map(|to| Msg::Write { term, to, task: t }));
    }

    /// O2: the first outcome counts; the answer is what counts.
    fn accept(&self, s: &mut State, outcome: u8) -> u8 {
        if s.accepted == 0 {
            s.accepted = outcome;
        } else if self.broken == 19 && s.accepted != outcome {
            s.second = true;
            s.accepted = outcome;
        }
        s.accepted
    }

    /// O3: what was accepted wins.
    fn settle(s: &mut State, i: u8, accepted: u8) {
        let t = s.nodes[usize::from(i)].task;
        if accepted > 0 && (t.outcome != accepted || !t.delivered) {
            Self::write(s, i, |t| (t.outcome, t.delivered) = (accepted, true));
        }
    }

    fn take(&self, s: &mut State, m: Msg) {
        s.net.remove(&m);
        match m {
            Msg::Claim { term, to } => {
                let n = &mut s.nodes[usize::from(to)];
                if term <= n.promised {
                    return;
                }
                (n.promised, n.role) = (term, Role::Idle);
                let task = n.task;
                s.net.insert(Msg::Follow { term, from: to, task });
                if to == 0 && s.accepted > 0 {
                    s.net.insert(Msg::Delivered { term, accepted: s.accepted });
                }
            }
            Msg::Follow { term, from, task } => {
                let i = term.by;
                let n = s.nodes[usize::from(i)];
                match n.role {
                    Role::Claiming { term: mine } if mine == term => {
                        // It serves no later than now: waiting for others is a matter of time, not of safety.
                        self.serve(s, i);
                    }
                    Role::Serving { term: mine, .. } if mine == term => {}
                    _ => return,
                }
                let n = &mut s.nodes[usize::from(i)];
                if let Role::Serving { streams, .. } = &mut n.role {
                    *streams |= 1 << from;
                }
                let joined = self.joined(n.task, task);
                Self::write(s, i, |t| (t.outcome, t.delivered) = (joined.outcome, joined.delivered));
            }
            Msg::Write { term, to, task } => {
                let n = s.nodes[usize::from(to)];
                let current = term == n.promised || self.broken == 11;
                // W3: newer, and never less.
                if current && (task.ver > n.task.ver || self.broken == 11) {
                    Self::put(s, to, task);
                }
            }
            Msg::Deliver { term, outcome } => {
                let old = term != s.nodes[0].promised;
                if old && self.broken != 18 {
                    return;
                }
                s.stale |= old && s.accepted == 0;
                let accepted = self.accept(s, outcome);
                s.net.insert(Msg::Delivered { term, accepted });
            }
            Msg::Delivered { term, accepted } => {
                if matches!(s.nodes[usize::from(term.by)].role, Role::Serving { term: mine, .. } if mine == term) {
                    Self::settle(s, term.by, accepted);
                }
            }
        }
    }

    fn serve(&self, s: &mut State, i: u8) {
        let Role::Claiming { term } = s.nodes[usize::from(i)].role else { return };
        s.nodes[usize::from(i)].role = Role::Serving { term, seq: 0, streams: 0 };
        Self::write(s, i, |_| {});
        if i == 0 {
            let accepted = s.accepted;
            Self::settle(s, i, accepted);
        }
    }
}

impl Model for Open {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Every node holds the task; nobody has run it.
        let term = Term { n: 1, by: 0 };
        let task = Task { ver: (term, 1), outcome: 0, delivered: false };
        let nodes = vec![Node { promised: term, task, role: Role::Idle }; usize::from(self.nodes)];
        let (claims, crashes) = (self.claims, self.crashes);
        vec![State { nodes, net: BTreeSet::new(), claims, crashes, accepted: 0, second: false, fell: false, stale: false }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        for i in self.all() {
            let n = &s.nodes[usize::from(i)];
            // Two coordinators meet by the claim of one of them above both (E8).
            if s.claims > 0 {
                actions.push(Action::Claim(i));
            }
            if s.crashes > 0 && n.role != Role::Idle {
                actions.push(Action::Crash(i));
            }
            match n.role {
                Role::Idle => {}
                Role::Claiming { .. } => actions.push(Action::Serve(i)),
                Role::Serving { streams, .. } => {
                    if n.task.outcome == 0 {
                        actions.push(Action::Decide(i));
                    } else if !n.task.delivered && (i == 0 || streams & 1 != 0) {
                        actions.push(Action::Deliver(i));
                    }
                }
            }
        }
        actions.extend(s.net.iter().map(|m| Action::Take(*m)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Claim(i) => {
                s.claims -= 1;
                // Above everything heard; who is out of reach may have promised more.
                let n = &mut s.nodes[usize::from(i)];
                let term = Term { n: n.promised.n + 1, by: i };
                (n.promised, n.role) = (term, Role::Claiming { term });
                s.net.extend(self.all().filter(|j| *j != i).map(|to| Msg::Claim { term, to }));
            }
            Action::Serve(i) => self.serve(&mut s, i),
            Action::Decide(i) => Self::write(&mut s, i, |t| t.outcome = 2 * t.ver.0.n + i),
            Action::Deliver(i) => {
                let n = s.nodes[usize::from(i)];
                if let Role::Serving { term, .. } = n.role {
                    if i == 0 {
                        let accepted = self.accept(&mut s, n.task.outcome);
                        Self::settle(&mut s, i, accepted);
                    } else {
                        s.net.insert(Msg::Deliver { term, outcome: n.task.outcome });
                    }
                }
            }
            Action::Crash(i) => {
                s.crashes -= 1;
                s.nodes[usize::from(i)].role = Role::Idle;
            }
            Action::Take(m) => self.take(&mut s, m),
        }
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I6 an origin accepts one outcome", |_, s: &State| !s.second),
            Property::always("I6 what is delivered is what was accepted", |_, s: &State| {
                s.nodes.iter().all(|n| !n.task.delivered || n.task.outcome == s.accepted)
            }),
            Property::always("I7 no disk says less than before", |_, s: &State| !s.fell),
            Property::always("O2 only the promised term delivers", |_, s: &State| !s.stale),
            Property::sometimes("two serve at once", |_, s: &State| {
                s.nodes.iter().filter(|n| matches!(n.role, Role::Serving { .. })).count() > 1
            }),
            Property::sometimes("another outcome than the accepted one was decided", |_, s: &State| {
                s.accepted > 0 && s.nodes.iter().any(|n| n.task.outcome > 0 && n.task.outcome != s.accepted)
            }),
            Property::sometimes("all agree in the end", |m: &Self, s: &State| {
                s.claims < m.claims && s.nodes.iter().all(|n| n.task.delivered && n.task.outcome == s.accepted)
            }),
        ]
    }
}

#[test]
fn an_origin_has_one_outcome_whoever_serves() {
    holds("open core, 2 nodes, 3 claims", Open::new(2, 3, 0));
}

#[test]
#[ignore = "minutes, and gigabytes"]
fn an_origin_has_one_outcome_whoever_serves_within_large_bounds() {
    holds("open core, 3 nodes, 2 claims", Open::new(3, 2, 0));
    holds("open core, 3 nodes, 2 claims, 1 crash", Open::new(3, 2, 1));
}

#[test]
fn broken_rules_of_the_open_core_are_refuted() {
    for (broken, model) in [
        (11, Open::new(3, 2, 0)),
        (15, Open::new(3, 2, 0)),
        (16, Open::new(3, 2, 0)),
        (17, Open::new(3, 2, 0)),
        (18, Open::new(3, 2, 0)),
        (19, Open::new(3, 2, 0)),
        (34, Open::new(3, 2, 0)),
    ] {
        refuted(&format!("M{broken}"), model.broken(broken));
    }
}
