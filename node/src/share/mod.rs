//! Skill folders given away and taken in: one archive, one hash, and where it came from.
//!
//! The archive is a tar in exactly one form (sorted, no times, owners, modes, links or directories), so that one content has one
//! name as a blob. A tar and not a list of blobs, because a skill is small (half of them are below 10 KB): one blob is one transfer, and is there whole or not
//! at all; and anybody can look into it with `tar`. What comes from others is unpacked in memory, judged, packed again and compared:
//! an archive that any other reader could understand differently does not come through.

mod install;
mod offers;
mod pack;
#[cfg(test)]
mod tests;

pub(crate) use install::{Installed, Origin, Place, installed, place, remove, state_of};
pub(crate) use offers::{OFFERS_MAX, Offer, Offers};
pub(crate) use pack::{ARCHIVE_MAX, Packed, content_hash, pack, read_folder, unpack};

/// The file in an installed skill's folder that says where it came from. It does not count for the content's hash.
pub(crate) const ORIGIN_FILE: &str = ".clawmesh-origin.json";

/// Why a folder or an archive is refused, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}
