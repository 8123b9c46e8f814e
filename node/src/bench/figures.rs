//! What the bench has measured, and how it is shown.

use std::time::Duration;

use serde::Serialize;

use crate::output::{Failure, Output, Text, Tone};

/// All figures of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// No-op tasks per second, submitted in bulk, from the first submit until the last result is back.
    pub(crate) throughput_per_s: f64,
    /// Single no-op, submit to result, one after the other: median, ms.
    pub(crate) roundtrip_p50_ms: f64,
    /// The same: 99th percentile, ms.
    pub(crate) roundtrip_p99_ms: f64,
    /// Tasks per second that each run one small program.
    pub(crate) process_per_s: f64,
    /// The same program, started one at a time by a plain loop in the same run.
    pub(crate) process_baseline_per_s: f64,
    /// `process_per_s` over `process_baseline_per_s`.
    pub(crate) process_ratio: f64,
    /// Fewest disks that a task was on when it was acknowledged.
    pub(crate) copies: u32,
    /// Nodes online.
    pub(crate) nodes: usize,
    /// No-op tasks of the throughput.
    pub(crate) tasks: usize,
    /// Single round trips measured.
    pub(crate) singles: usize,
    /// Process tasks measured.
    pub(crate) processes: usize,
    /// From SIGKILL of the coordinator until the next task is acknowledged, ms, each one; empty when not asked for.
    pub(crate) takeover_ms: Vec<f64>,
    /// Their median.
    pub(crate) takeover_p50_ms: Option<f64>,
}

impl Figures {
    /// For people as a table, or as one JSON object.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn print(&self, output: &Output) -> Result<(), Failure> {
        output.value(self, |o| {
            let row =
                |what: &str, value: String, how: String| vec![Text::from(what), Text::new(value, Tone::Good), Text::new(how, Tone::Dim)];
            let mut rows = vec![
                row(
                    "no-op tasks",
                    format!("{:.0} /s", self.throughput_per_s),
                    format!("{} in bulk, until every result is back; each on {} disk(s) when acknowledged", self.tasks, self.copies),
                ),
                row(
                    "round trip, p50",
                    format!("{:.2} ms", self.roundtrip_p50_ms),
                    format!("{} single tasks, one after the other", self.singles),
                ),
                row("round trip, p99", format!("{:.2} ms", self.roundtrip_p99_ms), String::new()),
                row("process tasks", format!("{:.0} /s", self.process_per_s), format!("{} tasks that run 'true'", self.processes)),
                row("plain loop", format!("{:.0} /s", self.process_baseline_per_s), "starts 'true' one at a time, in the same run".into()),
                row("ratio", format!("{:.0} %", self.process_ratio * 100.0), "process tasks over the plain loop".into()),
            ];
            if let Some(p50) = self.takeover_p50_ms {
                let n = self.takeover_ms.len();
                let max = self.takeover_ms.iter().copied().fold(0.0, f64::max);
                rows.push(row(
                    "takeover, p50",
                    format!("{p50:.0} ms"),
                    format!("{n} times SIGKILL to the coordinator until the next task is acknowledged; longest {max:.0} ms"),
                ));
            }
            rows.push(row("nodes", self.nodes.to_string(), "online".into()));
            o.table(&["WHAT", "MEASURED", "HOW"], rows)
        })
    }
}

/// The value at or above which `share` (0 to 1) of the others lie below, by nearest rank; 0 for no values.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// Milliseconds with their fraction.
pub(crate) fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// How many a second.
pub(crate) fn rate(n: usize, took: Duration) -> f64 {
    // A nanosecond at least: a rate is always a number.
    n as f64 / took.max(Duration::from_nanos(1)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let v: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&v, 0.5), percentile(&v, 0.99), percentile(&v, 1.0), percentile(&v, 0.0)), (50.0, 99.0, 100.0, 1.0));
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[], 0.5)), (7.0, 0.0));
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.5), 2.0);
    }

    #[test]
    fn a_rate_is_a_number_even_in_no_time() {
        assert_eq!(rate(10, Duration::from_secs(2)), 5.0);
        assert!(rate(10, Duration::ZERO).is_finite());
    }
}
