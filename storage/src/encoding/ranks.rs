//! Ranks: the distinct words in ascending order, and for each row its place among them.
//!
//! # Contract
//! Measurements of a 12- or 16-bit converter look random as floats but take few values: their ranks
//! are in the order of the converter's counts, so steps stay small and pack like the counts
//! themselves. The distinct words are a column of their own, in any encoding but runs and ranks.

use std::ops::Range;

use super::{Integers, Kind, Nesting, column, entropy, index, integers};
use crate::bytes::{Malformed, Reader, put_varint};

/// One distinct word for so many rows at least, or ranks are given up.
const ROWS_PER_DISTINCT: usize = 2;
/// Estimated bits of a distinct word: a lower bound to give up early.
const DISTINCT_BITS_MIN: usize = 4;

/// The ranks of a column's words.
pub(super) struct Ranks {
    /// The distinct words, encoded.
    dictionary: Vec<u8>,
    distinct: usize,
    codes: Vec<u64>,
}

impl Ranks {
    /// The ranks, unless the distinct words alone take `bytes_max`.
    pub(super) fn find(kind: Kind, words: &[u64], bytes_max: usize) -> Option<Self> {
        let distinct_max = (words.len() / ROWS_PER_DISTINCT).min(bytes_max * 8 / DISTINCT_BITS_MIN);
        let (distinct, mut codes) = number(words, distinct_max)?;
        let mut order: Vec<(u64, u64)> =
            distinct.iter().map(|&word| sort_key(kind, word)).zip(0..).collect();
        order.sort_unstable();
        let mut rank_of = vec![0; distinct.len()];
        let mut sorted = Vec::with_capacity(distinct.len());
        for (rank, (_, first)) in (0..).zip(order) {
            let first = index(first);
            rank_of[first] = rank;
            sorted.push(distinct[first]);
        }
        let mut dictionary = Vec::new();
        column::encode(kind, &sorted, Nesting::InRanks, &mut dictionary);
        if dictionary.len() >= bytes_max {
            return None;
        }
        for code in &mut codes {
            *code = rank_of[index(*code)];
        }
        Some(Self { dictionary, distinct: sorted.len(), codes })
    }

    /// Rank of each row.
    pub(super) fn codes(&self) -> &[u64] {
        &self.codes
    }

    /// Bytes of the column without the ranks.
    pub(super) fn dictionary_bytes(&self) -> usize {
        self.dictionary.len() + 3
    }

    /// Appends the column.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.distinct as u64);
        out.extend_from_slice(&self.dictionary);
        integers::encode(&self.codes, out);
    }

    /// Appends the column, ranks entropy-coded; false if they cannot be.
    pub(super) fn write_dense(&self, out: &mut Vec<u8>) -> bool {
        put_varint(out, self.distinct as u64);
        out.extend_from_slice(&self.dictionary);
        entropy::encode(&self.codes, out)
    }
}

/// Appends the wanted rows.
pub(super) fn decode(
    (kind, integers): (Kind, Integers),
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let distinct = reader.length(count)?;
    let mut dictionary = Vec::with_capacity(distinct);
    column::decode((kind, Nesting::InRanks), reader, distinct, &(0..distinct), &mut dictionary)?;
    integers.for_each(reader, count, rows, |ranks| {
        let mut outside = false;
        out.extend(ranks.iter().map(|&rank| {
            let word = dictionary.get(index(rank));
            outside |= word.is_none();
            word.copied().unwrap_or(0)
        }));
        if outside { Err(Malformed("rank lies outside the distinct values")) } else { Ok(()) }
    })
}

/// The distinct words in order of their first row, and for each row the number of its word; none if
/// there are more than `distinct_max`.
pub(super) fn number(words: &[u64], distinct_max: usize) -> Option<(Vec<u64>, Vec<u64>)> {
    const FREE: u32 = u32::MAX;
    let slots = (distinct_max * 2).next_power_of_two().max(16);
    let shift = u64::BITS - slots.trailing_zeros();
    let mut table = vec![(0_u64, FREE); slots];
    let mut distinct = Vec::new();
    let mut numbers = Vec::with_capacity(words.len());
    for &word in words {
        // Fibonacci hashing after a fold, since floats differ in their high bits and integers in
        // their low ones.
        let hash = (word ^ (word >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> shift;
        let mut slot = index(hash);
        let number = loop {
            let (key, number) = table[slot];
            if number == FREE {
                if distinct.len() == distinct_max {
                    return None;
                }
                let number = u32::try_from(distinct.len()).ok().filter(|&n| n != FREE)?;
                table[slot] = (word, number);
                distinct.push(word);
                break number;
            }
            if key == word {
                break number;
            }
            slot = (slot + 1) & (slots - 1);
        };
        numbers.push(u64::from(number));
    }
    Some((distinct, numbers))
}

/// A number that ascends with the word's value.
const fn sort_key(kind: Kind, word: u64) -> u64 {
    let sign = kind.sign_bit();
    let negative = word >> sign & 1 == 1;
    match kind {
        Kind::F64 | Kind::F32 if negative => !word & (u64::MAX >> (63 - sign)),
        Kind::F64 | Kind::F32 => word | 1 << sign,
        Kind::I64 => word ^ 1 << 63,
        Kind::Bool | Kind::U16 | Kind::U32 => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_ascend_with_the_values() {
        let values = [3.5_f64, -1.0, 3.5, f64::NAN, -0.0, 0.0, -1.0, 7.0, -2.0, 3.5, 3.5, 3.5];
        let words: Vec<u64> = values.iter().cycle().take(48).map(|v| v.to_bits()).collect();
        let ranks = Ranks::find(Kind::F64, &words, 400).unwrap();
        assert_eq!(ranks.codes()[..9], [4, 1, 4, 6, 2, 3, 1, 5, 0]);
        assert_eq!(ranks.distinct, 7);
        let mut bytes = Vec::new();
        ranks.write(&mut bytes);
        let (mut reader, mut back) = (Reader::new(&bytes), Vec::new());
        decode((Kind::F64, Integers::Packed), &mut reader, 48, &(0..48), &mut back).unwrap();
        assert_eq!(back, words);
    }

    #[test]
    fn too_many_distinct_words_are_given_up() {
        let words: Vec<u64> = (0..100).map(|i| i * i).collect();
        assert!(Ranks::find(Kind::I64, &words, 10_000).is_none());
    }

    #[test]
    fn a_rank_outside_is_an_error() {
        // One distinct word, then a vector of two ranks, both 1.
        let bytes = [1, super::super::code::CONSTANT, 0, 0, 0, 2];
        let kind = (Kind::I64, Integers::Packed);
        let result = decode(kind, &mut Reader::new(&bytes), 2, &(0..2), &mut Vec::new());
        assert_eq!(result, Err(Malformed("rank lies outside the distinct values")));
    }
}
