//! What can go wrong with a blob, for people.

use std::io;

use super::{BLOBS_MAX, PREFIX_MIN};
use crate::store::BlobHash;

/// Why something could not be done. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DepotError {
    /// There is no such blob here.
    #[error("the blob {0} is not on this node")]
    Missing(BlobHash),
    /// No blob here begins so.
    #[error("no blob on this node begins with '{0}'")]
    Unknown(String),
    /// Not a hash, nor the beginning of one.
    #[error("'{0}' is no hash: it has {PREFIX_MIN} to 64 digits of 0-9 and a-f")]
    NoHash(String),
    /// Several blobs begin so.
    #[error("several blobs begin with '{prefix}': type more digits")]
    Ambiguous {
        /// As typed.
        prefix: String,
        /// At most ten of them.
        all: Vec<BlobHash>,
    },
    /// What lies on the disk is not what the name says; it was removed.
    #[error("the blob {0} was damaged on the disk and has been removed; 'blobs get' fetches it again when another node has it")]
    Damaged(BlobHash),
    /// Longer than this node takes.
    #[error("the blob is longer than {}, the most that this node takes ('clawmesh up --blob-max')", bytesize::ByteSize(*max))]
    TooLong {
        /// Bytes.
        max: u64,
    },
    /// It would touch the free space that the store needs.
    #[error("the disk has no room for it: {} more can be written before the node's reserve is touched; free some space, or 'clawmesh blobs rm'", bytesize::ByteSize(*left))]
    Full {
        /// Bytes.
        left: u64,
    },
    /// More blobs than one node keeps.
    #[error("{BLOBS_MAX} blobs are here, which is the limit: remove some with 'clawmesh blobs rm'")]
    TooMany,
    /// A task that runs here has it as an input.
    #[error("the blob {0} is an input of a task that runs here: try again when it has ended")]
    InUse(BlobHash),
    /// The system.
    #[error("cannot {doing} the blob: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
