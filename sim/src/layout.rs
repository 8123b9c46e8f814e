//! Reads what the core writes to its store, so that the oracle can count copies by itself.

use clawmesh_protocol::{
    ids::TaskId,
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
    /// Something the oracle does not count.
    Other,
}

/// Reads a put (`value` is some) or a delete.
pub(crate) fn item(_key: &[u8], value: Option<&[u8]>) -> Item {
    match value {
        Some(v) => decode_rec(v).map_or(Item::Other, |r| Item::Rec(Box::new(r))),
        None => Item::Other,
    }
}
