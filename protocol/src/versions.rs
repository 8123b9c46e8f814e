//! The protocol that a mesh speaks (V3): what all of its members understand.  It is recorded and only rises, so that
//! nobody who understands less can come back later and serve by older rules.

use crate::{io::Event, mesh::Mesh, mutant, rule::Rule, view::Member};

/// A member that was not heard of for so long does not hold the others back, ms of awake time (24 h).
const SEEN_MS: u64 = 86_400_000;
/// What the first version speaks, and who does not say.
const FIRST: u32 = 1;
/// A mesh that claims to be further ahead of this node is not believed: it would disable all of them.
const STEP_MAX: u32 = 64;

/// What a member understands.  Who is only remembered has not said what it speaks by now: what it said last counts.
fn speaks(m: &Member) -> u32 {
    m.advert.as_ref().map_or(m.proto, |a| a.proto_max).max(FIRST)
}

impl Mesh {
    /// The recorded protocol of the mesh, as far as this node knows.
    pub(crate) fn active_proto(&self) -> u32 {
        self.recorded_proto().max(FIRST)
    }

    /// What settings of this node have to say; 0 = nothing was ever recorded.
    pub(crate) fn recorded_proto(&self) -> u32 {
        self.settings.as_ref().map_or(0, |s| s.proto).max(self.heard_proto)
    }

    /// This node understands less than its mesh speaks: it serves nothing.
    pub(crate) fn too_old(&self) -> bool {
        self.cfg.proto < self.active_proto()
    }

    /// What to tell a person about it.
    pub(crate) fn too_old_text(&self) -> alloc::string::String {
        let (mine, theirs) = (self.cfg.proto, self.active_proto());
        alloc::format!("this node speaks protocol {mine}, its mesh speaks {theirs}: install the version of clawmesh that the others have")
    }

    /// Entries of this node's store that were whole and that it could not read, which only a newer version can have written
    /// (V3); 0 is well.  The driver must not go on with such a store: its node would say that it holds what it has not, and as an
    /// origin it would declare tasks over that it no longer knows (G1).
    pub fn unreadable(&self) -> usize {
        if mutant::on(46) { 0 } else { self.unreadable }
    }

    /// A coordinator's heartbeat, or somebody's settings, tell what the mesh speaks.  Who has settings keeps it there: a restart
    /// must not forget it (seed 500206).
    pub(crate) fn hear_proto(&mut self, proto: u32) {
        if proto > self.cfg.proto.saturating_add(STEP_MAX) {
            return self.event(Event::Alarm("protocol_poison"));
        }
        if proto <= self.active_proto() {
            return;
        }
        self.heard_proto = proto;
        if let Some(mut s) = self.settings.take() {
            s.proto = proto;
            self.keep_settings(&s);
            self.settings = Some(s);
        }
        if self.too_old() {
            self.event(Event::Alarm("protocol_too_old"));
            self.step_down("this node speaks an older protocol than its mesh");
            self.advert_soon();
        }
    }

    fn seen(&self, m: &Member) -> bool {
        self.now < m.heard_at.max(self.born) + SEEN_MS
    }

    /// It keeps the mesh from speaking this protocol.
    pub(crate) fn holds_back(&self, m: &Member, proto: u32) -> bool {
        self.seen(m) && speaks(m) < proto
    }

    /// Records what all members of the last day understand, when it is more than before.
    pub(crate) fn tick_versions(&mut self) {
        let seen = self.view.members.values().filter(|m| self.seen(m));
        let least = seen.map(speaks).fold(self.cfg.proto, u32::min).max(self.active_proto());
        if least <= self.settings.as_ref().map_or(0, |s| s.proto).max(FIRST) {
            return;
        }
        let Some(mut s) = self.new_settings() else { return };
        s.proto = least;
        self.rule(Rule::V3);
        self.settings = Some(s);
        self.settings_write();
    }

    /// When a member has been away for so long that it holds the others back no more (see `rest`).
    pub(crate) fn versions_rest(&self) -> u64 {
        crate::rest::next(self.now, self.view.members.values().map(|m| m.heard_at.max(self.born) + SEEN_MS))
    }
}
