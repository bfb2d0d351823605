//! The queue of records that all servers share: one thread writes it, whoever delivers reads it.
//!
//! # Contract
//! * Appends are answered when their records are durable. What waits is written together, with one sync.
//! * Room comes first from files whose records every server has; then the policy of [`Full`] decides. A disk without room
//!   is a full queue, however little of its capacity is used.
//! * A record is removed in front of a server that lacks it by [`Full::DropOldest`] alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::folder::Folder;
use super::frames::{HEADER_BYTES, frame_len};
use super::known::Known;
use super::log::{Content, Log, Segment};
use super::options::{ForwardOptions, Full};
use crate::error::{Error, Result};

/// Bytes that are written together.
const GROUP_BYTES: u64 = 4 << 20;
/// How long until a full disk is tried again: who else fills it does not tell.
const DISK_AGAIN: Duration = Duration::from_secs(1);
/// Remarks that are kept for people.
const NOTICES_KEPT: usize = 100;

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) content: Content,
    pub(super) done: oneshot::Sender<Result<u64>>,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// What the queue may take.
    Capacity,
    /// What the disk has.
    Disk,
}

/// The queue on disk.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) folder: Arc<Folder>,
    pub(super) log: Log,
    pub(super) known: Mutex<Known>,
    /// For each server the greatest record that it has on disk, or that was given up.
    pub(super) acked: Vec<AtomicU64>,
    /// The last record that is durable.
    pub(super) appended: watch::Sender<u64>,
    capacity_bytes: u64,
    when_full: Full,
    /// The greatest alias that batches may hold.
    aliases: AtomicU64,
    is_closing: AtomicBool,
    /// Wakes an append that waits for room. The lock is held where `acked` changes and where a file goes because of it.
    room: (Mutex<()>, Condvar),
    /// Whether an append was told of that waits for room on the disk.
    is_disk_full: AtomicBool,
    notices: Mutex<Vec<String>>,
}

impl Store {
    /// Puts together what was opened. `acked` is where the servers stand.
    pub(super) fn new(
        log: Log,
        known: Known,
        folder: Arc<Folder>,
        options: &ForwardOptions,
    ) -> Self {
        let (appended, _) = watch::channel(log.end());
        let next = log.oldest();
        Self {
            folder,
            acked: options.to.iter().map(|_| AtomicU64::new(next - 1)).collect(),
            appended,
            capacity_bytes: options.capacity_bytes,
            when_full: options.when_full,
            aliases: AtomicU64::new(u64::from(known.last_alias())),
            is_closing: AtomicBool::new(false),
            room: (Mutex::new(()), Condvar::new()),
            is_disk_full: AtomicBool::new(false),
            notices: Mutex::default(),
            known: Mutex::new(known),
            log,
        }
    }

    /// A server has come this far, or went back.
    pub(super) fn set_acked(&self, server: usize, record: u64) {
        let Some(acked) = self.acked.get(server) else { return };
        let held = self.lock_room();
        let before = acked.swap(record, Ordering::SeqCst);
        drop(held);
        if before < record {
            self.room.1.notify_all();
        }
    }

    /// Up to where a server has everything.
    pub(super) fn acked(&self, server: usize) -> u64 {
        self.acked.get(server).map_or(0, |acked| acked.load(Ordering::SeqCst))
    }

    fn lock_room(&self) -> MutexGuard<'_, ()> {
        self.room.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An alias was given that batches may hold from now on.
    pub(super) fn set_aliases(&self, last: u32) {
        self.aliases.fetch_max(u64::from(last), Ordering::SeqCst);
    }

    /// Appends that wait for room end.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        // Taken so that no waiter is between its look and its sleep.
        drop(self.lock_room());
        self.room.1.notify_all();
    }

    /// Keeps a remark for people.
    pub(super) fn note(&self, what: String) {
        tracing::warn!(queue = %self.folder.path().display(), "{what}");
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() < NOTICES_KEPT {
            notices.push(what);
        }
    }

    /// Everything that people should know and was not told yet.
    pub(super) fn take_notices(&self) -> Vec<String> {
        let mut notices =
            std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner));
        notices.extend(self.log.take_damage());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        notices.extend(known.take_damage());
        notices
    }

    /// Whether a batch of this length fits into the queue at all.
    ///
    /// # Errors
    /// [`Error::Unfit`].
    pub(super) fn check_fits(&self, bytes: usize) -> Result<()> {
        let most = self.capacity_bytes - 4 * HEADER_BYTES as u64;
        if frame_len(bytes) as u64 <= most {
            return Ok(());
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Err(Error::Unfit { bytes, limit_bytes: most.saturating_sub(frame_len(0)) })
    }

    /// Writes what comes, until nobody can send any more or the queue is closed. `before_removal` is called before records
    /// that every server has are removed, so that positions on disk are not behind them.
    pub(super) fn write(&self, mut jobs: mpsc::Receiver<Job>, before_removal: &dyn Fn()) {
        let mut next = jobs.blocking_recv();
        while let Some(first) = next.take() {
            let mut group = Vec::new();
            let mut bytes = first.content.stored_bytes();
            match self.make_room(bytes, true, before_removal) {
                Ok(()) => group.push(first),
                // Whoever asked may have gone.
                Err(error) => drop(first.done.send(Err(error))),
            }
            while !group.is_empty()
                && let Ok(job) = jobs.try_recv()
            {
                let more = job.content.stored_bytes();
                // A group is in one file: a longer one would make that file most of a small queue, which goes as a whole.
                if bytes + more > self.log.group_bytes_max().min(GROUP_BYTES)
                    || self.make_room(bytes + more, false, before_removal).is_err()
                {
                    next = Some(job);
                    break;
                }
                bytes += more;
                group.push(job);
            }
            self.commit(group, before_removal);
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
    }

    fn commit(&self, group: Vec<Job>, before_removal: &dyn Fn()) {
        if group.is_empty() {
            return;
        }
        let (contents, done): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.content, job.done)).unzip();
        let aliases = u32::try_from(self.aliases.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
        match self.with_room(before_removal, || self.log.append(&contents, aliases)) {
            Ok(last) => {
                self.appended.send_replace(last);
                let first = last + 1 - contents.len() as u64;
                for (record, done) in (first..).zip(done) {
                    drop(done.send(Ok(record)));
                }
            }
            Err(error) => done.into_iter().for_each(|done| drop(done.send(Err(error.clone())))),
        }
    }

    /// Does what needs room on the disk. While there is none the queue gives way, as if it were full.
    ///
    /// # Errors
    /// What the work says but that the disk is full; [`Error::Full`], [`Error::Closed`].
    pub(super) fn with_room<T>(
        &self,
        before_removal: &dyn Fn(),
        mut work: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        loop {
            match work() {
                Err(error) if error.is_disk_full() => {
                    self.give_way(Lack::Disk, true, before_removal)?;
                }
                done => {
                    self.is_disk_full.store(false, Ordering::SeqCst);
                    return done;
                }
            }
        }
    }

    /// Gives way until this many bytes fit.
    fn make_room(&self, bytes: u64, may_wait: bool, before_removal: &dyn Fn()) -> Result<()> {
        // A new file has a header.
        let needed = bytes + HEADER_BYTES as u64;
        while self.log.bytes() + needed > self.capacity_bytes {
            self.give_way(Lack::Capacity, may_wait, before_removal)?;
        }
        Ok(())
    }

    /// Removes a file, closes one, or waits for a server.
    fn give_way(&self, mut lack: Lack, may_wait: bool, before_removal: &dyn Fn()) -> Result<()> {
        if self.is_closing.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        let (front, acked) = (self.log.front(), self.least_acked());
        if let Some((oldest, is_tail)) = front
            && (oldest.last <= acked || self.when_full == Full::DropOldest)
        {
            if !is_tail {
                return self.remove(&oldest, before_removal);
            }
            if !oldest.is_empty() {
                match self.log.seal() {
                    // Without another file this one has to stay: it knows which numbers were given.
                    Err(error) if error.is_disk_full() => lack = Lack::Disk,
                    sealed => return sealed,
                }
            }
        }
        if self.when_full != Full::Block || !may_wait {
            return Err(self.full(lack));
        }
        let next = front.map(|(oldest, _)| oldest.last).filter(|last| *last > acked);
        self.wait_for_servers(lack, next);
        Ok(())
    }

    /// Removes the oldest file, if that is still right when the positions are saved.
    fn remove(&self, oldest: &Segment, before_removal: &dyn Fn()) -> Result<()> {
        if oldest.last <= self.least_acked() {
            before_removal();
        }
        let is_delivered = {
            // A server that was restored meanwhile needs it again. From here on it finds it gone, and counts that.
            let _held = self.lock_room();
            let is_delivered = oldest.last <= self.least_acked();
            let may_go = is_delivered || self.when_full == Full::DropOldest;
            if !may_go || !self.log.pop_front(oldest) {
                return Ok(());
            }
            is_delivered
        };
        if !is_delivered {
            let last = oldest.last;
            self.note(format!("the queue is full: records up to {last} were dropped"));
        }
        self.log.remove(oldest)
    }

    fn full(&self, lack: Lack) -> Error {
        let capacity_bytes = (lack == Lack::Capacity).then_some(self.capacity_bytes);
        Error::Full { path: self.folder.path().to_owned(), capacity_bytes }
    }

    fn least_acked(&self) -> u64 {
        let acked = self.acked.iter().map(|acked| acked.load(Ordering::SeqCst));
        acked.min().unwrap_or_default()
    }

    /// Waits until every server has this record, or the queue closes; for room on the disk not for long.
    fn wait_for_servers(&self, lack: Lack, record: Option<u64>) {
        if lack == Lack::Disk && !self.is_disk_full.swap(true, Ordering::SeqCst) {
            let oldest = self.log.oldest();
            self.note(format!(
                "there is no room on the disk, and records from {oldest} on are needed: what comes waits"
            ));
        }
        let (_, moved) = &self.room;
        let is_same = |(): &mut ()| {
            let is_lacked = record.is_none_or(|record| self.least_acked() < record);
            is_lacked && !self.is_closing.load(Ordering::SeqCst)
        };
        let guard = self.lock_room();
        if lack == Lack::Disk {
            drop(moved.wait_timeout_while(guard, DISK_AGAIN, is_same));
        } else {
            drop(moved.wait_while(guard, is_same).unwrap_or_else(PoisonError::into_inner));
        }
    }
}
