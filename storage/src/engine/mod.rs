//! The engine: the one place that knows the whole flow, from a batch to a durable record to a readable view.
//!
//! ```text
//! caller threads: check, resolve, encode ──queue──> committer: write, sync, publish, answer
//!                                                       │ View (one swap)
//!       compaction ──> maintenance: fold, seal ─────────┘ <── snapshots, scans (any thread)
//! ```
//!
//! # Contract
//! * What [`Engine::append`] has answered `durable` is on disk and in every later [`Snapshot`], and stays.
//! * Nothing is visible before it is durable. One [`Snapshot`] is one instant.
//! * Every call may be made from any thread. None is async; those that wait for the disk say so.
//!
//! # Locks, in the order they may be taken
//! 1 `edits` (one tag edit at a time), 2 `pending` (reserved tags), 3 `install` (making the next View), 4 `view` (the swap),
//! 5 `sessions`, `queue`, `room`, `wal` (each alone). No lock but `wal` and `edits` is held over I/O.
//!
//! # Reading order
//! this file (the surface), [`prepare`] (batch to record), [`committer`], [`core`] (shared state, publishing),
//! [`latest`] (newest samples when what was newest goes).

mod backfill;
mod committer;
pub(crate) mod core;
mod gateways;
mod latest;
mod prepare;
mod retention;
mod tags;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::backup::{self, BackupReport, Job};
use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::error::{Error, Result};
use crate::ids::{SegmentId, Seq};
use crate::maintenance::compact::{self, CompactionReport, Order};
use crate::maintenance::expire::Expiry;
use crate::maintenance::{self, Request, trash};
use crate::metrics::{Metrics, Scrubbed};
use crate::options::Options;
use crate::sample::{Appended, Batch, Durability};
use crate::scan::Snapshot;
use crate::tag::TagId;
use crate::time::{Clock, DAY_NS, Rfc3339, SystemClock, TimeRange};
use crate::wal::record::{Content, Delete};
use core::{Core, Done, Entry};

pub use backfill::{Backfill, BackfillReport, Pushed};
pub use gateways::{GatewayMark, Session, check_gateway};
pub use tags::TagEdit;

/// An open database directory. Share it as `Arc<Engine>`.
///
/// ```
/// use tagmill_storage::*;
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("plant");
/// let engine = Engine::open(&path, Options::default())?;
/// let tag = engine.define(&[TagDefinition::new("U1/TI-101.PV", ValueType::F64)])?[0];
/// let column = TagColumn {
///     tag,
///     times: vec![1_000_000_000, 2_000_000_000],
///     values: Values::F64(vec![20.5, 21.0]),
///     qualities: Qualities::GOOD,
/// };
/// engine.append(Batch { columns: vec![column], ..Batch::default() })?; // on disk when it returns
/// assert_eq!(engine.snapshot().latest(tag).unwrap().value, Value::F64(21.0));
/// # Ok::<(), tagmill_storage::Error>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    core: Arc<Core>,
    committer: Option<JoinHandle<()>>,
    maintenance: Option<JoinHandle<()>>,
    scrub: Option<JoinHandle<()>>,
    compactor: Option<JoinHandle<()>>,
    requests: mpsc::SyncSender<Request>,
    orders: mpsc::SyncSender<Order>,
}

impl Engine {
    /// Opens the database in `path`, or makes one there if [`Options::create`] says so.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it, [`Error::Corrupt`] and [`Error::TooNew`] if it cannot be read,
    /// [`Error::Invalid`] if there is none and none shall be made.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let disk = RealDisk::open(path, options.create)
            .map_err(|e| Error::io("open database directory", path, e))?;
        Self::open_on(Arc::new(disk), Arc::new(SystemClock::default()), options)
    }

    /// Opens a database on a disk and clock of the caller's choice.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: Options) -> Result<Self> {
        options.check()?;
        let (core, ledger) = crate::recovery::open(disk, clock, options)?;
        let core = Arc::new(core);
        let (requests, inbox) = mpsc::sync_channel(64);
        let committer = spawn("tagmill-commit", {
            let core = Arc::clone(&core);
            move || committer::run(&core)
        })?;
        // Not by the thread: the clock is to be compared with what was there before the first write.
        let expiry = Expiry::new(&core);
        let maintenance = spawn("tagmill-maintain", {
            let core = Arc::clone(&core);
            move || maintenance::run(&core, ledger, expiry, &inbox)
        })?;
        let scrub = spawn("tagmill-scrub", {
            let core = Arc::clone(&core);
            move || maintenance::scrub::run(&core)
        })?;
        let (orders, inbox) = mpsc::sync_channel(4);
        let compactor = spawn("tagmill-compact", {
            let (core, requests) = (Arc::clone(&core), requests.clone());
            move || compact::run(&core, &requests, &inbox)
        })?;
        let (committer, maintenance) = (Some(committer), Some(maintenance));
        let (scrub, compactor) = (Some(scrub), Some(compactor));
        Ok(Self { core, committer, maintenance, scrub, compactor, requests, orders })
    }

    /// Random number of this database, new after a restore: gateways begin a new epoch when it changes.
    pub fn incarnation(&self) -> u64 {
        self.core.incarnation
    }

    /// One consistent view of everything durable. Cheap.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { view: self.core.view() }
    }

    /// Writes a batch and waits until the disk has it (or, with [`Durability::Interval`], until it is written).
    ///
    /// Samples that cannot be taken are listed in [`Appended::rejects`]; the rest is taken.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::DiskFull`], [`Error::Io`]: nothing was written. [`Error::Gap`], [`Error::Fenced`]: of
    /// batches with an origin. [`Error::Poisoned`]: unknown. [`Error::Invalid`]: no samples and no origin, or too many.
    pub fn append(&self, batch: Batch) -> Result<Appended> {
        wait_for(|done| self.submit(batch, done))
    }

    /// Writes a batch and calls `done` on the committer's thread with what became of it: keep that short.
    ///
    /// Does not wait for the disk, but waits up to [`Options::busy_wait`] for room in the head. Batches of one thread are
    /// committed in the order of their submission.
    pub fn submit(&self, batch: Batch, done: Done) {
        match prepare::entry(&self.core, batch) {
            Ok(entry) => self.core.enqueue(Entry { done, ..entry }),
            Err(error) => done(Err(error)),
        }
    }

    /// Waits until everything submitted before is durable, [`Durability::Interval`] batches included.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn sync(&self) -> Result<Seq> {
        let entry = Entry::of(Content::default(), Durability::Synced);
        let appended = wait_for(|done| self.core.enqueue(Entry { done, ..entry }))?;
        Ok(appended.seq)
    }

    /// Moves the head into segments now, and waits until they are installed. Gives their ids.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]: the head stays and the log still covers it.
    pub fn seal(&self) -> Result<Vec<SegmentId>> {
        self.sync()?;
        self.ask(Request::Seal)
    }

    /// Seals the head, then merges all segments into one for each day, without what was deleted or has ended, and waits for
    /// it. Appends and queries go on; what is written meanwhile may be left out.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]: what was not done yet stays as it was. [`Error::Corrupt`] names a segment that
    /// cannot be read: it stays, and with it the others of its days; the rest is merged. Else as [`Self::seal`].
    pub fn compact(&self) -> Result<CompactionReport> {
        self.seal()?;
        let (reply, answer) = mpsc::sync_channel(1);
        self.orders.send(Order::Everything(reply)).map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)?
    }

    /// What the engine has done since it was opened, in figures.
    pub fn metrics(&self) -> Metrics {
        let view = self.core.view();
        let metas = || view.version.all().map(|segment| segment.meta());
        Metrics {
            segments: metas().count() as u64,
            segment_bytes: metas().map(|meta| meta.file_bytes).sum(),
            ..self.core.counters.read()
        }
    }

    /// Deletes every sample of `tags` in `range` that is older than this call; visible when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown tag or an empty range, or where nothing but rollups is left and the range does not
    /// take whole UTC days; else as [`Self::append`].
    pub fn delete(&self, tags: &[TagId], range: TimeRange, who: &str) -> Result<Seq> {
        if range.is_empty() {
            return Err(Error::Invalid(format!(
                "the range {range} is empty: end must be after start"
            )));
        }
        let mut tags = tags.to_vec();
        tags.sort_unstable();
        tags.dedup();
        let view = self.core.view();
        if let Some(unknown) = tags.iter().find(|tag| view.registry.get(**tag).is_none()) {
            return Err(Error::Invalid(format!("there is no tag {unknown}")));
        }
        if tags.is_empty() {
            return Err(Error::Invalid("a delete needs at least one tag".into()));
        }
        // What is left of samples that have ended is whole days at the coarsest.
        for tag in &tags {
            let beyond = range.intersect(&view.ends_of(*tag).beyond_raw());
            let is_whole = |time_ns: i64| time_ns.rem_euclid(DAY_NS) == 0;
            let cuts = !is_whole(beyond.start_ns) || !is_whole(beyond.end_ns);
            if cuts && !beyond.is_empty() {
                let from = Rfc3339(beyond.end_ns);
                let name = view.registry.get(*tag).map_or("", |tag| tag.name.as_ref());
                return Err(Error::Invalid(format!(
                    "of tag {name:?} only rollups are left before {from}: there a delete must take whole days, in UTC"
                )));
            }
        }
        let delete = Delete { tags: tags.into(), range, who: Arc::from(who) };
        self.write(Content { delete: Some(delete), ..Content::default() })
    }

    /// Reads every byte of every live segment and hands over what does not verify: file, tags and time range. Gives the
    /// number of damaged places. The database works on meanwhile.
    ///
    /// What it finds goes into quarantine ([`Snapshot::damage`]), and places that verify again leave it. If all is whole,
    /// files that crashes have left in the folder `trash` are removed.
    ///
    /// # Errors
    /// None; a file that cannot be read is handed over like damage.
    pub fn verify(&self, damage: &mut dyn FnMut(Error)) -> u64 {
        let (mut places, mut suspects) = (0, Vec::new());
        for segment in self.core.view().version.all() {
            let mut found = |error, place| {
                places += 1;
                suspects.extend(place);
                damage(error);
            };
            segment.verify_places(&mut found, &mut |_| true);
        }
        // Damage that could not be written down is met, and reported, by whoever reads it.
        let judged = self.ask(|reply| Request::Judge(suspects, reply));
        if places == 0 && judged.is_ok() {
            trash::empty(&self.core);
        }
        places
    }

    /// Takes a backup into `folder` while the database works on: one instant, everything durable now included. What an
    /// earlier backup of this database left there is read through, at [`Options::maintenance_bytes_per_s`], and used again
    /// if it is whole. On one file system segments are linked if `may_link`; else they are copied, those too that an
    /// earlier backup had linked.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the folder holds something else, [`Error::Locked`] if another backup is made there,
    /// [`Error::DiskFull`], [`Error::Io`]. The folder then still counts as the earlier backup, or as none.
    pub fn backup(&self, folder: &Path, may_link: bool) -> Result<BackupReport> {
        self.backup_on(&crate::backup::open_folder(folder, true)?, may_link)
    }

    /// The same on a disk of the caller's choice.
    ///
    /// # Errors
    /// As [`Self::backup`].
    pub fn backup_on(&self, target: &Arc<dyn Disk>, may_link: bool) -> Result<BackupReport> {
        let (source, incarnation) = (&self.core.disk, self.core.incarnation);
        let verify_bytes_per_s = self.core.options.maintenance_bytes_per_s;
        let job = Job { source, target, incarnation, may_link, verify_bytes_per_s };
        backup::take(&job, || {
            self.sync()?;
            self.ask(Request::Pin)
        })
    }

    /// What scrubbing has done since the open ([`Options::scrub_period`]).
    pub fn scrubbed(&self) -> Scrubbed {
        self.core.counters.read().scrubbed
    }

    /// Gives up for good what the damaged places of a segment held, so that scans no longer stop there: the readable
    /// rest becomes a new segment, whose id this gives, and older samples of those tags and times may be current again.
    /// The damaged file goes to the folder `quarantine`, and stays there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the segment has no damaged place; [`Error::DiskFull`], [`Error::Io`], [`Error::Corrupt`]
    /// if the rest cannot be written: nothing has changed then.
    pub fn forget_damage(&self, segment: SegmentId) -> Result<Option<SegmentId>> {
        self.ask(|reply| Request::Forget(segment, reply))
    }

    /// Asks the maintenance thread and waits for its answer.
    fn ask<T>(&self, request: impl FnOnce(mpsc::SyncSender<Result<T>>) -> Request) -> Result<T> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.requests.send(request(reply)).map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)?
    }

    /// Writes the final mark and ends the threads.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the last sync failed.
    pub fn close(mut self) -> Result<()> {
        self.stop()
    }

    /// Writes one record that holds no samples, and waits until it is durable.
    ///
    /// A delete is written even where the disk is full, for it is how space is freed.
    fn write(&self, content: Content) -> Result<Seq> {
        let again = content.delete.is_some().then(|| content.clone());
        match (self.core.write(content), again) {
            (Err(Error::DiskFull { .. }), Some(content)) => {
                self.core.ballast.urgently(|| self.core.write(content))
            }
            (result, _) => result,
        }
    }

    fn stop(&mut self) -> Result<()> {
        let Some(committer) = self.committer.take() else { return Ok(()) };
        self.core.close_queue();
        let joined = committer.join().map_err(|_| Error::Closed);
        // A full inbox means that maintenance is awake: it sees the closed queue by itself.
        let _woken = self.requests.try_send(Request::Stop);
        let ended = self.maintenance.take().map_or(Ok(()), JoinHandle::join);
        let _woken = self.orders.try_send(Order::Stop);
        let compacted = self.compactor.take().map_or(Ok(()), JoinHandle::join);
        let scrubbed = self.scrub.take().map_or(Ok(()), |scrub| {
            scrub.thread().unpark();
            scrub.join()
        });
        joined.and(ended.and(compacted).and(scrubbed).map_err(|_| Error::Closed))?;
        self.core.close_log()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A poisoned log was reported to those whose writes it concerned.
        let _reported = self.stop();
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(body).map_err(|e| Error::io("start thread", name, e))
}

/// Runs `submit` with a callback and waits for its answer.
fn wait_for(submit: impl FnOnce(Done)) -> Result<Appended> {
    let (reply, answer) = mpsc::sync_channel(1);
    submit(Box::new(move |result| {
        let _receiver_waits_below = reply.send(result);
    }));
    answer.recv().unwrap_or(Err(Error::Closed))
}
