//! I11 (quorum mode): no attempt is issued after a stable cancel, by anybody, ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use clawmesh_protocol::{ids::TaskId, message::Message, record::Rec};

use super::{Check, ledger::Ledger};
use crate::oracle::{Disks, Entry, Fact};

/// Records whose cancel was stable, as they were then.
#[derive(Default)]
pub(super) struct Cancelled {
    ledger: Ledger,
    cancelled: BTreeMap<TaskId, Arc<Rec>>,
}

impl Check for Cancelled {
    fn name(&self) -> &'static str {
        "I11"
    }
    fn see(&mut self, e: &Entry, disks: &Disks) -> Result<(), String> {
        for (_, r) in self.ledger.see(e, disks) {
            if r.cancel {
                self.cancelled.entry(r.id).or_insert(r);
            }
        }
        let Fact::Sent(_, m) = &e.fact else { return Ok(()) };
        let Message::Assign(a) = &**m else { return Ok(()) };
        let Some(r) = self.cancelled.get(&a.id).filter(|_| self.ledger.by_majority(&a.epoch)) else { return Ok(()) };
        // A deposed coordinator may still say again what was issued before: the cancel knows it, and kills it.
        let known = r.live.iter().any(|l| l.attempt == a.attempt) || r.past.iter().any(|p| p.attempt == a.attempt);
        if known || r.past_dropped > 0 {
            return Ok(());
        }
        Err(format!("{:?} of {:?} is assigned after its cancel was stable as {:?}", a.attempt, a.id, r.ver))
    }
}

#[cfg(test)]
mod tests {
    use clawmesh_protocol::{codec::Blob, io::Event, message::Assign, record::Live, spec::Data};

    use super::*;
    use crate::check::fixture::*;

    #[test]
    fn an_attempt_after_the_cancel_is_caught() {
        let run = |cancel: bool, known: bool| {
            let mut r = rec(task(1), voted(1, 0), 2);
            r.cancel = cancel;
            if known {
                r.live.push(Live {
                    attempt: attempt(1, 1),
                    worker: peer(1),
                    wboot: 1,
                    placed_at: 0,
                    agent: false,
                    ext: Default::default(),
                });
            }
            let m = Assign {
                epoch: voted(1, 0),
                id: task(1),
                attempt: attempt(1, 1),
                wboot: 1,
                need: r.need.clone(),
                payload: Data::Inline(Blob(vec![])),
                holders: vec![],
                ext: Default::default(),
            };
            let log = vec![
                (0, configured(1, voted(1, 0), 1, &[0, 1, 2])),
                (0, batch(2, vec![r])),
                (0, Fact::Event(Event::Stable { epoch: voted(1, 0), seq: 2, copies: 2, took_ms: 0 })),
                (0, Fact::Sent(peer(1), Arc::new(Message::Assign(m)))),
            ];
            judge(Cancelled::default(), log).is_some()
        };
        assert_eq!([run(false, false), run(true, true), run(true, false)], [false, false, true]);
    }
}
