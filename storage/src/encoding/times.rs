//! Source times: strictly ascending nanoseconds.
//!
//! # Contract
//! * Regular times are a start and a step, no bytes a row.
//! * Others are their distance from the first in units of their common divisor (most clocks tick in
//!   milliseconds), as integer vectors: deltas, or deviations from a line where a scan is regular
//!   but jitters. Where these need many bits and their distances are few values, as [`steps`] of so many sorts.
//! * Decoded times ascend strictly, or the bytes are refused: callers search them.

use std::ops::Range;

use super::{
    COLUMN_ROWS_MAX, DENSE_ROWS_MIN, Effort, Integers, code, entropy, integers, is_worth,
    replace_if, steps,
};
use crate::bytes::{Malformed, Reader, put_varint, put_zigzag};

/// Packed times of fewer bits a row are good enough: they are read faster.
const STEPS_BITS_MIN: usize = 6;

const NOT_ASCENDING: Malformed = Malformed("times do not ascend");

/// Appends the code and the column.
pub(super) fn encode(times: &[i64], effort: Effort, out: &mut Vec<u8>) {
    assert!(times.is_sorted_by(|a, b| a < b), "times ascend strictly");
    let first = times.first().copied().unwrap_or(0);
    let step = times.get(1).map_or(1, |second| second.wrapping_sub(first).cast_unsigned());
    if times.array_windows().all(|[a, b]| b.wrapping_sub(*a).cast_unsigned() == step) {
        out.push(code::TIMES_STEP);
        put_zigzag(out, first);
        put_varint(out, step);
        return;
    }
    let tick = times
        .array_windows()
        .fold(0, |tick, [a, b]| divisor(b.wrapping_sub(*a).cast_unsigned(), tick));
    let ticks: Vec<u64> = if tick == 1 {
        times.iter().map(|time| time.wrapping_sub(first).cast_unsigned()).collect()
    } else {
        times.iter().map(|time| time.wrapping_sub(first).cast_unsigned() / tick).collect()
    };
    let begin = |code, out: &mut Vec<u8>| {
        out.push(code);
        put_zigzag(out, first);
        put_varint(out, tick);
    };
    let start = out.len();
    begin(code::TIMES_DELTA, out);
    integers::encode(&ticks, out);
    if times.len() < DENSE_ROWS_MIN {
        return;
    }
    let bytes = out.len() - start;
    if bytes * 8 >= times.len() * STEPS_BITS_MIN {
        replace_if(is_worth, out, start, |out| {
            begin(code::TIMES_STEPS, out);
            steps::encode(&ticks, bytes, out)
        });
    }
    if effort == Effort::Final {
        replace_if(is_worth, out, start, |out| {
            begin(code::TIMES_DENSE, out);
            entropy::encode(&ticks, out)
        });
    }
}

/// First time and step, if the column is a grid and its step no longer than times reach.
pub(super) fn decode_step(bytes: &[u8], count: usize) -> Result<Option<(i64, i64)>, Malformed> {
    if bytes.first() != Some(&code::TIMES_STEP) {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes);
    reader.u8()?;
    let (first, step) = read_step(&mut reader, count)?;
    reader.finish()?;
    Ok(i64::try_from(step).ok().map(|step| (first, step)))
}

fn read_step(reader: &mut Reader<'_>, count: usize) -> Result<(i64, u64), Malformed> {
    let first = reader.zigzag()?;
    let step = reader.varint()?;
    let span = step.checked_mul(count.saturating_sub(1) as u64);
    if span.and_then(|span| first.checked_add_unsigned(span)).is_none() || step == 0 {
        return Err(NOT_ASCENDING);
    }
    Ok((first, step))
}

/// Appends the wanted rows.
pub(super) fn decode(
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<i64>,
) -> Result<(), Malformed> {
    let before = out.len();
    match reader.u8()? {
        code::TIMES_STEP => {
            let (first, step) = read_step(reader, count)?;
            let time = |row| first.wrapping_add((step * row as u64) as i64);
            out.extend(rows.clone().map(time));
            Ok(())
        }
        code @ (code::TIMES_DELTA | code::TIMES_DENSE | code::TIMES_STEPS) => {
            let first = reader.zigzag()?;
            let tick = reader.varint()?;
            let sink = |ticks: &[u64]| {
                put(first, tick, ticks, out);
                Ok(())
            };
            match code {
                code::TIMES_DELTA => Integers::Packed.for_each(reader, count, rows, sink)?,
                code::TIMES_DENSE => Integers::Dense.for_each(reader, count, rows, sink)?,
                _ => steps::for_each(reader, count, rows, sink)?,
            }
            if ascend(&out[before..]) { Ok(()) } else { Err(NOT_ASCENDING) }
        }
        _ => Err(Malformed("no such encoding for times")),
    }
}

/// Appends `first + ticks * tick`, wrapping. Vector units have no product of 64 bits; where 32 by 32 do, it is not needed.
#[inline]
fn put(first: i64, tick: u64, ticks: &[u64], out: &mut Vec<i64>) {
    const LOW: u64 = u32::MAX as u64;
    let all = ticks.iter().fold(tick, |all, ticks| all | ticks);
    if tick == 1 {
        out.extend(ticks.iter().map(|ticks| first.wrapping_add(*ticks as i64)));
    } else if all <= LOW {
        let tick = tick & LOW;
        out.extend(ticks.iter().map(|ticks| first.wrapping_add(((ticks & LOW) * tick) as i64)));
    } else {
        out.extend(ticks.iter().map(|ticks| first.wrapping_add(ticks.wrapping_mul(tick) as i64)));
    }
}

/// Whether times ascend strictly.
fn ascend(times: &[i64]) -> bool {
    // So small a step that all of a column's together cannot come round to where they began.
    const NEAR_BITS: u32 = 46;
    const _: () = assert!(COLUMN_ROWS_MAX.ilog2() + NEAR_BITS < 63);
    let steps = times.array_windows().fold(-1, |all, [a, b]| all & a.wrapping_sub(*b));
    if steps >> NEAR_BITS == -1 && times.first() <= times.last() {
        return true;
    }
    times.array_windows().fold(-1, |all, [a, b]| all & less(*a, *b)) < 0
}

/// Negative iff `a < b`: the borrow of the subtraction, free of branches and comparisons that
/// vector units may lack.
#[inline]
const fn less(a: i64, b: i64) -> i64 {
    let difference = a.wrapping_sub(b);
    difference ^ ((a ^ b) & (difference ^ a))
}

/// Greatest common divisor; of 0 and `b` it is `b`.
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
