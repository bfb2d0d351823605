//! Reading protobuf messages in place.
//!
//! A batch may hold very many parts, so it is not decoded into structs: a hostile sender could make 4 MiB of two-byte
//! messages into half a gigabyte of them. Its fields are walked instead, and packed numbers are slices of the frame.
//! Any bytes give fields or [`Malformed`]; nothing is allocated here.

use std::fmt;

/// Why bytes are not the message they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// Integers, truth values, enumerations.
    Varint(u64),
    /// `fixed64`, `sfixed64`, `double`.
    Fixed64(u64),
    /// `fixed32`, `sfixed32`, `float`.
    Fixed32(u32),
    /// Messages, texts, bytes, packed numbers.
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order they were sent.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// The fields of an encoded message.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u64, Field<'a>), Malformed> {
        let key = take_varint(&mut self.rest)?;
        let number = key >> 3;
        let field = match key & 7 {
            0 => Field::Varint(take_varint(&mut self.rest)?),
            1 => Field::Fixed64(u64::from_le_bytes(*self.take_array()?)),
            5 => Field::Fixed32(u32::from_le_bytes(*self.take_array()?)),
            2 => {
                let length = take_varint(&mut self.rest)?;
                let length = usize::try_from(length).map_err(|_| truncated())?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
                self.rest = rest;
                Field::Bytes(bytes)
            }
            wire => {
                let why = format!("field {number} has the unknown wire type {wire}");
                return Err(Malformed(why));
            }
        };
        Ok((number, field))
    }

    fn take_array<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(array)
    }
}

impl<'a> Field<'a> {
    pub(super) fn u64(self, name: &str) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed(format!("{name} is not sent as a number"))),
        }
    }

    pub(super) fn u32(self, name: &str) -> Result<u32, Malformed> {
        let value = self.u64(name)?;
        u32::try_from(value).map_err(|_| Malformed(format!("{name} is greater than 2^32")))
    }

    pub(super) fn sint64(self, name: &str) -> Result<i64, Malformed> {
        Ok(unzigzag(self.u64(name)?))
    }

    pub(super) fn sfixed64(self, name: &str) -> Result<i64, Malformed> {
        match self {
            Self::Fixed64(value) => Ok(value.cast_signed()),
            _ => Err(Malformed(format!("{name} is not sent as 8 bytes"))),
        }
    }

    pub(super) fn bytes(self, name: &str) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed(format!("{name} is not sent packed: send it as one packed field"))),
        }
    }

    pub(super) fn str(self, name: &str) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(self.bytes(name)?);
        text.map_err(|_| Malformed(format!("{name} is not UTF-8")))
    }
}

/// A packed field. It must be sent once: of two pieces the second would have to be copied behind the first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packed<'a>(Option<&'a [u8]>);

impl<'a> Packed<'a> {
    pub(super) fn set(&mut self, field: Field<'a>, name: &str) -> Result<(), Malformed> {
        let bytes = field.bytes(name)?;
        if self.0.replace(bytes).is_some() {
            return Err(Malformed(format!(
                "{name} is sent in pieces: send it as one packed field"
            )));
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.0.unwrap_or_default()
    }

    /// Values of `N` bytes each, of which there must be `count`.
    pub(super) fn fixed<const N: usize>(
        &self,
        count: usize,
        name: &str,
    ) -> Result<&'a [[u8; N]], Malformed> {
        let (values, rest) = self.bytes().as_chunks();
        if !rest.is_empty() {
            return Err(Malformed(format!("the length of {name} is not a multiple of {N}")));
        }
        check_count(name, values.len(), count)?;
        Ok(values)
    }

    /// Varints, of which there must be `count`.
    pub(super) fn varints<T>(
        &self,
        count: usize,
        name: &str,
        convert: impl Fn(u64) -> Option<T>,
    ) -> Result<Vec<T>, Malformed> {
        let mut rest = self.bytes();
        // Every varint ends with the one byte whose top bit is clear.
        let found = rest.iter().filter(|byte| **byte < 0x80).count();
        check_count(name, found, count)?;
        let mut values = Vec::with_capacity(count);
        while !rest.is_empty() {
            let value = convert(take_varint(&mut rest)?);
            values.push(value.ok_or_else(|| Malformed(format!("a value of {name} is too great")))?);
        }
        Ok(values)
    }
}

pub(super) fn check_count(name: &str, found: usize, expected: usize) -> Result<(), Malformed> {
    if found == expected {
        return Ok(());
    }
    Err(Malformed(format!("found {found} {name}, expected {expected}")))
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(truncated)?;
        *rest = after;
        value |= u64::from(byte & 0x7F) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed("a number is longer than 10 bytes".into()))
}

fn truncated() -> Malformed {
    Malformed("the message ends in the middle of a field".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_every_wire_type_and_stops_at_the_first_mistake() {
        let bytes =
            [0x08, 0x96, 0x01, 0x12, 0x02, 7, 8, 0x1D, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let walked: Result<Vec<_>, _> = fields(&bytes).collect();
        let expected = vec![
            (1, Field::Varint(150)),
            (2, Field::Bytes(&[7, 8])),
            (3, Field::Fixed32(1)),
            (4, Field::Fixed64(2)),
        ];
        assert_eq!(walked, Ok(expected));
        for length in 1..bytes.len() {
            let cut: Vec<_> = fields(&bytes[..length]).collect();
            assert!(cut.len() <= 4, "it ends");
        }
        assert!(fields(&[0x0B]).next().is_some_and(|field| field.is_err()));
        assert!(fields(&[0x80; 11]).next().is_some_and(|field| field.is_err()));
        assert!(fields(&[0x12, 0xFF, 0xFF, 0xFF, 0x7F]).all(|field| field.is_err()));
    }

    #[test]
    fn packed_fields_are_whole() {
        let mut packed = Packed::default();
        assert!(packed.set(Field::Fixed64(1), "times").is_err());
        packed.set(Field::Bytes(&[1, 0, 0, 0, 0, 0, 0, 0]), "times").unwrap();
        assert_eq!(packed.fixed::<8>(1, "times").unwrap().len(), 1);
        assert!(packed.fixed::<8>(2, "times").is_err());
        assert!(packed.set(Field::Bytes(&[]), "times").unwrap_err().0.contains("pieces"));
        let mut packed = Packed::default();
        packed.set(Field::Bytes(&[1, 0x96, 0x01]), "codes").unwrap();
        assert_eq!(packed.varints(2, "codes", Some).unwrap(), [1, 150]);
        assert!(packed.varints(2, "codes", |v| u8::try_from(v).ok().filter(|v| *v < 9)).is_err());
        assert!(packed.varints(3, "codes", Some).is_err());
        let mut cut = Packed::default();
        cut.set(Field::Bytes(&[1, 0x96]), "codes").unwrap();
        assert!(cut.varints(1, "codes", Some).is_err());
        assert_eq!(unzigzag(1), -1);
        assert_eq!(unzigzag(u64::MAX), i64::MIN);
    }
}
