//! One seed: `replay` and `shrink`.

use std::io::{BufWriter, Write, stdout};

use clawmesh_sim::{
    plan::{Fixed, Plan},
    run::{self, Report},
    shrink::{self, Goal},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::show;

/// Where the lines of a trace go.
pub(super) fn to_stdout() -> Box<dyn Write + Send> {
    Box::new(BufWriter::new(stdout()))
}

pub(super) fn replay(seed: u64, trace: bool, json: bool, fixed: &Fixed) -> bool {
    let r = run::seed(seed, fixed, trace.then(to_stdout));
    if json {
        show::json(&r);
    } else {
        show::print(&account(&r, fixed));
    }
    r.violation.is_none()
}

fn account(r: &Report, fixed: &Fixed) -> String {
    let mut t = format!("seed {}: {}\n", r.seed, Plan::draw(r.seed, fixed).line());
    t += &format!(
        "{} virtual ms ({} passed over), {} steps, {} faults, {} tasks acknowledged, hash {}\n",
        r.virtual_ms, r.skipped_ms, r.steps, r.faults, r.acked, r.hash
    );
    let ends: Vec<String> = r.ends.iter().map(|(what, n)| format!("{what} {n}")).collect();
    t += &format!("in the end: {}\n", ends.join(", "));
    t += &match &r.violation {
        Some(v) => format!("{} violated at {} ms on {}: {}", v.rule, v.at, v.node, v.why),
        None => "no violation".to_owned(),
    };
    t
}

/// True when there is nothing to shrink: the seed is good.
pub(super) fn shrink(seed: u64, shows: Option<String>, json: bool, fixed: &Fixed) -> bool {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} runs, {elapsed}: {msg}") {
        bar.set_style(style);
    }
    let wanted = shows.is_some();
    let small = shrink::shrink(seed, fixed, shows.map(Goal::Seen), &|runs, flags| {
        bar.set_position(runs);
        bar.set_message(flags.trim().to_owned());
    });
    bar.finish_and_clear();
    let Some(small) = small else {
        eprintln!("seed {seed} {}", if wanted { "does not show this" } else { "violates nothing: there is nothing to shrink" });
        return !wanted;
    };
    let command = run::replay_command(seed, &small.fixed);
    if json {
        show::json(
            &serde_json::json!({ "seed": seed, "runs": small.runs, "fixed": small.fixed, "command": command, "report": small.report }),
        );
    } else {
        show::print(&format!("{}\nfound in {} runs; it replays with\n  {command}", account(&small.report, &small.fixed), small.runs));
    }
    wanted
}
