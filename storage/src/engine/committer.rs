//! The committer: one thread that orders records, writes them in groups, syncs, publishes, answers.
//!
//! Group commit without a timer: while one group is being synced the next one gathers. The committer alone decides which
//! gateway batches follow, so what it decides is what the log holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Core, Done, Entry, lock};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::limits::GROUP_BYTES_MAX;
use crate::metrics::count;
use crate::planted::{self, Bug};
use crate::sample::{Appended, Durability, Origin};
use crate::wal::record::{Content, Payload};

/// How long an [`Durability::Interval`] record waits for its sync at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// Unsynced bytes at which it comes earlier.
const INTERVAL_BYTES: usize = 64 << 20;

/// Commits until the queue is closed and empty.
pub(super) fn run(core: &Core) {
    let mut committer = Committer { marks: HashMap::new(), unsynced: Vec::new(), oldest: None };
    loop {
        let patience = committer.oldest.map_or(Duration::from_millis(200), |(since, _)| {
            INTERVAL.saturating_sub(since.elapsed())
        });
        match core.take_queued(GROUP_BYTES_MAX, patience) {
            Some(group) => committer.commit(core, group),
            None => break,
        }
    }
    committer.sync_overdue(core, true);
}

struct Committer {
    /// Marks of written batches: (epoch, seq). The View's marks are those of durable ones.
    marks: HashMap<Arc<str>, (u64, u64)>,
    /// Written but not synced, in seq order.
    unsynced: Vec<(Seq, Content)>,
    /// When the oldest of them was written, and their bytes.
    oldest: Option<(Instant, usize)>,
}

/// A record of the group that is to be answered after the sync.
struct Answer {
    appended: Appended,
    done: Done,
    head_bytes: u64,
}

impl Committer {
    fn commit(&mut self, core: &Core, group: Vec<Entry>) {
        let mut answers = Vec::with_capacity(group.len());
        let mut records: Vec<(Content, Payload)> = Vec::with_capacity(group.len());
        let mut needs_sync = false;
        let mut marks = HashMap::new();
        for entry in group {
            let head_bytes = entry.head_bytes();
            let Entry { content, payload, durability, accepted, rejects, done } = entry;
            let is_repeated = match self.judge(core, content.origin.as_ref(), &mut marks) {
                Ok(is_repeated) => is_repeated,
                Err(error) => {
                    core.left_queue(head_bytes);
                    done(Err(error));
                    continue;
                }
            };
            needs_sync |= durability == Durability::Synced;
            let is_record = payload.is_some() && !is_repeated;
            // Offset in the group for now; the group's first seq is added when it is known.
            let offset = Seq(if is_record { records.len() as u64 } else { u64::MAX });
            let appended =
                Appended { seq: offset, accepted, repeated: is_repeated, durable: false, rejects };
            answers.push(Answer { appended, done, head_bytes });
            if let (Some(payload), false) = (payload, is_repeated) {
                records.push((content, payload));
            }
        }
        let written = self.write(core, records, marks);
        let overdue = self
            .oldest
            .is_some_and(|(since, bytes)| since.elapsed() >= INTERVAL || bytes >= INTERVAL_BYTES);
        let is_synced = needs_sync || overdue;
        let result = written.and_then(|seqs| {
            if is_synced {
                self.sync(core)?;
            } else if planted::is(Bug::ShownBeforeSync) {
                core.publish(std::mem::take(&mut self.unsynced));
            }
            Ok(seqs)
        });
        for Answer { mut appended, done, head_bytes } in answers {
            core.left_queue(head_bytes);
            done(result.clone().map(|(first, newest)| {
                let is_record = appended.seq.0 != u64::MAX;
                appended.seq = if is_record { Seq(first.0 + appended.seq.0) } else { newest };
                appended.durable = is_synced;
                if appended.repeated {
                    (appended.accepted, appended.rejects) = (0, Vec::new());
                }
                appended
            }));
        }
    }

    /// Whether a gateway's batch was written before; an error if it does not follow.
    fn judge(
        &self,
        core: &Core,
        origin: Option<&Origin>,
        group_marks: &mut HashMap<Arc<str>, (u64, u64)>,
    ) -> Result<bool> {
        let Some(origin) = origin else { return Ok(false) };
        let gateway = || origin.gateway.to_string();
        if lock(&core.sessions).is_fenced(&origin.gateway, origin.session) {
            return Err(Error::Fenced { gateway: gateway() });
        }
        let durable = || {
            let view = core.view();
            view.gateways.get(&origin.gateway).map_or((0, 0), |known| (known.epoch, known.seq))
        };
        let written = || self.marks.get(&origin.gateway).copied().unwrap_or_else(durable);
        let (epoch, seq) = group_marks.get(&origin.gateway).copied().unwrap_or_else(written);
        let mark = match origin.epoch.cmp(&epoch) {
            std::cmp::Ordering::Less => return Err(Error::Fenced { gateway: gateway() }),
            std::cmp::Ordering::Equal => seq,
            std::cmp::Ordering::Greater => 0,
        };
        if origin.seq <= mark && mark > 0 {
            return Ok(!planted::is(Bug::RepeatedBatchTaken));
        }
        if origin.seq != mark + 1 {
            let (expected, found) = (mark + 1, origin.seq);
            return Err(Error::Gap { gateway: gateway(), expected, found });
        }
        group_marks.insert(Arc::clone(&origin.gateway), (origin.epoch, origin.seq));
        Ok(false)
    }

    /// Writes the group. Gives its first seq and the newest seq of the log.
    fn write(
        &mut self,
        core: &Core,
        records: Vec<(Content, Payload)>,
        marks: HashMap<Arc<str>, (u64, u64)>,
    ) -> Result<(Seq, Seq)> {
        let mut wal = lock(&core.wal);
        if records.is_empty() {
            wal.check()?;
            return Ok((wal.written().next(), wal.written()));
        }
        // A log file of samples is a whole one or none; what frees space may begin a small one on a full disk.
        let has_samples = records.iter().any(|(content, _)| content.run.is_some());
        wal.may_be_small(!has_samples);
        let first = wal.write(records.iter().map(|(_, payload)| payload))?;
        let newest = wal.written();
        drop(wal);
        self.marks.extend(marks);
        let bytes: usize = records.iter().map(|(_, payload)| payload.bytes.len()).sum();
        let rows = records.iter().filter_map(|(content, _)| content.run.as_ref());
        count(&core.counters.samples, rows.map(|run| run.times.len() as u64).sum());
        count(&core.counters.wal_bytes, bytes as u64);
        let (since, unsynced_bytes) = self.oldest.unwrap_or((Instant::now(), 0));
        self.oldest = Some((since, unsynced_bytes + bytes));
        let seqs = first.0..;
        self.unsynced.extend(seqs.zip(records).map(|(seq, (content, _))| (Seq(seq), content)));
        Ok((first, newest))
    }

    /// Makes everything written durable, then visible.
    fn sync(&mut self, core: &Core) -> Result<()> {
        lock(&core.wal).sync()?;
        core.publish(std::mem::take(&mut self.unsynced));
        self.oldest = None;
        self.marks.clear(); // the View has them now
        Ok(())
    }

    fn sync_overdue(&mut self, core: &Core, at_once: bool) {
        let due = at_once || self.oldest.is_some_and(|(since, _)| since.elapsed() >= INTERVAL);
        if due && self.oldest.is_some() && self.sync(core).is_err() {
            self.oldest = None; // poisoned: every later write says so
        }
    }
}
