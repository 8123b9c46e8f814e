//! The front matter of a `SKILL.md`, read as OpenClaw reads it: everything becomes text.
//!
//! Two readers look at the block. A line reader always finds something; the YAML reader decides.
//! A description that is no YAML (`description: Use for: x`) is quoted and tried again, because OpenClaw does so.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::Problem;

/// The keys of a front matter with their values as text; structures as JSON.
pub(crate) type Fields = BTreeMap<String, String>;

/// At most this many values are quoted before the block is given up.
const REPAIRS_MAX: usize = 3;

/// Anchors and aliases could blow a small block up; no real skill uses more than a few nodes.
const NODES_MAX: usize = 20_000;

/// The reader calls itself for each level.
const DEPTH_MAX: usize = 64;

/// Reads the front matter of a whole file. A file without one has no fields; one that does not end is an error.
pub(crate) fn parse(text: &str) -> Result<Fields, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    match block(&text)? {
        Some(block) => fields(block),
        None => Ok(Fields::new()),
    }
}

/// The lines between the two `---`. None when the first line is not one.
fn block(text: &str) -> Result<Option<&str>, Problem> {
    let Some((first, rest)) = text.split_once('\n') else {
        return Ok(None);
    };
    if !is_delimiter(first) {
        return Ok(None);
    }
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if is_delimiter(line.strip_suffix('\n').unwrap_or(line)) {
            return Ok(rest.get(..at));
        }
        at += line.len();
    }
    Err(Problem::new("UNTERMINATED_FRONTMATTER", "the front matter starts with --- but no second --- ends it"))
}

fn is_delimiter(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.chars().all(is_space))
}

/// What `\s` means in the JavaScript which set the convention.
fn is_space(c: char) -> bool {
    (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}'
}

fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

fn fields(block: &str) -> Result<Fields, Problem> {
    let lines = by_lines(block);
    let mut fields = Fields::new();
    for (key, value) in by_yaml(block)? {
        let key = trim(&key).to_owned();
        let inline = lines.get(&key).filter(|line| line.inline);
        let text = match value {
            Value::Null => continue,
            Value::String(text) => trim(&text).to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => as_javascript_prints(&number),
            structure @ (Value::Array(_) | Value::Object(_)) => match inline.filter(|line| line.value.contains(':')) {
                Some(line) => line.value.clone(),
                None => structure.to_string(),
            },
        };
        if !key.is_empty() {
            fields.insert(key, text);
        }
    }
    for (key, line) in lines {
        fields.entry(key).or_insert(line.value);
    }
    Ok(fields)
}

/// `1.0` is `1` there.
fn as_javascript_prints(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => format!("{float}"),
        _ => number.to_string(),
    }
}

/// A value as the line reader sees it.
#[derive(Debug)]
struct Line {
    value: String,
    /// Written behind the colon, not below it.
    inline: bool,
}

/// `key: value` lines; an empty value with indented lines below takes those.
fn by_lines(block: &str) -> BTreeMap<String, Line> {
    let mut found = BTreeMap::new();
    let mut lines = block.split('\n').peekable();
    while let Some(line) = lines.next() {
        let Some((key, value)) = key_and_value(line) else {
            continue;
        };
        let value = trim(value);
        let is_below = |line: &&str| line.is_empty() || line.starts_with([' ', '\t']);
        let (value, inline) = if value.is_empty() && lines.peek().is_some_and(|next| next.starts_with([' ', '\t'])) {
            let mut below = Vec::new();
            while let Some(line) = lines.next_if(is_below) {
                below.push(line);
            }
            (trim(&below.join("\n")).to_owned(), false)
        } else {
            (unquote(value).to_owned(), true)
        };
        if !value.is_empty() {
            found.insert(key.to_owned(), Line { value, inline });
        }
    }
    found
}

fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (!key.is_empty() && key.chars().all(is_word)).then_some((key, value))
}

fn unquote(value: &str) -> &str {
    let between = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    between('"').or_else(|| between('\'')).unwrap_or(value)
}

/// The block as YAML 1.2, with the repairs.
fn by_yaml(block: &str) -> Result<Vec<(String, Value)>, Problem> {
    let mut text = block.to_owned();
    for _ in 0..REPAIRS_MAX {
        match read_yaml(&text) {
            Ok(map) => return Ok(map),
            Err(failure) => match repair(&text, &failure) {
                Some(repaired) => text = repaired,
                None => return Err(failure.problem),
            },
        }
    }
    read_yaml(&text).map_err(|failure| failure.problem)
}

struct Failure {
    problem: Problem,
    /// Counted from 0, when the reader knows it.
    line: Option<usize>,
}

fn read_yaml(text: &str) -> Result<Vec<(String, Value)>, Failure> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_nodes: NODES_MAX, max_depth: DEPTH_MAX },
    };
    match serde_saphyr::from_str_with_options::<Loose>(text, options) {
        Ok(Loose::Map(map)) => Ok(map),
        Ok(Loose::Plain(Value::Null)) => Ok(Vec::new()),
        Ok(Loose::Plain(_)) => {
            let problem = Problem::new("NOT_A_MAPPING", "the front matter is not a list of `key: value` lines");
            Err(Failure { problem, line: None })
        }
        Err(error) => {
            let line = error.location().and_then(|at| usize::try_from(at.line()).ok()).and_then(|line| line.checked_sub(1));
            let message = error.without_snippet().to_string();
            Err(Failure { problem: Problem::new(yaml_code(&message), format!("invalid front matter: {message}")), line })
        }
    }
}

/// OpenClaw names an error by the codes of its YAML library. Ours has other words for the same mistakes; these are the common ones.
fn yaml_code(message: &str) -> &'static str {
    let known = [
        ("duplicate", "DUPLICATE_KEY"),
        ("mapping values are not allowed", "BLOCK_AS_IMPLICIT_KEY"),
        ("simple key", "MULTILINE_IMPLICIT_KEY"),
        ("tabs", "TAB_AS_INDENT"),
        ("escape", "BAD_DQ_ESCAPE"),
        ("trailing content", "UNEXPECTED_TOKEN"),
        ("quoted scalar", "MISSING_CHAR"),
        ("indent", "BAD_INDENT"),
        ("unclosed", "BAD_INDENT"),
        ("alias", "BAD_ALIAS"),
    ];
    let message = message.to_ascii_lowercase();
    known.iter().find(|(words, _)| message.contains(words)).map_or("UNEXPECTED_TOKEN", |(_, code)| code)
}

/// Quotes the free text which holds the error. `description` is quoted for any error in it,
/// `read_when` and `summary` only for a colon in unquoted text.
fn repair(text: &str, failure: &Failure) -> Option<String> {
    let lines: Vec<&str> = text.split('\n').collect();
    let at = failure.line?.min(lines.len().saturating_sub(1));
    let heads: Vec<(usize, &str)> = lines.iter().enumerate().filter_map(|(n, line)| Some((n, key_and_value(line)?.0))).collect();
    // Some readers notice the mistake only on the line behind it.
    let holding = heads.iter().rev().find(|(n, _)| *n <= at);
    let before = heads.iter().rev().find(|(n, _)| *n < at);
    let (start, key) = [holding, before].into_iter().flatten().copied().find(|(n, key)| is_repairable(key, lines.get(*n).copied()))?;
    let end = heads.iter().map(|(n, _)| *n).find(|n| *n > start).unwrap_or(lines.len());
    let (_, first) = key_and_value(lines.get(start)?)?;
    let raw: Vec<&str> =
        std::iter::once(first).chain(lines.get(start + 1..end)?.iter().copied()).map(trim).filter(|line| !line.is_empty()).collect();
    let quoted = Value::String(raw.join(" ")).to_string();
    let line = format!("{key}: {quoted}");
    if lines.get(start) == Some(&line.as_str()) {
        return None;
    }
    let after = lines.get(end..)?.iter().copied();
    let whole: Vec<&str> = lines.get(..start)?.iter().copied().chain(std::iter::once(line.as_str())).chain(after).collect();
    Some(whole.join("\n"))
}

fn is_repairable(key: &str, line: Option<&str>) -> bool {
    let value = line.and_then(key_and_value).map(|(_, value)| trim(value)).unwrap_or_default();
    let is_plain = !value.starts_with(['"', '\'', '|', '>', '[', '{', '&', '*']);
    match key {
        "description" => !value.is_empty(),
        "read_when" | "summary" => is_plain && value.contains(": "),
        _ => false,
    }
}

/// YAML as it comes: the keys of the outermost mapping in order, keys that are not text as their JSON.
enum Loose {
    Map(Vec<(String, Value)>),
    Plain(Value),
}

impl Loose {
    fn into_value(self) -> Value {
        match self {
            Loose::Map(map) => Value::Object(map.into_iter().collect()),
            Loose::Plain(value) => value,
        }
    }

    fn into_key(self) -> String {
        match self.into_value() {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Loose, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Plain(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Loose, E> {
        Ok(Loose::Plain(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Loose, D::Error> {
        Loose::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Plain(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        // Infinity and NaN have no JSON; their names are what a person wrote.
        Ok(Loose::Plain(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Plain(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element::<Loose>()? {
            list.push(item.into_value());
        }
        Ok(Loose::Plain(Value::Array(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, value)) = map.next_entry::<Loose, Loose>()? {
            pairs.push((key.into_key(), value.into_value()));
        }
        Ok(Loose::Map(pairs))
    }
}
