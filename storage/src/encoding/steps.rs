//! Steps: times whose distances are few values in no order, as those of scanners that answer late by whole cycles.
//!
//! # Contract
//! * Distances that occur often are listed once, and each row has the place of its own in a byte; zstd then gives the
//!   frequent ones few bits. Rare distances stand beside, in order.
//! * A third of the bytes that packing to one width takes, at a quarter of its speed: for times only, which are few where
//!   tags share them.
//! * Times are sums, so a part is decoded by decoding everything before it.
//!
//! # What it does not know
//! Where times begin and what their unit is: `times`. Bytes: docs/format/encoding.md, "Steps".

use std::ops::Range;

use super::{index, integers, overlap, ranks, vectors};
use crate::bytes::{Malformed, Reader, put_varint};
use crate::limits::VECTOR_ROWS;

/// The place that stands for the next rare step, and the greatest number of common ones.
const RARE: u8 = u8::MAX;
/// A step must occur so often to be listed.
const COMMON_MIN: u64 = 2;
/// Steps looked at to see whether they repeat at all, and how many of these may differ.
const SAMPLE: usize = 256;
const SAMPLE_DISTINCT_MAX: usize = SAMPLE / 4 * 3;
/// One distinct step for so many rows at least.
const ROWS_PER_DISTINCT: usize = 2;
/// zstd level: bytes of these statistics gain nothing from searching longer.
const LEVEL: i32 = 1;

/// Appends the steps between `ticks`, which ascend; false if they surely take `bytes_max` or more, and then `out` is as
/// it was.
pub(super) fn encode(ticks: &[u64], bytes_max: usize, out: &mut Vec<u8>) -> bool {
    let steps: Vec<u64> = ticks.array_windows().map(|[a, b]| b.wrapping_sub(*a)).collect();
    let Some(table) = Table::find(&steps, bytes_max) else { return false };
    let mut rare = Vec::new();
    let mut places = Vec::with_capacity(steps.len());
    for (step, number) in steps.iter().zip(&table.numbers) {
        let place = table.place_of[index(*number)];
        if place == RARE {
            rare.push(*step);
        }
        places.push(place);
    }
    // Out of memory is the only failure; the packed form is then still right.
    let Ok(frame) = zstd::bulk::compress(&places, LEVEL) else { return false };
    put_varint(out, table.common.len() as u64);
    integers::encode(&table.common, out);
    put_varint(out, rare.len() as u64);
    integers::encode(&rare, out);
    out.extend_from_slice(&frame);
    true
}

/// Which steps are common.
struct Table {
    /// Ascending.
    common: Vec<u64>,
    /// For each distinct step its place among the common ones, or [`RARE`].
    place_of: Vec<u8>,
    /// For each step the number of its distinct one.
    numbers: Vec<u64>,
}

impl Table {
    fn find(steps: &[u64], bytes_max: usize) -> Option<Self> {
        let sample = &steps[steps.len() / 2..];
        ranks::number(&sample[..sample.len().min(SAMPLE)], SAMPLE_DISTINCT_MAX)?;
        let (distinct, numbers) = ranks::number(steps, steps.len() / ROWS_PER_DISTINCT)?;
        let mut counts = vec![0_u64; distinct.len()];
        for number in &numbers {
            counts[index(*number)] += 1;
        }
        let mut order: Vec<usize> =
            (0..distinct.len()).filter(|at| counts[*at] >= COMMON_MIN).collect();
        order.sort_unstable_by_key(|at| (u64::MAX - counts[*at], distinct[*at]));
        order.truncate(usize::from(RARE));
        if least_bytes(steps.len() as u64, order.iter().map(|at| counts[*at])) >= bytes_max as u64 {
            return None;
        }
        order.sort_unstable_by_key(|at| distinct[*at]);
        let mut place_of = vec![RARE; distinct.len()];
        for (at, place) in order.iter().zip(0..) {
            place_of[*at] = place;
        }
        let common = order.iter().map(|at| distinct[*at]).collect();
        Some(Self { common, place_of, numbers })
    }
}

/// Bytes that so many steps take at least, of which these are common: in quarters of bits, without floats, so that
/// every machine chooses alike.
fn least_bytes(steps: u64, common: impl Iterator<Item = u64>) -> u64 {
    let (mut quarters, mut rare) = (0, steps);
    let cost = |count: u64| {
        let share = u128::from((steps << 8) / count.max(1));
        count * u64::from(share.pow(4).max(1).ilog2().saturating_sub(32))
    };
    for count in common {
        quarters += cost(count);
        rare -= count;
    }
    (quarters + cost(rare)) / 32 + rare
}

/// Gives the wanted rows, counted in ticks from the first, to `sink`, at most a vector at a time. They are the rest of
/// `reader`.
pub(super) fn for_each(
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    mut sink: impl FnMut(&[u64]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let column = |reader: &mut Reader<'_>, most| {
        let count = reader.length(most)?;
        let mut words = Vec::with_capacity(count);
        integers::decode(reader, count, &(0..count), &mut words)?;
        Ok(words)
    };
    let common = column(reader, usize::from(RARE))?;
    let rare = column(reader, count)?;
    let places = places(reader.rest(), count, (common.len(), rare.len()))?;
    let mut table = [0; RARE as usize + 1];
    table[..common.len()].copy_from_slice(&common);
    let (mut places, mut rare) = (places.iter(), rare.iter());
    let mut ticks = [0; VECTOR_ROWS];
    let mut sum = 0_u64;
    for (start, len) in vectors(count) {
        if start >= rows.end {
            break;
        }
        // The first row of all has no step.
        let lead = usize::from(start == 0);
        ticks[0] = 0;
        for (tick, place) in ticks[lead..len].iter_mut().zip(&mut places) {
            let mut step = table[usize::from(*place)];
            if *place == RARE {
                step = rare.next().copied().unwrap_or(0);
            }
            sum = sum.wrapping_add(step);
            *tick = sum;
        }
        let wanted = overlap(rows, start, len);
        if !wanted.is_empty() {
            sink(&ticks[wanted])?;
        }
    }
    Ok(())
}

/// The place of every step, none of them outside `sizes`: of the common ones, and of the rare ones.
fn places(frame: &[u8], count: usize, sizes: (usize, usize)) -> Result<Vec<u8>, Malformed> {
    const WRONG: Malformed = Malformed("places of steps do not decompress to their number");
    let steps = count.checked_sub(1).ok_or(WRONG)?;
    let mut places = vec![0; steps];
    match zstd::bulk::decompress_to_buffer(frame, places.as_mut_slice()) {
        Ok(bytes) if bytes == steps => {}
        _ => return Err(WRONG),
    }
    let (common, rare) = sizes;
    let found: usize = places.iter().map(|place| usize::from(*place == RARE)).sum();
    let is_outside = |place: &u8| usize::from(*place) >= common && *place != RARE;
    if found != rare || places.iter().any(is_outside) {
        return Err(Malformed("places of steps lie outside the distinct ones"));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ticks: &[u64]) -> Option<usize> {
        let mut bytes = vec![7];
        if !encode(ticks, ticks.len() * 8, &mut bytes) {
            assert_eq!(bytes, [7]);
            return None;
        }
        for rows in [0..ticks.len(), 0..1, 1_000..1_030, ticks.len() - 1..ticks.len()] {
            let (mut reader, mut back) = (Reader::new(&bytes[1..]), Vec::new());
            let sink = |vector: &[u64]| {
                back.extend_from_slice(vector);
                Ok(())
            };
            for_each(&mut reader, ticks.len(), &rows, sink).unwrap();
            assert_eq!(back, ticks[rows]);
            assert_eq!(reader.remaining(), 0);
        }
        Some(bytes.len())
    }

    fn sums(steps: impl Iterator<Item = u64>) -> Vec<u64> {
        let later = steps.scan(0, |sum, step| {
            *sum += step;
            Some(*sum)
        });
        std::iter::once(0).chain(later).collect()
    }

    #[test]
    fn few_steps_take_few_bits_and_rare_ones_come_back() {
        // Three of four rows a cycle, the rest two or nine, now and then an hour and something.
        let step = |i: u64| match i * i % 61 {
            0..45 => 1_113_333,
            45..58 => 2_226_666,
            _ if i.is_multiple_of(13) => 3_600_000_000 + i,
            _ => 10_019_997,
        };
        let bytes = check(&sums((0..5_000).map(step))).expect("few steps");
        assert!(bytes < 5_000 / 4, "{bytes}");
    }

    #[test]
    fn steps_that_hardly_repeat_are_given_up() {
        assert_eq!(check(&sums((1..5_000).map(|i| i * 7_919 % 10_007))), None);
    }

    #[test]
    fn more_common_steps_than_a_byte_tells_apart() {
        check(&sums((0..9_000).map(|i| i * i % 1_021 + 1))).expect("255 of 511 are listed");
    }
}
