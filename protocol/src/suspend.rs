//! A machine that is about to sleep says so (L3): the coordination goes to another node at once, nobody waits for an answer
//! of this one, and what it runs goes on when it wakes.  A sleep that nobody announces costs a suspicion (E1, L1).

use crate::{
    face::Reply,
    io::Event,
    mesh::Mesh,
    message::{Bye, Message},
    rule::Rule,
};

/// A node that is still awake so long after it has said that it will sleep does not sleep: it comes back, awake ms.
/// logind lets a machine stay awake for five seconds at most after the announcement.
const CALLED_OFF_MS: u64 = 15_000;

impl Mesh {
    /// This machine is about to sleep.  Answered when all that is said before has left.
    pub(crate) fn suspend(&mut self, req: u64) {
        if self.leaving {
            return self.reply_durable(req, Reply::Ok);
        }
        self.rule(Rule::L3);
        self.event(Event::Member(self.me, "goes to sleep"));
        self.asleep_until = Some(self.now + CALLED_OFF_MS);
        self.wake_at(self.now + CALLED_OFF_MS);
        self.step_down("its machine goes to sleep");
        (self.leader, self.round, self.election_at, self.wait_higher) = (None, None, None, None);
        let (boot, epoch, beat) = (self.boot, self.side.promised, self.advert_beat);
        for p in self.view.linked().collect::<alloc::vec::Vec<_>>() {
            let bye = Bye { boot, epoch, why: "sleep".into(), asleep: true, beat, ext: Default::default() };
            self.send_durable(p, Message::Bye(bye));
        }
        self.reply_durable(req, Reply::Ok);
    }

    /// It is awake again, or was never asleep: the others hear it at once.
    pub(crate) fn wake_up(&mut self) {
        if self.asleep_until.take().is_some() {
            self.event(Event::Member(self.me, "is awake"));
            self.publish_advert();
            // Gossip may take its time: who is linked hears it directly.
            for p in self.view.linked().collect::<alloc::vec::Vec<_>>() {
                let advert = self.advert();
                self.send(p, Message::Advert(advert));
            }
        }
    }

    /// It has said that it sleeps.
    pub(crate) fn asleep(&self) -> bool {
        self.asleep_until.is_some()
    }

    pub(crate) fn tick_suspend(&mut self) {
        match self.asleep_until {
            Some(t) if self.now >= t => self.wake_up(),
            Some(t) => self.wake_at(t),
            None => {}
        }
    }
}
