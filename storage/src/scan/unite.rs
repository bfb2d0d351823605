//! Rows of one tag that came from several pieces become one ascending series.
//!
//! # Contract
//! * Pieces ascend, and stand one behind the other, the one that wins last: of equal times its row stays.
//! * What few late rows cost is in proportion to them: all that lies between two of them is copied at once.

use std::ops::Range;

use crate::chunk::series::SeriesBuf;
use crate::time::TimeRange;

/// Removes rows from position `from` on whose times lie in any of the ranges.
pub(crate) fn hide(rows: &mut SeriesBuf, from: usize, hidden: &[TimeRange]) {
    let touches = |range: &TimeRange| rows.times[from..].iter().any(|time| range.contains(*time));
    if !hidden.iter().any(touches) {
        return;
    }
    let is_kept =
        |row: &usize| *row < from || !hidden.iter().any(|range| range.contains(rows.times[*row]));
    let mut kept: Vec<Range<usize>> = Vec::new();
    for row in (0..rows.times.len()).filter(is_kept) {
        match kept.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => kept.push(row..row + 1),
        }
    }
    select(rows, &kept);
}

/// Sorts rows by time; of equal times the last stays.
pub(crate) fn order(rows: &mut SeriesBuf) {
    loop {
        let runs = runs_of(&rows.times);
        if runs.len() <= 1 {
            return;
        }
        let mut kept = Vec::new();
        for pair in runs.chunks(2) {
            match pair {
                [older, newer] => interleave(&rows.times, older.clone(), newer.clone(), &mut kept),
                rest => kept.extend_from_slice(rest),
            }
        }
        select(rows, &kept);
    }
}

/// The longest stretches in which times ascend.
fn runs_of(times: &[i64]) -> Vec<Range<usize>> {
    let mut start = 0;
    let of = |run: &[i64]| {
        let run_start = start;
        start += run.len();
        run_start..start
    };
    times.chunk_by(|a, b| a < b).map(of).collect()
}

/// Which rows of two ascending runs follow each other by time. Where both have a time, the newer one has its row.
fn interleave(
    times: &[i64],
    older: Range<usize>,
    newer: Range<usize>,
    kept: &mut Vec<Range<usize>>,
) {
    let (mut at, mut from) = (older.start, newer.start);
    while from < newer.end {
        let next = at + count_while(&times[at..older.end], |time| time < times[from]);
        if at < next {
            kept.push(at..next);
        }
        at = next;
        let until = match times[..older.end].get(at) {
            None => newer.end,
            Some(end) => from + count_while(&times[from..newer.end], |time| time <= *end),
        };
        kept.push(from..until);
        if at < older.end && times[until - 1] == times[at] {
            at += 1;
        }
        from = until;
    }
    if at < older.end {
        kept.push(at..older.end);
    }
}

/// How many times at the front are such: a search that looks near before it looks far.
fn count_while(times: &[i64], is_such: impl Fn(i64) -> bool) -> usize {
    let mut reach = 1;
    while times.get(reach).is_some_and(|time| is_such(*time)) {
        reach *= 2;
    }
    let (low, high) = (reach / 2, reach.min(times.len()));
    low + times[low.min(high)..high].partition_point(|time| is_such(*time))
}

/// Keeps these rows, in this order.
fn select(rows: &mut SeriesBuf, kept: &[Range<usize>]) {
    fn pick<T: Clone>(column: &mut Vec<T>, kept: &[Range<usize>], count: usize) {
        if column.is_empty() {
            return;
        }
        let mut picked = Vec::with_capacity(count);
        for range in kept {
            picked.extend_from_slice(&column[range.clone()]);
        }
        *column = picked;
    }
    let count = kept.iter().map(Range::len).sum();
    pick(&mut rows.times, kept, count);
    pick(&mut rows.words, kept, count);
    pick(&mut rows.texts, kept, count);
    pick(&mut rows.qualities, kept, count);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::tag::{TagId, ValueType};

    fn series(pieces: &[Vec<i64>]) -> SeriesBuf {
        let mut rows = SeriesBuf::new(TagId(1), ValueType::I64);
        for time in pieces.iter().flatten() {
            rows.words.push(rows.times.len() as u64);
            rows.times.push(*time);
        }
        rows
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<i64>>> {
        let piece = prop::collection::btree_set(0_i64..60, 0..30);
        prop::collection::vec(piece.prop_map(|times| times.into_iter().collect()), 0..7)
    }

    proptest! {
        #[test]
        fn of_equal_times_the_last_stays(pieces in pieces()) {
            let mut rows = series(&pieces);
            let wanted: BTreeMap<i64, u64> =
                rows.times.iter().copied().zip(rows.words.iter().copied()).collect();
            order(&mut rows);
            let found: Vec<(i64, u64)> = rows.times.into_iter().zip(rows.words).collect();
            prop_assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn what_is_hidden_goes_from_the_newer_rows_alone(
            pieces in pieces(),
            from in any::<prop::sample::Index>(),
            ranges in prop::collection::vec((0_i64..60, 0_i64..20), 0..3),
        ) {
            let mut rows = series(&pieces);
            let from = from.index(rows.times.len() + 1);
            let ranges: Vec<TimeRange> =
                ranges.iter().map(|(start, length)| TimeRange::new(*start, start + length)).collect();
            let is_kept = |row: usize, time: i64| row < from || !ranges.iter().any(|r| r.contains(time));
            let wanted: Vec<(i64, u64)> = (0..rows.times.len())
                .map(|row| (row, rows.times[row]))
                .filter(|(row, time)| is_kept(*row, *time))
                .map(|(row, time)| (time, row as u64))
                .collect();
            hide(&mut rows, from, &ranges);
            let found: Vec<(i64, u64)> = rows.times.into_iter().zip(rows.words).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
