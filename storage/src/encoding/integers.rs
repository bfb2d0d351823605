//! Integer columns: vectors of 1,024 words, each in the form that makes it smallest.
//!
//! # Contract
//! * A word is any 64 bits; arithmetic wraps, so every word comes back. Sizes are best for words
//!   near each other when read as two's complement.
//! * Vectors do not depend on each other and know their own length: a reader decodes those it wants
//!   and walks over the rest without unpacking them.
//! * The forms: plain, deltas, deltas of deltas, and deviations from a line (regular times with
//!   jitter, totalisers). Each is packed relative to its least value. Few far values may be kept
//!   aside as *patches*.
//!
//! # What it does not know
//! What the words mean. `plan` decides, this file writes and reads. Bytes: docs/format/encoding.md,
//! "Integer vectors".

mod plan;

use std::ops::Range;

use self::plan::Plan;
use super::packing::{self, WIDTH_MAX, width_of};
use super::{overlap, vectors};
use crate::bytes::{Malformed, Reader, put_varint, put_zigzag, zigzag_bytes};
use crate::limits::VECTOR_ROWS;

/// Set in the form byte of a vector with patches.
const PATCHED: u8 = 8;
/// Fraction bits of a line's slope: over a whole vector it drifts by half a unit at most.
const SLOPE_SHIFT: u32 = 10;

/// What the packed words are. The numbers are the low bits of the form byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The values.
    Plain = 0,
    /// `v[i] - v[i - 1]`.
    Delta = 1,
    /// Differences of those.
    DeltaOfDelta = 2,
    /// `v[i] - (slope * i >> SLOPE_SHIFT)`.
    Line = 3,
}

impl Form {
    /// Every form, fastest to decode first: on equal size the earlier wins.
    const ALL: [Self; 4] = [Self::Plain, Self::Line, Self::Delta, Self::DeltaOfDelta];

    /// Rows at the start whose packed words mean nothing, since the header holds what they start
    /// from.
    const fn lead(self) -> usize {
        match self {
            Self::Plain | Self::Line => 0,
            Self::Delta => 1,
            Self::DeltaOfDelta => 2,
        }
    }
}

/// What stands before the packed words.
#[derive(Clone, Copy, Debug)]
struct Header {
    form: Form,
    width: u32,
    /// Added to each packed word.
    base: u64,
    /// Delta forms: the first value.
    first: u64,
    /// Line: the slope. Delta of delta: the first delta.
    slope: u64,
}

impl Header {
    fn write(&self, patched: bool, out: &mut Vec<u8>) {
        out.push(self.form as u8 | if patched { PATCHED } else { 0 });
        out.push(u8::try_from(self.width).expect("a width is at most 64"));
        put_zigzag(out, self.base as i64);
        match self.form {
            Form::Plain => {}
            Form::Delta => put_zigzag(out, self.first as i64),
            Form::DeltaOfDelta => {
                put_zigzag(out, self.first as i64);
                put_zigzag(out, self.slope as i64);
            }
            Form::Line => put_zigzag(out, self.slope as i64),
        }
    }

    /// The header, and whether patches follow it.
    fn read(reader: &mut Reader<'_>) -> Result<(Self, bool), Malformed> {
        let byte = reader.u8()?;
        let form = match byte & !PATCHED {
            0 => Form::Plain,
            1 => Form::Delta,
            2 => Form::DeltaOfDelta,
            3 => Form::Line,
            _ => return Err(Malformed("integer vector has an unknown form")),
        };
        let width = u32::from(reader.u8()?);
        if width > WIDTH_MAX {
            return Err(Malformed("integer vector has words of more than 64 bits"));
        }
        let mut header = Self { form, width, base: 0, first: 0, slope: 0 };
        header.base = reader.zigzag()?.cast_unsigned();
        if matches!(form, Form::Delta | Form::DeltaOfDelta) {
            header.first = reader.zigzag()?.cast_unsigned();
        }
        if matches!(form, Form::DeltaOfDelta | Form::Line) {
            header.slope = reader.zigzag()?.cast_unsigned();
        }
        Ok((header, byte & PATCHED != 0))
    }

    /// Bytes of the header and of `rows` packed words.
    fn bytes(&self, rows: usize) -> usize {
        let start = match self.form {
            Form::Plain => 0,
            Form::Delta => zigzag_bytes(self.first as i64),
            Form::DeltaOfDelta => zigzag_bytes(self.first as i64) + zigzag_bytes(self.slope as i64),
            Form::Line => zigzag_bytes(self.slope as i64),
        };
        2 + zigzag_bytes(self.base as i64) + start + packing::packed_bytes(rows, self.width)
    }
}

/// Appends all of `words`.
pub(super) fn encode(words: &[u64], out: &mut Vec<u8>) {
    for vector in words.chunks(VECTOR_ROWS) {
        encode_vector(vector, out);
    }
}

/// Appends one vector, at most [`VECTOR_ROWS`] words.
pub(super) fn encode_vector(words: &[u64], out: &mut Vec<u8>) {
    write_vector(words, plan::best(words, true), out);
}

/// Bytes that [`encode_vector`] would append, closely.
pub(super) fn estimate(words: &[u64]) -> usize {
    plan::best(words, true).bytes
}

/// Gives the wanted rows to `sink`, at most a vector at a time, and walks over all others.
pub(super) fn for_each(
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    mut sink: impl FnMut(&[u64]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut buffer = [0; VECTOR_ROWS];
    for (start, len) in vectors(count) {
        let wanted = overlap(rows, start, len);
        if wanted.is_empty() {
            skip_vector(reader, len)?;
        } else {
            let vector = &mut buffer[..len];
            decode_vector(reader, vector)?;
            sink(&vector[wanted])?;
        }
    }
    Ok(())
}

/// Appends the wanted rows to `out`.
pub(super) fn decode(
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    for_each(reader, count, rows, |words| {
        out.extend_from_slice(words);
        Ok(())
    })
}

/// Fills `words`, which is as long as the vector.
pub(super) fn decode_vector(reader: &mut Reader<'_>, words: &mut [u64]) -> Result<(), Malformed> {
    read_vector(reader, words, true)
}

/// Moves past a vector of `len` rows.
pub(super) fn skip_vector(reader: &mut Reader<'_>, len: usize) -> Result<(), Malformed> {
    let (header, patched) = Header::read(reader)?;
    if patched {
        let count = patch_count(reader, len)?;
        for _ in ["positions", "words"] {
            let (header, patched) = Header::read(reader)?;
            if patched {
                return Err(NESTED);
            }
            reader.take(packing::packed_bytes(count, header.width))?;
        }
    }
    reader.take(packing::packed_bytes(len, header.width))?;
    Ok(())
}

const NESTED: Malformed = Malformed("patches have patches");

fn patch_count(reader: &mut Reader<'_>, len: usize) -> Result<usize, Malformed> {
    match reader.length(len)? {
        0 => Err(Malformed("integer vector has no patches, yet says so")),
        count => Ok(count),
    }
}

fn read_vector(
    reader: &mut Reader<'_>,
    words: &mut [u64],
    may_patch: bool,
) -> Result<(), Malformed> {
    let (header, patched) = Header::read(reader)?;
    if patched {
        if !may_patch {
            return Err(NESTED);
        }
        return read_patched(reader, header, words);
    }
    unpack(reader, header, words)?;
    restore(header, words);
    Ok(())
}

/// The rest of a vector with patches. Apart, so that its buffers cost plain vectors nothing.
#[inline(never)]
fn read_patched(
    reader: &mut Reader<'_>,
    header: Header,
    words: &mut [u64],
) -> Result<(), Malformed> {
    let count = patch_count(reader, words.len())?;
    let (mut positions, mut far) = ([0; VECTOR_ROWS], [0; VECTOR_ROWS]);
    read_vector(reader, &mut positions[..count], false)?;
    read_vector(reader, &mut far[..count], false)?;
    unpack(reader, header, words)?;
    for (&position, &word) in positions[..count].iter().zip(&far[..count]) {
        let place = usize::try_from(position).ok().and_then(|p| words.get_mut(p));
        *place.ok_or(Malformed("patch lies outside its vector"))? = word.wrapping_add(header.base);
    }
    restore(header, words);
    Ok(())
}

fn unpack(reader: &mut Reader<'_>, header: Header, words: &mut [u64]) -> Result<(), Malformed> {
    let packed = reader.take(packing::packed_bytes(words.len(), header.width))?;
    packing::unpack(packed, header.width, header.base, words);
    Ok(())
}

/// Turns residuals back into values. This arithmetic is part of the format.
fn restore(header: Header, words: &mut [u64]) {
    match header.form {
        Form::Plain => {}
        Form::Line => {
            add_line(header.slope, words);
        }
        Form::Delta => {
            let Some((first, rest)) = words.split_first_mut() else { return };
            *first = header.first;
            let mut sum = header.first;
            for word in rest {
                sum = sum.wrapping_add(*word);
                *word = sum;
            }
        }
        Form::DeltaOfDelta => {
            let [first, second, rest @ ..] = words else {
                words.fill(header.first);
                return;
            };
            let (mut delta, mut sum) = (header.slope, header.first.wrapping_add(header.slope));
            *first = header.first;
            *second = sum;
            for word in rest {
                delta = delta.wrapping_add(*word);
                sum = sum.wrapping_add(delta);
                *word = sum;
            }
        }
    }
}

/// Height of a line at `index`. This arithmetic is part of the format.
#[inline]
const fn line(slope: u64, index: u64) -> u64 {
    ((slope.wrapping_mul(index) as i64) >> SLOPE_SHIFT).cast_unsigned()
}

/// Adds [`line`] to each word.
///
/// In steps of four with sums in place of products, and with a bias that makes the arithmetic shift
/// a logical one: baseline vector units have neither the product nor that shift, and this takes
/// half the time.
fn add_line(slope: u64, words: &mut [u64]) {
    const BIAS: u64 = 1 << 63;
    let mut heights = [0, 1, 2, 3].map(|index| slope.wrapping_mul(index).wrapping_add(BIAS));
    let stride = slope.wrapping_mul(4);
    let (blocks, rest) = words.as_chunks_mut::<4>();
    for block in blocks {
        for (word, height) in block.iter_mut().zip(&mut heights) {
            let line = (*height >> SLOPE_SHIFT).wrapping_sub(BIAS >> SLOPE_SHIFT);
            *word = word.wrapping_add(line);
            *height = height.wrapping_add(stride);
        }
    }
    for (word, height) in rest.iter_mut().zip(heights) {
        let line = (height >> SLOPE_SHIFT).wrapping_sub(BIAS >> SLOPE_SHIFT);
        *word = word.wrapping_add(line);
    }
}

/// Writes what `restore` turns into `words`; the lead gets `filler`.
fn residuals(header: Header, words: &[u64], filler: u64, out: &mut [u64]) {
    match header.form {
        Form::Plain => out.copy_from_slice(words),
        Form::Line => {
            for ((index, word), residual) in (0..).zip(words).zip(out.iter_mut()) {
                *residual = word.wrapping_sub(line(header.slope, index));
            }
        }
        Form::Delta => {
            for (pair, residual) in words.array_windows().zip(out.iter_mut().skip(1)) {
                let [before, word] = pair;
                *residual = word.wrapping_sub(*before);
            }
        }
        Form::DeltaOfDelta => {
            for (triple, residual) in words.array_windows().zip(out.iter_mut().skip(2)) {
                let [a, b, c] = triple;
                *residual = c.wrapping_sub(*b).wrapping_sub(b.wrapping_sub(*a));
            }
        }
    }
    let lead = header.form.lead().min(out.len());
    out[..lead].fill(filler);
}

fn write_vector(words: &[u64], how: Plan, out: &mut Vec<u8>) {
    let header = how.header;
    let mut buffer = [0; VECTOR_ROWS];
    let residual = &mut buffer[..words.len()];
    residuals(header, words, header.base, residual);
    for word in residual.iter_mut() {
        *word = word.wrapping_sub(header.base);
    }
    header.write(how.patched, out);
    if how.patched {
        let (mut positions, mut far) = (Vec::new(), Vec::new());
        for (position, word) in (0..).zip(residual.iter_mut()) {
            if width_of(*word) > header.width {
                positions.push(position);
                far.push(std::mem::take(word));
            }
        }
        put_varint(out, positions.len() as u64);
        for words in [positions, far] {
            write_vector(&words, plan::best(&words, false), out);
        }
    }
    packing::pack(residual, header.width, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[u64]) -> usize {
        let mut bytes = Vec::new();
        encode(words, &mut bytes);
        let mut reader = Reader::new(&bytes);
        let mut back = Vec::new();
        decode(&mut reader, words.len(), &(0..words.len()), &mut back).unwrap();
        assert_eq!(back, words);
        reader.finish().unwrap();
        let mut reader = Reader::new(&bytes);
        decode(&mut reader, words.len(), &(0..0), &mut back).unwrap();
        reader.finish().unwrap();
        bytes.len()
    }

    fn form_of(words: &[u64]) -> u8 {
        let mut bytes = Vec::new();
        encode(words, &mut bytes);
        bytes[0]
    }

    /// A small generator: tests need noise, not randomness.
    fn noise(index: u64, below: u64) -> u64 {
        (index.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) ^ index)
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
            .rotate_left(17)
            % below
    }

    #[test]
    fn each_form_is_chosen_for_its_signal() {
        let near = |center: u64| (0..1_024).map(|i| center + noise(i, 50)).collect::<Vec<_>>();
        assert_eq!(form_of(&near(1 << 40)), Form::Plain as u8);
        let jitter: Vec<u64> = (0..1_024).map(|i| i * 1_000_000 + noise(i, 5_000)).collect();
        assert_eq!(form_of(&jitter), Form::Line as u8);
        let mut walk = vec![0_u64];
        for i in 0..1_023 {
            walk.push(walk[walk.len() - 1].wrapping_add(noise(i, 9)).wrapping_sub(4));
        }
        assert_eq!(form_of(&walk), Form::Delta as u8);
        let parabola: Vec<u64> = (0..1_024).map(|i| i * i * 77 + noise(i, 2)).collect();
        assert_eq!(form_of(&parabola), Form::DeltaOfDelta as u8);
        for words in [near(9), jitter, walk, parabola] {
            check(&words);
        }
    }

    #[test]
    fn few_far_words_are_patched() {
        let mut words: Vec<u64> = (0..1_024).map(|i| 500 + noise(i, 4)).collect();
        let calm = check(&words);
        words[10] = u64::MAX;
        words[700] = 1 << 50;
        words[1_023] = 0;
        assert_eq!(form_of(&words), PATCHED);
        assert!(check(&words) < calm + 50);
    }

    #[test]
    fn a_gap_in_regular_times_costs_a_patch() {
        let regular: Vec<u64> =
            (0..1_024).map(|i| i * 5 + if i > 600 { 9_999 } else { 0 }).collect();
        assert_eq!(form_of(&regular), PATCHED | Form::Delta as u8);
        assert!(check(&regular) < 24);
    }

    #[test]
    fn constants_take_three_bytes_and_extremes_come_back() {
        assert_eq!(check(&[7; 1_024]), 3);
        assert_eq!(check(&[]), 0);
        for len in [1, 2, 3, 31, 32, 33, 1_023, 1_024, 1_025, 3_000] {
            check(&(0..len).map(|i| noise(i, u64::MAX)).collect::<Vec<_>>());
            check(
                &(0..len)
                    .map(|i| if i % 2 == 0 { i64::MIN.cast_unsigned() } else { i64::MAX as u64 })
                    .collect::<Vec<_>>(),
            );
        }
    }

    #[test]
    fn a_line_is_added_as_it_was_taken_off() {
        for slope in [0, 1, 1_023, 5 << 40, u64::MAX, 1 << 62, 0x8000_0000_0000_0001] {
            let mut words = [9; 1_023];
            add_line(slope, &mut words);
            for (index, word) in (0..).zip(words) {
                assert_eq!(word, 9_u64.wrapping_add(line(slope, index)), "{slope} at {index}");
            }
        }
    }

    #[test]
    fn nested_patches_are_refused() {
        // Patched plain vector of 2 rows, width 0, base 0, one patch whose positions claim patches.
        let bytes = [PATCHED, 0, 0, 1, PATCHED, 0, 0, 1, 0, 0, 0];
        assert_eq!(decode_vector(&mut Reader::new(&bytes), &mut [0; 2]), Err(NESTED));
        assert_eq!(skip_vector(&mut Reader::new(&bytes), 2), Err(NESTED));
    }
}
