//! Arrays among the parameters of a statement, before anybody reads them. Pure.
//!
//! The library that reads them takes the lengths in the headers of binary ones on trust, and memory for so many elements;
//! fractions among whole numbers it drops.

use bytes::Buf as _;

/// Dimensions of an array in PostgreSQL.
const DIMENSIONS_MAX: usize = 6;

/// Whether the header of a binary array speaks of no more elements than there are bytes for.
pub(super) fn check_array(bytes: &[u8]) -> Result<(), ()> {
    let word = |at: usize| -> Result<usize, ()> {
        let mut word = bytes.get(at..at + 4).ok_or(())?;
        // The wire is in the order of networks.
        usize::try_from(word.get_i32()).map_err(|_| ())
    };
    let dimensions = word(0)?;
    if dimensions > DIMENSIONS_MAX {
        return Err(());
    }
    let mut elements = 1_usize;
    for dimension in 0..dimensions {
        elements = elements.checked_mul(word(12 + 8 * dimension)?).ok_or(())?;
    }
    // Each has its length before it.
    let room = bytes.len().saturating_sub(12 + 8 * dimensions) / 4;
    if elements <= room || dimensions == 0 { Ok(()) } else { Err(()) }
}

/// Whether a number in an array of NUMERIC has digits after its point. A binary one is an array already.
pub(super) fn has_fraction(bytes: &[u8], is_binary: bool) -> bool {
    if !is_binary {
        return bytes.contains(&b'.');
    }
    let mut header = bytes;
    let dimensions = header.try_get_i32().ok().and_then(|count| usize::try_from(count).ok());
    let mut rest = bytes.get(12 + 8 * dimensions.unwrap_or(0)..).unwrap_or_default();
    while let Ok(length) = rest.try_get_i32() {
        // A null has none.
        let length = usize::try_from(length).unwrap_or(0);
        let Some(number) = rest.get(..length) else { return false };
        // Behind the count of its digits, their weight and their sign stands how many are shown after the point.
        if number.get(6..8).is_some_and(|scale| scale != [0, 0]) {
            return true;
        }
        rest = &rest[length..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut as _;

    #[test]
    fn a_fraction_in_an_array_is_seen() {
        assert!(has_fraction(b"{1,2.5}", false) && !has_fraction(b"{1,2}", false));
        // 1, null and 2.5 as PostgreSQL writes them.
        let one = b"\0\0\0\x0A\0\x01\0\0\0\0\0\0\0\x01".as_slice();
        let null = b"\xFF\xFF\xFF\xFF".as_slice();
        let half = b"\0\0\0\x0C\0\x02\0\0\0\0\0\x01\0\x02\x13\x88".as_slice();
        let header = b"\0\0\0\x01\0\0\0\x01\0\0\x06\xA4\0\0\0\x02\0\0\0\x01".as_slice();
        assert!(has_fraction(&[header, one, null, half].concat(), true));
        assert!(!has_fraction(&[header, one, null].concat(), true));
        assert!(!has_fraction(&[header, &one[..9]].concat(), true) && !has_fraction(b"\0", true));
    }

    #[test]
    fn an_array_that_speaks_of_more_than_it_has_is_none() {
        let word = |number: i32| {
            let mut bytes = Vec::new();
            bytes.put_i32(number);
            bytes
        };
        let array = |dimensions: i32, length: i32, elements: usize| {
            let mut bytes = [word(dimensions), word(0), word(25), word(length), word(1)].concat();
            bytes.extend(std::iter::repeat_n(word(-1), elements).flatten());
            bytes
        };
        assert!(check_array(&array(1, 2, 2)).is_ok());
        assert!(check_array(&array(0, 0, 0)).is_ok());
        for wrong in
            [array(1, i32::MAX, 0), array(1, 3, 2), array(1, -1, 0), array(7, 1, 9), vec![0; 3]]
        {
            assert!(check_array(&wrong).is_err(), "{wrong:?}");
        }
    }
}
