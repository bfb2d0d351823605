//! The folder of a queue: owned by one program, and changed so that a crash leaves the old or the new.
//!
//! # Contract
//! * While a [`Folder`] is open no other one is, in this process or another: the lock is held by the open file, not by its
//!   being there.
//! * After [`Folder::release`] nothing here writes any more, also not from a thread that was on its way.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::FlockOperation;

use crate::error::{Error, Result};

const LOCK_FILE: &str = "LOCK";

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: RwLock<Option<File>>,
}

/// Proof that the folder is ours for as long as it lives.
#[derive(Debug)]
pub(super) struct Held<'a>(
    #[expect(dead_code, reason = "it is held")] RwLockReadGuard<'a, Option<File>>,
);

impl Folder {
    /// Opens the folder, making it if there is none.
    ///
    /// # Errors
    /// [`Error::Queue`]: another program has it, or the system refuses.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |op, error: &dyn std::fmt::Display| failure(op, path, error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed("make the queue's folder", &error))?;
        let file = options()
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(|error| failed("open the queue's lock", &error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let why = "another program has this queue open: give each its own folder";
                return Err(failed("open the queue", &why));
            }
            Err(error) => return Err(failed("lock the queue", &error)),
        }
        let folder = Self { path: path.to_owned(), lock: RwLock::new(Some(file)) };
        folder.sync()?;
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
        let failed = |error: &io::Error| failure("list", &self.path, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|error| failed(&error))? {
            // A name that is no UTF-8 is none of ours.
            names.extend(entry.map_err(|error| failed(&error))?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// Makes a new file that holds `bytes`; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Queue`]; then there is no such file, or one that was cut.
    pub(super) fn create(&self, name: &str, bytes: &[u8]) -> Result<File> {
        let path = self.path.join(name);
        let make = || {
            let mut file = options().create_new(true).open(&path)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = make().map_err(|error: io::Error| {
            // Best effort: what matters is why it could not be made.
            std::fs::remove_file(&path).ok();
            failure("make", &path, &error)
        })?;
        self.sync()?;
        Ok(file)
    }

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn open_file(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        options().open(&path).map_err(|error| failure("open", &path, &error))
    }

    /// Puts `bytes` in the place of a file, as a whole or not at all; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, draft) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let swap = || {
            let mut file = options().create(true).truncate(true).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)
        };
        swap().map_err(|error| failure("replace", &path, &error))?;
        self.sync()
    }

    /// Reads a whole file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure("read", &path, &error)),
        }
    }

    /// Removes a file. It may come back after a loss of power, so nothing may depend on its being gone.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failure("remove", &path, &error))
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
        std::fs::rename(&path, new).map_err(|error| failure("rename", &path, &error))
    }

    /// Makes durable which files there are.
    fn sync(&self) -> Result<()> {
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failure("sync", &self.path, &error))
    }
}

/// What cannot be done with which file.
pub(super) fn failure(op: &'static str, path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Queue { op, path: path.to_owned(), why: why.to_string() }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
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
