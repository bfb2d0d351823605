//! The calls that a queue makes of the system to read and change its files.
//!
//! # Contract
//! * [`System`] does what the operating system does. Tests put a disk in its place on which any call may be the last.
//! * Nothing else in here reads or changes a file of the queue.
//!
//! # What it does not know
//! What the files hold, and who has the folder.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// To be read.
    Read,
    /// To be read and written.
    Write,
    /// To be written for the first time: one that is there is an error.
    New,
    /// To be written from its beginning, whether it is there or not.
    Anew,
}

/// Bytes that a disk reads together or not at all.
const SECTOR_BYTES: u64 = 4_096;

/// Files by path.
pub(super) trait Disk: Debug + Send + Sync {
    /// Names in a folder. One that is no UTF-8 is none of ours.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>>;
    fn rename(&self, path: &Path, new: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes durable which files there are in a folder.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// An open file.
pub(super) trait DiskFile: Debug + Send + Sync {
    fn length(&self) -> io::Result<u64>;
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of it. After an error any beginning of it may be written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes durable what it holds and how long it is.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct System;

impl Disk for System {
    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            Mode::Read => &mut options,
            Mode::Write => options.write(true),
            Mode::New => options.write(true).create_new(true),
            Mode::Anew => options.write(true).create(true).truncate(true),
        };
        Ok(Box::new(options.open(path)?))
    }

    fn rename(&self, path: &Path, new: &Path) -> io::Result<()> {
        std::fs::rename(path, new)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        // Of what describes the file it brings along what finds the data: its length, too.
        self.sync_data()
    }
}

/// Reads as many bytes as there are, up to a length.
pub(super) fn read_up_to(file: &dyn DiskFile, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// As [`read_up_to`], with zeros in the place of sectors that the system cannot read.
pub(super) fn read_around(file: &dyn DiskFile, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let from = at + bytes.len() as u64;
        let to_next = usize::try_from(SECTOR_BYTES - from % SECTOR_BYTES).unwrap_or(usize::MAX);
        let wanted = to_next.min(length - bytes.len());
        match read_up_to(file, from, wanted) {
            Ok(found) if found.is_empty() => break,
            Ok(found) => bytes.extend(found),
            Err(_) => bytes.resize(bytes.len() + wanted, 0),
        }
    }
    bytes
}
