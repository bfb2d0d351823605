//! Writes the segments of a backfill: one for each UTC day, large days cut by tag, several at a time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::merge::{Extent, Rows};
use crate::encoding::Effort;
use crate::engine::core::{Core, lock};
use crate::error::{Error, Result};
use crate::maintenance::draft::Draft;
use crate::scan::snapshot::View;
use crate::scan::unite::hide;
use crate::segment::layout::UNPLACED;
use crate::segment::meta::{SegmentMeta, SegmentStage};
use crate::segment::writer::{SegmentPlan, SegmentWriter};
use crate::tag::TagId;
use crate::time::TimeRange;

/// Rows at which a day goes into more than one segment.
const SEGMENT_ROWS: usize = 8 << 20;
/// Segments written at a time.
const THREADS_MAX: usize = 8;

/// A segment to be written: these tags of this day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job {
    day: i64,
    tags: (TagId, TagId),
    first_ns: i64,
}

/// The segments of a backfill, complete and synced. Their place in the order only the manifest will know.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) metas: Vec<SegmentMeta>,
    pub(super) draft: Draft,
}

/// What the writing threads share.
struct Shared {
    jobs: Mutex<VecDeque<Job>>,
    written: Mutex<Written>,
    has_failed: AtomicBool,
}

/// Writes all rows. After an error nothing of it remains, as far as the disk lets go of it.
pub(super) fn write(core: &Core, rows: &Rows) -> Result<Written> {
    let jobs = jobs(&rows.extents(), SEGMENT_ROWS);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(jobs.len()).min(THREADS_MAX);
    let shared = Shared {
        jobs: Mutex::new(jobs.into()),
        written: Mutex::new(Written { metas: Vec::new(), draft: Draft::new(&core.disk) }),
        has_failed: AtomicBool::new(false),
    };
    let view = core.view();
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let work = || work(core, &view, rows, &shared);
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let joined = others.into_iter().map(|other| other.join().unwrap_or(Err(Error::Closed)));
        std::iter::once(mine).chain(joined).collect()
    });
    let written = shared.written.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().collect::<Result<()>>()?;
    written.draft.sync()?;
    Ok(written)
}

fn work(core: &Core, view: &View, rows: &Rows, shared: &Shared) -> Result<()> {
    while !shared.has_failed.load(Ordering::Relaxed) {
        let Some(job) = lock(&shared.jobs).pop_front() else { break };
        match write_segment(core, view, rows, job, shared) {
            Ok(meta) => lock(&shared.written).metas.extend(meta),
            Err(error) => {
                shared.has_failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Writes one segment; none if every row of it has ended.
fn write_segment(
    core: &Core,
    view: &View,
    rows: &Rows,
    job: Job,
    shared: &Shared,
) -> Result<Option<SegmentMeta>> {
    let mut writer: Option<SegmentWriter> = None;
    rows.for_each(job.day, job.tags, &mut |mut rows| {
        let ended = TimeRange::new(i64::MIN, view.horizon_of(rows.tag));
        hide(&mut rows, 0, &[ended]);
        if rows.times.is_empty() {
            return Ok(());
        }
        if writer.is_none() {
            let plan = SegmentPlan {
                id: core.take_segment_id(),
                kind: UNPLACED.0,
                tier: 0,
                stage: SegmentStage::Sealed,
                identity: crate::ids::random(),
                seqs: (UNPLACED.1, UNPLACED.1),
                first_ns: job.first_ns,
                effort: Effort::Light,
            };
            lock(&shared.written).draft.add(plan.path());
            writer = Some(SegmentWriter::create(core.disk.as_ref(), plan)?);
        }
        writer.as_mut().map_or(Ok(()), |writer| writer.push(rows.as_series()))
    })?;
    writer.map(SegmentWriter::finish).transpose()
}

/// Cuts what there is, ascending by (day, first tag), into segments of about `rows_max` rows.
fn jobs(extents: &[Extent], rows_max: usize) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut rows = 0;
    for extent in extents {
        let is_full = |job: &Job| {
            job.day != extent.day || (rows >= rows_max && job.tags.0 < extent.first_tag)
        };
        if jobs.last().is_none_or(is_full) {
            let mut from = TagId(0);
            if let Some(before) = jobs.last_mut().filter(|job| job.day == extent.day) {
                // Rows of the tag it is cut at may stand in earlier extents: they all go into the later segment.
                before.tags.1 = TagId(extent.first_tag.0 - 1);
                from = extent.first_tag;
            }
            let first_ns = extent.first_ns;
            jobs.push(Job { day: extent.day, tags: (from, TagId(u32::MAX)), first_ns });
            rows = 0;
        }
        rows += extent.rows;
        if let Some(job) = jobs.last_mut() {
            job.first_ns = job.first_ns.min(extent.first_ns);
        }
    }
    // An extent may reach into the next segment of its day: no segment of a day begins after the day's first row.
    let mut least_ns = i64::MAX;
    let mut day = i64::MIN;
    for job in &mut jobs {
        least_ns = if job.day == day { least_ns.min(job.first_ns) } else { job.first_ns };
        (day, job.first_ns) = (job.day, least_ns);
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_cut_between_tags() {
        let extent = |day, tag, first_ns, rows| {
            let first_tag = TagId(tag);
            Extent { day, first_tag, first_ns, rows }
        };
        let extents = [
            extent(1, 0, 50, 6),
            extent(1, 0, 40, 6),
            extent(1, 3, 60, 9),
            extent(1, 3, 70, 9),
            extent(1, 7, 45, 1),
            extent(2, 5, 90, 1),
        ];
        let job = |day, from, to, first_ns| Job { day, tags: (TagId(from), TagId(to)), first_ns };
        let want =
            [job(1, 0, 2, 40), job(1, 3, 6, 40), job(1, 7, u32::MAX, 40), job(2, 0, u32::MAX, 90)];
        assert_eq!(jobs(&extents, 10), want);
        assert!(jobs(&[], 10).is_empty());
    }
}
