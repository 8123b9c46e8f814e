//! All notes of one author on the disk: only ever appended to, rewritten when more than half of it is not needed any more.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::note::{Note, TEXT_MAX};
use crate::store::sync_dir;

/// Of one author the newest notes are kept that have so many bytes together on the disk; older ones go.
pub(crate) const BOOK_MAX: u64 = 4 << 20;
/// Length and checksum in front of each note.
const HEAD: u64 = 8;
/// Longest note on the disk, bytes: its texts, its signature, and the names of its parts.
const FRAME_MAX: u32 = TEXT_MAX as u32 + 4_096;

/// How a file begins that is written anew; one that is there at the start was not finished.
pub(super) const LEFT_OVER: &str = ".rewrite-";

/// Where a note lies.
#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: u64,
    len: u32,
    at: u64,
    mark: u64,
}

/// The notes of one author, in the order of their numbers.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    file: File,
    /// Bytes of the file that hold whole notes.
    end: u64,
    slots: BTreeMap<u64, Slot>,
    /// Bytes of the notes that are kept.
    bytes: u64,
    /// Notes have gone since this was last asked for.
    dropped: bool,
}

/// What a note is known by beside its number: of two that its author has given the same number, all nodes keep the same one.
fn mark(encoded: &[u8]) -> u64 {
    short(&blake3::hash(encoded))
}

/// The beginning of a hash as a number.
pub(super) fn short(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().first_chunk().copied().map_or(0, u64::from_be_bytes)
}

fn encode(note: &Note) -> io::Result<Vec<u8>> {
    let mut encoded = Vec::new();
    ciborium::into_writer(note, &mut encoded).map_err(io::Error::other)?;
    Ok(encoded)
}

impl Book {
    /// Opens a book, or begins one. What a power cut has left unfinished at its end is cut off; damage before that is kept beside, and the
    /// notes in front of it are used: other nodes have the rest.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = open_file(path)?;
        let mut all = Vec::new();
        file.read_to_end(&mut all)?;
        let mut book = Self { path: path.to_owned(), file, end: 0, slots: BTreeMap::new(), bytes: 0, dropped: false };
        while let Some(note) = book.next_of(&all) {
            let (note, encoded) = note;
            book.place(&note, encoded, book.end);
            book.end += HEAD + encoded.len() as u64;
        }
        let rest = all.len() as u64 - book.end;
        if rest > 0 {
            if !book.is_torn(&all) {
                let aside = path.with_extension("damaged");
                std::fs::write(&aside, &all)?;
                tracing::warn!("{} is damaged after {} notes: a copy is kept as {}", path.display(), book.slots.len(), aside.display());
            }
            book.file.set_len(book.end)?;
            book.file.sync_data()?;
        }
        Ok(book)
    }

    fn next_of<'a>(&self, all: &'a [u8]) -> Option<(Note, &'a [u8])> {
        let rest = all.get(usize::try_from(self.end).ok()?..)?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let len = u32::from_be_bytes(*len);
        let encoded = rest.get(..usize::try_from(len).ok()?).filter(|_| len <= FRAME_MAX)?;
        if crc32fast::hash(encoded) != u32::from_be_bytes(*sum) {
            return None;
        }
        Some((ciborium::from_reader(encoded).ok()?, encoded))
    }

    /// The last note was not written to its end, as opposed to being something else.
    fn is_torn(&self, all: &[u8]) -> bool {
        let rest = usize::try_from(self.end).ok().and_then(|end| all.get(end..)).unwrap_or_default();
        match rest.first_chunk::<4>() {
            None => true,
            // A file that was made longer and never filled reads as zeros.
            Some(len) => {
                u32::from_be_bytes(*len) <= FRAME_MAX && (rest.len() as u64) < HEAD + u64::from(u32::from_be_bytes(*len))
                    || rest.iter().all(|b| *b == 0)
            }
        }
    }

    /// Takes a note into the index; false when one with its number is preferred, or newer ones fill the book.
    fn place(&mut self, note: &Note, encoded: &[u8], offset: u64) -> bool {
        let new = Slot { offset, len: u32::try_from(encoded.len()).unwrap_or(u32::MAX), at: note.at, mark: mark(encoded) };
        if self.slots.get(&note.id).is_some_and(|old| old.mark <= new.mark) {
            return false;
        }
        if let Some(old) = self.slots.insert(note.id, new) {
            self.bytes -= u64::from(old.len);
            self.dropped = true;
        }
        self.bytes += u64::from(new.len);
        while self.bytes > BOOK_MAX {
            let Some((_, old)) = self.slots.pop_first() else { break };
            self.bytes -= u64::from(old.len);
            self.dropped = true;
        }
        self.slots.contains_key(&note.id)
    }

    /// Appends a note; durable after [`Self::sync`]. False when it is here already, or too old to be kept.
    pub(super) fn add(&mut self, note: &Note) -> io::Result<bool> {
        let encoded = encode(note)?;
        let len = u32::try_from(encoded.len()).ok().filter(|len| *len <= FRAME_MAX).ok_or(io::ErrorKind::FileTooLarge)?;
        if !self.wants(note.id, len, mark(&encoded)) {
            return Ok(false);
        }
        let framed = [&len.to_be_bytes()[..], &crc32fast::hash(&encoded).to_be_bytes(), &encoded].concat();
        // Not at the end of the file but of what is whole: an append that failed half way is written over.
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&framed)?;
        let fresh = self.place(note, &encoded, self.end);
        self.end += framed.len() as u64;
        if self.end > 2 * BOOK_MAX {
            self.rewrite()?;
        }
        Ok(fresh)
    }

    /// Whether [`Self::place`] would keep it: nothing is written that would be dropped at once.
    fn wants(&self, id: u64, len: u32, mark: u64) -> bool {
        match self.slots.get(&id) {
            Some(old) => mark < old.mark,
            None => self.bytes + u64::from(len) <= BOOK_MAX || self.slots.first_key_value().is_none_or(|(first, _)| id > *first),
        }
    }

    /// Everything that was added is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut fresh = tempfile::Builder::new().prefix(LEFT_OVER).tempfile_in(dir)?;
        let (mut end, mut slots) = (0, self.slots.clone());
        for slot in slots.values_mut() {
            let mut framed = vec![0; usize::try_from(HEAD).unwrap_or(0) + slot.len as usize];
            self.file.seek(SeekFrom::Start(slot.offset))?;
            self.file.read_exact(&mut framed)?;
            fresh.write_all(&framed)?;
            slot.offset = end;
            end += framed.len() as u64;
        }
        fresh.as_file().sync_data()?;
        // From here on the old file is no file of the directory any more: what is appended to it would be lost.
        self.file = fresh.persist(&self.path).map_err(|e| e.error)?;
        (self.end, self.slots) = (end, slots);
        sync_dir(dir)
    }

    fn read(&mut self, slot: Slot) -> io::Result<Note> {
        let mut encoded = vec![0; slot.len as usize];
        self.file.seek(SeekFrom::Start(slot.offset + HEAD))?;
        self.file.read_exact(&mut encoded)?;
        ciborium::from_reader(encoded.as_slice()).map_err(io::Error::other)
    }

    /// The notes after this number, oldest first, as long as they have at most `max` bytes together.
    pub(super) fn since(&mut self, after: u64, max: u64) -> io::Result<Vec<Note>> {
        let mut left = max;
        let mut wanted = Vec::new();
        for slot in self.slots.range(after.saturating_add(1)..).map(|(_, s)| *s) {
            match left.checked_sub(u64::from(slot.len)) {
                Some(rest) => left = rest,
                None => break,
            }
            wanted.push(slot);
        }
        wanted.into_iter().map(|s| self.read(s)).collect()
    }

    /// The notes written from one moment up to another, ms since 1970, in the order of writing.
    pub(super) fn between(&mut self, from: u64, to: u64) -> io::Result<Vec<Note>> {
        let wanted: Vec<Slot> = self.slots.values().filter(|s| (from..to).contains(&s.at)).copied().collect();
        let mut notes = wanted.into_iter().map(|s| self.read(s)).collect::<io::Result<Vec<_>>>()?;
        notes.sort_by_key(|n| (n.at, n.id));
        Ok(notes)
    }

    /// The newest note.
    pub(super) fn newest(&mut self) -> io::Result<Option<Note>> {
        let last = self.slots.last_key_value().map(|(_, s)| *s);
        last.map(|s| self.read(s)).transpose()
    }

    /// When the notes were written, ms since 1970, in no order.
    pub(super) fn times(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.values().map(|s| s.at)
    }

    /// Bytes of the notes written from this moment on, ms since 1970.
    pub(super) fn bytes_since(&self, from: u64) -> u64 {
        self.slots.values().filter(|s| s.at >= from).map(|s| u64::from(s.len)).sum()
    }

    /// The number of the newest note; 0 when there is none.
    pub(super) fn last(&self) -> u64 {
        self.slots.last_key_value().map_or(0, |(id, _)| *id)
    }

    /// True when notes have gone since the last call: their pages are not what they should be.
    pub(super) fn has_dropped(&mut self) -> bool {
        std::mem::take(&mut self.dropped)
    }

    /// How many notes, and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.slots.len() as u64, self.bytes)
    }

    /// Two nodes with the same of it have the same notes.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for (id, slot) in &self.slots {
            hasher.update(&id.to_be_bytes());
            hasher.update(&slot.mark.to_be_bytes());
        }
        short(&hasher.finalize())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut how, 0o600);
    how.open(path)
}
