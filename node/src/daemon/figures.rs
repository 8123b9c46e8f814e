//! The figures for Prometheus that come from the core's events.

use std::time::Duration;

use clawmesh_protocol::{face::StatusView, io::Event, record::End};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Word {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Owned {
    kind: String,
}

/// All figures of the core.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    nodes: Family<Owned, Gauge>,
    queue: Family<Word, Gauge>,
    running: Gauge,
    slots: Family<Word, Gauge>,
    taken: Family<Word, Gauge>,
    parked: Gauge,
    tasks: Family<Word, Counter>,
    attempts: Family<Word, Counter>,
    submit_to_start: Histogram,
    submit_to_result: Histogram,
    elections: Counter,
    takeovers: Counter,
    epoch: Gauge,
    coordinator: Gauge,
    stable: Histogram,
    copies: Gauge,
    records: Gauge,
    outbox: Gauge,
    dropped: Family<Word, Counter>,
    alarms: Family<Word, Counter>,
    malformed: Counter,
    second_outcomes: Counter,
    spawned: Counter,
    relayed: Family<Word, Counter>,
}

/// What a relay does (E11): the words of the core's event, and the driver's own.
const RELAYED: [&str; 8] = ["opened", "ended", "replaced", "sent", "taken", "passed", "refused", FORGED];
const FORGED: &str = "forged";

fn seconds() -> Histogram {
    // 0.5 ms to about 4.5 hours.
    Histogram::new(exponential_buckets(0.0005, 2.0, 25))
}

impl Figures {
    /// Makes and registers them; the registry adds the prefix `clawmesh_`.
    pub(crate) fn new(r: &mut Registry) -> Self {
        let f = Self {
            nodes: Family::default(),
            queue: Family::default(),
            running: Gauge::default(),
            slots: Family::default(),
            taken: Family::default(),
            parked: Gauge::default(),
            tasks: Family::default(),
            attempts: Family::default(),
            submit_to_start: seconds(),
            submit_to_result: seconds(),
            elections: Counter::default(),
            takeovers: Counter::default(),
            epoch: Gauge::default(),
            coordinator: Gauge::default(),
            stable: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            copies: Gauge::default(),
            records: Gauge::default(),
            outbox: Gauge::default(),
            dropped: Family::default(),
            alarms: Family::default(),
            malformed: Counter::default(),
            second_outcomes: Counter::default(),
            spawned: Counter::default(),
            relayed: Family::default(),
        };
        r.register("nodes", "Members by state, as this node sees them", f.nodes.clone());
        r.register("queue_depth", "Tasks that wait, by priority, as the coordinator last said", f.queue.clone());
        r.register("tasks_running", "Tasks placed or running, as the coordinator last said", f.running.clone());
        r.register("slots", "Tasks that this node runs at once, and runs of an agent beside them", f.slots.clone());
        r.register("slots_taken", "Of these, taken now", f.taken.clone());
        r.register("tasks_parked", "Waiting tasks that no reachable node can run", f.parked.clone());
        r.register("tasks", "Tasks by outcome, decided by this node while it coordinated", f.tasks.clone());
        r.register("attempts", "Attempts by end, decided by this node while it coordinated", f.attempts.clone());
        r.register("submit_to_start_seconds", "From the submit's arrival at the coordinator to its assignment", f.submit_to_start.clone());
        r.register("submit_to_result_seconds", "From a submit at this node to its accepted result", f.submit_to_result.clone());
        r.register("elections", "Pre-claim rounds this node began", f.elections.clone());
        r.register("takeovers", "Times this node began to serve", f.takeovers.clone());
        r.register("epoch", "Number of the epoch this node serves or follows", f.epoch.clone());
        r.register("coordinator", "1 while this node coordinates", f.coordinator.clone());
        r.register("stable_seconds", "From a write to its being on enough disks", f.stable.clone());
        r.register("copies", "Copies the last stable write needed", f.copies.clone());
        r.register("records", "Tasks this node holds", f.records.clone());
        r.register("outbox", "Tasks submitted here that have no result yet", f.outbox.clone());
        r.register("dropped", "Messages dropped, by reason", f.dropped.clone());
        r.register("alarms", "Impossible or hostile things refused, by kind", f.alarms.clone());
        r.register("malformed", "Frames and gossip of members that did not decode", f.malformed.clone());
        r.register("second_outcomes", "Second outcomes that reached this node and were not shown", f.second_outcomes.clone());
        r.register(
            "relayed",
            "Channels through other nodes and messages in them: opened, ended, replaced by a link, sent, taken, passed on, refused, forged",
            f.relayed.clone(),
        );
        for kind in RELAYED {
            drop(f.relayed.get_or_create(&Word { kind }));
        }
        r.register("spawned", "Attempts this node started", f.spawned.clone());
        f
    }

    /// A frame or gossip message that is no message of ours.
    pub(crate) fn malformed(&self) {
        self.malformed.inc();
    }

    /// An envelope that its author has not signed.
    pub(crate) fn forged(&self) {
        self.relayed.get_or_create(&Word { kind: FORGED }).inc();
    }

    /// Counts one event of the core, and logs what a person wants to know.
    pub(crate) fn event(&self, e: &Event) {
        match e {
            Event::Election { why } => {
                self.elections.inc();
                tracing::info!(why, "election");
            }
            Event::Claimed(epoch) => tracing::info!(?epoch, "claimed"),
            Event::Serving(epoch) => {
                self.takeovers.inc();
                tracing::info!(?epoch, "this node coordinates");
            }
            Event::SteppedDown(epoch, why) => tracing::info!(?epoch, why, "stepped down"),
            Event::Following(epoch) => tracing::info!(?epoch, "following"),
            Event::Configured(written, change) => tracing::info!(?written, change, "the voters of the mesh"),
            Event::Unseated(epoch, peer) => tracing::info!(?epoch, %peer, "a replica gave up its seat"),
            Event::Joined(epoch, peer) => tracing::info!(?epoch, %peer, "a replica counts"),
            Event::Stable { took_ms, copies, .. } => {
                self.stable.observe(ms(*took_ms));
                self.copies.set(i64::from(*copies));
            }
            Event::Assigned(id, attempt, peer, waited) => {
                if attempt.k == 1 {
                    self.submit_to_start.observe(ms(*waited));
                }
                tracing::debug!(task = %id, attempt = attempt.k, %peer, "assigned");
            }
            Event::AttemptEnded(id, attempt, end) => {
                self.attempts.get_or_create(&Word { kind: end.word() }).inc();
                if *end != End::Done {
                    tracing::info!(task = %id, attempt = attempt.k, %end, "an attempt ended");
                }
            }
            Event::Decided(_, end, _) => {
                self.tasks.get_or_create(&Word { kind: end.word() }).inc();
            }
            Event::Accepted(_, _, took) => {
                if let Some(t) = took {
                    self.submit_to_result.observe(ms(*t));
                }
            }
            Event::SecondOutcome(id) => {
                self.second_outcomes.inc();
                tracing::warn!(task = %id, "a second, different outcome arrived and is not shown: the task ran on both sides of a split");
            }
            Event::Spawned(..) => {
                self.spawned.inc();
            }
            Event::Alarm(kind) => {
                self.alarms.get_or_create(&Word { kind }).inc();
                tracing::warn!(kind, "refused something that should not happen");
            }
            Event::Dropped(kind) => {
                self.dropped.get_or_create(&Word { kind }).inc();
                tracing::debug!(kind, "dropped");
            }
            Event::Relayed { what, peer, .. } => {
                self.relayed.get_or_create(&Word { kind: what }).inc();
                if matches!(*what, "opened" | "ended" | "replaced") {
                    tracing::info!(%peer, what, "a channel through another node");
                }
            }
            Event::Tilt(gap) => tracing::warn!(gap_ms = gap, "the clock jumped: this machine slept, or the process was stopped"),
            Event::Notes(..) => {}
            Event::Member(peer, state) => tracing::debug!(%peer, state, "member"),
            Event::Submitted(_) | Event::Acked(..) => {}
        }
    }

    /// Sets what is a state, not a count.
    pub(crate) fn status(&self, s: &StatusView) {
        for state in ["online", "suspect", "draining", "asleep", "offline"] {
            let n = s.members.iter().filter(|m| m.state == state).count();
            self.nodes.get_or_create(&Owned { kind: state.into() }).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
        let q = &s.queue;
        for (kind, n) in [("critical", q.critical), ("high", q.high), ("normal", q.normal), ("low", q.low)] {
            self.queue.get_or_create(&Word { kind }).set(signed(n));
        }
        self.running.set(signed(q.running));
        self.parked.set(signed(q.parked));
        for m in s.members.iter().filter(|m| m.this) {
            for (kind, slots, taken) in [("task", m.slots, m.running), ("agent", m.agent_slots, m.agent_running)] {
                self.slots.get_or_create(&Word { kind }).set(i64::from(slots));
                self.taken.get_or_create(&Word { kind }).set(i64::from(taken));
            }
        }
        self.epoch.set(signed(s.epoch));
        self.coordinator.set(i64::from(s.role == "coordinator"));
        self.records.set(signed(s.records));
        self.outbox.set(signed(s.outbox));
    }
}

fn ms(t: u64) -> f64 {
    Duration::from_millis(t).as_secs_f64()
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The figures of shared blobs.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlobFigures {
    /// Bytes received and found right.
    pub(crate) received: Counter,
    /// Bytes of parts sent, proofs included.
    pub(crate) sent: Counter,
    /// Bytes that an earlier, broken transfer had left and that were not fetched again.
    pub(crate) resumed: Counter,
    /// Answers that were not what they were said to be.
    pub(crate) lies: Counter,
    /// Answers that came to a stop.
    pub(crate) stalls: Counter,
    /// Blobs of this node found damaged since its start.
    damaged: Gauge,
    bytes: Family<Word, Gauge>,
    fetches: Family<Word, Counter>,
}

impl BlobFigures {
    /// Makes the figures and registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let f = Self::default();
        registry.register("blob_received_bytes", "Bytes of shared blobs received and verified", f.received.clone());
        registry.register("blob_sent_bytes", "Bytes of shared blobs sent, proofs included", f.sent.clone());
        registry.register(
            "blob_resumed_bytes",
            "Bytes of shared blobs that a broken transfer had left and that were not fetched again",
            f.resumed.clone(),
        );
        registry.register("blob_lies", "Answers to a question for a blob that were something else", f.lies.clone());
        registry.register("blob_stalls", "Answers to a question for a blob that came to a stop", f.stalls.clone());
        registry.register("blob_fetches", "Fetches of shared blobs that ended", f.fetches.clone());
        registry.register("blobs_damaged", "Shared blobs of this node found damaged and removed since its start", f.damaged.clone());
        registry.register("blobs_bytes", "Bytes of the shared blobs of this node", f.bytes.clone());
        for kind in ["done", "failed"] {
            drop(f.fetches.get_or_create(&Word { kind }));
        }
        f
    }

    /// What lies here: bytes of everything and of what is pinned, and blobs found damaged.
    pub(crate) fn held(&self, (all, pinned): (u64, u64), damaged: u64) {
        let as_gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.damaged.set(as_gauge(damaged));
        self.bytes.get_or_create(&Word { kind: "pinned" }).set(as_gauge(pinned));
        self.bytes.get_or_create(&Word { kind: "cached" }).set(as_gauge(all.saturating_sub(pinned)));
    }

    /// A fetch has ended.
    pub(crate) fn ended(&self, failed: bool) {
        self.fetches.get_or_create(&Word { kind: if failed { "failed" } else { "done" } }).inc();
    }
}

/// The figures of shared notes.
#[derive(Debug, Clone, Default)]
pub(crate) struct NoteFigures {
    notes: Gauge,
    bytes: Gauge,
    received: Counter,
    refused: Family<Word, Counter>,
}

impl NoteFigures {
    /// Makes the figures and registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let f = Self::default();
        registry.register("notes", "Notes of the mesh that this node keeps", f.notes.clone());
        registry.register("notes_bytes", "Bytes of these notes", f.bytes.clone());
        registry.register("notes_received", "Notes of other nodes that were not here before", f.received.clone());
        registry.register("notes_refused", "Notes that other nodes sent and that are none, by reason", f.refused.clone());
        for kind in ["forged", "malformed", "crowded"] {
            drop(f.refused.get_or_create(&Word { kind }));
        }
        f
    }

    /// What lies here.
    pub(crate) fn held(&self, notes: u64, bytes: u64) {
        self.notes.set(signed(notes));
        self.bytes.set(signed(bytes));
    }

    /// What another node has sent.
    pub(crate) fn taken(&self, taken: &crate::memory::Taken) {
        self.received.inc_by(taken.fresh as u64);
        for (kind, n) in &taken.refused {
            self.refused.get_or_create(&Word { kind }).inc_by(*n);
        }
    }
}
