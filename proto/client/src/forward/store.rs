//! The queue of records that all servers share: one thread writes it, whoever delivers reads it.
//!
//! # Contract
//! * Appends are answered when their records are durable. What waits is written together, with one sync.
//! * Room comes first from files whose records every server has; then the policy of [`Full`] decides.
//! * A record is removed in front of a server that lacks it by [`Full::DropOldest`] alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use super::folder::Folder;
use super::frames::{HEADER_BYTES, frame_len};
use super::known::Known;
use super::log::{Content, Log};
use super::options::{ForwardOptions, Full};
use crate::error::{Error, Result};

/// Bytes that are written together.
const GROUP_BYTES: u64 = 4 << 20;
/// Remarks that are kept for people.
const NOTICES_KEPT: usize = 100;

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) content: Content,
    pub(super) done: oneshot::Sender<Result<u64>>,
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
    /// Wakes an append that waits for room. The lock holds nothing: what is waited for is in the atomics.
    room: (Mutex<()>, Condvar),
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
            notices: Mutex::default(),
            known: Mutex::new(known),
            log,
        }
    }

    /// A server has come this far, or went back.
    pub(super) fn set_acked(&self, server: usize, record: u64) {
        if let Some(acked) = self.acked.get(server)
            && acked.swap(record, Ordering::SeqCst) < record
        {
            self.wake();
        }
    }

    /// Up to where a server has everything.
    pub(super) fn acked(&self, server: usize) -> u64 {
        self.acked.get(server).map_or(0, |acked| acked.load(Ordering::SeqCst))
    }

    fn wake(&self) {
        // Taken so that no waiter is between its look and its sleep.
        drop(self.room.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.room.1.notify_all();
    }

    /// An alias was given that batches may hold from now on.
    pub(super) fn set_aliases(&self, last: u32) {
        self.aliases.fetch_max(u64::from(last), Ordering::SeqCst);
    }

    /// Appends that wait for room end.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.wake();
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
    /// [`Error::TooLarge`].
    pub(super) fn check_fits(&self, bytes: usize) -> Result<()> {
        let most = self.capacity_bytes - 4 * HEADER_BYTES as u64;
        if frame_len(bytes) as u64 <= most {
            return Ok(());
        }
        Err(Error::TooLarge { bytes, limit_bytes: usize::try_from(most).unwrap_or(usize::MAX) })
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
                && bytes < GROUP_BYTES
                && let Ok(job) = jobs.try_recv()
            {
                let more = job.content.stored_bytes();
                if self.make_room(bytes + more, false, before_removal).is_err() {
                    next = Some(job);
                    break;
                }
                bytes += more;
                group.push(job);
            }
            self.commit(group);
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
    }

    fn commit(&self, group: Vec<Job>) {
        if group.is_empty() {
            return;
        }
        let (contents, done): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.content, job.done)).unzip();
        let aliases = u32::try_from(self.aliases.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
        match self.log.append(&contents, aliases) {
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

    /// Removes files until this many bytes fit. Each turn removes one, closes one, or waits for a server.
    fn make_room(&self, bytes: u64, may_wait: bool, before_removal: &dyn Fn()) -> Result<()> {
        // A new file has a header.
        let needed = bytes + HEADER_BYTES as u64;
        while self.log.bytes() + needed > self.capacity_bytes {
            if self.is_closing.load(Ordering::SeqCst) {
                return Err(Error::Closed);
            }
            let Some((oldest, is_tail)) = self.log.front() else { return Ok(()) };
            let acked = self.least_acked();
            let is_delivered = oldest.last <= acked;
            if is_delivered || self.when_full == Full::DropOldest {
                if is_tail && !oldest.is_empty() {
                    self.log.seal()?;
                    continue;
                }
                if is_tail {
                    return Err(self.full());
                }
                if is_delivered {
                    before_removal();
                } else {
                    let last = oldest.last;
                    self.note(format!("the queue is full: records up to {last} were dropped"));
                }
                self.log.remove_front()?;
            } else if self.when_full == Full::Block && may_wait {
                self.wait_for_servers(acked);
            } else {
                return Err(self.full());
            }
        }
        Ok(())
    }

    fn full(&self) -> Error {
        Error::Full { path: self.folder.path().to_owned(), capacity_bytes: self.capacity_bytes }
    }

    fn least_acked(&self) -> u64 {
        let acked = self.acked.iter().map(|acked| acked.load(Ordering::SeqCst));
        acked.min().unwrap_or_default()
    }

    /// Waits until the server that is furthest behind has moved, or the queue closes.
    fn wait_for_servers(&self, acked: u64) {
        let (lock, moved) = &self.room;
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same =
            |(): &mut ()| self.least_acked() <= acked && !self.is_closing.load(Ordering::SeqCst);
        drop(moved.wait_while(guard, is_same).unwrap_or_else(PoisonError::into_inner));
    }
}
