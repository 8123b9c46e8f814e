//! Lexemes into nodes. Follows npm `yaml`'s parser step by step, because which mistake is reported, and where, is decided here.

use super::DEPTH_MAX;
use super::lexer::{self, Lexeme};
use super::token::{Block, BlockScalar, Document, Flow, FlowCollection, Item, Kind, Node, Token, Top};

/// The nesting is too deep to be read.
#[derive(Debug)]
pub(super) struct TooDeep {
    pub(super) at: usize,
}

/// Reads all documents of a text.
pub(super) fn parse(text: &[u16]) -> Result<Vec<Top>, TooDeep> {
    let mut parser = Parser {
        text,
        stack: Vec::new(),
        at_newline: true,
        at_scalar: false,
        indent: 0,
        offset: 0,
        on_key_line: false,
        token: None,
        out: Vec::new(),
    };
    for lexeme in lexer::lex(text) {
        parser.next(lexeme);
        if parser.stack.len() > DEPTH_MAX {
            return Err(TooDeep { at: parser.offset });
        }
    }
    while !parser.stack.is_empty() {
        parser.pop();
    }
    Ok(parser.out)
}

#[derive(Debug)]
enum Frame {
    Document(Document),
    DocEnd { at: usize, len: usize, end: Option<Vec<Token>> },
    Node(Node),
}

struct Parser<'a> {
    text: &'a [u16],
    stack: Vec<Frame>,
    /// Space and indicators count as indentation.
    at_newline: bool,
    /// The next lexeme is a scalar.
    at_scalar: bool,
    indent: usize,
    offset: usize,
    on_key_line: bool,
    token: Option<Token>,
    out: Vec<Top>,
}

fn includes(list: &[Token], kind: Kind) -> bool {
    list.iter().any(|token| token.kind == kind)
}

fn all_blank(list: &[Token]) -> bool {
    list.iter().all(|token| matches!(token.kind, Kind::Space | Kind::Comment | Kind::Newline))
}

fn is_flow(node: Option<&Node>) -> bool {
    match node {
        Some(Node::Flow(flow)) => flow.token.kind != Kind::Error,
        Some(Node::Collection(_)) => true,
        _ => false,
    }
}

/// Takes what belongs to a key that turns out to begin here: the tokens behind the last indicator or line end.
fn key_start(before: &mut Vec<Token>) -> Vec<Token> {
    let ends = |kind| matches!(kind, Kind::DocStart | Kind::ExplicitKey | Kind::MapValue | Kind::SeqItem | Kind::Newline);
    let mut from = before.iter().rposition(|token| ends(token.kind)).map_or(0, |at| at + 1);
    while before.get(from).is_some_and(|token| token.kind == Kind::Space) {
        from += 1;
    }
    before.split_off(from.min(before.len()))
}

/// `[a b]`: what looked like a key without a value is an entry.
fn fix_entries(collection: &mut FlowCollection) {
    if collection.start.kind != Kind::FlowSeqStart {
        return;
    }
    for item in &mut collection.items {
        let Some(sep) = item.sep.as_mut() else { continue };
        if item.value.is_some() || includes(&item.start, Kind::ExplicitKey) || includes(sep, Kind::MapValue) {
            continue;
        }
        let sep = std::mem::take(sep);
        item.sep = None;
        item.value = item.key.take();
        match item.value.as_deref_mut() {
            Some(Node::Flow(flow)) if flow.token.kind != Kind::Error => flow.end.get_or_insert_default().extend(sep),
            Some(Node::Collection(inner)) => inner.end.extend(sep),
            _ => item.start.extend(sep),
        }
    }
}

impl Parser<'_> {
    fn next(&mut self, lexeme: Lexeme) {
        let here = |kind, len| Token { kind, at: self.offset, len, indent: self.indent };
        let (from, to) = match lexeme {
            Lexeme::Text(from, to) => (from, to),
            Lexeme::Document => return self.step(here(Kind::DocMode, 1)),
            Lexeme::FlowEnd => return self.step(here(Kind::FlowErrorEnd, 1)),
            Lexeme::Scalar => {
                self.at_newline = false;
                self.at_scalar = true;
                return;
            }
        };
        let len = to - from;
        if std::mem::take(&mut self.at_scalar) {
            self.step(here(Kind::Plain, len));
            self.offset += len;
            return;
        }
        let Some(kind) = lexer::kind(self.text, from, to) else {
            let shown = String::from_utf16_lossy(self.text.get(from..to).unwrap_or_default());
            self.mistake(here(Kind::Error, len), format!("Not a YAML token: {shown}"));
            self.offset += len;
            return;
        };
        let starts_with_space = self.text.get(from) == Some(&u16::from(b' '));
        self.step(here(kind, len));
        match kind {
            Kind::Newline => {
                self.at_newline = true;
                self.indent = 0;
            }
            Kind::Space if self.at_newline && starts_with_space => self.indent += len,
            Kind::ExplicitKey | Kind::MapValue | Kind::SeqItem if self.at_newline => self.indent += len,
            Kind::Space | Kind::ExplicitKey | Kind::MapValue | Kind::SeqItem => {}
            _ => self.at_newline = false,
        }
        self.offset += len;
    }

    /// Puts the token where it belongs, closing what ends before it.
    fn step(&mut self, token: Token) {
        self.token = Some(token);
        // Each round closes a node, or is the last.
        while !self.place(token) {}
    }

    /// False when a node was closed and the token is to be looked at again.
    fn place(&mut self, token: Token) -> bool {
        let top = self.stack.last();
        if token.kind == Kind::DocEnd && !matches!(top, Some(Frame::DocEnd { .. })) {
            while !self.stack.is_empty() {
                self.pop();
            }
            self.stack.push(Frame::DocEnd { at: token.at, len: token.len, end: None });
            return true;
        }
        match top {
            None => self.stream(token),
            Some(Frame::Document(_)) => self.document(token),
            Some(Frame::DocEnd { .. }) => self.document_end(token),
            Some(Frame::Node(Node::Flow(flow))) if flow.token.kind == Kind::Error => self.again(),
            Some(Frame::Node(Node::Flow(_))) => self.scalar(token),
            Some(Frame::Node(Node::BlockScalar(_))) => self.block_scalar(token),
            Some(Frame::Node(Node::Map(_))) => self.block_map(token),
            Some(Frame::Node(Node::Seq(_))) => self.block_seq(token),
            Some(Frame::Node(Node::Collection(_))) => self.collection(token),
        }
    }

    fn again(&mut self) -> bool {
        self.pop();
        false
    }

    /// Closes the innermost node.
    fn pop(&mut self) {
        match self.stack.pop() {
            None => {}
            Some(Frame::Document(document)) => self.out.push(Top::Document(document)),
            Some(Frame::DocEnd { at, len, end }) => self.out.push(Top::DocEnd { at, len, end }),
            Some(Frame::Node(node)) => self.close(node),
        }
    }

    /// A mistake takes the place of a node.
    fn mistake(&mut self, token: Token, message: String) {
        if self.stack.is_empty() {
            self.out.push(Top::Error { at: token.at, message });
        } else {
            self.close(Node::Flow(Flow { token: Token { kind: Kind::Error, ..token }, end: None, message }));
        }
    }

    /// Hangs a node that is complete into the one around it.
    fn close(&mut self, mut node: Node) {
        let Some(top) = self.stack.last_mut() else { return };
        let top_indent = match top {
            Frame::Node(top) => top.indent(),
            _ => 0,
        };
        match &mut node {
            // Block scalars count from what is around them, not from their header.
            Node::BlockScalar(scalar) => scalar.indent = top_indent,
            Node::Collection(collection) => {
                if matches!(top, Frame::Document(_)) {
                    collection.indent = 0;
                }
                fix_entries(collection);
            }
            _ => {}
        }
        match top {
            Frame::Document(document) => {
                let moved = trailing(&mut node);
                document.value = Some(node);
                if let Some(start) = moved {
                    document.end = Some(start);
                }
            }
            Frame::Node(Node::BlockScalar(scalar)) => {
                if let Node::Flow(flow) = node {
                    scalar.props.push(flow.token);
                }
            }
            Frame::Node(Node::Map(map)) => {
                let Some(item) = map.items.last_mut() else { return };
                if item.value.is_some() {
                    map.items.push(Item { key: Some(Box::new(node)), sep: Some(Vec::new()), ..Item::default() });
                    self.on_key_line = true;
                } else if item.sep.is_some() {
                    let moved = trailing(&mut node);
                    item.value = Some(Box::new(node));
                    if let Some(start) = moved {
                        map.items.push(Item { start, ..Item::default() });
                    }
                } else {
                    item.key = Some(Box::new(node));
                    item.sep = Some(Vec::new());
                    self.on_key_line = !item.explicit;
                }
            }
            Frame::Node(Node::Seq(seq)) => {
                let moved = trailing(&mut node);
                match seq.items.last_mut() {
                    Some(item) if item.value.is_none() => item.value = Some(Box::new(node)),
                    _ => seq.items.push(Item { value: Some(Box::new(node)), ..Item::default() }),
                }
                if let Some(start) = moved {
                    seq.items.push(Item { start, ..Item::default() });
                }
            }
            Frame::Node(Node::Collection(collection)) => match collection.items.last_mut() {
                Some(item) if item.value.is_none() => {
                    if item.sep.is_some() {
                        item.value = Some(Box::new(node));
                    } else {
                        item.key = Some(Box::new(node));
                        item.sep = Some(Vec::new());
                    }
                }
                _ => collection.items.push(Item { key: Some(Box::new(node)), sep: Some(Vec::new()), ..Item::default() }),
            },
            Frame::Node(Node::Flow(_)) | Frame::DocEnd { .. } => {
                self.pop();
                if !self.stack.is_empty() {
                    self.close(node);
                }
            }
        }
    }

    fn stream(&mut self, token: Token) -> bool {
        match token.kind {
            Kind::Directive => self.out.push(Top::Directive(token)),
            Kind::Bom | Kind::Space | Kind::Comment | Kind::Newline => {}
            Kind::DocMode => self.stack.push(Frame::Document(Document { at: token.at, ..Document::default() })),
            Kind::DocStart => self.stack.push(Frame::Document(Document { at: token.at, start: vec![token], ..Document::default() })),
            kind => self.out.push(Top::Error { at: token.at, message: format!("Unexpected {} token in YAML stream", kind.name()) }),
        }
        true
    }

    fn document(&mut self, token: Token) -> bool {
        let Some(Frame::Document(document)) = self.stack.last_mut() else { return true };
        if document.value.is_some() {
            return self.line_end(token);
        }
        match token.kind {
            Kind::DocStart if !all_blank(&document.start) => return self.again(),
            Kind::DocStart | Kind::Anchor | Kind::Tag | Kind::Space | Kind::Comment | Kind::Newline => {
                document.start.push(token);
                return true;
            }
            _ => {}
        }
        match self.block_value(token) {
            Some(node) => self.stack.push(Frame::Node(node)),
            None => self.out.push(Top::Error { at: token.at, message: format!("Unexpected {} token in YAML document", token.kind.name()) }),
        }
        true
    }

    fn scalar(&mut self, token: Token) -> bool {
        if token.kind != Kind::MapValue {
            return self.line_end(token);
        }
        let Some(Frame::Node(Node::Flow(mut scalar))) = self.stack.pop() else { return true };
        let start = self.previous_props().map(key_start).unwrap_or_default();
        let mut sep = scalar.end.take().unwrap_or_default();
        sep.push(token);
        let (at, indent) = (scalar.token.at, scalar.token.indent);
        let item = Item { start, key: Some(Box::new(Node::Flow(scalar))), sep: Some(sep), ..Item::default() };
        self.on_key_line = true;
        self.stack.push(Frame::Node(Node::Map(Block { at, indent, items: vec![item] })));
        true
    }

    /// Where the innermost open node keeps what stands before its next child.
    fn previous_props(&mut self) -> Option<&mut Vec<Token>> {
        match self.stack.last_mut()? {
            Frame::Document(document) => Some(&mut document.start),
            Frame::Node(Node::Map(map)) => {
                let item = map.items.last_mut()?;
                Some(item.sep.as_mut().unwrap_or(&mut item.start))
            }
            Frame::Node(Node::Seq(seq)) => seq.items.last_mut().map(|item| &mut item.start),
            _ => None,
        }
    }

    fn block_scalar(&mut self, token: Token) -> bool {
        let Some(Frame::Node(Node::BlockScalar(scalar))) = self.stack.last_mut() else { return true };
        match token.kind {
            Kind::Space | Kind::Comment | Kind::Newline => {
                scalar.props.push(token);
                true
            }
            Kind::Plain => {
                scalar.source = (token.at, token.end());
                // It ends with its last line.
                self.at_newline = true;
                self.indent = 0;
                self.pop();
                true
            }
            _ => self.again(),
        }
    }

    fn block_seq(&mut self, token: Token) -> bool {
        let indent = self.indent;
        let Some(Frame::Node(Node::Seq(seq))) = self.stack.last_mut() else { return true };
        let (seq_indent, count) = (seq.indent, seq.items.len());
        let Some(item) = seq.items.last_mut() else { return true };
        match token.kind {
            Kind::Newline => {
                match item.value.as_deref_mut() {
                    None => item.start.push(token),
                    Some(value) => match value.end_mut() {
                        Some(end) if end.last().is_some_and(|last| last.kind == Kind::Comment) => end.push(token),
                        _ => seq.items.push(Item { start: vec![token], ..Item::default() }),
                    },
                }
                return true;
            }
            Kind::Space | Kind::Comment => {
                if item.value.is_some() {
                    seq.items.push(Item { start: vec![token], ..Item::default() });
                } else if !(is_indented_comment(token, &item.start, indent, seq_indent) && join_comment(&mut seq.items, count, token))
                    && let Some(item) = seq.items.last_mut()
                {
                    item.start.push(token);
                }
                return true;
            }
            Kind::Anchor | Kind::Tag if item.value.is_none() && indent > seq_indent => {
                item.start.push(token);
                return true;
            }
            Kind::Anchor | Kind::Tag => return self.again_or_block(token, false),
            Kind::SeqItem if indent == seq_indent => {
                if item.value.is_some() || includes(&item.start, Kind::SeqItem) {
                    seq.items.push(Item { start: vec![token], ..Item::default() });
                } else {
                    item.start.push(token);
                }
                return true;
            }
            _ => {}
        }
        self.again_or_block(token, indent > seq_indent)
    }

    fn again_or_block(&mut self, token: Token, may_start: bool) -> bool {
        if may_start && let Some(node) = self.block_value(token) {
            self.stack.push(Frame::Node(node));
            return true;
        }
        self.again()
    }

    fn block_map(&mut self, token: Token) -> bool {
        let (indent, on_key_line) = (self.indent, self.on_key_line);
        let Some(Frame::Node(Node::Map(map))) = self.stack.last_mut() else { return true };
        let (map_indent, count) = (map.indent, map.items.len());
        let Some(item) = map.items.last_mut() else { return true };
        match token.kind {
            Kind::Newline => {
                self.on_key_line = false;
                match (item.value.as_deref_mut(), item.sep.as_mut()) {
                    (Some(value), _) => match value.end_mut() {
                        Some(end) if end.last().is_some_and(|last| last.kind == Kind::Comment) => end.push(token),
                        _ => map.items.push(Item { start: vec![token], ..Item::default() }),
                    },
                    (None, Some(sep)) => sep.push(token),
                    (None, None) => item.start.push(token),
                }
                return true;
            }
            Kind::Space | Kind::Comment => {
                if item.value.is_some() {
                    map.items.push(Item { start: vec![token], ..Item::default() });
                } else if let Some(sep) = item.sep.as_mut() {
                    sep.push(token);
                } else if !(is_indented_comment(token, &item.start, indent, map_indent) && join_comment(&mut map.items, count, token))
                    && let Some(item) = map.items.last_mut()
                {
                    item.start.push(token);
                }
                return true;
            }
            _ => {}
        }
        if indent < map_indent {
            return self.again();
        }
        let at_map_indent = !on_key_line && indent == map_indent;
        let at_next = at_map_indent && (item.sep.is_some() || item.explicit) && token.kind != Kind::SeqItem;
        let start = match item.sep.as_mut() {
            Some(sep) if at_next && item.value.is_none() => empty_lines(sep, map_indent),
            _ => Vec::new(),
        };
        match token.kind {
            Kind::Anchor | Kind::Tag => {
                if at_next || item.value.is_some() {
                    let mut start = start;
                    start.push(token);
                    map.items.push(Item { start, ..Item::default() });
                    self.on_key_line = true;
                } else if let Some(sep) = item.sep.as_mut() {
                    sep.push(token);
                } else {
                    item.start.push(token);
                }
                true
            }
            Kind::ExplicitKey => {
                if item.sep.is_none() && !item.explicit {
                    item.start.push(token);
                    item.explicit = true;
                } else if at_next || item.value.is_some() {
                    let mut start = start;
                    start.push(token);
                    map.items.push(Item { start, explicit: true, ..Item::default() });
                } else {
                    self.push_map(token, Item { start: vec![token], explicit: true, ..Item::default() });
                }
                self.on_key_line = true;
                true
            }
            Kind::MapValue => {
                self.map_value(token, start, at_next);
                self.on_key_line = true;
                true
            }
            Kind::Alias | Kind::Plain | Kind::SingleQuoted | Kind::DoubleQuoted => {
                let scalar = Node::Flow(Flow { token, end: None, message: String::new() });
                if at_next || item.value.is_some() {
                    map.items.push(Item { start, key: Some(Box::new(scalar)), sep: Some(Vec::new()), ..Item::default() });
                    self.on_key_line = true;
                } else if item.sep.is_some() {
                    self.stack.push(Frame::Node(scalar));
                } else {
                    item.key = Some(Box::new(scalar));
                    item.sep = Some(Vec::new());
                    self.on_key_line = true;
                }
                true
            }
            _ => {
                let same_line = !item.explicit && item.sep.as_ref().is_some_and(|sep| !includes(sep, Kind::Newline));
                let Some(node) = self.block_value(token) else { return self.again() };
                if matches!(node, Node::Seq(_)) {
                    if same_line {
                        self.mistake(token, "Unexpected block-seq-ind on same line with key".to_owned());
                        return true;
                    }
                } else if at_map_indent && let Some(Frame::Node(Node::Map(map))) = self.stack.last_mut() {
                    map.items.push(Item { start, ..Item::default() });
                }
                self.stack.push(Frame::Node(node));
                true
            }
        }
    }

    fn push_map(&mut self, token: Token, item: Item) {
        self.stack.push(Frame::Node(Node::Map(Block { at: token.at, indent: self.indent, items: vec![item] })));
    }

    /// A `:` in a block mapping.
    fn map_value(&mut self, token: Token, start: Vec<Token>, at_next: bool) {
        let Some(Frame::Node(Node::Map(map))) = self.stack.last_mut() else { return };
        let Some(item) = map.items.last_mut() else { return };
        let empty = |start| Item { start, sep: Some(vec![token]), ..Item::default() };
        let has_value = item.value.is_some();
        let explicit = item.explicit;
        let Some(sep) = item.sep.as_mut() else {
            if !explicit || includes(&item.start, Kind::Newline) {
                item.sep = Some(vec![token]);
            } else {
                let start = key_start(&mut item.start);
                self.push_map(token, empty(start));
            }
            return;
        };
        if has_value || (at_next && !explicit) {
            map.items.push(empty(if explicit { Vec::new() } else { start }));
        } else if includes(sep, Kind::MapValue) {
            self.push_map(token, empty(if explicit { start } else { Vec::new() }));
        } else if explicit && is_flow(item.key.as_deref()) && !includes(sep, Kind::Newline) {
            let mut sep = item.sep.take().unwrap_or_default();
            sep.push(token);
            let start = key_start(&mut item.start);
            let inner = Item { start, key: item.key.take(), sep: Some(sep), ..Item::default() };
            self.push_map(token, inner);
        } else {
            if explicit {
                sep.extend(start);
            }
            sep.push(token);
        }
    }

    fn collection(&mut self, token: Token) -> bool {
        if token.kind == Kind::FlowErrorEnd {
            while matches!(self.stack.last(), Some(Frame::Node(Node::Collection(_)))) {
                self.pop();
            }
            return true;
        }
        let parent = self.stack.len().checked_sub(2).and_then(|at| self.stack.get(at));
        let (in_collection, closes) = match parent {
            Some(Frame::Node(Node::Collection(_))) => (true, false),
            Some(Frame::Node(Node::Map(map))) => {
                let same = matches!(self.stack.last(), Some(Frame::Node(Node::Collection(own))) if own.indent == map.indent);
                let key = map.items.last().is_some_and(|item| item.sep.is_none());
                (false, (token.kind == Kind::MapValue && same) || (token.kind == Kind::Newline && key))
            }
            _ => (false, false),
        };
        let Some(Frame::Node(Node::Collection(own))) = self.stack.last_mut() else { return true };
        if own.end.is_empty() {
            return self.entry(token);
        }
        if closes {
            return self.again();
        }
        if token.kind != Kind::MapValue || in_collection {
            return self.line_end(token);
        }
        // It was the key of a mapping.
        let Some(Frame::Node(Node::Collection(mut own))) = self.stack.pop() else { return true };
        let start = self.previous_props().map(key_start).unwrap_or_default();
        fix_entries(&mut own);
        let mut sep = own.end.split_off(1.min(own.end.len()));
        sep.push(token);
        let (at, indent) = (own.at, own.indent);
        let item = Item { start, key: Some(Box::new(Node::Collection(own))), sep: Some(sep), ..Item::default() };
        self.on_key_line = true;
        self.stack.push(Frame::Node(Node::Map(Block { at, indent, items: vec![item] })));
        true
    }

    /// Within brackets that are still open.
    fn entry(&mut self, token: Token) -> bool {
        let Some(Frame::Node(Node::Collection(own))) = self.stack.last_mut() else { return true };
        let item = own.items.last_mut();
        match token.kind {
            Kind::Comma | Kind::ExplicitKey => match item {
                Some(item) if item.sep.is_none() => item.start.push(token),
                _ => own.items.push(Item { start: vec![token], ..Item::default() }),
            },
            Kind::MapValue => match item {
                Some(item) if item.value.is_none() => item.sep.get_or_insert_default().push(token),
                _ => own.items.push(Item { sep: Some(vec![token]), ..Item::default() }),
            },
            Kind::Space | Kind::Comment | Kind::Newline | Kind::Anchor | Kind::Tag => match item {
                Some(item) if item.value.is_none() => item.sep.as_mut().unwrap_or(&mut item.start).push(token),
                _ => own.items.push(Item { start: vec![token], ..Item::default() }),
            },
            Kind::Alias | Kind::Plain | Kind::SingleQuoted | Kind::DoubleQuoted => {
                let scalar = Node::Flow(Flow { token, end: None, message: String::new() });
                match item {
                    Some(item) if item.value.is_none() && item.sep.is_some() => self.stack.push(Frame::Node(scalar)),
                    Some(item) if item.value.is_none() => {
                        item.key = Some(Box::new(scalar));
                        item.sep = Some(Vec::new());
                    }
                    _ => own.items.push(Item { key: Some(Box::new(scalar)), sep: Some(Vec::new()), ..Item::default() }),
                }
            }
            Kind::FlowMapEnd | Kind::FlowSeqEnd => own.end.push(token),
            _ => return self.again_or_block(token, true),
        }
        true
    }

    /// A node that may start here. It may take what stands before it as its own.
    fn block_value(&mut self, token: Token) -> Option<Node> {
        let indent = self.indent;
        let block = |items| Block { at: token.at, indent, items };
        Some(match token.kind {
            Kind::Alias | Kind::Plain | Kind::SingleQuoted | Kind::DoubleQuoted => {
                Node::Flow(Flow { token, end: None, message: String::new() })
            }
            Kind::BlockHeader => {
                Node::BlockScalar(BlockScalar { at: token.at, indent, props: vec![token], source: (token.end(), token.end()) })
            }
            Kind::FlowMapStart | Kind::FlowSeqStart => {
                Node::Collection(FlowCollection { at: token.at, indent, start: token, items: Vec::new(), end: Vec::new() })
            }
            Kind::SeqItem => Node::Seq(block(vec![Item { start: vec![token], ..Item::default() }])),
            Kind::ExplicitKey => {
                self.on_key_line = true;
                let mut start = self.previous_props().map(key_start).unwrap_or_default();
                start.push(token);
                Node::Map(block(vec![Item { start, explicit: true, ..Item::default() }]))
            }
            Kind::MapValue => {
                self.on_key_line = true;
                let start = self.previous_props().map(key_start).unwrap_or_default();
                Node::Map(block(vec![Item { start, sep: Some(vec![token]), ..Item::default() }]))
            }
            _ => return None,
        })
    }

    fn document_end(&mut self, token: Token) -> bool {
        if token.kind != Kind::DocMode {
            if let Some(Frame::DocEnd { end, .. }) = self.stack.last_mut() {
                end.get_or_insert_default().push(token);
            }
            if token.kind == Kind::Newline {
                self.pop();
            }
        }
        true
    }

    fn line_end(&mut self, token: Token) -> bool {
        match token.kind {
            Kind::Comma | Kind::DocStart | Kind::DocEnd | Kind::FlowSeqEnd | Kind::FlowMapEnd | Kind::MapValue => return self.again(),
            Kind::Newline => self.on_key_line = false,
            _ => {}
        }
        match self.stack.last_mut() {
            Some(Frame::Document(document)) => document.end.get_or_insert_default().push(token),
            Some(Frame::Node(Node::Flow(flow))) => flow.end.get_or_insert_default().push(token),
            Some(Frame::Node(Node::Collection(own))) => own.end.push(token),
            _ => {}
        }
        if token.kind == Kind::Newline {
            self.pop();
        }
        true
    }
}

/// Blank lines and comments at the end of a block that belong to what is around it.
fn trailing(node: &mut Node) -> Option<Vec<Token>> {
    let (Node::Map(block) | Node::Seq(block)) = node else { return None };
    let last = block.items.last()?;
    let is_trailing = last.sep.is_none() && last.value.is_none() && !last.start.is_empty() && all_blank(&last.start);
    let is_outside = block.indent == 0 || last.start.iter().all(|token| token.kind != Kind::Comment || token.indent < block.indent);
    if is_trailing && is_outside { block.items.pop().map(|item| item.start) } else { None }
}

fn is_indented_comment(token: Token, start: &[Token], indent: usize, block_indent: usize) -> bool {
    token.kind == Kind::Comment && indent > block_indent && start.iter().all(|token| matches!(token.kind, Kind::Newline | Kind::Space))
}

/// Joins an indented comment to the end of the entry before; false when that keeps none.
fn join_comment(items: &mut Vec<Item>, count: usize, token: Token) -> bool {
    let Some([before, last]) = count.checked_sub(2).and_then(|at| items.get_mut(at..count)) else { return false };
    let Some(end) = before.value.as_deref_mut().and_then(Node::end_mut) else { return false };
    end.append(&mut last.start);
    end.push(token);
    items.pop();
    true
}

/// Takes the lines from the second line end on: they stand before the next entry.
fn empty_lines(sep: &mut Vec<Token>, indent: usize) -> Vec<Token> {
    let mut newlines = Vec::new();
    for (n, token) in sep.iter().enumerate() {
        match token.kind {
            Kind::Newline => newlines.push(n),
            Kind::Space => {}
            Kind::Comment if token.indent <= indent => {}
            _ => newlines.clear(),
        }
    }
    newlines.get(1).map_or_else(Vec::new, |at| sep.split_off(*at))
}
