//! What the engine's threads share: the View and its swap, the queue, the log, reserved tags.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::disk::ballast::Ballast;
use crate::error::{Error, Result};
use crate::head::run::Run;
use crate::head::tombstone::Tombstone;
use crate::ids::{SegmentId, Seq};
use crate::metrics::Counters;
use crate::options::Options;
use crate::registry::Change;
use crate::sample::{Appended, Durability, Origin, Reject};
use crate::scan::snapshot::View;
use crate::tag::{Tag, TagId};
use crate::time::Clock;
use crate::wal::record::{Content, Delete, Payload};
use crate::wal::writer::WalWriter;

/// Called once with what became of a record, on the committer's thread.
pub(crate) type Done = Box<dyn FnOnce(Result<Appended>) + Send>;

/// A record on its way to the log.
pub(crate) struct Entry {
    pub(crate) content: Content,
    /// `None` for a barrier, which writes nothing.
    pub(crate) payload: Option<Payload>,
    pub(crate) durability: Durability,
    pub(crate) accepted: u64,
    pub(crate) rejects: Vec<Reject>,
    pub(crate) done: Done,
}

impl Entry {
    /// A record of this content, encoded here; empty content makes a barrier.
    pub(crate) fn of(content: Content, durability: Durability) -> Self {
        let payload = (content != Content::default()).then(|| content.encode());
        let (accepted, rejects) = (0, Vec::new());
        Self { content, payload, durability, accepted, rejects, done: Box::new(|_| {}) }
    }

    pub(crate) fn head_bytes(&self) -> u64 {
        self.content.run.as_ref().map_or(0, crate::head::run::Run::bytes)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    is_closed: bool,
}

/// Tags that have an id but no durable definition yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) by_name: HashMap<Arc<str>, TagId>,
    pub(crate) by_id: HashMap<TagId, Arc<Tag>>,
    pub(crate) next_id: u32,
}

/// State that changes together with the View.
#[derive(Debug, Default)]
pub(crate) struct Install {
    /// Durable registry changes that `registry.log` does not hold yet.
    pub(crate) unlogged: Vec<(Seq, Change)>,
    /// Monotonic time when the oldest unfolded run was published.
    pub(crate) unfolded_since_ns: Option<u64>,
    /// Monotonic time when the oldest unsealed run was published.
    pub(crate) unsealed_since_ns: Option<u64>,
}

/// The newest session of each gateway. Not durable: a restart ends every session.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    newest: HashMap<Arc<str>, u64>,
    opened: u64,
}

impl Sessions {
    /// Makes a session that fences the gateway's older ones. Gives its generation.
    pub(crate) fn open(&mut self, gateway: &str) -> u64 {
        self.opened += 1;
        self.newest.insert(Arc::from(gateway), self.opened);
        self.opened
    }

    /// Whether the gateway has opened one.
    pub(crate) fn has(&self, gateway: &str) -> bool {
        self.newest.contains_key(gateway)
    }

    /// Whether the gateway has opened a newer session than `generation`.
    pub(crate) fn is_fenced(&self, gateway: &str, generation: u64) -> bool {
        self.newest.get(gateway).is_some_and(|newest| generation < *newest)
    }
}

/// Shared by the engine's threads.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) disk: Arc<dyn Disk>,
    /// The same disk, as the one who sets room aside.
    pub(crate) ballast: Ballast,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Options,
    pub(crate) incarnation: u64,
    pub(crate) edits: Mutex<()>,
    pub(crate) pending: Mutex<Pending>,
    pub(crate) install: Mutex<Install>,
    view: RwLock<Arc<View>>,
    /// The next segment's id: seals and compactions take theirs from here.
    next_segment: AtomicU64,
    pub(crate) counters: Counters,
    pub(crate) sessions: Mutex<Sessions>,
    queue: Mutex<Queue>,
    queue_filled: Condvar,
    queued_bytes: AtomicU64,
    room: Mutex<()>,
    room_made: Condvar,
    pub(crate) wal: Mutex<WalWriter>,
    /// Held until the last thread is gone.
    _directory_lock: Box<dyn Send + Sync + std::fmt::Debug>,
}

/// A lock whose holder panicked still guards consistent state: every critical section replaces whole values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guard of the directory lock, of which nothing is asked but to live.
struct Held(#[expect(dead_code, reason = "dropping it frees the directory")] Box<dyn Send + Sync>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl Core {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: Options,
        wal: WalWriter,
        start: Start,
    ) -> Self {
        let Start { incarnation, view, next_segment, directory_lock, ballast } = start;
        let next_id = u32::try_from(view.registry.len()).unwrap_or(u32::MAX);
        let now = clock.monotonic_ns();
        let since = (!view.head.runs.is_empty()).then_some(now);
        let install =
            Install { unlogged: Vec::new(), unfolded_since_ns: since, unsealed_since_ns: since };
        Self {
            disk,
            ballast,
            clock,
            options,
            incarnation,
            edits: Mutex::default(),
            pending: Mutex::new(Pending { next_id, ..Pending::default() }),
            install: Mutex::new(install),
            view: RwLock::new(Arc::new(view)),
            next_segment: AtomicU64::new(next_segment.0),
            counters: Counters::default(),
            sessions: Mutex::default(),
            queue: Mutex::default(),
            queue_filled: Condvar::new(),
            queued_bytes: AtomicU64::new(0),
            room: Mutex::default(),
            room_made: Condvar::new(),
            wal: Mutex::new(wal),
            _directory_lock: Box::new(Held(directory_lock)),
        }
    }

    /// The current View.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the next View. The caller holds `install`.
    pub(crate) fn swap(&self, next: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// An id that no segment had.
    pub(crate) fn take_segment_id(&self) -> SegmentId {
        SegmentId(self.next_segment.fetch_add(1, Ordering::Relaxed))
    }

    /// Greater than every id that was taken.
    pub(crate) fn next_segment(&self) -> SegmentId {
        SegmentId(self.next_segment.load(Ordering::Relaxed))
    }

    /// Puts a record in the queue once the head has room for it.
    pub(crate) fn enqueue(&self, entry: Entry) {
        let bytes = entry.head_bytes();
        if bytes > 0
            && let Err(busy) = self.wait_for_room()
        {
            return (entry.done)(Err(busy));
        }
        let mut queue = lock(&self.queue);
        if queue.is_closed {
            drop(queue);
            return (entry.done)(Err(Error::Closed));
        }
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        queue.entries.push_back(entry);
        drop(queue);
        self.queue_filled.notify_one();
    }

    /// Writes one record that holds no samples, and waits until it is durable.
    pub(crate) fn write(&self, content: Content) -> Result<Seq> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        let done: Done = Box::new(move |result| {
            let _receiver_waits_below = reply.send(result);
        });
        self.enqueue(Entry { done, ..Entry::of(content, Durability::Synced) });
        let appended: Appended = answer.recv().unwrap_or(Err(Error::Closed))?;
        Ok(appended.seq)
    }

    /// Bytes the head holds, and those on their way to it.
    pub(crate) fn head_bytes(&self) -> u64 {
        self.view().head.bytes + self.queued_bytes.load(Ordering::Relaxed)
    }

    fn wait_for_room(&self) -> Result<()> {
        let limit_bytes = self.options.head_bytes;
        let deadline = Instant::now() + self.options.busy_wait;
        let mut guard = lock(&self.room);
        loop {
            let used_bytes = self.head_bytes();
            if used_bytes < limit_bytes {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Busy { used_bytes, limit_bytes });
            }
            // Looks again now and then by itself, so that a notice that came before the wait costs little.
            let nap = left.min(Duration::from_millis(20));
            let waited = self.room_made.wait_timeout(guard, nap);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Wakes appends that wait for room.
    pub(crate) fn room_was_made(&self) {
        self.room_made.notify_all();
    }

    /// Takes queued records, up to about `bytes_max` of payload; waits up to `patience` for the first. `None` once the
    /// queue is closed and empty.
    pub(crate) fn take_queued(&self, bytes_max: usize, patience: Duration) -> Option<Vec<Entry>> {
        let mut queue = lock(&self.queue);
        if queue.entries.is_empty() && !queue.is_closed {
            let waited = self.queue_filled.wait_timeout(queue, patience);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if queue.entries.is_empty() && queue.is_closed {
            return None;
        }
        let mut bytes = 0;
        let mut taken = Vec::new();
        while bytes < bytes_max
            && let Some(entry) = queue.entries.pop_front()
        {
            bytes += entry.payload.as_ref().map_or(0, |payload| payload.bytes.len());
            taken.push(entry);
        }
        Some(taken)
    }

    /// Notes that a record of these head bytes has left the queue, for the head or for nothing.
    pub(crate) fn left_queue(&self, bytes: u64) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Refuses further records; those queued are still written.
    pub(crate) fn close_queue(&self) {
        lock(&self.queue).is_closed = true;
        self.queue_filled.notify_all();
    }

    /// Whether no further records are taken.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.queue).is_closed
    }

    /// Writes the log's final mark.
    pub(crate) fn close_log(&self) -> Result<()> {
        lock(&self.wal).close()
    }

    /// Makes durable records visible, in one swap. Segments are read only if a record hides latest samples, and before a
    /// lock is taken.
    pub(crate) fn publish(&self, records: Vec<(Seq, Content)>) {
        if records.is_empty() {
            return;
        }
        let mut records: Vec<Record> = records.into_iter().map(Record::from).collect();
        let may_hide = records.iter().any(Record::may_hide);
        loop {
            let mut change = |view: &mut View| {
                let mut stale = BTreeSet::new();
                for record in &mut records {
                    view.apply(record, &mut stale);
                }
                stale
            };
            let ahead = may_hide.then(|| self.look_ahead(&mut change));
            let mut pending = lock(&self.pending);
            let mut install = lock(&self.install);
            let current = self.view();
            let mut next = View::clone(&current);
            let stale = change(&mut next);
            match ahead {
                None => assert!(stale.is_empty(), "only deletes and edits hide samples"),
                Some(ahead) if ahead.holds(&current, &stale) => {
                    next.take_newest(ahead);
                    next.edition += 1;
                }
                Some(_) => continue, // maintenance was faster
            }
            for Record { seq, changes, run, .. } in records {
                pending.note(&changes);
                install.unlogged.extend(changes.into_iter().map(|change| (seq, change)));
                if run.is_some() {
                    let now = self.clock.monotonic_ns();
                    install.unfolded_since_ns.get_or_insert(now);
                    install.unsealed_since_ns.get_or_insert(now);
                }
            }
            return self.swap(next);
        }
    }
}

/// A durable record on its way into the View.
struct Record {
    seq: Seq,
    changes: Vec<Change>,
    origin: Option<Origin>,
    delete: Option<Delete>,
    run: Option<Arc<Run>>,
}

impl From<(Seq, Content)> for Record {
    fn from((seq, content): (Seq, Content)) -> Self {
        let Content { origin, changes, delete, run } = content;
        let run = run.map(|mut run| {
            (run.min_seq, run.max_seq) = (seq, seq);
            Arc::new(run)
        });
        // A delete of no tags only takes a place in the order.
        let delete = delete.filter(|delete| !delete.tags.is_empty());
        Self { seq, changes, origin, delete, run }
    }
}

impl Record {
    /// Whether it may take the latest sample of a tag away, or bring an older one back.
    fn may_hide(&self) -> bool {
        let is_edit = |change: &Change| matches!(change, Change::Edit { attributes: Some(_), .. });
        self.delete.is_some() || self.changes.iter().any(is_edit)
    }
}

impl Pending {
    /// These changes are durable.
    fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Define(tag) => {
                    self.by_id.remove(&tag.id);
                    self.by_name.remove(&tag.name);
                }
                Change::Edit { name: Some(name), .. } => {
                    self.by_name.remove(name);
                }
                _ => {}
            }
        }
    }
}

/// What recovery hands to a new core.
pub(crate) struct Start {
    pub(crate) incarnation: u64,
    pub(crate) view: View,
    pub(crate) next_segment: SegmentId,
    pub(crate) directory_lock: Box<dyn Send + Sync>,
    pub(crate) ballast: Ballast,
}

impl View {
    /// Takes a registry change.
    pub(crate) fn apply_change(&mut self, change: &Change) {
        self.registry.apply(change);
        if matches!(change, Change::Aliases { .. } | Change::TagSet { .. }) {
            Arc::make_mut(&mut self.gateways).apply(change);
        }
    }

    /// Takes a registry change. A tag that goes to a class which keeps more is added to `stale`: its latest sample may be
    /// one that had ended, or none any more.
    fn apply_change_seen(&mut self, change: &Change, stale: &mut BTreeSet<TagId>) {
        let Change::Edit { id, attributes: Some(_), .. } = change else {
            return self.apply_change(change);
        };
        let before_ns = self.horizon_of(*id);
        self.apply_change(change);
        if self.horizon_of(*id) < before_ns {
            stale.insert(*id);
        }
    }

    /// Takes a durable record. Tags whose latest sample it may have hidden are added to `stale`.
    fn apply(&mut self, record: &mut Record, stale: &mut BTreeSet<TagId>) {
        let seq = record.seq;
        assert!(self.durable_seq < seq, "record {seq} published after {}", self.durable_seq);
        self.durable_seq = seq;
        for change in &mut record.changes {
            self.registry.share_change(change);
            self.apply_change_seen(change, stale);
        }
        if let Some(origin) = &record.origin {
            Arc::make_mut(&mut self.gateways).advance(origin);
        }
        if let Some(Delete { tags, range, who }) = &record.delete {
            let hides = |tag: &&TagId| {
                let latest = self.latest.get(**tag);
                latest.is_some_and(|entry| range.contains(entry.time_ns))
            };
            stale.extend(tags.iter().filter(hides));
            let (tags, range, who) = (Arc::clone(tags), *range, Arc::clone(who));
            self.tombstones = self.tombstones.with(Tombstone { seq, tags, range, who });
        }
        if let Some(run) = record.run.as_ref().filter(|run| !run.times.is_empty()) {
            self.latest.observe(run);
            self.head.push(Arc::clone(run));
        }
    }
}
