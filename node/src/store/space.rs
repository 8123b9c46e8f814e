//! The guard over free disk space (rule D4).
//!
//! A full disk must not stop a node from recording the *end* of the work it has. So new work is
//! refused early, at a floor of free space, and a ballast file is given back at that moment as
//! room for terminal writes and garbage collection.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Faults;

/// The floor never needs to be higher than this, however large the disk: 256 MiB.
const FLOOR_BYTES_MAX: u64 = 256 << 20;
/// ... and on small disks it is 1/20 = 5 % of the disk.
const FLOOR_DISK_SHARE: u64 = 20;
/// The ballast is this share of the floor.
const BALLAST_SHARE: u64 = 4;
/// Below this share of the floor nothing is written at all: sled must never meet a full disk in
/// the middle of a segment, and the next start needs room for its repairs.
const RESERVE_SHARE: u64 = 4;

/// How much room the disk of the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes that this user may still write.
    pub(crate) free: u64,
    /// Size of the file system in bytes.
    pub(crate) total: u64,
    /// Below this many free bytes new work is refused: min(256 MiB, 5 % of the disk).
    pub(crate) floor: u64,
    /// The free space was below the floor (the state `Full`): take no new submits, but finish
    /// what there is. True also in the moment in which the ballast has just been given back.
    pub(crate) low: bool,
}

impl Space {
    /// Bytes that may still be written before the store fails as full.
    pub(super) fn usable(&self) -> u64 {
        self.free.saturating_sub(self.floor / RESERVE_SHARE)
    }
}

/// Watches one directory's file system and holds the ballast.
pub(super) struct SpaceGuard {
    dir: PathBuf,
    ballast: PathBuf,
    ballast_max: u64,
    held: Mutex<bool>,
    faults: Faults,
}

impl SpaceGuard {
    /// `ballast_max` = 0 keeps no ballast.
    pub(super) fn new(dir: &Path, ballast_max: u64, faults: Faults) -> SpaceGuard {
        let ballast = dir.join("ballast");
        SpaceGuard { dir: dir.to_path_buf(), held: Mutex::new(ballast.exists()), ballast, ballast_max, faults }
    }

    fn room(&self) -> io::Result<(u64, u64)> {
        self.faults.room().map_or_else(|| disk_room(&self.dir), Ok)
    }

    /// Looks at the disk and takes or releases the ballast accordingly. Blocks for one system
    /// call (a microsecond) as a rule, and for the writing of the ballast when room came back.
    pub(super) fn check(&self) -> io::Result<Space> {
        let (mut free, total) = self.room()?;
        let floor = FLOOR_BYTES_MAX.min(total / FLOOR_DISK_SHARE);
        let low = free < floor;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if low && *held {
            std::fs::remove_file(&self.ballast)?;
            *held = false;
            tracing::warn!(free, floor, "disk nearly full: ballast released");
            free = self.room()?.0;
        } else if !low && !*held && self.ballast_max > 0 {
            let len = (floor / BALLAST_SHARE).min(self.ballast_max);
            // Twice the floor, so that taking the ballast cannot make the disk low again.
            if free > 2 * floor + len {
                *held = reserve(&self.ballast, len).inspect_err(|e| tracing::warn!("cannot write the ballast file: {e}")).is_ok();
            }
        }
        Ok(Space { free, total, floor, low })
    }
}

/// Makes a file that truly occupies `len` bytes.
fn reserve(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let done = allocate(&file, len);
    if done.is_err() {
        drop(file);
        let _ = std::fs::remove_file(path);
    }
    done
}

/// On Linux the blocks are reserved without writing them, where the file system can.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    write_noise(file, len)
}

/// Elsewhere the bytes are written; noise, because some file systems store zeros as holes.
fn write_noise(mut file: &File, len: u64) -> io::Result<()> {
    use std::io::Write;
    let mut noise = vec![0; 64 << 10];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let mut left = len;
    while left > 0 {
        let part = noise.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(noise.get(..part).unwrap_or_default())?;
        left -= part as u64;
    }
    Ok(())
}

#[cfg(unix)]
fn disk_room(dir: &Path) -> io::Result<(u64, u64)> {
    let s = rustix::fs::statvfs(dir)?;
    Ok((s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize)))
}

/// Through sysinfo: the disk whose mount point is the longest prefix of the directory.
/// Compiled for Windows only and not tried there.
#[cfg(not(unix))]
fn disk_room(dir: &Path) -> io::Result<(u64, u64)> {
    let dir = dir.canonicalize()?;
    sysinfo::Disks::new_with_refreshed_list()
        .iter()
        .filter(|d| dir.starts_with(d.mount_point()))
        .max_by_key(|d| d.mount_point().as_os_str().len())
        .map(|d| (d.available_space(), d.total_space()))
        .ok_or_else(|| io::Error::other("no disk found for the store directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_is_released_when_room_runs_low_and_taken_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Faults::default();
        disk.claim_room(90 << 20, 100 << 20);
        let guard = SpaceGuard::new(dir.path(), 1 << 20, disk.clone());
        let ballast = dir.path().join("ballast");

        let space = guard.check().unwrap();
        assert_eq!((space.floor, space.low), (5 << 20, false));
        assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 1 << 20);

        disk.claim_room(4 << 20, 100 << 20);
        assert!(guard.check().unwrap().low);
        assert!(!ballast.exists());

        // A little above the floor is not yet room enough to take the ballast again.
        disk.claim_room(6 << 20, 100 << 20);
        assert!(!guard.check().unwrap().low);
        assert!(!ballast.exists());

        disk.claim_room(90 << 20, 100 << 20);
        assert_eq!(guard.check().unwrap().usable(), (90 << 20) - (5 << 18));
        assert!(ballast.exists());
    }

    #[test]
    fn the_real_disk_has_plausible_figures() {
        let dir = tempfile::tempdir().unwrap();
        let space = SpaceGuard::new(dir.path(), 0, Faults::default()).check().unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert!(space.floor <= FLOOR_BYTES_MAX);
        assert!(!dir.path().join("ballast").exists());
    }

    #[test]
    fn a_reserved_file_occupies_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_noise(&File::create(&path).unwrap(), 100_001).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_001);
    }
}
