//! How a record looks on disk: `[schema: u8][crc32: u32 little-endian][payload]`.
//!
//! The checksum covers the key too, so that a value which sled hands back under the wrong key is
//! found out. sled has a checksum of its own per page, but damaged pages have been seen to come
//! back as good ones after a torn write; the second one is ours and costs about 50 ns a record.

/// Version of everything under the store directory, kept in the side file. Raised when an older
/// program could no longer read what this one writes.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// Longest key in bytes. Ids, epochs and short names fit several times over.
pub(crate) const KEY_LEN_MAX: usize = 512;

/// Longest encoded value in bytes (rule D2): far below the size at which sled starts to write
/// blob files, which it never syncs and never deletes.
pub(crate) const ENCODED_LEN_MAX: usize = 4096;

/// Longest payload in bytes that a caller may store under one key.
pub(crate) const VALUE_LEN_MAX: usize = ENCODED_LEN_MAX - HEADER_LEN;

/// Keys that start with this byte belong to the store itself and are refused from callers.
pub(super) const RESERVED_PREFIX: u8 = 0;

/// The newest side bytes, written in the same atomic batch as the records they belong to.
pub(super) const KEY_SIDE: &[u8] = b"\0side";

/// The store id that this database belongs to, the number of its commits and its content, in every commit.
pub(super) const KEY_STORE: &[u8] = b"\0store";

/// The value of [`KEY_STORE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) store_id: u64,
    pub(super) commits: u64,
    /// What the database holds after that many commits; `None` when an earlier program wrote the mark.
    pub(super) content: Option<Content>,
}

impl Mark {
    pub(super) fn encode(self) -> Vec<u8> {
        let content = self.content.into_iter().flat_map(|c| [c.count, c.sum]);
        [self.store_id, self.commits].into_iter().chain(content).flat_map(u64::to_be_bytes).collect()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Mark> {
        let (store_id, rest) = value.split_first_chunk()?;
        let (commits, rest) = rest.split_first_chunk()?;
        let content = match rest.split_first_chunk() {
            Some((count, sum)) => Some(Content { count: u64::from_be_bytes(*count), sum: u64::from_be_bytes(sum.try_into().ok()?) }),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(Mark { store_id: u64::from_be_bytes(*store_id), commits: u64::from_be_bytes(*commits), content })
    }
}

/// How many records a database holds, apart from its mark, and a sum over all of them.
///
/// sled can lose a part from the middle of its log and open without a word: then records are missing, or an older
/// version of them is back. The number of commits does not show it, this does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) count: u64,
    /// Wraps around; the order of the records does not matter.
    sum: u64,
}

impl Content {
    /// Takes in a record as it is stored.
    pub(super) fn add(&mut self, print: Print) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(print.0);
    }

    /// Takes out a record as it was stored.
    pub(super) fn remove(&mut self, print: Print) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(print.0);
    }
}

/// A number for one record with its value, as in [`Content`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print(u64);

impl Print {
    /// Of a record as it is stored. Its checksum covers everything already; the key's own is added so that 64 bits differ.
    pub(super) fn of(key: &[u8], stored: &[u8]) -> Print {
        let value = stored.split_first_chunk::<HEADER_LEN>().map_or(0, |(&[_, a, b, c, d], _)| u32::from_le_bytes([a, b, c, d]));
        let both = u64::from(crc32fast::hash(key)) << 32 | u64::from(value);
        // Spread over all bits, or sums of checksums that are alike in one half would be, too (the finisher of splitmix64).
        let x = (both ^ both >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Print(x ^ x >> 31)
    }
}

const SCHEMA: u8 = 1;
const HEADER_LEN: usize = 5;

/// What a stored value turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<'a> {
    Intact(&'a [u8]),
    /// Too short, or the checksum does not fit.
    Damaged,
    /// The checksum is right but a newer program wrote it.
    TooNew(u8),
}

/// Encodes `payload` for `key` into `out`, whose old content is dropped. The buffer is the
/// caller's so that the committer needs no allocation per record.
pub(super) fn encode_into(out: &mut Vec<u8>, key: &[u8], payload: &[u8]) {
    out.clear();
    out.push(SCHEMA);
    out.extend_from_slice(&checksum(SCHEMA, key, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Checks and unwraps a stored value.
pub(super) fn decode<'a>(key: &[u8], stored: &'a [u8]) -> Decoded<'a> {
    let Some((&[schema, a, b, c, d], payload)) = stored.split_first_chunk::<HEADER_LEN>() else {
        return Decoded::Damaged;
    };
    if checksum(schema, key, payload) != u32::from_le_bytes([a, b, c, d]) {
        return Decoded::Damaged;
    }
    if schema != SCHEMA {
        return Decoded::TooNew(schema);
    }
    Decoded::Intact(payload)
}

fn checksum(schema: u8, key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    // The key's length goes in as well: else (k="a", v="bc") and (k="ab", v="c") would agree.
    hasher.update(&[schema]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let mut stored = Vec::new();
        encode_into(&mut stored, b"task/1", b"payload");
        assert_eq!(decode(b"task/1", &stored), Decoded::Intact(b"payload"));
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(b"task/1", &bad), Decoded::Damaged, "bit {bit}");
        }
        assert_eq!(decode(b"task/2", &stored), Decoded::Damaged);
        for len in 0..stored.len() {
            assert_eq!(decode(b"task/1", &stored[..len]), Decoded::Damaged);
        }
    }

    #[test]
    fn the_content_depends_on_the_records_and_not_on_their_order() {
        let print = |key: &[u8], payload: &[u8]| {
            let mut stored = Vec::new();
            encode_into(&mut stored, key, payload);
            Print::of(key, &stored)
        };
        let sum = |prints: &[Print]| {
            let mut content = Content::default();
            prints.iter().for_each(|p| content.add(*p));
            content
        };
        let (a, b) = (print(b"a", b"1"), print(b"b", b"1"));
        assert_eq!(sum(&[a, b]), sum(&[b, a]));
        assert_ne!(sum(&[a, b]), sum(&[a, print(b"b", b"2")]), "an older version is back");
        assert_ne!(sum(&[a, b]), sum(&[a]));
        let mut less = sum(&[a, b]);
        less.remove(a);
        assert_eq!(less, sum(&[b]));
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_an_earlier_one_too() {
        let mut content = Content::default();
        content.add(Print::of(b"k", b"stored"));
        for content in [None, Some(content)] {
            let mark = Mark { store_id: 7, commits: 9, content };
            let mut bytes = mark.encode();
            assert_eq!(Mark::decode(&bytes), Some(mark));
            bytes.pop();
            assert_eq!(Mark::decode(&bytes), None);
        }
    }

    #[test]
    fn a_record_of_a_newer_schema_is_not_called_damaged() {
        let crc = checksum(9, b"k", b"v").to_le_bytes();
        let stored = [&[9][..], &crc, b"v"].concat();
        assert_eq!(decode(b"k", &stored), Decoded::TooNew(9));
    }
}
