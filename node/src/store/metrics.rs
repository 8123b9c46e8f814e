//! What the store tells Prometheus.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The store's figures. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct StoreMetrics {
    /// Seconds per fsync of the database file, 50 us to 1.6 s.
    pub(super) fsync_seconds: Histogram,
    /// Batches merged into one commit, 1 to 256.
    pub(super) group_batches: Histogram,
    /// Puts and removals made durable.
    pub(super) records_written: Counter,
    /// Changes of the side file made durable.
    pub(super) side_writes: Counter,
    /// 1 once the store has failed for good.
    pub(super) bad: Gauge,
}

impl StoreMetrics {
    /// Makes the figures and registers them as `store_*` in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> StoreMetrics {
        let m = StoreMetrics::default();
        registry.register("store_fsync_seconds", "Time of one fsync of the database file", m.fsync_seconds.clone());
        registry.register("store_commit_batches", "Batches merged into one commit", m.group_batches.clone());
        registry.register("store_records_written", "Records put or removed, durably", m.records_written.clone());
        registry.register("store_side_writes", "Changes of the side file made durable", m.side_writes.clone());
        registry.register("store_bad", "1 once the store has failed and takes no more writes", m.bad.clone());
        m
    }

    pub(super) fn committed(&self, batches: usize, records: u64, fsync: Duration) {
        self.fsync_seconds.observe(fsync.as_secs_f64());
        self.group_batches.observe(batches as f64);
        self.records_written.inc_by(records);
    }
}

impl Default for StoreMetrics {
    /// Figures that nobody scrapes.
    fn default() -> StoreMetrics {
        StoreMetrics {
            fsync_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 16)),
            group_batches: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            records_written: Counter::default(),
            side_writes: Counter::default(),
            bad: Gauge::default(),
        }
    }
}
