//! Text into lexemes. The states and their order are those of npm `yaml`'s lexer; it never fails, whatever the text.

use super::token::{Kind, kind_of};

/// A piece of text, or a mark that says how the next piece is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lexeme {
    /// The next piece starts a document.
    Document,
    /// A flow collection ends where it must not.
    FlowEnd,
    /// The next piece is a plain or block scalar, perhaps an empty one.
    Scalar,
    /// From here to there, in UTF-16 units.
    Text(usize, usize),
}

#[derive(Clone, Copy)]
enum State {
    Stream,
    BlockStart,
    Doc,
    Flow,
}

/// All of it at once: a front matter has at most 256,000 bytes.
pub(super) fn lex(text: &[u16]) -> Vec<Lexeme> {
    let mut lexer = Lexer {
        text,
        pos: 0,
        flow_key: false,
        flow_level: 0,
        indent_next: 0,
        indent_value: 0,
        explicit: None,
        keep: false,
        line_end: None,
        out: Vec::new(),
    };
    let mut state = State::Stream;
    while lexer.pos < text.len() {
        state = match state {
            State::Stream => lexer.stream(),
            State::BlockStart => lexer.block_start(),
            State::Doc => lexer.document(),
            State::Flow => lexer.flow(),
        };
    }
    lexer.out
}

/// Everything behind ASCII looks the same to the lexer.
const OTHER: u8 = 0xff;

/// A unit as a byte to match on.
pub(super) fn ascii(unit: u16) -> u8 {
    u8::try_from(unit).ok().filter(u8::is_ascii).unwrap_or(OTHER)
}

struct Lexer<'a> {
    text: &'a [u16],
    pos: usize,
    /// A `:` may follow this node of a flow collection without a space.
    flow_key: bool,
    flow_level: usize,
    /// The least indentation of a next line that still belongs to the present scalar.
    indent_next: usize,
    indent_value: usize,
    /// Of a block scalar's header, less one.
    explicit: Option<usize>,
    keep: bool,
    line_end: Option<usize>,
    out: Vec<Lexeme>,
}

fn is_empty(ch: Option<u8>) -> bool {
    matches!(ch, None | Some(b' ' | b'\n' | b'\t'))
}

fn is_flow_indicator(ch: Option<u8>) -> bool {
    matches!(ch, Some(b',' | b'[' | b']' | b'{' | b'}'))
}

fn ends_anchor(ch: Option<u8>) -> bool {
    is_empty(ch) || is_flow_indicator(ch)
}

fn is_tag_char(ch: u8) -> bool {
    ch.is_ascii_alphanumeric() || b"-#;/?:@&=+$_.!~*'()".contains(&ch)
}

impl Lexer<'_> {
    fn at(&self, i: usize) -> Option<u8> {
        self.text.get(i).copied().map(ascii)
    }

    fn ch(&self, n: usize) -> Option<u8> {
        self.at(self.pos + n)
    }

    fn find(&self, wanted: u8, from: usize) -> Option<usize> {
        let rest = self.text.get(from..)?;
        rest.iter().position(|unit| *unit == u16::from(wanted)).map(|n| from + n)
    }

    /// Kept, because a long line has many tokens.
    fn line_end(&mut self) -> usize {
        if self.line_end.is_none_or(|end| end < self.pos) {
            self.line_end = Some(self.find(b'\n', self.pos).unwrap_or(self.text.len()));
        }
        self.line_end.unwrap_or(self.text.len())
    }

    fn push_to(&mut self, end: usize, allow_empty: bool) -> usize {
        let end = end.min(self.text.len());
        if end > self.pos {
            self.out.push(Lexeme::Text(self.pos, end));
            let n = end - self.pos;
            self.pos = end;
            return n;
        }
        if allow_empty {
            self.out.push(Lexeme::Text(self.pos, self.pos));
        }
        0
    }

    fn push(&mut self, n: usize) -> usize {
        self.push_to(self.pos + n, false)
    }

    fn push_spaces(&mut self, tabs: bool) -> usize {
        let mut end = self.pos;
        while self.at(end) == Some(b' ') || (tabs && self.at(end) == Some(b'\t')) {
            end += 1;
        }
        self.push_to(end, false)
    }

    fn push_newline(&mut self) -> usize {
        if self.ch(0) == Some(b'\n') { self.push(1) } else { 0 }
    }

    fn push_until(&mut self, ends: impl Fn(Option<u8>) -> bool) -> usize {
        let mut end = self.pos;
        while !ends(self.at(end)) {
            end += 1;
        }
        self.push_to(end, false)
    }

    fn starts_with(&self, from: usize, what: &[u8; 3]) -> bool {
        (0..3).all(|n| self.at(from + n) == Some(what[n]))
    }

    /// `---` or `...` with nothing but space behind it.
    fn is_marker(&self, from: usize) -> bool {
        (self.starts_with(from, b"---") || self.starts_with(from, b"...")) && is_empty(self.at(from + 3))
    }

    fn at_line_end(&self) -> bool {
        let mut i = self.pos;
        while matches!(self.at(i), Some(b' ' | b'\t')) {
            i += 1;
        }
        matches!(self.at(i), None | Some(b'#' | b'\n'))
    }

    fn stream(&mut self) -> State {
        if self.text.get(self.pos) == Some(&0xfeff) {
            self.push(1);
        }
        let end = self.line_end();
        if self.ch(0) == Some(b'%') {
            let spaced = |i: usize| matches!(self.at(i), Some(b' ' | b'\t'));
            let comment = (self.pos + 1..end).find(|i| self.at(*i) == Some(b'#') && spaced(i - 1));
            let mut directive_end = comment.map_or(end, |at| at - 1);
            while directive_end > self.pos && spaced(directive_end - 1) {
                directive_end -= 1;
            }
            self.push_to(directive_end, false);
            self.push_spaces(true);
            self.push_to(end, false);
            return State::Stream;
        }
        if self.at_line_end() {
            self.push_spaces(true);
            self.push_to(end, false);
            self.push_newline();
            return State::Stream;
        }
        self.out.push(Lexeme::Document);
        self.line_start()
    }

    fn line_start(&mut self) -> State {
        if self.is_marker(self.pos) {
            let starts = self.ch(0) == Some(b'-');
            self.push(3);
            self.indent_value = 0;
            self.indent_next = 0;
            return if starts { State::Doc } else { State::Stream };
        }
        self.indent_value = self.push_spaces(false);
        if self.indent_next > self.indent_value && !is_empty(self.ch(1)) {
            self.indent_next = self.indent_value;
        }
        self.block_start()
    }

    fn block_start(&mut self) -> State {
        if matches!(self.ch(0), Some(b'-' | b'?' | b':')) && is_empty(self.ch(1)) {
            let n = self.push(1) + self.push_spaces(true);
            self.indent_next = self.indent_value + 1;
            self.indent_value += n;
            return State::BlockStart;
        }
        State::Doc
    }

    fn document(&mut self) -> State {
        self.push_spaces(true);
        // Indicators stand on this line; what follows them is looked at from here.
        let end = self.line_end();
        self.push_indicators();
        match self.ch(0).filter(|_| self.pos < end) {
            Some(b'#') => {
                self.push_to(end, false);
                self.push_newline();
                self.line_start()
            }
            None => {
                self.push_newline();
                self.line_start()
            }
            Some(b'{' | b'[') => {
                self.push(1);
                self.flow_key = false;
                self.flow_level = 1;
                State::Flow
            }
            Some(b'}' | b']') => {
                self.push(1);
                State::Doc
            }
            Some(b'*') => {
                self.push_until(ends_anchor);
                State::Doc
            }
            Some(b'"' | b'\'') => self.quoted(),
            Some(b'|' | b'>') => {
                self.block_header();
                self.push_spaces(true);
                self.push_to(end, false);
                self.push_newline();
                self.block_scalar()
            }
            Some(_) => self.plain(),
        }
    }

    fn flow(&mut self) -> State {
        let mut indent = None;
        loop {
            let newline = self.push_newline();
            let mut spaces = 0;
            if newline > 0 {
                spaces = self.push_spaces(false);
                self.indent_value = spaces;
                indent = Some(spaces);
            }
            spaces += self.push_spaces(true);
            if newline + spaces == 0 {
                break;
            }
        }
        let first = self.ch(0);
        if let Some(indent) = indent
            && ((indent < self.indent_next && first != Some(b'#')) || (indent == 0 && self.is_marker(self.pos)))
        {
            // A closing bracket below the column of the opening line's text is no YAML, and everybody writes it.
            let at_end = indent + 1 == self.indent_next && self.flow_level == 1 && matches!(first, Some(b']' | b'}'));
            if !at_end {
                self.flow_level = 0;
                self.out.push(Lexeme::FlowEnd);
                return self.line_start();
            }
        }
        let end = self.line_end();
        while self.ch(0) == Some(b',') {
            self.push(1);
            self.push_spaces(true);
            self.flow_key = false;
        }
        self.push_indicators();
        match self.ch(0).filter(|_| self.pos < end) {
            None => State::Flow,
            Some(b'#') => {
                self.push_to(end, false);
                State::Flow
            }
            Some(b'{' | b'[') => {
                self.push(1);
                self.flow_key = false;
                self.flow_level += 1;
                State::Flow
            }
            Some(b'}' | b']') => {
                self.push(1);
                self.flow_key = true;
                self.flow_level = self.flow_level.saturating_sub(1);
                if self.flow_level > 0 { State::Flow } else { State::Doc }
            }
            Some(b'*') => {
                self.push_until(ends_anchor);
                State::Flow
            }
            Some(b'"' | b'\'') => {
                self.flow_key = true;
                self.quoted()
            }
            Some(b':') if self.flow_key || is_empty(self.ch(1)) || self.ch(1) == Some(b',') => {
                self.flow_key = false;
                self.push(1);
                self.push_spaces(true);
                State::Flow
            }
            Some(_) => {
                self.flow_key = false;
                self.plain()
            }
        }
    }

    fn after_scalar(&self) -> State {
        if self.flow_level > 0 { State::Flow } else { State::Doc }
    }

    fn quoted(&mut self) -> State {
        let quote = self.ch(0).unwrap_or(b'"');
        let mut close = self.find(quote, self.pos + 1);
        if quote == b'\'' {
            while let Some(end) = close.filter(|end| self.at(end + 1) == Some(b'\'')) {
                close = self.find(quote, end + 2);
            }
        } else {
            while let Some(end) = close {
                let before = self.text.get(..end).unwrap_or_default();
                if before.iter().rev().take_while(|unit| **unit == u16::from(b'\\')).count() % 2 == 0 {
                    break;
                }
                close = self.find(quote, end + 1);
            }
        }
        // Without a closing quote, line ends are not looked at: it goes on to the end of the text.
        let mut end = close.unwrap_or(self.text.len());
        if let Some(close) = close {
            // No further than the quote: a line may hold many of them.
            let newline = |from: usize| {
                let inside = self.text.get(from..close)?;
                inside.iter().position(|unit| *unit == u16::from(b'\n')).map(|n| from + n)
            };
            let mut at = newline(self.pos);
            while let Some(n) = at {
                match self.continued(n + 1) {
                    Some(next) => at = newline(next),
                    None => {
                        end = n - 1;
                        break;
                    }
                }
            }
        }
        self.push_to(end + 1, false);
        self.after_scalar()
    }

    /// Where the scalar goes on in the line that starts here; None when it does not.
    fn continued(&self, line: usize) -> Option<usize> {
        if self.indent_next > 0 {
            let mut indent = 0;
            while self.at(line + indent) == Some(b' ') {
                indent += 1;
            }
            return (self.at(line + indent) == Some(b'\n') || indent >= self.indent_next).then_some(line + indent);
        }
        (!self.is_marker(line)).then_some(line)
    }

    fn block_header(&mut self) {
        self.explicit = None;
        self.keep = false;
        let mut i = self.pos;
        loop {
            i += 1;
            match self.at(i) {
                Some(b'+') => self.keep = true,
                Some(digit @ b'1'..=b'9') => self.explicit = Some(usize::from(digit - b'1')),
                Some(b'-') => {}
                _ => break,
            }
        }
        self.push_until(|ch| is_empty(ch) || ch == Some(b'#'));
    }

    fn block_scalar(&mut self) -> State {
        // One behind the last line end that belongs to it.
        let mut after = self.pos;
        let mut indent = 0;
        let mut i = self.pos;
        loop {
            match self.at(i) {
                Some(b' ') => indent += 1,
                Some(b'\n') => {
                    after = i + 1;
                    indent = 0;
                }
                _ => break,
            }
            i += 1;
        }
        if indent >= self.indent_next {
            self.indent_next = match self.explicit {
                None => indent,
                Some(explicit) => explicit + self.indent_next.max(1),
            };
            while let Some(from) = self.continued(after) {
                match self.find(b'\n', from) {
                    Some(newline) => after = newline + 1,
                    None => {
                        after = self.text.len() + 1;
                        break;
                    }
                }
            }
        }
        let mut i = after;
        while self.at(i) == Some(b' ') {
            i += 1;
        }
        if self.at(i) == Some(b'\t') {
            // Too little indentation with tabs is a mistake; inside of the scalar it is noticed.
            while matches!(self.at(i), Some(b'\t' | b' ' | b'\n')) {
                i += 1;
            }
            after = i;
        } else if !self.keep {
            // Empty lines at the end, but not those with more spaces than the text.
            while let Some(newline) = self.empty_line_before(after, indent) {
                after = newline + 1;
            }
        }
        self.out.push(Lexeme::Scalar);
        self.push_to(after, true);
        self.line_start()
    }

    fn empty_line_before(&self, after: usize, indent: usize) -> Option<usize> {
        let last = after.checked_sub(2)?;
        let mut i = last;
        while self.at(i) == Some(b' ') {
            i = i.checked_sub(1)?;
        }
        (self.at(i) == Some(b'\n') && i >= self.pos && i + 1 + indent > last).then_some(i)
    }

    fn plain(&mut self) -> State {
        let in_flow = self.flow_level > 0;
        // One behind its last character.
        let mut end = self.pos;
        let mut i = self.pos;
        while let Some(ch) = self.at(i) {
            let next = self.at(i + 1);
            if ch == b':' {
                if is_empty(next) || (in_flow && is_flow_indicator(next)) {
                    break;
                }
                end = i + 1;
            } else if is_empty(Some(ch)) {
                if next == Some(b'#') || (in_flow && is_flow_indicator(next)) {
                    break;
                }
                if ch == b'\n' {
                    let Some(from) = self.continued(i + 1) else { break };
                    // Onwards, and the space before a `#` is still seen.
                    i = i.max(from.saturating_sub(2));
                }
            } else {
                if in_flow && is_flow_indicator(Some(ch)) {
                    break;
                }
                end = i + 1;
            }
            i += 1;
        }
        self.out.push(Lexeme::Scalar);
        self.push_to(end, true);
        self.after_scalar()
    }

    fn push_indicators(&mut self) {
        loop {
            match self.ch(0) {
                Some(b'!') => {
                    self.push_tag();
                }
                Some(b'&') => {
                    self.push_until(ends_anchor);
                }
                Some(b'-' | b'?' | b':') if is_empty(self.ch(1)) || (self.flow_level > 0 && is_flow_indicator(self.ch(1))) => {
                    if self.flow_level == 0 {
                        self.indent_next = self.indent_value + 1;
                    } else {
                        self.flow_key = false;
                    }
                    self.push(1);
                }
                _ => return,
            }
            self.push_spaces(true);
        }
    }

    fn push_tag(&mut self) {
        if self.ch(1) == Some(b'<') {
            let mut i = self.pos + 2;
            while !is_empty(self.at(i)) && self.at(i) != Some(b'>') {
                i += 1;
            }
            self.push_to(if self.at(i) == Some(b'>') { i + 1 } else { i }, false);
            return;
        }
        let is_hex = |i: usize| self.at(i).is_some_and(|ch| ch.is_ascii_hexdigit());
        let mut i = self.pos + 1;
        loop {
            match self.at(i) {
                Some(b'%') if is_hex(i + 1) && is_hex(i + 2) => i += 3,
                Some(ch) if is_tag_char(ch) => i += 1,
                _ => break,
            }
        }
        self.push_to(i, false);
    }
}

/// The kind of a piece of text; None for one that is no YAML token.
pub(super) fn kind(text: &[u16], from: usize, to: usize) -> Option<Kind> {
    kind_of(text.get(from..to).unwrap_or_default())
}
