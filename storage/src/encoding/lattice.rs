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

use super::aside::Aside;
use super::floats::{INTEGER_MAX, Target, float, nearest_integer, round_to_single};
use super::{Integers, Kind, entropy, index, integers, overlap, raw, two_vectors, vectors};
use crate::bytes::{Malformed, Reader, put_u64, put_varint};
use crate::limits::VECTOR_ROWS;
use crate::sample::f32_of;

/// Words looked at to find the step.
const SAMPLE_WORDS: usize = 512;
/// Fewer distinct ones than this are no evidence of a grid.
const DISTINCT_MIN: usize = 12;
/// Distance of a gap from a whole number of steps that is still believed.
const GAP_ERROR_MAX: f64 = 0.2;
/// Bytes before the corrections and counts.
const HEAD_BYTES: usize = 24;
/// Floats that a value may lie off the grid.
const CORRECTION_MAX: u64 = 1 << 12;
/// Places of a grid for each row at which corrections are stored once a place.
const PLACES_PER_ROW: usize = 1;
/// One row in so many may be off the grid.
const ROWS_PER_EXCEPTION: usize = 16;

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

    /// The ordered integer of a word that is on a grid.
    #[inline]
    fn ordered(&self, word: u64) -> u64 {
        match self.target {
            Target::Double => raw::order(63, 0, word),
            Target::Widened => {
                raw::order(31, 0, u64::from(round_to_single(self.value(word)).to_bits()))
            }
            Target::Single => raw::order(31, 0, word),
        }
    }

    #[inline]
    fn value(&self, word: u64) -> f64 {
        match self.target {
            Target::Double | Target::Widened => f64::from_bits(word),
            Target::Single => f64::from(f32_of(word)),
        }
    }

    /// Whether a word can be on a grid.
    #[inline]
    fn takes(&self, word: u64) -> bool {
        self.value(word).is_finite() && self.word(self.ordered(word)) == word
    }
}

/// A grid that a sample of a column's words lies on, not known to begin at the least of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guess {
    grid: Grid,
    /// Places between the least and the greatest word of the sample.
    places: usize,
}

impl Guess {
    /// The grid of a sample of the words, if they have one.
    pub(super) fn find(kind: Kind, words: &[u64]) -> Option<Self> {
        let stride = words.len().div_ceil(SAMPLE_WORDS).max(1);
        let sample: Vec<u64> = words.iter().step_by(stride).copied().collect();
        fit(Target::of(kind, &sample)?, &sample)
    }

    /// Bytes of the column, from two of its vectors; none if these are off the grid.
    pub(super) fn estimate(self, words: &[u64]) -> Option<usize> {
        let (mut rows, mut aside, mut counts, mut corrections) = (0, 0, 0, 0);
        for vector in two_vectors(words) {
            let lattice = Lattice::by_row(self.grid, vector)?;
            rows += vector.len();
            aside += lattice.aside.estimate();
            counts += integers::estimate(&lattice.counts);
            corrections += integers::estimate(&lattice.corrections);
        }
        let by_row = (aside + counts) * words.len() / rows.max(1);
        let places = self.places.min(words.len());
        Some(HEAD_BYTES + by_row + corrections * places / rows.max(1))
    }
}

/// A column's counts, and what it takes to make words of them.
#[derive(Debug)]
pub(super) struct Lattice {
    grid: Grid,
    counts: Vec<u64>,
    /// One for each place of the grid, or one for each row.
    corrections: Vec<u64>,
    is_by_place: bool,
    aside: Aside,
}

impl Lattice {
    /// The whole column, unless too many of its words are off the grid.
    pub(super) fn on(guess: Guess, words: &[u64]) -> Option<Self> {
        let mut lattice = Self::by_row(guess.grid, words)?;
        let greatest = lattice.counts.iter().fold(0, |greatest, count| greatest.max(*count));
        if index(greatest) < words.len() * PLACES_PER_ROW {
            lattice.correct_by_place(index(greatest) + 1, words);
        }
        (lattice.aside.len() <= words.len() / ROWS_PER_EXCEPTION).then_some(lattice)
    }

    /// Counts from the least on, and a correction for each row.
    fn by_row(mut grid: Grid, words: &[u64]) -> Option<Self> {
        const OFF: i64 = i64::MIN;
        let (origin, per_unit) = (grid.origin, grid.step.recip());
        let count_of = |word: u64| {
            let count = (grid.value(word) - origin) * per_unit;
            let is_on = count.abs() <= INTEGER_MAX && grid.takes(word);
            if is_on { nearest_integer(count) as i64 } else { OFF }
        };
        let found: Vec<i64> = words.iter().map(|word| count_of(*word)).collect();
        let least = found.iter().copied().filter(|count| *count != OFF).min()?;
        grid.origin += grid.step * least as f64;
        let aside_max = words.len() / ROWS_PER_EXCEPTION;
        let mut counts = Vec::with_capacity(words.len());
        let mut corrections = Vec::with_capacity(words.len());
        let mut aside = Aside::default();
        // What is off the grid repeats its neighbour, which packs well.
        let (mut count, mut correction) = (0, 0);
        for ((row, word), at) in (0..).zip(words).zip(found) {
            let place = at.wrapping_sub(least).cast_unsigned();
            let off = grid.ordered(*word).wrapping_sub(grid.point(place));
            if at != OFF && off.wrapping_add(CORRECTION_MAX) <= 2 * CORRECTION_MAX {
                (count, correction) = (place, off);
            } else {
                aside.push(row, *word);
                if aside.len() > aside_max {
                    return None;
                }
            }
            counts.push(count);
            corrections.push(correction);
        }
        Some(Self { grid, counts, corrections, is_by_place: false, aside })
    }

    /// Keeps one correction for each place. A row that has another one than the first of its place is put aside.
    fn correct_by_place(&mut self, places: usize, words: &[u64]) {
        const NONE: u64 = u64::MAX / 2;
        let mut table = vec![NONE; places];
        let known = std::mem::take(&mut self.aside);
        let mut known = known.rows().iter().copied().peekable();
        for (row, word) in (0_u64..).zip(words) {
            let at = index(row);
            let is_aside = known.next_if_eq(&row).is_some();
            let place = &mut table[index(self.counts[at])];
            if *place == NONE && !is_aside {
                *place = self.corrections[at];
            }
            if is_aside || *place != self.corrections[at] {
                self.aside.push(row, *word);
            }
        }
        let mut last = 0;
        for place in &mut table {
            // A place that no row has repeats its neighbour.
            last = if *place == NONE { last } else { *place };
            *place = last;
        }
        (self.corrections, self.is_by_place) = (table, true);
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
        self.aside.write(out);
        let places = if self.is_by_place { self.corrections.len() } else { 0 };
        put_varint(out, places as u64);
        if self.is_by_place {
            integers::encode(&self.corrections, out);
        }
    }
}

/// Origin and step that the finite words of a sample agree on.
fn fit(target: Target, sample: &[u64]) -> Option<Guess> {
    let grid = Grid { target, origin: 0.0, step: 1.0 };
    let mut values: Vec<f64> =
        sample.iter().filter(|word| grid.takes(**word)).map(|word| grid.value(*word)).collect();
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
    if !step.is_normal() || step <= 0.0 || !origin.is_finite() || count > INTEGER_MAX {
        return None;
    }
    let places = index(nearest_integer(count)).saturating_add(1);
    Some(Guess { grid: Grid { target, origin, step }, places })
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
    let target = Target::read(reader.u8()?, kind)?;
    let grid = Grid { target, origin, step };
    let mut aside = Aside::default();
    aside.read(reader, count)?;
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
    aside.put_back(rows, &mut out[before..]);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn find(kind: Kind, words: &[u64]) -> Option<Lattice> {
        Lattice::on(Guess::find(kind, words)?, words)
    }

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
            let lattice = find(Kind::F32, &words).expect("a grid");
            assert!(lattice.is_by_place);
            assert_eq!(back(&lattice, Kind::F32, 0..8_192), words);
            let widened: Vec<u64> =
                single.iter().map(|bits| f64::from(f32::from_bits(*bits)).to_bits()).collect();
            let lattice = find(Kind::F64, &widened).expect("a grid");
            assert_eq!(back(&lattice, Kind::F64, 0..8_192), widened);
            assert_eq!(back(&lattice, Kind::F64, 1_000..5_000), widened[1_000..5_000]);
            let (guess, mut bytes) =
                (Guess::find(Kind::F64, &widened).expect("a grid"), Vec::new());
            lattice.write(&mut bytes);
            assert!(bytes.len() < 8_192 * 15 / 8, "{}", bytes.len());
            let estimate = guess.estimate(&widened).expect("on the grid");
            assert!(estimate.abs_diff(bytes.len()) < bytes.len() / 20, "{estimate}");
        }
    }

    #[test]
    fn a_grid_of_more_places_than_rows_is_corrected_by_row() {
        let value = |count: usize| (count as f64 * 0.1 + 3.0).to_bits();
        let words: Vec<u64> = counts(2_000, 60_013).map(value).collect();
        let lattice = find(Kind::F64, &words).expect("a grid");
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
        let lattice = find(Kind::F64, &words).expect("a grid");
        assert!(lattice.aside.len() >= 3, "-0.0 may be a correction");
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
        assert!(find(Kind::F64, &words).is_none());
    }
}
