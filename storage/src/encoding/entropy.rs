//! Integers for what stays: entropy-coded by the `pco` crate, where bit-packing pays for the widest word of a vector.
//!
//! # Contract
//! * Same words in and out as `integers`, at 3 to 20 M words a second to write and 100 to 500 M to read. A column is
//!   decoded from its start, whatever part of it is wanted.
//! * `pco` sees integers only, never floats: its arithmetic cannot depend on how a machine rounds.
//! * What it writes is checked by reading it back before it counts: the words it came from will be deleted.
//! * It is handed nothing that could make it allocate: kind of column and size of its window are looked at before.
//!   Whatever the bytes, it takes less than 8 MiB beside the words asked for: the windows of two streams, and of
//!   three streams at most 2^14 bins and the tables made of them.
//!
//! This is the only file that knows the crate. Its version is pinned: golden files hold its bytes, and the tests of
//! damaged bytes hold for this version. Bytes: docs/format/encoding.md, "Entropy-coded integers".

use std::ops::Range;

use ::pco::data_types::Number;
use ::pco::wrapped::{ChunkDecompressor, FileCompressor, FileDecompressor};
use ::pco::{ChunkConfig, FULL_BATCH_N};

use super::{overlap, vectors};
use crate::bytes::{Malformed, Reader};
use crate::limits::VECTOR_ROWS;

/// Greatest logarithm of a window: a column has at most 2^16 rows.
const WINDOW_LOG_MAX: u8 = 16;
/// Format 4.1 of `pco`, which its file header would say. Every column has the same, so none stores it.
const VERSION: [u8; 2] = [4, 1];
/// The crate's default; higher levels take much longer for less than a percent.
const LEVEL: usize = 8;

const REFUSED: Malformed = Malformed("entropy-coded integers are damaged");

const _: () = assert!(VECTOR_ROWS.is_multiple_of(FULL_BATCH_N));

/// Bytes of a packed integer. The numbers stand in the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Narrow = 4,
    Wide = 8,
}

/// Appends all of `words`, which are some; false if they cannot be written so, and `out` is then as it was.
pub(super) fn encode(words: &[u64], out: &mut Vec<u8>) -> bool {
    let before = out.len();
    let narrow: Option<Vec<i32>> =
        words.iter().map(|&word| i32::try_from(word as i64).ok()).collect();
    let written = if let Some(narrow) = &narrow {
        write(Width::Narrow, narrow, out)
    } else {
        let wide: Vec<i64> = words.iter().map(|&word| word as i64).collect();
        write(Width::Wide, &wide, out)
    };
    let is_right = written.is_some() && comes_back(words, &out[before..]);
    if !is_right {
        out.truncate(before);
    }
    is_right
}

fn write<T: Number>(width: Width, numbers: &[T], out: &mut Vec<u8>) -> Option<()> {
    let config = ChunkConfig::default().with_compression_level(LEVEL);
    let mut chunk = FileCompressor::default().chunk_compressor(numbers, &config).ok()?;
    if chunk.n_per_page() != [numbers.len()] {
        return None;
    }
    out.push(width as u8);
    chunk.write_meta(&mut *out).ok()?;
    chunk.write_page(0, &mut *out).ok()?;
    Some(())
}

fn comes_back(words: &[u64], bytes: &[u8]) -> bool {
    let mut at = 0;
    let mut reader = Reader::new(bytes);
    let read = for_each(&mut reader, words.len(), &(0..words.len()), |back| {
        let same = words.get(at..at + back.len()) == Some(back);
        at += back.len();
        if same { Ok(()) } else { Err(REFUSED) }
    });
    read.is_ok() && at == words.len()
}

/// Gives the wanted rows to `sink`, at most a vector at a time. They are the rest of `reader`.
pub(super) fn for_each(
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    sink: impl FnMut(&[u64]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let width = match reader.u8()? {
        4 => Width::Narrow,
        8 => Width::Wide,
        _ => return Err(Malformed("entropy-coded integers have an unknown width")),
    };
    let bytes = reader.rest();
    check_head(bytes, width)?;
    match width {
        Width::Narrow => {
            each::<i32>(bytes, count, rows, |number| i64::from(number).cast_unsigned(), sink)
        }
        Width::Wide => each::<i64>(bytes, count, rows, i64::cast_unsigned, sink),
    }
}

/// Refuses what would make the decoder allocate: dictionaries, and windows longer than a column.
///
/// The head is a mode (4 bits; mode 1 has a number of the column's width behind it), then a sort of delta (4 bits;
/// sort 2 has the logarithm of its window less one behind it, 5 bits).
fn check_head(bytes: &[u8], width: Width) -> Result<(), Malformed> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(Malformed("ends too early"));
    let delta_at = match byte(0)? & 0xF {
        0 => 0,
        1 => width as usize,
        _ => return Err(Malformed("entropy-coded integers have a mode that is never written")),
    };
    match byte(delta_at)? >> 4 {
        0 | 1 => Ok(()),
        2 if (byte(delta_at + 1)? & 0x1F) < WINDOW_LOG_MAX => Ok(()),
        _ => Err(Malformed("entropy-coded integers have deltas that are never written")),
    }
}

fn each<T: Number>(
    bytes: &[u8],
    count: usize,
    rows: &Range<usize>,
    word: impl Fn(T) -> u64,
    mut sink: impl FnMut(&[u64]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let (file, _) = FileDecompressor::new(VERSION.as_slice()).map_err(|_| REFUSED)?;
    let (mut chunk, rest): (ChunkDecompressor<T>, &[u8]) =
        file.chunk_decompressor(bytes).map_err(|_| REFUSED)?;
    let mut page = chunk.page_decompressor(rest, count).map_err(|_| REFUSED)?;
    let mut numbers = [T::default(); VECTOR_ROWS];
    let mut words = [0; VECTOR_ROWS];
    for (start, len) in vectors(count) {
        let progress = page.read(&mut numbers).map_err(|_| REFUSED)?;
        if progress.n_processed != len {
            return Err(REFUSED);
        }
        let wanted = overlap(rows, start, len);
        if wanted.is_empty() {
            continue;
        }
        for (to, from) in words.iter_mut().zip(&numbers[..len]) {
            *to = word(*from);
        }
        sink(&words[wanted])?;
    }
    if page.into_src().is_empty() { Ok(()) } else { Err(Malformed("bytes are left over")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], count: usize) -> Result<Vec<u64>, Malformed> {
        let mut words = Vec::new();
        for_each(&mut Reader::new(bytes), count, &(0..count), |vector| {
            words.extend_from_slice(vector);
            Ok(())
        })?;
        Ok(words)
    }

    /// Words of either width, close and far, around zero and at the ends.
    fn columns() -> Vec<Vec<u64>> {
        let noise = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) ^ i;
        let rows = [1, 2, 255, 256, 257, 1_024, 1_025, 5_000];
        let mut all = Vec::new();
        for count in rows {
            all.push((0..count).map(|i| noise(i) % 9).collect());
            all.push((0..count).map(|i| (noise(i) % 90).wrapping_sub(45)).collect());
            all.push((0..count).map(|i| i * 1_000_000_007 + noise(i) % 1_000).collect());
            all.push((0..count).map(|i| (noise(i) % 50) * 7_777_777_777).collect());
            all.push((0..count).map(|i| noise(i % 37)).collect());
            all.push(
                (0..count).map(|i| if i % 2 == 0 { 1 << 63 } else { u64::MAX >> 1 }).collect(),
            );
        }
        all
    }

    #[test]
    fn words_of_every_width_come_back_whole_and_in_part() {
        for words in columns() {
            let mut bytes = vec![0xEE];
            assert!(encode(&words, &mut bytes), "{} words", words.len());
            assert_eq!(bytes.remove(0), 0xEE);
            assert_eq!(decode(&bytes, words.len()).as_ref(), Ok(&words));
            let part = words.len() / 3..words.len() / 2;
            let mut back = Vec::new();
            for_each(&mut Reader::new(&bytes), words.len(), &part, |vector| {
                back.extend_from_slice(vector);
                Ok(())
            })
            .unwrap();
            assert_eq!(back, words[part]);
        }
    }

    #[test]
    fn no_words_are_left_to_others() {
        let mut out = vec![7];
        assert!(!encode(&[], &mut out));
        assert_eq!(out, [7]);
    }

    /// What the head asks for is looked at before the crate is: a dictionary of 2^25 words, a window of 2^24.
    #[test]
    fn a_head_that_asks_for_memory_is_refused() {
        let never = |result: Result<Vec<u64>, Malformed>| {
            assert!(result.is_err_and(|why| why.0.contains("never written")));
        };
        never(decode(&[4, 0x04, 0xFF, 0xFF, 0xFF, 0xFF], 1_000));
        never(decode(&[8, 0x20, 23, 0, 0, 0], 1_000));
        let mut second = vec![8, 0x01, 0, 0, 0, 0, 0, 0, 0, 0x20, 16];
        never(decode(&second, 1_000));
        second[10] = 15;
        assert_eq!(decode(&second, 1_000), Err(REFUSED));
        never(decode(&[4, 0x30, 0, 0, 0, 0], 1_000));
        assert!(decode(&[5, 0], 1).is_err(), "an unknown width");
        assert!(decode(&[], 1).is_err());
    }
}
