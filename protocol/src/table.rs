//! All tasks this node holds: the records, their order, and the digests that compare two tables in
//! 32 bytes (T1).

use alloc::{collections::BTreeMap, collections::BTreeSet, string::String, vec, vec::Vec};
use core::ops::Bound;

use crate::{
    ids::{Hash, Origin, ShortId, TaskId, Ver},
    record::{Queued, Rec},
};

/// Number of digest buckets.
pub const BUCKETS: usize = 4_096;

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) rec: Rec,
    /// The encoded record, as received or as written: what is stored and forwarded (V1).
    pub(crate) bytes: Vec<u8>,
}

/// The table.  Bounded by the mesh's task and retention caps.
#[derive(Debug)]
pub(crate) struct Table {
    map: BTreeMap<TaskId, Entry>,
    shorts: BTreeMap<ShortId, TaskId>,
    order: BTreeSet<(Queued, TaskId)>,
    ended: BTreeSet<(Ver, TaskId)>,
    members: Vec<BTreeSet<TaskId>>,
    digests: Vec<u128>,
    root: u128,
}

fn digest(id: &TaskId, ver: &Ver) -> u128 {
    let mut buf = [0u8; 56 + 48];
    buf[..56].copy_from_slice(&id.key());
    buf[56..64].copy_from_slice(&ver.epoch.n.to_be_bytes());
    buf[64..96].copy_from_slice(&ver.epoch.peer.0);
    buf[96..].copy_from_slice(&ver.seq.to_be_bytes());
    let h = Hash::of(&buf).0;
    let mut d = [0; 16];
    d.copy_from_slice(&h[..16]);
    u128::from_be_bytes(d)
}

/// The bucket of a task: 12 bits of the hash of its id.
pub(crate) fn bucket(short: ShortId) -> usize {
    usize::from(short.0[0]) << 4 | usize::from(short.0[1] >> 4)
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            map: BTreeMap::new(),
            shorts: BTreeMap::new(),
            order: BTreeSet::new(),
            ended: BTreeSet::new(),
            members: vec![BTreeSet::new(); BUCKETS],
            digests: vec![0; BUCKETS],
            root: 0,
        }
    }

    /// Puts a record in place of the older one.
    pub(crate) fn put(&mut self, rec: Rec, bytes: Vec<u8>) {
        let id = rec.id;
        let short = id.short();
        let b = bucket(short);
        let mut change = digest(&id, &rec.ver);
        if let Some(old) = self.map.get(&id) {
            change ^= digest(&id, &old.rec.ver);
            self.ended.remove(&(old.rec.ver, id));
            if old.rec.queued != rec.queued {
                self.order.remove(&(old.rec.queued, id));
            }
        } else {
            self.shorts.insert(short, id);
            self.members[b].insert(id);
        }
        self.order.insert((rec.queued, id));
        if rec.terminal() {
            self.ended.insert((rec.ver, id));
        }
        self.digests[b] ^= change;
        self.root ^= change;
        self.map.insert(id, Entry { rec, bytes });
    }

    pub(crate) fn remove(&mut self, id: &TaskId) -> Option<Rec> {
        let old = self.map.remove(id)?;
        let short = id.short();
        let b = bucket(short);
        let change = digest(id, &old.rec.ver);
        self.digests[b] ^= change;
        self.root ^= change;
        self.members[b].remove(id);
        self.shorts.remove(&short);
        self.order.remove(&(old.rec.queued, *id));
        self.ended.remove(&(old.rec.ver, *id));
        Some(old.rec)
    }

    pub(crate) fn get(&self, id: &TaskId) -> Option<&Rec> {
        self.map.get(id).map(|e| &e.rec)
    }
    pub(crate) fn bytes(&self, id: &TaskId) -> Option<&[u8]> {
        self.map.get(id).map(|e| e.bytes.as_slice())
    }
    /// Tasks of an origin above `from` and up to `to` that have not ended.
    pub(crate) fn open_of(&self, origin: Origin, from: (u64, u64), to: (u64, u64)) -> Vec<TaskId> {
        let id = |(inc, seq)| TaskId { origin, inc, seq };
        let all = self.map.range((Bound::Excluded(id(from)), Bound::Included(id(to))));
        all.filter(|(_, e)| !e.rec.terminal()).map(|(id, _)| *id).collect()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rec> {
        self.map.values().map(|e| &e.rec)
    }
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
    /// Records that have not ended.
    pub(crate) fn open(&self) -> usize {
        self.map.len() - self.ended.len()
    }
    pub(crate) fn root(&self) -> u128 {
        self.root
    }
    pub(crate) fn digests(&self) -> &[u128] {
        &self.digests
    }
    pub(crate) fn bucket_members(&self, b: usize) -> Option<&BTreeSet<TaskId>> {
        self.members.get(b)
    }
    /// Ended records, longest unchanged first.
    pub(crate) fn ended(&self) -> impl Iterator<Item = &TaskId> {
        self.ended.iter().map(|(_, id)| id)
    }
    pub(crate) fn ended_len(&self) -> usize {
        self.ended.len()
    }
    /// Newest first, below `before`.
    pub(crate) fn newest(&self, before: Option<(Queued, TaskId)>) -> impl Iterator<Item = &Rec> {
        let range = match before {
            Some(b) => self.order.range(..b),
            None => self.order.range(..),
        };
        range.rev().filter_map(|(_, id)| self.get(id))
    }
    /// Tasks whose printed id starts with these lower-case characters; at most `max`.
    pub(crate) fn by_prefix(&self, digits: &str, max: usize) -> Vec<TaskId> {
        // A prefix of base32 characters is a range of bytes: fill the rest with the lowest character.
        let mut low: String = digits.to_uppercase();
        while low.len() < 16 {
            low.push('A');
        }
        let Ok(raw) = data_encoding::BASE32_NOPAD.decode(low.as_bytes()) else { return Vec::new() };
        let Ok(start) = <[u8; 10]>::try_from(raw) else { return Vec::new() };
        self.shorts
            .range(ShortId(start)..)
            .take_while(|(s, _)| alloc::format!("{s}").get(1..).is_some_and(|d| d.starts_with(digits)))
            .take(max)
            .map(|(_, id)| *id)
            .collect()
    }
    pub(crate) fn by_short(&self, s: ShortId) -> Option<TaskId> {
        self.shorts.get(&s).copied()
    }

    /// Recomputes what is kept incrementally.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut root = 0;
        for (id, e) in &self.map {
            root ^= digest(id, &e.rec.ver);
            if crate::record::decode_rec(&e.bytes).as_ref() != Ok(&e.rec) {
                return Err(alloc::format!("{id}: bytes and record differ"));
            }
        }
        if root != self.root || self.order.len() != self.map.len() || self.shorts.len() != self.map.len() {
            return Err("the table's indexes differ from its records".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        codec,
        ids::{Epoch, Peer},
        record::{End, Outcome},
        spec::Data,
    };

    /// A record of one of a few tasks, in one of a few versions.
    fn rec((task, n, seq, ended): (u8, u64, u64, bool)) -> Rec {
        let id = TaskId { origin: Origin { peer: Peer([task; 32]), store: 1 }, inc: 1, seq: u64::from(task) };
        let epoch = Epoch { n, peer: Peer([1; 32]) };
        let mut r = Rec::tombstone(id, Queued { epoch, seq: u64::from(task) }, outcome(), 0);
        r.ver = Ver { epoch, seq };
        r.outcome = r.outcome.filter(|_| ended);
        r
    }

    fn outcome() -> Outcome {
        let (end, why, data, ext) = (End::Done, String::new(), Data::EMPTY, Default::default());
        Outcome { end, attempt: None, worker: None, exit: None, why, data, ended_at: 0, ran_ms: 0, ext }
    }

    fn table(recs: &[Rec]) -> Table {
        let mut t = Table::new();
        recs.iter().for_each(|r| t.put(r.clone(), codec::encode(r)));
        t
    }

    fn content(t: &Table) -> BTreeSet<(TaskId, Ver)> {
        t.iter().map(|r| (r.id, r.ver)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn equal_digests_are_equal_sets_whatever_the_way(
            a in vec((0_u8..8, 1_u64..3, 1_u64..3, any::<bool>()).prop_map(rec), 0..20),
            b in vec((0_u8..8, 1_u64..3, 1_u64..3, any::<bool>()).prop_map(rec), 0..20),
            gone in vec(0_u8..8, 0..6),
        ) {
            let (mut ta, tb) = (table(&a), table(&b));
            for g in gone {
                ta.remove(&rec((g, 1, 1, false)).id);
            }
            for t in [&ta, &tb] {
                prop_assert_eq!(t.check(), Ok(()));
                prop_assert_eq!(t.digests().iter().fold(0, |x, d| x ^ d), t.root());
            }
            prop_assert_eq!(ta.root() == tb.root(), content(&ta) == content(&tb));
            // A difference is in the buckets of the tasks that differ, and in no other.
            let differ: BTreeSet<usize> = content(&ta).symmetric_difference(&content(&tb)).map(|(id, _)| bucket(id.short())).collect();
            let told: BTreeSet<usize> = (0..BUCKETS).filter(|i| ta.digests()[*i] != tb.digests()[*i]).collect();
            prop_assert_eq!(told, differ);
        }
    }
}
