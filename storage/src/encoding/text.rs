//! Texts: the distinct ones once, and for each row a number.
//!
//! # Contract
//! * Distinct texts stand in order of their first row; together they are compressed with zstd where
//!   that pays.
//! * The numbers are a column of words: constant, runs or integers.
//! * Decoding builds only texts that wanted rows name, and equal ones share memory.
//! * Memory is bounded by the bytes given: a compressed dictionary may grow [`GROWTH_MAX`] times,
//!   or to [`SMALL_BYTES`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{Kind, Nesting, code, column, integers};
use crate::bytes::{Malformed, Reader, put_varint};

/// Times that a dictionary may grow when decompressed; one that would grow more is stored plain.
const GROWTH_MAX: usize = 256;
/// Size up to which a dictionary may grow regardless.
const SMALL_BYTES: usize = 1 << 20;
/// Dictionaries of fewer bytes are not compressed.
const COMPRESS_BYTES_MIN: usize = 64;
/// zstd level: texts are few, encoding must be quick.
const LEVEL: i32 = 1;

/// Appends the code and the column.
pub(super) fn encode(texts: &[Arc<str>], out: &mut Vec<u8>) {
    let mut numbers: HashMap<&str, u64> = HashMap::new();
    let (mut lengths, mut bytes) = (Vec::new(), Vec::new());
    let mut codes = Vec::with_capacity(texts.len());
    for text in texts {
        let next = lengths.len() as u64;
        let number = *numbers.entry(text).or_insert(next);
        if number == next {
            lengths.push(text.len() as u64);
            bytes.extend_from_slice(text.as_bytes());
        }
        codes.push(number);
    }
    let compressed = compress(&bytes);
    out.push(if compressed.is_some() { code::TEXT_ZSTD } else { code::TEXT_PLAIN });
    put_varint(out, lengths.len() as u64);
    integers::encode(&lengths, out);
    match compressed {
        Some(compressed) => {
            put_varint(out, compressed.len() as u64);
            out.extend_from_slice(&compressed);
        }
        None => out.extend_from_slice(&bytes),
    }
    column::encode(Kind::U32, &codes, Nesting::Top, out);
}

/// The compressed form, if it saves an eighth and the decoder would accept it.
fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < COMPRESS_BYTES_MIN {
        return None;
    }
    // Out of memory is the only failure; the plain form is then still right.
    let compressed = zstd::bulk::compress(bytes, LEVEL).ok()?;
    let pays = compressed.len() + bytes.len() / 8 < bytes.len();
    (pays && bytes.len() <= grown(compressed.len())).then_some(compressed)
}

/// Greatest size of a dictionary whose compressed form has `bytes`.
fn grown(bytes: usize) -> usize {
    bytes.saturating_mul(GROWTH_MAX).max(SMALL_BYTES)
}

/// Appends the wanted rows.
pub(super) fn decode(
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<Arc<str>>,
) -> Result<(), Malformed> {
    let code = reader.u8()?;
    let distinct = reader.length(count)?;
    let mut ends = Vec::with_capacity(distinct);
    integers::decode(reader, distinct, &(0..distinct), &mut ends)?;
    let mut total = 0_u64;
    for end in &mut ends {
        total = total.checked_add(*end).ok_or(Malformed("text lengths exceed memory"))?;
        *end = total;
    }
    let total = usize::try_from(total).map_err(|_| Malformed("text lengths exceed memory"))?;
    let decompressed;
    let bytes = match code {
        code::TEXT_PLAIN => reader.take(total)?,
        code::TEXT_ZSTD => {
            decompressed = decompress(reader, total)?;
            &decompressed
        }
        _ => return Err(Malformed("no such encoding for texts")),
    };
    let mut codes = Vec::with_capacity(rows.len());
    column::decode((Kind::U32, Nesting::Top), reader, count, rows, &mut codes)?;
    let mut texts: Vec<Option<Arc<str>>> = vec![None; distinct];
    for code in codes {
        let number = usize::try_from(code).ok().filter(|&number| number < distinct);
        let number = number.ok_or(Malformed("text number lies outside the distinct texts"))?;
        if let Some(text) = &texts[number] {
            out.push(Arc::clone(text));
        } else {
            let text = text(bytes, &ends, number)?;
            texts[number] = Some(Arc::clone(&text));
            out.push(text);
        }
    }
    Ok(())
}

fn decompress(reader: &mut Reader<'_>, total: usize) -> Result<Vec<u8>, Malformed> {
    let stored = reader.length(reader.remaining())?;
    let compressed = reader.take(stored)?;
    if total > grown(stored) {
        return Err(Malformed("texts grow too much when decompressed"));
    }
    match zstd::bulk::decompress(compressed, total) {
        Ok(bytes) if bytes.len() == total => Ok(bytes),
        _ => Err(Malformed("compressed texts do not decompress to their length")),
    }
}

/// The text of that number; `ends` are running totals, so each end is the next start.
fn text(bytes: &[u8], ends: &[u64], number: usize) -> Result<Arc<str>, Malformed> {
    let place = |end: Option<&u64>| end.map_or(Ok(0), |&end| usize::try_from(end));
    let start = place(number.checked_sub(1).and_then(|before| ends.get(before)));
    let end = place(ends.get(number));
    let (Ok(start), Ok(end)) = (start, end) else {
        return Err(Malformed("text lengths exceed memory"));
    };
    let bytes = bytes.get(start..end).ok_or(Malformed("text lies outside its dictionary"))?;
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| Malformed("text is not UTF-8"))
}
