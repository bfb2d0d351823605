//! [`Rollups`]: what is known of windows of time, for many tags; from stored rollups where these are exact, else from
//! samples decoded and folded in one go.
//!
//! # Contract
//! * Equal to what a [`Scan`] of the same snapshot and ranges gives, grouped by tag and window: late samples,
//!   corrections, deletes and damage included.
//! * Chunks of a segment in which nothing else has a say are answered for by its rollups, as far as [`super::routing`]
//!   permits. The rest of them is decoded into reused memory and folded there: times on a grid are never written out,
//!   times that chunks share are decoded once. All else goes the way of a scan.
//! * Beyond the horizon of a tag's samples, what is left of them answers: whole windows of the finest tier that is left
//!   there. Bounds move inward to such windows ([`Snapshot::answerable`]); what they cannot say fails with
//!   [`crate::Error::Ended`], and never with less than was asked. Until a day is rolled up its samples answer.
//! * Memory is bounded by the rows of one tag that overlap in time, [`ROLLUPS_MAX`] rollups, and [`KEPT_ROLLUPS_MAX`]
//!   stored ones that are kept decoded.
//!
//! # What it does not know
//! SQL, and what holds beyond the bounds of a window: [`super::neighbours`] looks there.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::merge::{Stretch, TagReader};
use super::outlived::{LEFT_STEP_NS, Outlived, Part, Wanted, rows_of};
use super::routing::{self, Beside, Job, Question, Source};
use super::snapshot::{DamagedPlace, View};
use super::{OnDamage, Scan, ScanRequest, Snapshot, TagSelection};
use crate::error::{Error, Result};
use crate::retention::Ends;
use crate::segment::SegmentCursor;
use crate::segment::cursor::{PlainBuf, PlainRows, PlainTimes};
use crate::segment::tiers::TierRows;
use crate::tag::{TagId, ValueType};
use crate::tier::fold::{Fold, Frame};
use crate::tier::rollup::{Needs, Rollup};
use crate::tier::rows::{RowQualities, Rows, Times};
use crate::tier::rule::Rule;
use crate::tier::{Tier, stored};
use crate::time::TimeRange;

/// Rollups given at once; a tag with more comes in several parts.
pub const ROLLUPS_MAX: usize = 4_096;

/// Stored rollups kept decoded over all segments: some 100 MB.
const KEPT_ROLLUPS_MAX: usize = 1 << 18;

/// Which windows of time are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollupWindows {
    /// Window `k` holds the instants `origin_ns + k * width_ns <= t < origin_ns + (k + 1) * width_ns`, for every integer
    /// `k`: half-open, without gap or overlap. Only samples within `range` count; a window that the range cuts is given
    /// with what it has inside.
    Even {
        /// Of which source times.
        range: TimeRange,
        /// Where some window begins.
        origin_ns: i64,
        /// Length of each, at least 1.
        width_ns: i64,
    },
    /// These: ascending and disjoint, none of them empty.
    Each(Arc<[TimeRange]>),
}

impl RollupWindows {
    /// The least range that holds them all.
    pub fn hull(&self) -> TimeRange {
        match self {
            Self::Even { range, .. } => *range,
            Self::Each(windows) => match (windows.first(), windows.last()) {
                (Some(first), Some(last)) => TimeRange::new(first.start_ns, last.end_ns),
                _ => TimeRange::new(0, 0),
            },
        }
    }

    /// Whether a window holds any instant of a span.
    pub(super) fn touch(&self, first_ns: i64, last_ns: i64) -> bool {
        match self {
            Self::Even { .. } => true,
            Self::Each(windows) => {
                let next = windows.partition_point(|window| window.end_ns <= first_ns);
                windows.get(next).is_some_and(|window| window.start_ns <= last_ns)
            }
        }
    }

    fn frame(&self) -> Frame {
        match self {
            Self::Even { origin_ns, width_ns, .. } => {
                Frame::Even { origin_ns: *origin_ns, width_ns: *width_ns }
            }
            Self::Each(windows) => Frame::Each(Arc::clone(windows)),
        }
    }

    /// The tiers whose windows may lie within these, the coarsest first.
    fn tiers(&self) -> Vec<Tier> {
        let is_fit = |tier: &Tier| {
            let tier_ns = tier.width_ns();
            match self {
                Self::Even { origin_ns, width_ns, .. } => {
                    width_ns % tier_ns == 0 && origin_ns % tier_ns == 0
                }
                Self::Each(windows) => {
                    windows.iter().any(|w| w.end_ns.saturating_sub(w.start_ns) >= tier_ns)
                }
            }
        };
        Tier::ALL.into_iter().rev().filter(is_fit).collect()
    }

    /// Panics unless they are windows: that would be the caller's bug.
    fn check(&self) {
        match self {
            Self::Even { width_ns, .. } => assert!(*width_ns > 0, "a window has a positive width"),
            Self::Each(windows) => {
                assert!(windows.iter().all(|window| !window.is_empty()), "a window is empty");
                let follows = |a: &TimeRange, b: &TimeRange| a.end_ns <= b.start_ns;
                assert!(windows.is_sorted_by(follows), "windows must ascend");
            }
        }
    }
}

/// What may answer instead of raw samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiers {
    /// Whatever is exact, the coarsest first, where it is read faster than samples.
    #[default]
    Auto,
    /// Whatever is exact, the coarsest first.
    Always,
    /// Raw samples alone.
    Off,
}

/// Rollups of which windows of which tags are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollupRequest {
    /// Of which tags.
    pub tags: TagSelection,
    /// Of which windows.
    pub windows: RollupWindows,
    /// What must be known of each.
    pub needs: Needs,
    /// What may answer.
    pub tiers: Tiers,
    /// What to do about places that cannot be read.
    pub damage: OnDamage,
}

impl RollupRequest {
    /// What SQL's aggregates need of windows of this width that begin at 1970-01-01 and its multiples.
    pub const fn new(tags: TagSelection, range: TimeRange, width_ns: i64) -> Self {
        let windows = RollupWindows::Even { range, origin_ns: 0, width_ns };
        Self { tags, windows, needs: Needs::Sql, tiers: Tiers::Auto, damage: OnDamage::Fail }
    }
}

/// Consecutive windows of one tag that have samples, ascending: 1 to about [`ROLLUPS_MAX`]. A tag may come in several
/// parts, each window in one of them.
#[derive(Clone, Debug, PartialEq)]
pub struct TagRollups {
    /// Whose samples.
    pub tag: TagId,
    /// What the words of the rollups are.
    pub value_type: ValueType,
    /// A rollup for each window.
    pub rollups: Vec<Rollup>,
}

/// Where rollups came from so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Stored rollups that were used: of a minute, a quarter, an hour, a day.
    pub tiers: [u64; Tier::ALL.len()],
    /// Windows of the request that samples were folded into, wholly or in part.
    pub raw: u64,
}

/// Iterates over the rollups of tag after tag. After an error it ends.
///
/// # Errors
/// As a [`Scan`].
#[derive(Debug)]
pub struct Rollups {
    scan: Scan,
    windows: RollupWindows,
    needs: Needs,
    tiers: Vec<Tier>,
    /// Whether a block is used only if that is faster than to read samples.
    weighs: bool,
    /// Stored rollups that cursors keep decoded.
    kept: usize,
    /// The tag being read.
    current: Option<Current>,
    buffer: PlainBuf,
    served: Served,
    is_over: bool,
    outlived: Outlived,
}

/// A tag being read.
#[derive(Debug)]
struct Current {
    tag: TagId,
    value_type: ValueType,
    rule: Rule,
    ends: Ends,
    fold: Fold,
    /// What was not begun, in the order of time.
    parts: VecDeque<Part>,
    /// Whether the jobs are of a part of which rollups alone are left.
    is_left: bool,
    /// Chunks that were taken from the reader, and what to read of them.
    stretch: Option<Stretch>,
    jobs: VecDeque<Job>,
}

impl Snapshot {
    /// Counts, sums, extremes, ends and what interval functions need, of windows of time, tag by tag.
    ///
    /// # Panics
    /// If the request's tags or windows do not ascend, or a window is empty.
    pub fn rollups(&self, request: RollupRequest) -> Rollups {
        request.windows.check();
        let RollupRequest { tags, windows, needs, tiers, damage } = request;
        let weighs = tiers == Tiers::Auto;
        let mut tiers = if tiers == Tiers::Off { Vec::new() } else { windows.tiers() };
        tiers.retain(|tier| needs != Needs::SqlMoments || stored::has_moments(*tier));
        let scan = self.scan(ScanRequest { damage, ..ScanRequest::new(tags, windows.hull()) });
        let is_over = scan.is_over;
        let (current, buffer, served) = (None, PlainBuf::default(), Served::default());
        let outlived = Outlived::new(&self.view);
        Rollups {
            scan,
            windows,
            needs,
            tiers,
            weighs,
            kept: 0,
            current,
            buffer,
            served,
            is_over,
            outlived,
        }
    }

    /// The part of a range of which windows of a tag can be answered for. Where its samples have ended, bounds move inward to
    /// whole windows of the finest tier that is left; what lies before all of that is cut off.
    pub fn answerable(&self, tag: TagId, range: TimeRange) -> TimeRange {
        self.view.ends_of(tag).clip(range)
    }
}

impl Rollups {
    /// Places that were left out so far, as [`Scan::skipped`].
    pub fn skipped(&self) -> Vec<DamagedPlace> {
        self.scan.skipped()
    }

    /// Where what was given so far came from.
    pub fn served(&self) -> Served {
        self.served
    }

    /// The next part of a tag; `None` after the last.
    fn advance(&mut self) -> Result<Option<TagRollups>> {
        loop {
            if self.current.is_none() && !self.begin_tag()? {
                return Ok(None);
            }
            let has_more = self.step()?;
            let Some(Current { tag, value_type, fold, .. }) = &mut self.current else {
                return Ok(None);
            };
            let (tag, value_type) = (*tag, *value_type);
            let rollups = if !has_more {
                fold.finish()
            } else if fold.done() >= ROLLUPS_MAX {
                fold.take_done()
            } else {
                continue;
            };
            let from_rows = fold.take_from_rows();
            if !has_more {
                (self.current, self.scan.reader) = (None, None);
            }
            self.served.raw += from_rows;
            if !rollups.is_empty() {
                return Ok(Some(TagRollups { tag, value_type, rollups }));
            }
        }
    }

    /// Begins the next tag that may have something. False at the end.
    fn begin_tag(&mut self) -> Result<bool> {
        while let Some((tag, value_type)) = self.scan.next_tag() {
            let ends = self.scan.snapshot.view.ends_of(tag);
            let range = ends.clip(self.scan.request.range);
            let (snapshot, cursors) = (&self.scan.snapshot, &mut self.scan.cursors);
            let of = (tag, value_type);
            let damage = self.scan.request.damage;
            let mut parts = self.outlived.parts(snapshot, cursors, of, range, damage)?;
            if let [Part::Samples(range)] = *parts.make_contiguous() {
                // Most tags have one part, and of many it is empty.
                parts.clear();
                if !self.open(tag, value_type, range)? {
                    continue;
                }
            }
            let known = self.scan.snapshot.registry().get(tag);
            let Some(rule) = known.map(|known| Rule::of(known)) else { return Ok(false) };
            let fold = Fold::new(self.windows.frame(), value_type, rule.clone(), self.needs);
            let (is_left, stretch, jobs) = (false, None, VecDeque::new());
            self.current =
                Some(Current { tag, value_type, rule, ends, fold, parts, is_left, stretch, jobs });
            return Ok(true);
        }
        Ok(false)
    }

    /// Opens the samples of a range. False if there are none.
    fn open(&mut self, tag: TagId, value_type: ValueType, range: TimeRange) -> Result<bool> {
        let Scan { snapshot, cursors, reader, .. } = &mut self.scan;
        let opened = TagReader::open_in(snapshot, cursors, (tag, value_type), range, false)?;
        *reader = Some(opened).filter(TagReader::has_rows);
        Ok(reader.is_some())
    }

    /// Begins the next part of the current tag. False if there is none.
    fn next_part(&mut self) -> Result<bool> {
        let Some(current) = &mut self.current else { return Ok(false) };
        let Some(part) = current.parts.pop_front() else { return Ok(false) };
        let (tag, value_type) = (current.tag, current.value_type);
        match part {
            Part::Samples(range) => {
                current.is_left = false;
                self.open(tag, value_type, range)?;
            }
            Part::Left(range) => {
                // A step at a time, so that not all of a year's minutes are in memory.
                let step_ns = range.start_ns.saturating_add(LEFT_STEP_NS).min(range.end_ns);
                if step_ns < range.end_ns {
                    current.parts.push_front(Part::Left(TimeRange::new(step_ns, range.end_ns)));
                }
                current.is_left = true;
                let question = question(current, &self.windows, self.needs, &self.tiers);
                let (view, outlived) = (&self.scan.snapshot.view, &mut self.outlived);
                let mut left = Left { view, outlived, ends: current.ends };
                let jobs = routing::route(&question, &mut left, (range.start_ns, step_ns - 1));
                current.jobs = jobs.into();
            }
        }
        Ok(true)
    }

    /// Folds what comes next of the current tag; false if there is nothing.
    fn step(&mut self) -> Result<bool> {
        if let Some(job) = self.current.as_mut().and_then(|current| current.jobs.pop_front()) {
            return self.perform(job).map(|()| true);
        }
        let scan = &mut self.scan;
        let (Some(reader), Some(current)) = (&mut scan.reader, &mut self.current) else {
            return self.next_part();
        };
        reader.skip_outside(&mut |first_ns, last_ns| self.windows.touch(first_ns, last_ns));
        if let Some(stretch) = reader.take_stretch(&scan.snapshot) {
            let question = question(current, &self.windows, self.needs, &self.tiers);
            let directory = scan.snapshot.view.version.segments()[stretch.segment].directory()?;
            let cursor = &mut scan.cursors.each[stretch.segment];
            let before = cursor.kept_rollups();
            let ends = (stretch.first_ns, stretch.last_ns);
            let weighs = self.weighs && !self.tiers.is_empty();
            let asked = weighs.then(|| (&scan.request.tags, stretch.density(&directory)));
            let mut beside = Beside { directory: &directory, cursor: &mut *cursor, asked };
            current.jobs = routing::route(&question, &mut beside, ends).into();
            self.kept = (self.kept + cursor.kept_rollups()).saturating_sub(before);
            if self.kept > KEPT_ROLLUPS_MAX {
                scan.cursors.each.iter_mut().for_each(SegmentCursor::forget_rollups);
                self.kept = 0;
            }
            current.stretch = Some(stretch);
            return Ok(true);
        }
        let Some(series) = reader.next(&scan.snapshot, &mut scan.cursors, &scan.request)? else {
            scan.reader = None;
            return self.next_part();
        };
        current.fold.add(&Rows::of(series.as_series()));
        Ok(true)
    }

    /// Folds what stored rollups say, or samples of one chunk.
    fn perform(&mut self, job: Job) -> Result<()> {
        let scan = &mut self.scan;
        let Some(current) = &mut self.current else { return Ok(()) };
        let is_left = current.is_left;
        let Current { value_type, rule, fold, stretch, jobs, .. } = current;
        let (from_ns, to_ns) = match job {
            Job::Stored(tier, block, rows) => {
                self.served.tiers[tier.index()] += rows.len() as u64;
                let serve = |row: &Rollup| stored::serve(row, rule, self.needs, *value_type);
                fold.add_stored(tier, &block.rows()[rows], serve);
                return Ok(());
            }
            Job::Samples(from_ns, to_ns) if is_left => return self.miss(from_ns, to_ns),
            Job::Samples(from_ns, to_ns) => (from_ns, to_ns),
        };
        let Some(reader) = &scan.reader else { return Ok(()) };
        let mut pieces = stretch.iter().flat_map(|stretch| &stretch.pieces);
        let Some(piece) = pieces.find(|piece| from_ns <= piece.span().1) else { return Ok(()) };
        let (first_ns, last_ns) = piece.span();
        if last_ns < to_ns {
            jobs.push_front(Job::Samples(last_ns + 1, to_ns));
        }
        let (from_ns, to_ns) = (from_ns.max(first_ns), to_ns.min(last_ns));
        if to_ns < from_ns || !self.windows.touch(from_ns, to_ns) {
            return Ok(());
        }
        let range = TimeRange::new(from_ns, to_ns.saturating_add(1));
        let (cursors, buffer) = (&mut scan.cursors, &mut self.buffer);
        if let Some(plain) = reader.read_plain(cursors, piece, range, buffer) {
            add_plain(fold, *value_type, &plain, buffer);
            return Ok(());
        }
        let series = reader.read_piece(&scan.snapshot, cursors, &scan.request, piece, range)?;
        fold.add(&Rows::of(series.as_series()));
        Ok(())
    }

    /// Fails if samples that have ended would have to answer: rollups were not found for them that do.
    fn miss(&mut self, from_ns: i64, to_ns: i64) -> Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let Current { tag, value_type, ends, .. } = current;
        let mut finer_ns = ends.raw_ns;
        for tier in Tier::ALL {
            let zone = TimeRange::new(ends.of(tier), finer_ns);
            finer_ns = ends.of(tier);
            let range = zone.intersect(&TimeRange::new(from_ns, to_ns.saturating_add(1)));
            let usable = self.needs >= Needs::Weighted;
            let wanted = Wanted { tag: *tag, value_type: *value_type, tier, usable, range };
            let view = &self.scan.snapshot.view;
            let found =
                if range.is_empty() { Vec::new() } else { self.outlived.find(view, &wanted) };
            for found in found {
                match found {
                    Ok(found) => {
                        let asked = rows_of(&found).iter().find(|row| {
                            self.windows.touch(row.first_ns.max(from_ns), row.last_ns.min(to_ns))
                        });
                        if let Some(row) = asked {
                            return Err(self.refusal(current, tier, row));
                        }
                    }
                    Err(unread) => {
                        let Scan { cursors, snapshot, request, .. } = &mut self.scan;
                        cursors.miss(snapshot, *tag, unread, request.damage)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Why a row of the finest tier that is left does not answer.
    fn refusal(&self, current: &Current, tier: Tier, row: &Rollup) -> Error {
        let Current { tag, value_type, rule, ends, fold, .. } = current;
        let fits = match &self.windows {
            RollupWindows::Even { .. } => self.windows.tiers().contains(&tier),
            RollupWindows::Each(_) => fold.is_of_one(row.first_ns, row.last_ns),
        };
        let why = match () {
            () if !fits => format!("ask for windows that are whole multiples of {tier}, in UTC"),
            () if self.needs == Needs::SqlMoments => {
                "deviations are kept of 15 minutes and more: ask for such windows".to_owned()
            }
            () if self.tiers.is_empty() => "tiers are switched off".to_owned(),
            () if !stored::can_serve(row, rule, Needs::Weighted, tier, *value_type) => {
                if *value_type == ValueType::Text {
                    "of text only counts are left".to_owned()
                } else if row.uncertain > 0 {
                    "there are samples of Uncertain quality, and of these only SQL's aggregates are left".to_owned()
                } else {
                    "samples lie farther apart than the tag's max_gap, and where is not known any more".to_owned()
                }
            }
            () => "the counter fell, or its chain was broken, within a window".to_owned(),
        };
        let name = self.scan.snapshot.registry().get(*tag).map(|tag| tag.name.to_string());
        let tag = name.unwrap_or_else(|| tag.to_string());
        Error::Ended { tag, before_ns: ends.raw_ns, at_ns: row.first_ns, tier, why }
    }
}

/// What is asked of a tag's stored rollups.
fn question<'a>(
    current: &'a Current,
    windows: &'a RollupWindows,
    needs: Needs,
    tiers: &'a [Tier],
) -> Question<'a> {
    let Current { tag, value_type, rule, fold, .. } = current;
    let (tag, value_type) = (*tag, *value_type);
    Question { tag, value_type, rule, needs, tiers, windows, fold }
}

/// The rollups that are left of a tag, as far as none of them has ended.
struct Left<'a> {
    view: &'a View,
    outlived: &'a mut Outlived,
    ends: Ends,
}

impl Source for Left<'_> {
    fn find(
        &mut self,
        question: &Question<'_>,
        tier: Tier,
        (from_ns, to_ns): (i64, i64),
    ) -> Vec<(Arc<TierRows>, Range<usize>)> {
        let &Question { tag, value_type, needs, .. } = question;
        let range = TimeRange::new(from_ns.max(self.ends.of(tier)), to_ns.saturating_add(1));
        let usable = needs >= Needs::Weighted;
        let wanted = Wanted { tag, value_type, tier, usable, range };
        let found =
            if range.is_empty() { Vec::new() } else { self.outlived.find(self.view, &wanted) };
        found.into_iter().flatten().collect()
    }
}

impl Iterator for Rollups {
    type Item = Result<TagRollups>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.advance();
        self.is_over = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

fn add_plain(fold: &mut Fold, value_type: ValueType, plain: &PlainRows, buffer: &PlainBuf) {
    let times = match &plain.times {
        PlainTimes::Step { first_ns, step_ns } => Times::Step(*first_ns, *step_ns),
        PlainTimes::Shared(times) => Times::Each(times),
        PlainTimes::Each => Times::Each(&buffer.times),
    };
    let qualities = match plain.quality {
        Some(quality) => RowQualities::Uniform(quality),
        None => RowQualities::Each(&buffer.qualities),
    };
    let (count, words) = (plain.count, buffer.words.as_slice());
    fold.add(&Rows { value_type, count, times, words, qualities });
}

#[cfg(test)]
mod tests;
