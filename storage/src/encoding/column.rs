//! Which encoding a column of words gets, and the byte that says so.
//!
//! # Contract
//! The choice is the smallest estimate. Estimates look at two vectors of the column, at the number
//! of runs and, where that could pay, at the distinct words; only the winner is encoded. A wrong
//! guess costs bytes, never values.

use std::ops::Range;

use super::{
    DENSE_ROWS_MIN, Effort, Integers, Kind, Nesting, code, decimal, entropy, integers, is_smaller,
    is_worth, lattice, ranks, raw, replace_if, runs, two_vectors,
};
use crate::bytes::{Malformed, Reader, put_u32, put_u64, put_zigzag};

/// At so many rows a run, runs win without looking at anything else.
const RUN_ROWS_SURE: usize = 16;
/// At fewer rows a run, runs are not tried.
const RUN_ROWS_MIN: usize = 2;
/// Columns of fewer rows have no ranks: a dictionary would cost more than it saves.
const RANK_ROWS_MIN: usize = 32;

/// An encoding, with what the choice found out about the words on the way.
enum Choice {
    Integers,
    Raw,
    Decimal(decimal::Scale),
    Ranks(ranks::Ranks),
    Lattice(lattice::Lattice),
}

/// Appends the code and the column of a chunk.
pub(super) fn encode_top(kind: Kind, words: &[u64], effort: Effort, out: &mut Vec<u8>) {
    let start = out.len();
    let choice = encode_light(kind, words, Nesting::Top, out);
    if let (Effort::Final, Some(choice)) = (effort, choice)
        && words.len() >= DENSE_ROWS_MIN
    {
        replace_if(is_worth, out, start, |out| write_dense(kind, words, &choice, out));
    }
}

/// Appends the code and the column.
pub(super) fn encode(kind: Kind, words: &[u64], nesting: Nesting, out: &mut Vec<u8>) {
    encode_light(kind, words, nesting, out);
}

/// Appends the code and the column. Tells the choice, unless runs or a constant won without one.
fn encode_light(kind: Kind, words: &[u64], nesting: Nesting, out: &mut Vec<u8>) -> Option<Choice> {
    debug_assert!(words.iter().all(|&word| word <= kind.max()));
    let run_count = runs::count_of(words);
    if run_count <= 1 {
        out.push(code::CONSTANT);
        put_word(kind, words.first().copied().unwrap_or(0), out);
        return None;
    }
    let may_run = nesting == Nesting::Top && run_count * RUN_ROWS_MIN <= words.len();
    if may_run && run_count * RUN_ROWS_SURE <= words.len() {
        out.push(code::RUNS);
        runs::encode(kind, words, out);
        return None;
    }
    let start = out.len();
    let (mut choice, bytes_of_raw) = choose(kind, words, nesting);
    write(kind, words, &choice, out);
    if matches!(choice, Choice::Decimal(_) | Choice::Lattice(_)) && out.len() - start > bytes_of_raw
    {
        // The vectors looked at were no fair sample.
        let raw = Choice::Raw;
        let write_raw = |out: &mut Vec<u8>| {
            write(kind, words, &raw, out);
            true
        };
        if replace_if(is_smaller, out, start, write_raw) {
            choice = raw;
        }
    }
    if may_run {
        replace_if(is_smaller, out, start, |out| {
            out.push(code::RUNS);
            runs::encode(kind, words, out);
            true
        });
    }
    Some(choice)
}

/// Appends the wanted rows, each of them a word of that kind.
pub(super) fn decode_checked(
    kind: Kind,
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let before = out.len();
    decode((kind, Nesting::Top), reader, count, rows, out)?;
    // The greatest words are all ones, so what any word has too much shows in all of them together.
    let max = kind.max();
    if max != u64::MAX && out[before..].iter().fold(0, |all, word| all | word) > max {
        return Err(Malformed("value is too great for its type"));
    }
    Ok(())
}

/// Appends the wanted rows; their words may exceed the kind's greatest.
pub(super) fn decode(
    (kind, nesting): (Kind, Nesting),
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    match (reader.u8()?, nesting) {
        (code::CONSTANT, _) => {
            let word = word(kind, reader)?;
            out.extend(std::iter::repeat_n(word, rows.len()));
            Ok(())
        }
        (code::RUNS, Nesting::Top) => runs::decode(kind, reader, count, rows, out),
        (code::RANKS, Nesting::Top | Nesting::InRuns) => {
            ranks::decode((kind, Integers::Packed), reader, count, rows, out)
        }
        (code::INTEGERS, _) if !kind.is_float() => integers::decode(reader, count, rows, out),
        (code::DECIMAL, _) if kind.is_float() => decimal::decode(kind, reader, count, rows, out),
        (code::RAW, _) if kind.is_float() => {
            raw::decode((kind, Integers::Packed), reader, count, rows, out)
        }
        (code::LATTICE, Nesting::Top) if kind.is_float() => {
            lattice::decode((kind, Integers::Packed), reader, count, rows, out)
        }
        (code::LATTICE_DENSE, Nesting::Top) if kind.is_float() => {
            lattice::decode((kind, Integers::Dense), reader, count, rows, out)
        }
        (code::RANKS_DENSE, Nesting::Top) => {
            ranks::decode((kind, Integers::Dense), reader, count, rows, out)
        }
        (code::INTEGERS_DENSE, Nesting::Top) if !kind.is_float() => {
            entropy::for_each(reader, count, rows, |words| {
                out.extend_from_slice(words);
                Ok(())
            })
        }
        (code::DECIMAL_DENSE, Nesting::Top) if kind.is_float() => {
            decimal::decode_dense(kind, reader, count, rows, out)
        }
        (code::RAW_DENSE, Nesting::Top) if kind.is_float() => {
            raw::decode((kind, Integers::Dense), reader, count, rows, out)
        }
        _ => Err(Malformed("no such encoding for this column")),
    }
}

/// The low half of a word that is known to fit it.
#[expect(clippy::cast_possible_truncation, reason = "callers checked the word against its kind")]
pub(super) fn low_u32(word: u64) -> u32 {
    debug_assert!(u32::try_from(word).is_ok());
    word as u32
}

/// The encoding of the smallest estimate, and that of the plainest one.
fn choose(kind: Kind, words: &[u64], nesting: Nesting) -> (Choice, usize) {
    let plainest = if kind.is_float() {
        let shift = raw::shift_of(kind, words);
        extrapolate(words, |vector| raw::estimate(kind, shift, vector))
    } else {
        extrapolate(words, integers::estimate)
    };
    let mut least = plainest;
    let mut choice = if kind.is_float() { Choice::Raw } else { Choice::Integers };
    if kind.is_float()
        && let Some(scale) = decimal::Scale::find(kind, words)
    {
        let bytes = extrapolate(words, |vector| decimal::estimate(scale, vector));
        if bytes <= least {
            (least, choice) = (bytes, Choice::Decimal(scale));
        }
    }
    // Below two bits a value a dictionary cannot win.
    let worth = least * 4 > words.len() && words.len() >= RANK_ROWS_MIN && kind != Kind::Bool;
    if worth
        && nesting != Nesting::InRanks
        && let Some(ranks) = ranks::Ranks::find(kind, words, least)
    {
        let codes = extrapolate(ranks.codes(), integers::estimate);
        let bytes = codes + ranks.dictionary_bytes();
        // Gathering from a dictionary decodes slower: it must save something.
        if bytes + least / 32 < least {
            (least, choice) = (bytes, Choice::Ranks(ranks));
        }
    }
    if worth
        && nesting == Nesting::Top
        && let Some(guess) = lattice::Guess::find(kind, words)
        && guess.estimate(words).is_some_and(|bytes| bytes + least / 32 < least)
        && let Some(lattice) = lattice::Lattice::on(guess, words)
    {
        choice = Choice::Lattice(lattice);
    }
    (choice, plainest)
}

/// Bytes of the whole column, from those of its first and its middle vector.
fn extrapolate(words: &[u64], estimate: impl Fn(&[u64]) -> usize) -> usize {
    let seen: Vec<&[u64]> = two_vectors(words).collect();
    let rows: usize = seen.iter().map(|vector| vector.len()).sum();
    seen.into_iter().map(estimate).sum::<usize>() * words.len() / rows.max(1)
}

fn write(kind: Kind, words: &[u64], choice: &Choice, out: &mut Vec<u8>) {
    match choice {
        Choice::Integers => {
            out.push(code::INTEGERS);
            integers::encode(words, out);
        }
        Choice::Raw => {
            out.push(code::RAW);
            raw::encode(kind, words, out);
        }
        Choice::Decimal(scale) => {
            out.push(code::DECIMAL);
            decimal::encode(*scale, words, out);
        }
        Choice::Ranks(ranks) => {
            out.push(code::RANKS);
            ranks.write(out);
        }
        Choice::Lattice(lattice) => {
            out.push(code::LATTICE);
            lattice.write(out);
        }
    }
}

/// Writes the choice with entropy-coded integers; false if these cannot be.
fn write_dense(kind: Kind, words: &[u64], choice: &Choice, out: &mut Vec<u8>) -> bool {
    match choice {
        Choice::Integers => {
            out.push(code::INTEGERS_DENSE);
            entropy::encode(words, out)
        }
        Choice::Raw => {
            out.push(code::RAW_DENSE);
            raw::encode_dense(kind, words, out)
        }
        Choice::Decimal(scale) => {
            out.push(code::DECIMAL_DENSE);
            decimal::encode_dense(*scale, words, out)
        }
        Choice::Ranks(ranks) => {
            out.push(code::RANKS_DENSE);
            ranks.write_dense(out)
        }
        Choice::Lattice(lattice) => {
            out.push(code::LATTICE_DENSE);
            lattice.write_dense(out)
        }
    }
}

/// One word, in as few bytes as its kind needs.
fn put_word(kind: Kind, word: u64, out: &mut Vec<u8>) {
    match kind {
        Kind::F64 => put_u64(out, word),
        Kind::F32 => put_u32(out, low_u32(word)),
        Kind::I64 | Kind::Bool | Kind::U16 | Kind::U32 => put_zigzag(out, word as i64),
    }
}

fn word(kind: Kind, reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    match kind {
        Kind::F64 => reader.u64(),
        Kind::F32 => reader.u32().map(u64::from),
        Kind::I64 | Kind::Bool | Kind::U16 | Kind::U32 => reader.zigzag().map(i64::cast_unsigned),
    }
}
