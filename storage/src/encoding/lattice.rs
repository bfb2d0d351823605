//! Lattice: measurements of a converter that a controller has scaled, as counts on an evenly spaced grid.
//!
//! # Contract
//! * A value is `origin + step * count` in double precision, rounded to f32 where the column's values are f32 or widened
//!   ones, then moved by a *correction*: so many floats up or down. The controller's own formula is not known and need not
//!   be: the corrections are small, and usually the same for equal counts.
//! * Corrections are stored once for each place of the grid, or once a row where the grid has more places than pay.
//! * Words off the grid (-0.0, NaN, what a bad sample left) are kept beside, bit for bit.
//!
//! This arithmetic is part of the format: see docs/format/encoding.md, "Lattice".

use std::ops::Range;

use super::{Integers, Kind, entropy, integers, overlap, raw, vectors};
use crate::bytes::{Malformed, Reader, put_u64, put_varint};
use crate::limits::VECTOR_ROWS;
use crate::sample::f32_of;

/// Words looked at to find the step.
const SAMPLE_WORDS: usize = 512;
/// Fewer distinct ones than this are no evidence of a grid.
const DISTINCT_MIN: usize = 12;
/// Distance of a gap from a whole number of steps that is still believed.
const GAP_ERROR_MAX: f64 = 0.2;
/// Counts at which a decoder's double stops being exact.
const COUNT_MAX: f64 = 4_503_599_627_370_496.0;
/// Floats that a value may lie off the grid.
const CORRECTION_MAX: u64 = 1 << 12;
/// Places of a grid for each row at which corrections are stored once a place.
const PLACES_PER_ROW: usize = 1;
/// One row in so many may be off the grid.
const ROWS_PER_EXCEPTION: usize = 16;

/// How grid points become words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// f64 word of the point.
    Double = 0,
    /// f64 word of the point rounded to f32.
    Widened = 1,
    /// f32 word of the point rounded to f32.
    Single = 2,
}

/// The grid: part of the format.
#[derive(Clone, Copy, Debug)]
struct Grid {
    target: Target,
    origin: f64,
    step: f64,
}

impl Grid {
    /// The float nearest to a point, as an integer of the same order.
    #[inline]
    fn point(&self, count: u64) -> u64 {
        let value = self.origin + self.step * float(count);
        match self.target {
            Target::Double => raw::order(63, 0, value.to_bits()),
            Target::Widened | Target::Single => {
                raw::order(31, 0, u64::from(round_to_single(value).to_bits()))
            }
        }
    }

    /// The word of an ordered integer.
    #[inline]
    fn word(&self, ordered: u64) -> u64 {
        match self.target {
            Target::Double => raw::unorder(63, 0, ordered),
            Target::Widened => f64::from(f32_of(raw::unorder(31, 0, ordered))).to_bits(),
            Target::Single => raw::unorder(31, 0, ordered) & u64::from(u32::MAX),
        }
    }

    /// The ordered integer of a word, and its value; none if the word cannot be on the grid.
    fn place(&self, word: u64) -> Option<(u64, f64)> {
        let value = match self.target {
            Target::Double | Target::Widened => f64::from_bits(word),
            Target::Single => f64::from(f32_of(word)),
        };
        let ordered = match self.target {
            Target::Double => raw::order(63, 0, word),
            Target::Widened => raw::order(31, 0, u64::from(round_to_single(value).to_bits())),
            Target::Single => raw::order(31, 0, word),
        };
        (value.is_finite() && self.word(ordered) == word).then_some((ordered, value))
    }
}

/// Exact below [`COUNT_MAX`]; any other count gives some float. Part of the format.
#[inline]
fn float(count: u64) -> f64 {
    count as f64
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "rounding to nearest is what is meant")]
fn round_to_single(value: f64) -> f32 {
    value as f32
}

/// A column's counts, and what it takes to make words of them.
#[derive(Debug)]
pub(super) struct Lattice {
    grid: Grid,
    counts: Vec<u64>,
    /// One for each place of the grid, or one for each row.
    corrections: Vec<u64>,
    is_by_place: bool,
    positions: Vec<u64>,
    exceptions: Vec<u64>,
}

impl Lattice {
    /// The grid of the column's words, if they have one.
    pub(super) fn find(kind: Kind, words: &[u64]) -> Option<Self> {
        let stride = words.len().div_ceil(SAMPLE_WORDS).max(1);
        let sample: Vec<u64> = words.iter().step_by(stride).copied().collect();
        let target = match kind {
            Kind::F32 => Target::Single,
            Kind::F64 if sample.iter().all(|word| word.trailing_zeros() >= 29) => Target::Widened,
            Kind::F64 => Target::Double,
            _ => return None,
        };
        let (origin, step) = fit(target, &sample)?;
        Self::on(Grid { target, origin, step }, words)
    }

    /// The column on a grid whose origin is not known to be its least point yet.
    fn on(mut grid: Grid, words: &[u64]) -> Option<Self> {
        let count_of = |grid: &Grid, word| {
            let (ordered, value) = grid.place(word)?;
            let count = ((value - grid.origin) / grid.step).round();
            (count.abs() < COUNT_MAX).then_some((ordered, count))
        };
        let counted = words.iter().filter_map(|word| count_of(&grid, *word));
        let least = counted.map(|(_, count)| count).fold(f64::INFINITY, f64::min);
        if !least.is_finite() {
            return None;
        }
        grid.origin += grid.step * least;
        let exceptions_max = words.len() / ROWS_PER_EXCEPTION;
        let mut counts = Vec::with_capacity(words.len());
        let mut corrections = Vec::with_capacity(words.len());
        let (mut positions, mut exceptions) = (Vec::new(), Vec::new());
        let mut greatest = 0;
        for (row, word) in (0..).zip(words) {
            let found = count_of(&grid, *word).filter(|(_, count)| *count >= 0.0);
            let found = found.and_then(|(ordered, count)| {
                let count = whole(count);
                let correction = ordered.wrapping_sub(grid.point(count));
                let is_near = correction.wrapping_add(CORRECTION_MAX) <= 2 * CORRECTION_MAX;
                is_near.then_some((count, correction))
            });
            if let Some((count, correction)) = found {
                greatest = greatest.max(count);
                counts.push(count);
                corrections.push(correction);
            } else {
                // Repeats its neighbour, which packs well.
                counts.push(counts.last().copied().unwrap_or(0));
                corrections.push(corrections.last().copied().unwrap_or(0));
                positions.push(row);
                exceptions.push(*word);
                if positions.len() > exceptions_max {
                    return None;
                }
            }
        }
        let is_by_place = false;
        let mut lattice = Self { grid, counts, corrections, is_by_place, positions, exceptions };
        let places_max = words.len() * PLACES_PER_ROW;
        if let Some(places) = usize::try_from(greatest).ok().filter(|count| *count < places_max) {
            lattice.correct_by_place(places + 1, words);
        }
        (lattice.positions.len() <= exceptions_max).then_some(lattice)
    }

    /// Keeps one correction for each place. A row that has another one than the first of its place is put beside.
    fn correct_by_place(&mut self, places: usize, words: &[u64]) {
        const NONE: u64 = u64::MAX / 2;
        let mut table = vec![NONE; places];
        let mut aside = self.positions.iter().copied().peekable();
        let (mut positions, mut exceptions) = (Vec::new(), Vec::new());
        for (row, word) in (0_u64..).zip(words) {
            let at = index(row);
            let is_aside = aside.next_if_eq(&row).is_some();
            let place = &mut table[index(self.counts[at])];
            if *place == NONE && !is_aside {
                *place = self.corrections[at];
            }
            if is_aside || *place != self.corrections[at] {
                positions.push(row);
                exceptions.push(*word);
            }
        }
        let mut last = 0;
        for place in &mut table {
            // A place that no row has repeats its neighbour.
            last = if *place == NONE { last } else { *place };
            *place = last;
        }
        (self.corrections, self.is_by_place) = (table, true);
        (self.positions, self.exceptions) = (positions, exceptions);
    }

    /// Bytes of the column, closely.
    pub(super) fn estimate(&self) -> usize {
        let whole =
            |words: &[u64]| -> usize { words.chunks(VECTOR_ROWS).map(integers::estimate).sum() };
        let beside = whole(&self.positions) + whole(&self.exceptions);
        24 + beside + whole(&self.corrections) + whole(&self.counts)
    }

    /// Appends the column.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.write_head(out);
        if self.is_by_place {
            integers::encode(&self.counts, out);
            return;
        }
        let vectors = self.corrections.chunks(VECTOR_ROWS).zip(self.counts.chunks(VECTOR_ROWS));
        for (corrections, counts) in vectors {
            integers::encode_vector(corrections, out);
            integers::encode_vector(counts, out);
        }
    }

    /// Appends the column, counts entropy-coded; false if they cannot be.
    pub(super) fn write_dense(&self, out: &mut Vec<u8>) -> bool {
        self.write_head(out);
        if !self.is_by_place {
            integers::encode(&self.corrections, out);
        }
        entropy::encode(&self.counts, out)
    }

    fn write_head(&self, out: &mut Vec<u8>) {
        put_u64(out, self.grid.origin.to_bits());
        put_u64(out, self.grid.step.to_bits());
        out.push(self.grid.target as u8);
        put_varint(out, self.positions.len() as u64);
        integers::encode(&self.positions, out);
        integers::encode(&self.exceptions, out);
        let places = if self.is_by_place { self.corrections.len() } else { 0 };
        put_varint(out, places as u64);
        if self.is_by_place {
            integers::encode(&self.corrections, out);
        }
    }
}

/// Origin and step that the finite words of a sample agree on.
fn fit(target: Target, sample: &[u64]) -> Option<(f64, f64)> {
    let grid = Grid { target, origin: 0.0, step: 1.0 };
    let mut values: Vec<f64> =
        sample.iter().filter_map(|word| grid.place(*word)).map(|(_, value)| value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
    if values.len() < DISTINCT_MIN {
        return None;
    }
    let mut gaps: Vec<f64> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable_by(f64::total_cmp);
    // From the small gaps to the large: the step is known the better, the more of them it has summed up.
    let (mut step, mut sum, mut steps) = (gaps[0], 0.0, 0.0);
    for gap in gaps {
        let whole = (gap / step).round();
        if (gap / step - whole).abs() > GAP_ERROR_MAX || !whole.is_finite() {
            return None;
        }
        (sum, steps) = (sum + gap, steps + whole);
        step = sum / steps;
    }
    // A line through all values: of least squares, about their middle.
    let first = values[0];
    let mut counts = Vec::with_capacity(values.len());
    let mut count = 0.0;
    for (value, before) in values.iter().zip([&first].into_iter().chain(&values)) {
        count += ((value - before) / step).round();
        counts.push(count);
    }
    let n = values.len() as f64;
    let middle = counts.iter().sum::<f64>() / n;
    let mean = values.iter().map(|value| (value - first) / n).sum::<f64>();
    let (mut with, mut of) = (0.0, 0.0);
    for (count, value) in counts.iter().zip(&values) {
        let off = count - middle;
        with += off * (value - first - mean);
        of += off * off;
    }
    let step = with / of;
    let origin = first + (mean - step * middle);
    (step.is_normal() && step > 0.0 && origin.is_finite()).then_some((origin, step))
}

/// Appends the wanted rows.
pub(super) fn decode(
    (kind, integers): (Kind, Integers),
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let (origin, step) = (f64::from_bits(reader.u64()?), f64::from_bits(reader.u64()?));
    let target = match (reader.u8()?, kind) {
        (0, Kind::F64) => Target::Double,
        (1, Kind::F64) => Target::Widened,
        (2, Kind::F32) => Target::Single,
        _ => return Err(Malformed("a lattice has a target of another type")),
    };
    let grid = Grid { target, origin, step };
    let aside = reader.length(count)?;
    let (mut positions, mut exceptions) = (Vec::new(), Vec::new());
    integers::decode(reader, aside, &(0..aside), &mut positions)?;
    integers::decode(reader, aside, &(0..aside), &mut exceptions)?;
    let before = out.len();
    let places = reader.length(count * PLACES_PER_ROW)?;
    if places > 0 {
        let mut table = Vec::with_capacity(places);
        integers::decode(reader, places, &(0..places), &mut table)?;
        for (count, place) in (0..).zip(&mut table) {
            *place = grid.word(grid.point(count).wrapping_add(*place));
        }
        integers.for_each(reader, count, rows, |counts| look_up(&table, counts, out))?;
    } else if integers == Integers::Packed {
        by_row(&grid, reader, count, rows, out)?;
    } else {
        let mut corrections = Vec::with_capacity(rows.len());
        integers::decode(reader, count, rows, &mut corrections)?;
        let mut corrections = corrections.into_iter();
        integers.for_each(reader, count, rows, |counts| {
            let corrected = counts.iter().zip(&mut corrections);
            out.extend(corrected.map(|(n, c)| grid.word(grid.point(*n).wrapping_add(c))));
            Ok(())
        })?;
    }
    put_back(&positions, &exceptions, count, rows, &mut out[before..])
}

fn look_up(table: &[u64], counts: &[u64], out: &mut Vec<u64>) -> Result<(), Malformed> {
    let mut outside = false;
    out.extend(counts.iter().map(|count| {
        let word = table.get(index(*count));
        outside |= word.is_none();
        word.copied().unwrap_or(0)
    }));
    if outside { Err(Malformed("a count lies outside its lattice")) } else { Ok(()) }
}

/// Vectors of corrections and of counts by turns.
fn by_row(
    grid: &Grid,
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let (mut corrections, mut counts) = ([0; VECTOR_ROWS], [0; VECTOR_ROWS]);
    for (start, len) in vectors(count) {
        let wanted = overlap(rows, start, len);
        if wanted.is_empty() {
            integers::skip_vector(reader, len)?;
            integers::skip_vector(reader, len)?;
            continue;
        }
        integers::decode_vector(reader, &mut corrections[..len])?;
        integers::decode_vector(reader, &mut counts[..len])?;
        let corrected = counts[wanted.clone()].iter().zip(&corrections[wanted]);
        out.extend(corrected.map(|(n, c)| grid.word(grid.point(*n).wrapping_add(*c))));
    }
    Ok(())
}

fn put_back(
    positions: &[u64],
    exceptions: &[u64],
    count: usize,
    rows: &Range<usize>,
    out: &mut [u64],
) -> Result<(), Malformed> {
    for (position, word) in positions.iter().zip(exceptions) {
        let position = index(*position);
        if position >= count {
            return Err(Malformed("an exception lies outside its column"));
        }
        if rows.contains(&position) {
            out[position - rows.start] = *word;
        }
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the caller has checked that it is whole, not negative and below 2^52"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

fn index(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(lattice: &Lattice, kind: Kind, rows: Range<usize>) -> Vec<u64> {
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        lattice.write(&mut bytes);
        let mut reader = Reader::new(&bytes);
        let count = lattice.counts.len();
        decode((kind, Integers::Packed), &mut reader, count, &rows, &mut out).unwrap();
        assert_eq!(reader.remaining(), 0);
        out
    }

    /// Counts of a converter, all residues of a prime so that they jump about.
    fn counts(rows: usize, range: usize) -> impl Iterator<Item = usize> {
        (0..rows).map(move |row| row * row * 7_919 % range)
    }

    #[test]
    fn scaled_counts_are_found_and_come_back() {
        for (full, low, span) in
            [(4_095.0, 0.0, 100.0), (65_535.0, -50.0, 400.0), (27_648.0, 4.0, 16.0_f32)]
        {
            let value = |count: usize| count as f32 / full * span + low;
            let single: Vec<u32> = counts(8_192, 3_001).map(|n| value(n + 500).to_bits()).collect();
            let words: Vec<u64> = single.iter().map(|bits| u64::from(*bits)).collect();
            let lattice = Lattice::find(Kind::F32, &words).expect("a grid");
            assert!(lattice.is_by_place);
            assert_eq!(back(&lattice, Kind::F32, 0..8_192), words);
            let widened: Vec<u64> =
                single.iter().map(|bits| f64::from(f32::from_bits(*bits)).to_bits()).collect();
            let lattice = Lattice::find(Kind::F64, &widened).expect("a grid");
            assert_eq!(back(&lattice, Kind::F64, 0..8_192), widened);
            assert_eq!(back(&lattice, Kind::F64, 1_000..5_000), widened[1_000..5_000]);
            assert!(lattice.estimate() < 8_192 * 15 / 8, "{}", lattice.estimate());
        }
    }

    #[test]
    fn a_grid_of_more_places_than_rows_is_corrected_by_row() {
        let value = |count: usize| (count as f64 * 0.1 + 3.0).to_bits();
        let words: Vec<u64> = counts(2_000, 60_013).map(value).collect();
        let lattice = Lattice::find(Kind::F64, &words).expect("a grid");
        assert!(!lattice.is_by_place);
        assert_eq!(back(&lattice, Kind::F64, 0..2_000), words);
        assert_eq!(back(&lattice, Kind::F64, 1_023..1_025), words[1_023..1_025]);
    }

    #[test]
    fn words_off_the_grid_are_kept_beside() {
        let odd = [f64::NAN.to_bits() | 7, (-0.0_f64).to_bits(), f64::INFINITY.to_bits(), 1];
        let value = |count: usize| f64::from(count as f32 / 4_095.0 * 100.0).to_bits();
        let mut words: Vec<u64> = counts(3_000, 1_009).map(value).collect();
        for (at, word) in odd.into_iter().enumerate() {
            words[at * 701 + 5] = word;
        }
        // None of them is in the sample, which has every sixth row.
        let lattice = Lattice::find(Kind::F64, &words).expect("a grid");
        assert!(lattice.exceptions.len() >= 3, "-0.0 may be a correction");
        assert_eq!(back(&lattice, Kind::F64, 0..3_000), words);
    }

    #[test]
    fn noise_has_no_grid() {
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (20.0 + (state >> 11) as f64 / (1_u64 << 53) as f64).to_bits()
        });
        let words: Vec<u64> = noise.take(8_192).collect();
        assert!(Lattice::find(Kind::F64, &words).is_none());
    }
}
