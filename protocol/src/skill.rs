//! Skills as the mesh advertises them: a catalogue per node, named by its hash.

use alloc::{string::String, vec::Vec};

use crate::{ids::Hash, wire_struct};

/// Most skills in one catalogue.
pub const SKILLS_MAX: usize = 1_000;

wire_struct! {
    /// One skill that a node offers.
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
    }
}

wire_struct! {
    /// All skills of one node, sorted by name.  At most [`SKILLS_MAX`].
    pub struct Catalogue {
        /// The skills.
        1 => skills: Vec<SkillInfo>,
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
}
