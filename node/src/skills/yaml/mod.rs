//! YAML exactly as npm `yaml` 2.9 reads it with `schema: core`: the same values, and for text that is no YAML the same first mistake at the
//! same place. The verdict on a skill, the code that is reported, and which description OpenClaw repairs all hang on that place, and no
//! crate has it; so this is that library's lexer, parser and composer told again in Rust (ISC, see `LICENSE` beside this file).
//! Comments, styles and writing are left out. Text is UTF-16 in here, as there: offsets must be the same.

use std::collections::HashMap;
use std::rc::Rc;

mod compose;
mod lexer;
mod parser;
mod props;
mod scalar;
mod token;

use token::{Token, Top};

/// Open nodes at once; a deeper text is refused with `RESOURCE_EXHAUSTION`, as JavaScript does some hundred levels later.
pub(super) const DEPTH_MAX: usize = 128;
/// What aliases may multiply a value to, in parts.
const PARTS_MAX: usize = 1_000_000;

/// A mistake in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// As npm `yaml` calls it.
    pub(super) code: &'static str,
    /// UTF-16 units from the start.
    pub(super) at: Option<usize>,
    pub(super) message: String,
}

/// A value with its place.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) val: Val,
    anchor: Option<Vec<u16>>,
    /// Start, end, and end with what belongs to it.
    pub(super) range: [usize; 3],
}

impl Value {
    fn new(val: Val, range: [usize; 3]) -> Value {
        Value { val, anchor: None, range }
    }
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Val {
    Null,
    Bool(bool),
    Number(f64),
    Text(Vec<u16>),
    Seq(Vec<Value>),
    Map(Vec<(Value, Option<Value>)>),
    Alias(Vec<u16>),
}

/// The first document of a text.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) contents: Option<Value>,
    pub(super) faults: Vec<Fault>,
}

/// Reads a text. Never fails: what is wrong is in the faults.
pub(super) fn parse(text: &[u16]) -> Parsed {
    let tops = match parser::parse(text) {
        Ok(tops) => tops,
        Err(deep) => {
            let message = format!("more than {DEPTH_MAX} levels are open at once");
            return Parsed { contents: None, faults: vec![Fault { code: "RESOURCE_EXHAUSTION", at: Some(deep.at), message }] };
        }
    };
    let mut stream = Stream::default();
    for top in &tops {
        if stream.top(text, top) {
            break;
        }
    }
    stream.finish(text.len())
}

#[derive(Default)]
struct Stream {
    contents: Option<Value>,
    has_document: bool,
    at_directives: bool,
    faults: Vec<Fault>,
    /// Those of what comes before the next document.
    pending: Vec<Fault>,
    handles: Vec<(Vec<u16>, Vec<u16>)>,
}

impl Stream {
    /// True when nothing after this counts.
    fn top(&mut self, text: &[u16], top: &Top) -> bool {
        match top {
            Top::Directive(token) => {
                self.directive(text, token);
                self.at_directives = true;
            }
            Top::Document(document) => {
                if self.has_document {
                    let message = "Source contains multiple documents; please use YAML.parseAllDocuments()";
                    self.faults.push(Fault { code: "MULTIPLE_DOCS", at: Some(document.at), message: message.to_owned() });
                    return true;
                }
                let handles = std::mem::take(&mut self.handles);
                let mut composer = compose::Composer::new(text, &handles);
                composer.faults = std::mem::take(&mut self.pending);
                let contents = composer.document(document);
                if self.at_directives && !document.start.iter().any(|token| token.kind == token::Kind::DocStart) {
                    composer.fault(document.at, "MISSING_CHAR", "Missing directives-end/doc-start indicator line");
                }
                self.faults = composer.faults;
                self.contents = Some(contents);
                self.has_document = true;
                self.at_directives = false;
            }
            Top::Error { at, message } => {
                let fault = Fault { code: "UNEXPECTED_TOKEN", at: Some(*at), message: message.clone() };
                if self.at_directives || !self.has_document { self.pending.push(fault) } else { self.faults.push(fault) }
            }
            Top::DocEnd { at, len, end } => {
                if !self.has_document {
                    let message = "Unexpected doc-end without preceding document".to_owned();
                    self.pending.push(Fault { code: "UNEXPECTED_TOKEN", at: Some(*at), message });
                    return false;
                }
                let mut composer = compose::Composer::new(text, &[]);
                composer.end(end.as_deref(), at + len, true);
                self.faults.extend(std::mem::take(&mut self.pending));
                self.faults.append(&mut composer.faults);
            }
        }
        false
    }

    fn directive(&mut self, text: &[u16], token: &Token) {
        let line = String::from_utf16_lossy(text.get(token.at..token.end()).unwrap_or_default());
        let mut parts = line.split([' ', '\t']).filter(|part| !part.is_empty());
        let name = parts.next().unwrap_or_default();
        let parts: Vec<&str> = parts.collect();
        let mut bad = |offset: usize, message: String| {
            self.pending.push(Fault { code: "BAD_DIRECTIVE", at: Some(token.at + offset), message });
        };
        match (name, parts.as_slice()) {
            ("%TAG", parts) => {
                if parts.len() != 2 {
                    bad(0, "%TAG directive should contain exactly two parts".to_owned());
                }
                if let [handle, prefix, ..] = parts {
                    self.handles.push((handle.encode_utf16().collect(), prefix.encode_utf16().collect()));
                }
            }
            ("%YAML", [version]) => {
                let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                // A version that is merely unknown is no mistake.
                if !version.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor)) {
                    bad(6, format!("Unsupported YAML version {version}"));
                }
            }
            ("%YAML", _) => bad(0, "%YAML directive should contain exactly one part".to_owned()),
            _ => {}
        }
    }

    fn finish(mut self, end: usize) -> Parsed {
        self.faults.append(&mut self.pending);
        if !self.has_document && self.at_directives {
            let message = "Missing directives-end indicator line".to_owned();
            self.faults.push(Fault { code: "MISSING_CHAR", at: Some(end), message });
        }
        Parsed { contents: self.contents, faults: self.faults }
    }
}

/// A value as JavaScript has it, aliases resolved.
#[derive(Debug)]
pub(super) enum Js {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Rc<Js>>),
    /// In the order of a JavaScript object.
    Map(Vec<(String, Rc<Js>)>),
    /// It contains itself.
    Circle,
}

/// The value as JavaScript has it.
///
/// # Errors
/// A sentence: an alias of nothing, or of too much.
pub(super) fn to_js(value: &Value) -> Result<Rc<Js>, String> {
    Converter::default().js(value)
}

#[derive(Default)]
struct Converter<'a> {
    anchors: HashMap<&'a [u16], Anchored<'a>>,
}

struct Anchored<'a> {
    value: &'a Value,
    js: Option<Rc<Js>>,
    count: usize,
    weight: usize,
}

/// How often an alias may be used, times what is behind it.
const ALIASES_MAX: usize = 100;

impl<'a> Converter<'a> {
    fn js(&mut self, value: &'a Value) -> Result<Rc<Js>, String> {
        if let Some(name) = &value.anchor {
            self.anchors.insert(name, Anchored { value, js: None, count: 1, weight: 0 });
        }
        let js = Rc::new(match &value.val {
            Val::Null => Js::Null,
            Val::Bool(value) => Js::Bool(*value),
            Val::Number(number) => Js::Number(*number),
            Val::Text(text) => Js::Text(String::from_utf16_lossy(text)),
            Val::Seq(entries) => Js::List(entries.iter().map(|entry| self.js(entry)).collect::<Result<_, _>>()?),
            Val::Map(pairs) => Js::Map(self.map(pairs)?),
            Val::Alias(name) => return self.alias(name),
        });
        if let Some(name) = &value.anchor
            && let Some(anchored) = self.anchors.get_mut(name.as_slice()).filter(|anchored| std::ptr::eq(anchored.value, value))
        {
            anchored.js = Some(js.clone());
        }
        Ok(js)
    }

    fn map(&mut self, pairs: &'a [(Value, Option<Value>)]) -> Result<Vec<(String, Rc<Js>)>, String> {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut map: Vec<(String, Rc<Js>)> = Vec::new();
        for (key, value) in pairs {
            let key = key_text(&*self.js(key)?);
            let value = match value {
                Some(value) => self.js(value)?,
                None => Rc::new(Js::Null),
            };
            match places.get(&key).and_then(|at| map.get_mut(*at)) {
                Some(place) => place.1 = value,
                None => {
                    places.insert(key.clone(), map.len());
                    map.push((key, value));
                }
            }
        }
        // Keys that are numbers come first there, in their order.
        map.sort_by_key(|(key, _)| key.parse::<u32>().ok().filter(|n| n.to_string() == *key).map_or((1, 0), |n| (0, n)));
        Ok(map)
    }

    fn alias(&mut self, name: &'a [u16]) -> Result<Rc<Js>, String> {
        let shown = || String::from_utf16_lossy(name);
        let unresolved = || format!("Unresolved alias (the anchor must be set before the alias): {}", shown());
        let anchored = self.anchors.get(name).ok_or_else(unresolved)?;
        let weight = if anchored.weight == 0 { self.weight(anchored.value) } else { anchored.weight };
        let Some(anchored) = self.anchors.get_mut(name) else { return Err(unresolved()) };
        anchored.weight = weight;
        anchored.count += 1;
        if anchored.count.saturating_mul(weight) > ALIASES_MAX {
            return Err("Excessive alias count indicates a resource exhaustion attack".to_owned());
        }
        Ok(anchored.js.clone().unwrap_or_else(|| Rc::new(Js::Circle)))
    }

    fn weight(&self, value: &Value) -> usize {
        let of = |value: Option<&Value>| value.map_or(1, |value| self.weight(value));
        match &value.val {
            Val::Alias(name) => self.anchors.get(name.as_slice()).map_or(0, |anchored| anchored.count.saturating_mul(anchored.weight)),
            Val::Seq(entries) => entries.iter().map(|entry| self.weight(entry)).max().unwrap_or(0),
            Val::Map(pairs) => pairs.iter().map(|(key, value)| self.weight(key).max(of(value.as_ref()))).max().unwrap_or(0),
            _ => 1,
        }
    }
}

/// A key as text. Collections as keys are written out only roughly as there.
fn key_text(key: &Js) -> String {
    match key {
        Js::Null => String::new(),
        Js::Bool(value) => value.to_string(),
        Js::Number(number) => number_text(*number),
        Js::Text(text) => text.clone(),
        Js::List(list) => format!("[ {} ]", list.iter().map(|js| key_text(js)).collect::<Vec<_>>().join(", ")),
        Js::Map(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {}", key_text(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Js::Circle => String::new(),
    }
}

/// A number as JavaScript prints it.
pub(super) fn number_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    if (1e-6..1e21).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

/// The value as `JSON.stringify` writes it; None when that fails, or when aliases have blown it up.
pub(super) fn json(js: &Js) -> Option<String> {
    let mut out = String::new();
    let mut parts = 0;
    write_json(js, &mut out, &mut parts).map(|()| out)
}

fn write_json(js: &Js, out: &mut String, parts: &mut usize) -> Option<()> {
    *parts += 1;
    if *parts > PARTS_MAX {
        return None;
    }
    match js {
        Js::Null => out.push_str("null"),
        Js::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Js::Number(number) if number.is_finite() => out.push_str(&number_text(*number)),
        Js::Number(_) => out.push_str("null"),
        Js::Text(text) => out.push_str(&quoted(text)),
        Js::List(list) => {
            out.push('[');
            for (n, entry) in list.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_json(entry, out, parts)?;
            }
            out.push(']');
        }
        Js::Map(map) => {
            out.push('{');
            for (n, (key, value)) in map.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(key));
                out.push(':');
                write_json(value, out, parts)?;
            }
            out.push('}');
        }
        Js::Circle => return None,
    }
    Some(())
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
