//! The memory of the mesh: notes that nodes write down and that every node keeps which has opted in.
//!
//! Each note is signed by the node it was written on, so that anybody may hand it on and nobody can put words into another node's
//! mouth. All notes of one author are a set that only grows (until [`BOOK_MAX`] bytes, when the oldest go): two nodes that have
//! talked have the same notes, whoever was away meanwhile. What the nodes tell each other is in `daemon/notes.rs`.

mod book;
mod note;
mod pages;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use clawmesh_protocol::ids::Peer;
use serde::{Deserialize, Serialize};

use self::book::Book;
pub(crate) use self::{
    book::BOOK_MAX,
    note::{Note, Pen},
    pages::Written,
};
use crate::store::{create_dir_durably, sync_dir};

/// Nodes whose notes are kept.
const AUTHORS_MAX: usize = 256;
/// What one node may write in a day, bytes: a page that an agent still reads, and a bound for one that writes in a loop.
const DAY_MAX: u64 = 256 << 10;
/// Notes in one answer to another node, bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// Notes in one answer to a person.
const FOUND_MAX: usize = 1_000;

/// Why a note was not written, or the notes cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The text is none for a note.
    #[error("{0}")]
    Unfit(String),
    /// One day's notes are full.
    #[error("this node has written {DAY_MAX} bytes of notes today, which is all that a day holds; tomorrow (UTC) there is room again")]
    DayFull,
    /// The disk has no room.
    #[error("the disk of this node is nearly full, so nothing is written down")]
    NoRoom,
    /// The system refuses.
    #[error("cannot {doing} the notes in {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What a node says of the notes of one author. Equal digests are equal notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Whose notes.
    pub(crate) author: Peer,
    /// The newest one's number.
    pub(crate) last: u64,
    /// What stands in all of them.
    pub(crate) digest: u64,
}

/// All notes of one author, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BookInfo {
    /// Whose notes.
    pub(crate) node: Peer,
    /// What it called itself in the newest.
    pub(crate) node_name: String,
    /// How many.
    pub(crate) notes: u64,
    /// Their bytes on this node's disk.
    pub(crate) bytes: u64,
    /// When the newest was written, ms since 1970.
    pub(crate) last_at: u64,
    /// Where its pages lie.
    pub(crate) folder: PathBuf,
}

/// What came of notes that another node has sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Notes that were not here.
    pub(crate) fresh: usize,
    /// Notes refused, by the counter's label.
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

/// A question for notes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Only of this author.
    pub(crate) author: Option<Peer>,
    /// Only of this day, `YYYY-MM-DD` (UTC).
    pub(crate) day: Option<String>,
    /// Words that all have to be in the note, in any case; those in its names count.
    pub(crate) words: Vec<String>,
    /// At most so many, the newest; 1,000 at most.
    pub(crate) limit: usize,
}

type Room = dyn Fn() -> io::Result<u64> + Send + Sync;

/// The notes that this node keeps. Cheap to clone; all clones are the same. Everything here blocks on the disk.
#[derive(Clone)]
pub(crate) struct Notebook {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    base: PathBuf,
    name: String,
    pen: Pen,
    room: Arc<Room>,
    books: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    books: BTreeMap<Peer, Book>,
    /// Pages that are not on the disk as they should be.
    dirty: BTreeSet<(Peer, u64)>,
    /// The folders as they were last written.
    folders: BTreeMap<Peer, String>,
}

impl Notebook {
    /// Opens the notes in the folder `dir`, which this node alone uses; pages go to `memory/mesh` below `base`.
    ///
    /// # Errors
    /// [`MemoryError::Io`].
    pub(crate) fn open(dir: &Path, base: &Path, name: &str, pen: Pen, room: Arc<Room>) -> Result<Self, MemoryError> {
        let failed = |source| MemoryError::Io { doing: "open", path: dir.to_owned(), source };
        create_dir_durably(dir).map_err(failed)?;
        let mut shelf = Shelf::default();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(book::LEFT_OVER)) {
                std::fs::remove_file(&path).map_err(failed)?;
                continue;
            }
            let author = path.extension().filter(|e| *e == "notes").and_then(|_| path.file_stem()?.to_str()?.parse::<Peer>().ok());
            if let Some(author) = author.filter(|_| shelf.books.len() < AUTHORS_MAX) {
                shelf.books.insert(author, Book::open(&path).map_err(failed)?);
            }
        }
        let inner = Inner { dir: dir.to_owned(), base: base.to_owned(), name: name.to_owned(), pen, room, books: Mutex::new(shelf) };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> MemoryError + use<> {
        let path = self.inner.dir.clone();
        move |source| MemoryError::Io { doing, path, source }
    }

    /// Where the pages lie.
    pub(crate) fn pages_dir(&self) -> PathBuf {
        pages::dir_below(&self.inner.base)
    }

    /// Writes a note of this node at this time, ms since 1970. It is durable here when this returns.
    ///
    /// # Errors
    /// Any [`MemoryError`]; nothing is written then.
    pub(crate) fn write(&self, text: &str, user: &str, now: u64) -> Result<Note, MemoryError> {
        let text = text.replace("\r\n", "\n");
        let text = text.trim_matches('\n');
        if let Some(why) = note::unfit(text) {
            return Err(MemoryError::Unfit(why));
        }
        let user: String = user.chars().filter(|c| !c.is_control()).take(64).collect();
        if (self.inner.room)().map_err(self.failed("write"))? < BOOK_MAX {
            return Err(MemoryError::NoRoom);
        }
        let me = self.inner.pen.author();
        let mut shelf = self.shelf();
        let book = book_of(&mut shelf.books, &self.inner.dir, me).map_err(self.failed("write"))?;
        let Some(book) = book else { return Err(MemoryError::NoRoom) };
        if book.bytes_since(pages::span_of(now).0) + text.len() as u64 > DAY_MAX {
            return Err(MemoryError::DayFull);
        }
        // Numbers rise also when the clock does not.
        let id = now.max(book.last().saturating_add(1));
        let note = self.inner.pen.write(id, now, &self.inner.name, &user, text);
        let note = note.ok_or_else(|| MemoryError::Unfit("this node's key cannot sign".to_owned()))?;
        book.add(&note).and_then(|_| book.sync()).map_err(self.failed("write"))?;
        shelf.dirty.insert((me, pages::span_of(now).0));
        Ok(note)
    }

    /// Takes what another node has sent; durable when this returns. Notes of this node come back after its disk was lost.
    ///
    /// # Errors
    /// [`MemoryError::Io`], [`MemoryError::NoRoom`]: some of them may not be here.
    pub(crate) fn take(&self, notes: &[Note]) -> Result<Taken, MemoryError> {
        let mut taken = Taken::default();
        if (self.inner.room)().map_err(self.failed("write"))? < BOOK_MAX {
            return Err(MemoryError::NoRoom);
        }
        let mut touched = BTreeSet::new();
        let mut shelf = self.shelf();
        let shelf = &mut *shelf;
        for n in notes {
            let added = match self.inner.pen.check(n) {
                Err(why) => Err(why),
                Ok(()) => match book_of(&mut shelf.books, &self.inner.dir, n.author).map_err(self.failed("open"))? {
                    None => Err(note::Wrong::Crowded),
                    Some(book) => Ok(book.add(n).map_err(self.failed("write"))?),
                },
            };
            match added {
                Ok(true) => {
                    taken.fresh += 1;
                    touched.insert(n.author);
                    shelf.dirty.insert((n.author, pages::span_of(n.at).0));
                }
                Ok(false) => {}
                Err(why) => *taken.refused.entry(why.word()).or_default() += 1,
            }
        }
        for author in touched {
            if let Some(book) = shelf.books.get(&author) {
                book.sync().map_err(self.failed("write"))?;
            }
        }
        Ok(taken)
    }

    /// What this node says of its notes, by author.
    pub(crate) fn heads(&self) -> Vec<Head> {
        self.shelf().books.iter().filter_map(|(author, b)| head_of(*author, b)).collect()
    }

    /// The same of one author; none when there is no note of it.
    pub(crate) fn head(&self, author: Peer) -> Option<Head> {
        self.shelf().books.get(&author).and_then(|b| head_of(author, b))
    }

    /// How many notes of all authors are kept, and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.shelf().books.values().map(Book::size).fold((0, 0), |(n, b), (notes, bytes)| (n + notes, b + bytes))
    }

    /// What stands in all notes, in short: nodes with the same notes say the same. Never 0.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for h in self.heads() {
            hasher.update(&h.author.0);
            hasher.update(&h.digest.to_be_bytes());
        }
        book::short(&hasher.finalize()).max(1)
    }

    /// Notes of one author after this number, oldest first, at most a mebibyte of them.
    ///
    /// # Errors
    /// [`MemoryError::Io`].
    pub(crate) fn since(&self, author: Peer, after: u64) -> Result<Vec<Note>, MemoryError> {
        let mut shelf = self.shelf();
        match shelf.books.get_mut(&author) {
            Some(book) => book.since(after, ANSWER_MAX).map_err(self.failed("read")),
            None => Ok(Vec::new()),
        }
    }

    /// All authors.
    ///
    /// # Errors
    /// [`MemoryError::Io`].
    pub(crate) fn books(&self) -> Result<Vec<BookInfo>, MemoryError> {
        let mut shelf = self.shelf();
        let names = self.names(&mut shelf)?;
        let dir = self.pages_dir();
        let info = |(node, folder): (Peer, String)| {
            let book = shelf.books.get(&node)?;
            let (notes, bytes) = book.size();
            let node_name = names.get(&node).cloned().unwrap_or_default();
            Some(BookInfo { node, node_name, notes, bytes, last_at: book.times().max().unwrap_or(0), folder: dir.join(folder) })
        };
        Ok(pages::folders(&names).into_iter().filter_map(info).collect())
    }

    fn names(&self, shelf: &mut Shelf) -> Result<BTreeMap<Peer, String>, MemoryError> {
        let mut names = BTreeMap::new();
        for (author, book) in &mut shelf.books {
            if let Some(newest) = book.newest().map_err(self.failed("read"))? {
                names.insert(*author, newest.node);
            }
        }
        Ok(names)
    }

    /// The notes that are asked for, newest first.
    ///
    /// # Errors
    /// [`MemoryError::Io`].
    pub(crate) fn find(&self, wanted: &Wanted) -> Result<Vec<Note>, MemoryError> {
        let words: Vec<String> = wanted.words.iter().map(|w| w.to_lowercase()).collect();
        let limit = wanted.limit.min(FOUND_MAX);
        let mut found = Vec::new();
        let authors: Vec<Peer> = self.shelf().books.keys().copied().filter(|a| wanted.author.is_none_or(|w| w == *a)).collect();
        for author in authors {
            // One author at a time: whoever writes meanwhile waits for 4 MiB at most.
            let mut shelf = self.shelf();
            let Some(book) = shelf.books.get_mut(&author) else { continue };
            let notes = book.between(0, u64::MAX).map_err(self.failed("read"))?;
            drop(shelf);
            let fits = |n: &Note| {
                let on_day = wanted.day.as_deref().is_none_or(|d| pages::day_of(n.at) == d);
                on_day && (words.is_empty() || holds_all(n, &words))
            };
            found.extend(notes.into_iter().rev().filter(fits).take(limit));
            found.sort_by_key(|n| std::cmp::Reverse((n.at, n.id)));
            found.truncate(limit);
        }
        Ok(found)
    }

    /// Brings the pages up to date: those of notes that came since the last time, or all of them.
    ///
    /// # Errors
    /// [`MemoryError::Io`] of the notes themselves; what cannot be written is in [`Written::left`].
    pub(crate) fn render(&self, all: bool) -> Result<Written, MemoryError> {
        let mut shelf = self.shelf();
        let folders = pages::folders(&self.names(&mut shelf)?);
        let moved = folders != shelf.folders;
        let mut wanted: BTreeSet<(Peer, u64)> = std::mem::take(&mut shelf.dirty);
        // The pages of notes that have gone are found among all pages.
        let mut dropped = false;
        for book in shelf.books.values_mut() {
            dropped |= book.has_dropped();
        }
        let whole = all || moved || dropped;
        if whole {
            wanted = shelf.books.iter().flat_map(|(author, b)| b.times().map(|t| (*author, pages::span_of(t).0))).collect();
        }
        let mut texts = BTreeMap::new();
        for (author, day) in wanted {
            let (Some(folder), Some(book)) = (folders.get(&author), shelf.books.get_mut(&author)) else { continue };
            let (from, to) = pages::span_of(day);
            let notes = book.between(from, to).map_err(self.failed("read"))?;
            texts.insert(Path::new(folder).join(format!("{}.md", pages::day_of(day))), pages::page(author, &notes));
        }
        // Under the lock: two at once could put an older page over a newer one.
        let done = if whole { pages::publish(&self.inner.base, &texts) } else { pages::write_all(&self.inner.base, &texts) };
        shelf.folders = folders;
        Ok(done)
    }
}

fn head_of(author: Peer, book: &Book) -> Option<Head> {
    (book.size().0 > 0).then(|| Head { author, last: book.last(), digest: book.digest() })
}

fn holds_all(note: &Note, words: &[String]) -> bool {
    let all = format!("{}\n{}\n{}", note.text, note.node, note.user).to_lowercase();
    words.iter().all(|w| all.contains(w))
}

/// The book of an author, begun when there is none; none when there are too many authors.
fn book_of<'a>(books: &'a mut BTreeMap<Peer, Book>, dir: &Path, author: Peer) -> io::Result<Option<&'a mut Book>> {
    use std::collections::btree_map::Entry;
    let full = books.len() >= AUTHORS_MAX;
    match books.entry(author) {
        Entry::Occupied(o) => Ok(Some(o.into_mut())),
        Entry::Vacant(_) if full => Ok(None),
        Entry::Vacant(v) => {
            let book = Book::open(&dir.join(format!("{author}.notes")))?;
            sync_dir(dir)?;
            Ok(Some(v.insert(book)))
        }
    }
}
