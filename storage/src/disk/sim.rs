//! A disk in memory that crashes, tears, fails and rots as its seed decides: [`SimDisk`].
//!
//! # Contract
//! * What is synced survives a crash; of everything else a crash keeps any part: writes in any subset, torn at 512-byte
//!   sectors or at any byte, lengths with or without their data, names of files and folders.
//! * After a crash every call through handles from before fails, until [`SimDisk::restart`] gives new ones.
//! * A failed sync drops what it did not write: the next sync succeeds, reads show the data, the medium never has it.
//! * A failed write may have written a beginning of its bytes. Reads and writes may be short and calls interrupted: what
//!   continues them is `transfer`, the same loops that the operating system's files go through.
//!
//! Usable from many threads; one mutex guards all of it.
//!
//! # Reading order
//! this file (what a test does to a disk), `fault` (what can fail), `calls` (what a program does to it), `content` and
//! `names` (what a crash may leave of bytes and of names).

mod calls;
mod content;
mod fault;
mod names;
mod random;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use self::calls::SimFile;
use self::content::Inode;
pub use self::fault::{Call, Failure, Fault};
use self::names::{InodeId, Names, folder_of};
pub use self::random::Random;
use super::DiskFile;

/// What happens when the planned change comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The disk goes before the change takes effect.
    Before,
    /// It goes after the change took effect, and before anybody is told.
    After,
    /// One of the two, as the seed decides.
    Either,
}

/// What goes at the planned change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The power: what is not synced may be lost.
    Power,
    /// The process: the machine runs on, nothing is lost yet.
    Process,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    change: u64,
    moment: Moment,
    loss: Loss,
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
    plan: Option<Plan>,
    /// Reads of files, while somebody asked for them.
    reads: Option<Vec<(String, Range<u64>)>>,
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
            plan: None,
            reads: None,
            syncs_held: false,
        })
    }

    fn from_state(state: State) -> Self {
        let generation = state.generation;
        let shared = Shared { state: Mutex::new(state), released: Condvar::new() };
        Self { shared: Arc::new(shared), generation }
    }

    /// The power goes now, also of a disk whose process is dead. Every handle is dead; see [`Self::restart`].
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
        state.plan = None;
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
        self.end_at_change(count, Moment::Either, Loss::Power);
    }

    /// Power or process go at change `count` from now (1 is the next).
    pub fn end_at_change(&self, count: u64, moment: Moment, loss: Loss) {
        let mut state = self.state();
        let change = state.changes + count;
        state.plan = Some(Plan { change, moment, loss });
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

    /// Puts an empty folder in place of a file, at rest. Durable at once.
    pub fn replace_with_folder(&self, path: &str) {
        let mut state = self.state();
        state.names.unlink(path);
        state.names.add_folder(path);
        state.names.sync(folder_of(path));
    }

    /// Does `work` and gives what it read meanwhile: paths and ranges of bytes.
    pub fn reads_of(&self, work: impl FnOnce()) -> Vec<(String, Range<u64>)> {
        self.state().reads = Some(Vec::new());
        work();
        self.state().reads.take().unwrap_or_default()
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
        self.flip_bits(path, bit / 8, 1 << (bit % 8));
    }

    /// Turns over the bits of byte `at` of a file that `mask` has, at rest.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip_bits(&self, path: &str, at: u64, mask: u8) {
        let mut state = self.state();
        let inode = state.names.find(path).expect("a file to damage");
        let inode = state.inodes.get_mut(&inode).expect("named inodes exist");
        assert!(at < inode.cache().length(), "{path} ends before byte {at}");
        inode.flip(at, mask);
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
            if let Some(plan) = state.plan.filter(|plan| plan.change <= state.changes) {
                let takes_effect = match plan.moment {
                    Moment::Before => false,
                    Moment::After => true,
                    Moment::Either => state.random.once_in(2),
                };
                if takes_effect {
                    act(&mut state).ok();
                }
                match plan.loss {
                    Loss::Power => state.crash(),
                    Loss::Process => state.down(),
                }
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
            if fault.strikes(call, path) {
                failure = Some(fault.failure);
            }
        }
        failure
    }

    fn note_read(&mut self, path: &str, offset: u64, bytes: usize) {
        if let Some(reads) = &mut self.reads {
            reads.push((path.to_owned(), offset..offset + bytes as u64));
        }
    }

    fn add_inode(&mut self) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode::default());
        id
    }

    fn used_bytes(&self) -> u64 {
        let length = |id| self.inodes.get(&id).map_or(0, |inode| inode.cache().length());
        self.names.files().map(|(_, inode)| length(inode)).sum()
    }
}

fn gone() -> io::Error {
    io::Error::other("the simulated disk is down")
}
