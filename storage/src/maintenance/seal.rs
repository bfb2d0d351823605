//! Seals the head: its rows become segments, and the log before them may go.
//!
//! # Order, each step durable before the next
//! segment files and their folder; checkpoint; `registry.log`; the database folder; then the manifest edit, which is the
//! commit point; then the View without the sealed rows; then old log files and the old checkpoint are unlinked.
//! A crash before the edit leaves files that the next open moves to `trash/`.
//!
//! Rows newer than everything sealed of their tag go into a base segment, older ones into a late segment.

use std::sync::Arc;

use super::draft::{Draft, unlink};
use crate::chunk::series::SeriesBuf;
use crate::encoding::Effort;
use crate::engine::core::{Core, lock};
use crate::error::{Error, Result};
use crate::head::run::Run;
use crate::head::tombstone::{Tombstone, Tombstones};
use crate::ids::{SegmentId, Seq};
use crate::manifest::Manifest;
use crate::manifest::checkpoint::{self, SealedUntil, raise};
use crate::manifest::edit::{Edit, State};
use crate::manifest::version::Version;
use crate::metrics::count;
use crate::planted::{self, Bug};
use crate::registry::Change;
use crate::registry::log::RegistryLog;
use crate::scan::merge::copy_rows;
use crate::scan::snapshot::View;
use crate::scan::unite::{hide, order};
use crate::segment::Segment;
use crate::segment::meta::{SegmentKind, SegmentMeta, SegmentStage};
use crate::segment::writer::{SegmentPlan, SegmentWriter};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// The books of what is sealed. Owned by the maintenance thread.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) manifest: Manifest,
    pub(crate) registry_log: RegistryLog,
    pub(crate) sealed_until: SealedUntil,
    pub(crate) state: State,
}

/// Moves everything the View's head holds into segments. Gives their ids.
pub(crate) fn seal(core: &Core, ledger: &mut Ledger) -> Result<Vec<SegmentId>> {
    seal_view(core, ledger, &core.view())
}

/// Moves everything that this View's head holds into segments: all of it, or the oldest part.
pub(crate) fn seal_view(core: &Core, ledger: &mut Ledger, view: &View) -> Result<Vec<SegmentId>> {
    if view.durable_seq == ledger.state.floor {
        return Ok(Vec::new());
    }
    let mut outputs = Outputs { core, base: None, late: None, draft: Draft::new(&core.disk) };
    let result = write_and_commit(core, ledger, view, &mut outputs);
    let segments = outputs.draft.decide(result)?;
    install(core, &segments, view.durable_seq);
    Ok(segments.iter().map(|segment| segment.meta().id).collect())
}

fn write_and_commit(
    core: &Core,
    ledger: &mut Ledger,
    view: &View,
    outputs: &mut Outputs<'_>,
) -> Result<Vec<Arc<Segment>>> {
    let mut sealed_until = ledger.sealed_until.clone();
    write_rows(view, ledger, &mut sealed_until, outputs)?;
    let metas = outputs.finish()?;
    let disk = &core.disk;
    let open = |meta: &SegmentMeta| Arc::new(Segment::new(Arc::clone(disk), meta.clone()));
    let segments: Vec<Arc<Segment>> = metas.iter().map(open).collect();
    let version = view.version.with(segments.clone());
    let old_checkpoint = ledger.state.latest_file;
    let latest_file = old_checkpoint + 1;
    outputs.draft.add(checkpoint::path(latest_file));
    checkpoint::write(disk, latest_file, &view.latest, &view.stale, &sealed_until)?;
    let unlogged = unlogged_through(core, view.durable_seq);
    let valid = ledger.state.registry_bytes;
    let registry_bytes = ledger.registry_log.append(valid, &unlogged)?;
    disk.sync_dir("").map_err(|e| Error::io("sync database folder", disk.root(), e))?;
    if planted::is(Bug::LogTrimmedBeforeEdit) {
        trim(core, view.durable_seq);
    }
    let state = State {
        floor: Seq(view.durable_seq.0 + u64::from(planted::is(Bug::FloorTooHigh))),
        registry_bytes,
        latest_file,
        marks: if planted::is(Bug::MarksForgotten) { Vec::new() } else { marks(view) },
        tombstones: needed(&view.tombstones, &version),
        ..ledger.state.clone()
    };
    let bytes = metas.iter().map(|meta| meta.file_bytes).sum();
    let edit = Edit { remove: Vec::new(), add: metas, state };
    commit(core, ledger, edit, &version)?;
    ledger.sealed_until = sealed_until;
    count(&core.counters.seal_bytes, bytes);
    count(&core.counters.seals, u64::from(bytes > 0));
    lock(&core.install).unlogged.retain(|(seq, _)| *seq > view.durable_seq);
    if old_checkpoint > 0 {
        unlink(disk, &[checkpoint::path(old_checkpoint)]);
    }
    Ok(segments)
}

/// Makes an edit durable, after which the live segments are those of `version`.
///
/// # Errors
/// [`Error::Poisoned`] if it is unknown whether it was made; after any other it was not.
pub(crate) fn commit(
    core: &Core,
    ledger: &mut Ledger,
    mut edit: Edit,
    version: &Version,
) -> Result<()> {
    edit.state.next_segment = core.next_segment();
    let everything = || snapshot_edit(version, &edit.state);
    if let Err(error) = ledger.manifest.commit(&edit, everything) {
        if matches!(error, Error::Poisoned { .. }) {
            lock(&core.wal).poison(); // what the manifest says is unknown: nothing more may be promised
        }
        return Err(error);
    }
    lock(&core.wal).sealed_to(edit.state.floor);
    ledger.state = edit.state;
    Ok(())
}

/// The edit that begins a new manifest file.
pub(crate) fn snapshot_edit(version: &Version, state: &State) -> Edit {
    let add = version.all().map(|segment| segment.meta().clone()).collect();
    Edit { remove: Vec::new(), add, state: state.clone() }
}

/// The files of a seal, made when their first row comes.
struct Outputs<'a> {
    core: &'a Core,
    base: Option<SegmentWriter>,
    late: Option<SegmentWriter>,
    draft: Draft,
}

impl Outputs<'_> {
    /// Ends the segments and makes their names durable.
    fn finish(&mut self) -> Result<Vec<SegmentMeta>> {
        let writers = [self.base.take(), self.late.take()];
        let metas: Vec<SegmentMeta> =
            writers.into_iter().flatten().map(SegmentWriter::finish).collect::<Result<_>>()?;
        if !metas.is_empty() && !planted::is(Bug::SegmentFolderNotSynced) {
            self.draft.sync()?;
        }
        Ok(metas)
    }
}

/// Streams the head's rows, tag by tag, into the outputs.
fn write_rows(
    view: &View,
    ledger: &mut Ledger,
    sealed_until: &mut SealedUntil,
    outputs: &mut Outputs<'_>,
) -> Result<()> {
    let runs = &view.head.runs;
    let until = |tag: TagId| ledger.sealed_until.get(tag.index()).copied().unwrap_or(i64::MIN);
    let (first_base, first_late) = first_times(runs, &until, &|tag| view.ends_of(tag).all_ns());
    let seqs = (runs.first().map_or(Seq(0), |run| run.min_seq), view.durable_seq);
    let core = outputs.core;
    let create = |kind, first_ns, draft: &mut Draft| {
        draft.begin(SegmentPlan {
            id: core.take_segment_id(),
            kind,
            tier: 0,
            stage: SegmentStage::Sealed,
            identity: crate::ids::random(),
            seqs,
            first_ns,
            effort: Effort::Light,
        })
    };
    let mut next = vec![0; runs.len()];
    while let Some((tag, value_type)) = smallest(runs, &next) {
        let mut rows = gather(runs, &mut next, tag, value_type, &view.tombstones);
        // Samples that have ended still go into rollups that have not.
        let ends = view.ends_of(tag);
        let is_early = planted::is(Bug::EndedNotRolledUp);
        let end_ns = if is_early { ends.raw_ns } else { ends.all_ns() };
        hide(&mut rows, 0, &[TimeRange::new(i64::MIN, end_ns)]);
        let Some(last_ns) = rows.times.last().copied() else { continue };
        let split = rows.times.partition_point(|time| *time <= until(tag));
        let series = rows.as_series();
        if split > 0 {
            if outputs.late.is_none() {
                let is_base = planted::is(Bug::LateSealedAsBase);
                let kind = if is_base { SegmentKind::Base } else { SegmentKind::Late };
                outputs.late = Some(create(kind, first_late, &mut outputs.draft)?);
            }
            let late = outputs.late.as_mut().ok_or(Error::Closed)?;
            late.push(series.slice(0..split))?;
        }
        if split < rows.times.len() {
            if outputs.base.is_none() {
                outputs.base = Some(create(SegmentKind::Base, first_base, &mut outputs.draft)?);
            }
            let base = outputs.base.as_mut().ok_or(Error::Closed)?;
            base.push(series.slice(split..rows.times.len()))?;
        }
        raise(sealed_until, tag, last_ns);
    }
    Ok(())
}

fn smallest(runs: &[Arc<Run>], next: &[usize]) -> Option<(TagId, ValueType)> {
    let heads = runs.iter().zip(next).filter_map(|(run, at)| run.spans.get(*at));
    heads.map(|span| (span.tag, span.value_type)).min()
}

/// The rows of one tag from all runs, tombstones applied, each key once.
fn gather(
    runs: &[Arc<Run>],
    next: &mut [usize],
    tag: TagId,
    value_type: ValueType,
    tombstones: &Tombstones,
) -> SeriesBuf {
    let mut rows = SeriesBuf::new(tag, value_type);
    for (run, at) in runs.iter().zip(next) {
        let Some(span) = run.spans.get(*at).filter(|span| span.tag == tag) else { continue };
        *at += 1;
        let from = rows.times.len();
        copy_rows(run, span.start..span.end, true, true, &mut rows);
        if tombstones.any_after(run.max_seq) && !planted::is(Bug::SealForgetsTombstones) {
            hide(&mut rows, from, &tombstones.hiding(tag, run.max_seq));
        }
    }
    order(&mut rows);
    rows
}

/// Lower bounds of the first times that go into base and late.
fn first_times(
    runs: &[Arc<Run>],
    until: &dyn Fn(TagId) -> i64,
    horizon_of: &dyn Fn(TagId) -> i64,
) -> (i64, i64) {
    let (mut base, mut late) = (i64::MAX, i64::MAX);
    for run in runs {
        for span in &run.spans {
            let shown = TimeRange::new(horizon_of(span.tag), i64::MAX);
            let times = &run.times[run.rows_in(span, shown)];
            let split = times.partition_point(|time| *time <= until(span.tag));
            late = late.min(times[..split].first().copied().unwrap_or(i64::MAX));
            base = base.min(times[split..].first().copied().unwrap_or(i64::MAX));
        }
    }
    (base, late)
}

fn unlogged_through(core: &Core, seq: Seq) -> Vec<Change> {
    let install = lock(&core.install);
    let through = install.unlogged.iter().take_while(|(at, _)| *at <= seq);
    through.map(|(_, change)| change.clone()).collect()
}

fn marks(view: &View) -> Vec<(Arc<str>, u64, u64)> {
    let known = view.gateways.iter().filter(|(_, gateway)| gateway.epoch > 0);
    let mut marks: Vec<_> =
        known.map(|(name, gateway)| (Arc::clone(name), gateway.epoch, gateway.seq)).collect();
    marks.sort();
    marks
}

/// Tombstones that may still hide a row of these segments.
fn needed(tombstones: &Tombstones, version: &Version) -> Vec<Arc<Tombstone>> {
    let is_needed = |tombstone: &&Arc<Tombstone>| {
        version.may_hold(tombstone) && !planted::is(Bug::TombstonesDroppedEarly)
    };
    tombstones.iter().filter(is_needed).cloned().collect()
}

/// Swaps the sealed rows for the segments, then frees the log before them.
fn install(core: &Core, segments: &[Arc<Segment>], floor: Seq) {
    let mut install = lock(&core.install);
    let mut next = View::clone(&core.view());
    next.version = next.version.with(segments.to_vec());
    let is_early = planted::is(Bug::HeadDroppedWithSeal);
    next.head.drop_through(if is_early { next.durable_seq } else { floor });
    let version = next.version.clone();
    let keep = |tombstone: &&Arc<Tombstone>| tombstone.seq > floor || version.may_hold(tombstone);
    next.tombstones = Tombstones::new(next.tombstones.iter().filter(keep).cloned().collect());
    let now = (!next.head.runs.is_empty()).then(|| core.clock.monotonic_ns());
    (install.unsealed_since_ns, install.unfolded_since_ns) = (now, now);
    core.swap(next);
    drop(install);
    trim(core, floor);
}

/// Unlinks log files that hold nothing above the floor.
fn trim(core: &Core, floor: Seq) {
    let needless = lock(&core.wal).take_trimmed(floor);
    for file in needless {
        if core.disk.remove(&file.path).is_err() {
            lock(&core.wal).give_back(file); // tried again after the next seal
        }
    }
}
