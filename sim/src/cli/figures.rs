//! Figures: `takeover` and `scale`.

use clawmesh_sim::{
    scale,
    takeover::{self, End, Spread},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::show;

/// True when somebody took over in every run.
pub(super) fn takeover(nodes: usize, from: u64, runs: u64, end: End, trace: bool, json: bool) -> bool {
    let bar = ProgressBar::new(runs);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} takeovers, {eta} left") {
        bar.set_style(style);
    }
    let t = takeover::measure(nodes, from, runs, end, trace.then(super::one::to_stdout), &|| bar.inc(1));
    bar.finish_and_clear();
    if json {
        show::json(&t);
    } else {
        let spread = |name: &str, s: &Spread| vec![name.to_owned(), s.p50.to_string(), s.p99.to_string(), s.max.to_string()];
        let rows = vec![spread("until another node serves, ms", &t.takeover_ms), spread("messages of the election", &t.messages)];
        show::print(&show::table(&[&format!("{nodes} nodes, {} runs, {end:?}", t.runs), "p50", "p99", "max"], rows));
        let by_name = t.by_name.iter().map(|(name, n)| vec![name.clone(), format!("{n:.1}")]);
        show::print(&show::table(&["of these, mean", ""], by_name.collect()));
        show::print(&format!("at rest a node receives {:.0} bytes per second", t.idle_bytes_per_node_second));
        show::print(&format!("the slowest was seed {}", t.slowest));
        if t.failed > 0 {
            show::print(&format!("in {} runs nobody took over", t.failed));
        }
    }
    t.failed == 0
}

pub(super) fn scale(nodes: usize, tasks: usize, json: bool) -> Result<(), String> {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let s = scale::measure(nodes, tasks, &|what| bar.set_message(what.to_owned()));
    bar.finish_and_clear();
    let s = s?;
    if json {
        show::json(&s);
        return Ok(());
    }
    let row = |t: &scale::Takeover| {
        let numbers = [t.network_ms, t.core_ms, t.longest_step_ms, t.bytes];
        std::iter::once(t.from.to_owned()).chain(numbers.iter().map(u64::to_string)).collect()
    };
    let head = ["takeover", "network ms (virtual)", "core ms (processor)", "longest step ms (processor)", "bytes"];
    show::print(&show::table(&head, s.takeovers.iter().map(row).collect()));
    show::print(&format!("{} nodes, {} tasks of {} bytes; reading a store took {} ms", s.nodes, s.tasks, s.record_bytes, s.load_ms));
    Ok(())
}
