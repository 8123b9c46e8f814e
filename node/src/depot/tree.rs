//! BLAKE3 verified streaming: a part of a blob travels with the hashes that prove it, and is checked group by group as it comes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;

use bao_tree::{
    BaoTree, BlockSize, ChunkRanges,
    io::{
        BaoContentItem, DecodeError, EncodeError,
        outboard::PreOrderOutboard,
        round_up_to_chunks,
        sync::{DecodeResponseIter, OutboardMut, WriteAt, encode_ranges_validated, outboard},
    },
};

use crate::store::BlobHash;

/// Bytes that are checked at a time, 64 KiB: a lie costs the receiver no more than this. As a power of two of chunks of 1 KiB.
const GROUP_LOG: u8 = 6;
/// The same in bytes.
pub(crate) const GROUP: u64 = 1024 << GROUP_LOG;

/// Why a part could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// What lies here is not what the name says.
    #[error("the blob is damaged on this disk")]
    Damaged,
    /// The disk or the line.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a part could not be received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The bytes are not the blob's.
    #[error("what it sent is not the blob: noticed at byte {at}")]
    Lie {
        /// Up to where all was well.
        at: u64,
    },
    /// The disk here refused.
    #[error("cannot write the blob: {0}")]
    Disk(io::Error),
    /// The line broke, or nothing came for too long.
    #[error("{0}")]
    Line(io::Error),
}

pub(super) fn tree(len: u64) -> BaoTree {
    BaoTree::new(len, BlockSize::from_chunk_log(GROUP_LOG))
}

/// Length of the file of hashes beside a blob of `len` bytes; 0 for those of one group.
pub(super) fn hashes_len(len: u64) -> u64 {
    tree(len).outboard_size()
}

/// Hashes a file of `len` bytes, writing the hashes between into `hashes` (not needed for blobs of one group).
pub(super) fn hash(data: &File, len: u64, hashes: Option<&mut File>) -> io::Result<BlobHash> {
    let tree = tree(len);
    let data = io::BufReader::with_capacity(1 << 20, data);
    let root = match hashes {
        Some(file) => {
            let mut board = PreOrderOutboard { root: blake3::Hash::from_bytes([0; 32]), tree, data: file };
            outboard(data, tree, &mut board)?
        }
        None => {
            let mut board = PreOrderOutboard { root: blake3::Hash::from_bytes([0; 32]), tree, data: Vec::new() };
            outboard(data, tree, &mut board)?
        }
    };
    Ok(BlobHash(*root.as_bytes()))
}

/// The part that proves the length: the last group.
fn last_group(len: u64) -> Range<u64> {
    (len.saturating_sub(1) / GROUP * GROUP)..len
}

/// The chunks of a part; an empty part stands for the proof of the length.
fn chunks(part: &Range<u64>, len: u64) -> ChunkRanges {
    if len == 0 {
        return ChunkRanges::all();
    }
    let part = if part.is_empty() { last_group(len) } else { part.clone() };
    round_up_to_chunks(&bao_tree::ByteRanges::from(part.start..part.end.min(len)))
}

/// Writes a part of a blob and its proof, checking what it reads. `part` begins and ends at whole groups, or at the end of the blob.
///
/// # Errors
/// [`SendError`].
pub(super) fn send(
    data: &File,
    hashes: Option<&File>,
    hash: BlobHash,
    len: u64,
    part: &Range<u64>,
    to: impl Write,
) -> Result<(), SendError> {
    let (root, tree) = (blake3::Hash::from_bytes(hash.0), tree(len));
    let ranges = chunks(part, len);
    let done = match hashes {
        Some(file) => encode_ranges_validated(data, PreOrderOutboard { root, tree, data: file }, &ranges, to),
        None => encode_ranges_validated(data, PreOrderOutboard { root, tree, data: Vec::new() }, &ranges, to),
    };
    done.map_err(|e| match e {
        EncodeError::ParentHashMismatch(_) | EncodeError::LeafHashMismatch(_) | EncodeError::SizeMismatch => SendError::Damaged,
        // The file is shorter than it was.
        EncodeError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => SendError::Damaged,
        EncodeError::Io(e) => SendError::Io(e),
        other => SendError::Io(other.into()),
    })
}

/// Reads a part as [`send`] wrote it, checks each group, and writes it into `data` and `hashes`. `step` hears how many bytes of the
/// blob are here and right, counted from its beginning.
///
/// # Errors
/// [`ReceiveError`]; what `step` was told of is written.
pub(super) fn receive(
    files: (&mut File, Option<&mut File>),
    hash: BlobHash,
    len: u64,
    part: &Range<u64>,
    from: impl Read,
    mut step: impl FnMut(u64),
) -> Result<(), ReceiveError> {
    let (root, tree) = (blake3::Hash::from_bytes(hash.0), tree(len));
    let (data, mut hashes) = files;
    let ranges = chunks(part, len);
    let mut right = part.start;
    for item in DecodeResponseIter::new(root, tree, from, &ranges) {
        match item.map_err(|e| fault(e, right))? {
            BaoContentItem::Parent(p) => {
                if let Some(file) = hashes.as_deref_mut() {
                    let mut board = PreOrderOutboard { root, tree, data: file };
                    board.save(p.node, &p.pair).map_err(ReceiveError::Disk)?;
                }
            }
            BaoContentItem::Leaf(leaf) => {
                data.write_all_at(leaf.offset, &leaf.data).map_err(ReceiveError::Disk)?;
                right = leaf.offset + leaf.data.len() as u64;
                step(right);
            }
        }
    }
    Ok(())
}

/// Reads the proof of a length that a peer claims.
///
/// # Errors
/// [`ReceiveError::Lie`] when the blob has another length, [`ReceiveError::Line`].
pub(super) fn receive_len(hash: BlobHash, claimed: u64, from: impl Read) -> Result<(), ReceiveError> {
    let root = blake3::Hash::from_bytes(hash.0);
    for item in DecodeResponseIter::new(root, tree(claimed), from, &chunks(&(0..0), claimed)) {
        item.map_err(|e| fault(e, 0))?;
    }
    Ok(())
}

fn fault(e: DecodeError, at: u64) -> ReceiveError {
    match e {
        DecodeError::ParentHashMismatch(_) | DecodeError::LeafHashMismatch(_) => ReceiveError::Lie { at },
        DecodeError::ParentNotFound(_) | DecodeError::LeafNotFound(_) => ReceiveError::Line(io::ErrorKind::UnexpectedEof.into()),
        DecodeError::Io(e) => ReceiveError::Line(e),
    }
}
