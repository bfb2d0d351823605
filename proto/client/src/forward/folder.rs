//! The folder of a queue: owned by one program, and changed so that a crash leaves the old or the new.
//!
//! # Contract
//! * While a [`Folder`] is open no other one is, in this process or another: the lock is held by the open file, not by its
//!   being there.
//! * After [`Folder::release`] nothing here writes any more, also not from a thread that was on its way.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::FlockOperation;

use super::disk::{Disk, DiskFile, Mode, System, read_up_to};
use crate::error::{Error, Result};

const LOCK_FILE: &str = "LOCK";

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    lock: RwLock<Option<File>>,
}

/// Proof that the folder is ours for as long as it lives.
#[derive(Debug)]
pub(super) struct Held<'a>(
    #[expect(dead_code, reason = "it is held")] RwLockReadGuard<'a, Option<File>>,
);

/// Why there is no new file.
#[derive(Debug)]
pub(super) struct Unmade {
    pub(super) error: Error,
    /// Whether one may be there all the same, now or after a loss of power.
    pub(super) may_be_there: bool,
}

impl Folder {
    /// Opens the folder, making it if there is none.
    ///
    /// # Errors
    /// [`Error::Queue`]: another program has it, or the system refuses.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::open_on(Arc::new(System), path)
    }

    /// Opens the folder for files on this disk. The folder itself and its lock are always the system's.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub(super) fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self> {
        let failed = |op, error: &io::Error| io_failure(op, path, error);
        make_folder(&*disk, path).map_err(|error| failed("make the queue's folder", &error))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(|error| failed("open the queue's lock", &error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let why = "another program has this queue open: give each its own folder";
                return Err(failure("open the queue", path, &why));
            }
            Err(error) => return Err(failed("lock the queue", &error.into())),
        }
        let folder = Self { path: path.to_owned(), disk, lock: RwLock::new(Some(file)) };
        folder.sync().map_err(|error| failed("sync", &error))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that the folder is still ours, for as long as the answer is kept.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub(super) fn held(&self) -> Result<Held<'_>> {
        let guard = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        if guard.is_some() { Ok(Held(guard)) } else { Err(Error::Closed) }
    }

    /// Lets go of the folder, after what is being written now.
    pub(super) fn release(&self) {
        *self.lock.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Names of the files in it.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let names = self.disk.names(&self.path);
        let mut names = names.map_err(|error| io_failure("list", &self.path, &error))?;
        names.sort();
        Ok(names)
    }

    /// Makes a new file that holds `bytes`; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Queue`]; then there is no such file, or its maker cannot tell.
    pub(super) fn create(&self, name: &str, bytes: &[u8]) -> Result<Box<dyn DiskFile>, Unmade> {
        let path = self.path.join(name);
        let failed = |error: &io::Error| io_failure("make", &path, error);
        let file = self.disk.open(&path, Mode::New);
        let file = file.map_err(|e| Unmade { error: failed(&e), may_be_there: false })?;
        let made = file.write_at(bytes, 0).and_then(|()| file.sync()).and_then(|()| self.sync());
        let Err(error) = made else { return Ok(file) };
        let error = failed(&error);
        let is_removed = self.disk.remove(&path).is_ok();
        // A full disk is no damage. After any other error nobody knows what a loss of power leaves of it.
        let may_be_there = !(is_removed && error.is_disk_full());
        Err(Unmade { error, may_be_there })
    }

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn open_file(&self, name: &str) -> Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        self.disk.open(&path, Mode::Write).map_err(|error| io_failure("open", &path, &error))
    }

    /// Opens a file to read it; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn open_to_read(&self, name: &str) -> Result<Option<Box<dyn DiskFile>>> {
        let path = self.path.join(name);
        match self.disk.open(&path, Mode::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_failure("open", &path, &error)),
        }
    }

    /// Puts `bytes` in the place of a file, as a whole or not at all; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, draft) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let swap = || {
            let file = self.disk.open(&draft, Mode::Anew)?;
            file.write_at(bytes, 0)?;
            file.sync()?;
            self.disk.rename(&draft, &path)?;
            self.sync()
        };
        swap().map_err(|error| io_failure("replace", &path, &error))
    }

    /// Reads a whole file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_to_read(name)? else { return Ok(None) };
        let length = file.length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let bytes = length.and_then(|length| read_up_to(&*file, 0, length));
        bytes.map(Some).map_err(|error| io_failure("read", &self.path.join(name), &error))
    }

    /// Removes a file. It may come back after a loss of power, so nothing may depend on its being gone.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_failure("remove", &path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(new_name));
        self.disk.rename(&path, &new).map_err(|error| io_failure("rename", &path, &error))
    }

    /// Makes durable which files there are.
    fn sync(&self) -> io::Result<()> {
        self.disk.sync_folder(&self.path)
    }
}

/// Makes a folder and those above it, each durable before the next: a queue is not gone with the name of its folder.
fn make_folder(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut there = path;
    while !there.as_os_str().is_empty() && !there.exists() {
        missing.push(there);
        there = there.parent().unwrap_or(Path::new(""));
    }
    // Whoever made the last that is there may have died before it was durable. If it is a mount, nothing need be done.
    disk.sync_folder(&above(there)).ok();
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match disk.sync_folder(&above(folder)) {
            // Some may make a folder where they may not look: then they cannot sync it.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The folder that a path lies in.
fn above(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}

/// What cannot be done with which file.
pub(super) fn failure(op: &'static str, path: &Path, why: &dyn std::fmt::Display) -> Error {
    let kind = io::ErrorKind::Other;
    Error::Queue { op, path: path.to_owned(), why: why.to_string(), kind }
}

/// What the system does not do with which file.
pub(super) fn io_failure(op: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::Queue { op, path: path.to_owned(), why: error.to_string(), kind: error.kind() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let folder = Folder::open(&path).unwrap();
        let refused = Folder::open(&path).unwrap_err().to_string();
        assert!(refused.contains("another program"), "{refused}");
        folder.replace("x", b"1").unwrap();
        folder.replace("x", b"22").unwrap();
        assert_eq!(folder.read("x").unwrap().unwrap(), b"22");
        assert_eq!(folder.names().unwrap(), ["LOCK", "x"]);
        folder.release();
        assert!(matches!(folder.held(), Err(Error::Closed)));
        assert!(Folder::open(&path).unwrap().read("y").unwrap().is_none());
    }
}
