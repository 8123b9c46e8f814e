//! The skills of the whole mesh, indexed by name, tag, category and word: what every node answers questions about skills from.
//!
//! It is derived from the members' catalogues and holds each different skill (name and content hash) once.  A skill whose
//! last instance is withdrawn is gone.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    face::SkillQuery,
    ids::Peer,
    skill::{Catalogue, SkillInfo},
};

/// Words of one skill that are indexed; the first ones of its text count.
const WORDS_MAX: usize = 64;
/// Letters of a word that count.
const WORD_MAX: usize = 32;
/// Words of a question that count.
const ASKED_MAX: usize = 8;

/// Number of a skill in the registry.
type Id = u32;

/// A skill and who has it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) info: SkillInfo,
    pub(crate) at: BTreeSet<Peer>,
}

/// All skills.  Bounded by the members and by [`crate::skill::SKILLS_MAX`] of each.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    entries: BTreeMap<Id, Entry>,
    names: BTreeMap<String, BTreeMap<String, Id>>,
    tags: BTreeMap<String, BTreeSet<Id>>,
    categories: BTreeMap<String, BTreeSet<Id>>,
    /// How much a word weighs for a skill: in its name more than in its tags, there more than in its description.
    words: BTreeMap<String, BTreeMap<Id, u32>>,
    of: BTreeMap<Peer, BTreeSet<Id>>,
    next: Id,
}

/// The words of a text, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    parts.map(|w| w.chars().flat_map(char::to_lowercase).take(WORD_MAX).collect())
}

/// The words that a skill is found by, with their weights.
fn indexed(info: &SkillInfo) -> BTreeMap<String, u32> {
    let mut all = BTreeMap::new();
    let mut add = |text: &str, weight: u32| {
        for w in words(text) {
            if all.len() < WORDS_MAX || all.contains_key(&w) {
                let old = all.entry(w).or_insert(0);
                *old = (*old).max(weight);
            }
        }
    };
    add(&info.name, 8);
    info.tags.iter().for_each(|t| add(t, 4));
    add(&info.category, 2);
    add(&info.description, 1);
    all
}

fn lower(text: &str) -> String {
    text.to_lowercase()
}

fn unindex(index: &mut BTreeMap<String, BTreeSet<Id>>, key: &str, id: Id) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

impl Registry {
    /// A node offers these, and nothing else any more.
    pub(crate) fn offer(&mut self, peer: Peer, c: &Catalogue) {
        let new: BTreeSet<Id> = c.skills.iter().map(|s| self.enter(peer, s)).collect();
        let old = self.of.insert(peer, new).unwrap_or_default();
        let kept = self.of.get(&peer).cloned().unwrap_or_default();
        for id in old.difference(&kept) {
            self.leave(&peer, *id);
        }
        if kept.is_empty() {
            self.of.remove(&peer);
        }
    }

    /// A node is gone, and its instances with it.
    pub(crate) fn withdraw(&mut self, peer: &Peer) {
        for id in self.of.remove(peer).unwrap_or_default() {
            self.leave(peer, id);
        }
    }

    fn enter(&mut self, peer: Peer, info: &SkillInfo) -> Id {
        if let Some(id) = self.names.get(&info.name).and_then(|h| h.get(&info.hash)).copied() {
            if let Some(e) = self.entries.get_mut(&id) {
                e.at.insert(peer);
            }
            return id;
        }
        let id = self.next;
        self.next += 1;
        self.names.entry(info.name.clone()).or_default().insert(info.hash.clone(), id);
        for t in &info.tags {
            self.tags.entry(lower(t)).or_default().insert(id);
        }
        self.categories.entry(lower(&info.category)).or_default().insert(id);
        for (w, weight) in indexed(info) {
            self.words.entry(w).or_default().insert(id, weight);
        }
        self.entries.insert(id, Entry { info: info.clone(), at: BTreeSet::from([peer]) });
        id
    }

    fn leave(&mut self, peer: &Peer, id: Id) {
        let Some(e) = self.entries.get_mut(&id) else { return };
        e.at.remove(peer);
        if !e.at.is_empty() {
            return;
        }
        let Some(Entry { info, .. }) = self.entries.remove(&id) else { return };
        if let Some(hashes) = self.names.get_mut(&info.name) {
            hashes.remove(&info.hash);
            if hashes.is_empty() {
                self.names.remove(&info.name);
            }
        }
        for t in &info.tags {
            unindex(&mut self.tags, &lower(t), id);
        }
        unindex(&mut self.categories, &lower(&info.category), id);
        for w in indexed(&info).into_keys() {
            if let Some(ids) = self.words.get_mut(&w) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.words.remove(&w);
                }
            }
        }
    }

    /// All skills of this exact name, in the order of their hashes.
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.names.get(name).into_iter().flat_map(|h| h.values()).filter_map(|id| self.entries.get(id))
    }

    /// All nodes that offer something.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Peer> {
        self.of.keys()
    }

    /// Those that a question asks for and that somebody offers who is not `away`, best first, then by name: how many, and the page
    /// asked for.
    pub(crate) fn find<'a>(&'a self, q: &SkillQuery, away: &BTreeSet<Peer>) -> (usize, Vec<&'a Entry>) {
        let counts = |e: &Entry| away.is_empty() || e.at.iter().any(|p| !away.contains(p));
        let mut found: Option<BTreeMap<Id, u32>> = None;
        let mut narrow = |ids: BTreeMap<Id, u32>| {
            found = Some(match found.take() {
                None => ids,
                Some(old) => old.into_iter().filter_map(|(id, w)| Some((id, w + ids.get(&id)?))).collect(),
            });
        };
        let flat = |ids: Option<&BTreeSet<Id>>| ids.into_iter().flatten().map(|id| (*id, 0)).collect::<BTreeMap<Id, u32>>();
        if let Some(name) = &q.name {
            narrow(self.names.get(name).into_iter().flat_map(|h| h.values()).map(|id| (*id, 0)).collect());
        }
        for t in &q.tags {
            narrow(flat(self.tags.get(&lower(t))));
        }
        if let Some(c) = &q.category {
            narrow(flat(self.categories.get(&lower(c))));
        }
        for w in words(q.text.as_deref().unwrap_or_default()).take(ASKED_MAX) {
            narrow(self.starting(&w));
        }
        let Some(all) = found else {
            // All of them: the index has them in order already.
            let all = self.names.values().flat_map(|hashes| hashes.values()).filter_map(|id| self.entries.get(id));
            if away.is_empty() {
                return (self.entries.len(), all.skip(q.offset).take(q.limit()).collect());
            }
            let all: Vec<&Entry> = all.filter(|e| counts(e)).collect();
            return (all.len(), all.into_iter().skip(q.offset).take(q.limit()).collect());
        };
        let mut hits: Vec<(u32, &Entry)> =
            all.into_iter().filter_map(|(id, w)| Some((w, self.entries.get(&id)?))).filter(|(_, e)| counts(e)).collect();
        hits.sort_by(|(wa, a), (wb, b)| wb.cmp(wa).then_with(|| (&a.info.name, &a.info.hash).cmp(&(&b.info.name, &b.info.hash))));
        let total = hits.len();
        let page = hits.into_iter().map(|(_, e)| e).skip(q.offset).take(q.limit());
        (total, page.collect())
    }

    /// Skills with a word that begins so; a whole word counts twice.
    fn starting(&self, word: &str) -> BTreeMap<Id, u32> {
        let mut ids: BTreeMap<Id, u32> = BTreeMap::new();
        let from = word.to_string();
        for (w, skills) in self.words.range(from..).take_while(|(w, _)| w.starts_with(word)) {
            let times = if w == word { 2 } else { 1 };
            for (id, weight) in skills {
                let best = ids.entry(*id).or_insert(0);
                *best = (*best).max(weight * times);
            }
        }
        ids
    }

    /// Every different skill.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec};

    use super::*;

    fn skill(name: &str, hash: &str, tags: &[&str], category: &str, description: &str) -> SkillInfo {
        SkillInfo {
            name: name.into(),
            hash: hash.into(),
            version: "1.0.0".into(),
            description: description.into(),
            category: category.into(),
            tags: tags.iter().map(ToString::to_string).collect(),
            ..SkillInfo::default()
        }
    }

    fn catalogue(skills: Vec<SkillInfo>) -> Catalogue {
        Catalogue { skills, ext: Default::default() }
    }

    fn names(r: &Registry, q: SkillQuery) -> Vec<String> {
        r.find(&q, &BTreeSet::new()).1.iter().map(|e| format!("{}@{}", e.info.name, e.info.hash)).collect()
    }

    fn sample() -> Registry {
        let mut r = Registry::default();
        let weather = skill("weather", "a", &["Net", "forecast"], "network", "Tells the weather of a place.");
        let other = skill("weather", "b", &["net"], "network", "Another one.");
        let images = skill("image-info", "c", &["media"], "media_processing", "Sizes of images; tells nothing of weather.");
        r.offer(Peer([1; 32]), &catalogue(vec![weather.clone(), images]));
        r.offer(Peer([2; 32]), &catalogue(vec![other, weather]));
        r
    }

    #[test]
    fn questions_by_name_tag_category_and_words_narrow_each_other() {
        let r = sample();
        assert_eq!(r.len(), 3);
        assert_eq!(names(&r, SkillQuery::default()), ["image-info@c", "weather@a", "weather@b"]);
        assert_eq!(names(&r, SkillQuery { name: Some("weather".into()), ..Default::default() }), ["weather@a", "weather@b"]);
        assert_eq!(names(&r, SkillQuery { name: Some("weath".into()), ..Default::default() }), Vec::<String>::new());
        assert_eq!(names(&r, SkillQuery { tags: vec!["NET".into(), "forecast".into()], ..Default::default() }), ["weather@a"]);
        assert_eq!(names(&r, SkillQuery { category: Some("Network".into()), ..Default::default() }), ["weather@a", "weather@b"]);
        let text = |t: &str| SkillQuery { text: Some(t.into()), ..Default::default() };
        assert_eq!(names(&r, text("weather")), ["weather@a", "weather@b", "image-info@c"], "a name outweighs a description");
        assert_eq!(names(&r, text("Tells, weath")), ["weather@a", "image-info@c"], "beginnings count, and all words have to");
        assert_eq!(names(&r, text("weather zebra")), Vec::<String>::new());
        assert_eq!(names(&r, SkillQuery { limit: Some(1), offset: 1, ..Default::default() }), ["weather@a"]);
    }

    #[test]
    fn a_skill_vanishes_with_its_last_instance_and_leaves_no_trace() {
        let mut r = sample();
        r.withdraw(&Peer([1; 32]));
        assert_eq!(names(&r, SkillQuery::default()), ["weather@a", "weather@b"]);
        r.offer(Peer([2; 32]), &catalogue(vec![skill("weather", "d", &[], "", "New.")]));
        assert_eq!(names(&r, SkillQuery::default()), ["weather@d"]);
        r.offer(Peer([2; 32]), &Catalogue::empty());
        assert!(r.entries.is_empty() && r.names.is_empty() && r.tags.is_empty() && r.categories.is_empty());
        assert!(r.words.is_empty() && r.of.is_empty());
    }
}
