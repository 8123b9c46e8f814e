//! Results as tables for people and as JSON for programs.

use std::io::{Write, stdout};

use clawmesh_sim::{coverage::Coverage, run::Summary};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

/// Who closed the pipe has read enough.
pub(super) fn print(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

pub(super) fn json(v: &impl Serialize) {
    print(&serde_json::to_string_pretty(v).unwrap_or_default());
}

/// A table whose columns but the first are numbers.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut t = Table::new();
    t.load_style(NOTHING).set_header(head.to_vec()).add_rows(rows);
    for c in t.column_iter_mut().skip(1) {
        c.set_cell_alignment(CellAlignment::Right);
    }
    t.to_string()
}

pub(super) fn summary(s: &Summary) -> String {
    let rows = s.seen.iter().map(|(what, (n, seeds))| vec![what.clone(), n.to_string(), seeds.to_string()]);
    let seen = table(&["seen", "times", "seeds"], rows.collect());
    let secs = s.took_ms as f64 / 1e3;
    let total = vec![
        vec!["seeds".into(), s.seeds.to_string()],
        vec!["seconds".into(), format!("{secs:.1}")],
        vec!["seeds per second".into(), format!("{:.1}", s.seeds as f64 / secs.max(0.001))],
        vec!["virtual days".into(), format!("{:.2}", s.virtual_ms as f64 / 86.4e6)],
        vec!["of these, passed over".into(), format!("{:.2}", s.skipped_ms as f64 / 86.4e6)],
        vec!["virtual days per second".into(), format!("{:.3}", s.virtual_ms as f64 / 86.4e6 / secs.max(0.001))],
        vec!["steps".into(), s.steps.to_string()],
        vec!["faults".into(), s.faults.to_string()],
        vec!["tasks acknowledged".into(), s.acked.to_string()],
        vec!["violations".into(), s.violations.len().to_string()],
    ];
    let mut t = format!("{seen}\n{}", table(&["in sum", ""], total));
    for (seed, v) in &s.violations {
        t += &format!("\nseed {seed}: {} on {}: {}", v.rule, v.node, v.why);
    }
    t
}

pub(super) fn coverage(c: &Coverage) -> String {
    let rows = c.rules.iter().map(|r| {
        let fired = if r.implemented || r.fired > 0 { r.fired.to_string() } else { "not yet".into() };
        vec![r.rule.clone(), fired, r.seeds.to_string()]
    });
    table(&["rule", "fired", "seeds"], rows.collect())
}

pub(super) fn verdict(c: &Coverage) -> String {
    if c.complete() {
        return format!("coverage: every rule that is implemented fired in {} seeds", c.seeds);
    }
    let mut t = format!("coverage: in {} seeds", c.seeds);
    if !c.idle().is_empty() {
        t += &format!(" these rules never fired: {};", c.idle().join(", "));
    }
    if !c.never.is_empty() {
        t += &format!(" these things never happened: {};", c.never.join(", "));
    }
    t + " more seeds may meet them, or the world no longer can"
}
