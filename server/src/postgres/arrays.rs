//! Binary arrays among the parameters of a statement, before anybody reads them. Pure.
//!
//! The library that reads them takes the lengths in their headers on trust, and memory for so many elements.

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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut as _;

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
