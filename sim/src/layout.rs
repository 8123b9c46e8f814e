//! Reads what the core writes to its store, so that the oracle can count copies by itself.
//!
//! Keys are a letter and a task's fixed-length id: `t` the table, `o` the origin's outbox.

use std::collections::BTreeSet;

use clawmesh_protocol::{
    codec,
    ids::{Origin, Peer, TaskId},
    message::{Floor, Settings},
    quorum::MeshConfig,
    record::{Rec, decode_rec},
};

/// What one key and value of the store mean.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    /// A task of the table.
    Rec(Box<Rec>),
    /// The record with this id is deleted.
    RecGone(TaskId),
    /// The origin keeps this task of its own.
    Outbox(TaskId),
    /// The origin forgets this task.
    OutboxGone(TaskId),
    /// The node knows this floor.
    Floor(Floor),
    /// The voters of the mesh.
    Config(Box<MeshConfig>),
    /// The mesh's settings: who its members are.
    Members(BTreeSet<u64>),
    /// Something the oracle does not count.
    Other,
}

/// Reads a put (`value` is some) or a delete.
pub(crate) fn item(key: &[u8], value: Option<&[u8]>) -> Item {
    if let (Some(b'f'), Some(v)) = (key.first(), value) {
        return codec::decode::<Floor>(v).map_or(Item::Other, Item::Floor);
    }
    let id = task_id(key);
    match (key.first(), id, value) {
        (Some(b't'), Some(id), Some(v)) => match decode_rec(v) {
            Ok(r) if r.id == id => Item::Rec(Box::new(r)),
            _ => Item::Other,
        },
        (Some(b't'), Some(id), None) => Item::RecGone(id),
        (Some(b'o'), Some(id), Some(_)) => Item::Outbox(id),
        (Some(b'o'), Some(id), None) => Item::OutboxGone(id),
        (Some(b'q'), None, Some(v)) => clawmesh_protocol::codec::decode(v).map_or(Item::Other, |q| Item::Config(Box::new(q))),
        (Some(b's'), None, Some(v)) => codec::decode::<Settings>(v).map_or(Item::Other, |s| Item::Members(members(&s))),
        _ => Item::Other,
    }
}

fn members(s: &Settings) -> BTreeSet<u64> {
    s.members.0.chunks_exact(8).map(|c| c.iter().fold(0, |n, b| n << 8 | u64::from(*b))).collect()
}

/// The task that a key of 57 bytes names.
fn task_id(key: &[u8]) -> Option<TaskId> {
    let rest = key.get(1..).filter(|r| r.len() == 56)?;
    let number = |at: usize| rest.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let peer = Peer(rest.get(..32)?.try_into().ok()?);
    Some(TaskId { origin: Origin { peer, store: number(32)? }, inc: number(40)?, seq: number(48)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::fixture::{epoch, rec, task};

    #[test]
    fn keys_name_their_task() {
        let id = task(77);
        let key = |letter: u8| [&[letter][..], &id.key()].concat();
        let r = rec(id, epoch(1, 0), 1);
        let bytes = clawmesh_protocol::codec::encode(&r);
        assert_eq!(item(&key(b't'), Some(&bytes)), Item::Rec(Box::new(r)));
        assert_eq!(item(&key(b't'), None), Item::RecGone(id));
        assert_eq!(item(&key(b'o'), Some(&[])), Item::Outbox(id));
        assert_eq!(item(&key(b'o'), None), Item::OutboxGone(id));
        assert_eq!(item(b"meta/hw", Some(&[])), Item::Other);
    }
}
