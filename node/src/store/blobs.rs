//! Payloads as files, named by the BLAKE3 of their content.
//!
//! A blob appears under its name only when it is whole and durable: it is written to a temporary
//! file, synced, renamed, and the directory is synced. So `has` is a promise that holds after a
//! power cut (rule W4), and what a crash leaves behind is under `tmp/` only and removed at the
//! next start. Paths are made from hashes and from nothing else.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinError;

use super::fsx;

/// Longest blob in bytes: 1 GiB.
pub(crate) const BLOB_LEN_MAX: u64 = 1 << 30;

/// Blob operations of async callers that run at a time; the others wait their turn.
const ASYNC_OPS_MAX: usize = 8;
/// Bytes read from a stream at a time.
const CHUNK_LEN: usize = 64 << 10;
/// Chunks between the reader of a stream and the writer of its file.
const CHUNKS_MAX: usize = 4;
const TMP: &str = "tmp";

/// The name of a blob: the BLAKE3 of its content. Prints as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlobHash(pub(crate) [u8; 32]);

impl BlobHash {
    /// The name that `bytes` would have.
    pub(crate) fn of(bytes: &[u8]) -> BlobHash {
        BlobHash(blake3::hash(bytes).into())
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobHash({self})")
    }
}

/// Why a blob could not be stored or read. A refused blob leaves nothing behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// There is no such blob here.
    #[error("blob {0} is not on this node")]
    Missing(BlobHash),
    /// The content does not have the hash it came under.
    #[error("the sender called it blob {expected}, but its content is blob {found}: refused")]
    Lies {
        /// The name it came under.
        expected: BlobHash,
        /// The name of its content.
        found: BlobHash,
    },
    /// The file rotted on the disk; it has been removed so that it can be fetched again.
    #[error("blob {0} was damaged on the disk and has been removed; it is fetched again when a peer has it")]
    Damaged(BlobHash),
    /// Longer than the caller wants to take.
    #[error("the blob is longer than {max} bytes")]
    TooLong {
        /// The cap in bytes.
        max: u64,
    },
    /// The operating system refused, or a stream broke off. When a `put` on whole bytes says
    /// this, the disk is full or failing: treat it as the store's failure (rule D4).
    #[error("cannot {doing} a blob: {source}")]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// One entry of [`Blobs::list`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobInfo {
    /// Its name.
    pub(crate) hash: BlobHash,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// When it was written, for retention by age.
    pub(crate) written: SystemTime,
}

/// The blob directory. Cloning is cheap and shares it. The plain functions block; the `_async`
/// ones run them on tokio's blocking threads, at most eight at a time.
#[derive(Clone)]
pub(crate) struct Blobs {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    next_tmp: AtomicU64,
    async_ops: Arc<Semaphore>,
}

impl Blobs {
    /// Opens or creates the directory and removes what a crash left half-written.
    pub(super) fn open(dir: &Path) -> io::Result<Blobs> {
        let tmp = dir.join(TMP);
        fsx::remove_tree(&tmp)?;
        fsx::create_dir_durably(&tmp)?;
        Ok(Blobs {
            inner: Arc::new(Inner {
                dir: dir.to_path_buf(),
                next_tmp: AtomicU64::new(0),
                async_ops: Arc::new(Semaphore::new(ASYNC_OPS_MAX)),
            }),
        })
    }

    /// Stores bytes durably and returns their name. Storing what is there already is cheap.
    ///
    /// # Errors
    /// [`BlobError::TooLong`] above [`BLOB_LEN_MAX`], or [`BlobError::Io`].
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<BlobHash, BlobError> {
        if bytes.len() as u64 > BLOB_LEN_MAX {
            return Err(BlobError::TooLong { max: BLOB_LEN_MAX });
        }
        let hash = BlobHash::of(bytes);
        // Reading checks it, and removes a rotten one: then it is written anew.
        if self.len(hash)?.is_some() && self.read(hash, bytes.len() as u64).is_ok() {
            // Another thread may have renamed it a moment ago and not synced the name yet.
            self.sync_name(hash).map_err(io_error("sync"))?;
            return Ok(hash);
        }
        let mut draft = self.draft()?;
        draft.write(bytes)?;
        self.publish(draft, Some(hash))
    }

    /// Stores bytes that came from elsewhere under a name.
    ///
    /// # Errors
    /// [`BlobError::Lies`] when the name is not theirs, otherwise as [`Blobs::put`].
    #[cfg(test)]
    pub(crate) fn put_as(&self, expected: BlobHash, bytes: &[u8]) -> Result<(), BlobError> {
        let found = BlobHash::of(bytes);
        if found != expected {
            return Err(BlobError::Lies { expected, found });
        }
        self.put(bytes).map(|_| ())
    }

    /// Stores a stream to its end, which may be at most `max` (and [`BLOB_LEN_MAX`]) bytes away.
    /// Returns name and length. Memory stays below 400 KiB; dropping the future leaves nothing.
    ///
    /// # Errors
    /// [`BlobError::TooLong`] as soon as the cap is passed, [`BlobError::Lies`] when the content
    /// is not `expected`, [`BlobError::Io`] when the stream breaks off or the disk refuses.
    pub(crate) async fn put_stream(
        &self,
        mut stream: impl AsyncRead + Unpin,
        max: u64,
        expected: Option<BlobHash>,
    ) -> Result<(BlobHash, u64), BlobError> {
        let max = max.min(BLOB_LEN_MAX);
        let (chunks, mut written) = mpsc::channel::<Vec<u8>>(CHUNKS_MAX);
        let permit = self.permit().await?;
        let blobs = self.clone();
        // The writer publishes only on this word: a stream that just ends may have broken off.
        let (whole, is_whole) = tokio::sync::oneshot::channel::<()>();
        let writer = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut draft = blobs.draft()?;
            while let Some(chunk) = written.blocking_recv() {
                draft.write(&chunk)?;
            }
            let len = draft.len;
            if is_whole.blocking_recv().is_err() {
                return Err(io_error("receive")(io::ErrorKind::UnexpectedEof.into()));
            }
            blobs.publish(draft, expected).map(|hash| (hash, len))
        });
        let mut left = max;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_LEN);
            let mut part = (&mut stream).take(CHUNK_LEN as u64);
            let got = part.read_buf(&mut chunk).await;
            let got = got.map_err(io_error("receive"))? as u64;
            if got == 0 {
                break;
            }
            left = left.checked_sub(got).ok_or(BlobError::TooLong { max })?;
            if chunks.send(chunk).await.is_err() {
                break; // the writer failed; its error is below
            }
        }
        drop(chunks);
        let _ = whole.send(());
        flatten(writer.await)
    }

    /// [`Blobs::put`] for async callers.
    pub(crate) async fn put_async(&self, bytes: Vec<u8>) -> Result<BlobHash, BlobError> {
        self.blocking(move |blobs| blobs.put(&bytes)).await
    }

    /// [`Blobs::read`] for async callers.
    pub(crate) async fn read_async(&self, hash: BlobHash, max: u64) -> Result<Vec<u8>, BlobError> {
        self.blocking(move |blobs| blobs.read(hash, max)).await
    }

    /// Opens a blob for reading as a stream, unchecked: the receiver checks the hash. Returns
    /// the file and its length in bytes.
    ///
    /// # Errors
    /// [`BlobError::Missing`] or [`BlobError::Io`].
    pub(crate) fn open_blob(&self, hash: BlobHash) -> Result<(File, u64), BlobError> {
        let file = File::open(self.path(hash)).map_err(|e| missing_or(hash, "open", e))?;
        let len = file.metadata().map_err(io_error("open"))?.len();
        Ok((file, len))
    }

    /// Reads a blob of at most `max` bytes into memory and checks its content.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::TooLong`], [`BlobError::Damaged`] (it is removed
    /// then), [`BlobError::Io`].
    pub(crate) fn read(&self, hash: BlobHash, max: u64) -> Result<Vec<u8>, BlobError> {
        let (file, len) = self.open_blob(hash)?;
        if len > max {
            return Err(BlobError::TooLong { max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        file.take(len).read_to_end(&mut bytes).map_err(io_error("read"))?;
        if BlobHash::of(&bytes) != hash {
            self.remove(hash)?;
            return Err(BlobError::Damaged(hash));
        }
        Ok(bytes)
    }

    /// Whether the blob is here, whole and durable.
    pub(crate) fn has(&self, hash: BlobHash) -> bool {
        self.path(hash).is_file()
    }

    /// The length in bytes of a blob, `None` if it is not here.
    pub(crate) fn len(&self, hash: BlobHash) -> Result<Option<u64>, BlobError> {
        match fs::metadata(self.path(hash)) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("look at")(e)),
        }
    }

    /// Removes a blob; `false` if it was not here. After a power cut it may be back, which does
    /// no harm: what nobody refers to is collected again.
    pub(crate) fn remove(&self, hash: BlobHash) -> Result<bool, BlobError> {
        match fs::remove_file(self.path(hash)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io_error("remove")(e)),
        }
    }

    /// Goes through all blobs, in no order and without holding them in memory. Entries that
    /// vanish meanwhile and files that are no blobs are left out.
    pub(crate) fn list(&self) -> impl Iterator<Item = BlobInfo> + use<> {
        let fans = fs::read_dir(&self.inner.dir).into_iter().flatten().flatten();
        fans.filter(|fan| fan.file_name().len() == 2).flat_map(|fan| fs::read_dir(fan.path()).into_iter().flatten().flatten()).filter_map(
            |entry| {
                let parent = entry.path();
                let fan = parent.parent()?.file_name()?.to_str()?;
                let name = [fan, entry.file_name().to_str()?].concat();
                let meta = entry.metadata().ok()?;
                Some(BlobInfo {
                    hash: BlobHash(*blake3::Hash::from_hex(name).ok()?.as_bytes()),
                    len: meta.len(),
                    written: meta.modified().ok()?,
                })
            },
        )
    }

    fn path(&self, hash: BlobHash) -> PathBuf {
        let hex = blake3::Hash::from_bytes(hash.0).to_hex();
        let (fan, rest) = hex.split_at(2);
        self.inner.dir.join(fan).join(rest)
    }

    fn draft(&self) -> Result<Draft, BlobError> {
        let n = self.inner.next_tmp.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.dir.join(TMP).join(n.to_string());
        let file = File::create_new(&path).map_err(io_error("write"))?;
        Ok(Draft { path, file, hasher: blake3::Hasher::new(), len: 0 })
    }

    fn publish(&self, draft: Draft, expected: Option<BlobHash>) -> Result<BlobHash, BlobError> {
        let found = BlobHash(draft.hasher.finalize().into());
        if let Some(expected) = expected.filter(|e| *e != found) {
            return Err(BlobError::Lies { expected, found });
        }
        self.rename(&draft, found).map_err(io_error("store"))?;
        Ok(found)
    }

    fn rename(&self, draft: &Draft, hash: BlobHash) -> io::Result<()> {
        draft.file.sync_all()?;
        let path = self.path(hash);
        if let Some(fan) = path.parent()
            && !fan.exists()
        {
            fsx::create_dir_durably(fan)?;
        }
        fs::rename(&draft.path, &path)?;
        self.sync_name(hash)
    }

    fn sync_name(&self, hash: BlobHash) -> io::Result<()> {
        self.path(hash).parent().map_or(Ok(()), fsx::sync_dir)
    }

    async fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, BlobError> {
        let permit = self.inner.async_ops.clone().acquire_owned().await;
        permit.map_err(|e| io_error("queue")(io::Error::other(e)))
    }

    async fn blocking<T: Send + 'static>(&self, run: impl FnOnce(&Blobs) -> Result<T, BlobError> + Send + 'static) -> Result<T, BlobError> {
        let permit = self.permit().await?;
        let blobs = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            run(&blobs)
        });
        flatten(done.await)
    }
}

/// A blob being written. Removes its file when dropped; after the rename there is none.
struct Draft {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    len: u64,
}

impl Draft {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(io_error("write"))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already when it was published; and what cannot be removed goes at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> BlobError {
    move |source| BlobError::Io { doing, source }
}

fn missing_or(hash: BlobHash, doing: &'static str, e: io::Error) -> BlobError {
    if e.kind() == io::ErrorKind::NotFound { BlobError::Missing(hash) } else { io_error(doing)(e) }
}

fn flatten<T>(done: Result<Result<T, BlobError>, JoinError>) -> Result<T, BlobError> {
    done.unwrap_or_else(|e| Err(io_error("finish")(io::Error::other(e))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        (dir, blobs)
    }

    fn drafts(blobs: &Blobs) -> usize {
        fs::read_dir(blobs.inner.dir.join(TMP)).unwrap().count()
    }

    #[test]
    fn what_was_put_is_read_listed_and_removed() {
        let (_dir, blobs) = blobs();
        let hash = blobs.put(b"payload").unwrap();
        assert_eq!(blobs.put(b"payload").unwrap(), hash);
        assert_eq!(blobs.read(hash, 7).unwrap(), b"payload");
        assert!(matches!(blobs.read(hash, 6), Err(BlobError::TooLong { max: 6 })));
        let listed: Vec<_> = blobs.list().map(|b| (b.hash, b.len)).collect();
        assert_eq!(listed, [(hash, 7)]);
        assert!(blobs.has(hash));
        assert!(blobs.remove(hash).unwrap());
        assert!(!blobs.remove(hash).unwrap());
        assert!(matches!(blobs.read(hash, 9), Err(BlobError::Missing(h)) if h == hash));
        assert_eq!(drafts(&blobs), 0);
    }

    #[test]
    fn a_blob_that_lies_about_its_hash_is_refused() {
        let (_dir, blobs) = blobs();
        let claimed = BlobHash::of(b"good");
        let refused = blobs.put_as(claimed, b"evil");
        assert!(matches!(refused, Err(BlobError::Lies { expected, .. }) if expected == claimed));
        assert!(!blobs.has(claimed));
        assert_eq!(blobs.list().count(), 0);
    }

    #[test]
    fn a_blob_that_rotted_is_noticed_and_can_be_stored_again() {
        let (_dir, blobs) = blobs();
        let hash = blobs.put(b"payload").unwrap();
        fs::write(blobs.path(hash), b"pAyload").unwrap();
        blobs.put(b"payload").unwrap();
        assert_eq!(blobs.read(hash, 100).unwrap(), b"payload");
        fs::write(blobs.path(hash), b"pAyload").unwrap();
        assert!(matches!(blobs.read(hash, 100), Err(BlobError::Damaged(_))));
        assert!(!blobs.has(hash));
        blobs.put_as(hash, b"payload").unwrap();
        assert_eq!(blobs.read(hash, 100).unwrap(), b"payload");
    }

    #[test]
    fn half_written_blobs_of_a_crash_are_removed_at_the_next_start() {
        let (dir, blobs) = blobs();
        fs::write(blobs.inner.dir.join(TMP).join("0"), b"half").unwrap();
        let again = Blobs::open(&dir.path().join("blobs")).unwrap();
        assert_eq!(drafts(&again), 0);
        again.put(b"whole").unwrap();
    }

    #[tokio::test]
    async fn a_stream_becomes_a_blob_only_if_it_is_what_was_expected() {
        let (_dir, blobs) = blobs();
        let content = vec![5_u8; 3 * CHUNK_LEN + 17];
        let len = content.len() as u64;
        let hash = BlobHash::of(&content);

        let stored = blobs.put_stream(&content[..], len, Some(hash)).await;
        assert_eq!(stored.unwrap(), (hash, len));
        assert_eq!(blobs.read_async(hash, len).await.unwrap(), content);
        assert_eq!(blobs.put_async(content.clone()).await.unwrap(), hash);

        let lie = blobs.put_stream(&content[1..], len, Some(hash)).await.unwrap_err();
        assert!(matches!(lie, BlobError::Lies { .. }), "{lie}");
        let long = blobs.put_stream(&content[..], len - 1, None).await;
        assert!(matches!(long, Err(BlobError::TooLong { .. })));
        assert_eq!(blobs.list().count(), 1);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_leaves_nothing() {
        let (_dir, blobs) = blobs();
        let broken = tokio_util::io::StreamReader::new(futures::stream::iter([
            Ok(&b"begin"[..]),
            Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        ]));
        let refused = blobs.put_stream(broken, 100, None).await;
        assert!(matches!(refused, Err(BlobError::Io { .. })));
        // Its writer ends on its own; with every permit back in hand, all of them have.
        let all = u32::try_from(ASYNC_OPS_MAX).unwrap();
        let _permits = blobs.inner.async_ops.acquire_many(all).await.unwrap();
        assert_eq!(blobs.list().count(), 0);
        assert_eq!(drafts(&blobs), 0);
    }
}
