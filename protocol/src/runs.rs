//! How often this node's skills have run, and how they ended: counted where they run, kept across restarts, told by gossip.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};

use crate::{
    codec,
    ids::{Hash, Peer},
    io::{Event, Output},
    mesh::Mesh,
    message::Gossip,
    record::End,
    schedule::Key,
    skill::{RUNS_MAX, SKILLS_MAX, SkillRun, SkillRuns},
    spec::{Kind, Need},
    wire_struct,
};

/// Buckets per doubling of the run time: a figure from them is right to within a fifth.
const PER_DOUBLING: u32 = 4;
/// From so many counted runs on, all buckets are halved: old runs fade.
const COUNTED_MAX: u64 = 2_000;
/// Most bytes of one telling: gossip takes 8 KiB, and 64 skills with long names are more.
const TOLD_BYTES_MAX: usize = 6 << 10;
/// Pause between two tellings in periods of the advert.
const PERIODS: u64 = 5;

wire_struct! {
    /// What is kept of one skill.
    pub struct Tally {
        /// The figures that are told.
        1 => run: SkillRun,
        /// Sum of all run times, ms.
        2 => total_ms: u64,
        /// How many runs fell into a bucket: bucket, count.
        3 => buckets: Vec<(u64, u64)>,
    }
}

/// The tallies of this node, at most [`SKILLS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Runs {
    own: BTreeMap<String, Tally>,
    /// Changed since they were last told.
    changed: BTreeSet<String>,
    /// Told last in turn.
    turn: String,
    tell_at: u64,
}

/// The bucket of a run time: [`PER_DOUBLING`] for each power of two, and one each below.
fn bucket(ms: u64) -> u64 {
    if ms < u64::from(PER_DOUBLING) {
        return ms;
    }
    let power = ms.ilog2();
    let quarter = (ms >> (power - PER_DOUBLING.ilog2())) & u64::from(PER_DOUBLING - 1);
    u64::from(power) * u64::from(PER_DOUBLING) + quarter
}

/// The longest run time of a bucket, ms.
fn longest(bucket: u64) -> u64 {
    let per = u64::from(PER_DOUBLING);
    if bucket < per {
        return bucket;
    }
    let (power, quarter) = (bucket / per, bucket % per);
    let step = 1u64 << power.saturating_sub(u64::from(PER_DOUBLING.ilog2())).min(60);
    (per + quarter + 1).saturating_mul(step).saturating_sub(1)
}

impl Tally {
    fn new(name: &str, hash: &str) -> Self {
        let run = SkillRun { name: name.into(), hash: hash.into(), ..SkillRun::default() };
        Self { run, total_ms: 0, buckets: Vec::new(), ext: Default::default() }
    }

    fn count(&mut self, succeeded: bool, ms: u64, wall_ms: u64) {
        self.run.runs += 1;
        self.run.succeeded += u64::from(succeeded);
        self.total_ms = self.total_ms.saturating_add(ms);
        let b = bucket(ms);
        match self.buckets.binary_search_by_key(&b, |(b, _)| *b) {
            Ok(i) => self.buckets[i].1 += 1,
            Err(i) => self.buckets.insert(i, (b, 1)),
        }
        let counted: u64 = self.buckets.iter().map(|(_, n)| n).sum();
        if counted >= COUNTED_MAX {
            self.buckets.iter_mut().for_each(|(_, n)| *n /= 2);
            self.buckets.retain(|(_, n)| *n > 0);
        }
        self.run.mean_ms = self.total_ms / self.run.runs.max(1);
        self.run.p95_ms = self.p95();
        self.run.last = wall_ms;
    }

    fn p95(&self) -> u64 {
        let counted: u64 = self.buckets.iter().map(|(_, n)| n).sum();
        let mut below = 0;
        for (b, n) in &self.buckets {
            below += n;
            if below * 100 >= counted * 95 {
                return longest(*b);
            }
        }
        0
    }
}

impl Runs {
    pub(crate) fn load(&mut self, value: &[u8]) -> Result<(), codec::Malformed> {
        let t: Tally = codec::decode(value)?;
        self.changed.insert(t.run.name.clone());
        self.own.insert(t.run.name.clone(), t);
        Ok(())
    }

    fn own(&self, name: &str) -> Option<&SkillRun> {
        self.own.get(name).map(|t| &t.run)
    }

    /// What changed, then the others in turn, so that who missed it or came later hears all of it; as much as one message holds.
    fn next(&mut self) -> Vec<SkillRun> {
        let after = self.own.range::<String, _>((core::ops::Bound::Excluded(&self.turn), core::ops::Bound::Unbounded));
        let turn = after.map(|(n, _)| n).chain(self.own.keys()).take(self.own.len());
        let (mut names, mut bytes): (Vec<String>, usize) = (Vec::new(), 0);
        for (n, in_turn) in self.changed.iter().map(|n| (n, false)).chain(turn.map(|n| (n, true))) {
            let Some(t) = self.own.get(n).filter(|_| !names.contains(n)) else { continue };
            bytes += codec::encode(&t.run).len();
            if names.len() >= RUNS_MAX || bytes > TOLD_BYTES_MAX {
                break;
            }
            if in_turn {
                self.turn.clone_from(n);
            }
            names.push(n.clone());
        }
        for n in &names {
            self.changed.remove(n);
        }
        names.iter().filter_map(|n| self.own(n)).cloned().collect()
    }
}

/// A run of this counts for its skill.
fn counts(need: &Need) -> bool {
    need.kind != Kind::Builtin && !need.skill.is_empty()
}

impl Mesh {
    /// An attempt of this node has ended.
    pub(crate) fn count_run(&mut self, need: &Need, exit_end: End, ran_ms: u64) {
        if !counts(need) || matches!(exit_end, End::Returned | End::Cancelled) {
            return;
        }
        let hash = self.catalogue.skills.iter().find(|s| s.name == need.skill).map(|s| s.hash.clone());
        let Some(hash) = hash else { return };
        self.make_room(&need.skill);
        let wall = self.wall;
        let t = self.runs.own.entry(need.skill.clone()).or_insert_with(|| Tally::new(&need.skill, &hash));
        if t.run.hash != hash {
            *t = Tally::new(&need.skill, &hash);
        }
        t.count(exit_end == End::Done, ran_ms, wall);
        let value = codec::encode(t);
        self.runs.changed.insert(need.skill.clone());
        self.put(Key::tally(&need.skill), value);
        self.wake_at(self.runs.tell_at);
    }

    /// At the bound the skill that ran longest ago is forgotten.
    fn make_room(&mut self, name: &str) {
        if self.runs.own.len() < SKILLS_MAX || self.runs.own.contains_key(name) {
            return;
        }
        let oldest = self.runs.own.iter().min_by_key(|(_, t)| t.run.last).map(|(n, _)| n.clone());
        if let Some(o) = oldest {
            self.runs.own.remove(&o);
            self.runs.changed.remove(&o);
            self.delete(Key::tally(&o));
        }
    }

    /// What a skill's runs on a node were, by the node's own word.
    pub(crate) fn runs_of(&self, peer: &Peer, name: &str, hash: &str) -> Option<&SkillRun> {
        let run = if *peer == self.me { self.runs.own(name) } else { self.view.runs.get(peer).and_then(|(_, r)| r.get(name)) };
        run.filter(|r| r.hash == hash)
    }

    pub(crate) fn tell_runs(&mut self) {
        if self.runs.own.is_empty() {
            return;
        }
        if self.now < self.runs.tell_at {
            return self.wake_at(self.runs.tell_at);
        }
        self.runs.tell_at = self.now + self.advert_period() * PERIODS;
        let runs = self.runs.next();
        let msg = Gossip::Runs(SkillRuns { boot: self.boot, runs, ext: Default::default() });
        self.output(Output::Publish { msg, after: 0 });
        self.wake_at(self.runs.tell_at);
    }

    pub(crate) fn on_runs(&mut self, from: Peer, told: SkillRuns) {
        if told.runs.len() > RUNS_MAX || self.view.get(&from).is_none() {
            return self.event(Event::Dropped("skill_runs"));
        }
        let (boot, known) = self.view.runs.entry(from).or_insert_with(|| (told.boot, BTreeMap::new()));
        if told.boot < *boot {
            return;
        }
        *boot = told.boot;
        for r in told.runs {
            if known.len() < SKILLS_MAX || known.contains_key(&r.name) {
                known.insert(r.name.clone(), r);
            }
        }
    }
}

impl Key {
    /// A skill's name can be longer than a key should be.
    pub(crate) fn tally(name: &str) -> Vec<u8> {
        let mut k = Vec::with_capacity(17);
        k.push(b'k');
        k.extend_from_slice(&Hash::of(name.as_bytes()).0[..16]);
        k
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_right_to_within_a_fifth() {
        let mut last = 0;
        for ms in (0..5_000).chain([1 << 20, 1 << 31, 30 * 86_400_000, u64::MAX / 4]) {
            let b = bucket(ms);
            assert!(b >= last, "{ms}");
            last = b;
            let l = longest(b);
            assert!(l >= ms && l - ms <= ms / 4, "{ms} is in a bucket up to {l}");
        }
    }

    #[test]
    fn a_telling_fits_into_gossip_and_everything_has_its_turn() {
        let mut r = Runs::default();
        let names: Vec<String> = (0..200).map(|i| alloc::format!("{i:0>128}")).collect();
        for n in &names {
            let mut t = Tally::new(n, &"f".repeat(64));
            t.count(true, u64::MAX / 4, u64::MAX / 4);
            r.own.insert(n.clone(), t);
            r.changed.insert(n.clone());
        }
        for _ in 0..2 {
            let mut told = BTreeSet::new();
            for _ in 0..10 {
                let runs = r.next();
                told.extend(runs.iter().map(|r| r.name.clone()));
                let msg = Gossip::Runs(SkillRuns { boot: u64::MAX, runs, ext: Default::default() });
                assert!(codec::encode(&msg).len() < 8 << 10);
            }
            assert_eq!(told.len(), 200);
            assert!(r.changed.is_empty());
        }
    }

    #[test]
    fn old_runs_fade_and_the_mean_does_not() {
        let mut t = Tally::new("a", "h");
        for _ in 0..5_000 {
            t.count(true, 10, 1);
        }
        for _ in 0..2_000 {
            t.count(false, 1_000, 2);
        }
        assert_eq!((t.run.runs, t.run.succeeded, t.run.mean_ms, t.run.last), (7_000, 5_000, 292, 2));
        assert!(t.run.p95_ms >= 1_000 && t.run.p95_ms < 1_200, "{}", t.run.p95_ms);
        assert!(codec::encode(&t).len() < 200);
    }
}
