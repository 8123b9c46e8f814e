//! Small disks that a test can fill, and disks in image files that can be copied as a power cut would leave them.
//! Needs root and Linux.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A small file system in memory.  Dropped, it is unmounted.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many MiB.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(dir: &Path, mib: u32) -> Self {
        fs::create_dir_all(dir).expect("a directory can be made");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "clawmesh-test"]).arg(dir));
        Self(dir.to_owned())
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// Fills it up to the last `left` KiB with a file, which is returned.
    ///
    /// # Panics
    /// When somebody else was faster.
    pub fn fill(&self, left: usize) -> PathBuf {
        let stat = rustix::fs::statvfs(&self.0).expect("a file system knows its size");
        let free = usize::try_from(stat.f_bavail * stat.f_frsize).expect("a small number");
        let path = self.0.join("somebody-elses-large-file");
        fs::write(&path, vec![0; free.saturating_sub(left << 10)]).expect("there is room for that");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// A disk in an image file which lies on a disk of its own.  That outer disk can be frozen, so that a copy of the image
/// holds exactly what the inner file system had handed to its disk at one moment: all of that and nothing later, also
/// when the moment lies in the middle of an fsync.
///
/// What this does not show: a disk that lies about its cache.  All that the kernel has written counts as durable here.
#[derive(Debug)]
pub struct PowerCutDisk {
    inner: Mounted,
    outer: Mounted,
}

impl PowerCutDisk {
    /// Makes and mounts a disk of so many MiB with ext4, below `dir`.
    ///
    /// # Panics
    /// Without root, loop devices or `mkfs.ext4`.
    pub fn new(dir: &Path, mib: u64) -> Self {
        let outer = Mounted::new(&image(&dir.join("outer.img"), mib + 64), &dir.join("outer"));
        let inner = Mounted::new(&image(&outer.path().join("disk.img"), mib), &dir.join("disk"));
        Self { inner, outer }
    }
    /// Where the disk is mounted.
    pub fn path(&self) -> &Path {
        self.inner.path()
    }
    /// Copies the image as it is at this moment.
    ///
    /// # Panics
    /// When there is no room for the copy.
    pub fn cut(&self, to: &Path) {
        let frozen = Frozen::new(self.outer.path());
        run(Command::new("cp").arg("--sparse=always").arg(self.outer.path().join("disk.img")).arg(to));
        drop(frozen);
    }
}

/// A mounted image.  Dropped, it is unmounted.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts an image, as after a power cut: the journal is replayed.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn new(image: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).expect("a directory can be made");
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        Self(at.to_owned())
    }
    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// A file system that takes no writes for a moment.
struct Frozen<'a> {
    at: &'a Path,
    guard: Child,
}

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Self {
        // A test that is killed here must not leave the machine with a disk that hangs for ever.
        let script = "sleep 60; fsfreeze --unfreeze \"$0\" 2>/dev/null";
        let mut guard = Command::new("sh");
        guard.args(["-c", script]).arg(at).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let guard = guard.spawn().expect("a shell can be started");
        run(Command::new("fsfreeze").arg("--freeze").arg(at));
        Self { at, guard }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(self.at));
        // It sleeps in a child of its own, which ends by itself.
        drop(self.guard.kill());
        drop(self.guard.wait());
    }
}

/// A new file with an empty ext4 in it.
fn image(path: &Path, mib: u64) -> PathBuf {
    let make = || -> io::Result<()> { fs::File::create(path)?.set_len(mib << 20) };
    make().expect("an image can be made");
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(path));
    path.to_owned()
}

/// Lazily: a node that is being killed may still hold files in it.
fn unmount(at: &Path) {
    drop(Command::new("umount").arg("--lazy").arg(at).output());
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("{:?} cannot be started: {e}", command.get_program()));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
