//! Bit-packing: `n` words of `width` bits in `ceil(n * width / 8)` bytes.
//!
//! # Contract
//! * A full vector of [`VECTOR_ROWS`] words has the transposed layout of the `fastlanes` crate, in
//!   lanes of 16 bits for widths up to 16, of 32 bits up to 32, and of 64 bits above; the lanes are
//!   written little-endian.
//! * Fewer words are packed one after the other, lowest bit first, so that short columns stay
//!   short.
//! * Both layouts are part of the format (docs/format/encoding.md, "Bit-packing"); golden files pin
//!   them.
//!
//! This is the only file that knows the crate.

use fastlanes::BitPacking;

use crate::limits::VECTOR_ROWS;

const _: () = assert!(VECTOR_ROWS == 1_024, "the kernels pack 1,024 words");

/// Greatest width of a word.
pub(super) const WIDTH_MAX: u32 = 64;

/// Bytes of `rows` packed words.
pub(super) const fn packed_bytes(rows: usize, width: u32) -> usize {
    (rows * width as usize).div_ceil(8)
}

/// Bits that `value` needs.
pub(super) const fn width_of(value: u64) -> u32 {
    u64::BITS - value.leading_zeros()
}

/// The greatest word of that width.
const fn mask(width: u32) -> u64 {
    if width == 0 { 0 } else { u64::MAX >> (WIDTH_MAX - width) }
}

macro_rules! pack_lanes {
    ($lane:ty, $values:expr, $width:expr, $out:expr; $($w:literal)*) => {{
        let mut narrow: [$lane; VECTOR_ROWS] = [0; VECTOR_ROWS];
        for (to, from) in narrow.iter_mut().zip($values) {
            *to = *from as $lane;
        }
        let mut packed: [$lane; VECTOR_ROWS] = [0; VECTOR_ROWS];
        match $width {
            $($w => {
                const B: usize = VECTOR_ROWS * $w / <$lane>::BITS as usize;
                if let Some(packed) = packed.first_chunk_mut::<B>() {
                    <$lane>::pack::<$w, B>(&narrow, packed);
                }
            })*
            _ => {}
        }
        let bytes = packed_bytes(VECTOR_ROWS, $width);
        $out.extend(packed.iter().flat_map(|lane| lane.to_le_bytes()).take(bytes));
    }};
}

/// Unpacks into lanes; the packed lanes are copied first, since bytes of a file have no alignment.
macro_rules! unpack_lanes {
    ($lane:ty, $bytes:expr, $width:expr, $lanes:expr; $($w:literal)*) => {
        match $width {
            $($w => {
                const B: usize = VECTOR_ROWS * $w / <$lane>::BITS as usize;
                let mut packed: [$lane; B] = [0; B];
                let bytes = $bytes.as_chunks::<{ <$lane>::BITS as usize / 8 }>().0;
                for (to, from) in packed.iter_mut().zip(bytes) {
                    *to = <$lane>::from_le_bytes(*from);
                }
                <$lane>::unpack::<$w, B>(&packed, $lanes);
            })*
            _ => {}
        }
    };
}

/// Appends `values`, each below `2^width`. At most [`VECTOR_ROWS`] of them.
pub(super) fn pack(values: &[u64], width: u32, out: &mut Vec<u8>) {
    assert!(values.len() <= VECTOR_ROWS);
    debug_assert!(values.iter().all(|&value| width_of(value) <= width));
    if values.len() == VECTOR_ROWS {
        pack_vector(values, width, out);
    } else {
        pack_tail(values, width, out);
    }
}

/// Fills `out` with the words of `bytes`, `base` added to each (wrapping).
///
/// `bytes` must be exactly [`packed_bytes`] long, which the caller took from its reader.
pub(super) fn unpack(bytes: &[u8], width: u32, base: u64, out: &mut [u64]) {
    assert!(out.len() <= VECTOR_ROWS);
    assert!(width <= WIDTH_MAX);
    assert!(bytes.len() == packed_bytes(out.len(), width));
    if width == 0 {
        out.fill(base);
    } else if let Some(out) = out.as_mut_array::<VECTOR_ROWS>() {
        unpack_vector(bytes, width, base, out);
    } else {
        unpack_tail(bytes, width, base, out);
    }
}

#[rustfmt::skip] // The lists are the widths of each lane.
#[expect(clippy::cast_possible_truncation, reason = "values fit the width, and that the lane")]
fn pack_vector(values: &[u64], width: u32, out: &mut Vec<u8>) {
    match width {
        0 => {}
        1..=16 => pack_lanes!(u16, values, width, out;
            1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
        17..=32 => pack_lanes!(u32, values, width, out;
            17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32),
        _ => pack_lanes!(u64, values, width, out;
            33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57
            58 59 60 61 62 63 64),
    }
}

#[rustfmt::skip] // The lists are the widths of each lane.
fn unpack_vector(bytes: &[u8], width: u32, base: u64, out: &mut [u64; VECTOR_ROWS]) {
    match width {
        0..=16 => {
            let mut lanes = [0; VECTOR_ROWS];
            unpack_lanes!(u16, bytes, width, &mut lanes;
                1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
            widen(&lanes, base, out);
        }
        17..=32 => {
            let mut lanes = [0; VECTOR_ROWS];
            unpack_lanes!(u32, bytes, width, &mut lanes;
                17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
            widen(&lanes, base, out);
        }
        _ => {
            unpack_lanes!(u64, bytes, width, out;
                33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56
                57 58 59 60 61 62 63 64);
            for word in out {
                *word = word.wrapping_add(base);
            }
        }
    }
}

fn widen<T: Copy + Into<u64>>(lanes: &[T; VECTOR_ROWS], base: u64, out: &mut [u64; VECTOR_ROWS]) {
    for (to, from) in out.iter_mut().zip(lanes) {
        *to = (*from).into().wrapping_add(base);
    }
}

fn pack_tail(values: &[u64], width: u32, out: &mut Vec<u8>) {
    let mut pending: u128 = 0;
    let mut bits = 0;
    for &value in values {
        pending |= u128::from(value) << bits;
        bits += width;
        while bits >= 8 {
            out.push((pending & 0xFF) as u8);
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push((pending & 0xFF) as u8);
    }
}

fn unpack_tail(bytes: &[u8], width: u32, base: u64, out: &mut [u64]) {
    let mask = mask(width);
    for (index, word) in out.iter_mut().enumerate() {
        let bit = index * width as usize;
        let window = window(bytes, bit / 8) >> (bit % 8);
        *word = (low_half(window) & mask).wrapping_add(base);
    }
}

/// The 16 bytes from `at` on, as far as there are any: a word of 64 bits at bit 7 needs nine.
fn window(bytes: &[u8], at: usize) -> u128 {
    let rest = bytes.get(at..).unwrap_or_default();
    if let Some(window) = rest.first_chunk() {
        return u128::from_le_bytes(*window);
    }
    let mut window = [0; 16];
    for (to, from) in window.iter_mut().zip(rest) {
        *to = *from;
    }
    u128::from_le_bytes(window)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low_half(window: u128) -> u64 {
    window as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[u64], width: u32, base: u64) {
        let mut bytes = Vec::new();
        pack(values, width, &mut bytes);
        assert_eq!(bytes.len(), packed_bytes(values.len(), width));
        let mut back = vec![1; values.len()];
        unpack(&bytes, width, base, &mut back);
        let want: Vec<u64> = values.iter().map(|v| v.wrapping_add(base)).collect();
        assert_eq!(back, want, "width {width}, {} words", values.len());
    }

    #[test]
    fn every_width_of_vectors_and_tails() {
        for width in 0..=WIDTH_MAX {
            for rows in [0_u64, 1, 2, 7, 8, 9, 63, 1_023, 1_024] {
                let values: Vec<u64> = (0..rows)
                    .map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) & mask(width))
                    .collect();
                check(&values, width, 0);
                check(&values, width, u64::MAX - 3);
            }
        }
    }

    proptest! {
        #[test]
        fn tails_round_trip(
            values in prop::collection::vec(any::<u64>(), 0..200),
            width in 0..=WIDTH_MAX,
        ) {
            let values: Vec<u64> = values.iter().map(|v| v & mask(width)).collect();
            check(&values, width, 5);
        }
    }
}
