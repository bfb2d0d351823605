//! The operating system's files: [`RealDisk`].
//!
//! # Contract
//! * Every path is resolved from a handle of the database directory, so renaming or replacing that directory while it
//!   is open never sends a write elsewhere.
//! * Folders are made with mode 0700 and files with 0600. A symbolic link, pipe or device in place of a file is refused.
//! * Interrupted and short calls are continued by `transfer`; a caller sees whole reads and writes or an error.
//! * Bytes go through the page cache by `pread` and `pwrite`: damage on the medium is an error, never a signal.
//!
//! It knows nothing of what the files hold.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::transfer::{read_whole, uninterrupted, write_whole};
use super::{Disk, DiskFile, Space};

/// Name of the file that [`Disk::lock`] locks. It stays; only the lock on it counts.
pub const LOCK_FILE: &str = "LOCK";

/// Bytes written at a time where the file system cannot reserve blocks.
const ZERO_BYTES: usize = 1 << 20;

/// One database directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    directory: OwnedFd,
}

impl RealDisk {
    /// Opens the directory at `root`, making it and what leads to it if `create` allows.
    ///
    /// # Errors
    /// `NotFound` if there is none and `create` is false; `NotADirectory` if something else has that name.
    pub fn open(root: &Path, create: bool) -> io::Result<Self> {
        if create {
            make_directories(root)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || Ok(rustix::fs::open(root, flags, Mode::empty())?);
        let directory = uninterrupted(open)?;
        Ok(Self { root: std::path::absolute(root)?, directory })
    }

    fn open_file(&self, path: &str, flags: OFlags) -> io::Result<RealFile> {
        // NONBLOCK keeps the open of a pipe from waiting for its other end; it does nothing to a regular file.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let path = checked(path)?;
        let open = || Ok(rustix::fs::openat(&self.directory, path, flags, mode)?);
        let file = File::from(uninterrupted(open)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(RealFile { file })
    }

    /// Gives a file the same name in another directory of the same file system, too.
    pub(crate) fn link_to(&self, path: &str, other: &Self) -> io::Result<()> {
        let path = checked(path)?;
        let linked =
            rustix::fs::linkat(&self.directory, path, &other.directory, path, AtFlags::empty());
        Ok(linked?)
    }

    /// Whether a name leads to one and the same file here and in another directory.
    pub(crate) fn shares(&self, path: &str, other: &Self) -> io::Result<bool> {
        let path = checked(path)?;
        let stat = |disk: &Self| {
            rustix::fs::statat(&disk.directory, path, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| (stat.st_dev, stat.st_ino))
        };
        Ok(stat(self)? == stat(other)?)
    }

    fn open_folder(&self, dir: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = if dir.is_empty() { "." } else { checked(dir)? };
        uninterrupted(|| Ok(rustix::fs::openat(&self.directory, dir, flags, Mode::empty())?))
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.open_file(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        if let Err(error) = file.reserve(allocate) {
            // Best effort: what matters to the caller is why it could not be made.
            self.remove(path).ok();
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.open_file(path, OFlags::RDONLY)?))
    }

    fn open_writable(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.open_file(path, OFlags::RDWR)?))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        let folder = self.open_folder(dir)?;
        let mut found = Vec::new();
        for entry in uninterrupted(|| Ok(Dir::read_from(&folder)?))? {
            let entry = entry?;
            // A name that is no UTF-8 is none of ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                found.push((name.to_owned(), u64::try_from(stat.st_size).unwrap_or(0)));
            }
        }
        Ok(found)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let dir = checked(dir)?;
        let mkdir = || Ok(rustix::fs::mkdirat(&self.directory, dir, Mode::RWXU)?);
        match uninterrupted(mkdir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.open_folder(dir).map(drop)
            }
            made => made,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (checked(from)?, checked(to)?);
        let rename = || Ok(rustix::fs::renameat(&self.directory, from, &self.directory, to)?);
        uninterrupted(rename)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = checked(path)?;
        uninterrupted(|| Ok(rustix::fs::unlinkat(&self.directory, path, AtFlags::empty())?))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::from(self.open_folder(dir)?).sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let file = self.open_file(LOCK_FILE, OFlags::RDWR | OFlags::CREATE)?;
        // The lock belongs to this open file and not to the process: a second engine in this process meets it too,
        // and it ends with the process however that ends.
        let take = FlockOperation::NonBlockingLockExclusive;
        uninterrupted(|| Ok(rustix::fs::flock(&file.file, take)?))?;
        Ok(Box::new(Held(file)))
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn space(&self) -> io::Result<Option<Space>> {
        let stat = uninterrupted(|| Ok(rustix::fs::fstatvfs(&self.directory)?))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let (total_bytes, free_bytes) = (bytes(stat.f_blocks), bytes(stat.f_bavail));
        Ok(Some(Space { total_bytes, free_bytes }))
    }

    fn as_real(&self) -> Option<&RealDisk> {
        Some(self)
    }
}

/// The lock on the directory, until it is dropped.
#[derive(Debug)]
struct Held(RealFile);

impl Drop for Held {
    fn drop(&mut self) {
        // Closing would do, but a child that this process is just starting may still hold a copy of the handle.
        uninterrupted(|| Ok(rustix::fs::flock(&self.0.file, FlockOperation::Unlock)?)).ok();
    }
}

/// One open file of a [`RealDisk`].
#[derive(Debug)]
struct RealFile {
    file: File,
}

impl RealFile {
    /// Makes an empty file `length` bytes long with its blocks reserved.
    fn reserve(&self, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::empty();
        uninterrupted(|| match rustix::fs::fallocate(&self.file, flags, 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.write_zeros(length),
            other => Ok(other?),
        })
    }

    fn write_zeros(&self, length: u64) -> io::Result<()> {
        let zeros = vec![0; ZERO_BYTES];
        let mut offset = 0;
        while offset < length {
            let part = usize::try_from(length - offset).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
            self.write_at(offset, &zeros[..part])?;
            offset += part as u64;
        }
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        read_whole(offset, buffer, |at, part| self.file.read_at(part, at))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_whole(offset, bytes, |at, part| self.file.write_at(part, at))
    }

    fn sync(&self) -> io::Result<()> {
        // Repeated only when a signal kept it from happening: after a failed sync the kernel may call the lost pages clean.
        uninterrupted(|| self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        uninterrupted(|| self.file.set_len(length))
    }
}

/// Makes `root` and what leads to it, each level durable in the one above.
fn make_directories(root: &Path) -> io::Result<()> {
    let root = std::path::absolute(root)?;
    let missing: Vec<&Path> = root.ancestors().take_while(|level| !level.exists()).collect();
    for level in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(level) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if let Some(parent) = level.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

/// The path itself if it stays inside the database directory.
fn checked(path: &str) -> io::Result<&str> {
    if path.split('/').any(|level| matches!(level, "" | "." | "..")) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "path leaves the database directory"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch() -> (tempfile::TempDir, RealDisk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&folder.path().join("deep/data"), true).unwrap();
        (folder, disk)
    }

    #[test]
    fn a_missing_directory_is_made_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none");
        assert_eq!(RealDisk::open(&path, false).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!path.exists());
        RealDisk::open(&path, true).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(RealDisk::open(&file, true).unwrap_err().kind(), ErrorKind::NotADirectory);
    }

    #[test]
    fn a_created_file_is_zero_private_and_new() {
        let (_folder, disk) = scratch();
        disk.create_dir("wal").unwrap();
        disk.create_dir("wal").unwrap();
        let file = disk.create("wal/1", 3 * ZERO_BYTES as u64 + 5).unwrap();
        assert_eq!(file.len().unwrap(), 3 * ZERO_BYTES as u64 + 5);
        let mut bytes = [1; 16];
        file.read_at(ZERO_BYTES as u64, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 16]);
        file.write_at(5, b"hello").unwrap();
        file.sync().unwrap();
        disk.sync_dir("wal").unwrap();
        disk.sync_dir("").unwrap();
        let read = disk.open("wal/1").unwrap();
        let mut bytes = [0; 5];
        read.read_at(5, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        let end = read.len().unwrap();
        assert_eq!(read.read_at(end - 1, &mut bytes).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(read.write_at(0, b"no").is_err(), "a file opened for reading was written");
        assert_eq!(disk.create("wal/1", 0).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let mode = disk.root().join("wal/1").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn zeros_are_written_where_blocks_cannot_be_reserved() {
        let (_folder, disk) = scratch();
        let file = disk.open_file("a", OFlags::RDWR | OFlags::CREATE).unwrap();
        file.write_zeros(ZERO_BYTES as u64 + 7).unwrap();
        assert_eq!(file.len().unwrap(), ZERO_BYTES as u64 + 7);
    }

    #[test]
    fn a_file_too_large_for_the_disk_leaves_nothing() {
        let (_folder, disk) = scratch();
        assert!(disk.create("huge", 1 << 62).is_err());
        assert_eq!(disk.list("").unwrap(), []);
    }

    #[test]
    fn only_regular_files_are_listed_and_opened() {
        let (_folder, disk) = scratch();
        disk.create_dir("sub").unwrap();
        disk.create("file", 3).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", disk.root().join("link")).unwrap();
        assert_eq!(disk.list("").unwrap(), [("file".to_owned(), 3)]);
        assert!(disk.open("link").is_err());
        assert!(disk.open("sub").is_err());
        assert!(disk.create("link", 0).is_err());
        for path in ["../x", "/etc/passwd", "a//b", ""] {
            assert_eq!(disk.open(path).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn rename_replaces_and_remove_unlinks() {
        let (_folder, disk) = scratch();
        disk.create("a", 1).unwrap();
        disk.create("b", 2).unwrap();
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list("").unwrap(), [("b".to_owned(), 1)]);
        disk.remove("b").unwrap();
        assert_eq!(disk.remove("b").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_lock_is_held_against_others_until_dropped() {
        let (_folder, disk) = scratch();
        let held = disk.lock().unwrap();
        let other = RealDisk::open(&disk.root(), false).unwrap();
        for disk in [&disk, &other] {
            assert_eq!(disk.lock().err().unwrap().kind(), ErrorKind::WouldBlock);
        }
        drop(held);
        other.lock().unwrap();
    }
}
