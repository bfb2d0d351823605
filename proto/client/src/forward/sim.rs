//! A disk in memory on which any call can fail or be the last, and that loses what was not synced: for tests.
//!
//! # Contract
//! * What is synced survives a loss of power; of everything else any part may: names each for itself, bytes by sectors, and
//!   lengths with or without their bytes.
//! * A failed write has written a beginning, a failed sync any part of what it was asked for.
//! * After the process or the machine died every call fails, until the next life begins.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, Mode};
use super::random::Random;

/// Bytes that are on the medium together or not at all.
const SECTOR_BYTES: usize = 512;
/// What a file takes besides its bytes.
const FILE_BYTES: usize = 64;

/// What becomes of the call that is planned to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails, and the next one works.
    Error,
    /// The disk is full for this call.
    Full,
    /// The process dies: nothing works any more, and nothing is lost.
    Process,
    /// The power goes: what was not synced may be lost.
    Power,
}

/// The disk; its clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    random: Random,
    calls: u64,
    plan: Option<(u64, Fault)>,
    /// What the process or the machine died of.
    dead: Option<Fault>,
    capacity_bytes: usize,
    /// Bytes of each file that cannot be read.
    unreadable: Range<usize>,
    life: u64,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    life: u64,
}

impl SimDisk {
    pub(super) fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(State {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            random,
            calls: 0,
            plan: None,
            dead: None,
            capacity_bytes: usize::MAX,
            unreadable: 0..0,
            life: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the n-th call from now on fail, from 1.
    pub(super) fn fail(&self, nth: u64, fault: Fault) {
        let mut state = self.lock();
        state.plan = Some((state.calls + nth, fault));
    }

    /// Whether the planned call is still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.lock().plan.is_some()
    }

    pub(super) fn set_capacity(&self, bytes: usize) {
        self.lock().capacity_bytes = bytes;
    }

    /// Has every read of these bytes fail, in whichever file.
    pub(super) fn set_unreadable(&self, bytes: Range<usize>) {
        self.lock().unreadable = bytes;
    }

    /// Bytes that all files take.
    pub(super) fn used_bytes(&self) -> usize {
        self.lock().used_bytes()
    }

    /// Begins a new life: of the process, or of the machine too.
    pub(super) fn restart(&self, is_power_lost: bool) {
        let mut state = self.lock();
        let dead = state.dead.take();
        state.plan = None;
        state.life += 1;
        if is_power_lost || dead == Some(Fault::Power) {
            state.lose_power();
        }
    }
}

impl State {
    fn used_bytes(&self) -> usize {
        self.names.values().map(|file| FILE_BYTES + self.files[*file].bytes.len()).sum()
    }

    /// Whether nothing works any more for who began in this life.
    fn is_dead(&self, life: u64) -> bool {
        self.dead.is_some() || life != self.life
    }

    /// Counts a call; the error that it ends with.
    fn call(&mut self, life: Option<u64>) -> Result<(), Fault> {
        if self.is_dead(life.unwrap_or(self.life)) {
            return Err(Fault::Error);
        }
        self.calls += 1;
        let Some((_, fault)) = self.plan.take_if(|(at, _)| *at == self.calls) else {
            return Ok(());
        };
        if matches!(fault, Fault::Process | Fault::Power) {
            self.dead = Some(fault);
        }
        Err(fault)
    }

    fn lose_power(&mut self) {
        for file in 0..self.files.len() {
            let kept = self.mixed(file);
            self.files[file] = Content { bytes: kept.clone(), durable: kept };
        }
        self.names = self.mixed_names();
        self.durable_names = self.names.clone();
    }

    /// Any mixture of the names that are durable and those that there are.
    fn mixed_names(&mut self) -> BTreeMap<String, usize> {
        let mut names = self.names.clone();
        names.extend(self.durable_names.clone());
        let mut kept = BTreeMap::new();
        for name in names.into_keys() {
            let side = if self.random.below(2) == 0 { &self.names } else { &self.durable_names };
            // A file that was renamed has one name or the other: which of them is left is journalled together.
            let file = side.get(&name).filter(|file| !kept.values().any(|known| known == *file));
            kept.extend(file.map(|file| (name, *file)));
        }
        kept
    }

    /// Any mixture of what is durable of a file and what was written.
    fn mixed(&mut self, file: usize) -> Vec<u8> {
        let Content { bytes, durable } = self.files[file].clone();
        let (short, long) = (bytes.len().min(durable.len()), bytes.len().max(durable.len()));
        let length = match self.random.below(3) {
            0 => bytes.len(),
            1 => durable.len(),
            _ => short + self.random.index(long - short + 1),
        };
        let mut kept = vec![0; length];
        for (at, sector) in kept.chunks_mut(SECTOR_BYTES).enumerate() {
            let side = if self.random.below(2) == 0 { &bytes } else { &durable };
            let from = side.get(at * SECTOR_BYTES..).unwrap_or_default();
            let length = sector.len().min(from.len());
            sector[..length].copy_from_slice(&from[..length]);
        }
        kept
    }

    fn find(&self, path: &Path) -> Option<usize> {
        self.names.get(&name_of(path)).copied()
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Full => io::ErrorKind::StorageFull.into(),
        Fault::Error | Fault::Process | Fault::Power => io::Error::other("planned"),
    }
}

impl Disk for SimDisk {
    fn names(&self, _: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.call(None).map_err(error_of)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.call(None).map_err(error_of)?;
        let file = match (state.find(path), mode) {
            (Some(_), Mode::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Mode::Read | Mode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (Some(file), Mode::Read | Mode::Write) => file,
            (Some(file), Mode::Anew) => {
                state.files[file].bytes.clear();
                file
            }
            (None, Mode::New | Mode::Anew) => {
                if state.used_bytes().saturating_add(FILE_BYTES) > state.capacity_bytes {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let file = state.files.len();
                state.files.push(Content::default());
                state.names.insert(name_of(path), file);
                file
            }
        };
        Ok(Box::new(SimFile { disk: self.clone(), file, life: state.life }))
    }

    fn rename(&self, path: &Path, new: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.call(None).map_err(error_of)?;
        let file = state.names.remove(&name_of(path)).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(name_of(new), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.call(None).map_err(error_of)?;
        state.names.remove(&name_of(path)).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let was_dead = state.is_dead(state.life);
        let called = state.call(None);
        if !was_dead {
            state.durable_names = match called {
                Ok(()) => state.names.clone(),
                Err(_) => state.mixed_names(),
            };
        }
        called.map_err(error_of)
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.call(Some(self.life)).map_err(error_of)?;
        Ok(state.files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.call(Some(self.life)).map_err(error_of)?;
        let from = usize::try_from(at).ok().and_then(|at| state.files[self.file].bytes.get(at..));
        let from = from.unwrap_or_default();
        let length = bytes.len().min(from.len());
        bytes[..length].copy_from_slice(&from[..length]);
        let read = usize::try_from(at).map_or(0..0, |at| at..at + length);
        let bad = &state.unreadable;
        if read.start.max(bad.start) < read.end.min(bad.end) {
            return Err(io::Error::other("unreadable"));
        }
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let was_dead = state.is_dead(self.life);
        let called = state.call(Some(self.life));
        if was_dead {
            return called.map_err(error_of);
        }
        let at = usize::try_from(at).unwrap();
        let left = state.capacity_bytes.saturating_sub(state.used_bytes());
        let new = (at + bytes.len()).saturating_sub(state.files[self.file].bytes.len());
        let written = match called {
            Err(_) => state.random.index(bytes.len() + 1),
            Ok(()) => bytes.len() - new.saturating_sub(left).min(bytes.len()),
        };
        let content = &mut state.files[self.file].bytes;
        if written > 0 {
            content.resize(content.len().max(at + written), 0);
            content[at..at + written].copy_from_slice(&bytes[..written]);
        }
        called.map_err(error_of)?;
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.call(Some(self.life)).map_err(error_of)?;
        state.files[self.file].bytes.resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let was_dead = state.is_dead(self.life);
        let called = state.call(Some(self.life));
        if !was_dead {
            state.files[self.file].durable = match called {
                Ok(()) => state.files[self.file].bytes.clone(),
                Err(_) => state.mixed(self.file),
            };
        }
        called.map_err(error_of)
    }
}
