//! `clawmesh skills publish`, `install`, `update`, `remove`, `origin`: skills given away and taken in.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::body::Bytes;
use bytesize::ByteSize;
use clap::{Args, builder::NonEmptyStringValueParser};

use super::{Context, blobs};
use crate::{
    api::OfferView,
    client::Client,
    output::{EXIT_REFUSED, Failure, Mode, views::ago_now},
    share::{self, Installed, Offer, Origin, Packed, Place, Refused},
    skills::{Host, Root, scan},
};

/// Digits of a hash that people see.
const SHOWN: usize = 12;

/// `skills publish`.
#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The skill's folder.
    #[arg(value_name = "DIR", required_unless_present = "withdraw")]
    dir: Option<PathBuf>,
    /// Take the published skill of this name back instead.
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    withdraw: Option<String>,
}

/// `skills install`.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// The skill's name; with '@' and the beginning of its hash when several have this name.
    #[arg(value_name = "NAME[@HASH]", value_parser = NonEmptyStringValueParser::new())]
    what: String,
    /// Only what this node (name or id) has published.
    #[arg(long, value_name = "NODE")]
    from: Option<String>,
    /// Show what it is and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `skills update` and `skills remove`.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// The skill's name; without it, all that were installed.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Also what was changed by hand after it was installed: the changes are lost.
    #[arg(long)]
    force: bool,
}

/// `skills remove`.
#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The skill's name.
    #[arg(value_name = "NAME")]
    name: String,
    /// Also when it was changed by hand: the changes are lost.
    #[arg(long)]
    force: bool,
}

impl From<Refused> for Failure {
    fn from(e: Refused) -> Self {
        Failure::refused(e.0)
    }
}

fn skills_dir(cx: &Context) -> PathBuf {
    cx.home.join("skills")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| u64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

fn short(hash: &str) -> &str {
    hash.get(..SHOWN).unwrap_or(hash)
}

/// Packs a folder, puts it as a pinned blob, and tells who asks.
pub(super) async fn publish(cx: &Context, args: Publish) -> Result<(), Failure> {
    let client = cx.client()?;
    if let Some(name) = args.withdraw {
        client.withdraw(&name).await?;
        cx.output.note(&format!("'{name}' is not published by this node any more; who has installed it keeps it"));
        return Ok(());
    }
    let dir = args.dir.unwrap_or_default();
    let real = dir.canonicalize().map_err(|e| Failure::usage(format!("cannot read {}: {e}", dir.display())))?;
    let found = scan(&[Root::skills(&real)], &Host::current(Default::default()));
    if let Some(r) = found.rejected.first() {
        return Err(Failure::refused(format!("{} is not usable as a skill: {}", r.path.display(), r.problem.message)));
    }
    let Some(skill) = found.skills.iter().find(|s| s.dir.canonicalize().is_ok_and(|d| d == real)) else {
        return Err(Failure::refused(format!("{} is no skill's folder: it has no SKILL.md", dir.display())));
    };
    let files = share::read_folder(&real)?;
    let archive = share::pack(&files)?;
    let (len, hash) = (archive.len() as u64, share::content_hash(&files));
    let content = futures::stream::iter([Ok(Bytes::from(archive))]);
    let blob = client.put_blob(&format!("skill {}", skill.name), true, len, content).await?;
    let offer = Offer {
        name: skill.name.clone(),
        hash,
        blob: blob.hash,
        len,
        files: u32::try_from(files.len()).unwrap_or(u32::MAX),
        description: skill.description.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect(),
        runs: skill.run.is_some(),
        published_at: now_ms(),
    };
    client.publish(&offer).await?;
    cx.output.value(&offer, |o| match o.mode() {
        Mode::Quiet => o.line(&offer.hash),
        _ => o.line(&format!("published {}@{}: {} files, {}", offer.name, short(&offer.hash), offer.files, ByteSize(offer.len))),
    })?;
    cx.output.hint(&format!("clawmesh skills install {} (on another node)", offer.name));
    Ok(())
}

/// Name and beginning of a hash.
fn wanted(typed: &str) -> (&str, Option<&str>) {
    match typed.rsplit_once('@') {
        Some((name, hash)) if !name.is_empty() && !hash.is_empty() && hash.bytes().all(|b| b.is_ascii_hexdigit()) => (name, Some(hash)),
        _ => (typed, None),
    }
}

/// Fetches a published skill and puts it into this node's folder of skills.
pub(super) async fn install(cx: &Context, args: Install) -> Result<(), Failure> {
    let client = cx.client()?;
    let (name, hash) = wanted(&args.what);
    let offers = client.offers(Some(name), args.from.as_deref()).await?;
    let offer = choose(name, hash, offers)?;
    if let Place::Foreign = share::state_of(&skills_dir(cx), name)? {
        let dir = skills_dir(cx).join(name);
        let what = format!("{} is there and was not installed from the mesh: it is yours, and stays; move it away first", dir.display());
        return Err(Failure::refused(what));
    }
    take(cx, &client, &offer, args.dry_run, false).await
}

/// The one offer that is meant: several nodes may have published one content, which is one skill.
fn choose(name: &str, hash: Option<&str>, offers: Vec<OfferView>) -> Result<OfferView, Failure> {
    let low = hash.map(str::to_ascii_lowercase);
    let (fitting, others): (Vec<_>, Vec<_>) = offers.into_iter().partition(|o| low.as_deref().is_none_or(|h| o.offer.hash.starts_with(h)));
    let mut contents: Vec<&str> = fitting.iter().map(|o| o.offer.hash.as_str()).collect();
    contents.sort_unstable();
    contents.dedup();
    let line = |o: &OfferView| {
        let runs = if o.offer.runs { ", runs a command" } else { "" };
        format!("{}@{} from {}: {} files, {}{runs}", o.offer.name, short(&o.offer.hash), o.node_name, o.offer.files, ByteSize(o.offer.len))
    };
    match contents.len() {
        1 => fitting.into_iter().next().ok_or_else(|| Failure::refused("BUG: no offer among one")),
        0 => {
            let has = if others.is_empty() { String::new() } else { "; other contents of this name are published".to_owned() };
            let mut f = Failure::new(EXIT_REFUSED, "not_found", format!("no node in reach has published a skill '{name}'{has}"))
                .next("clawmesh skills publish DIR (on a node that has it)");
            f.candidates = others.iter().map(|o| format!("{}@{}", o.offer.name, short(&o.offer.hash))).take(10).collect();
            Err(f)
        }
        n => {
            let all: Vec<String> = fitting.iter().map(line).collect();
            let what = format!("{n} different skills are called '{name}'; say which one:\n  {}", all.join("\n  "));
            let first = contents.first().copied().unwrap_or_default();
            let mut f = Failure::new(EXIT_REFUSED, "ambiguous", what).next(format!("clawmesh skills install {name}@{}", short(first)));
            f.candidates = contents.iter().map(|h| format!("{name}@{}", short(h))).take(10).collect();
            Err(f)
        }
    }
}

/// Fetches, judges, shows, writes.
async fn take(cx: &Context, client: &Client, from: &OfferView, dry_run: bool, force: bool) -> Result<(), Failure> {
    let offer = &from.offer;
    let blob = blobs::bring(cx, client, &offer.blob.to_string()).await?;
    if blob.len > share::ARCHIVE_MAX {
        return Err(Failure::refused(format!("the archive of '{}' has {} bytes, more than any skill may have", offer.name, blob.len)));
    }
    let files = share::unpack(&blobs::content(cx, client, &blob).await?)?;
    if share::content_hash(&files) != offer.hash {
        return Err(Failure::refused(format!(
            "what {} published as {}@{} has another content: it is not installed",
            from.node_name,
            offer.name,
            short(&offer.hash)
        )));
    }
    let runs = judge(&offer.name, &files)?;
    let origin = Origin {
        name: offer.name.clone(),
        hash: offer.hash.clone(),
        blob: offer.blob,
        publisher: from.node,
        publisher_name: from.node_name.clone(),
        installed_at: now_ms(),
    };
    cx.output.note(&format!("{}@{}, published by {} ({})", offer.name, short(&offer.hash), from.node_name, from.node));
    cx.output.note(&format!("{} files, {}: {}", files.len(), ByteSize(offer.len), listed(&files)));
    cx.output.note(
        match &runs {
            Some(argv) => format!("it runs a command on this machine when the mesh gives it a task: {argv}"),
            None => "it runs no command by itself: an agent reads it".to_owned(),
        }
        .as_str(),
    );
    if dry_run {
        return if cx.output.mode() == Mode::Json { cx.output.json(&origin) } else { Ok(()) };
    }
    let (skills, wanted) = (skills_dir(cx), origin.clone());
    let placed = tokio::task::spawn_blocking(move || share::place(&skills, &files, &wanted, force)).await;
    let dir = placed.map_err(|e| Failure::refused(e.to_string()))??;
    let done = Installed { origin, dir, changed: false };
    cx.output.value(&done, |o| match o.mode() {
        Mode::Quiet => o.line(&done.origin.hash),
        _ => o.line(&format!("installed into {}", done.dir.display())),
    })
}

fn listed(files: &Packed) -> String {
    let names: Vec<&str> = files.keys().map(String::as_str).take(12).collect();
    let more = files.len().saturating_sub(names.len());
    if more == 0 { names.join(", ") } else { format!("{}, and {more} more", names.join(", ")) }
}

/// Reads the skill as the node will: it must be one, of the name it was published under. Returns the command that it runs.
fn judge(name: &str, files: &Packed) -> Result<Option<String>, Failure> {
    let failed = |e: std::io::Error| Failure::refused(format!("cannot look at the skill: {e}"));
    let tmp = tempfile::tempdir().map_err(failed)?;
    // The folder's name stands in for a missing one.
    let dir = tmp.path().join(name);
    let Some(text) = files.get("SKILL.md") else {
        return Err(Failure::refused(format!("'{name}' has no SKILL.md: it is no skill")));
    };
    std::fs::create_dir(&dir).and_then(|()| std::fs::write(dir.join("SKILL.md"), text)).map_err(failed)?;
    let found = scan(&[Root::skills(&dir)], &Host::current(Default::default()));
    if let Some(r) = found.rejected.first() {
        return Err(Failure::refused(format!("'{name}' is not usable as a skill: {}", r.problem.message)));
    }
    match found.skills.first() {
        Some(s) if s.name == name => {
            if !s.eligible {
                tracing::debug!(skill = name, "not usable on this machine yet");
            }
            Ok(s.run.as_ref().map(|r| r.argv.join(" ")))
        }
        Some(s) => Err(Failure::refused(format!("what was published as '{name}' calls itself '{}': it is not installed", s.name))),
        None => Err(Failure::refused(format!("'{name}' is no skill"))),
    }
}

/// Looks for a newer version of what was installed, from the node it came from.
pub(super) async fn update(cx: &Context, args: Change) -> Result<(), Failure> {
    let client = cx.client()?;
    let all = share::installed(&skills_dir(cx));
    let mine: Vec<Installed> = match &args.name {
        None => all,
        Some(name) => vec![find(cx, all, name)?],
    };
    let mut newer = Vec::new();
    for i in mine {
        let publisher = i.origin.publisher.to_string();
        let offers = client.offers(Some(&i.origin.name), Some(&publisher)).await?;
        match offers.into_iter().next() {
            None => {
                cx.output.note(&format!("{}: {} is not in reach, or does not publish it any more", i.origin.name, i.origin.publisher_name))
            }
            Some(o) if o.offer.hash == i.origin.hash => cx.output.note(&format!("{}: it is the latest", i.origin.name)),
            Some(o) => {
                take(cx, &client, &o, false, args.force).await?;
                newer.push(o.offer.name);
            }
        }
    }
    if cx.output.mode() == Mode::Json && newer.is_empty() { cx.output.json(&newer) } else { Ok(()) }
}

fn find(cx: &Context, all: Vec<Installed>, name: &str) -> Result<Installed, Failure> {
    all.into_iter().find(|i| i.origin.name == name).ok_or_else(|| {
        let dir = skills_dir(cx);
        Failure::new(EXIT_REFUSED, "not_found", format!("no skill '{name}' in {} was installed from the mesh", dir.display()))
            .next("clawmesh skills origin")
    })
}

/// Removes an installed skill.
pub(super) fn remove(cx: &Context, args: &Remove) -> Result<(), Failure> {
    let gone = share::remove(&skills_dir(cx), &args.name, args.force)?;
    cx.output.value(&gone, |o| o.line(&format!("{} is removed", Path::new(&gone.dir).display())))
}

/// Says where installed skills came from.
pub(super) fn origin(cx: &Context, name: Option<&str>) -> Result<(), Failure> {
    let all = share::installed(&skills_dir(cx));
    let all = match name {
        None => all,
        Some(name) => vec![find(cx, all, name)?],
    };
    if cx.output.mode() == Mode::Json {
        return cx.output.json(&all);
    }
    let rows = all.iter().map(|i| {
        let o = &i.origin;
        let state = if i.changed { "changed by hand" } else { "as installed" };
        [&o.name, short(&o.hash), &o.publisher_name, &o.publisher.to_string(), &ago_now(o.installed_at), state]
            .map(|t| t.to_owned().into())
            .into()
    });
    cx.output.table(&["NAME", "HASH", "FROM", "NODE", "INSTALLED", "STATE"], rows.collect())
}
