//! What is shown while the demo runs: bars on a terminal, plain lines elsewhere, nothing with `--json` and `--quiet`.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output::{Mode, Output};

/// Width of the words before the bars.
const BAR: &str = "{prefix:10} {wide_bar:.cyan/dim} {pos:>5}/{len}";
/// Without a terminal, a line each time another tenth has completed.
const STEPS: u64 = 10;

/// The display.
#[derive(Debug)]
pub(super) struct Progress {
    output: Output,
    bars: Option<Bars>,
    tenth: Mutex<u64>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    submitted: ProgressBar,
    completed: ProgressBar,
    leader: ProgressBar,
}

impl Progress {
    /// Nothing is drawn before [`Self::update`].
    pub(super) fn new(output: Output, tasks: u64) -> Self {
        let draw = output.mode() == Mode::Human && std::io::stderr().is_terminal();
        let bars = draw.then(|| {
            let all = MultiProgress::new();
            // The templates are constants of this file; a wrong one would show the default bar.
            let style = |t: &str| ProgressStyle::with_template(t).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = |name: &'static str| all.add(ProgressBar::new(tasks).with_style(style(BAR)).with_prefix(name));
            let (submitted, completed) = (bar("submitted"), bar("completed"));
            let leader = all.add(ProgressBar::new_spinner().with_style(style("{spinner} {msg}")));
            leader.enable_steady_tick(Duration::from_millis(120));
            Bars { all, submitted, completed, leader }
        });
        Self { output, bars, tenth: Mutex::new(0) }
    }
    /// An event, kept on the screen.
    pub(super) fn say(&self, text: &str) {
        match &self.bars {
            Some(b) if b.all.println(text).is_ok() => {}
            _ => self.output.note(text),
        }
    }
    /// Where things stand.
    pub(super) fn update(&self, submitted: u64, completed: u64, tasks: u64, leader: &str) {
        if let Some(b) = &self.bars {
            b.submitted.set_position(submitted);
            b.completed.set_position(completed);
            b.leader.set_message(leader.to_owned());
            return;
        }
        let now = completed * STEPS / tasks.max(1);
        let mut shown = self.tenth.lock().unwrap_or_else(PoisonError::into_inner);
        if now > *shown {
            *shown = now;
            self.output.note(&format!("{completed} of {tasks} completed, {submitted} submitted; {leader}"));
        }
    }
    /// Takes the bars away.
    pub(super) fn finish(&self) {
        if let Some(b) = &self.bars {
            b.submitted.finish();
            b.completed.finish();
            b.leader.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(b) = &self.bars {
            b.leader.finish_and_clear();
        }
    }
}
