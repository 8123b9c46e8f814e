//! What the parser builds: tokens and nodes with their places, mistakes included.

use super::lexer::ascii;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bom,
    DocMode,
    FlowErrorEnd,
    DocStart,
    DocEnd,
    Newline,
    SeqItem,
    ExplicitKey,
    MapValue,
    FlowMapStart,
    FlowMapEnd,
    FlowSeqStart,
    FlowSeqEnd,
    Comma,
    Space,
    Comment,
    Directive,
    Alias,
    Anchor,
    Tag,
    Plain,
    SingleQuoted,
    DoubleQuoted,
    BlockHeader,
    Error,
}

impl Kind {
    /// As npm `yaml` calls it in its messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Bom => "byte-order-mark",
            Kind::DocMode => "doc-mode",
            Kind::FlowErrorEnd => "flow-error-end",
            Kind::DocStart => "doc-start",
            Kind::DocEnd => "doc-end",
            Kind::Newline => "newline",
            Kind::SeqItem => "seq-item-ind",
            Kind::ExplicitKey => "explicit-key-ind",
            Kind::MapValue => "map-value-ind",
            Kind::FlowMapStart => "flow-map-start",
            Kind::FlowMapEnd => "flow-map-end",
            Kind::FlowSeqStart => "flow-seq-start",
            Kind::FlowSeqEnd => "flow-seq-end",
            Kind::Comma => "comma",
            Kind::Space => "space",
            Kind::Comment => "comment",
            Kind::Directive => "directive-line",
            Kind::Alias => "alias",
            Kind::Anchor => "anchor",
            Kind::Tag => "tag",
            Kind::Plain => "scalar",
            Kind::SingleQuoted => "single-quoted-scalar",
            Kind::DoubleQuoted => "double-quoted-scalar",
            Kind::BlockHeader => "block-scalar-header",
            Kind::Error => "error",
        }
    }
}

/// The kind of a lexeme that no mark announced.
pub(super) fn kind_of(text: &[u16]) -> Option<Kind> {
    let first = match text {
        [] => return Some(Kind::Newline),
        [0xfeff] => return Some(Kind::Bom),
        [only] => {
            let kind = match ascii(*only) {
                b'\n' => Some(Kind::Newline),
                b'-' => Some(Kind::SeqItem),
                b'?' => Some(Kind::ExplicitKey),
                b':' => Some(Kind::MapValue),
                b'{' => Some(Kind::FlowMapStart),
                b'}' => Some(Kind::FlowMapEnd),
                b'[' => Some(Kind::FlowSeqStart),
                b']' => Some(Kind::FlowSeqEnd),
                b',' => Some(Kind::Comma),
                _ => None,
            };
            if kind.is_some() {
                return kind;
            }
            *only
        }
        [0x2d, 0x2d, 0x2d] => return Some(Kind::DocStart),
        [0x2e, 0x2e, 0x2e] => return Some(Kind::DocEnd),
        [first, ..] => *first,
    };
    match ascii(first) {
        b' ' | b'\t' => Some(Kind::Space),
        b'#' => Some(Kind::Comment),
        b'%' => Some(Kind::Directive),
        b'*' => Some(Kind::Alias),
        b'&' => Some(Kind::Anchor),
        b'!' => Some(Kind::Tag),
        b'\'' => Some(Kind::SingleQuoted),
        b'"' => Some(Kind::DoubleQuoted),
        b'|' | b'>' => Some(Kind::BlockHeader),
        _ => None,
    }
}

/// A piece of text with its place. Offsets and lengths in UTF-16 units, as everywhere in here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
    pub(super) len: usize,
    /// Of the line, as far as it was read.
    pub(super) indent: usize,
}

impl Token {
    pub(super) fn end(&self) -> usize {
        self.at + self.len
    }
}

/// A scalar or alias on one or more lines, or a mistake in the place of one.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) token: Token,
    pub(super) end: Option<Vec<Token>>,
    /// Of a mistake.
    pub(super) message: String,
}

/// A literal or folded scalar.
#[derive(Debug)]
pub(super) struct BlockScalar {
    pub(super) at: usize,
    pub(super) indent: usize,
    pub(super) props: Vec<Token>,
    /// From here to there.
    pub(super) source: (usize, usize),
}

/// A block mapping or sequence.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) at: usize,
    pub(super) indent: usize,
    pub(super) items: Vec<Item>,
}

/// A collection in brackets.
#[derive(Debug)]
pub(super) struct FlowCollection {
    pub(super) at: usize,
    pub(super) indent: usize,
    pub(super) start: Token,
    pub(super) items: Vec<Item>,
    pub(super) end: Vec<Token>,
}

/// An entry of a collection; which parts are there says how far it was read.
#[derive(Debug, Default)]
pub(super) struct Item {
    pub(super) start: Vec<Token>,
    pub(super) explicit: bool,
    pub(super) key: Option<Box<Node>>,
    pub(super) sep: Option<Vec<Token>>,
    pub(super) value: Option<Box<Node>>,
}

/// A node of the document.
#[derive(Debug)]
pub(super) enum Node {
    Flow(Flow),
    BlockScalar(BlockScalar),
    Map(Block),
    Seq(Block),
    Collection(FlowCollection),
}

impl Node {
    pub(super) fn at(&self) -> usize {
        match self {
            Node::Flow(flow) => flow.token.at,
            Node::BlockScalar(scalar) => scalar.at,
            Node::Map(block) | Node::Seq(block) => block.at,
            Node::Collection(collection) => collection.at,
        }
    }

    pub(super) fn indent(&self) -> usize {
        match self {
            Node::Flow(flow) => flow.token.indent,
            Node::BlockScalar(scalar) => scalar.indent,
            Node::Map(block) | Node::Seq(block) => block.indent,
            Node::Collection(collection) => collection.indent,
        }
    }

    /// What stands behind it on its line, where that is kept with the node.
    pub(super) fn end_mut(&mut self) -> Option<&mut Vec<Token>> {
        match self {
            Node::Flow(flow) => flow.end.as_mut(),
            Node::Collection(collection) => Some(&mut collection.end),
            _ => None,
        }
    }

    pub(super) fn is_block(&self) -> bool {
        matches!(self, Node::Map(_) | Node::Seq(_))
    }
}

/// What stands at the top of a stream.
#[derive(Debug)]
pub(super) enum Top {
    Directive(Token),
    Document(Document),
    DocEnd { at: usize, len: usize, end: Option<Vec<Token>> },
    Error { at: usize, message: String },
}

/// A document.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) at: usize,
    pub(super) start: Vec<Token>,
    pub(super) value: Option<Node>,
    pub(super) end: Option<Vec<Token>>,
}
