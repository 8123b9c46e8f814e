//! `clawmesh blobs`: any file, shared by the hash of its content.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use bytesize::ByteSize;
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use clawmesh_protocol::{face::NewTask, files::FileRef};
use futures::{Stream, StreamExt, TryStreamExt, pin_mut};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::io::ReaderStream;

use super::Context;
use crate::{
    api::{BlobView, FetchLine},
    client::Client,
    output::{EXIT_REFUSED, Failure, Mode, views::ago_now},
};

/// Digits of a hash that people see; enough to be unique.
const SHOWN: usize = 16;
/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;
/// Blobs asked for in the index by one `ls --mesh`.
const MESH_MAX: usize = 50;

/// The group; without a word it lists.
#[derive(Debug, Subcommand)]
pub(super) enum Blobs {
    /// Put a file into this node's blobs and print its hash; it is kept until it is removed or unpinned.
    Put {
        /// The file; '-' reads stdin.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What to call it in lists [default: the file's name].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Only into the cache: it goes when it was not used for a week, or when the cache is full.
        #[arg(long)]
        no_pin: bool,
    },
    /// Get a blob from this node, or from whoever in the mesh has it; a broken transfer goes on where it was.
    Get {
        /// The hash; of a blob on this node the unique beginning is enough.
        #[arg(value_name = "HASH", value_parser = NonEmptyStringValueParser::new())]
        hash: String,
        /// Where the content goes; '-' is stdout. Without it: to stdout when that is no terminal.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Keep it on this node.
        #[arg(long)]
        pin: bool,
    },
    /// List the blobs of this node.
    Ls {
        /// Only this one.
        #[arg(value_name = "HASH", value_parser = NonEmptyStringValueParser::new())]
        hash: Option<String>,
        /// Ask the distributed index who holds them: a hint that may be up to 90 s old.
        #[arg(long)]
        mesh: bool,
    },
    /// Remove blobs from this node.
    Rm {
        /// Hashes, or the beginnings of them.
        #[arg(required = true, value_name = "HASH", value_parser = NonEmptyStringValueParser::new())]
        hashes: Vec<String>,
    },
    /// Keep a blob on this node until it is removed or unpinned; one that is elsewhere is fetched.
    Pin {
        /// The hash.
        #[arg(value_name = "HASH", value_parser = NonEmptyStringValueParser::new())]
        hash: String,
    },
    /// Let a blob go when it was not used for a week, or when the cache is full.
    Unpin {
        /// The hash, or the beginning of it.
        #[arg(value_name = "HASH", value_parser = NonEmptyStringValueParser::new())]
        hash: String,
    },
}

/// The group.
pub(super) async fn blobs(cx: &Context, what: Option<Blobs>) -> Result<(), Failure> {
    let client = cx.client()?;
    match what.unwrap_or(Blobs::Ls { hash: None, mesh: false }) {
        Blobs::Put { file, name, no_pin } => {
            let blob = put(cx, &client, &file, name, !no_pin).await?;
            cx.output.value(&blob, |o| o.line(&blob.hash.to_string()))?;
            cx.output.hint(&format!("clawmesh blobs get {} -o FILE (on any node)", blob.hash));
            Ok(())
        }
        Blobs::Get { hash, output, pin } => get(cx, &client, &hash, output.as_deref(), pin).await,
        Blobs::Ls { hash, mesh } => list(cx, &client, hash.as_deref(), mesh).await,
        Blobs::Rm { hashes } => {
            for hash in hashes {
                client.remove_blob(&hash).await?;
                cx.output.note(&format!("{hash} is removed from this node"));
            }
            Ok(())
        }
        Blobs::Pin { hash } => {
            let blob = bring(cx, &client, &hash).await?;
            let blob = client.pin_blob(&blob.hash.to_string(), true).await?;
            cx.output.value(&blob, |o| o.line(&blob.hash.to_string()))
        }
        Blobs::Unpin { hash } => {
            let blob = client.pin_blob(&hash, false).await?;
            cx.output.value(&blob, |o| o.line(&blob.hash.to_string()))?;
            cx.output.note("it goes when it was not used for a week, or when the cache is full ('clawmesh up --blob-cache')");
            Ok(())
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(cx: &Context, len: Option<u64>, what: &str) -> ProgressBar {
    if cx.output.mode() != Mode::Human || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(len, ProgressDrawTarget::hidden());
    }
    // Constants of this file; a wrong one would show the default.
    let style = |t: &str| ProgressStyle::with_template(t).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = match len {
        Some(len) => {
            ProgressBar::new(len).with_style(style("{prefix} {wide_bar:.cyan/dim} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}"))
        }
        None => ProgressBar::new_spinner().with_style(style("{spinner} {prefix} {bytes} {binary_bytes_per_sec}")),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_prefix(what.to_owned())
}

/// Puts a file.
pub(super) async fn put(cx: &Context, client: &Client, file: &Path, name: Option<String>, pin: bool) -> Result<BlobView, Failure> {
    let unreadable = |e: io::Error| Failure::usage(format!("cannot read {}: {e}", file.display()));
    if file == Path::new("-") {
        let bar = bar(cx, None, "stdin");
        let blob = send(client, &name.unwrap_or_default(), pin, ReaderStream::with_capacity(tokio::io::stdin(), PIECE), &bar).await;
        bar.finish_and_clear();
        return blob;
    }
    let meta = std::fs::metadata(file).map_err(unreadable)?;
    if meta.is_dir() {
        return Err(Failure::usage(format!("{} is a directory: a blob is one file; pack it first, as with 'tar'", file.display())));
    }
    let base = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let bar = bar(cx, meta.is_file().then_some(meta.len()), &base);
    let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
    let blob = send(client, &name.unwrap_or(base), pin, ReaderStream::with_capacity(opened, PIECE), &bar).await;
    bar.finish_and_clear();
    blob
}

async fn send(
    client: &Client,
    name: &str,
    pin: bool,
    content: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
    bar: &ProgressBar,
) -> Result<BlobView, Failure> {
    let len = bar.length().unwrap_or(0);
    let shown = bar.clone();
    let counted = content.inspect_ok(move |piece| shown.inc(piece.len() as u64));
    Ok(client.put_blob(name, pin, len, counted).await?)
}

/// Sees to it that a blob is on this node.
pub(super) async fn bring(cx: &Context, client: &Client, hash: &str) -> Result<BlobView, Failure> {
    let lines = client.fetch_blob(hash).await?;
    pin_mut!(lines);
    let mut shown: Option<ProgressBar> = None;
    while let Some(line) = lines.next().await {
        match line? {
            FetchLine::Looking => {}
            FetchLine::Running(done, len) => {
                let bar = shown.get_or_insert_with(|| bar(cx, Some(len), hash.get(..SHOWN).unwrap_or(hash)));
                bar.set_position(done);
            }
            FetchLine::Done(blob) => {
                shown.iter().for_each(ProgressBar::finish_and_clear);
                return Ok(blob);
            }
            FetchLine::Failed(why) => {
                shown.iter().for_each(ProgressBar::finish_and_clear);
                return Err(Failure::new(EXIT_REFUSED, "not_found", why).next(format!("clawmesh blobs ls {hash} --mesh")));
            }
        }
    }
    Err(Failure::refused("the node ended the transfer without a word: perhaps it is stopping").next("clawmesh status"))
}

async fn get(cx: &Context, client: &Client, hash: &str, to: Option<&Path>, pin: bool) -> Result<(), Failure> {
    let stdout = to.is_none() || to == Some(Path::new("-"));
    if to.is_none() && cx.output.mode() == Mode::Human && io::stdout().is_terminal() {
        return Err(Failure::usage("the content would go to the terminal: give -o FILE, or '-o -' to see it here")
            .next(format!("clawmesh blobs get {hash} -o FILE")));
    }
    let mut blob = bring(cx, client, hash).await?;
    if pin {
        blob = client.pin_blob(&blob.hash.to_string(), true).await?;
    }
    match to {
        // With --json, stdout is for the JSON.
        None if cx.output.mode() == Mode::Json => return cx.output.json(&blob),
        Some(_) if stdout && cx.output.mode() == Mode::Json => {
            return Err(Failure::usage("--json and '-o -' both want stdout: give -o FILE"));
        }
        _ => {}
    }
    if stdout {
        let out = &mut io::stdout().lock();
        copy(cx, client, &blob, out).await?;
        out.flush()?;
        return Ok(());
    }
    let to = to.unwrap_or(Path::new("-"));
    save(cx, client, &blob, to).await?;
    cx.output.value(&blob, |o| if o.mode() == Mode::Quiet { o.line(&blob.hash.to_string()) } else { Ok(()) })?;
    cx.output.note(&format!("{} written, {}", to.display(), ByteSize(blob.len)));
    Ok(())
}

/// Writes a blob of this node into a file, which appears only when it is whole.
async fn save(cx: &Context, client: &Client, blob: &BlobView, to: &Path) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::refused(format!("cannot write {}: {e}", to.display()));
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut tmp = tempfile::Builder::new().prefix(".clawmesh-").tempfile_in(parent).map_err(failed)?;
    copy(cx, client, blob, tmp.as_file_mut()).await?;
    tmp.as_file().sync_all().map_err(failed)?;
    let file = tmp.persist(to).map_err(|e| failed(e.error))?;
    usual_mode(&file).map_err(failed)
}

/// As if the user had written it: temporary files are made for their owner only.
#[cfg(unix)]
fn usual_mode(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// Windows: the directory's access list applies. Not tried there.
#[cfg(not(unix))]
fn usual_mode(_: &std::fs::File) -> io::Result<()> {
    Ok(())
}

async fn copy(cx: &Context, client: &Client, blob: &BlobView, to: &mut (impl Write + ?Sized)) -> Result<(), Failure> {
    let content = client.blob_content(&blob.hash.to_string()).await?;
    pin_mut!(content);
    let bar = bar(cx, Some(blob.len), "writing");
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = content.next().await {
        let piece = piece?;
        hasher.update(&piece);
        to.write_all(&piece)?;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    if *hasher.finalize().as_bytes() != blob.hash.0 {
        return Err(Failure::refused(
            "what the node gave is not the blob: it has noticed damage on its disk; try again, the mesh may have it whole",
        )
        .next(format!("clawmesh blobs get {} -o FILE", blob.hash)));
    }
    Ok(())
}

/// The content of a small blob of this node.
pub(super) async fn content(cx: &Context, client: &Client, blob: &BlobView) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    copy(cx, client, blob, &mut bytes).await?;
    Ok(bytes)
}

async fn list(cx: &Context, client: &Client, hash: Option<&str>, mesh: bool) -> Result<(), Failure> {
    if let Some(hash) = hash.filter(|_| mesh) {
        return holders(cx, client, hash).await;
    }
    let mut all = match hash {
        Some(hash) => vec![client.blob(hash).await?],
        None => client.blobs().await?,
    };
    all.sort_by_key(|b| std::cmp::Reverse(b.put_at));
    let mut held = Vec::new();
    if mesh {
        for b in all.iter().take(MESH_MAX) {
            held.push(client.blob_holders(&b.hash.to_string()).await?.len());
        }
    }
    if cx.output.mode() == Mode::Json {
        return cx.output.json(&all);
    }
    let mut head = vec!["HASH", "SIZE", "PINNED", "NAME", "PUT"];
    if mesh {
        head.push("HOLDERS");
    }
    let quiet = cx.output.mode() == Mode::Quiet;
    let rows = all.iter().enumerate().map(|(i, b)| {
        let hash = b.hash.to_string();
        let shown = if quiet { hash } else { hash.get(..SHOWN).unwrap_or_default().to_owned() };
        let pinned = if b.pinned { "yes" } else { "" };
        let mut row = vec![shown, ByteSize(b.len).to_string(), pinned.to_owned(), b.name.clone(), ago_now(b.put_at)];
        if mesh {
            row.push(held.get(i).map(ToString::to_string).unwrap_or_default());
        }
        row.into_iter().map(Into::into).collect()
    });
    cx.output.table(&head, rows.collect())?;
    if all.is_empty() {
        cx.output.hint("clawmesh blobs put FILE");
    }
    Ok(())
}

async fn holders(cx: &Context, client: &Client, hash: &str) -> Result<(), Failure> {
    let found = client.blob_holders(hash).await?;
    if cx.output.mode() == Mode::Json {
        return cx.output.json(&found);
    }
    if found.is_empty() {
        return Err(
            Failure::new(EXIT_REFUSED, "not_found", format!("the index names nobody for the blob {hash}")).next("clawmesh blobs ls")
        );
    }
    cx.list_holders(client, &found).await
}

// ---- files of tasks ----

/// `--in NAME=HASH|FILE` as typed.
pub(super) fn input(typed: &str) -> Result<(String, String), String> {
    match typed.split_once('=') {
        Some((name, what)) if !what.is_empty() => {
            clawmesh_protocol::files::check_path(name).map_err(|why| format!("the name '{name}' {why}"))?;
            Ok((name.to_owned(), what.to_owned()))
        }
        _ => Err("write it as NAME=FILE or NAME=HASH".into()),
    }
}

/// Names the task's input files by their blobs; local files are put into this node's cache first.
pub(super) async fn inputs(cx: &Context, client: &Client, ins: &[(String, String)], task: &mut NewTask) -> Result<(), Failure> {
    for (name, what) in ins {
        let path = Path::new(what);
        let blob = if path.exists() {
            put(cx, client, path, None, false).await?.hash
        } else if let Ok(hash) = serde_json::from_value(serde_json::Value::String(what.to_ascii_lowercase())) {
            hash
        } else {
            let neither = |f: Failure| Failure {
                what: format!("'{what}' is no file here, and as the beginning of a hash: {}", f.what),
                next: Some("clawmesh blobs ls".into()),
                ..f
            };
            client.blob(what).await.map_err(|e| neither(e.into()))?.hash
        };
        task.files.push(FileRef::new(name.clone(), blob, 0));
    }
    Ok(())
}

/// The output files of a task as lines for people.
pub(super) fn lines(files: &[FileRef]) -> Vec<String> {
    let hash = |f: &FileRef| f.blob.to_string().get(..SHOWN).unwrap_or_default().to_owned();
    files.iter().map(|f| format!("{}  {}  {}", hash(f), ByteSize(f.len), f.name)).collect()
}

/// Writes the output files of a task below a directory. What is there already is not written over.
pub(super) async fn save_all(cx: &Context, client: &Client, files: &[FileRef], dir: &Path) -> Result<(), Failure> {
    // The names come from the worker.
    clawmesh_protocol::files::check_paths(files.iter().map(|f| f.name.as_str()))
        .map_err(|why| Failure::refused(format!("the task's files are not written: {why}")))?;
    let places: Vec<PathBuf> = files.iter().map(|f| f.name.split('/').fold(dir.to_owned(), |at, part| at.join(part))).collect();
    if let Some(there) = places.iter().find(|p| p.symlink_metadata().is_ok()) {
        return Err(Failure::refused(format!("{} is there already: choose another directory", there.display())));
    }
    for (file, to) in files.iter().zip(&places) {
        let failed = |e: io::Error| Failure::refused(format!("cannot write {}: {e}", to.display()));
        to.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        let blob = bring(cx, client, &file.blob.to_string()).await?;
        save(cx, client, &blob, to).await?;
        cx.output.note(&format!("{} written, {}", to.display(), ByteSize(blob.len)));
    }
    Ok(())
}
