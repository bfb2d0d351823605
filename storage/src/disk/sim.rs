//! A disk in memory that crashes, tears, fails and rots as its seed decides: [`SimDisk`].
//!
//! # Contract
//! * What is synced survives a crash; of everything else a crash keeps any part: writes in any subset, torn at 512-byte
//!   sectors or at any byte, lengths with or without their data, names of files and folders.
//! * After a crash every call through handles from before fails, until [`SimDisk::restart`] gives new ones.
//! * A failed sync drops what it did not write: the next sync succeeds, reads show the data, the medium never has it.
//! * A failed write may have written a beginning of its bytes.
//!
//! Interrupted and short system calls do not exist at this level: continuing them is [`super::real`]'s part.
//! Usable from many threads; one mutex guards all of it.

mod content;
mod names;
mod random;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::content::Inode;
use self::names::{InodeId, Names, folder_of};
pub use self::random::Random;
use super::{Disk, DiskFile};

/// The kinds of calls that can be counted and failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the method of Disk or DiskFile with its name")]
pub enum Call {
    Create,
    Open,
    List,
    CreateDir,
    Rename,
    Remove,
    SyncDir,
    Lock,
    Read,
    Write,
    Sync,
    Len,
    Truncate,
}

impl Call {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Create,
        Self::Open,
        Self::List,
        Self::CreateDir,
        Self::Rename,
        Self::Remove,
        Self::SyncDir,
        Self::Lock,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Len,
        Self::Truncate,
    ];

    /// Whether the call can change what a crash leaves. Between two such calls all crashes are alike.
    pub const fn is_change(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Lock | Self::Read | Self::Len)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
    /// EMFILE.
    TooManyFiles,
    /// EROFS.
    ReadOnly,
    /// The call succeeds, but one bit of what it read is wrong. For reads only.
    FlippedBit,
}

impl Failure {
    fn error(self) -> io::Error {
        io::Error::from(match self {
            Self::Io | Self::FlippedBit => Errno::IO,
            Self::NoSpace => Errno::NOSPC,
            Self::TooManyFiles => Errno::MFILE,
            Self::ReadOnly => Errno::ROFS,
        })
    }
}

/// A call that is to fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Calls of this kind are counted.
    pub call: Call,
    /// Only calls on paths that begin like this; `""` for all.
    pub path: String,
    /// How many such calls succeed first.
    pub after: u64,
    /// How many fail then; `u64::MAX` for ever.
    pub times: u64,
    /// In which way.
    pub failure: Failure,
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    shared: Arc<Shared>,
    generation: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Clone, Debug)]
struct State {
    random: Random,
    /// Handles of an older generation are dead.
    generation: u64,
    down: bool,
    names: Names,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    locked: bool,
    capacity_bytes: Option<u64>,
    faults: Vec<Fault>,
    calls: BTreeMap<Call, u64>,
    changes: u64,
    crash_at: Option<u64>,
    syncs_held: bool,
}

impl SimDisk {
    /// An empty disk whose accidents `seed` decides.
    pub fn new(seed: u64) -> Self {
        Self::from_state(State {
            random: Random::new(seed),
            generation: 0,
            down: false,
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            locked: false,
            capacity_bytes: None,
            faults: Vec::new(),
            calls: BTreeMap::new(),
            changes: 0,
            crash_at: None,
            syncs_held: false,
        })
    }

    fn from_state(state: State) -> Self {
        let generation = state.generation;
        let shared = Shared { state: Mutex::new(state), released: Condvar::new() };
        Self { shared: Arc::new(shared), generation }
    }

    /// The power goes now. Every handle is dead; see [`Self::restart`].
    pub fn crash(&self) {
        self.state().crash();
        self.shared.released.notify_all();
    }

    /// The process dies now, the machine runs on: nothing is lost yet, every handle is dead.
    pub fn kill(&self) {
        self.state().down();
        self.shared.released.notify_all();
    }

    /// The disk as the next process finds it. Kills the one before, if it runs; forgets all faults, holds and limits.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut state = self.state();
        state.down();
        state.generation += 1;
        state.forget_unreachable();
        state.down = false;
        state.faults.clear();
        state.crash_at = None;
        state.capacity_bytes = None;
        let generation = state.generation;
        drop(state);
        self.shared.released.notify_all();
        Self { shared: Arc::clone(&self.shared), generation }
    }

    /// A second disk in the same state, with accidents of its own: many fates of one moment can be tried.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.random = Random::new(seed);
        Self::from_state(state)
    }

    /// The power goes at change `count` from now (1 is the next), before or after it takes effect.
    pub fn crash_after_changes(&self, count: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.changes + count);
    }

    /// Adds a fault; its count starts now.
    pub fn add_fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Removes every fault.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Sets how many bytes fit; `None` for no end. Files already there stay.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Keeps syncs of files waiting, until released or the disk goes down.
    pub fn hold_syncs(&self, held: bool) {
        self.state().syncs_held = held;
        self.shared.released.notify_all();
    }

    /// Whether the disk went down and awaits [`Self::restart`].
    pub fn is_down(&self) -> bool {
        let state = self.state();
        state.down || state.generation != self.generation
    }

    /// Calls so far that could change what a crash leaves.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Calls so far of one kind.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Paths and lengths of all files, sorted.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state();
        let length = |inode| state.inodes.get(&inode).map_or(0, |i| i.cache().length());
        state.names.files().map(|(path, inode)| (path.to_owned(), length(inode))).collect()
    }

    /// Bytes of a file at rest, if there is one.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let content = state.inodes.get(&state.names.find(path)?)?.cache();
        let mut bytes = vec![0; usize::try_from(content.length()).ok()?];
        content.read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts other bytes in place of a file's, at rest; makes the file if there is none. Durable at once.
    pub fn replace(&self, path: &str, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.names.find(path).unwrap_or_else(|| {
            let inode = state.add_inode();
            state.names.link(path, inode);
            state.names.sync(folder_of(path));
            inode
        });
        if let Some(inode) = state.inodes.get_mut(&inode) {
            inode.replace(bytes);
        }
    }

    /// Loses a file at rest. Durable at once.
    pub fn lose(&self, path: &str) {
        let mut state = self.state();
        state.names.unlink(path);
        state.names.sync(folder_of(path));
    }

    /// Turns one bit of a file over, at rest.
    ///
    /// # Panics
    /// If there is no such file or bit.
    pub fn flip_bit(&self, path: &str, bit: u64) {
        let mut state = self.state();
        let inode = state.names.find(path).expect("a file to damage");
        let inode = state.inodes.get_mut(&inode).expect("named inodes exist");
        assert!(bit / 8 < inode.cache().length(), "{path} ends before bit {bit}");
        inode.flip(bit);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one call: dead handles, counting, faults and crashes are the same for all of them.
    fn run<T>(
        &self,
        call: Call,
        path: &str,
        act: impl FnOnce(&mut State) -> io::Result<T>,
        fail: impl FnOnce(&mut State, Failure) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        while call == Call::Sync && state.syncs_held && state.lives(self.generation) {
            state = self.shared.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.lives(self.generation) {
            return Err(gone());
        }
        *state.calls.entry(call).or_insert(0) += 1;
        if call.is_change() {
            state.changes += 1;
            if state.crash_at.is_some_and(|at| at <= state.changes) {
                if state.random.once_in(2) {
                    act(&mut state).ok();
                }
                state.crash();
                drop(state);
                self.shared.released.notify_all();
                return Err(gone());
            }
        }
        match state.next_failure(call, path) {
            Some(failure) => fail(&mut state, failure),
            None => act(&mut state),
        }
    }

    fn handle(&self, inode: InodeId, path: &str, writable: bool) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode, path: path.to_owned(), writable })
    }
}

impl State {
    fn lives(&self, generation: u64) -> bool {
        !self.down && self.generation == generation
    }

    fn down(&mut self) {
        self.down = true;
        self.locked = false;
        self.syncs_held = false;
    }

    fn crash(&mut self) {
        if self.down {
            return;
        }
        self.down();
        self.names.crash(&mut self.random);
        self.forget_unreachable();
        for inode in self.inodes.values_mut() {
            inode.crash(&mut self.random);
        }
    }

    /// Drops the files that no name leads to any more, once no handle lives either.
    fn forget_unreachable(&mut self) {
        let reachable = self.names.reachable();
        self.inodes.retain(|id, _| reachable.contains(id));
    }

    fn next_failure(&mut self, call: Call, path: &str) -> Option<Failure> {
        let mut failure = None;
        for fault in &mut self.faults {
            if fault.call != call || !path.starts_with(&fault.path) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times = fault.times.saturating_sub(u64::from(fault.times != u64::MAX));
                failure = Some(fault.failure);
            }
        }
        failure
    }

    fn add_inode(&mut self) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode::default());
        id
    }

    fn inode(&mut self, id: InodeId) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(gone)
    }

    fn find(&self, path: &str) -> io::Result<InodeId> {
        self.names.find(path).ok_or_else(|| Errno::NOENT.into())
    }

    fn need_folder(&self, folder: &str) -> io::Result<()> {
        if self.names.has_folder(folder) { Ok(()) } else { Err(Errno::NOENT.into()) }
    }

    fn used_bytes(&self) -> u64 {
        let length = |id| self.inodes.get(&id).map_or(0, |inode| inode.cache().length());
        self.names.files().map(|(_, inode)| length(inode)).sum()
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |bytes| bytes.saturating_sub(self.used_bytes()))
    }

    fn write(&mut self, id: InodeId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let free = self.free_bytes();
        let inode = self.inode(id)?;
        let limit = inode.cache().length().saturating_add(free);
        let fits = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        if fits < bytes.len() {
            inode.write(offset, &bytes[..fits]);
            return Err(Failure::NoSpace.error());
        }
        inode.write(offset, bytes);
        Ok(())
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
        let inode = self.run(Call::Create, path, act, refuse)?;
        Ok(self.handle(inode, path, true))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.run(Call::Open, path, |state| state.find(path), refuse)?;
        Ok(self.handle(inode, path, false))
    }

    fn open_writable(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.run(Call::Open, path, |state| state.find(path), refuse)?;
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
        self.run(Call::CreateDir, dir, act, refuse)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let act = |state: &mut State| {
            state.need_folder(folder_of(to))?;
            let inode = state.find(from)?;
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
            state.names.sync_partly(dir, &mut state.random);
            Err(failure.error())
        };
        self.run(Call::SyncDir, dir, act, fail)
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let act = |state: &mut State| {
            if state.locked {
                return Err(Errno::WOULDBLOCK.into());
            }
            state.locked = true;
            Ok(())
        };
        self.run(Call::Lock, "LOCK", act, refuse)?;
        Ok(Box::new(SimLock { disk: self.clone() }))
    }

    fn root(&self) -> PathBuf {
        PathBuf::from("sim:")
    }
}

/// One open file of a [`SimDisk`].
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: InodeId,
    path: String,
    writable: bool,
}

impl SimFile {
    fn need_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let wanted = buffer.len() as u64;
        let fail = |state: &mut State, failure: Failure| match failure {
            Failure::FlippedBit => Ok(Some(state.random.below(wanted * 8))),
            _ => Err(failure.error()),
        };
        let flipped = self.disk.run(Call::Read, &self.path, |_| Ok(None), fail)?;
        let mut state = self.disk.state();
        let content = state.inode(self.inode)?.cache();
        if offset.checked_add(wanted).is_none_or(|end| end > content.length()) {
            return Err(io::Error::from(ErrorKind::UnexpectedEof));
        }
        content.read(offset, buffer);
        let damaged = flipped.and_then(|bit| Some((bit, usize::try_from(bit / 8).ok()?)));
        if let Some((bit, byte)) = damaged.and_then(|(bit, at)| Some((bit, buffer.get_mut(at)?))) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.need_writable()?;
        let act = |state: &mut State| state.write(self.inode, offset, bytes);
        let fail = |state: &mut State, failure: Failure| {
            let part = state.random.index(bytes.len() + 1);
            state.write(self.inode, offset, &bytes[..part]).ok();
            Err(failure.error())
        };
        self.disk.run(Call::Write, &self.path, act, fail)
    }

    fn sync(&self) -> io::Result<()> {
        let act = |state: &mut State| {
            state.inode(self.inode)?.sync();
            Ok(())
        };
        let fail = |state: &mut State, failure: Failure| {
            let mut random = state.random.split();
            state.inode(self.inode)?.sync_partly(&mut random);
            Err(failure.error())
        };
        self.disk.run(Call::Sync, &self.path, act, fail)
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
        self.disk.run(Call::Truncate, &self.path, act, refuse)
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

fn gone() -> io::Error {
    io::Error::other("the simulated disk is down")
}
