//! [`Rollups`]: what is known of windows of time, for many tags; from raw samples decoded and folded in one go.
//!
//! # Contract
//! * Equal to what a [`Scan`] of the same snapshot and ranges gives, grouped by tag and window: late samples,
//!   corrections, deletes and damage included.
//! * A plain chunk that nothing overlaps and no delete may touch is decoded into reused memory and folded there: times on
//!   a grid are never written out, times that chunks share are decoded once. All else goes the way of a scan.
//! * Memory is bounded by the rows of one tag that overlap in time, and [`ROLLUPS_MAX`] rollups.
//!
//! # What it does not know
//! SQL, and what holds beyond the bounds of a window: [`super::neighbours`] looks there.

use std::sync::Arc;

use super::snapshot::DamagedPlace;
use super::{OnDamage, Scan, ScanRequest, Snapshot, TagSelection};
use crate::chunk::series::SeriesBuf;
use crate::error::Result;
use crate::segment::cursor::{PlainBuf, PlainTimes};
use crate::tag::{TagId, ValueType};
use crate::tier::fold::{Fold, Frame};
use crate::tier::rollup::{Needs, Rollup};
use crate::tier::rows::{RowQualities, Rows, Times};
use crate::tier::rule::Rule;
use crate::time::TimeRange;

/// Rollups given at once; a tag with more comes in several parts.
pub const ROLLUPS_MAX: usize = 4_096;

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
    fn hull(&self) -> TimeRange {
        match self {
            Self::Even { range, .. } => *range,
            Self::Each(windows) => match (windows.first(), windows.last()) {
                (Some(first), Some(last)) => TimeRange::new(first.start_ns, last.end_ns),
                _ => TimeRange::new(0, 0),
            },
        }
    }

    /// Whether a window holds any instant of a span.
    fn touch(&self, first_ns: i64, last_ns: i64) -> bool {
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
    /// Whatever is exact, the coarsest first.
    #[default]
    Auto,
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
    /// Windows that were read from tiers: of a minute, a quarter, an hour, a day.
    pub tiers: [u64; 4],
    /// Windows of the request that were folded from raw samples, as a whole or at an edge.
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
    /// The tag being read.
    current: Option<(TagId, ValueType, Fold)>,
    buffer: PlainBuf,
    served: Served,
    is_over: bool,
}

impl Snapshot {
    /// Counts, sums, extremes, ends and what interval functions need, of windows of time, tag by tag.
    ///
    /// # Panics
    /// If the request's tags or windows do not ascend, or a window is empty.
    pub fn rollups(&self, request: RollupRequest) -> Rollups {
        request.windows.check();
        let RollupRequest { tags, windows, needs, tiers: _, damage } = request;
        let scan = self.scan(ScanRequest { damage, ..ScanRequest::new(tags, windows.hull()) });
        let is_over = scan.is_over;
        let (current, buffer, served) = (None, PlainBuf::default(), Served::default());
        Rollups { scan, windows, needs, current, buffer, served, is_over }
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
            if self.current.is_none() {
                if !self.scan.advance_tag()? {
                    return Ok(None);
                }
                let Some(reader) = &self.scan.reader else { return Ok(None) };
                let (tag, value_type) = reader.whose();
                let known = self.scan.snapshot.registry().get(tag);
                let Some(rule) = known.map(|known| Rule::of(known)) else { return Ok(None) };
                let fold = Fold::new(self.windows.frame(), value_type, rule, self.needs);
                self.current = Some((tag, value_type, fold));
            }
            let has_more = self.step()?;
            let Some((tag, value_type, fold)) = &mut self.current else { return Ok(None) };
            let (tag, value_type) = (*tag, *value_type);
            let rollups = if !has_more {
                fold.finish()
            } else if fold.done() >= ROLLUPS_MAX {
                fold.take_done()
            } else {
                continue;
            };
            if !has_more {
                (self.current, self.scan.reader) = (None, None);
            }
            if !rollups.is_empty() {
                self.served.raw += rollups.len() as u64;
                return Ok(Some(TagRollups { tag, value_type, rollups }));
            }
        }
    }

    /// Folds the next rows of the current tag; false if there are none.
    fn step(&mut self) -> Result<bool> {
        let scan = &mut self.scan;
        let (Some(reader), Some((_, value_type, fold))) = (&mut scan.reader, &mut self.current)
        else {
            return Ok(false);
        };
        reader.skip_outside(&mut |first_ns, last_ns| self.windows.touch(first_ns, last_ns));
        let folded = reader.fold_lone_chunk(&scan.snapshot, &mut scan.cursors, &mut self.buffer);
        if let Some(plain) = folded {
            let times = match plain.times {
                PlainTimes::Step { first_ns, step_ns } => Times::Step(first_ns, step_ns),
                PlainTimes::Shared(ref times) => Times::Each(times),
                PlainTimes::Each => Times::Each(&self.buffer.times),
            };
            let qualities = match plain.quality {
                Some(quality) => RowQualities::Uniform(quality),
                None => RowQualities::Each(&self.buffer.qualities),
            };
            let words = self.buffer.words.as_slice();
            fold.add(&Rows {
                value_type: *value_type,
                count: plain.count,
                times,
                words,
                qualities,
            });
            return Ok(true);
        }
        let Some(series) = reader.next(&scan.snapshot, &mut scan.cursors, &scan.request)? else {
            return Ok(false);
        };
        add_series(fold, &series);
        Ok(true)
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

fn add_series(fold: &mut Fold, series: &SeriesBuf) {
    fold.add(&Rows {
        value_type: series.value_type,
        count: series.len(),
        times: Times::Each(&series.times),
        words: &series.words,
        qualities: RowQualities::Each(&series.qualities),
    });
}

#[cfg(test)]
mod tests;
