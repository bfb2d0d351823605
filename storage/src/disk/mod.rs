//! The one trait between the engine and the files: [`Disk`].
//!
//! # Contract
//! * Paths are relative to the database directory, levels separated by `/`, and never hold anything a user typed.
//! * What was written is durable after [`DiskFile::sync`]; that a file exists, after [`Disk::sync_dir`] of its folder.
//!   Nothing else is promised: unsynced bytes and names may be lost, torn or reordered by a crash.
//! * A failed sync has an unknown outcome. Callers never retry it.
//!
//! # Reading order
//! `ballast` (room for when it is full), `transfer` (whole reads and writes), [`real`] (the operating system), [`sim`] (a
//! disk in memory that crashes, tears and fails by seed).

pub(crate) mod ballast;
pub mod real;
pub mod sim;
mod transfer;

use std::fmt;
use std::io;
use std::sync::Arc;

/// How large a disk is, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What this process may still use.
    pub free_bytes: u64,
}

/// The files of one database directory. Every call may fail with what the system says; where more is promised it says so.
#[expect(clippy::missing_errors_doc, reason = "said once for all calls")]
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a file that must not exist yet, `allocate` bytes long and all zero, blocks reserved.
    ///
    /// # Errors
    /// `AlreadyExists`, `StorageFull` (then no file remains), or what the system says.
    fn create(&self, path: &str, allocate: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing regular file for reading.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing regular file for reading and writing.
    fn open_writable(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names and sizes of the regular files in `dir`, in no order. `""` is the database directory.
    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>>;

    /// Makes a folder; fine if it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Renames a file, replacing the target.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Unlinks a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Takes the directory for this process until the returned guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another process, or another engine in this one, has it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// Where the directory is, for messages.
    fn root(&self) -> std::path::PathBuf;

    /// How large the disk is; `None` where nobody knows.
    fn space(&self) -> io::Result<Option<Space>> {
        Ok(None)
    }

    /// The operating system's directory behind it, if it is one: files of two of those can be linked.
    fn as_real(&self) -> Option<&real::RealDisk> {
        None
    }
}

/// All bytes of a file.
pub(crate) fn read_all(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// One open file. Every call may fail with what the system says.
#[expect(clippy::missing_errors_doc, reason = "said once for all calls")]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file if need be.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far, and the file's length, durable.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file to `length` bytes.
    fn truncate(&self, length: u64) -> io::Result<()>;
}
