//! What people and scripts see.  Commands compute; an [`Output`] prints, as tables, as JSON, or as bare ids.

pub(crate) mod skills;
pub(crate) mod views;

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Tables and sentences, with a hint what to type next.
    Human,
    /// One JSON value on stdout; errors as JSON on stderr.
    Json,
    /// The essence: ids and names, one a line.
    Quiet,
}

/// Everything worked.
pub(crate) const EXIT_DONE: u8 = 0;
/// The task failed, or the thing was refused.
pub(crate) const EXIT_REFUSED: u8 = 1;
/// Wrong usage.
pub(crate) const EXIT_USAGE: u8 = 2;
/// No node is reachable.
pub(crate) const EXIT_NO_NODE: u8 = 3;
/// Timed out waiting.
pub(crate) const EXIT_WAIT: u8 = 4;

/// Why a command ends with an exit code other than 0, for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    /// The program's exit code.
    pub(crate) exit: u8,
    /// The kind of error in one word, stable for programs.
    pub(crate) code: String,
    /// What happened and why: one sentence.  Empty when everything has been said (a task's own exit code).
    pub(crate) what: String,
    /// The command to type next.
    pub(crate) next: Option<String>,
    /// Ids or names that were perhaps meant.
    pub(crate) candidates: Vec<String>,
}

impl Failure {
    /// A failure with its exit code, a stable word and a sentence.
    pub(crate) fn new(exit: u8, code: &str, what: impl Into<String>) -> Self {
        Self { exit, code: code.into(), what: what.into(), next: None, candidates: Vec::new() }
    }
    /// The thing was refused, or did not work: exit code 1.
    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::new(EXIT_REFUSED, "refused", what)
    }
    /// The command was typed wrongly: exit code 2.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(EXIT_USAGE, "usage", what)
    }
    /// Nothing to say: only an exit code.
    pub(crate) fn silent(exit: u8) -> Self {
        Self::new(exit, "exit", "")
    }
    /// Adds the command to type next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::refused(format!("{e:#}"))
    }
}

/// A reader that went away (`clawmesh tasks ls | head -1`) is no error; a full disk behind stdout is one.
impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(EXIT_DONE),
            _ => Self::refused(format!("cannot write the output: {e}")),
        }
    }
}

/// Prints results on stdout, and everything else on stderr.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    mode: Mode,
    colour: bool,
    colour_err: bool,
    /// The home as it must be typed in the next command too, when it was typed in this one.
    home: Option<String>,
}

/// One cell of a table: text, and perhaps what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    text: String,
    tone: Tone,
}

/// What a text means, shown as a colour on terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    Plain,
    /// All is well.
    Good,
    /// Look at it.
    Warn,
    /// It is broken.
    Bad,
    /// Less important.
    Dim,
}

impl Text {
    /// A text with a meaning.
    pub(crate) fn new(text: impl Display, tone: Tone) -> Self {
        Self { text: text.to_string(), tone }
    }
}

impl<T: Display> From<T> for Text {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl Output {
    /// Colours only where a terminal is, and where `NO_COLOR` is not set.
    pub(crate) fn new(mode: Mode) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { mode, colour: wanted && io::stdout().is_terminal(), colour_err: wanted && io::stderr().is_terminal(), home: None }
    }
    /// The same, with `--home HOME` in the commands that are proposed.
    pub(crate) fn with_home(mut self, home: &std::path::Path) -> Self {
        let home = home.display().to_string();
        let plain = home.chars().all(|c| c.is_alphanumeric() || "/._-+:\\".contains(c));
        self.home = Some(if plain { home } else { format!("'{}'", home.replace('\'', "'\\''")) });
        self
    }
    /// A proposed command as it must be typed for this home.
    fn typed(&self, next: &str) -> String {
        match &self.home {
            Some(home) => next.replace("clawmesh ", &format!("clawmesh --home {home} ")),
            None => next.to_owned(),
        }
    }
    /// How to print.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }
    /// Bytes on stdout exactly as they are.
    ///
    /// # Errors
    /// Exit code 0 when the reader is gone, else 1.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }
    /// Bytes on stderr exactly as they are.  There is nobody to tell when that fails.
    pub(crate) fn raw_err(&self, bytes: &[u8]) {
        let mut err = io::stderr().lock();
        if err.write_all(bytes).and_then(|()| err.flush()).is_err() {
            tracing::debug!("stderr is closed");
        }
    }
    /// One line on stdout.
    ///
    /// # Errors
    /// Exit code 0 when the reader is gone, else 1.
    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        self.raw(format!("{line}\n").as_bytes())
    }
    /// One JSON value on stdout.
    ///
    /// # Errors
    /// As for [`Self::raw`].
    pub(crate) fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let mut text =
            serde_json::to_string_pretty(value).map_err(|e| Failure::refused(format!("BUG: this result has no JSON form: {e}")))?;
        text.push('\n');
        self.raw(text.as_bytes())
    }
    /// A value as JSON, or by `human` in the other modes.
    ///
    /// # Errors
    /// As for [`Self::raw`].
    pub(crate) fn value<T: Serialize + ?Sized>(&self, value: &T, human: impl FnOnce(&Self) -> Result<(), Failure>) -> Result<(), Failure> {
        match self.mode {
            Mode::Json => self.json(value),
            Mode::Human | Mode::Quiet => human(self),
        }
    }
    /// A table on stdout; with `--quiet` only its first column.
    ///
    /// # Errors
    /// As for [`Self::raw`].
    pub(crate) fn table(&self, head: &[&str], rows: Vec<Vec<Text>>) -> Result<(), Failure> {
        if self.mode == Mode::Quiet {
            let ids: String = rows.iter().filter_map(|r| r.first()).map(|t| format!("{}\n", t.text)).collect();
            return self.raw(ids.as_bytes());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // Where nobody looks at it, lines are not broken: another program reads them.
        let arrangement = if io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        table.set_header(head.iter().map(|h| self.cell(&Text::new(h, Tone::Dim))).collect::<Vec<_>>());
        for row in &rows {
            table.add_row(row.iter().map(|t| self.cell(t)).collect::<Vec<_>>());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text: String = table.lines().map(|l| format!("{}\n", l.trim_end())).collect();
        self.raw(text.as_bytes())
    }
    fn cell(&self, text: &Text) -> Cell {
        // A task's title may hold anything its submitter typed; control characters would move the cursor.
        let clean: String = text.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let cell = Cell::new(clean);
        if !self.colour {
            return cell;
        }
        match text.tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Warn => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Dim => cell.add_attribute(Attribute::Dim),
        }
    }
    /// A sentence for people on stderr; silent with `--json` and `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if self.mode == Mode::Human {
            self.raw_err(format!("{text}\n").as_bytes());
        }
    }
    /// The next useful command on stderr; silent with `--json` and `--quiet`.
    pub(crate) fn hint(&self, next: &str) {
        self.note(&format!("next: {}", self.typed(next)));
    }
    /// Says on stderr why the command failed.
    pub(crate) fn failure(&self, f: &Failure) {
        if f.what.is_empty() {
            return;
        }
        let next = f.next.as_ref().map(|n| self.typed(n));
        let text = match self.mode {
            Mode::Json => format!(
                "{}\n",
                serde_json::json!({ "error": { "code": f.code, "exit": f.exit, "message": f.what, "next": next, "candidates": f.candidates } })
            ),
            Mode::Human | Mode::Quiet => {
                let error = if self.colour_err { "\u{1b}[1;31merror:\u{1b}[0m" } else { "error:" };
                let next = next.map_or_else(String::new, |n| format!("next: {n}\n"));
                format!("{error} {}\n{next}", f.what)
            }
        };
        self.raw_err(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn proposed_commands_work_as_they_are_typed() {
        let plain = Output::new(Mode::Human);
        assert_eq!(plain.typed("clawmesh status"), "clawmesh status");
        let home = plain.clone().with_home(Path::new("/tmp/b"));
        assert_eq!(
            home.typed("clawmesh tasks show t (after 'clawmesh up')"),
            "clawmesh --home /tmp/b tasks show t (after 'clawmesh --home /tmp/b up')"
        );
        let odd = plain.with_home(Path::new("/a b's"));
        assert_eq!(odd.typed("clawmesh up"), r"clawmesh --home '/a b'\''s' up");
    }
}
