//! Compaction: segments are written again as fewer, with late samples in their places and deletes applied.
//!
//! # Contract
//! * No answer changes. One edit of the manifest takes the inputs out and the outputs in; a crash before it leaves files
//!   that the next open moves to `trash/`, a crash after it leaves inputs that go the same way.
//! * It runs on a thread of its own, so that seals go on; only the commit is made by the maintenance thread.
//! * A failure leaves everything as it was. A full disk is tried again later, a damaged segment is left alone.
//! * Files of inputs are unlinked when the last reader that pinned them is done.
//!
//! # Reading order
//! [`plan`] (what to do, pure), [`task`] (one task), [`tag`] (one tag of one day), [`output`] (files), [`install`].

pub(crate) mod install;
mod output;
mod plan;
mod tag;
mod task;

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::Request;
use crate::engine::core::Core;
use crate::error::{Error, Result};
use crate::ids::SegmentId;
use crate::manifest::version::may_hide_in;
use crate::metrics::count;
use crate::scan::snapshot::View;
use crate::segment::damage::Damage;
use crate::tag::TagId;
use plan::{Known, Task};

/// What the engine asks of its compacting thread.
#[derive(Debug)]
pub(crate) enum Order {
    /// Compact everything now and say what became of it.
    Everything(SyncSender<Result<CompactionReport>>),
    /// Look whether the engine was closed.
    Stop,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Tasks done.
    pub tasks: u64,
    /// Segments written again.
    pub inputs: u64,
    /// Segments that came of them.
    pub outputs: u64,
    /// Bytes of the files read.
    pub read_bytes: u64,
    /// Bytes of the files written.
    pub written_bytes: u64,
}

/// How often the thread looks around by itself.
const TICK: Duration = Duration::from_millis(50);
/// How long it rests after a failure at most.
const REST_MAX: Duration = Duration::from_mins(1);

/// Why a task was not done.
#[derive(Debug)]
enum Failed {
    /// This place cannot be read.
    Damaged(Box<Damage>, Error),
    /// The disk does not give or take what it should now, or the commit failed.
    Disk(Error),
    /// The engine closes, or an input is gone. Nothing is wrong.
    Stopped,
}

/// Works until the engine closes.
pub(crate) fn run(core: &Core, requests: &SyncSender<Request>, inbox: &Receiver<Order>) {
    let mut compactor = Compactor {
        core,
        requests,
        seen: HashMap::new(),
        damaged: HashSet::new(),
        rest_until: None,
        failures: 0,
        poisoned: None,
    };
    let mut is_busy = false;
    loop {
        let patience = if is_busy { Duration::ZERO } else { TICK };
        let order = inbox.recv_timeout(patience);
        if core.is_closed() {
            return;
        }
        match order {
            Ok(Order::Everything(reply)) => {
                let _asker_may_be_gone = reply.send(compactor.everything());
            }
            Ok(Order::Stop) => {}
            Err(RecvTimeoutError::Timeout) => {
                is_busy = core.options.background_compaction && compactor.in_background();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Compactor<'a> {
    core: &'a Core,
    requests: &'a SyncSender<Request>,
    /// When a segment was first seen.
    seen: HashMap<SegmentId, Instant>,
    /// Segments that cannot be read.
    damaged: HashSet<SegmentId>,
    rest_until: Option<Instant>,
    failures: u32,
    /// Why nothing may be written any more.
    poisoned: Option<Error>,
}

impl Compactor<'_> {
    /// Does the most urgent task, if there is one and it is time. Gives whether something was done.
    fn in_background(&mut self) -> bool {
        let now = Instant::now();
        if self.poisoned.is_some() || self.rest_until.is_some_and(|until| now < until) {
            return false;
        }
        let view = self.core.view();
        let now_day = plan::day_of(self.core.clock.wall_ns());
        let Some(task) = plan::plan(&self.known(&view, now), now_day) else { return false };
        let mut pace = Pace::new(self.core, Some(self.core.options.maintenance_bytes_per_s));
        match self.perform(&view, &task, &mut pace) {
            Ok(_) => {
                (self.failures, self.rest_until) = (0, None);
                true
            }
            Err(Failed::Damaged(damage, _)) => self.leave(&view, *damage),
            Err(_) => {
                self.failures = (self.failures + 1).min(6);
                let rest = Duration::from_secs(1 << (self.failures - 1));
                self.rest_until = Some(now + rest.min(REST_MAX));
                false
            }
        }
    }

    /// Ends every day that has samples now. What cannot be read stays and is said at the end.
    fn everything(&mut self) -> Result<CompactionReport> {
        if let Some(error) = &self.poisoned {
            return Err(error.clone());
        }
        self.expire()?;
        let through = self.core.view().durable_seq;
        let mut report = CompactionReport::default();
        let mut first_error = None;
        loop {
            let segments = self.known(&self.core.view(), Instant::now());
            let tasks = plan::plan_the_end(&segments, through);
            if tasks.is_empty() {
                break;
            }
            for task in tasks {
                let view = self.core.view();
                match self.perform(&view, &task, &mut Pace::new(self.core, None)) {
                    Ok(done) => report.add(&done),
                    Err(Failed::Damaged(damage, error)) => {
                        self.leave(&view, *damage);
                        first_error.get_or_insert(error);
                    }
                    Err(Failed::Disk(error)) => return Err(error),
                    Err(Failed::Stopped) if self.core.is_closed() => return Err(Error::Closed),
                    // An input is gone: what is there now is planned anew.
                    Err(Failed::Stopped) => {}
                }
            }
        }
        first_error.map_or(Ok(report), Err)
    }

    /// Has retention look at every segment: what has ended shall not be written again.
    fn expire(&self) -> Result<()> {
        let (reply, answer) = sync_channel(1);
        self.requests.send(Request::Expire(false, reply)).map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)?
    }

    /// Leaves a segment alone that cannot be read, and has the place looked at. Gives whether it is the first time.
    fn leave(&mut self, view: &View, damage: Damage) -> bool {
        let is_new = self.damaged.insert(damage.segment);
        view.reports.leave(damage);
        is_new
    }

    /// The live segments as the plan sees them.
    fn known(&mut self, view: &View, now: Instant) -> Vec<Known> {
        let segments = view.version.segments();
        let metas = || segments.iter().map(|segment| segment.meta());
        let live: HashSet<SegmentId> = metas().map(|meta| meta.id).collect();
        self.seen.retain(|id, _| live.contains(id));
        self.damaged.retain(|id| live.contains(id));
        let mut known = Vec::with_capacity(live.len());
        for segment in segments {
            let meta = segment.meta();
            let since = *self.seen.entry(meta.id).or_insert(now);
            let hits = view.tombstones.iter().filter(|tombstone| may_hide_in(tombstone, meta));
            known.push(Known {
                is_settled: now.duration_since(since) >= self.core.options.final_after,
                is_damaged: self.damaged.contains(&meta.id)
                    || view.quarantine.touches(meta.id, TagId(0), TagId(u32::MAX)),
                hits: hits.count(),
                ended_bytes: segment.ended_bytes(),
                is_outlived: segment.is_outlived() && !task::waits_in_head(view, meta),
                ..Known::of(meta)
            });
        }
        known
    }

    /// Does a task from its first read to its commit.
    fn perform(
        &mut self,
        view: &View,
        task: &Task,
        pace: &mut Pace<'_>,
    ) -> Result<CompactionReport, Failed> {
        let mut written = task::write(self.core, view, task, pace)?;
        let (reply, answer) = sync_channel(1);
        let request = Request::Install(Box::new(written.compacted.clone()), reply);
        let sent = self.requests.send(request).map_err(|_| Failed::Stopped);
        let installed = sent.and_then(|()| answer.recv().map_err(|_| Failed::Stopped));
        match installed {
            Ok(Ok(true)) => {
                let report = written.report();
                let counters = &self.core.counters;
                count(&counters.compactions, report.tasks);
                count(&counters.compaction_read_bytes, report.read_bytes);
                count(&counters.compaction_written_bytes, report.written_bytes);
                Ok(report)
            }
            // The maintenance thread is gone, and with it the answer: what the manifest names stays.
            Err(gone) => Err(gone),
            Ok(Err(error @ Error::Poisoned { .. })) => {
                self.poisoned = Some(error.clone());
                Err(Failed::Disk(error))
            }
            Ok(Err(error)) => {
                written.discard(self.core);
                Err(Failed::Disk(error))
            }
            Ok(Ok(false)) => {
                written.discard(self.core);
                Err(Failed::Stopped)
            }
        }
    }
}

impl CompactionReport {
    fn add(&mut self, other: &Self) {
        self.tasks += other.tasks;
        self.inputs += other.inputs;
        self.outputs += other.outputs;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
    }
}

/// Keeps background work to its share of the disk, and ends it when the engine closes.
struct Pace<'a> {
    core: &'a Core,
    bytes_per_s: Option<u64>,
    started: Instant,
    spent_bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(core: &'a Core, bytes_per_s: Option<u64>) -> Self {
        Self { core, bytes_per_s, started: Instant::now(), spent_bytes: 0 }
    }

    /// Waits until these bytes may be read and written.
    fn spend(&mut self, bytes: u64) -> Result<(), Failed> {
        self.spent_bytes += bytes;
        loop {
            if self.core.is_closed() {
                return Err(Failed::Stopped);
            }
            let Some(bytes_per_s) = self.bytes_per_s else { return Ok(()) };
            let due_ms = self.spent_bytes.saturating_mul(1_000) / bytes_per_s.max(1);
            let ahead = Duration::from_millis(due_ms).saturating_sub(self.started.elapsed());
            if ahead < Duration::from_millis(2) {
                return Ok(());
            }
            std::thread::sleep(ahead.min(TICK));
        }
    }
}
