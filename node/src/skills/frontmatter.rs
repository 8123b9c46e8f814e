//! The front matter of a `SKILL.md`, read as OpenClaw reads it: everything becomes text.
//!
//! Two readers look at the block. A line reader always finds something; the YAML reader decides.
//! A description that is no YAML (`description: Use for: x`) is quoted and tried again, because OpenClaw does so.

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use super::yaml::{self, Fault, Js, Parsed, Val};

/// The keys of a front matter with their values as text; structures as JSON.
pub(crate) type Fields = BTreeMap<String, String>;

/// Texts that people write without minding YAML; one repair each, at most.
const FREE_TEXT: [&str; 3] = ["description", "read_when", "summary"];

/// A file that is refused, and what its lines say all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) problem: Problem,
    pub(crate) fields: Fields,
}

/// Reads the front matter of a whole file. A file without one has no fields; one that does not end is an error.
pub(crate) fn parse(text: &str) -> Result<Fields, Box<Refused>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    match block(&text).map_err(|problem| Box::new(Refused { problem, fields: Fields::new() }))? {
        None | Some("") => Ok(Fields::new()),
        Some(block) => fields(block),
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
    let mut at: usize = 0;
    for line in rest.split_inclusive('\n') {
        if is_delimiter(line.strip_suffix('\n').unwrap_or(line)) {
            // The line end before the delimiter belongs to it.
            return Ok(rest.get(..at.saturating_sub(1)));
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

/// As JavaScript trims.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

fn fields(block: &str) -> Result<Fields, Box<Refused>> {
    let lines = by_lines(block);
    let mut text: Vec<u16> = block.encode_utf16().collect();
    let mut outcome = by_yaml(&text, &lines);
    for _ in FREE_TEXT {
        if outcome.is_ok() {
            break;
        }
        let Some(repaired) = repair(&text) else { break };
        text = repaired;
        outcome = by_yaml(&text, &lines);
    }
    outcome.map_err(|problem| Box::new(Refused { problem, fields: lines }))
}

/// `key: value` lines; an empty value with indented lines below takes those.
fn by_lines(block: &str) -> Fields {
    let mut found = Fields::new();
    let mut lines = block.split('\n').peekable();
    while let Some(line) = lines.next() {
        let Some((key, value)) = key_and_value(line) else {
            continue;
        };
        let value = trim(value);
        let is_below = |line: &&str| line.is_empty() || line.starts_with([' ', '\t']);
        let value = if value.is_empty() && lines.peek().is_some_and(|next| next.starts_with([' ', '\t'])) {
            let mut below = Vec::new();
            while let Some(line) = lines.next_if(is_below) {
                below.push(line);
            }
            trim(&below.join("\n")).to_owned()
        } else {
            unquote(value).to_owned()
        };
        if !value.is_empty() {
            found.insert(key.to_owned(), value);
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// `^([\w-]+):\s*(.*)$`, where a dot is no line separator of Unicode.
fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let value = value.trim_start_matches(is_space);
    (!key.is_empty() && key.chars().all(is_word) && !value.contains(['\u{2028}', '\u{2029}', '\r'])).then_some((key, value))
}

fn unquote(value: &str) -> &str {
    let between = |quote: char| {
        let rest = value.strip_prefix(quote)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_suffix(quote) }
    };
    between('"').or_else(|| between('\'')).unwrap_or(value)
}

/// The block as YAML 1.2, completed with what only the lines say.
fn by_yaml(text: &[u16], lines: &Fields) -> Result<Fields, Problem> {
    let refused = |code, message: &str| Problem::new(code, format!("invalid front matter: {message}"));
    let parsed = yaml::parse(text);
    if let Some(fault) = parsed.faults.first() {
        return Err(refused(fault.code, &fault.message));
    }
    let Some(Val::Map(pairs)) = parsed.contents.as_ref().map(|value| &value.val) else {
        return Err(refused("INVALID_ROOT", "it must be a mapping of keys to values"));
    };
    let js = match parsed.contents.as_ref().map(yaml::to_js) {
        Some(Ok(js)) => js,
        Some(Err(message)) => return Err(refused("YAML_EXCEPTION", &message)),
        None => return Ok(lines.clone()),
    };
    // A structure behind a colon in the same line was perhaps meant as text.
    let perhaps_text: BTreeSet<String> = pairs
        .iter()
        .filter_map(|(key, _)| {
            let line = line_at(text, key.range[0]);
            key_and_value(&line).filter(|(_, value)| value.contains(':')).map(|(key, _)| key.to_owned())
        })
        .collect();
    let Js::Map(map) = &*js else { return Ok(lines.clone()) };
    let mut fields = Fields::new();
    for (key, value) in map {
        let key = trim(key);
        let text = match &**value {
            Js::Null | Js::Circle => None,
            Js::Text(text) => Some(trim(text).to_owned()),
            Js::Bool(value) => Some(value.to_string()),
            Js::Number(number) => Some(yaml::number_text(*number)),
            structure @ (Js::List(_) | Js::Map(_)) => {
                let json = yaml::json(structure);
                json.map(|json| lines.get(key).filter(|_| perhaps_text.contains(key)).cloned().unwrap_or(json))
            }
        };
        if let Some(text) = text.filter(|_| !key.is_empty()) {
            fields.insert(key.to_owned(), text);
        }
    }
    for (key, line) in lines {
        fields.entry(key.clone()).or_insert_with(|| line.clone());
    }
    Ok(fields)
}

const NEWLINE: u16 = b'\n' as u16;

fn line_end(text: &[u16], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.iter().position(|unit| *unit == NEWLINE).map_or(text.len(), |n| from + n)
}

/// The rest of the line from here.
fn line_at(text: &[u16], from: usize) -> String {
    String::from_utf16_lossy(text.get(from..line_end(text, from)).unwrap_or_default())
}

/// Quotes the free text in whose line the first mistake is. `description` is quoted for any mistake in it,
/// `read_when` and `summary` only for a colon in unquoted text. None when there is nothing to quote.
fn repair(text: &[u16]) -> Option<Vec<u16>> {
    let Parsed { contents, faults } = yaml::parse(text);
    let Some(Val::Map(pairs)) = contents.map(|value| value.val) else { return None };
    let is_text = |val: &Val, wanted: &str| matches!(val, Val::Text(text) if text.iter().copied().eq(wanted.encode_utf16()));
    let error: Option<&Fault> = faults.iter().find(|fault| fault.at.is_some());
    // An alias of nothing is a mistake only later; people write `*emphasis*`.
    let alias = || {
        let is_alias = |value: &Option<yaml::Value>| matches!(value, Some(yaml::Value { val: Val::Alias(_), .. }));
        pairs.iter().find(|(key, value)| is_text(&key.val, "description") && is_alias(value)).map(|(key, _)| key.range[0])
    };
    let at = error.and_then(|fault| fault.at).or_else(alias)?;
    let before = text.get(..text.len().min(at + 1)).unwrap_or_default();
    let start = before.iter().rposition(|unit| *unit == NEWLINE).map_or(0, |n| n + 1);
    let end = line_end(text, at.min(text.len()));
    let line = String::from_utf16_lossy(text.get(start..end).unwrap_or_default());
    let (key, raw) = maybe_quoted_key(&line)?;
    let raw = trim(raw);
    let is_top = pairs.iter().any(|(node, _)| is_text(&node.val, key) && node.range[0] == start);
    let is_colon = error.is_some_and(|fault| fault.code == "BLOCK_AS_IMPLICIT_KEY") && raw.contains(": ");
    if raw.is_empty() || !FREE_TEXT.contains(&key) || !is_top || (key != "description" && !is_colon) || is_block_header(raw) {
        return None;
    }
    let line = format!("{key}: {}", yaml::quoted(unquote(raw)));
    let mut repaired = text.get(..start)?.to_vec();
    repaired.extend(line.encode_utf16());
    repaired.extend(text.get(end..)?);
    (repaired != text).then_some(repaired)
}

fn maybe_quoted_key(line: &str) -> Option<(&str, &str)> {
    let quoted = |quote: char| {
        let (key, rest) = line.strip_prefix(quote)?.split_once(quote)?;
        let value = rest.strip_prefix(':')?.trim_start_matches(is_space);
        (!key.is_empty() && key.chars().all(is_word) && !value.contains(['\u{2028}', '\u{2029}'])).then_some((key, value))
    };
    key_and_value(line).or_else(|| quoted('"')).or_else(|| quoted('\''))
}

/// `^[|>](?:[1-9][+-]?|[+-][1-9]?)?$`
fn is_block_header(raw: &str) -> bool {
    let Some(rest) = raw.strip_prefix(['|', '>']) else { return false };
    let is_digit = |b: u8| (b'1'..=b'9').contains(&b);
    let is_sign = |b: u8| matches!(b, b'+' | b'-');
    match rest.as_bytes() {
        [] => true,
        [one] => is_digit(*one) || is_sign(*one),
        [one, two] => (is_digit(*one) && is_sign(*two)) || (is_sign(*one) && is_digit(*two)),
        _ => false,
    }
}
