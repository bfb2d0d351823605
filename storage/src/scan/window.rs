//! [`Windows`]: aggregates of windows of time over raw samples, decoded and folded in one go.
//!
//! # Contract
//! * Equal to what a [`Scan`] of the same snapshot and range gives, grouped by tag and window: late samples,
//!   corrections, deletes and damage included.
//! * A plain chunk that nothing overlaps and no delete may touch is decoded into reused memory and folded there: times on
//!   a grid are never written out, times that chunks share are decoded once. All else goes the way of a scan.
//! * Memory is bounded by the rows of one tag that overlap in time, and [`WINDOWS_MAX`] windows.
//!
//! # What it does not know
//! Tiers, SQL, which samples a question calls usable: it counts by severity and looks into Good ones.

mod fold;

use super::{OnDamage, Scan, ScanRequest, Snapshot, TagSelection};
use crate::chunk::series::SeriesBuf;
use crate::error::Result;
use crate::segment::cursor::{PlainBuf, PlainTimes};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;
use fold::{Fold, RowQualities, Rows, Times};

pub use fold::{Point, Window};

use super::snapshot::DamagedPlace;

/// Windows given at once; a tag with more comes in several parts.
pub const WINDOWS_MAX: usize = 4_096;

/// Which windows of which tags are wanted.
///
/// Window `k` holds the instants `origin_ns + k * width_ns <= t < origin_ns + (k + 1) * width_ns`, for every integer `k`:
/// half-open, aligned to the origin, without gap or overlap. Only samples within `range` count; a window that the range
/// cuts is given with what it has inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRequest {
    /// Of which tags.
    pub tags: TagSelection,
    /// Of which source times.
    pub range: TimeRange,
    /// Where some window begins.
    pub origin_ns: i64,
    /// Length of each, at least 1.
    pub width_ns: i64,
    /// What to do about places that cannot be read.
    pub damage: OnDamage,
}

impl WindowRequest {
    /// Windows of this width that begin at 1970-01-01 and its multiples.
    pub const fn new(tags: TagSelection, range: TimeRange, width_ns: i64) -> Self {
        Self { tags, range, origin_ns: 0, width_ns, damage: OnDamage::Fail }
    }
}

/// Consecutive windows of one tag that have samples, ascending: 1 to about [`WINDOWS_MAX`]. A tag may come in several
/// parts, each window in one of them.
#[derive(Clone, Debug, PartialEq)]
pub struct TagWindows {
    /// Whose samples.
    pub tag: TagId,
    /// What the words of the windows are.
    pub value_type: ValueType,
    /// The windows.
    pub windows: Vec<Window>,
}

/// Iterates over the windows of tag after tag. After an error it ends.
///
/// # Errors
/// As a [`Scan`].
#[derive(Debug)]
pub struct Windows {
    scan: Scan,
    origin_ns: i64,
    width_ns: i64,
    /// The tag being read.
    current: Option<(TagId, ValueType, Fold)>,
    buffer: PlainBuf,
    is_over: bool,
}

impl Snapshot {
    /// Counts, sums, extremes and ends of windows of time, tag by tag; see [`WindowRequest`] for what a window is.
    ///
    /// # Panics
    /// If the request's tags do not ascend, or its width is not positive.
    pub fn windows(&self, request: WindowRequest) -> Windows {
        assert!(request.width_ns > 0, "a window has a positive width");
        let WindowRequest { tags, range, origin_ns, width_ns, damage } = request;
        let scan = self.scan(ScanRequest { damage, ..ScanRequest::new(tags, range) });
        let is_over = scan.is_over;
        Windows { scan, origin_ns, width_ns, current: None, buffer: PlainBuf::default(), is_over }
    }
}

impl Windows {
    /// Places that were left out so far, as [`Scan::skipped`].
    pub fn skipped(&self) -> Vec<DamagedPlace> {
        self.scan.skipped()
    }

    /// The next part of a tag; `None` after the last.
    fn advance(&mut self) -> Result<Option<TagWindows>> {
        loop {
            if self.current.is_none() {
                if !self.scan.advance_tag()? {
                    return Ok(None);
                }
                let Some(reader) = &self.scan.reader else { return Ok(None) };
                let (tag, value_type) = reader.whose();
                let fold = Fold::new(self.origin_ns, self.width_ns, value_type);
                self.current = Some((tag, value_type, fold));
            }
            let has_more = self.step()?;
            let Some((tag, value_type, fold)) = &mut self.current else { return Ok(None) };
            let (tag, value_type) = (*tag, *value_type);
            let windows = if !has_more {
                fold.finish()
            } else if fold.done() >= WINDOWS_MAX {
                fold.take_done()
            } else {
                continue;
            };
            if !has_more {
                (self.current, self.scan.reader) = (None, None);
            }
            if !windows.is_empty() {
                return Ok(Some(TagWindows { tag, value_type, windows }));
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
        let folded = reader.fold_lone_chunk(&scan.snapshot, &mut scan.cursors, &mut self.buffer);
        if let Some(plain) = folded {
            let times = match &plain.times {
                PlainTimes::Step { first_ns, step_ns } => Times::Step(*first_ns, *step_ns),
                PlainTimes::Shared(times) => Times::Each(times),
                PlainTimes::Each => Times::Each(&self.buffer.times),
            };
            let qualities = match plain.quality {
                Some(quality) => RowQualities::Uniform(quality),
                None => RowQualities::Each(&self.buffer.qualities),
            };
            let words = self.buffer.words.as_slice();
            fold.add(&Rows { count: plain.count, times, words, qualities });
            return Ok(true);
        }
        let Some(series) = reader.next(&scan.snapshot, &mut scan.cursors, &scan.request)? else {
            return Ok(false);
        };
        add_series(fold, *value_type, &series);
        Ok(true)
    }
}

impl Iterator for Windows {
    type Item = Result<TagWindows>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.advance();
        self.is_over = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

fn add_series(fold: &mut Fold, value_type: ValueType, series: &SeriesBuf) {
    assert_eq!(series.value_type, value_type, "a tag has one type");
    fold.add(&Rows {
        count: series.len(),
        times: Times::Each(&series.times),
        words: &series.words,
        qualities: RowQualities::Each(&series.qualities),
    });
}

#[cfg(test)]
mod tests;
