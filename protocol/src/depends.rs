//! What skills need of each other: ranges of versions, the order in which they depend, what is missing, and circles.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

use semver::{Version, VersionReq};

use crate::face::{Needed, Resolved};

/// Skills looked at in one question.
const VISITS_MAX: usize = 10_000;
/// Circles that are reported.
const CIRCLES_MAX: usize = 100;

/// A skill as far as dependencies are concerned: its version as written, and what it depends on as written.
#[derive(Debug, Clone)]
pub(crate) struct Offer<'a> {
    pub(crate) version: &'a str,
    pub(crate) depends: &'a [String],
}

/// `1`, `1.2` and `v1.2.3` are versions, too; anything else that semver does not know is none.
pub(crate) fn version(text: &str) -> Option<Version> {
    let text = text.trim().trim_start_matches(['v', 'V']);
    if let Ok(v) = Version::parse(text) {
        return Some(v);
    }
    let (core, rest) = text.find(['-', '+']).map_or((text, ""), |i| text.split_at(i));
    let dots = core.matches('.').count();
    let full = match dots {
        0 => format!("{core}.0.0{rest}"),
        1 => format!("{core}.0{rest}"),
        _ => return None,
    };
    Version::parse(&full).ok()
}

/// A dependency as written: a name, and behind a space, an `@` or a comparison sign a range (`python >=1.0, <2`).
///
/// # Errors
/// A sentence about the range.
pub(crate) fn parse(text: &str) -> Result<(String, Option<VersionReq>), String> {
    let text = text.trim();
    // A name may have spaces in it: a range behind a space begins with a digit or a sign.
    let begins = |rest: &str| rest.starts_with(|c: char| "@<>=^~*".contains(c));
    let behind = |rest: &str| rest.starts_with(char::is_whitespace) && rest.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let end = text.char_indices().map(|(i, _)| i).find(|i| text.get(*i..).is_some_and(|r| begins(r) || behind(r)));
    let (name, range) = text.split_at(end.unwrap_or(text.len()));
    let name = name.trim_end();
    let range = range.trim().trim_start_matches('@').trim();
    if name.is_empty() {
        return Err(format!("'{text}' names no skill"));
    }
    if range.is_empty() || range == "*" {
        return Ok((name.to_string(), None));
    }
    match VersionReq::parse(range) {
        Ok(r) => Ok((name.to_string(), Some(r))),
        Err(e) => Err(format!("'{range}' is no range of versions ({e}): write for example >=1.2, <2")),
    }
}

/// The best of the offered versions that fits, or why none does.
fn pick<'a>(offers: &[Offer<'a>], range: Option<&VersionReq>) -> Result<Offer<'a>, String> {
    let best = offers
        .iter()
        .filter(|o| range.is_none_or(|r| version(o.version).is_some_and(|v| r.matches(&v))))
        .max_by_key(|o| version(o.version))
        .cloned();
    best.ok_or_else(|| {
        if offers.is_empty() {
            return "no node that is here offers it".to_string();
        }
        let have: BTreeSet<&str> = offers.iter().map(|o| if o.version.is_empty() { "one without a version" } else { o.version }).collect();
        format!("only {} is offered", have.into_iter().take(5).collect::<Vec<_>>().join(", "))
    })
}

/// One skill on the way down.
struct Step {
    name: String,
    depends: Vec<String>,
    next: usize,
}

/// The whole walk.  A stack of its own: a chain of thousands must not be a chain of calls.
struct Walk<'a, F> {
    offers: F,
    path: Vec<Step>,
    on_path: BTreeSet<String>,
    done: BTreeSet<String>,
    known: BTreeMap<String, Vec<Offer<'a>>>,
    out: Resolved,
}

/// What the named skills need.  `offers` gives all that the mesh offers under a name.
pub(crate) fn resolve<'a>(names: &[String], offers: impl Fn(&str) -> Vec<Offer<'a>>) -> Resolved {
    let mut w = Walk {
        offers,
        path: Vec::new(),
        on_path: BTreeSet::new(),
        done: BTreeSet::new(),
        known: BTreeMap::new(),
        out: Resolved::default(),
    };
    let mut direct = BTreeSet::new();
    for name in names {
        if let Some(o) = w.need("", name, None) {
            direct.extend(o.depends.iter().filter_map(|d| parse(d).ok()).map(|(n, _)| n));
            w.down(name, &o);
        }
    }
    // What was asked about is no dependency of itself, unless another one needs it.
    let needed: BTreeSet<String> = w.out.needed.iter().filter(|n| !n.by.is_empty()).map(|n| n.name.clone()).collect();
    w.out.all.retain(|n| needed.contains(n));
    w.out.direct = direct.into_iter().collect();
    w.out
}

impl<'a, F: Fn(&str) -> Vec<Offer<'a>>> Walk<'a, F> {
    fn full(&mut self) -> bool {
        let full = self.known.len() >= VISITS_MAX || self.out.needed.len() >= VISITS_MAX;
        self.out.cut |= full;
        full
    }

    /// Notes that `by` needs `name`, and which offer serves.
    fn need(&mut self, by: &str, name: &str, range: Option<&VersionReq>) -> Option<Offer<'a>> {
        if !self.known.contains_key(name) {
            let found = (self.offers)(name);
            self.known.insert(name.to_string(), found);
        }
        let picked = pick(self.known.get(name).map_or(&[][..], |o| o), range);
        let mut n = Needed { by: by.into(), name: name.into(), range: range.map(ToString::to_string), ..Needed::default() };
        match &picked {
            Ok(o) => n.version = Some(o.version.into()).filter(|v: &String| !v.is_empty()),
            Err(why) => {
                n.missing = Some(why.clone());
                if !self.out.missing.iter().any(|m| m == name) {
                    self.out.missing.push(name.into());
                }
            }
        }
        self.out.needed.push(n);
        picked.ok()
    }

    fn enter(&mut self, name: &str, o: &Offer<'a>) {
        self.on_path.insert(name.into());
        self.path.push(Step { name: name.into(), depends: o.depends.to_vec(), next: 0 });
    }

    fn down(&mut self, root: &str, o: &Offer<'a>) {
        if self.done.contains(root) {
            return;
        }
        self.enter(root, o);
        while let Some(step) = self.path.last_mut() {
            let Some(text) = step.depends.get(step.next).cloned() else {
                let name = core::mem::take(&mut step.name);
                self.path.pop();
                self.on_path.remove(&name);
                self.done.insert(name.clone());
                self.out.all.push(name);
                continue;
            };
            step.next += 1;
            let by = step.name.clone();
            if !self.full() {
                self.edge(&by, &text);
            }
        }
    }

    fn edge(&mut self, by: &str, text: &str) {
        let (name, range) = match parse(text) {
            Ok(d) => d,
            Err(why) => {
                let n = Needed { by: by.into(), name: text.into(), missing: Some(why), ..Needed::default() };
                self.out.needed.push(n);
                self.out.missing.push(text.into());
                return;
            }
        };
        let Some(o) = self.need(by, &name, range.as_ref()) else { return };
        if self.on_path.contains(&name) {
            if self.out.cycles.len() < CIRCLES_MAX {
                let from = self.path.iter().position(|s| s.name == name).unwrap_or(0);
                let circle = self.path.iter().skip(from).map(|s| s.name.clone()).chain([name]);
                self.out.cycles.push(circle.collect());
            }
        } else if !self.done.contains(&name) {
            self.enter(&name, &o);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// name, version, what it depends on
    type Sample = (&'static str, &'static str, &'static [&'static str]);

    fn resolved(skills: &[Sample], names: &[&str]) -> Resolved {
        let all: Vec<(String, String, Vec<String>)> =
            skills.iter().map(|(n, v, d)| (n.to_string(), v.to_string(), d.iter().map(ToString::to_string).collect())).collect();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        resolve(&names, |name| all.iter().filter(|(n, ..)| n == name).map(|(_, v, d)| Offer { version: v, depends: d }).collect())
    }

    #[test]
    fn dependencies_come_before_what_depends_on_them() {
        let skills: &[Sample] = &[("app", "1.0.0", &["lib", "io"]), ("lib", "1.2.0", &["core"]), ("io", "1", &["core"]), ("core", "", &[])];
        let r = resolved(skills, &["app"]);
        assert_eq!(r.direct, ["io", "lib"]);
        assert_eq!(r.all, ["core", "lib", "io"]);
        assert!(r.missing.is_empty() && r.cycles.is_empty() && !r.cut);
        assert_eq!(resolved(skills, &["app", "lib"]).all, ["core", "lib", "io"], "lib is needed by app");
        assert_eq!(resolved(skills, &["core"]).all, Vec::<String>::new());
    }

    #[test]
    fn ranges_choose_among_versions_or_say_what_there_is() {
        let skills: &[Sample] = &[
            ("app", "1", &["python >=1.0, <2", "gpu^3", "new@~1.2"]),
            ("python", "1.4", &["old"]),
            ("python", "2.0.0", &["new"]),
            ("gpu", "2.9.9", &[]),
            ("old", "", &[]),
            ("new", "v1.2.7", &[]),
        ];
        let r = resolved(skills, &["app"]);
        assert_eq!(r.all, ["old", "python", "new"]);
        assert_eq!(r.missing, ["gpu"]);
        let gpu = r.needed.iter().find(|n| n.name == "gpu").unwrap();
        assert_eq!((gpu.by.as_str(), gpu.range.as_deref()), ("app", Some("^3")));
        assert_eq!(gpu.missing.as_deref(), Some("only 2.9.9 is offered"));
        assert_eq!(r.needed.iter().find(|n| n.name == "python").unwrap().version.as_deref(), Some("1.4"));
    }

    #[test]
    fn circles_are_shown_as_their_paths() {
        let skills: &[Sample] = &[("a", "1", &["b"]), ("b", "1", &["c"]), ("c", "1", &["b", "a"]), ("me", "1", &["me"])];
        let r = resolved(skills, &["a"]);
        assert_eq!(r.cycles, [vec!["b", "c", "b"], vec!["a", "b", "c", "a"]]);
        assert_eq!(r.all, ["c", "b", "a"]);
        assert_eq!(resolved(skills, &["me"]).cycles, [vec!["me", "me"]]);
    }

    #[test]
    fn nonsense_is_missing_and_nothing_else() {
        let skills: &[Sample] = &[("app", "1", &["lib >=banana", "", "  ", ">=1"])];
        let r = resolved(skills, &["app", "nobody"]);
        assert_eq!(r.missing.len(), 5);
        assert_eq!(parse("Web Search 1.2").unwrap().0, "Web Search");
        assert_eq!(parse("Web Search").unwrap(), ("Web Search".into(), None));
        assert!(r.needed.iter().all(|n| n.missing.is_some() || n.name == "app"));
        assert!(r.needed.iter().any(|n| n.name == "nobody" && n.by.is_empty()));
    }

    #[test]
    fn a_chain_of_thousands_is_no_chain_of_calls() {
        let all: Vec<(String, Vec<String>)> = (0..20_000).map(|i| (format!("s{i}"), vec![format!("s{}", i + 1)])).collect();
        let r = resolve(&["s0".into()], |name| {
            let i = name.trim_start_matches('s').parse::<usize>().ok();
            i.and_then(|i| all.get(i)).map(|(_, d)| Offer { version: "1", depends: d }).into_iter().collect()
        });
        assert!(r.cut);
        assert!(r.needed.len() <= VISITS_MAX);
    }
}
