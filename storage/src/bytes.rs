//! Reading and writing of plain little-endian bytes: fixed-width numbers, varints, slices.
//!
//! # Contract
//! * Readers are total: any bytes give a value or [`Malformed`], never a panic and never an
//!   allocation.
//! * A value has one spelling. Varints with needless trailing groups are refused.
//! * [`Reader::finish`] refuses bytes left over, so that a decoder that calls it consumed exactly
//!   its input.
//!
//! # What it does not know
//! Files, offsets, checksums. Callers add where the bytes came from.

/// Bytes that no encoder wrote, and what is wrong with them. Callers add file and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

const ENDS: Malformed = Malformed("ends too early");

/// Greatest number of bytes of a varint: ten groups of seven bits hold 64.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// A cursor over bytes; every read moves it forward or fails and leaves it where it was.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    start: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, start: bytes.len() }
    }

    /// Bytes read so far.
    pub(crate) fn offset(&self) -> usize {
        self.start - self.bytes.len()
    }

    /// Bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(ENDS)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(ENDS)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes, two's complement.
    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// Eight bytes, IEEE 754 binary64, every bit pattern kept.
    pub(crate) fn f64(&mut self) -> Result<f64, Malformed> {
        self.array().map(f64::from_le_bytes)
    }

    /// Seven bits a byte, lowest first, the top bit set in all but the last byte.
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, &byte) in self.bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 != 0 {
                continue;
            }
            if byte == 0 && index > 0 {
                return Err(Malformed("varint is longer than its value needs"));
            }
            if byte > 1 && index == VARINT_BYTES_MAX - 1 {
                return Err(Malformed("varint exceeds 64 bits"));
            }
            self.bytes = self.bytes.get(index + 1..).ok_or(ENDS)?;
            return Ok(value);
        }
        Err(if self.bytes.len() < VARINT_BYTES_MAX {
            ENDS
        } else {
            Malformed("varint exceeds 64 bits")
        })
    }

    /// A varint that must fit memory sizes of this machine and be at most `max`.
    pub(crate) fn length(&mut self, max: usize) -> Result<usize, Malformed> {
        let before = self.clone();
        match usize::try_from(self.varint()?) {
            Ok(length) if length <= max => Ok(length),
            _ => {
                *self = before;
                Err(Malformed("length exceeds its limit"))
            }
        }
    }

    /// A varint of the zigzag form 0, -1, 1, -2, ...
    pub(crate) fn zigzag(&mut self) -> Result<i64, Malformed> {
        self.varint().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// All bytes not read yet; the reader is then at its end.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Refuses bytes left over.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed("bytes are left over")) }
    }
}

/// Appends what [`Reader::varint`] reads.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7F) as u8);
}

/// Appends what [`Reader::zigzag`] reads.
pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// Appends two bytes.
pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends four bytes.
pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends eight bytes.
pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends eight bytes, two's complement.
pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Bytes that [`put_varint`] appends.
pub(crate) const fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Bytes that [`put_zigzag`] appends.
pub(crate) const fn zigzag_bytes(value: i64) -> usize {
    varint_bytes(zigzag(value))
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Numbers come back, take the promised bytes, and no shorter prefix reads.
        #[test]
        fn varints_round_trip(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_bytes(value));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.offset(), bytes.len());
            prop_assert!(reader.finish().is_ok());
            for cut in 0..bytes.len() {
                prop_assert!(Reader::new(&bytes[..cut]).varint().is_err());
            }
        }

        #[test]
        fn zigzags_round_trip(value: i64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_zigzag(&mut bytes, value);
            prop_assert_eq!(bytes.len(), zigzag_bytes(value));
            prop_assert_eq!(Reader::new(&bytes).zigzag(), Ok(value));
        }
    }

    #[test]
    fn a_varint_has_one_spelling() {
        assert!(Reader::new(&[0x80, 0x00]).varint().is_err());
        let mut ten = [0xFF; 10];
        ten[9] = 1;
        assert_eq!(Reader::new(&ten).varint(), Ok(u64::MAX));
        ten[9] = 2;
        assert!(Reader::new(&ten).varint().is_err());
        assert!(Reader::new(&[0xFF; 11]).varint().is_err());
    }

    #[test]
    fn fixed_numbers_round_trip() {
        let mut bytes = Vec::new();
        put_u16(&mut bytes, 0x0102);
        put_u32(&mut bytes, 0x0304_0506);
        put_u64(&mut bytes, 7);
        put_i64(&mut bytes, -8);
        bytes.extend_from_slice(&(-0.0f64).to_le_bytes());
        assert_eq!(bytes[..6], [2, 1, 6, 5, 4, 3]);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.array(), Ok([2, 1]));
        assert_eq!(reader.u32(), Ok(0x0304_0506));
        assert_eq!(reader.u64(), Ok(7));
        assert_eq!(reader.i64(), Ok(-8));
        assert_eq!(reader.clone().f64().map(f64::to_bits), Ok((-0.0_f64).to_bits()));
        assert_eq!(reader.remaining(), 8);
        assert!(reader.clone().finish().is_err());
        assert_eq!(reader.rest().len(), 8);
        assert!(reader.u8().is_err());
    }

    #[test]
    fn a_failed_length_leaves_the_reader_in_place() {
        let mut reader = Reader::new(&[200, 1, 9]);
        assert!(reader.length(199).is_err());
        assert_eq!(reader.length(200), Ok(200));
        assert_eq!(reader.u8(), Ok(9));
    }
}
