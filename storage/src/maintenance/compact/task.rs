//! One task of a compaction: day by day, tag by tag, from the inputs to new files.
//!
//! A day of one pass over the tags: few files are open at a time, however many days the inputs hold.
//!
//! When a day is ended, samples that have ended and that rollups shall outlive go into tier segments instead. All that
//! was ever taken of the day is among the inputs then: since they have ended, no further ones are taken.

use std::sync::Arc;

use super::output::{Output, Style};
use super::plan::{Aim, Task, day_of};
use super::tag::{Found, Input, Unwanted};
use super::{CompactionReport, Failed, Pace};
use crate::engine::core::Core;
use crate::ids::Seq;
use crate::manifest::version::may_hide_in;
use crate::planted::{self, Bug};
use crate::scan::outlived::Outlived;
use crate::scan::snapshot::View;
use crate::segment::name::SegmentName;
use crate::segment::{Segment, SegmentKind, SegmentMeta};
use crate::tag::TagId;
use crate::tier::Tier;
use crate::time::{DAY_NS, TimeRange};

/// Inputs and what has become of them, on its way into the manifest.
#[derive(Clone, Debug)]
pub(crate) struct Compacted {
    pub(crate) inputs: Vec<Arc<Segment>>,
    pub(crate) outputs: Vec<SegmentMeta>,
}

/// A task whose files are written and synced.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) compacted: Compacted,
}

impl Written {
    pub(super) fn report(&self) -> CompactionReport {
        let Compacted { inputs, outputs } = &self.compacted;
        CompactionReport {
            tasks: 1,
            inputs: inputs.len() as u64,
            outputs: outputs.len() as u64,
            read_bytes: inputs.iter().map(|input| input.meta().file_bytes).sum(),
            written_bytes: outputs.iter().map(|output| output.file_bytes).sum(),
        }
    }

    /// Unlinks the files, which the manifest does not name.
    pub(super) fn discard(&mut self, core: &Core) {
        for output in self.compacted.outputs.drain(..) {
            let path = SegmentName::new(output.tier, output.first_ns, output.id).path();
            match core.disk.remove(&path) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// Writes the outputs of a task. After an error none of their files is left, as far as the disk allows.
pub(super) fn write(
    core: &Core,
    view: &View,
    task: &Task,
    pace: &mut Pace<'_>,
) -> Result<Written, Failed> {
    let is_input = |segment: &&Arc<Segment>| task.inputs.contains(&segment.meta().id);
    // The version's order is the order of precedence.
    let segments: Vec<Arc<Segment>> =
        view.version.segments().iter().filter(is_input).cloned().collect();
    let style = Style { kind: task.kind, stage: task.stage, seqs: (Seq(0), Seq(0)) };
    let mut output = Output::new(core, style);
    let outputs = write_days(view, &segments, task, &mut output, pace);
    let outputs = outputs.and_then(|()| output.finish());
    if outputs.is_err() {
        output.discard();
    }
    Ok(Written { compacted: Compacted { inputs: segments, outputs: outputs? } })
}

fn write_days(
    view: &View,
    segments: &[Arc<Segment>],
    task: &Task,
    output: &mut Output<'_>,
    pace: &mut Pace<'_>,
) -> Result<(), Failed> {
    let kind = task.kind;
    let mut outlived = Outlived::new(view);
    let mut inputs: Vec<Input> = segments.iter().map(Input::open).collect::<Result<_, _>>()?;
    let Some(mut from_ns) = segments.iter().map(|segment| segment.meta().first_ns).min() else {
        return Ok(());
    };
    loop {
        let start_ns = day_of(from_ns).saturating_mul(DAY_NS);
        let day = TimeRange::new(start_ns, start_ns.saturating_add(DAY_NS));
        output.begin(from_ns, seqs_of(view, segments, kind, day))?;
        let closes = task.aim == Aim::Final
            && view.horizons.is_outlived()
            && is_everything(view, segments, day);
        let mut next_ns: Option<i64> = None;
        let mut next_tag = first_tag(&inputs, TagId(0));
        while let Some(tag) = next_tag {
            pace.spend(0)?;
            let found = Found::look(&mut inputs, tag, day)?;
            next_ns = next_ns.into_iter().chain(found.next_ns).min();
            let ends = view.ends_of(tag);
            let is_base = kind == SegmentKind::Base;
            let mut unwanted = Unwanted {
                tombstones: &view.tombstones,
                // A late row that has ended still stands before an older one of its instant, which might be shown again
                // if the tag goes to a class that keeps more.
                horizon_ns: if is_base { ends.all_ns() } else { i64::MIN },
            };
            let beyond_raw = closes && ends.beyond_raw().contains(start_ns);
            output.roll_up(beyond_raw.then(|| Tier::ALL.map(|tier| ends.of(tier) <= start_ns)));
            if beyond_raw && outlived.has_any(view, tag, day).map_err(Failed::Disk)? {
                // The day was closed before: what came after it had ended came too late.
                unwanted.horizon_ns = day.end_ns;
            }
            found.write(&mut inputs, tag, day, &unwanted, output, pace)?;
            next_tag = tag.0.checked_add(1).and_then(|next| first_tag(&inputs, TagId(next)));
        }
        match next_ns {
            Some(next_ns) => from_ns = next_ns,
            None => return Ok(()),
        }
    }
}

/// Whether samples of a segment's time wait in the head.
pub(super) fn waits_in_head(view: &View, meta: &SegmentMeta) -> bool {
    let start_ns = day_of(meta.first_ns).saturating_mul(DAY_NS);
    let end_ns = day_of(meta.last_ns).saturating_add(1).saturating_mul(DAY_NS);
    waits(view, TimeRange::new(start_ns, end_ns))
}

fn waits(view: &View, days: TimeRange) -> bool {
    view.head.has_rows_in(days) && !planted::is(Bug::HeadForgottenAtRollUp)
}

/// Whether all samples of a day are in these segments.
fn is_everything(view: &View, segments: &[Arc<Segment>], day: TimeRange) -> bool {
    let mut live = view.version.segments().iter().filter(|segment| {
        let meta = segment.meta();
        day.overlaps_span(meta.first_ns, meta.last_ns)
    });
    live.all(|live| segments.iter().any(|input| Arc::ptr_eq(input, live))) && !waits(view, day)
}

/// The least tag from `tag` on that an input may hold.
fn first_tag(inputs: &[Input], tag: TagId) -> Option<TagId> {
    inputs.iter().filter_map(|input| input.directory.next_tag(tag)).min()
}

/// The records whose samples are in the output for `day`.
///
/// Base claims all deletes it has been through as well: none of them can hide a row of it any more, and it yields to every
/// late segment whatever its seqs. Late must keep its place among its neighbours.
fn seqs_of(
    view: &View,
    segments: &[Arc<Segment>],
    kind: SegmentKind,
    day: TimeRange,
) -> (Seq, Seq) {
    let metas = || {
        let metas = segments.iter().map(|segment| segment.meta());
        metas.filter(move |meta| day.overlaps_span(meta.first_ns, meta.last_ns))
    };
    let min_seq = metas().map(|meta| meta.min_seq).min().unwrap_or(Seq(0));
    let max_seq = metas().map(|meta| meta.max_seq).max().unwrap_or(Seq(0));
    let applied = view.tombstones.iter().filter(|tombstone| {
        kind == SegmentKind::Base && metas().any(|meta| may_hide_in(tombstone, meta))
    });
    (min_seq, applied.map(|tombstone| tombstone.seq).fold(max_seq, Seq::max))
}
