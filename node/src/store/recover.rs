//! From whatever is on the disk to a store that can be trusted (rule D3).
//!
//! Every step here may be cut off by a crash and simply starts over: directories are only ever
//! swapped by renames, in an order in which the names alone tell how far it got.
//!
//! - `sled` is there: it is the database; a `sled.new` or `sled.old` beside it is a leftover.
//! - `sled` is missing and `sled.new` is there: the copy was complete, its rename is finished.
//! - `sled` and `sled.new` are missing and `sled.old` is there: it goes back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::engine::{DATA_FILE, Engine, OpenFailure, Scanned, is_locked};
use super::format::{Content, FORMAT_VERSION, KEY_SIDE, KEY_STORE, Mark};
use super::side::{self, SideFile, SideRead, SideState};
use super::space::SpaceGuard;
use super::{Faults, KEY_HW, OpenReport, Options, StoreError, fsx};

/// Damaged databases that are kept for a later look; the oldest beyond that are removed.
const DAMAGED_KEPT_MAX: usize = 3;
/// A database may be this many times its live bytes before it is rewritten.
const GROWTH_MAX: u64 = 20;
/// Free bytes above the reserve that a start wants: less would fail at the first commits.
const START_ROOM: u64 = 2 << 20;
/// Records per batch while copying.
const COPY_BATCH: usize = 1000;
/// sled frees its file lock a moment after it was dropped.
const UNLOCK_WAIT_MAX: Duration = Duration::from_secs(2);

/// A store ready to run.
pub(super) struct Recovered {
    pub(super) engine: Engine,
    pub(super) side: SideFile,
    /// Commits that the database holds.
    pub(super) commits: u64,
    pub(super) entries: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) report: OpenReport,
}

type HwCheck<'a> = &'a dyn Fn(&[u8], Option<&[u8]>) -> bool;

/// Opens what is in `dir`, or makes it.
pub(super) fn recover(dir: &Path, options: &Options, space: &SpaceGuard, hw_check: HwCheck<'_>) -> Result<Recovered, StoreError> {
    let place = Place::new(dir, options, space);
    let mut report = OpenReport::default();
    place.finish_swap(&mut report).map_err(place.io("tidy up", dir))?;

    place.need_room(START_ROOM)?;
    let side = side::read(&place.side).map_err(place.io("read", &place.side))?;
    let known = FORMAT_VERSION;
    if let SideRead::TooNew(found) = side {
        return Err(StoreError::TooNew { found, known });
    }
    let had_database = place.sled.exists();
    let mut found = place.read_database(&mut report)?;
    let (mut state, damage) = judge(&side, &mut found, had_database, hw_check, &mut report);

    let fresh = !matches!(side, SideRead::Good { .. }) && damage.is_none();
    if fresh || damage.is_some() {
        state.store_id = rand::random();
    }
    if !matches!(side, SideRead::Good { .. }) {
        state.boot = state.boot.max(options.boot_floor);
    }
    if let Some(why) = damage {
        quarantine(&place, &mut found, &mut state, &why, &mut report)?;
    } else if fresh {
        found.mark_new(&place, state.store_id)?;
    } else {
        rewrite_if_outgrown(&place, &mut found, &state, options, &mut report)?;
    }

    let failed = place.io("write", &place.side);
    let mut side = SideFile::open(&place.side, state, options.faults.clone()).map_err(&failed)?;
    side.change(|s| s.boot = s.boot.saturating_add(1)).map_err(&failed)?;
    let engine = match found.engine.take() {
        Some(engine) => engine,
        None => {
            let mut engine = place.open_engine(&place.sled)?;
            engine.know(found.content);
            engine
        }
    };
    for note in &report.notes {
        tracing::warn!("{note}");
    }
    Ok(Recovered { engine, side, commits: found.mark.unwrap_or_default().commits, entries: found.entries, report })
}

/// The names in the store directory.
struct Place<'a> {
    dir: &'a Path,
    sled: PathBuf,
    new: PathBuf,
    old: PathBuf,
    side: PathBuf,
    cache: u64,
    faults: Faults,
    space: &'a SpaceGuard,
}

fn live_bytes(entries: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let live: usize = entries.iter().map(|(k, v)| k.len() + v.len()).sum();
    live as u64
}

/// A new database takes up to 3.4 times its content and at least 2 MB (measured).
fn copy_bytes(live: u64) -> u64 {
    live.saturating_mul(4).saturating_add(4 << 20)
}

/// What could be read of a database.
struct Found {
    engine: Option<Engine>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    mark: Option<Mark>,
    /// What was counted of it, or what a copy holds that has replaced it.
    content: Content,
    /// The side bytes that went with the last batch, and their counter.
    side: Option<(u64, Vec<u8>)>,
    damage: Option<String>,
}

/// Compares everything and says what state to go on with, and what is damaged if anything is.
fn judge(
    side: &SideRead,
    found: &mut Found,
    had_database: bool,
    hw_check: HwCheck<'_>,
    report: &mut OpenReport,
) -> (SideState, Option<String>) {
    let mut damage = found.damage.take();
    let mut state = match side {
        SideRead::Good { state, healed } => {
            if *healed {
                report.notes.push("one of the two copies in the side file was old or damaged and has been renewed from the other".into());
            }
            state.clone()
        }
        // A first start that was cut off before its side file was whole.
        SideRead::Missing | SideRead::Bad
            if found.entries.is_empty()
                && found.side.is_none()
                && found.mark.is_none_or(|m| m.commits == 0)
                && (*side == SideRead::Missing || found.mark.is_some())
                && damage.is_none() =>
        {
            if *side == SideRead::Bad {
                report.notes.push(
                    "the side file was unreadable and the database empty, as after a first start that was cut off: this is a new store"
                        .into(),
                );
            }
            return (SideState::default(), None);
        }
        SideRead::Missing => {
            damage.get_or_insert_with(|| "the side file is missing".into());
            SideState::default()
        }
        SideRead::Bad | SideRead::TooNew(_) => {
            damage.get_or_insert_with(|| "both copies in the side file are damaged".into());
            SideState::default()
        }
    };
    let readable = matches!(side, SideRead::Good { .. });
    let ours = found.mark.is_some_and(|m| m.store_id == state.store_id);
    if readable && damage.is_none() {
        if !had_database {
            damage = Some("the database directory is gone".into());
        } else if !ours {
            damage = Some("the database is not the one that the side file speaks of".into());
        } else if found.mark.is_some_and(|m| m.commits < state.commits) {
            damage = Some("the database has lost its newest commits".into());
        } else if let Some(content) = found.mark.and_then(|m| m.content).filter(|c| *c != found.content) {
            // What sled loses from the middle of its log, it does not miss.
            damage = Some(format!(
                "the database holds {} records, and its newest commit speaks of {}{}",
                found.content.count,
                content.count,
                if found.content.count == content.count { " that are not all the same" } else { "" }
            ));
        }
    }
    // A crash between the database and the side file leaves the newer side bytes in the former.
    if let Some((counter, bytes)) = found.side.take()
        && (!readable || ours)
        && counter > state.counter
    {
        state.counter = counter;
        state.bytes = Some(bytes);
        state.hw_waived = false;
    }
    if damage.is_none()
        && !state.hw_waived
        && let Some(bytes) = &state.bytes
    {
        let hw = found.entries.iter().find(|(key, _)| key == KEY_HW);
        if !hw_check(bytes, hw.map(|(_, value)| value.as_slice())) {
            damage = Some("the database is older than what this node had acknowledged".into());
        }
    }
    (state, damage)
}

/// Sets the database aside and puts a new one with the readable records in its place.
fn quarantine(place: &Place<'_>, found: &mut Found, state: &mut SideState, why: &str, report: &mut OpenReport) -> Result<(), StoreError> {
    found.engine = None;
    place.prune_damaged(DAMAGED_KEPT_MAX - 1, report);
    place.need_room(copy_bytes(live_bytes(&found.entries)))?;
    match place.build_copy(&found.entries, state.store_id, 0, None) {
        Ok(mark) => found.became(mark),
        Err(e) => return Err(place.give_up_copy(e)),
    }
    // The new id before the swap: should a crash come between, the old database no longer fits
    // the side file and all this is done again. The other way round it could pass as sound.
    state.hw_waived = true;
    state.commits = 0;
    let failed = place.io("write", &place.side);
    let mut file = SideFile::open(&place.side, state.clone(), place.faults.clone()).map_err(&failed)?;
    file.change(|_| {}).map_err(&failed)?;
    *state = file.state().clone();

    let moved = place.set_aside().map_err(place.io("set aside", &place.sled))?;
    fs::rename(&place.new, &place.sled).map_err(place.io("rename", &place.new))?;
    fsx::sync_dir(place.dir).map_err(place.io("sync", place.dir))?;
    report.notes.push(format!(
        "the store was damaged ({why}): {}{} readable records were taken over into a new one; this node has a new store id and fetches what is missing from its peers",
        moved
            .as_ref()
            .map(|p| format!("it is kept in {}, ", p.display()))
            .unwrap_or_default(),
        found.entries.len(),
    ));
    report.quarantined = true;
    report.moved_to = moved;
    Ok(())
}

/// sled never gives space back; a database far larger than its content is copied and replaced.
fn rewrite_if_outgrown(
    place: &Place<'_>,
    found: &mut Found,
    state: &SideState,
    options: &Options,
    report: &mut OpenReport,
) -> Result<(), StoreError> {
    let data = place.sled.join(DATA_FILE);
    let len = fs::metadata(&data).map_err(place.io("read", &data))?.len();
    let live = live_bytes(&found.entries);
    if len <= options.rewrite_floor_bytes.max(live.saturating_mul(GROWTH_MAX)) {
        return Ok(());
    }
    if place.need_room(copy_bytes(live)).is_err() {
        report.notes.push(format!(
            "the database file has grown to {len} bytes for {live} bytes of records, but the disk has no room to rewrite it"
        ));
        return Ok(());
    }
    found.engine = None;
    // The copy in the side file is at least as new as any in the database, so it is enough that
    // the state judged above is written back with the boot number.
    let copy = state.bytes.as_ref().map(|b| (state.counter, b.as_slice()));
    let mark = found.mark.unwrap_or_default();
    let mark = place.build_copy(&found.entries, mark.store_id, mark.commits, copy)?;
    let swapped = || -> io::Result<()> {
        fs::rename(&place.sled, &place.old)?;
        fsx::sync_dir(place.dir)?;
        fs::rename(&place.new, &place.sled)?;
        fsx::sync_dir(place.dir)?;
        fsx::remove_tree(&place.old)
    };
    swapped().map_err(place.io("swap", &place.sled))?;
    found.became(mark);
    report.rewritten = true;
    report.notes.push(format!("the database file had grown to {len} bytes for {live} bytes of records and was rewritten"));
    Ok(())
}

impl<'a> Place<'a> {
    fn new(dir: &'a Path, options: &Options, space: &'a SpaceGuard) -> Place<'a> {
        Place {
            dir,
            sled: dir.join("sled"),
            new: dir.join("sled.new"),
            old: dir.join("sled.old"),
            side: dir.join("side"),
            cache: options.cache_bytes,
            faults: options.faults.clone(),
            space,
        }
    }

    /// Refuses to go on with less than `bytes` of room above the reserve. Releases the ballast
    /// when that is what it takes.
    fn need_room(&self, bytes: u64) -> Result<(), StoreError> {
        let room = self.space.check();
        let room = room.map_err(self.io("look at the free space of", self.dir))?;
        if room.usable() >= bytes {
            return Ok(());
        }
        Err(StoreError::Full { path: self.dir.to_path_buf(), free: room.free, need: room.free - room.usable() + bytes })
    }

    fn io(&self, doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = path.to_path_buf();
        move |source| StoreError::Io { doing, path: path.clone(), source }
    }

    /// Ends a swap that a crash cut off; see the top of the file.
    fn finish_swap(&self, report: &mut OpenReport) -> io::Result<()> {
        if !self.sled.exists() {
            if self.new.exists() {
                fs::rename(&self.new, &self.sled)?;
            } else if self.old.exists() {
                fs::rename(&self.old, &self.sled)?;
            } else {
                return Ok(());
            }
            fsx::sync_dir(self.dir)?;
            report.notes.push("an earlier rewrite of the database was cut off and has been finished".into());
        }
        fsx::remove_tree(&self.new)?;
        fsx::remove_tree(&self.old)
    }

    /// Opens and reads the database. Damage is in the result, a refusal of the system an error.
    fn read_database(&self, report: &mut OpenReport) -> Result<Found, StoreError> {
        let mut found = Found { engine: None, entries: Vec::new(), mark: None, content: Content::default(), side: None, damage: None };
        self.remove_snapshots(".generating").map_err(self.io("tidy up", &self.sled))?;
        let mut engine = match self.open_patiently(&self.sled) {
            Err(OpenFailure::Damaged(why)) => {
                // The snapshot is only an index over the log: sled makes it anew.
                self.remove_snapshots("").map_err(self.io("tidy up", &self.sled))?;
                match self.open_patiently(&self.sled) {
                    Ok(engine) => {
                        report.notes.push(format!("the database opened only without its snapshot ({why})"));
                        engine
                    }
                    Err(_) => {
                        found.damage = Some(format!("it cannot be opened: {why}"));
                        return Ok(found);
                    }
                }
            }
            Err(OpenFailure::Refused(source)) => return Err(self.io("open", &self.sled)(source)),
            Ok(engine) => engine,
        };
        self.scan(&mut engine, &mut found, report)?;
        found.content = engine.content();
        found.engine = Some(engine);
        Ok(found)
    }

    fn scan(&self, engine: &mut Engine, found: &mut Found, report: &mut OpenReport) -> Result<(), StoreError> {
        let mut too_new = None;
        let mut unreadable = 0;
        let scanned = engine.scan(|item| match item {
            Scanned::Intact(KEY_STORE, value) => found.mark = Mark::decode(value),
            Scanned::Intact(KEY_SIDE, value) => {
                found.side = value.split_first_chunk().map(|(counter, bytes)| (u64::from_le_bytes(*counter), bytes.to_vec()));
            }
            Scanned::Intact(key, value) => found.entries.push((key.to_vec(), value.to_vec())),
            Scanned::Damaged => unreadable += 1,
            Scanned::TooNew(schema) => too_new = Some(schema),
        });
        if let Some(schema) = too_new {
            return Err(StoreError::TooNew { found: schema.into(), known: FORMAT_VERSION });
        }
        report.unreadable = unreadable;
        if unreadable > 0 {
            found.damage = Some(format!("{unreadable} records cannot be read"));
        }
        match scanned {
            Ok(()) => Ok(()),
            Err(OpenFailure::Damaged(why)) => {
                found.damage = Some(format!("it cannot be read to its end: {why}"));
                Ok(())
            }
            Err(OpenFailure::Refused(source)) => Err(self.io("read", &self.sled)(source)),
        }
    }

    /// A complete, synced database in `sled.new`, closed again; its mark.
    fn build_copy(
        &self,
        entries: &[(Vec<u8>, Vec<u8>)],
        store_id: u64,
        commits: u64,
        side: Option<(u64, &[u8])>,
    ) -> Result<Mark, StoreError> {
        fsx::remove_tree(&self.new).map_err(self.io("remove", &self.new))?;
        let failed = self.io("write", &self.new);
        let mut engine = self.open_engine(&self.new)?;
        if let Some((counter, bytes)) = side {
            engine.put(KEY_SIDE, &[&counter.to_le_bytes(), bytes].concat());
        }
        engine.commit(store_id, commits).map_err(&failed)?;
        for chunk in entries.chunks(COPY_BATCH) {
            for (key, value) in chunk {
                engine.put(key, value);
            }
            engine.commit(store_id, commits).map_err(&failed)?;
        }
        Ok(Mark { store_id, commits, content: Some(engine.content()) })
    }

    fn open_engine(&self, dir: &Path) -> Result<Engine, StoreError> {
        self.open_patiently(dir).map_err(|failure| match failure {
            OpenFailure::Refused(source) => self.io("open", dir)(source),
            OpenFailure::Damaged(why) => StoreError::Engine { path: dir.to_path_buf(), why },
        })
    }

    /// Opens a database, waiting while an earlier opening in this process still lets go of it.
    fn open_patiently(&self, dir: &Path) -> Result<Engine, OpenFailure> {
        let deadline = Instant::now() + UNLOCK_WAIT_MAX;
        loop {
            match Engine::open(dir, self.cache, self.faults.clone()) {
                Err(OpenFailure::Refused(e)) if is_locked(&e) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => return other,
            }
        }
    }

    /// Removes `snap.*` files whose name ends in `suffix`.
    fn remove_snapshots(&self, suffix: &str) -> io::Result<()> {
        if !self.sled.exists() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.sled)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(suffix) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Moves the database out of the way and says where to, if there is one.
    fn set_aside(&self) -> io::Result<Option<PathBuf>> {
        if !self.sled.exists() {
            return Ok(None);
        }
        let aside = self.damaged_name();
        fs::rename(&self.sled, &aside)?;
        fsx::sync_dir(self.dir)?;
        Ok(Some(aside))
    }

    /// A damaged database can leave sled itself broken for the rest of the process (one of its
    /// threads panicked), so that no copy can be made. Then the damaged one is set aside without
    /// a copy, and the next start makes an empty one. Refusals of the system change nothing.
    fn give_up_copy(&self, error: StoreError) -> StoreError {
        // A half-made copy is a leftover, and on a full disk it would stand in everybody's way.
        let removed = fsx::remove_tree(&self.new);
        let sled_failed = match &error {
            StoreError::Engine { .. } => true,
            StoreError::Io { source, .. } => source.kind() == io::ErrorKind::Other,
            StoreError::TooNew { .. } | StoreError::Full { .. } => false,
        };
        if !sled_failed {
            return error;
        }
        match removed.and_then(|()| self.set_aside()) {
            Ok(Some(path)) => StoreError::Engine {
                path: self.sled.clone(),
                why: format!("{error}; the damaged database was moved to {}", path.display()),
            },
            _ => error,
        }
    }

    fn damaged_name(&self) -> PathBuf {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let secs = since.map_or(0, |d| d.as_secs());
        let mut n = 0;
        loop {
            let path = self.dir.join(format!("sled.damaged-{secs}-{n}"));
            if !path.exists() {
                return path;
            }
            n += 1;
        }
    }

    /// Keeps the newest `keep` of the damaged ones. A failure here only costs space.
    fn prune_damaged(&self, keep: usize, report: &mut OpenReport) {
        let names = fs::read_dir(self.dir).into_iter().flatten().flatten();
        let mut damaged: Vec<(u64, u64, PathBuf)> = names
            .filter_map(|entry| {
                let name = entry.file_name();
                let rest = name.to_str()?.strip_prefix("sled.damaged-")?;
                let (secs, n) = rest.split_once('-')?;
                Some((secs.parse().ok()?, n.parse().ok()?, entry.path()))
            })
            .collect();
        damaged.sort();
        let surplus = damaged.len().saturating_sub(keep);
        for (_, _, path) in damaged.into_iter().take(surplus) {
            let note = match fsx::remove_tree(&path) {
                Ok(()) => format!("removed the older damaged database {}", path.display()),
                Err(e) => format!("cannot remove the older damaged database {}: {e}", path.display()),
            };
            report.notes.push(note);
        }
    }
}

impl Found {
    /// Notes the store id in a new database, before the side file says it.
    fn mark_new(&mut self, place: &Place<'_>, store_id: u64) -> Result<(), StoreError> {
        let engine = match &mut self.engine {
            Some(engine) => engine,
            None => self.engine.insert(place.open_engine(&place.sled)?),
        };
        engine.commit(store_id, 0).map_err(place.io("write", &place.sled))?;
        self.mark = Some(Mark { store_id, commits: 0, content: Some(engine.content()) });
        Ok(())
    }

    /// A copy with this mark stands in its place.
    fn became(&mut self, mark: Mark) {
        self.mark = Some(mark);
        self.content = mark.content.unwrap_or_default();
    }
}
