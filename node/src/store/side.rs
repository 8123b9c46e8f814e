//! The side file: a few hundred bytes that must survive even when the database does not.
//!
//! It holds the store id, the boot number, how many commits the database is known to hold, and
//! the caller's bytes (the promised epoch and the high water mark). One file, two slots of one disk sector each, every slot with a counter and a CRC.
//! A change goes to both slots, one after the other, each synced before the next: so at any time
//! at least one slot is whole, and once a change was reported as durable *both* hold it. A single
//! rotten sector can therefore never take a node back to an older promise, which plain
//! alternation between the slots would allow.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::Faults;
use super::format::FORMAT_VERSION;
use super::fsx;

/// Longest caller's part of the side file, in bytes.
pub(crate) const SIDE_LEN_MAX: usize = 1024;

/// One slot is one 4 KiB sector, so that tearing one never touches the other.
const SLOT_LEN: usize = 4096;
const MAGIC: &[u8; 8] = b"clawside";
const HAS_BYTES: u16 = 1;
const HW_WAIVED: u16 = 2;

/// What the side file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SideState {
    /// Rises with each write; the larger one is the newer.
    pub(super) counter: u64,
    pub(super) store_id: u64,
    pub(super) boot: u64,
    /// Commits that the database is known to hold. A database that counts fewer lost its end.
    pub(super) commits: u64,
    /// Set by a quarantine: the high water mark in `bytes` speaks of the old database, so the
    /// new one is not held to it until the caller has written a new one.
    pub(super) hw_waived: bool,
    pub(super) bytes: Option<Vec<u8>>,
}

/// The outcome of reading a side file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SideRead {
    Missing,
    /// `healed`: one of the slots was damaged, or older than the other.
    Good {
        state: SideState,
        healed: bool,
    },
    Bad,
    TooNew(u16),
}

/// The open side file of a running store.
pub(super) struct SideFile {
    file: File,
    state: SideState,
    faults: Faults,
}

impl SideFile {
    /// Opens or creates the file and makes its directory entry durable.
    pub(super) fn open(path: &Path, state: SideState, faults: Faults) -> io::Result<SideFile> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if let Some(dir) = path.parent() {
            fsx::sync_dir(dir)?;
        }
        Ok(SideFile { file, state, faults })
    }

    pub(super) fn state(&self) -> &SideState {
        &self.state
    }

    /// Writes a changed state durably. After an error the file must not be written again.
    pub(super) fn change(&mut self, edit: impl FnOnce(&mut SideState)) -> io::Result<()> {
        let counter = self.state.counter.saturating_add(1);
        edit(&mut self.state);
        self.state.counter = self.state.counter.max(counter);
        let slot = encode(&self.state);
        for at in [0, SLOT_LEN as u64] {
            self.file.seek(SeekFrom::Start(at))?;
            self.file.write_all(&slot)?;
            self.faults.before_sync()?;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// Reads the side file. An `Err` is a refusal of the operating system, never damage.
pub(super) fn read(path: &Path) -> io::Result<SideRead> {
    let mut content = Vec::new();
    match File::open(path) {
        Ok(file) => {
            file.take(2 * SLOT_LEN as u64).read_to_end(&mut content)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(SideRead::Missing),
        Err(e) => return Err(e),
    }
    let mut slots = content.chunks(SLOT_LEN).map(decode);
    let first = slots.next().unwrap_or(Slot::Bad);
    let second = slots.next().unwrap_or(Slot::Bad);
    Ok(match (first, second) {
        (Slot::TooNew(v), _) | (_, Slot::TooNew(v)) => SideRead::TooNew(v),
        (Slot::Bad, Slot::Bad) => SideRead::Bad,
        (Slot::Good(state), Slot::Bad) | (Slot::Bad, Slot::Good(state)) => SideRead::Good { state, healed: true },
        (Slot::Good(a), Slot::Good(b)) => SideRead::Good { healed: a != b, state: if b.counter > a.counter { b } else { a } },
    })
}

enum Slot {
    Good(SideState),
    Bad,
    TooNew(u16),
}

fn encode(state: &SideState) -> Vec<u8> {
    let bytes = state.bytes.as_deref().unwrap_or_default();
    let mut flags = 0;
    if state.bytes.is_some() {
        flags |= HAS_BYTES;
    }
    if state.hw_waived {
        flags |= HW_WAIVED;
    }
    let mut slot = Vec::with_capacity(SLOT_LEN);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    slot.extend_from_slice(&flags.to_le_bytes());
    slot.extend_from_slice(&state.counter.to_le_bytes());
    slot.extend_from_slice(&state.store_id.to_le_bytes());
    slot.extend_from_slice(&state.boot.to_le_bytes());
    slot.extend_from_slice(&state.commits.to_le_bytes());
    // Callers are held to SIDE_LEN_MAX, so the length always fits.
    slot.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    slot.extend_from_slice(bytes);
    slot.resize(SLOT_LEN - 4, 0);
    slot.extend_from_slice(&crc32fast::hash(&slot).to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Slot {
    parse(slot).unwrap_or(Slot::Bad)
}

fn parse(slot: &[u8]) -> Option<Slot> {
    if slot.len() != SLOT_LEN {
        return None;
    }
    let (body, crc) = slot.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (magic, rest) = body.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (flags, rest) = rest.split_first_chunk::<2>()?;
    let (counter, rest) = rest.split_first_chunk::<8>()?;
    let (store_id, rest) = rest.split_first_chunk::<8>()?;
    let (boot, rest) = rest.split_first_chunk::<8>()?;
    let (commits, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    if magic != MAGIC {
        return None;
    }
    let version = u16::from_le_bytes(*version);
    if version > FORMAT_VERSION {
        return Some(Slot::TooNew(version));
    }
    let flags = u16::from_le_bytes(*flags);
    let bytes = rest.get(..usize::from(u16::from_le_bytes(*len)))?;
    Some(Slot::Good(SideState {
        counter: u64::from_le_bytes(*counter),
        store_id: u64::from_le_bytes(*store_id),
        boot: u64::from_le_bytes(*boot),
        commits: u64::from_le_bytes(*commits),
        hw_waived: flags & HW_WAIVED != 0,
        bytes: (flags & HAS_BYTES != 0).then(|| bytes.to_vec()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, bytes: &[u8]) -> SideState {
        let before = match read(path).unwrap() {
            SideRead::Good { state, .. } => state,
            _ => SideState::default(),
        };
        let mut side = SideFile::open(path, before, Faults::default()).unwrap();
        side.change(|s| s.bytes = Some(bytes.to_vec())).unwrap();
        side.state().clone()
    }

    #[test]
    fn any_damage_to_one_slot_leaves_the_newest_state_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("side");
        written(&path, b"one");
        let newest = written(&path, &[7; SIDE_LEN_MAX]);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(37) {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let expected = SideRead::Good { state: newest.clone(), healed: true };
            assert_eq!(read(&path).unwrap(), expected, "byte {at}");
        }
        std::fs::write(&path, &whole[..SLOT_LEN + 9]).unwrap();
        assert!(matches!(read(&path).unwrap(), SideRead::Good { state, .. } if state == newest));
    }

    #[test]
    fn a_crash_between_the_two_slots_keeps_a_whole_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("side");
        let old = written(&path, b"old");
        let mut side = SideFile::open(&path, old, Faults::default()).unwrap();
        side.faults.fail_sync_in(2, io::ErrorKind::Other);
        assert!(side.change(|s| s.bytes = Some(b"new".to_vec())).is_err());
        let mut content = std::fs::read(&path).unwrap();
        // The second slot was written but not synced: after a power cut it holds anything.
        content[SLOT_LEN..].fill(0xaa);
        std::fs::write(&path, content).unwrap();
        let SideRead::Good { state, healed } = read(&path).unwrap() else {
            panic!("no readable slot");
        };
        assert_eq!((state.bytes.as_deref(), healed), (Some(b"new".as_slice()), true));
    }

    #[test]
    fn two_bad_slots_are_damage_and_no_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("side");
        assert_eq!(read(&path).unwrap(), SideRead::Missing);
        for content in [vec![], vec![0; 10], vec![0; 2 * SLOT_LEN]] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(read(&path).unwrap(), SideRead::Bad);
        }
    }

    #[test]
    fn a_newer_side_file_is_refused_and_not_repaired() {
        let mut slot = encode(&SideState::default());
        slot[8] = 9;
        let crc = crc32fast::hash(&slot[..SLOT_LEN - 4]).to_le_bytes();
        slot[SLOT_LEN - 4..].copy_from_slice(&crc);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("side");
        std::fs::write(&path, slot.repeat(2)).unwrap();
        assert_eq!(read(&path).unwrap(), SideRead::TooNew(9));
    }
}
