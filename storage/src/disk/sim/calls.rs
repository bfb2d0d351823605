//! The calls of a [`SimDisk`], as programs make them.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::content::Inode;
use super::fault::{Call, Failure};
use super::names::{InodeId, folder_of};
use super::{SimDisk, State, gone};
use crate::disk::transfer::{read_whole, uninterrupted, write_whole};
use crate::disk::{Disk, DiskFile};

impl State {
    fn inode(&mut self, id: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(gone)
    }

    fn find(&self, path: &str) -> io::Result<InodeId> {
        if self.names.has_folder(path) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        self.names.find(path).ok_or_else(|| Errno::NOENT.into())
    }

    fn need_folder(&self, folder: &str) -> io::Result<()> {
        if self.names.has_folder(folder) { Ok(()) } else { Err(Errno::NOENT.into()) }
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |bytes| bytes.saturating_sub(self.used_bytes()))
    }

    /// Writes what fits; the number of bytes that did, or that none did.
    fn write(&mut self, id: InodeId, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let free = self.free_bytes();
        let inode = self.inode(id)?;
        let limit = inode.cache().length().saturating_add(free);
        let fits = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = fits.min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            return Err(Failure::NoSpace.error());
        }
        inode.write(offset, &bytes[..count]);
        Ok(count)
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &str, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        let act = |state: &mut State| {
            state.need_folder(folder_of(path))?;
            if state.names.find(path).is_some() || state.names.has_folder(path) {
                return Err(Errno::EXIST.into());
            }
            if state.free_bytes() < allocate {
                return Err(Failure::NoSpace.error());
            }
            let inode = state.add_inode();
            state.names.link(path, inode);
            state.inode(inode)?.set_length(allocate);
            Ok(inode)
        };
        let inode = uninterrupted(|| self.run(Call::Create, path, act, refuse))?;
        Ok(self.handle(inode, path, true))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let act = |state: &mut State| state.find(path);
        let inode = uninterrupted(|| self.run(Call::Open, path, act, refuse))?;
        Ok(self.handle(inode, path, false))
    }

    fn open_writable(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let act = |state: &mut State| state.find(path);
        let inode = uninterrupted(|| self.run(Call::Open, path, act, refuse))?;
        Ok(self.handle(inode, path, true))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        let act = |state: &mut State| {
            state.need_folder(dir)?;
            let length = |id| state.inodes.get(&id).map_or(0, |inode| inode.cache().length());
            let inside = state.names.files().filter(|(path, _)| folder_of(path) == dir);
            let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
            Ok(inside.map(|(path, inode)| (name(path), length(inode))).collect())
        };
        self.run(Call::List, dir, act, refuse)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let act = |state: &mut State| {
            state.need_folder(folder_of(dir))?;
            if state.names.find(dir).is_some() {
                return Err(Errno::EXIST.into());
            }
            state.names.add_folder(dir);
            Ok(())
        };
        uninterrupted(|| self.run(Call::CreateDir, dir, act, refuse))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let act = |state: &mut State| {
            state.need_folder(folder_of(to))?;
            let inode = state.find(from)?;
            if state.names.has_folder(to) {
                return Err(Errno::ISDIR.into());
            }
            state.names.rename(from, to, inode);
            Ok(())
        };
        self.run(Call::Rename, from, act, refuse)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let act = |state: &mut State| {
            state.find(path)?;
            state.names.unlink(path);
            Ok(())
        };
        self.run(Call::Remove, path, act, refuse)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let act = |state: &mut State| {
            state.need_folder(dir)?;
            state.names.sync(dir);
            Ok(())
        };
        let fail = |state: &mut State, failure: Failure| {
            if failure == Failure::Io {
                state.names.sync_partly(dir, &mut state.random);
            }
            Err(failure.error())
        };
        uninterrupted(|| self.run(Call::SyncDir, dir, act, fail))
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let act = |state: &mut State| {
            if state.locked {
                return Err(Errno::WOULDBLOCK.into());
            }
            state.locked = true;
            Ok(())
        };
        uninterrupted(|| self.run(Call::Lock, "LOCK", act, refuse))?;
        Ok(Box::new(SimLock { disk: self.clone() }))
    }

    fn root(&self) -> PathBuf {
        PathBuf::from("sim:")
    }
}

/// One open file of a [`SimDisk`].
#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: InodeId,
    pub(super) path: String,
    pub(super) writable: bool,
}

impl SimFile {
    fn need_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }

    /// One system call: it may read less than was asked for.
    fn read_part(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len();
        let copy = |state: &mut State, buffer: &mut [u8]| {
            let content = state.inode(self.inode)?.cache();
            let left = content.length().saturating_sub(offset);
            let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            content.read(offset, &mut buffer[..count]);
            Ok(count)
        };
        // Two closures that write to one buffer: a cell lends it to whichever runs.
        let buffer = std::cell::RefCell::new(buffer);
        let act = |state: &mut State| {
            state.note_read(&self.path, offset, wanted);
            copy(state, *buffer.borrow_mut())
        };
        let fail = |state: &mut State, failure: Failure| match failure {
            Failure::FlippedBit => {
                let count = copy(state, *buffer.borrow_mut())?;
                let bit = state.random.index(count * 8);
                if let Some(byte) = buffer.borrow_mut().get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                Ok(count)
            }
            Failure::Short => {
                let part = state.random.index(wanted).max(1).min(wanted);
                copy(state, &mut buffer.borrow_mut()[..part])
            }
            _ => Err(failure.error()),
        };
        self.disk.run(Call::Read, &self.path, act, fail)
    }

    /// One system call: it may write less than was asked for.
    fn write_part(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let act = |state: &mut State| state.write(self.inode, offset, bytes);
        let fail = |state: &mut State, failure: Failure| {
            let part = match state.random.below(4) {
                0 => 0,
                1 => bytes.len(),
                _ => state.random.index(bytes.len() + 1),
            };
            match failure {
                Failure::Short => {
                    let part = part.max(1).min(bytes.len());
                    return state.write(self.inode, offset, &bytes[..part]);
                }
                Failure::Interrupted => {} // before the first byte, or it would be a short write
                _ if part > 0 => drop(state.write(self.inode, offset, &bytes[..part])),
                _ => {}
            }
            Err(failure.error())
        };
        self.disk.run(Call::Write, &self.path, act, fail)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        read_whole(offset, buffer, |at, part| self.read_part(at, part))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.need_writable()?;
        write_whole(offset, bytes, |at, part| self.write_part(at, part))
    }

    fn sync(&self) -> io::Result<()> {
        let act = |state: &mut State| {
            state.inode(self.inode)?.sync();
            Ok(())
        };
        let fail = |state: &mut State, failure: Failure| {
            if failure != Failure::Interrupted {
                let mut random = state.random.split();
                state.inode(self.inode)?.sync_partly(&mut random);
            }
            Err(failure.error())
        };
        uninterrupted(|| self.disk.run(Call::Sync, &self.path, act, fail))
    }

    fn len(&self) -> io::Result<u64> {
        let act = |state: &mut State| Ok(state.inode(self.inode)?.cache().length());
        self.disk.run(Call::Len, &self.path, act, refuse)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.need_writable()?;
        let act = |state: &mut State| {
            let grows = length.saturating_sub(state.inode(self.inode)?.cache().length());
            if state.free_bytes() < grows {
                return Err(Failure::NoSpace.error());
            }
            state.inode(self.inode)?.set_length(length);
            Ok(())
        };
        uninterrupted(|| self.disk.run(Call::Truncate, &self.path, act, refuse))
    }
}

/// Holds the directory of a [`SimDisk`].
struct SimLock {
    disk: SimDisk,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // A lock from before a crash must not release the next process's.
        if state.lives(self.disk.generation) {
            state.locked = false;
        }
    }
}

/// A call that fails without having done anything.
fn refuse<T>(_: &mut State, failure: Failure) -> io::Result<T> {
    Err(failure.error())
}
