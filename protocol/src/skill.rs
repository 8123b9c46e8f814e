//! Skills as the mesh advertises them: a catalogue per node, named by its hash, and how often each was run there.

use alloc::{string::String, vec::Vec};

use crate::{ids::Hash, wire_struct};

/// Most skills in one catalogue.
pub const SKILLS_MAX: usize = 1_000;
/// Largest encoded catalogue, bytes: it travels in one frame.
pub const CATALOGUE_BYTES_MAX: usize = 700 << 10;
/// Most skills in one [`SkillRuns`].
pub const RUNS_MAX: usize = 64;

wire_struct! {
    /// One skill that a node offers.
    #[derive(Default)]
    pub struct SkillInfo {
        /// Its name.
        1 => name: String,
        /// BLAKE3 of the folder, hexadecimal.
        2 => hash: String,
        /// Version, or empty.
        3 => version: String,
        /// One line; at most 200 characters.
        4 => description: String,
        /// Category, or empty.
        5 => category: String,
        /// Tags.
        6 => tags: Vec<String>,
        /// The node can run it without an agent.
        7 => runnable: bool,
        /// Other skills that it needs: a name each, with an optional range of versions behind it; at most 16.
        8 => depends: Vec<String>,
        /// Cores that a run wants, in thousandths; 0 = not said.
        9 => cpu_milli: u64,
        /// Memory that a run wants, MiB; 0 = not said.
        10 => memory_mib: u64,
        /// GPUs that a run wants, in thousandths; 0 = none.
        11 => gpu_milli: u64,
        /// Other things that a run wants, in thousandths; at most 8.
        12 => custom: Vec<(String, u64)>,
        /// What it takes: `json`, `text` or `none`; empty for a skill that only an agent can follow.
        13 => input: String,
        /// It promises one JSON value as its result.
        14 => json_output: bool,
        /// The author's time limit of one run, ms; 0 = none.
        15 => timeout_ms: u64,
    }
}

wire_struct! {
    /// All skills of one node, sorted by name.  At most [`SKILLS_MAX`].
    pub struct Catalogue {
        /// The skills.
        1 => skills: Vec<SkillInfo>,
    }
}

wire_struct! {
    /// How often a node has run a skill.
    #[derive(Default)]
    pub struct SkillRun {
        /// The skill's name.
        1 => name: String,
        /// Hash of the folder that ran: a changed skill begins anew.
        2 => hash: String,
        /// Attempts that ended, however they did, but for those that the mesh itself took back.
        3 => runs: u64,
        /// Of these, the ones that succeeded.
        4 => succeeded: u64,
        /// Mean of all run times, ms.
        5 => mean_ms: u64,
        /// 95 of 100 of the last thousand or so took no longer, ms, to within a fifth.
        6 => p95_ms: u64,
        /// Wall clock ms of the last end.
        7 => last: u64,
    }
}

wire_struct! {
    /// A node tells how its skills have run (gossip): what changed first, then the others in turn.
    pub struct SkillRuns {
        /// Its boot: older ones are ignored.
        1 => boot: u64,
        /// At most [`RUNS_MAX`].
        2 => runs: Vec<SkillRun>,
    }
}

impl Catalogue {
    /// No skills.
    pub fn empty() -> Self {
        Self { skills: Vec::new(), ext: Default::default() }
    }
    /// The name that adverts carry.
    pub fn hash(&self) -> Hash {
        Hash::of(&crate::codec::encode(self))
    }
    /// Drops what is beyond [`SKILLS_MAX`] and [`CATALOGUE_BYTES_MAX`], from the end; how many were dropped.
    pub fn fit(&mut self) -> usize {
        let before = self.skills.len();
        self.skills.truncate(SKILLS_MAX);
        let mut bytes = 0;
        let fits = |s: &&SkillInfo| {
            bytes += crate::codec::encode(*s).len();
            bytes <= CATALOGUE_BYTES_MAX
        };
        let n = self.skills.iter().take_while(fits).count();
        self.skills.truncate(n);
        before - n
    }
}
