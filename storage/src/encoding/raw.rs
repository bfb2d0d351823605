//! Raw bits of floats: what no other encoding suits, at the entropy of the bits that vary.
//!
//! # Contract
//! * A float's bits become an integer of the same order, so that near values have near integers.
//! * Zero bits that all values share at the end are cut off: an f32 kept as f64 takes at most 35
//!   bits, not 64.
//! * Every bit pattern comes back. An f32 takes at most four bytes (and its vector's header).

use std::ops::Range;

use super::{Integers, Kind, entropy, integers};
use crate::bytes::{Malformed, Reader};
use crate::limits::VECTOR_ROWS;

/// Appends the column: one byte of shift, then integer vectors.
pub(super) fn encode(kind: Kind, words: &[u64], out: &mut Vec<u8>) {
    let shift = shift_of(kind, words);
    out.push(u8::try_from(shift).expect("a shift is below 64"));
    let mut ordered = [0; VECTOR_ROWS];
    for vector in words.chunks(VECTOR_ROWS) {
        integers::encode_vector(order_all(kind, shift, vector, &mut ordered), out);
    }
}

/// Appends the column, integers entropy-coded; false if they cannot be.
pub(super) fn encode_dense(kind: Kind, words: &[u64], out: &mut Vec<u8>) -> bool {
    let (sign, shift) = (kind.sign_bit(), shift_of(kind, words));
    out.push(u8::try_from(shift).expect("a shift is below 64"));
    let ordered: Vec<u64> = words.iter().map(|&word| order(sign, shift, word)).collect();
    entropy::encode(&ordered, out)
}

/// Bytes of one vector of the column.
pub(super) fn estimate(kind: Kind, shift: u32, vector: &[u64]) -> usize {
    let mut ordered = [0; VECTOR_ROWS];
    integers::estimate(order_all(kind, shift, vector, &mut ordered))
}

/// Appends the wanted rows.
pub(super) fn decode(
    (kind, integers): (Kind, Integers),
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let shift = u32::from(reader.u8()?);
    let sign = kind.sign_bit();
    if shift >= sign {
        return Err(Malformed("raw floats are shifted by more than their bits"));
    }
    integers.for_each(reader, count, rows, |ordered| {
        out.extend(ordered.iter().map(|&word| unorder(sign, shift, word)));
        Ok(())
    })
}

/// Zero bits at the end of every word, the sign bit never among them.
pub(super) fn shift_of(kind: Kind, words: &[u64]) -> u32 {
    let used = words.iter().fold(0, |all, word| all | word);
    used.trailing_zeros().min(kind.sign_bit() - 1)
}

fn order_all<'a>(
    kind: Kind,
    shift: u32,
    vector: &[u64],
    ordered: &'a mut [u64; VECTOR_ROWS],
) -> &'a [u64] {
    let sign = kind.sign_bit();
    for (to, &word) in ordered.iter_mut().zip(vector) {
        *to = order(sign, shift, word);
    }
    &ordered[..vector.len()]
}

/// Integer of the same order as the float: its magnitude, complemented below zero so that -0.0
/// differs from 0.0.
pub(super) const fn order(sign: u32, shift: u32, word: u64) -> u64 {
    let negative = word >> sign & 1;
    let magnitude = (word & !(1 << sign)) >> shift;
    magnitude ^ negative.wrapping_neg()
}

/// Inverse of [`order`], for any integer. This arithmetic is part of the format.
pub(super) const fn unorder(sign: u32, shift: u32, ordered: u64) -> u64 {
    let negative = (ordered as i64 >> 63).cast_unsigned();
    ((ordered ^ negative) << shift) | (negative & (1 << sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_floats_is_the_order_of_integers() {
        let values = [f64::NEG_INFINITY, -1.5, -1e-300, -0.0, 0.0, 5e-324, 1.0, f64::INFINITY];
        let ordered = values.map(|v| order(63, 0, v.to_bits()) as i64);
        assert!(ordered.is_sorted_by(|a, b| a < b), "{ordered:?}");
        for (value, ordered) in values.into_iter().zip(ordered) {
            assert_eq!(unorder(63, 0, ordered.cast_unsigned()), value.to_bits());
        }
    }

    #[test]
    fn shared_zero_bits_are_cut_off() {
        let words: Vec<u64> =
            (0..1_024).map(|i| f64::from(20.0_f32 + 0.001 * i as f32).to_bits()).collect();
        assert_eq!(shift_of(Kind::F64, &words), 29);
        assert_eq!(shift_of(Kind::F64, &[0, 0]), 62);
        assert_eq!(shift_of(Kind::F32, &[1 << 31]), 30);
        let mut bytes = Vec::new();
        encode(Kind::F64, &words, &mut bytes);
        assert!(bytes.len() < 3 * 1_024, "{}", bytes.len());
    }
}
