//! Runs: words that stay the same for many rows, such as set points, states and qualities.
//!
//! # Contract
//! The column is the number of runs, their lengths less one as integer vectors, then one word for
//! each run as a column of its own, in any encoding but runs. Only the words of runs that overlap
//! the wanted rows are decoded.

use std::ops::Range;

use super::{Kind, Nesting, column, integers};
use crate::bytes::{Malformed, Reader, put_varint};

/// Number of runs.
pub(super) fn count_of(words: &[u64]) -> usize {
    let changes: usize = words.array_windows().map(|[a, b]| usize::from(a != b)).sum();
    changes + usize::from(!words.is_empty())
}

/// Appends the column.
pub(super) fn encode(kind: Kind, words: &[u64], out: &mut Vec<u8>) {
    let (mut lengths, mut values) = (Vec::new(), Vec::new());
    for run in words.chunk_by(|a, b| a == b) {
        lengths.push(run.len() as u64 - 1);
        values.extend(run.first());
    }
    put_varint(out, values.len() as u64);
    integers::encode(&lengths, out);
    column::encode(kind, &values, Nesting::InRuns, out);
}

/// Appends the wanted rows.
pub(super) fn decode(
    kind: Kind,
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let runs = reader.length(count)?;
    let mut lengths = Vec::with_capacity(runs);
    integers::decode(reader, runs, &(0..runs), &mut lengths)?;
    let wanted = clip(&mut lengths, count, rows)?;
    let mut values = Vec::with_capacity(wanted.len());
    column::decode((kind, Nesting::InRuns), reader, runs, &wanted, &mut values)?;
    for (&value, &length) in values.iter().zip(&lengths[wanted]) {
        let length = usize::try_from(length).map_err(|_| DISAGREE)?;
        out.extend(std::iter::repeat_n(value, length));
    }
    Ok(())
}

const DISAGREE: Malformed = Malformed("run lengths do not add up to the number of rows");

/// Turns lengths less one into the rows of each run that are wanted, and gives the runs that have
/// any.
fn clip(lengths: &mut [u64], count: usize, rows: &Range<usize>) -> Result<Range<usize>, Malformed> {
    let mut wanted = 0..0;
    let mut start = 0;
    for (index, length) in lengths.iter_mut().enumerate() {
        let left = count - start;
        let len = usize::try_from(*length).ok().filter(|&len| len < left).ok_or(DISAGREE)? + 1;
        let part = start.max(rows.start)..(start + len).min(rows.end);
        if !part.is_empty() {
            wanted = if wanted.is_empty() { index..index + 1 } else { wanted.start..index + 1 };
        }
        *length = part.len() as u64;
        start += len;
    }
    if start == count { Ok(wanted) } else { Err(DISAGREE) }
}
