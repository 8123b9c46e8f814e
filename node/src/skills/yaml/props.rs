//! What stands before a node: indicators, space, comments, an anchor, a tag.

use super::compose::{Composer, Next, Scope};
use super::token::{Kind, Node, Token};

/// What was found before a node.
#[derive(Debug, Default)]
pub(super) struct Props {
    pub(super) comma: Option<usize>,
    pub(super) found: Option<Token>,
    pub(super) has_comment: bool,
    pub(super) comments: usize,
    pub(super) has_newline: bool,
    pub(super) anchor: Option<Token>,
    pub(super) tag: Option<Token>,
    /// Of the last line end behind an anchor or tag.
    pub(super) newline_after: Option<usize>,
    pub(super) end: usize,
    /// Of the anchor or tag, else the end.
    pub(super) start: usize,
}

const SEPARATE: &str = "Tags and anchors must be separated from the next token by white space";
const TABS: &str = "Tabs are not allowed as indentation";

pub(super) fn props(composer: &mut Composer<'_>, tokens: &[Token], scope: &Scope<'_>) -> Props {
    let mut props = Props::default();
    let mut at_newline = scope.newline;
    let mut has_space = scope.newline;
    let mut needs_space = false;
    let mut tab: Option<Token> = None;
    let mut start = None;
    for token in tokens {
        if needs_space {
            if !matches!(token.kind, Kind::Space | Kind::Newline | Kind::Comma) {
                composer.fault(token.at, "MISSING_CHAR", SEPARATE);
            }
            needs_space = false;
        }
        if let Some(tab) = tab.take()
            && at_newline
            && !matches!(token.kind, Kind::Comment | Kind::Newline)
        {
            composer.fault(tab.at, "TAB_AS_INDENT", TABS);
        }
        match token.kind {
            Kind::Space => {
                let tabs_count =
                    scope.flow.is_none() && (scope.indicator != Kind::DocStart || !matches!(scope.next, Next::Node(Node::Collection(_))));
                if tabs_count && composer.source(token).contains(&u16::from(b'\t')) {
                    tab = Some(*token);
                }
                has_space = true;
            }
            Kind::Comment => {
                if !has_space {
                    composer.fault(token.at, "MISSING_CHAR", "Comments must be separated from other tokens by white space characters");
                }
                props.has_comment = true;
                props.comments += 1;
                at_newline = false;
            }
            Kind::Newline => {
                at_newline = true;
                props.has_newline = true;
                if props.anchor.is_some() || props.tag.is_some() {
                    props.newline_after = Some(token.at);
                }
                has_space = true;
            }
            Kind::Anchor | Kind::Tag => {
                let (slot, code, message) = match token.kind {
                    Kind::Anchor => (&mut props.anchor, "MULTIPLE_ANCHORS", "A node can have at most one anchor"),
                    _ => (&mut props.tag, "MULTIPLE_TAGS", "A node can have at most one tag"),
                };
                if slot.replace(*token).is_some() {
                    composer.fault(token.at, code, message);
                }
                start = start.or(Some(token.at));
                at_newline = false;
                has_space = false;
                needs_space = true;
            }
            kind if kind == scope.indicator => {
                if props.anchor.is_some() || props.tag.is_some() {
                    let message = format!("Anchors and tags must be after the {} indicator", composer.shown(token));
                    composer.fault(token.at, "BAD_PROP_ORDER", message);
                }
                if props.found.is_some() {
                    let message = format!("Unexpected {} in {}", composer.shown(token), scope.flow.unwrap_or("collection"));
                    composer.fault(token.at, "UNEXPECTED_TOKEN", message);
                }
                props.found = Some(*token);
                at_newline = matches!(kind, Kind::SeqItem | Kind::ExplicitKey);
                has_space = false;
            }
            Kind::Comma if scope.flow.is_some() => {
                if props.comma.is_some() {
                    composer.fault(token.at, "UNEXPECTED_TOKEN", format!("Unexpected , in {}", scope.flow.unwrap_or_default()));
                }
                props.comma = Some(token.at);
                at_newline = false;
                has_space = false;
            }
            kind => {
                composer.fault(token.at, "UNEXPECTED_TOKEN", format!("Unexpected {} token", kind.name()));
                at_newline = false;
                has_space = false;
            }
        }
    }
    props.end = tokens.last().map_or(scope.offset, Token::end);
    if needs_space && let Some(at) = directly_behind(scope.next) {
        composer.fault(at, "MISSING_CHAR", SEPARATE);
    }
    if let Some(tab) = tab
        && ((at_newline && tab.indent <= scope.indent) || matches!(scope.next, Next::Node(Node::Map(_) | Node::Seq(_))))
    {
        composer.fault(tab.at, "TAB_AS_INDENT", TABS);
    }
    props.start = start.unwrap_or(props.end);
    props
}

/// Where something begins that is neither blank nor empty.
fn directly_behind(next: Next<'_>) -> Option<usize> {
    match next {
        Next::Nothing => None,
        Next::Token(token) => (!matches!(token.kind, Kind::Space | Kind::Newline | Kind::Comma)).then_some(token.at),
        Next::Node(Node::Flow(flow)) if flow.token.kind == Kind::Plain && flow.token.len == 0 => None,
        Next::Node(node) => Some(node.at()),
    }
}
