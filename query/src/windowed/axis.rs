//! The cells of a question: its buckets, cut by its range. Pure.
//!
//! Without a bucket there is one cell, the range. A range without a start begins at each tag's first sample.

use std::sync::Arc;

use tagmill_storage::{RollupWindows, TimeRange};

use super::fold::Cell;
use crate::functions::bucket::Buckets;
use crate::limits::CELLS_LISTED_MAX;

/// How the asked range is cut.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    buckets: Option<Buckets>,
    /// First instant asked for, if it was said.
    pub(crate) start_ns: Option<i64>,
    /// First instant that does not count any more.
    pub(crate) end_ns: i64,
    /// Every cell, if they begin at one time for all tags and are not too many: the local clock is slow to ask.
    listed: Vec<Cell>,
}

impl Axis {
    /// The cells of `buckets` from `start_ns` to `end_ns`.
    pub(crate) fn new(buckets: Option<Buckets>, start_ns: Option<i64>, end_ns: i64) -> Self {
        let mut axis = Self { buckets, start_ns, end_ns, listed: Vec::new() };
        if let Some(start_ns) = start_ns {
            let listed: Vec<Cell> = axis.walk(start_ns).take(CELLS_LISTED_MAX + 1).collect();
            if listed.len() <= CELLS_LISTED_MAX {
                axis.listed = listed;
            }
        }
        axis
    }

    /// The cells from `start_ns` on, which is the range's start or, without one, a tag's first sample.
    pub(crate) fn cells(&self, start_ns: i64) -> impl Iterator<Item = Cell> {
        let listed = if self.start_ns == Some(start_ns) { self.listed.as_slice() } else { &[] };
        let rest = if listed.is_empty() { Some(self.walk(start_ns)) } else { None };
        listed.iter().copied().chain(rest.into_iter().flatten())
    }

    /// The same, up to an earlier end.
    pub(crate) fn cells_until(&self, start_ns: i64, end_ns: i64) -> impl Iterator<Item = Cell> {
        let cells = self.cells(start_ns).take_while(move |cell| cell.start_ns < end_ns);
        cells.map(move |cell| Cell { end_ns: cell.end_ns.min(end_ns), ..cell })
    }

    /// Start of the bucket of an instant, if it can be represented.
    pub(crate) fn bucket_start(&self, time_ns: i64) -> Option<i64> {
        self.buckets.as_ref()?.range_of(time_ns).map(|(start_ns, _)| start_ns)
    }

    /// All that is asked for.
    pub(crate) fn range(&self) -> TimeRange {
        TimeRange::new(self.start_ns.unwrap_or(TimeRange::ALL.start_ns), self.end_ns)
    }

    /// The cells as windows of a request, if they are known before any tag is.
    pub(crate) fn windows(&self) -> Option<RollupWindows> {
        let range = self.range();
        match &self.buckets {
            None => Some(RollupWindows::Each(Arc::new([range]))),
            Some(Buckets::Steps { width_ns, origin_ns }) => {
                let (width_ns, origin_ns) = (*width_ns, *origin_ns);
                Some(RollupWindows::Even { range, origin_ns, width_ns })
            }
            Some(Buckets::Local { .. }) if self.listed.is_empty() => None,
            Some(Buckets::Local { .. }) => {
                let cells = self.listed.iter();
                let windows = cells.map(|cell| TimeRange::new(cell.start_ns, cell.end_ns));
                Some(RollupWindows::Each(windows.collect()))
            }
        }
    }

    fn walk(&self, start_ns: i64) -> impl Iterator<Item = Cell> {
        let mut next_ns = start_ns;
        std::iter::from_fn(move || {
            let (start_ns, end_ns) = (next_ns, self.end_ns);
            if start_ns >= end_ns {
                return None;
            }
            let (label_ns, bucket_end_ns) = match &self.buckets {
                Some(buckets) => buckets.range_of(start_ns)?,
                // Tags may begin at different times, and are one row all the same.
                None => (0, end_ns),
            };
            next_ns = bucket_end_ns.min(end_ns);
            Some(Cell { label_ns, start_ns, end_ns: next_ns })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::bucket::utc;
    use crate::functions::width::Width;
    use chrono_tz::Europe::Berlin;
    use tagmill_storage::SECOND_NS;

    const HOUR_NS: i64 = 3_600 * SECOND_NS;

    #[test]
    fn the_range_cuts_the_first_and_the_last_bucket() {
        let buckets = Buckets::utc(Width::parse("10 s").unwrap(), None);
        let axis = Axis::new(Some(buckets), Some(5 * SECOND_NS), 23 * SECOND_NS);
        let cells = |from: i64| -> Vec<(i64, i64, i64)> {
            let second = |ns: i64| ns / SECOND_NS;
            let of =
                |cell: Cell| (second(cell.label_ns), second(cell.start_ns), second(cell.end_ns));
            axis.cells(from * SECOND_NS).map(of).collect()
        };
        assert_eq!(cells(5), [(0, 5, 10), (10, 10, 20), (20, 20, 23)]);
        assert_eq!(cells(12), [(10, 12, 20), (20, 20, 23)]);
        assert_eq!(cells(23), []);
        let whole = Axis::new(None, None, 7);
        let cell = Cell { label_ns: 0, start_ns: 3, end_ns: 7 };
        assert_eq!(whole.cells(3).collect::<Vec<_>>(), [cell]);
    }

    #[test]
    fn local_days_have_the_hours_they_had() {
        let buckets = Buckets::local(Width::parse("1 day").unwrap(), Berlin, 0).unwrap();
        let (start_ns, end_ns) = (utc(2026, 3, 27, 23, 0), utc(2026, 3, 30, 22, 0));
        let axis = Axis::new(Some(buckets), Some(start_ns), end_ns);
        let hours: Vec<i64> =
            axis.cells(start_ns).map(|cell| (cell.end_ns - cell.start_ns) / HOUR_NS).collect();
        assert_eq!(hours, [24, 23, 24]);
    }
}
