//! Words of floats: which of them may have been single precision, and the arithmetic that several encodings share.
//!
//! This arithmetic is part of the format: see docs/format/encoding.md, "Decimal".

use super::Kind;
use crate::bytes::Malformed;

/// Added to an integer of magnitude up to 2^51, gives a float whose low bits are that integer: 1.5 * 2^52.
const MAGIC: f64 = 6_755_399_441_055_744.0;
const MAGIC_BITS: u64 = 0x4338_0000_0000_0000;
/// Greatest magnitude of an integer that [`float`] and [`nearest_integer`] are exact for.
pub(super) const INTEGER_MAX: f64 = 2_251_799_813_685_248.0;
/// Zero bits that end the word of every f32 kept as f64.
const WIDENED_ZEROS: u32 = 29;

/// How a computed double becomes a word. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// f64 word of it.
    Double = 0,
    /// f64 word of it rounded to f32.
    Widened = 1,
    /// f32 word of it rounded to f32.
    Single = 2,
}

impl Target {
    /// The target that a column of that kind says.
    pub(super) fn read(byte: u8, kind: Kind) -> Result<Self, Malformed> {
        match (byte, kind) {
            (0, Kind::F64) => Ok(Self::Double),
            (1, Kind::F64) => Ok(Self::Widened),
            (2, Kind::F32) => Ok(Self::Single),
            _ => Err(Malformed("floats have a target of another type")),
        }
    }

    /// The narrowest target that all of these words can have; none for words that are no floats.
    pub(super) fn of(kind: Kind, words: &[u64]) -> Option<Self> {
        match kind {
            Kind::F32 => Some(Self::Single),
            Kind::F64 if words.iter().all(|word| word.trailing_zeros() >= WIDENED_ZEROS) => {
                Some(Self::Widened)
            }
            Kind::F64 => Some(Self::Double),
            Kind::I64 | Kind::Bool | Kind::U16 | Kind::U32 => None,
        }
    }
}

/// Exact float of an integer of magnitude up to 2^51; any other gives some float. Part of the format.
#[inline]
pub(super) fn float(integer: u64) -> f64 {
    f64::from_bits(integer.wrapping_add(MAGIC_BITS)) - MAGIC
}

/// The integer nearest to a value of magnitude up to [`INTEGER_MAX`], in two's complement; of any other some integer.
#[inline]
pub(super) fn nearest_integer(value: f64) -> u64 {
    (value + MAGIC).to_bits().wrapping_sub(MAGIC_BITS)
}

/// Part of the format.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "rounding to nearest is what is meant")]
pub(super) fn round_to_single(value: f64) -> f32 {
    value as f32
}
