//! Room set aside for the moment when the disk is full: [`Ballast`].
//!
//! A file named `ballast` holds the room. When a call of the engine's books (manifest, registry, checkpoint, a seal's
//! segment) finds the disk full, the file is unlinked and the call made again, so that what frees space can still be
//! done: seals, deletes, compactions, and an open. When there is room again the file is made again.
//!
//! # Contract
//! * It is a [`Disk`] over another; callers notice nothing but that books rarely meet a full disk.
//! * Samples never use the room, and while it is in use no log file is made that would take the last of it.
//! * The file holds zeros and nothing depends on it: it may be missing, or removed by hand.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::real::RealDisk;
use super::{Disk, DiskFile, Space};

/// Name of the file.
pub(crate) const BALLAST_FILE: &str = "ballast";
/// Share of a disk that is set aside at most.
const SHARE: u64 = 16;

/// A disk with room set aside.
#[derive(Clone, Debug)]
pub(crate) struct Ballast(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    wanted_bytes: u64,
    is_held: AtomicBool,
    /// Log files may use the room too: the database is being opened, or a record that frees space is written.
    is_urgent: AtomicBool,
}

impl Ballast {
    /// Over `disk`, with at most `wanted_bytes`. Takes over a file that is there; makes none before [`Self::renew`].
    pub(crate) fn over(disk: Arc<dyn Disk>, wanted_bytes: u64) -> Self {
        let is_held = wanted_bytes > 0
            && disk.space().is_ok_and(|space| space.is_some())
            && disk.open(BALLAST_FILE).is_ok();
        let (is_held, is_urgent) = (AtomicBool::new(is_held), AtomicBool::new(true));
        Self(Arc::new(Shared { disk, wanted_bytes, is_held, is_urgent }))
    }

    /// The database is open: from now on samples find the disk full without using the room.
    pub(crate) fn opened(&self) {
        self.0.is_urgent.store(false, Ordering::SeqCst);
    }

    /// Does what frees space, which may use the room for its record in the log.
    pub(crate) fn urgently<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.is_urgent.store(true, Ordering::SeqCst);
        let done = work();
        self.0.is_urgent.store(false, Ordering::SeqCst);
        done
    }

    /// Sets the room aside again if it was used and the disk has it. Best effort.
    pub(crate) fn renew(&self) {
        let Shared { disk, wanted_bytes, is_held, is_urgent } = &*self.0;
        if is_held.load(Ordering::SeqCst) || is_urgent.load(Ordering::SeqCst) {
            return;
        }
        let Ok(Some(space)) = disk.space() else { return };
        let bytes = self.0.bytes(space);
        // Twice: what has just become free is first of all for those who were refused.
        if *wanted_bytes > 0 && space.free_bytes >= 2 * bytes {
            let made = disk.create(BALLAST_FILE, bytes).is_ok();
            is_held.store(made, Ordering::SeqCst);
        }
    }
}

impl Shared {
    fn bytes(&self, space: Space) -> u64 {
        self.wanted_bytes.min(space.total_bytes / SHARE)
    }

    /// Makes a call, and makes it again with the room if the disk is full and the file at `path` may have it.
    fn roomy<T>(&self, path: &str, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match call() {
            Err(error) if error.kind() == ErrorKind::StorageFull && self.gives(path) => call(),
            result => result,
        }
    }

    fn gives(&self, path: &str) -> bool {
        let is_book = !path.starts_with("wal/") || self.is_urgent.load(Ordering::SeqCst);
        is_book
            && self.is_held.swap(false, Ordering::SeqCst)
            && self.disk.remove(BALLAST_FILE).is_ok()
    }

    /// Whether making this file would take room that is in use, or is to be set aside again.
    fn is_too_much(&self, path: &str, allocate: u64) -> bool {
        let is_free = self.wanted_bytes == 0
            || !path.starts_with("wal/")
            || self.is_held.load(Ordering::SeqCst)
            || self.is_urgent.load(Ordering::SeqCst);
        if is_free {
            return false;
        }
        let Ok(Some(space)) = self.disk.space() else { return false };
        space.free_bytes < allocate + self.bytes(space)
    }

    fn wrap(self: &Arc<Self>, path: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(RoomyFile { file, path: path.to_owned(), shared: Arc::clone(self) })
    }
}

impl Disk for Ballast {
    fn create(&self, path: &str, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        if self.0.is_too_much(path, allocate) {
            return Err(ErrorKind::StorageFull.into());
        }
        let file = self.0.roomy(path, || self.0.disk.create(path, allocate))?;
        Ok(self.0.wrap(path, file))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.disk.open(path)
    }

    fn open_writable(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.0.wrap(path, self.0.disk.open_writable(path)?))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        self.0.disk.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.0.roomy(dir, || self.0.disk.create_dir(dir))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.roomy(to, || self.0.disk.rename(from, to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.disk.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.0.disk.sync_dir(dir)
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.disk.lock()
    }

    fn root(&self) -> PathBuf {
        self.0.disk.root()
    }

    fn space(&self) -> io::Result<Option<Space>> {
        self.0.disk.space()
    }

    fn as_real(&self) -> Option<&RealDisk> {
        self.0.disk.as_real()
    }
}

/// A file whose writes may use the room.
#[derive(Debug)]
struct RoomyFile {
    file: Arc<dyn DiskFile>,
    path: String,
    shared: Arc<Shared>,
}

impl DiskFile for RoomyFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // A write that found no room may be made again: the same bytes at the same place.
        self.shared.roomy(&self.path, || self.file.write_at(offset, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}
