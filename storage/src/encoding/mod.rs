//! Encodings: columns of a chunk as few bytes, and back, bit for bit.
//!
//! # Contract
//! * What was encoded comes back exactly: NaN payloads, -0.0 and every nanosecond.
//! * The first byte of a column is its [code](name). A code means one layout and one arithmetic for
//!   ever; a new behaviour is a new code.
//! * Decoders are total: any bytes give values or [`Malformed`]. Memory is bounded by the number of
//!   rows, at most [`COLUMN_ROWS_MAX`], and for text by the bytes given. They consume exactly all
//!   bytes.
//! * `rows` selects part of a column; only vectors of [`crate::limits::VECTOR_ROWS`] rows that
//!   overlap it are decoded. On an error nothing is appended.
//! * The encoding of a column is chosen by looking at its values: the smallest by estimate.
//!
//! # What it does not know
//! Tags, files, checksums. A parent holds the number of rows and verifies the bytes before they
//! come here.
//!
//! # Reading order
//! `column` (which encoding), `integers` and `packing` (what all are made of), `runs`, `floats` and
//! `aside`, `decimal`, `ranks`, `lattice`, `raw` (words), `times` and `steps`, `text`. Bytes: docs/format/encoding.md.

mod aside;
mod column;
mod decimal;
mod entropy;
mod floats;
mod integers;
mod lattice;
mod packing;
mod ranks;
mod raw;
mod runs;
mod steps;
mod text;
mod times;

use std::ops::Range;
use std::sync::Arc;

pub use crate::bytes::Malformed;
use crate::bytes::Reader;
use crate::limits::VECTOR_ROWS;
use crate::tag::ValueType;

/// Rows of a column that decoders accept.
pub const COLUMN_ROWS_MAX: usize = 65_536;

/// How hard an encoder tries. It changes sizes, never values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// As fast as samples come: seals, and whatever will be written again.
    #[default]
    Light,
    /// For what stays: the last compaction of a partition.
    Final,
}

/// Codes of encodings. Part of the format: a number is never given a second meaning.
mod code {
    pub(super) const CONSTANT: u8 = 1;
    pub(super) const RUNS: u8 = 2;
    pub(super) const INTEGERS: u8 = 3;
    pub(super) const DECIMAL: u8 = 4;
    pub(super) const RANKS: u8 = 5;
    pub(super) const RAW: u8 = 6;
    /// The same four as above, their integers entropy-coded.
    pub(super) const INTEGERS_DENSE: u8 = 7;
    pub(super) const DECIMAL_DENSE: u8 = 8;
    pub(super) const RANKS_DENSE: u8 = 9;
    pub(super) const RAW_DENSE: u8 = 10;
    pub(super) const LATTICE: u8 = 11;
    pub(super) const LATTICE_DENSE: u8 = 12;
    pub(super) const TIMES_STEP: u8 = 16;
    pub(super) const TIMES_DELTA: u8 = 17;
    pub(super) const TIMES_DENSE: u8 = 18;
    pub(super) const TIMES_STEPS: u8 = 19;
    pub(super) const TEXT_PLAIN: u8 = 32;
    pub(super) const TEXT_ZSTD: u8 = 33;
}

/// Name of the encoding a column uses, from its first byte.
pub fn name(code: u8) -> &'static str {
    match code {
        code::CONSTANT => "constant",
        code::RUNS => "runs",
        code::INTEGERS => "integers",
        code::DECIMAL => "decimal",
        code::RANKS => "ranks",
        code::RAW => "raw",
        code::INTEGERS_DENSE => "integers+pco",
        code::DECIMAL_DENSE => "decimal+pco",
        code::RANKS_DENSE => "ranks+pco",
        code::RAW_DENSE => "raw+pco",
        code::LATTICE => "lattice",
        code::LATTICE_DENSE => "lattice+pco",
        code::TIMES_STEP => "step",
        code::TIMES_DELTA => "delta",
        code::TIMES_DENSE => "delta+pco",
        code::TIMES_STEPS => "steps+zstd",
        code::TEXT_PLAIN => "dictionary",
        code::TEXT_ZSTD => "dictionary+zstd",
        _ => "unknown",
    }
}

/// Appends a column of source times, which ascend strictly.
///
/// # Panics
/// If they do not.
pub fn encode_times(times: &[i64], effort: Effort, out: &mut Vec<u8>) {
    times::encode(times, effort, out);
}

/// Appends `rows` of a column of `count` times to `out`; they ascend strictly.
///
/// # Errors
/// If no encoder wrote these bytes for `count` times.
pub fn decode_times(
    bytes: &[u8],
    count: usize,
    rows: Range<usize>,
    out: &mut Vec<i64>,
) -> Result<(), Malformed> {
    decode(bytes, count, rows, out, times::decode)
}

/// First time and step of a column of `count` times, if they lie on a grid: then none needs to be written out.
///
/// # Errors
/// If they begin as a grid and are none.
pub(crate) fn decode_step(bytes: &[u8], count: usize) -> Result<Option<(i64, i64)>, Malformed> {
    times::decode_step(bytes, count)
}

/// Appends a column of numeric values in their word form, see [`crate::sample::Value::to_word`].
pub fn encode_words(value_type: ValueType, words: &[u64], effort: Effort, out: &mut Vec<u8>) {
    column::encode_top(Kind::of(value_type), words, effort, out);
}

/// Appends `rows` of a column of `count` words to `out`.
///
/// # Errors
/// If no encoder wrote these bytes for `count` words of that type.
pub fn decode_words(
    value_type: ValueType,
    bytes: &[u8],
    count: usize,
    rows: Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    decode(bytes, count, rows, out, |reader, count, rows, out| {
        column::decode_checked(Kind::of(value_type), reader, count, rows, out)
    })
}

/// Appends a column of texts.
pub fn encode_texts(texts: &[Arc<str>], out: &mut Vec<u8>) {
    text::encode(texts, out);
}

/// Appends `rows` of a column of `count` texts to `out`; equal texts share memory.
///
/// # Errors
/// If no encoder wrote these bytes for `count` texts.
pub fn decode_texts(
    bytes: &[u8],
    count: usize,
    rows: Range<usize>,
    out: &mut Vec<Arc<str>>,
) -> Result<(), Malformed> {
    decode(bytes, count, rows, out, text::decode)
}

/// Appends a column of OPC UA status codes.
pub fn encode_qualities(qualities: &[u32], out: &mut Vec<u8>) {
    // Nearly all columns have one quality; these need no copy of every row.
    let uniform = qualities.array_windows().all(|[a, b]| a == b);
    let rows = if uniform { 1 } else { qualities.len() };
    let words: Vec<u64> = qualities.iter().take(rows).map(|&q| u64::from(q)).collect();
    column::encode(Kind::U32, &words, Nesting::Top, out);
}

/// Appends `rows` of a column of `count` status codes to `out`.
///
/// # Errors
/// If no encoder wrote these bytes for `count` status codes.
pub fn decode_qualities(
    bytes: &[u8],
    count: usize,
    rows: Range<usize>,
    out: &mut Vec<u32>,
) -> Result<(), Malformed> {
    decode(bytes, count, rows, out, |reader, count, rows, out| {
        let mut words = Vec::new();
        column::decode_checked(Kind::U32, reader, count, rows, &mut words)?;
        out.extend(words.iter().map(|&word| column::low_u32(word)));
        Ok(())
    })
}

/// The quality of all rows, if the column says that it is one.
///
/// # Errors
/// If it says so and is damaged.
pub(crate) fn decode_one_quality(bytes: &[u8]) -> Result<Option<u32>, Malformed> {
    if bytes.first() != Some(&code::CONSTANT) {
        return Ok(None);
    }
    let mut quality = Vec::with_capacity(1);
    decode_qualities(bytes, 1, 0..1, &mut quality)?;
    Ok(quality.pop())
}

/// What the words of a column are, as far as encodings care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Bits of a 64-bit float.
    F64,
    /// Bits of a 32-bit float in the low half.
    F32,
    /// Two's complement.
    I64,
    /// 0 or 1.
    Bool,
    /// State codes.
    U16,
    /// Qualities, indexes.
    U32,
}

impl Kind {
    const fn of(value_type: ValueType) -> Self {
        match value_type {
            ValueType::F64 => Self::F64,
            ValueType::F32 => Self::F32,
            // Text has no words; whoever asks for them gets none wrong.
            ValueType::I64 | ValueType::Text => Self::I64,
            ValueType::Bool => Self::Bool,
            ValueType::State => Self::U16,
        }
    }

    const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32)
    }

    /// The greatest word.
    const fn max(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => u64::MAX,
            Self::F32 | Self::U32 => u32::MAX as u64,
            Self::U16 => u16::MAX as u64,
            Self::Bool => 1,
        }
    }

    /// Place of a float's sign.
    const fn sign_bit(self) -> u32 {
        if matches!(self, Self::F32) { 31 } else { 63 }
    }
}

/// Which encodings a column may use, given what it is part of. Bounds the depth of columns in
/// columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nesting {
    /// A column of a chunk.
    Top,
    /// The words of runs: no runs again.
    InRuns,
    /// The distinct words of ranks: neither runs nor ranks again.
    InRanks,
}

/// How the integers inside a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Integers {
    /// Bit-packed vectors: [`integers`].
    Packed,
    /// Entropy-coded: [`entropy`]. They are the last part of a column.
    Dense,
}

impl Integers {
    /// Gives the wanted rows to `sink`, at most a vector at a time.
    #[inline]
    fn for_each(
        self,
        reader: &mut Reader<'_>,
        count: usize,
        rows: &Range<usize>,
        sink: impl FnMut(&[u64]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        match self {
            Self::Packed => integers::for_each(reader, count, rows, sink),
            Self::Dense => entropy::for_each(reader, count, rows, sink),
        }
    }
}

/// Whether the dense form of a column saves enough to be read several times slower.
const fn is_worth(dense_bytes: usize, light_bytes: usize) -> bool {
    dense_bytes * 100 <= light_bytes * (100 - DENSE_SAVES_PERCENT)
}

/// Whether another form took the place of what began at `start`: `write` could write it, and of its bytes and those there
/// were `is_better` says so.
fn replace_if(
    is_better: impl FnOnce(usize, usize) -> bool,
    out: &mut Vec<u8>,
    start: usize,
    write: impl FnOnce(&mut Vec<u8>) -> bool,
) -> bool {
    let middle = out.len();
    let takes = write(out) && is_better(out.len() - middle, middle - start);
    if takes {
        out.drain(start..middle);
    } else {
        out.truncate(middle);
    }
    takes
}

const fn is_smaller(bytes: usize, before: usize) -> bool {
    bytes < before
}

/// Percent that a dense form must save.
const DENSE_SAVES_PERCENT: usize = 12;
/// Columns of fewer rows have no dense form: its tables take more than it saves.
const DENSE_ROWS_MIN: usize = 256;

/// The checks that all columns share.
fn decode<T, F>(
    bytes: &[u8],
    count: usize,
    rows: Range<usize>,
    out: &mut Vec<T>,
    column: F,
) -> Result<(), Malformed>
where
    F: FnOnce(&mut Reader<'_>, usize, &Range<usize>, &mut Vec<T>) -> Result<(), Malformed>,
{
    if count > COLUMN_ROWS_MAX {
        return Err(Malformed("column has more rows than any encoder writes"));
    }
    if rows.start > rows.end || rows.end > count {
        return Err(Malformed("wanted rows lie outside the column"));
    }
    let before = out.len();
    out.reserve(rows.len());
    let mut reader = Reader::new(bytes);
    let result = column(&mut reader, count, &rows, out).and_then(|()| reader.finish());
    if result.is_err() {
        out.truncate(before);
    } else {
        assert!(out.len() == before + rows.len());
    }
    result
}

/// Start and length of each vector of a column.
fn vectors(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(VECTOR_ROWS).map(move |start| (start, VECTOR_ROWS.min(count - start)))
}

/// The vectors that estimates look at: the first and the one in the middle; all of a column of no more than two.
fn two_vectors(words: &[u64]) -> impl Iterator<Item = &[u64]> {
    let all = words.chunks(VECTOR_ROWS);
    let middle = if all.len() <= 2 { 1 } else { words.len() / 2 / VECTOR_ROWS };
    all.step_by(middle.max(1)).take(2)
}

/// A word as a place in memory; what no memory has is the last place.
fn index(word: u64) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

/// The wanted part of the vector at `start`, counted from its own first row; empty if none.
fn overlap(rows: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    let from = rows.start.saturating_sub(start).min(len);
    let to = rows.end.saturating_sub(start).min(len);
    from..to.max(from)
}

#[cfg(test)]
mod tests;
