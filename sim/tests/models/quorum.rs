//! The core of quorum mode: promises, pulls, new versions, stability, and the change of voters (E6, T1-T4, W1, C1-C2).

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::{Term, Version, holds, refuted, shipped};

/// One task as a node holds it; outcome 0 is none, otherwise the number of the term that decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Task {
    ver: Version,
    outcome: u8,
}

/// The voters, as bits; `next` while a change is under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Voters {
    ver: Version,
    now: u8,
    next: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Role {
    Idle,
    Claiming { term: Term, pulled: u8 },
    Serving { term: Term, seq: u8, acked: [u8; 5], streams: u8 },
}

/// Durable but for the role.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Node {
    promised: Term,
    task: Option<Task>,
    voters: Voters,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Msg {
    Claim { term: Term, to: u8, voters: Voters },
    Follow { term: Term, from: u8, task: Option<Task>, voters: Voters },
    Write { term: Term, to: u8, seq: u8, task: Option<Task>, voters: Voters },
    Ack { term: Term, from: u8, seq: u8 },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    nodes: Vec<Node>,
    /// Any of them may arrive next, or never.
    net: BTreeSet<Msg>,
    claims: u8,
    crashes: u8,
    changes: u8,
    /// Which outcomes somebody was shown, as bits.
    shown: u16,
    /// The newest version of the task that was stable.
    stable: Option<Task>,
    /// Terms that were served.
    served: BTreeSet<Term>,
    /// Somebody began to serve without what was stable (I3), or a term was served twice (I2).
    lacked: bool,
    twice: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    Claim(u8),
    Serve(u8),
    Submit(u8),
    Decide(u8),
    Change(u8, u8),
    Finish(u8),
    Crash(u8),
    Deliver(Msg),
    /// Claim and answer at once.
    Join(u8, u8),
    /// Write and acknowledgement at once.
    Copy(u8, u8),
}

/// Bounds, and which rule is broken (the numbers are those of `clawmesh-sim mutants`; 0 = none).
#[derive(Clone)]
struct Quorum {
    nodes: u8,
    first: u8,
    claims: u8,
    crashes: u8,
    changes: u8,
    sets: Vec<u8>,
    /// Messages are not delayed: for models in which something else has many states.  Each may still be lost.
    prompt: bool,
    broken: u8,
    join: shipped::Join,
    majority: shipped::Majority,
}

impl Quorum {
    fn new(nodes: u8, claims: u8, crashes: u8) -> Self {
        let (join, majority) = (shipped::Join::new(), shipped::Majority::new());
        Self { nodes, first: (1 << nodes) - 1, claims, crashes, changes: 0, sets: vec![], prompt: false, broken: 0, join, majority }
    }
    fn prompt(nodes: u8, claims: u8, crashes: u8) -> Self {
        Self { prompt: true, ..Self::new(nodes, claims, crashes) }
    }
    /// The first `first` of the nodes vote, until the voters are one of `sets`.
    fn changing(nodes: u8, first: u8, sets: &[u8], claims: u8, changes: u8) -> Self {
        Self { first: (1 << first) - 1, changes, sets: sets.to_vec(), prompt: true, ..Self::new(nodes, claims, 0) }
    }
    /// Three voters of four nodes: one more, one less, one for another.
    fn three(claims: u8, changes: u8) -> Self {
        Self::changing(4, 3, &[0b1111, 0b0110, 0b1110], claims, changes)
    }
    /// Four voters of five nodes: one more, one less.
    fn four(claims: u8, changes: u8) -> Self {
        Self::changing(5, 4, &[0b11111, 0b01110], claims, changes)
    }
    /// Three voters of five nodes, two of which are to be replaced.
    fn replaced(claims: u8, crashes: u8) -> Self {
        Self { crashes, ..Self::changing(5, 3, &[0b11100], claims, 1) }
    }
    fn broken(self, broken: u8) -> Self {
        Self { broken, ..self }
    }
    fn all(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.nodes
    }

    /// Consent to a term, and its pulls.
    fn elected(&self, v: &Voters, yes: u8) -> bool {
        match self.broken {
            5 => true,
            8 => yes.count_ones() > v.now.count_ones() / 2,
            43 => self.majority.of(v.now, 0, yes),
            _ => self.enough(v, yes),
        }
    }
    /// Copies of a write.
    fn copied(&self, v: &Voters, yes: u8) -> bool {
        match self.broken {
            4 => yes != 0,
            8 => yes.count_ones() > v.now.count_ones() / 2,
            14 => yes.count_ones() >= 2,
            _ => self.enough(v, yes),
        }
    }
    fn enough(&self, v: &Voters, yes: u8) -> bool {
        match self.broken {
            39 if v.next != 0 => self.majority.of(v.now, 0, yes),
            40 if v.next != 0 => self.majority.of(v.next, 0, yes),
            _ => self.majority.of(v.now, v.next, yes),
        }
    }
    /// The highest write that enough voters have.
    fn stable_upto(&self, v: &Voters, acked: &[u8; 5]) -> u8 {
        let has = |s: u8| acked.iter().enumerate().filter(|(_, a)| **a >= s).fold(0, |bits, (i, _)| bits | 1 << i);
        let most = acked.iter().copied().max().unwrap_or(0);
        (1..=most).rev().find(|s| self.copied(v, has(*s))).unwrap_or(0)
    }

    /// T3, and while records are pulled the joined one counts as the newest that went into it.
    fn joined(&self, a: Option<Task>, b: Option<Task>) -> Option<Task> {
        let (Some(x), Some(y)) = (a, b) else { return a.or(b) };
        if x.ver == y.ver && x.outcome == y.outcome {
            return a;
        }
        let mut newer = x.ver > y.ver;
        if self.broken == 3 && x.outcome > 0 && y.outcome > 0 {
            newer = !newer;
        }
        Some(Task { ver: x.ver.max(y.ver), outcome: self.join.of(newer, (x.outcome, false), (y.outcome, false)).0 })
    }

    /// Writes what changed under the coordinator's next number and sends it to whom it streams.
    fn write(s: &mut State, i: u8, change: impl FnOnce(&mut Node, Version)) {
        let Role::Serving { term, seq, mut acked, streams } = s.nodes[usize::from(i)].role else { return };
        let n = &mut s.nodes[usize::from(i)];
        change(n, (term, seq + 1));
        acked[usize::from(i)] = seq + 1;
        n.role = Role::Serving { term, seq: seq + 1, acked, streams };
        let (task, voters) = (n.task, n.voters);
        for to in (0..8).filter(|j| streams & (1 << j) != 0) {
            s.net.insert(Msg::Write { term, to, seq: seq + 1, task, voters });
        }
    }

    /// What is stable now is shown.
    fn show(&self, s: &mut State, i: u8) {
        let n = s.nodes[usize::from(i)];
        let Role::Serving { term, acked, .. } = n.role else { return };
        let Some(t) = n.task else { return };
        let inherited = t.ver.0 != term;
        let safe = if inherited { self.broken == 10 } else { t.ver.1 <= self.stable_upto(&n.voters, &acked) };
        if safe {
            s.shown |= if t.outcome > 0 { 1 << t.outcome } else { 0 };
            s.stable = s.stable.max(Some(t));
        }
    }

    fn config_stable(&self, n: &Node) -> bool {
        let Role::Serving { term, acked, .. } = n.role else { return false };
        let own = n.voters.ver.0 == term && n.voters.ver.1 <= self.stable_upto(&n.voters, &acked);
        own || self.broken == 42 && n.voters.ver.0 != term
    }

    fn adopt(&self, n: &mut Node, i: u8, v: Voters) {
        if v.ver <= n.voters.ver {
            return;
        }
        n.voters = v;
        let votes = (v.now | v.next) & (1 << i) != 0;
        if matches!(n.role, Role::Serving { .. }) || !votes {
            n.role = Role::Idle;
        }
    }

    fn deliver(&self, s: &mut State, m: Msg) {
        s.net.remove(&m);
        match m {
            Msg::Claim { term, to, voters } => {
                let n = &mut s.nodes[usize::from(to)];
                if term <= n.promised {
                    return;
                }
                n.role = Role::Idle;
                if self.broken != 2 {
                    n.promised = term;
                }
                self.adopt(n, to, voters);
                let (task, voters) = (n.task, n.voters);
                s.net.insert(Msg::Follow { term, from: to, task, voters });
            }
            Msg::Follow { term, from, task, voters } => self.followed(s, term, from, task, voters),
            Msg::Write { term, to, seq, task, voters } => {
                let n = &mut s.nodes[usize::from(to)];
                if term != n.promised && !(self.broken == 11 && term < n.promised) {
                    return;
                }
                if task.map(|t| t.ver) > n.task.map(|t| t.ver) || self.broken == 11 {
                    n.task = task;
                }
                self.adopt(n, to, voters);
                // A later acknowledgement says all that an earlier one does.
                s.net.retain(|m| !matches!(m, Msg::Ack { term: t, from, .. } if *t == term && *from == to));
                s.net.insert(Msg::Ack { term, from: to, seq });
            }
            Msg::Ack { term, from, seq } => {
                let i = term.by;
                if let Role::Serving { term: mine, acked, seq: last, .. } = &mut s.nodes[usize::from(i)].role
                    && (*mine == term || self.broken == 7)
                {
                    let a = &mut acked[usize::from(from)];
                    *a = seq.min(*last).max(*a);
                    self.show(s, i);
                }
            }
        }
    }

    /// Delivers this message, if it was sent.
    fn answer(&self, s: &mut State, which: impl Fn(&Msg) -> bool) {
        if let Some(m) = s.net.iter().copied().find(which) {
            self.deliver(s, m);
        }
    }

    /// T1, T2: what the follower holds is taken in; only then it is written to.
    fn followed(&self, s: &mut State, term: Term, from: u8, task: Option<Task>, voters: Voters) {
        let i = term.by;
        let n = &mut s.nodes[usize::from(i)];
        let (mine, ours) = match n.role {
            Role::Claiming { term, .. } | Role::Serving { term, .. } => (term, true),
            Role::Idle => (term, false),
        };
        if !ours || mine != term {
            return;
        }
        if self.broken != 41 {
            self.adopt(n, i, voters);
        }
        let mut joined = self.joined(n.task, task);
        if self.broken == 13 && matches!(n.role, Role::Serving { .. }) && task.is_some_and(|t| t.outcome > 0) {
            joined = task;
        }
        match &mut n.role {
            Role::Idle => {}
            Role::Claiming { pulled, .. } => {
                *pulled |= 1 << from;
                n.task = joined;
            }
            Role::Serving { streams, seq, .. } => {
                *streams |= 1 << from;
                if joined.map(|t| t.outcome) == n.task.map(|t| t.outcome) {
                    let m = Msg::Write { term, to: from, seq: *seq, task: n.task, voters: n.voters };
                    s.net.insert(m);
                } else {
                    Self::write(s, i, |n, ver| n.task = joined.map(|t| Task { ver, ..t }));
                }
            }
        }
    }

    fn serve(&self, s: &mut State, i: u8) {
        let n = &mut s.nodes[usize::from(i)];
        let Role::Claiming { term, pulled } = n.role else { return };
        n.role = Role::Serving { term, seq: 0, acked: [0; 5], streams: pulled & !(1 << i) };
        s.twice |= !s.served.insert(term);
        let has = n.task;
        // A late one serves in vain, below a term in which something is stable: nothing of its own can be.
        let lacks = |was: Task| has.is_none_or(|t| t.ver < was.ver || was.outcome > 0 && t.outcome != was.outcome);
        s.lacked |= s.stable.is_some_and(|was| was.ver.0 < term && lacks(was));
        // T4, C2: both are written again before anything else.
        Self::write(s, i, |n, ver| {
            if self.broken != 42 {
                n.voters.ver = ver;
            }
            if let Some(t) = n.task.as_mut().filter(|_| self.broken != 10) {
                t.ver = ver;
            }
        });
        self.show(s, i);
    }
}

impl Model for Quorum {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Term 1 of node 0 has begun, with these voters.
        let term = Term { n: 1, by: 0 };
        let voters = Voters { ver: (term, 1), now: self.first, next: 0 };
        let idle = Node { promised: term, task: None, voters, role: Role::Idle };
        let mut nodes = vec![idle; usize::from(self.nodes)];
        let mut acked = [0; 5];
        self.all().filter(|i| self.first & (1 << i) != 0).for_each(|i| acked[usize::from(i)] = 1);
        nodes[0].role = Role::Serving { term, seq: 1, acked, streams: (1 << self.nodes) - 2 };
        vec![State {
            nodes,
            net: BTreeSet::new(),
            claims: self.claims,
            crashes: self.crashes,
            changes: self.changes,
            shown: 0,
            stable: None,
            served: [term].into(),
            lacked: false,
            twice: false,
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        for i in self.all() {
            let n = &s.nodes[usize::from(i)];
            let votes = (n.voters.now | n.voters.next) & (1 << i) != 0;
            if s.claims > 0 && votes && !matches!(n.role, Role::Serving { .. }) {
                actions.push(Action::Claim(i));
            }
            if s.crashes > 0 && n.role != Role::Idle {
                actions.push(Action::Crash(i));
            }
            match n.role {
                Role::Idle => {}
                Role::Claiming { pulled, .. } => {
                    if self.elected(&n.voters, pulled | 1 << i) {
                        actions.push(Action::Serve(i));
                    }
                }
                Role::Serving { .. } => {
                    match n.task {
                        None => actions.push(Action::Submit(i)),
                        Some(t) if t.outcome == 0 => actions.push(Action::Decide(i)),
                        Some(_) => {}
                    }
                    if n.voters.next != 0 && (self.config_stable(n) || self.broken == 38) {
                        actions.push(Action::Finish(i));
                    }
                    if n.voters.next == 0 && s.changes > 0 && self.config_stable(n) {
                        actions.extend(self.sets.iter().filter(|v| **v != n.voters.now).map(|v| Action::Change(i, *v)));
                    }
                }
            }
        }
        if !self.prompt {
            return actions.extend(s.net.iter().map(|m| Action::Deliver(*m)));
        }
        for i in self.all() {
            let (term, acked, streams, seq) = match s.nodes[usize::from(i)].role {
                Role::Idle => continue,
                Role::Claiming { term, .. } => (term, [0; 5], 0, 0),
                Role::Serving { term, acked, streams, seq } => (term, acked, streams, seq),
            };
            let others = || self.all().filter(move |j| *j != i);
            actions.extend(others().filter(|j| s.nodes[usize::from(*j)].promised < term).map(|j| Action::Join(i, j)));
            let behind = |j: &u8| streams & (1 << j) != 0 && acked[usize::from(*j)] < seq && s.nodes[usize::from(*j)].promised == term;
            actions.extend(others().filter(behind).map(|j| Action::Copy(i, j)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            Action::Claim(i) => {
                s.claims -= 1;
                let n = &mut s.nodes[usize::from(i)];
                let again = self.broken == 6 && n.promised.by == i;
                let term = Term { n: n.promised.n + u8::from(!again), by: i };
                n.promised = term;
                n.role = Role::Claiming { term, pulled: 0 };
                let voters = n.voters;
                s.net.extend(self.all().filter(|j| *j != i).map(|to| Msg::Claim { term, to, voters }));
            }
            Action::Serve(i) => self.serve(&mut s, i),
            Action::Submit(i) => {
                Self::write(&mut s, i, |n, ver| n.task = Some(Task { ver, outcome: 0 }));
                self.show(&mut s, i);
            }
            Action::Decide(i) => {
                Self::write(&mut s, i, |n, ver| n.task = Some(Task { ver, outcome: ver.0.n }));
                self.show(&mut s, i);
            }
            Action::Change(i, set) => {
                s.changes -= 1;
                let at_once = self.broken == 37;
                Self::write(&mut s, i, |n, ver| {
                    let now = if at_once { set } else { n.voters.now };
                    n.voters = Voters { ver, now, next: if at_once { 0 } else { set } };
                });
                self.show(&mut s, i);
            }
            Action::Finish(i) => {
                Self::write(&mut s, i, |n, ver| n.voters = Voters { ver, now: n.voters.next, next: 0 });
                self.show(&mut s, i);
            }
            Action::Crash(i) => {
                s.crashes -= 1;
                let n = &mut s.nodes[usize::from(i)];
                n.role = Role::Idle;
                match self.broken {
                    1 => n.promised = Term { n: 1, by: 0 },
                    12 => n.task = None,
                    _ => {}
                }
            }
            Action::Deliver(m) => self.deliver(&mut s, m),
            Action::Join(i, to) => {
                let n = s.nodes[usize::from(i)];
                if let Role::Claiming { term, .. } | Role::Serving { term, .. } = n.role {
                    self.deliver(&mut s, Msg::Claim { term, to, voters: n.voters });
                    self.answer(&mut s, |m| matches!(m, Msg::Follow { from, .. } if *from == to));
                }
            }
            Action::Copy(i, to) => {
                let n = s.nodes[usize::from(i)];
                if let Role::Serving { term, seq, .. } = n.role {
                    self.deliver(&mut s, Msg::Write { term, to, seq, task: n.task, voters: n.voters });
                    self.answer(&mut s, |m| matches!(m, Msg::Ack { from, .. } if *from == to));
                }
            }
        }
        if self.prompt {
            s.net.clear();
        }
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("I2 a term is served once", |_, s: &State| !s.twice),
            Property::always("I3 who serves has all that was stable", |_, s: &State| !s.lacked),
            Property::always("I6 one outcome is shown", |_, s: &State| s.shown.count_ones() <= 1),
            Property::sometimes("an outcome of a later term is shown", |_, s: &State| s.shown > 2),
            Property::sometimes("a stable task is taken over", |_, s: &State| {
                s.served.len() > 1 && s.stable.is_some_and(|t| t.ver.0.n > 1)
            }),
        ];
        if self.changes > 0 {
            all.push(Property::sometimes("other voters stand alone, and a later term by them shows something", |m: &Self, s: &State| {
                s.shown > 2 && s.nodes.iter().any(|n| n.voters.now != m.first && n.voters.next == 0 && n.voters.ver.0.n > 1)
            }));
        }
        all
    }
}

#[test]
fn a_majority_keeps_its_word() {
    holds("quorum core, 3 nodes, 1 claim, 1 crash", Quorum::new(3, 1, 1));
    holds("quorum core without delays, 3 nodes, 3 claims, 1 crash", Quorum::prompt(3, 3, 1));
}

#[test]
fn a_change_of_voters_keeps_the_word_of_the_old_ones() {
    holds("voter change, 3 of 4 nodes, 1 claim, 1 change", Quorum::three(1, 1));
}

#[test]
#[ignore = "minutes, and gigabytes"]
fn a_majority_keeps_its_word_within_large_bounds() {
    holds("quorum core, 3 nodes, 2 claims, 1 crash", Quorum::new(3, 2, 1));
    holds("quorum core without delays, 5 nodes, 2 claims, 1 crash", Quorum::prompt(5, 2, 1));
}

#[test]
#[ignore = "minutes, and gigabytes"]
fn a_change_of_voters_keeps_the_word_of_the_old_ones_within_large_bounds() {
    holds("voter change, 3 of 4 nodes, 2 claims, 1 change", Quorum::three(2, 1));
    holds("voter change, 3 of 5 nodes, 2 claims, 1 crash, 1 change", Quorum::replaced(2, 1));
    holds("voter change, 4 of 5 nodes, 2 claims, 2 changes", Quorum::four(2, 2));
}

#[test]
fn broken_rules_of_the_quorum_core_are_refuted() {
    for (broken, model) in [
        (1, Quorum::new(3, 2, 1)),
        (2, Quorum::new(3, 1, 0)),
        (3, Quorum::prompt(3, 3, 2)),
        (4, Quorum::new(3, 1, 0)),
        (5, Quorum::new(3, 1, 0)),
        (6, Quorum::new(3, 2, 1)),
        (7, Quorum::new(3, 2, 1)),
        (10, Quorum::prompt(3, 3, 2)),
        (11, Quorum::new(3, 1, 0)),
        (12, Quorum::new(3, 1, 1)),
        (13, Quorum::prompt(3, 1, 0)),
        (14, Quorum::prompt(5, 1, 0)),
    ] {
        refuted(&format!("M{broken}"), model.broken(broken));
    }
}

#[test]
fn broken_changes_of_voters_are_refuted() {
    for (broken, model) in [
        (8, Quorum::three(1, 1)),
        (37, Quorum::replaced(1, 0)),
        (38, Quorum::replaced(1, 0)),
        (39, Quorum::replaced(1, 0)),
        (40, Quorum::replaced(1, 0)),
        (41, Quorum::replaced(1, 0)),
        (43, Quorum::replaced(1, 0)),
    ] {
        refuted(&format!("M{broken}"), model.broken(broken));
    }
}

/// Too deep to be found by trying everything: node 0 begins a change that nobody else hears of; node 1, elected without
/// it, begins another one; node 0 comes back and finishes its own, which is older than that of node 1.
#[test]
fn voters_that_a_new_term_does_not_write_again_are_no_voters() {
    use Action::{Change, Claim, Copy, Crash, Finish, Join, Serve, Submit};
    let (a, b) = (0b11100, 0b00110);
    let begun = [Change(0, a), Crash(0), Claim(1), Join(1, 2), Serve(1), Copy(1, 2), Change(1, b), Crash(1)];
    let back = [Claim(0), Claim(0), Join(0, 2), Join(0, 3), Join(0, 4), Serve(0)];
    let over = [Finish(0), Copy(0, 3), Copy(0, 4), Submit(0), Copy(0, 3), Copy(0, 4), Claim(1), Join(1, 2), Serve(1)];
    let way: Vec<Action> = begun.into_iter().chain(back).chain(over).collect();
    let model = |broken| Quorum { crashes: 2, ..Quorum::changing(5, 3, &[a, b], 4, 2) }.broken(broken);
    let walk = |m: &Quorum| {
        let mut s = m.init_states().remove(0);
        for (i, step) in way.iter().enumerate() {
            let mut can = vec![];
            m.actions(&s, &mut can);
            if !can.contains(step) {
                return Err(i);
            }
            s = m.next_state(&s, *step).unwrap();
        }
        Ok(s.lacked)
    };
    assert_eq!(walk(&model(42)), Ok(true), "M42 breaks I3");
    assert_eq!(walk(&model(0)), Err(begun.len() + back.len()), "the change can't be finished before it is stable in this term");
}
