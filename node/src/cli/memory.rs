//! `clawmesh memory`: notes that every node keeps which shares memory.

use std::io::Read as _;

use bytesize::ByteSize;
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use clawmesh_protocol::spec::PAYLOAD_MAX;

use super::{Context, spec::user};
use crate::{
    api::{NewNote, NoteView},
    output::{
        Failure, Mode,
        views::{ago_now, clean, stamp},
    },
};

/// The group; without a word it lists whose notes are here.
#[derive(Debug, Subcommand)]
pub(super) enum Memory {
    /// Write a note down on this node; all nodes that share memory keep it.
    Note {
        /// The note, Markdown, 8 KiB at most; '-' reads it from stdin.
        #[arg(required = true, value_name = "TEXT")]
        text: Vec<String>,
    },
    /// List whose notes this node keeps, or the notes of one node.
    Ls {
        /// Name or id of the node that wrote them.
        #[arg(value_name = "NODE", value_parser = NonEmptyStringValueParser::new())]
        node: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Find notes that hold all of these words.
    Search {
        /// Words, in any case and order.
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
        /// Only what this node (name or id) wrote.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Ask the other nodes for their notes now, and bring all pages up to date.
    Sync,
}

/// Which notes.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Only of this day (UTC).
    #[arg(long, value_name = "YYYY-MM-DD")]
    day: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
}

/// The group.
pub(super) async fn memory(cx: &Context, what: Option<Memory>) -> Result<(), Failure> {
    match what {
        None => books(cx).await,
        Some(Memory::Ls { node: None, which }) if which.day.is_none() => books(cx).await,
        Some(Memory::Ls { node, which }) => find(cx, "", node.as_deref(), &which).await,
        Some(Memory::Search { words, node, which }) => find(cx, &words.join(" "), node.as_deref(), &which).await,
        Some(Memory::Note { text }) => note(cx, text).await,
        Some(Memory::Sync) => sync(cx).await,
    }
}

async fn note(cx: &Context, text: Vec<String>) -> Result<(), Failure> {
    let text = match text.as_slice() {
        [dash] if dash == "-" => {
            let mut text = String::new();
            // The node says what is too much, and by how much; cut off at its bound, a text may end in half a letter.
            let read = std::io::stdin().lock().take(PAYLOAD_MAX).read_to_string(&mut text);
            read.map_err(|e| Failure::usage(format!("cannot read the note from stdin: {e}")))?;
            text
        }
        words => words.join(" "),
    };
    let note = cx.client()?.note(&NewNote { text, user: user().unwrap_or_default() }).await?;
    cx.output.value(&note, |o| o.line(&format!("noted on {} at {}", clean(&note.node_name), stamp(note.at))))
}

async fn books(cx: &Context) -> Result<(), Failure> {
    let view = cx.client()?.memory().await?;
    if cx.output.mode() == Mode::Json {
        return cx.output.json(&view);
    }
    let rows = view.books.iter().map(|b| {
        let folder = b.folder.display().to_string();
        vec![clean(&b.node_name), b.notes.to_string(), ByteSize(b.bytes).to_string(), ago_now(b.last_at), clean(&folder)]
            .into_iter()
            .map(Into::into)
            .collect()
    });
    cx.output.table(&["NODE", "NOTES", "SIZE", "LAST", "FOLDER"], rows.collect())?;
    if view.books.is_empty() {
        cx.output.hint("clawmesh memory note TEXT");
    }
    Ok(())
}

async fn find(cx: &Context, words: &str, node: Option<&str>, which: &Which) -> Result<(), Failure> {
    let found = cx.client()?.notes(words, node, which.day.as_deref(), which.limit.into()).await?;
    cx.output.value(&found, |o| {
        // The newest last: that is where a person looks on a terminal.
        found.iter().rev().try_for_each(|n| o.line(&shown(n)))
    })?;
    if cx.output.mode() == Mode::Human && found.is_empty() {
        cx.output.note("no such note is kept by this node");
    }
    Ok(())
}

fn shown(n: &NoteView) -> String {
    let who = if n.user.is_empty() { String::new() } else { format!(", {}", clean(&n.user)) };
    let text: Vec<String> = n.text.trim_end().lines().map(|l| format!("  {}", clean(l))).collect();
    format!("{}  {}{who}\n{}", stamp(n.at), clean(&n.node_name), text.join("\n"))
}

async fn sync(cx: &Context) -> Result<(), Failure> {
    let done = cx.client()?.sync_notes().await?;
    cx.output.value(&done, |o| {
        o.line(&format!(
            "{} of {} nodes that share memory answered; {} new notes, {} files written",
            done.answered, done.asked, done.received, done.files
        ))
    })?;
    for left in &done.left {
        cx.output.note(&format!("left as it is: {}", clean(left)));
    }
    Ok(())
}
