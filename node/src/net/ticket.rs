//! A ticket: what somebody needs to join a mesh, as one word that survives chat programs.
//!
//! `clawmesh1:` + base32 (lower case, no padding) of: the first four bytes of a BLAKE3 of the rest, then CBOR.

use std::{fmt, str::FromStr};

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

/// Name, key and some addresses of a mesh. Who holds it is a member.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The mesh's name, at most 64 bytes.
    pub(crate) mesh_name: String,
    /// The mesh's secret key.
    pub(crate) key: [u8; 32],
    /// Where members may be found, at most 32 addresses; each may end in `/p2p/…`.
    pub(crate) addrs: Vec<Multiaddr>,
}

/// Why a text is no ticket.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TicketError {
    /// It does not begin like one.
    #[error("this is no clawmesh ticket: it should begin with `clawmesh1:`; ask a member for the output of `clawmesh invite`")]
    NotATicket,
    /// A letter that base32 does not have, or a wrong length.
    #[error("the ticket was cut or changed on its way (not base32); copy it again, the whole line, from `clawmesh invite`")]
    NotBase32,
    /// The checksum does not fit.
    #[error("the ticket was cut or changed on its way (wrong checksum); copy it again, the whole line, from `clawmesh invite`")]
    Checksum,
    /// The checksum fits and the content makes no sense: another version, or a forgery.
    #[error("the ticket cannot be understood ({0}); it may come from another version of clawmesh")]
    Content(String),
}

impl Ticket {
    /// The id of the mesh: a BLAKE3 of key and name. It tells meshes apart and reveals neither.
    pub(crate) fn mesh_id(&self) -> [u8; 32] {
        mesh_id(&self.key, &self.mesh_name)
    }
}

/// The id of a mesh, from its key and name; the prologue of every handshake.
pub(crate) fn mesh_id(key: &[u8; 32], name: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("clawmesh 1 mesh id");
    hasher.update(key);
    hasher.update(name.as_bytes());
    *hasher.finalize().as_bytes()
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = Body {
            name: self.mesh_name.clone(),
            key: Octets(self.key.to_vec()),
            addrs: self.addrs.iter().map(|a| Octets(a.to_vec())).collect(),
        };
        let mut cbor = Vec::new();
        ciborium::into_writer(&body, &mut cbor).map_err(|_| fmt::Error)?;
        let mut bytes = checksum(&cbor).to_vec();
        bytes.append(&mut cbor);
        write!(f, "{PREFIX}{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let code = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        if code.len() > TEXT_MAX {
            return Err(TicketError::Content("it is too long".into()));
        }
        let bytes = data_encoding::BASE32_NOPAD.decode(code.to_ascii_uppercase().as_bytes()).map_err(|_| TicketError::NotBase32)?;
        let (sum, cbor) = bytes.split_first_chunk::<4>().ok_or(TicketError::Checksum)?;
        if *sum != checksum(cbor) {
            return Err(TicketError::Checksum);
        }
        let body: Body = ciborium::from_reader(cbor).map_err(|e| TicketError::Content(e.to_string()))?;
        if body.name.len() > NAME_MAX || body.addrs.len() > ADDRS_MAX {
            return Err(TicketError::Content("its name or list of addresses is too long".into()));
        }
        let addrs = body.addrs.into_iter().map(|a| Multiaddr::try_from(a.0)).collect::<Result<_, _>>();
        let addrs = addrs.map_err(|e| TicketError::Content(format!("bad address: {e}")))?;
        let key = body.key.0.try_into().map_err(|_| TicketError::Content("its key has a wrong length".into()))?;
        Ok(Self { mesh_name: body.name, key, addrs })
    }
}

/// The key is a secret: it does not show in logs.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("mesh_name", &self.mesh_name).field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "k")]
    key: Octets,
    #[serde(rename = "a")]
    addrs: Vec<Octets>,
}

/// Bytes as a CBOR byte string: serde would write a list of numbers, twice as long.
struct Octets(Vec<u8>);

impl Serialize for Octets {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match ciborium::Value::deserialize(d)? {
            ciborium::Value::Bytes(b) => Ok(Self(b)),
            _ => Err(serde::de::Error::custom("expected bytes")),
        }
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(bytes);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

const PREFIX: &str = "clawmesh1:";
const NAME_MAX: usize = 64;
const ADDRS_MAX: usize = 32;
/// Far above what 32 addresses need; protects from pasted novels.
const TEXT_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let addrs = vec!["/ip4/192.168.1.7/tcp/8889".parse().unwrap(), "/ip6/fd7a::1/tcp/8889".parse().unwrap()];
        Ticket { mesh_name: "home".into(), key: [7; 32], addrs }
    }

    #[test]
    fn a_ticket_survives_the_trip_even_with_blanks_and_capitals() {
        let text = ticket().to_string();
        assert!(text.starts_with("clawmesh1:") && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':'));
        assert_eq!(text.parse::<Ticket>().unwrap(), ticket());
        let (head, tail) = text.split_once(':').unwrap();
        assert_eq!(format!("  {head}:{}\n", tail.to_uppercase()).parse::<Ticket>().unwrap(), ticket());
    }

    #[test]
    fn every_damage_is_told_apart() {
        let text = ticket().to_string();
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!("clawmesh1:0189".parse::<Ticket>(), Err(TicketError::NotBase32));
        assert_eq!("clawmesh1:".parse::<Ticket>(), Err(TicketError::Checksum));
        for at in "clawmesh1:".len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let error = String::from_utf8(bytes).unwrap().parse::<Ticket>().unwrap_err();
            assert!(matches!(error, TicketError::Checksum | TicketError::NotBase32), "{at}: {error}");
        }
    }

    #[test]
    fn the_mesh_id_depends_on_key_and_name() {
        let base = ticket();
        let renamed = Ticket { mesh_name: "work".into(), ..base.clone() };
        let rekeyed = Ticket { key: [8; 32], ..base.clone() };
        assert_ne!(base.mesh_id(), renamed.mesh_id());
        assert_ne!(base.mesh_id(), rekeyed.mesh_id());
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert!(!format!("{:?}", ticket()).contains("7, 7"));
    }
}
