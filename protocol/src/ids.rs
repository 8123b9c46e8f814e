//! Names of things: nodes, epochs, versions, tasks, attempts.

use alloc::{format, string::String};
use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    codec::{Dec, Enc, Malformed, Wire},
    wire_tuple,
};

/// The multihash and protobuf head that libp2p puts before a raw ed25519 key in a peer id
/// (identity multihash of `PublicKey { type: Ed25519, data }`, libp2p peer-ids spec).
const PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A node: its raw ed25519 public key.  Printed as libp2p's peer id (`12D3KooW…`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub [u8; 32]);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut id = [0u8; 38];
        id[..6].copy_from_slice(&PEER_ID_HEAD);
        id[6..].copy_from_slice(&self.0);
        f.pad(&bs58::encode(id).into_string())
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2])
    }
}

impl FromStr for Peer {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bytes = bs58::decode(s).into_vec().map_err(|_| format!("'{s}' is not a node id (12D3KooW…)"))?;
        let raw = bytes.strip_prefix(&PEER_ID_HEAD).and_then(|k| <[u8; 32]>::try_from(k).ok());
        raw.map(Self).ok_or_else(|| format!("'{s}' is not a node id (12D3KooW…)"))
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl Wire for Peer {
    fn put(&self, e: &mut Enc<'_>) {
        e.bytes(&self.0);
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        Ok(Self(d.bytes()?.try_into().map_err(|_| Malformed::Range)?))
    }
}

/// A BLAKE3 hash (256 bits): names blobs, specs and catalogues by content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        let raw = data_encoding::HEXLOWER.decode(s.as_bytes()).map_err(de::Error::custom)?;
        Ok(Self(raw.try_into().map_err(|_| de::Error::custom("a hash has 64 hexadecimal digits"))?))
    }
}

impl Wire for Hash {
    fn put(&self, e: &mut Enc<'_>) {
        e.bytes(&self.0);
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        Ok(Self(d.bytes()?.try_into().map_err(|_| Malformed::Range)?))
    }
}

/// A coordinator's term: a number, and who claimed it.  Totally ordered; never used twice (E6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Rises with every claim; 0 means "before the first claim".
    pub n: u64,
    /// The claimant.
    pub peer: Peer,
}
wire_tuple!(Epoch { n, peer });

impl Epoch {
    /// Before any claim.
    pub const ZERO: Self = Self { n: 0, peer: Peer([0; 32]) };

    /// The number that people see: the voters' epochs count from [`crate::config::VOTED`].
    pub fn number(&self) -> u64 {
        self.n % crate::config::VOTED
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voted = if self.n >= crate::config::VOTED { "v" } else { "" };
        write!(f, "{voted}{}@{:?}", self.number(), self.peer)
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::ZERO
    }
}

/// The version of one record: unique per write, because one coordinator counts `seq` in its epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ver {
    /// The writing coordinator's epoch.
    pub epoch: Epoch,
    /// Its write counter, from 1.
    pub seq: u64,
}
wire_tuple!(Ver { epoch, seq });

impl fmt::Debug for Ver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.epoch, self.seq)
    }
}

/// Where ids come from: a node and the store it counted in.  A new store is a new origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The submitting node.
    pub peer: Peer,
    /// Its store's random number.
    pub store: u64,
}
wire_tuple!(Origin { peer, store });

/// A task.  Ordered per origin by (incarnation, sequence), which is what floors compare (G1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId {
    /// Who made it.
    pub origin: Origin,
    /// The origin's incarnation: rises at every start, never below the wall clock in ms, so that a
    /// restored disk image does not reuse ids.
    pub inc: u64,
    /// Counts from 1 within the incarnation.
    pub seq: u64,
}
wire_tuple!(TaskId { origin, inc, seq });

impl TaskId {
    /// The 80 bits of BLAKE3 that people see and type.
    pub fn short(&self) -> ShortId {
        let h = Hash::of(&self.key());
        let mut s = [0; 10];
        s.copy_from_slice(&h.0[..10]);
        ShortId(s)
    }
    /// Fixed-length form in the order of ids: peer, store, incarnation, sequence.
    pub fn key(&self) -> [u8; 56] {
        let mut k = [0; 56];
        k[..32].copy_from_slice(&self.origin.peer.0);
        k[32..40].copy_from_slice(&self.origin.store.to_be_bytes());
        k[40..48].copy_from_slice(&self.inc.to_be_bytes());
        k[48..].copy_from_slice(&self.seq.to_be_bytes());
        k
    }
    /// The part that floors compare.
    pub fn place(&self) -> (u64, u64) {
        (self.inc, self.seq)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.short().fmt(f)
    }
}

/// The printed form of a task id: `t` and 16 base32 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShortId(pub [u8; 10]);

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("t{}", data_encoding::BASE32_NOPAD.encode(&self.0).to_lowercase()))
    }
}

impl Serialize for ShortId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShortId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        let digits = s.strip_prefix('t').unwrap_or(&s).to_uppercase();
        let raw = data_encoding::BASE32_NOPAD.decode(digits.as_bytes()).map_err(de::Error::custom)?;
        Ok(Self(raw.try_into().map_err(|_| de::Error::custom("a task id is t and 16 characters"))?))
    }
}

impl Wire for ShortId {
    fn put(&self, e: &mut Enc<'_>) {
        e.bytes(&self.0);
    }
    fn take(d: &mut Dec<'_>) -> Result<Self, Malformed> {
        Ok(Self(d.bytes()?.try_into().map_err(|_| Malformed::Range)?))
    }
}

/// One try at a task: its number and the epoch that issued it.  Two sides of a split may both issue
/// number 2; the epoch tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Attempt {
    /// From 1.
    pub k: u32,
    /// The issuing epoch.
    pub epoch: Epoch,
}
wire_tuple!(Attempt { k, epoch });

/// How many characters of a task id were typed, as a key range; `None` when it cannot be an id.
pub fn short_prefix(typed: &str) -> Option<String> {
    let digits: String = typed.strip_prefix('t').unwrap_or(typed).to_lowercase();
    let ok = !digits.is_empty() && digits.len() <= 16 && digits.bytes().all(|c| c.is_ascii_lowercase() || (b'2'..=b'7').contains(&c));
    ok.then_some(digits)
}
