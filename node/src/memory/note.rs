//! One note: what is in it, who vouches for it, and what is refused.

use clawmesh_protocol::ids::Peer;
use serde::{Deserialize, Serialize};

use crate::net::{Identity, signed_by};

/// Longest text of a note, bytes.
pub(crate) const TEXT_MAX: usize = 8 << 10;
/// Longest name of a node or a person in a note, bytes.
const NAME_MAX: usize = 256;
/// The last moment of the year 9999, ms since 1970: pages are named by the day.
const LAST_MS: u64 = 253_402_300_799_000;
/// In front of everything that is signed here: no other use of a node's key signs a text that begins like this.
const DOMAIN: &[u8] = b"clawmesh 1 note\0";

/// Something that a node wants to be remembered. Nobody changes it, not even its author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The node that it was written on.
    pub(crate) author: Peer,
    /// Rises from note to note of one author; as a rule the same as `at`.
    pub(crate) id: u64,
    /// When it was written by its author's clock, ms since 1970.
    pub(crate) at: u64,
    /// What its author was called then.
    pub(crate) node: String,
    /// Who wrote it, as they said; may be empty.
    pub(crate) user: String,
    /// Markdown, 1 byte to [`TEXT_MAX`], without control characters other than line feeds and tabs.
    pub(crate) text: String,
    /// Its author's signature over all of it and the mesh.
    #[serde(with = "byte_string")]
    sig: Vec<u8>,
}

/// As a list of numbers, a signature's length on the disk would depend on what is in it.
mod byte_string {
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        d.deserialize_bytes(Bytes)
    }
}

/// Why a note is none; the word is the counter's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Its author has not signed this for this mesh.
    Forged,
    /// A name, a time or a text that no node of this program writes.
    Malformed,
    /// More authors than are kept.
    Crowded,
}

impl Wrong {
    /// The counter's label.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Crowded => "crowded",
        }
    }
}

/// This node's key, in one mesh.
#[derive(Debug)]
pub(crate) struct Pen {
    identity: Identity,
    mesh: [u8; 32],
}

impl Pen {
    /// `mesh` is the mesh's id, which only members know: a note of another mesh is worth nothing in this one.
    pub(crate) fn new(identity: Identity, mesh: [u8; 32]) -> Self {
        Self { identity, mesh }
    }

    /// The one who writes.
    pub(crate) fn author(&self) -> Peer {
        Peer(self.identity.peer())
    }

    /// Writes a note; none only if the key cannot sign.
    pub(super) fn write(&self, id: u64, at: u64, node: &str, user: &str, text: &str) -> Option<Note> {
        let mut note =
            Note { author: self.author(), id, at, node: node.to_owned(), user: user.to_owned(), text: text.to_owned(), sig: Vec::new() };
        note.sig = self.identity.sign(&note.signed(&self.mesh))?;
        Some(note)
    }

    /// Whatever a member says may be wrong: this is a note, and its author has written exactly this, for this mesh.
    pub(super) fn check(&self, note: &Note) -> Result<(), Wrong> {
        let name = |n: &str| n.len() <= NAME_MAX && !n.chars().any(char::is_control);
        if unfit(&note.text).is_some() || !name(&note.node) || !name(&note.user) || note.at > LAST_MS || note.id == 0 {
            return Err(Wrong::Malformed);
        }
        if signed_by(&note.author.0, &note.signed(&self.mesh), &note.sig) { Ok(()) } else { Err(Wrong::Forged) }
    }
}

impl Note {
    /// What is signed: every part with its length, so that no two notes have the same.
    fn signed(&self, mesh: &[u8; 32]) -> Vec<u8> {
        let mut all = [DOMAIN, mesh, &self.author.0, &self.id.to_be_bytes(), &self.at.to_be_bytes()].concat();
        for part in [&self.node, &self.user, &self.text] {
            all.extend_from_slice(&(part.len() as u64).to_be_bytes());
            all.extend_from_slice(part.as_bytes());
        }
        all
    }
}

/// What is wrong with a text as a note, if anything.
pub(super) fn unfit(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some("a note needs a text".to_owned());
    }
    if text.len() > TEXT_MAX {
        return Some(format!(
            "a note has at most {TEXT_MAX} bytes, and this one has {}: share it as a file with 'clawmesh blobs put'",
            text.len()
        ));
    }
    let odd = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    odd.map(|c| format!("a note has no control characters, and this one has U+{:04X}", u32::from(c)))
}
