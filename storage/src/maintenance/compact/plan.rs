//! Which segments to write again next: the live ones in, a task out. Pure.
//!
//! # Rules, which no task breaks
//! 1. Late segments merge only with those next to them in the order of precedence, of all that share a day with them.
//! 2. Late goes into base oldest first, together with every base segment of its day.
//! 3. A task that makes base of late, or ends a day for good, takes segments of one day only; wide ones are split before.
//! 4. A damaged segment is in no task, and its day is not ended.
//!
//! # How often a sample is written again
//! Once when fresh segments merge, once when its day ends. Once more when the segment it was sealed in spans midnight, when
//! a day has more than 32 seals, or when much of the day arrived late.
//!
//! # What it does not know
//! Rows, files, threads. One task runs at a time, so nothing here asks what is running.

use std::collections::BTreeMap;

use crate::ids::{SegmentId, Seq};
use crate::segment::meta::{SegmentKind, SegmentMeta, SegmentStage};
use crate::time::DAY_NS;

/// Fresh segments of one kind that are worth a merge.
const FRESH_MIN: usize = 4;
/// Merged segments of one kind that are worth another.
const MERGED_MIN: usize = 8;
/// Segments merged at once: bounds memory.
pub(super) const INPUTS_MAX: usize = 32;
/// Late bytes go into base when they exceed one part in this of the day's base bytes.
const LATE_SHARE: u64 = 10;
/// Deletes that may hide rows of one segment, above which a complete day is written again without them.
const HITS_MAX: usize = 32;

/// A complete day is written again without what has ended when that is more than one part in this: each such rewriting
/// leaves a quarter less, so that all of them together write at most three times what the day had.
const ENDED_SHARE: u64 = 4;

/// What is known of a live segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: SegmentId,
    pub(super) kind: SegmentKind,
    pub(super) stage: SegmentStage,
    pub(super) min_seq: Seq,
    pub(super) max_seq: Seq,
    /// UTC days of its first and last sample, since 1970.
    pub(super) first_day: i64,
    pub(super) last_day: i64,
    pub(super) bytes: u64,
    /// Whether it has been there for a while.
    pub(super) is_settled: bool,
    /// Whether it cannot be read in full.
    pub(super) is_damaged: bool,
    /// Deletes that may hide rows of it.
    pub(super) hits: usize,
    /// Bytes of rows that have ended, about.
    pub(super) ended_bytes: u64,
    /// Whether samples that have ended are to be rolled up, and could be now.
    pub(super) is_outlived: bool,
}

impl Known {
    /// What its meta says; the rest as for a sound segment that has just come.
    pub(super) fn of(meta: &SegmentMeta) -> Self {
        Self {
            id: meta.id,
            kind: meta.kind,
            stage: meta.stage,
            min_seq: meta.min_seq,
            max_seq: meta.max_seq,
            first_day: day_of(meta.first_ns),
            last_day: day_of(meta.last_ns),
            bytes: meta.file_bytes,
            is_settled: false,
            is_damaged: false,
            hits: 0,
            ended_bytes: 0,
            is_outlived: false,
        }
    }

    fn is_wide(&self) -> bool {
        self.first_day < self.last_day
    }

    fn touches(&self, day: i64) -> bool {
        self.first_day <= day && day <= self.last_day
    }

    fn is_final_base(&self) -> bool {
        self.kind == SegmentKind::Base && self.stage == SegmentStage::Final
    }
}

/// UTC day of an instant, since 1970.
pub(super) fn day_of(time_ns: i64) -> i64 {
    time_ns.div_euclid(DAY_NS)
}

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// One segment of several days into one a day.
    Split,
    /// Several of a kind into one a day.
    Merge,
    /// Late samples into the base of their day.
    IntoBase,
    /// A day as it will stay.
    Final,
}

/// Segments to be written again, as which kind and stage. What comes of it is split by day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) aim: Aim,
    /// Ascending by rank.
    pub(super) inputs: Vec<SegmentId>,
    pub(super) kind: SegmentKind,
    pub(super) stage: SegmentStage,
}

/// The next task; `None` if there is nothing to do.
pub(super) fn plan(segments: &[Known], now_day: i64) -> Option<Task> {
    let ordered = in_order(segments);
    let days = days_of(&ordered);
    let merge = || days.iter().find_map(Day::merge);
    let is_due = |day: &&Day<'_>| day.number + 2 <= now_day && day.is_due();
    let split = split_wide(&ordered, false).or_else(merge);
    split.or_else(|| days.iter().find(is_due).map(Day::end))
}

/// The next tasks that end all days with samples up to `through`, none with an input of another; empty when all have ended.
pub(super) fn plan_the_end(segments: &[Known], through: Seq) -> Vec<Task> {
    let ordered = in_order(segments);
    if let Some(task) = split_wide(&ordered, true) {
        return vec![task];
    }
    let days = days_of(&ordered);
    days.iter().filter(|day| day.is_due_by_force(through)).map(Day::end).collect()
}

fn in_order(segments: &[Known]) -> Vec<&Known> {
    let mut ordered: Vec<&Known> = segments.iter().collect();
    ordered.sort_by_key(|known| order(known));
    ordered
}

/// Base by the order in which it was sealed, late by precedence: neighbours in this order may merge.
fn order(known: &Known) -> (u8, Seq, SegmentId) {
    match known.kind {
        SegmentKind::Base => (known.kind.code(), known.min_seq, known.id),
        SegmentKind::Late => (known.kind.code(), known.max_seq, known.id),
    }
}

fn task(aim: Aim, inputs: &[&Known], kind: SegmentKind, stage: SegmentStage) -> Task {
    let mut inputs = inputs.to_vec();
    inputs.sort_by_key(|known| (known.kind.code(), known.max_seq, known.id));
    Task { aim, inputs: inputs.iter().map(|known| known.id).collect(), kind, stage }
}

fn merge_of(run: &[&Known]) -> Option<Task> {
    let first = run.first()?;
    Some(task(Aim::Merge, run, first.kind, SegmentStage::Merged))
}

/// Several wide segments in a row become one a day each; a lone one is split once it has settled, or must.
fn split_wide(ordered: &[&Known], force: bool) -> Option<Task> {
    for kind in [SegmentKind::Base, SegmentKind::Late] {
        let of_kind: Vec<&Known> = ordered.iter().copied().filter(|k| k.kind == kind).collect();
        let is_fit = |known: &Known| known.is_wide() && !known.is_damaged;
        if let Some(run) = first_run(&of_kind, FRESH_MIN, &is_fit) {
            return merge_of(run);
        }
        let is_due = |known: &&&Known| is_fit(known) && (force || known.is_settled);
        if let Some(known) = of_kind.iter().find(is_due) {
            return Some(task(Aim::Split, &[*known], kind, known.stage));
        }
    }
    None
}

/// The first `least` or more neighbours that are fit, at most [`INPUTS_MAX`].
fn first_run<'a, 'k>(
    list: &'a [&'k Known],
    least: usize,
    is_fit: &dyn Fn(&Known) -> bool,
) -> Option<&'a [&'k Known]> {
    let mut runs = list.split(|known| !is_fit(known));
    let run = runs.find(|run| run.len() >= least)?;
    Some(&run[..run.len().min(INPUTS_MAX)])
}

/// The segments of one day, in order, wide ones included.
struct Day<'a> {
    /// Since 1970, UTC.
    number: i64,
    bases: Vec<&'a Known>,
    lates: Vec<&'a Known>,
}

/// Days that have segments of their own.
fn days_of<'a>(ordered: &[&'a Known]) -> Vec<Day<'a>> {
    let (wide, single): (Vec<&Known>, Vec<&Known>) = ordered.iter().partition(|k| k.is_wide());
    let mut days: BTreeMap<i64, Vec<&Known>> = BTreeMap::new();
    for known in single {
        days.entry(known.first_day).or_default().push(known);
    }
    let day = |(day, mut all): (i64, Vec<&'a Known>)| {
        all.extend(wide.iter().filter(|known| known.touches(day)));
        all.sort_by_key(|known| order(known));
        let (bases, lates) = all.iter().partition(|known| known.kind == SegmentKind::Base);
        Day { number: day, bases, lates }
    };
    days.into_iter().map(day).collect()
}

fn bytes_of<'a>(segments: impl IntoIterator<Item = &'a &'a Known>) -> u64 {
    segments.into_iter().map(|known| known.bytes).sum()
}

impl<'a> Day<'a> {
    fn all(&self) -> impl Iterator<Item = &&'a Known> {
        self.bases.iter().chain(&self.lates)
    }

    /// Whether every segment is of this day alone and can be read.
    fn is_whole(&self) -> bool {
        !self.all().any(|known| known.is_wide() || known.is_damaged)
    }

    /// Whether much of the day has ended while some tags are kept.
    fn has_ended(&self) -> bool {
        let ended: u64 = self.all().map(|known| known.ended_bytes).sum();
        ended.saturating_mul(ENDED_SHARE) > bytes_of(self.all())
    }

    /// Whether rollups are to take the place of some of its samples.
    fn is_outlived(&self) -> bool {
        self.all().any(|known| known.is_outlived)
    }

    /// Whether an old day shall be ended: it never was, or much has come or ended since.
    fn is_due(&self) -> bool {
        let fresh: u64 = self.all().filter(|k| !k.is_final_base()).map(|k| k.bytes).sum();
        let ended =
            bytes_of(&self.bases) - bytes_of(self.bases.iter().filter(|k| !k.is_final_base()));
        let is_hit = self.all().any(|known| known.hits > HITS_MAX);
        let is_fresh = fresh.saturating_mul(LATE_SHARE) > ended;
        self.is_whole()
            && self.all().all(|known| known.is_settled)
            && (is_fresh || is_hit || self.has_ended() || self.is_outlived())
    }

    fn is_due_by_force(&self, through: Seq) -> bool {
        let is_open = |known: &Known| !known.is_final_base() && known.min_seq <= through;
        self.is_whole()
            && self.all().any(|known| {
                is_open(known) || known.hits > 0 || known.ended_bytes > 0 || known.is_outlived
            })
    }

    /// Everything into one, or a step towards it if that is too much at once.
    fn end(&self) -> Task {
        let all: Vec<&Known> = self.all().copied().collect();
        let (base, late) = (SegmentKind::Base, SegmentKind::Late);
        if all.len() <= INPUTS_MAX {
            return task(Aim::Final, &all, base, SegmentStage::Final);
        }
        let (kind, list) = if self.bases.len() > self.lates.len() {
            (base, &self.bases)
        } else {
            (late, &self.lates)
        };
        let some = &list[..list.len().min(INPUTS_MAX)];
        task(Aim::Merge, some, kind, SegmentStage::Merged)
    }

    /// A merge that makes reading cheaper.
    fn merge(&self) -> Option<Task> {
        self.move_into_base().or_else(|| {
            [&self.lates, &self.bases].into_iter().find_map(|list| {
                let is_fit = |stage| {
                    move |known: &Known| {
                        known.stage == stage && !known.is_wide() && !known.is_damaged
                    }
                };
                let fresh = first_run(list, FRESH_MIN, &is_fit(SegmentStage::Sealed));
                fresh.and_then(merge_of).or_else(|| {
                    let mut run = first_run(list, MERGED_MIN, &is_fit(SegmentStage::Merged))?;
                    // One that outweighs all after it gains nothing.
                    while let Some((first, rest)) = run.split_first()
                        && first.bytes > bytes_of(rest)
                    {
                        run = rest;
                    }
                    if run.len() >= MERGED_MIN { merge_of(run) } else { None }
                })
            })
        })
    }

    /// Late samples into base, when there are many and a handful of seals brought them. Days that were ended have a rule
    /// of their own.
    fn move_into_base(&self) -> Option<Task> {
        let is_open = self.bases.iter().any(|k| k.stage != SegmentStage::Final);
        let unfit = |known: &&&Known| known.is_wide() || known.is_damaged;
        if !is_open || self.bases.iter().any(|known| unfit(&known)) {
            return None;
        }
        let fit = self.lates.iter().take_while(|known| !unfit(known)).count();
        let room = INPUTS_MAX.saturating_sub(self.bases.len());
        let lates = &self.lates[..fit.min(room)];
        let is_many = lates.len() >= FRESH_MIN
            || lates.iter().any(|known| known.stage == SegmentStage::Merged);
        let share = bytes_of(lates).saturating_mul(LATE_SHARE);
        if !is_many || share <= bytes_of(&self.bases) {
            return None;
        }
        let all: Vec<&Known> = self.bases.iter().chain(lates).copied().collect();
        Some(task(Aim::IntoBase, &all, SegmentKind::Base, SegmentStage::Merged))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
