//! Nodes into values, and the mistakes in the order in which npm `yaml` reports them: the first one is the verdict.

use std::collections::HashSet;

use super::lexer::ascii;
use super::props::{Props, props};
use super::scalar;
use super::token::{Block, BlockScalar, Document, Flow, FlowCollection, Item, Kind, Node, Token};
use super::{Fault, Val, Value};

/// Collects the mistakes of one document.
pub(super) struct Composer<'a> {
    pub(super) text: &'a [u16],
    pub(super) faults: Vec<Fault>,
    /// Handles of `%TAG` lines beside `!!`.
    pub(super) handles: &'a [(Vec<u16>, Vec<u16>)],
    at_root: bool,
}

/// Scalars that are equal as keys.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Null,
    Bool(bool),
    Number(u64),
    Text(Vec<u16>),
}

/// Keys seen in a mapping.
#[derive(Default)]
struct Keys(HashSet<Key>);

impl Keys {
    /// False when an equal one is there already.
    fn add(&mut self, key: &Value) -> bool {
        let key = match &key.val {
            Val::Null => Key::Null,
            Val::Bool(value) => Key::Bool(*value),
            // Nothing equals what is not a number; -0 is 0.
            Val::Number(number) if number.is_nan() => return true,
            Val::Number(number) => Key::Number((number + 0.0).to_bits()),
            Val::Text(text) => Key::Text(text.clone()),
            Val::Seq(_) | Val::Map(_) | Val::Alias(_) => return true,
        };
        self.0.insert(key)
    }
}

const COLUMN: &str = "All mapping items must start at the same column";
const IN_FLOW: &str = "Block collections are not allowed within flow collections";
const KEY_MAX: usize = 1024;
/// Mistakes kept of a document.
const FAULTS_MAX: usize = 16;

impl<'a> Composer<'a> {
    pub(super) fn new(text: &'a [u16], handles: &'a [(Vec<u16>, Vec<u16>)]) -> Composer<'a> {
        Composer { text, faults: Vec::new(), handles, at_root: true }
    }

    /// Notes a mistake. Only the first one counts, so a text of nothing else does not fill the memory.
    pub(super) fn fault(&mut self, at: usize, code: &'static str, message: impl Into<String>) {
        if self.faults.len() >= FAULTS_MAX {
            return;
        }
        self.faults.push(Fault { code, at: Some(at), message: message.into() });
    }

    pub(super) fn source(&self, token: &Token) -> &'a [u16] {
        self.text.get(token.at..token.end()).unwrap_or_default()
    }

    pub(super) fn shown(&self, token: &Token) -> String {
        String::from_utf16_lossy(self.source(token))
    }

    /// A whole document; the place where it ends.
    pub(super) fn document(&mut self, document: &Document) -> Value {
        let after = document.end.as_ref().and_then(|end| end.first());
        let next = Next::of(document.value.as_ref(), after);
        let found = self
            .props(&document.start, &Scope { flow: None, indicator: Kind::DocStart, next, offset: document.at, indent: 0, newline: true });
        if found.found.is_some() && document.value.as_ref().is_some_and(Node::is_block) && !found.has_newline {
            self.fault(found.end, "MISSING_CHAR", "Block collection cannot start on same line with directives-end marker");
        }
        let value = match &document.value {
            Some(node) => self.node(node, &found),
            None => self.empty(found.end, Some(&document.start), &found),
        };
        self.end(document.end.as_deref(), value.range[2], false);
        value
    }

    pub(super) fn props(&mut self, tokens: &[Token], scope: &Scope<'_>) -> Props {
        props(self, tokens, scope)
    }

    /// What follows a node on its line: space, and comments behind space.
    pub(super) fn end(&mut self, end: Option<&[Token]>, mut offset: usize, needs_space: bool) -> usize {
        let mut has_space = false;
        for token in end.unwrap_or_default() {
            match token.kind {
                Kind::Space | Kind::Newline => has_space = true,
                Kind::Comment => {
                    if needs_space && !has_space {
                        self.fault(token.at, "MISSING_CHAR", "Comments must be separated from other tokens by white space characters");
                    }
                }
                kind => self.fault(token.at, "UNEXPECTED_TOKEN", format!("Unexpected {} at node end", kind.name())),
            }
            offset += token.len;
        }
        offset
    }

    fn node(&mut self, node: &Node, props: &Props) -> Value {
        let mut value = match node {
            Node::Flow(flow) => match flow.token.kind {
                Kind::Alias => {
                    let value = self.alias(flow);
                    if props.anchor.is_some() || props.tag.is_some() {
                        self.fault(flow.token.at, "ALIAS_PROPS", "An alias node must not specify any properties");
                    }
                    value
                }
                Kind::Error => {
                    self.fault(flow.token.at, "UNEXPECTED_TOKEN", flow.message.clone());
                    self.empty(flow.token.at, None, props)
                }
                _ => self.flow_scalar(flow, props.tag.as_ref()),
            },
            Node::BlockScalar(scalar) => self.block_scalar(scalar, props.tag.as_ref()),
            Node::Map(_) | Node::Seq(_) | Node::Collection(_) => self.any_collection(node, props),
        };
        if let Some(anchor) = &props.anchor {
            let name = self.source(anchor).get(1..).unwrap_or_default().to_vec();
            if name.is_empty() {
                self.fault(anchor.at, "BAD_ALIAS", "Anchor cannot be an empty string");
            }
            if !matches!(value.val, Val::Alias(_)) {
                value.anchor = Some(name);
            }
        }
        value
    }

    /// The scalar that is not there.
    fn empty(&mut self, offset: usize, before: Option<&[Token]>, props: &Props) -> Value {
        let at = before.map_or(offset, |before| empty_at(offset, before));
        let token = Token { kind: Kind::Plain, at, len: 0, indent: 0 };
        let mut value = self.flow_scalar(&Flow { token, end: None, message: String::new() }, props.tag.as_ref());
        if let Some(anchor) = &props.anchor {
            value.anchor = Some(self.source(anchor).get(1..).unwrap_or_default().to_vec());
            if anchor.len <= 1 {
                self.fault(anchor.at, "BAD_ALIAS", "Anchor cannot be an empty string");
            }
        }
        if props.has_comment {
            value.range[2] = props.end;
        }
        value
    }

    fn alias(&mut self, flow: &Flow) -> Value {
        let name = self.source(&flow.token).get(1..).unwrap_or_default().to_vec();
        if name.is_empty() {
            self.fault(flow.token.at, "BAD_ALIAS", "Alias cannot be an empty string");
        }
        let end = self.end(flow.end.as_deref(), flow.token.end(), true);
        Value::new(Val::Alias(name), [flow.token.at, flow.token.end(), end])
    }

    fn flow_scalar(&mut self, flow: &Flow, tag: Option<&Token>) -> Value {
        let (token, source) = (&flow.token, self.source(&flow.token));
        let text = match token.kind {
            Kind::SingleQuoted => scalar::single_quoted(self, token.at, source),
            Kind::DoubleQuoted => scalar::double_quoted(self, token.at, source),
            _ => scalar::plain(self, token.at, source),
        };
        let end = self.end(flow.end.as_deref(), token.end(), true);
        let val = self.resolve(text, token.kind == Kind::Plain, tag);
        Value::new(val, [token.at, token.end(), end])
    }

    fn block_scalar(&mut self, block: &BlockScalar, tag: Option<&Token>) -> Value {
        let at_root = self.at_root;
        let (text, end) = scalar::block(self, block, at_root);
        let val = self.resolve(text, false, tag);
        Value::new(val, [block.at, end, end])
    }

    fn resolve(&mut self, text: Vec<u16>, is_plain: bool, tag: Option<&Token>) -> Val {
        match tag.and_then(|tag| self.tag_name(tag)) {
            Some(name) => scalar::by_tag(text, &name),
            None if is_plain => scalar::by_look(text),
            None => Val::Text(text),
        }
    }

    /// The tag in full; None for one that cannot be, which is a mistake.
    fn tag_name(&mut self, tag: &Token) -> Option<Vec<u16>> {
        let source = self.source(tag);
        let bad = |composer: &mut Composer<'_>, message: String| composer.fault(tag.at, "TAG_RESOLVE_FAILED", message);
        if source.len() <= 1 {
            return Some(source.to_vec());
        }
        let is = |at: usize, ch: u8| source.get(at).copied().map(ascii) == Some(ch);
        if is(1, b'<') {
            let verbatim = source.get(2..source.len() - 1).unwrap_or_default();
            if verbatim == [0x21] || verbatim == [0x21, 0x21] {
                bad(self, format!("Verbatim tags aren't resolved, so {} is invalid.", self.shown(tag)));
                return None;
            }
            if !is(source.len() - 1, b'>') {
                bad(self, "Verbatim tags must end with a >".to_owned());
            }
            return Some(verbatim.to_vec());
        }
        let split = source.iter().rposition(|unit| *unit == u16::from(b'!')).map_or(0, |at| at + 1);
        let (handle, suffix) = source.split_at(split);
        if suffix.is_empty() {
            bad(self, format!("The {} tag has no suffix", self.shown(tag)));
        }
        let prefix = match handle {
            [0x21, 0x21] => Some("tag:yaml.org,2002:".encode_utf16().collect()),
            _ => None,
        };
        let declared = self.handles.iter().rev().find(|(name, _)| name == handle).map(|(_, prefix)| prefix.clone());
        if let Some(mut name) = declared.or(prefix) {
            name.extend(suffix);
            return Some(name);
        }
        if handle == [0x21] {
            return Some(source.to_vec());
        }
        bad(self, format!("Could not resolve tag: {}", self.shown(tag)));
        None
    }

    fn any_collection(&mut self, node: &Node, props: &Props) -> Value {
        if let Some(tag) = &props.tag {
            self.tag_name(tag);
        }
        if let Node::Seq(_) = node {
            let last = [props.anchor, props.tag].into_iter().flatten().max_by_key(|token| token.at);
            if let Some(last) = last.filter(|last| props.newline_after.is_none_or(|newline| newline < last.at)) {
                self.fault(last.at, "MISSING_CHAR", "Missing newline after block sequence props");
            }
        }
        match node {
            Node::Map(map) => self.map(map),
            Node::Seq(seq) => self.seq(seq),
            Node::Collection(collection) => self.collection(collection),
            _ => Value::new(Val::Null, [node.at(); 3]),
        }
    }

    fn map(&mut self, map: &Block) -> Value {
        self.at_root = false;
        let mut offset = map.at;
        let mut comment_end = None;
        let mut pairs = Vec::new();
        let mut keys = Keys::default();
        for item in &map.items {
            let scope = Scope {
                flow: None,
                indicator: Kind::ExplicitKey,
                next: Next::of(item.key.as_deref(), first(item.sep.as_deref())),
                offset,
                indent: map.indent,
                newline: true,
            };
            let key_props = self.props(&item.start, &scope);
            let implicit = key_props.found.is_none();
            match (key_props.found, item.key.as_deref()) {
                (None, Some(Node::Seq(_))) => {
                    self.fault(offset, "BLOCK_AS_IMPLICIT_KEY", "A block sequence may not be used as an implicit map key");
                }
                (None, Some(Node::Flow(flow))) if flow.token.kind == Kind::Error => {}
                (None, Some(key)) if key.indent() != map.indent => self.fault(offset, "BAD_INDENT", COLUMN),
                (Some(found), _) if found.indent != map.indent => self.fault(offset, "BAD_INDENT", COLUMN),
                _ => {}
            }
            if implicit {
                if key_props.anchor.is_none() && key_props.tag.is_none() && item.sep.is_none() {
                    comment_end = Some(key_props.end);
                    continue;
                }
                if key_props.newline_after.is_some() || self.has_newline(item.key.as_deref()) {
                    let at = item.key.as_deref().map(Node::at).or_else(|| item.start.last().map(|token| token.at));
                    self.fault(at.unwrap_or(offset), "MULTILINE_IMPLICIT_KEY", "Implicit keys need to be on a single line");
                }
            }
            let key = match &item.key {
                Some(key) => self.node(key, &key_props),
                None => self.empty(key_props.end, Some(&item.start), &key_props),
            };
            if !keys.add(&key) {
                self.fault(key_props.end, "DUPLICATE_KEY", "Map keys must be unique");
            }
            let scope = Scope {
                flow: None,
                indicator: Kind::MapValue,
                next: Next::of(item.value.as_deref(), None),
                offset: key.range[2],
                indent: map.indent,
                newline: item.key.as_deref().is_none_or(|key| matches!(key, Node::BlockScalar(_))),
            };
            let value_props = self.props(item.sep.as_deref().unwrap_or_default(), &scope);
            offset = value_props.end;
            let Some(found) = value_props.found else {
                if implicit {
                    self.fault(key.range[0], "MISSING_CHAR", "Implicit map keys need to be followed by map values");
                }
                pairs.push((key, None));
                continue;
            };
            if implicit {
                if matches!(item.value.as_deref(), Some(Node::Map(_))) && !value_props.has_newline {
                    self.fault(offset, "BLOCK_AS_IMPLICIT_KEY", "Nested mappings are not allowed in compact mappings");
                }
                if key_props.start + KEY_MAX < found.at {
                    let message = "The : indicator must be at most 1024 chars after the start of an implicit block mapping key";
                    self.fault(key.range[0], "KEY_OVER_1024_CHARS", message);
                }
            }
            let value = match &item.value {
                Some(value) => self.node(value, &value_props),
                None => self.empty(offset, item.sep.as_deref(), &value_props),
            };
            offset = value.range[2];
            pairs.push((key, Some(value)));
        }
        if let Some(at) = comment_end.filter(|at| *at != 0 && *at < offset) {
            self.fault(at, "IMPOSSIBLE", "Map comment with trailing content");
        }
        Value::new(Val::Map(pairs), [map.at, offset, comment_end.unwrap_or(offset)])
    }

    fn seq(&mut self, seq: &Block) -> Value {
        self.at_root = false;
        let mut offset = seq.at;
        let mut comment_end = None;
        let mut entries = Vec::new();
        for item in &seq.items {
            let scope = Scope {
                flow: None,
                indicator: Kind::SeqItem,
                next: Next::of(item.value.as_deref(), None),
                offset,
                indent: seq.indent,
                newline: true,
            };
            let props = self.props(&item.start, &scope);
            if props.found.is_none() {
                if props.anchor.is_none() && props.tag.is_none() && item.value.is_none() {
                    comment_end = Some(props.end);
                    continue;
                }
                match item.value.as_deref() {
                    Some(Node::Seq(_)) => self.fault(props.end, "BAD_INDENT", "All sequence items must start at the same column"),
                    _ => self.fault(offset, "MISSING_CHAR", "Sequence item without - indicator"),
                }
            }
            let entry = match &item.value {
                Some(value) => self.node(value, &props),
                None => self.empty(props.end, Some(&item.start), &props),
            };
            offset = entry.range[2];
            entries.push(entry);
        }
        Value::new(Val::Seq(entries), [seq.at, offset, comment_end.unwrap_or(offset)])
    }

    fn collection(&mut self, own: &FlowCollection) -> Value {
        let is_map = own.start.kind == Kind::FlowMapStart;
        let name = if is_map { "flow map" } else { "flow sequence" };
        let at_root = std::mem::replace(&mut self.at_root, false);
        let mut offset = own.start.end();
        let mut pairs = Vec::new();
        let mut entries = Vec::new();
        let mut keys = Keys::default();
        let count = own.items.len();
        for (n, item) in own.items.iter().enumerate() {
            let scope = Scope {
                flow: Some(name),
                indicator: Kind::ExplicitKey,
                next: Next::of(item.key.as_deref(), first(item.sep.as_deref())),
                offset,
                indent: own.indent,
                newline: false,
            };
            let mut props = self.props(&item.start, &scope);
            if props.found.is_none() {
                if props.anchor.is_none() && props.tag.is_none() && item.sep.is_none() && item.value.is_none() {
                    match props.comma {
                        Some(comma) if n == 0 => self.fault(comma, "UNEXPECTED_TOKEN", format!("Unexpected , in {name}")),
                        _ if n + 1 < count => self.fault(props.start, "UNEXPECTED_TOKEN", format!("Unexpected empty item in {name}")),
                        _ => {}
                    }
                    offset = props.end;
                    continue;
                }
                if !is_map && self.has_newline(item.key.as_deref()) {
                    let at = item.key.as_deref().map_or(offset, Node::at);
                    self.fault(at, "MULTILINE_IMPLICIT_KEY", "Implicit keys of flow sequence pairs need to be on a single line");
                }
            }
            match props.comma {
                Some(comma) if n == 0 => self.fault(comma, "UNEXPECTED_TOKEN", format!("Unexpected , in {name}")),
                None if n > 0 => self.fault(props.start, "MISSING_CHAR", format!("Missing , between {name} items")),
                _ => {}
            }
            if n > 0 && comment_of_previous(&item.start) {
                props.has_comment = props.comments > 1;
            }
            if !is_map && item.sep.is_none() && props.found.is_none() {
                let entry = match &item.value {
                    Some(value) => self.node(value, &props),
                    None => self.empty(props.end, None, &props),
                };
                offset = entry.range[2];
                self.no_block(item.value.as_deref(), entry.range[0]);
                entries.push(entry);
                continue;
            }
            let (key, value, end) = self.pair(item, &props, name, is_map, own.indent);
            if is_map {
                if !keys.add(&key) {
                    self.fault(props.end, "DUPLICATE_KEY", "Map keys must be unique");
                }
                pairs.push((key, value));
            } else {
                let last = value.as_ref().unwrap_or(&key).range;
                let range = [key.range[0], last[1], last[2]];
                entries.push(Value::new(Val::Map(vec![(key, value)]), range));
            }
            offset = end;
        }
        let end = self.closing(own, is_map, at_root, offset);
        let val = if is_map { Val::Map(pairs) } else { Val::Seq(entries) };
        Value::new(val, [own.at, end.0, end.1])
    }

    /// An entry with a key; where it ends.
    fn pair(&mut self, item: &Item, props: &Props, name: &'static str, is_map: bool, indent: usize) -> (Value, Option<Value>, usize) {
        let key = match &item.key {
            Some(key) => self.node(key, props),
            None => self.empty(props.end, Some(&item.start), props),
        };
        self.no_block(item.key.as_deref(), key.range[0]);
        let sep = item.sep.as_deref().unwrap_or_default();
        let scope = Scope {
            flow: Some(name),
            indicator: Kind::MapValue,
            next: Next::of(item.value.as_deref(), None),
            offset: key.range[2],
            indent,
            newline: false,
        };
        let value_props = self.props(sep, &scope);
        match (value_props.found, item.value.as_deref()) {
            (Some(found), _) if !is_map && props.found.is_none() => {
                if let Some(newline) = sep.iter().take_while(|token| token.at != found.at).find(|token| token.kind == Kind::Newline) {
                    self.fault(newline.at, "MULTILINE_IMPLICIT_KEY", "Implicit keys of flow sequence pairs need to be on a single line");
                }
                if props.start + KEY_MAX < found.at {
                    let message = "The : indicator must be at most 1024 chars after the start of an implicit flow sequence key";
                    self.fault(found.at, "KEY_OVER_1024_CHARS", message);
                }
            }
            (None, Some(Node::Flow(flow))) if self.source(&flow.token).first() == Some(&u16::from(b':')) => {
                self.fault(flow.token.at, "MISSING_CHAR", format!("Missing space after : in {name}"));
            }
            (None, Some(_)) => self.fault(value_props.start, "MISSING_CHAR", format!("Missing , or : between {name} items")),
            _ => {}
        }
        let value = match &item.value {
            Some(value) => Some(self.node(value, &value_props)),
            None if value_props.found.is_some() => Some(self.empty(value_props.end, item.sep.as_deref(), &value_props)),
            None => None,
        };
        if let Some(value) = &value {
            self.no_block(item.value.as_deref(), value.range[0]);
        }
        let end = value.as_ref().map_or(value_props.end, |value| value.range[2]);
        (key, value, end)
    }

    fn no_block(&mut self, node: Option<&Node>, at: usize) {
        if node.is_some_and(Node::is_block) {
            self.fault(at, "BLOCK_IN_FLOW", IN_FLOW);
        }
    }

    /// The closing bracket, and what stands behind it.
    fn closing(&mut self, own: &FlowCollection, is_map: bool, at_root: bool, offset: usize) -> (usize, usize) {
        let (wanted, name, bracket) = if is_map { (Kind::FlowMapEnd, "Flow map", '}') } else { (Kind::FlowSeqEnd, "Flow sequence", ']') };
        let end = match own.end.first() {
            Some(found) if found.kind == wanted => found.end(),
            _ => {
                if at_root {
                    self.fault(offset, "MISSING_CHAR", format!("{name} must end with a {bracket}"));
                } else {
                    let message = format!("{name} in block collection must be sufficiently indented and end with a {bracket}");
                    self.fault(offset, "BAD_INDENT", message);
                }
                offset
            }
        };
        match own.end.get(1..) {
            Some(rest) if !rest.is_empty() => (end, self.end(Some(rest), end, true)),
            _ => (end, end),
        }
    }

    /// Does a key span lines?
    fn has_newline(&self, key: Option<&Node>) -> bool {
        let any = |tokens: &[Token]| tokens.iter().any(|token| token.kind == Kind::Newline);
        match key {
            None => false,
            Some(Node::Flow(flow)) if flow.token.kind != Kind::Error => {
                self.source(&flow.token).contains(&u16::from(b'\n')) || any(flow.end.as_deref().unwrap_or_default())
            }
            Some(Node::Collection(own)) => own.items.iter().any(|item| {
                any(&item.start)
                    || any(item.sep.as_deref().unwrap_or_default())
                    || self.has_newline(item.key.as_deref())
                    || self.has_newline(item.value.as_deref())
            }),
            Some(_) => true,
        }
    }
}

fn first(tokens: Option<&[Token]>) -> Option<&Token> {
    tokens.and_then(<[Token]>::first)
}

/// A comment at the start of an entry that stands behind the comma of the one before.
fn comment_of_previous(start: &[Token]) -> bool {
    start.iter().find(|token| !matches!(token.kind, Kind::Comma | Kind::Space)).is_some_and(|token| token.kind == Kind::Comment)
}

/// Where an empty scalar stands: behind the last token that is more than blank, and the spaces behind that.
fn empty_at(mut offset: usize, before: &[Token]) -> usize {
    for (n, token) in before.iter().enumerate().rev() {
        if matches!(token.kind, Kind::Space | Kind::Comment | Kind::Newline) {
            offset = offset.saturating_sub(token.len);
            continue;
        }
        let behind = before.get(n + 1..).unwrap_or_default();
        return offset + behind.iter().take_while(|token| token.kind == Kind::Space).map(|token| token.len).sum::<usize>();
    }
    offset
}

/// What comes after some properties.
#[derive(Clone, Copy)]
pub(super) enum Next<'a> {
    Nothing,
    Node(&'a Node),
    Token(&'a Token),
}

impl<'a> Next<'a> {
    fn of(node: Option<&'a Node>, token: Option<&'a Token>) -> Next<'a> {
        node.map(Next::Node).or_else(|| token.map(Next::Token)).unwrap_or(Next::Nothing)
    }
}

/// Where properties stand.
pub(super) struct Scope<'a> {
    /// The name of the flow collection.
    pub(super) flow: Option<&'static str>,
    pub(super) indicator: Kind,
    pub(super) next: Next<'a>,
    pub(super) offset: usize,
    /// Of the parent.
    pub(super) indent: usize,
    /// They begin on a new line.
    pub(super) newline: bool,
}
