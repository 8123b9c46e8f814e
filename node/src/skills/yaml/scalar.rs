//! The text of scalars, and what a plain one means in the core schema of YAML 1.2.

use super::Val;
use super::compose::Composer;
use super::lexer::ascii;
use super::token::{BlockScalar, Kind};

fn is_blank(unit: u16) -> bool {
    matches!(ascii(unit), b' ' | b'\t')
}

fn trim_end(line: &[u16]) -> &[u16] {
    let end = line.iter().rposition(|unit| !is_blank(*unit)).map_or(0, |at| at + 1);
    line.get(..end).unwrap_or_default()
}

fn trim_start(line: &[u16]) -> &[u16] {
    let start = line.iter().position(|unit| !is_blank(*unit)).unwrap_or(line.len());
    line.get(start..).unwrap_or_default()
}

const NEWLINE: u16 = b'\n' as u16;
const SPACE: u16 = b' ' as u16;

/// A line end becomes a space, several become one less.
fn fold(source: &[u16]) -> Vec<u16> {
    let mut lines = source.split(|unit| *unit == NEWLINE);
    let first = lines.next().unwrap_or_default();
    let rest: Vec<&[u16]> = lines.collect();
    let Some((last, middle)) = rest.split_last() else { return source.to_vec() };
    let mut text = trim_end(first).to_vec();
    let mut separator = SPACE;
    for line in middle {
        let line = trim_start(trim_end(line));
        if line.is_empty() {
            if separator == NEWLINE {
                text.push(NEWLINE);
            }
            separator = NEWLINE;
        } else {
            text.push(separator);
            text.extend(line);
            separator = SPACE;
        }
    }
    text.push(separator);
    text.extend(trim_start(last));
    text
}

pub(super) fn plain(composer: &mut Composer<'_>, at: usize, source: &[u16]) -> Vec<u16> {
    let bad = match source.first().copied().map(ascii) {
        Some(b'\t') => Some("a tab character"),
        Some(b',') => Some("flow indicator character ,"),
        Some(b'%') => Some("directive indicator character %"),
        Some(b'|') => Some("block scalar indicator |"),
        Some(b'>') => Some("block scalar indicator >"),
        Some(b'@') => Some("reserved character @"),
        Some(b'`') => Some("reserved character `"),
        _ => None,
    };
    if let Some(bad) = bad {
        composer.fault(at, "BAD_SCALAR_START", format!("Plain value cannot start with {bad}"));
    }
    fold(source)
}

fn inner(source: &[u16]) -> &[u16] {
    source.get(1..source.len().saturating_sub(1)).unwrap_or_default()
}

fn check_closed(composer: &mut Composer<'_>, at: usize, source: &[u16], quote: u8) {
    if source.len() <= 1 || source.last().copied().map(ascii) != Some(quote) {
        composer.fault(at + source.len(), "MISSING_CHAR", format!("Missing closing {}quote", char::from(quote)));
    }
}

pub(super) fn single_quoted(composer: &mut Composer<'_>, at: usize, source: &[u16]) -> Vec<u16> {
    check_closed(composer, at, source, b'\'');
    let folded = fold(inner(source));
    let mut text = Vec::with_capacity(folded.len());
    let mut units = folded.into_iter().peekable();
    while let Some(unit) = units.next() {
        text.push(unit);
        if unit == u16::from(b'\'') {
            units.next_if_eq(&unit);
        }
    }
    text
}

pub(super) fn double_quoted(composer: &mut Composer<'_>, at: usize, source: &[u16]) -> Vec<u16> {
    let byte = |i: usize| source.get(i).copied().map(ascii);
    let last = source.len().saturating_sub(1);
    let mut text = Vec::with_capacity(source.len());
    let mut i = 1;
    while i < last {
        match byte(i) {
            Some(b'\n') => {
                let mut newlines = 0;
                while matches!(byte(i + 1), Some(b' ' | b'\t' | b'\n')) {
                    newlines += usize::from(byte(i + 1) == Some(b'\n'));
                    i += 1;
                }
                match newlines {
                    0 => text.push(SPACE),
                    n => text.extend(std::iter::repeat_n(NEWLINE, n)),
                }
            }
            Some(b'\\') => {
                i += 1;
                i = escape(composer, at, source, i, &mut text);
            }
            Some(b' ' | b'\t') => {
                let start = i;
                while matches!(byte(i + 1), Some(b' ' | b'\t')) {
                    i += 1;
                }
                if byte(i + 1) != Some(b'\n') {
                    text.extend(source.get(start..=i).unwrap_or_default());
                }
            }
            _ => text.extend(source.get(i)),
        }
        i += 1;
    }
    check_closed(composer, at, source, b'"');
    text
}

/// Takes what stands behind a backslash; the place of its last character.
fn escape(composer: &mut Composer<'_>, at: usize, source: &[u16], mut i: usize, text: &mut Vec<u16>) -> usize {
    let byte = |i: usize| source.get(i).copied().map(ascii);
    let code: u16 = match byte(i) {
        Some(b'0') => 0,
        Some(b'a') => 7,
        Some(b'b') => 8,
        Some(b'e') => 0x1b,
        Some(b'f') => 0xc,
        Some(b'n') => 0xa,
        Some(b'r') => 0xd,
        Some(b't' | b'\t') => 9,
        Some(b'v') => 0xb,
        Some(b'N') => 0x85,
        Some(b'_') => 0xa0,
        Some(b'L') => 0x2028,
        Some(b'P') => 0x2029,
        Some(same @ (b' ' | b'"' | b'/' | b'\\')) => u16::from(same),
        Some(b'\n') => {
            while matches!(byte(i + 1), Some(b' ' | b'\t')) {
                i += 1;
            }
            return i;
        }
        Some(kind @ (b'x' | b'u' | b'U')) => {
            let length = match kind {
                b'x' => 2,
                b'u' => 4,
                _ => 8,
            };
            match code_point(source.get(i + 1..i + 1 + length)) {
                Some(units) => text.extend(units),
                None => {
                    composer.fault(at + i - 1, "BAD_DQ_ESCAPE", "Invalid escape sequence");
                    text.extend(source.iter().skip(i - 1).take(length + 2));
                }
            }
            return i + length;
        }
        _ => {
            composer.fault(at + i - 1, "BAD_DQ_ESCAPE", "Invalid escape sequence");
            text.extend(source.iter().skip(i - 1).take(2));
            return i;
        }
    };
    text.push(code);
    i
}

/// Halves of a pair come one by one, so they are no characters.
fn code_point(digits: Option<&[u16]>) -> Option<Vec<u16>> {
    let mut code: u32 = 0;
    for unit in digits? {
        code = code.checked_mul(16)?.checked_add(char::from(ascii(*unit)).to_digit(16)?)?;
    }
    match u16::try_from(code) {
        Ok(unit) => Some(vec![unit]),
        Err(_) => char::from_u32(code).map(|c| c.encode_utf16(&mut [0; 2]).to_vec()),
    }
}

struct Header {
    folds: bool,
    indent: usize,
    chomp: Option<u8>,
    length: usize,
}

fn header(composer: &mut Composer<'_>, block: &BlockScalar) -> Header {
    let Some((first, rest)) = block.props.split_first() else { return Header { folds: false, indent: 0, chomp: None, length: 0 } };
    let source = composer.source(first);
    let mut header = Header { folds: source.first().copied().map(ascii) == Some(b'>'), indent: 0, chomp: None, length: source.len() };
    let mut wrong = None;
    for (n, unit) in source.iter().enumerate().skip(1) {
        match ascii(*unit) {
            sign @ (b'-' | b'+') if header.chomp.is_none() => header.chomp = Some(sign),
            digit @ b'1'..=b'9' if header.indent == 0 => header.indent = usize::from(digit - b'0'),
            _ => wrong = wrong.or(Some(block.at + n)),
        }
    }
    if let Some(at) = wrong {
        let message = format!("Block scalar header includes extra characters: {}", composer.shown(first));
        composer.fault(at, "UNEXPECTED_TOKEN", message);
    }
    let mut has_space = false;
    for token in rest {
        header.length += token.len;
        match token.kind {
            Kind::Space => has_space = true,
            Kind::Newline => {}
            Kind::Comment if has_space => {}
            Kind::Comment => {
                composer.fault(token.at, "MISSING_CHAR", "Comments must be separated from other tokens by white space characters");
            }
            kind => composer.fault(token.at, "UNEXPECTED_TOKEN", format!("Unexpected token in block scalar header: {}", kind.name())),
        }
    }
    header
}

/// The text of a literal or folded scalar, and where it ends.
pub(super) fn block(composer: &mut Composer<'_>, block: &BlockScalar, at_root: bool) -> (Vec<u16>, usize) {
    let header = header(composer, block);
    let source = composer.text.get(block.source.0..block.source.1).unwrap_or_default();
    let end = block.at + header.length + source.len();
    let mut lines: Vec<(usize, &[u16])> = Vec::new();
    if !source.is_empty() {
        lines.extend(source.split(|unit| *unit == NEWLINE).map(|line| {
            let indent = line.iter().take_while(|unit| **unit == SPACE).count();
            (indent, line.get(indent..).unwrap_or_default())
        }));
    }
    let mut chomp_start = lines.iter().rposition(|(_, content)| !content.is_empty()).map_or(0, |at| at + 1);
    if chomp_start == 0 {
        let kept = if header.chomp == Some(b'+') && !lines.is_empty() { (lines.len() - 1).max(1) } else { 0 };
        return (vec![NEWLINE; kept], end);
    }
    let mut trim = block.indent + header.indent;
    let mut offset = block.at + header.length;
    let mut content_start = 0;
    for (n, (indent, content)) in lines.iter().enumerate().take(chomp_start) {
        if content.is_empty() {
            if header.indent == 0 && *indent > trim {
                trim = *indent;
            }
        } else {
            if *indent < trim {
                let message = "Block scalars with more-indented leading empty lines must use an explicit indentation indicator";
                composer.fault(offset + indent, "MISSING_CHAR", message);
            }
            if header.indent == 0 {
                trim = *indent;
            }
            content_start = n;
            if trim == 0 && !at_root {
                composer.fault(offset, "BAD_INDENT", "Block scalar values in collections must be indented");
            }
            break;
        }
        offset += indent + content.len() + 1;
    }
    if let Some(n) = lines.iter().rposition(|(indent, _)| *indent > trim).filter(|n| *n >= chomp_start) {
        chomp_start = n + 1;
    }
    let spaces = |n: usize| std::iter::repeat_n(SPACE, n);
    let mut text: Vec<u16> = Vec::with_capacity(source.len());
    for (indent, _) in lines.iter().take(content_start) {
        text.extend(spaces(indent.saturating_sub(trim)));
        text.push(NEWLINE);
    }
    let mut separator: &[u16] = &[];
    let mut was_indented = false;
    for (indent, content) in lines.iter().take(chomp_start).skip(content_start) {
        let mut indent = *indent;
        offset += indent + content.len() + 1;
        if !content.is_empty() && indent < trim {
            let source = if header.indent > 0 { "explicit indentation indicator" } else { "first line" };
            let at = offset - content.len() - 1;
            composer.fault(at, "BAD_INDENT", format!("Block scalar lines must not be less indented than their {source}"));
            indent = 0;
        }
        let more = indent.saturating_sub(trim);
        if !header.folds {
            text.extend(separator);
            text.extend(spaces(more));
            text.extend(*content);
            separator = &[NEWLINE];
        } else if more > 0 || content.first().copied().map(ascii) == Some(b'\t') {
            if separator == [SPACE] {
                separator = &[NEWLINE];
            } else if !was_indented && separator == [NEWLINE] {
                separator = &[NEWLINE, NEWLINE];
            }
            text.extend(separator);
            text.extend(spaces(more));
            text.extend(*content);
            separator = &[NEWLINE];
            was_indented = true;
        } else if content.is_empty() {
            if separator == [NEWLINE] {
                text.push(NEWLINE);
            } else {
                separator = &[NEWLINE];
            }
        } else {
            text.extend(separator);
            text.extend(*content);
            separator = &[SPACE];
            was_indented = false;
        }
    }
    match header.chomp {
        Some(b'-') => {}
        Some(_) => {
            for (indent, _) in lines.iter().skip(chomp_start) {
                text.push(NEWLINE);
                text.extend(spaces(indent.saturating_sub(trim)));
            }
            if text.last() != Some(&NEWLINE) {
                text.push(NEWLINE);
            }
        }
        None => text.push(NEWLINE),
    }
    (text, end)
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn all_digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_digit(radix))
}

fn integer(text: &str) -> Option<f64> {
    let radix = |digits: &str, radix: u32| {
        let value = |sum: f64, c: char| c.to_digit(radix).map(|digit| sum.mul_add(f64::from(radix), f64::from(digit)));
        all_digits(digits, radix).then(|| digits.chars().try_fold(0.0, value)).flatten()
    };
    if let Some(number) = text.strip_prefix("0o").and_then(|digits| radix(digits, 8)) {
        return Some(number);
    }
    if let Some(number) = text.strip_prefix("0x").and_then(|digits| radix(digits, 16)) {
        return Some(number);
    }
    all_digits(text.strip_prefix(['-', '+']).unwrap_or(text), 10).then(|| text.parse().ok()).flatten()
}

fn float(text: &str) -> Option<f64> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    match (text, unsigned) {
        (".nan" | ".NaN" | ".NAN", _) => return Some(f64::NAN),
        (_, ".inf" | ".Inf" | ".INF") => return Some(sign * f64::INFINITY),
        _ => {}
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let exponent_fits = exponent.is_none_or(|exponent| all_digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent), 10));
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => all_digits(fraction, 10),
        Some((whole, fraction)) => all_digits(whole, 10) && (fraction.is_empty() || all_digits(fraction, 10)),
        None => exponent.is_some() && all_digits(mantissa, 10),
    };
    if exponent_fits && mantissa_fits { unsigned.parse::<f64>().ok().map(|number| sign * number) } else { None }
}

/// A plain scalar without a tag.
pub(super) fn by_look(units: Vec<u16>) -> Val {
    let Some(text) = short(&units) else { return Val::Text(units) };
    if is_null(&text) {
        return Val::Null;
    }
    let number = || integer(&text).or_else(|| float(&text)).map(Val::Number);
    boolean(&text).map(Val::Bool).or_else(number).unwrap_or(Val::Text(units))
}

/// A scalar with a tag: the known ones take what looks like it, everything else is text.
pub(super) fn by_tag(units: Vec<u16>, tag: &[u16]) -> Val {
    let tag = String::from_utf16_lossy(tag);
    let Some((kind, text)) = tag.strip_prefix("tag:yaml.org,2002:").zip(short(&units)) else { return Val::Text(units) };
    let val = match kind {
        "null" if is_null(&text) => Some(Val::Null),
        "bool" => boolean(&text).map(Val::Bool),
        "int" => integer(&text).map(Val::Number),
        "float" => float(&text).map(Val::Number),
        _ => None,
    };
    val.unwrap_or(Val::Text(units))
}

/// Only ASCII means more than text.
fn short(units: &[u16]) -> Option<String> {
    let ascii = |unit: &u16| u8::try_from(*unit).ok().filter(u8::is_ascii).map(char::from);
    units.iter().map(ascii).collect()
}
