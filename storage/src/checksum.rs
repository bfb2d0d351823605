//! CRC-32 as every file of the engine uses it: seeded with the file's identity, and masked.
//!
//! # Contract
//! * The same bytes under another seed give another checksum, so that a misplaced, swapped or stale read is caught.
//! * A run of zeros under a zero checksum does not verify: a file whose blocks never reached the disk is no valid file.

use crate::planted::{self, Bug};

/// Changes the checksum of zeros, whatever the seed; part of the formats.
const MASK: u32 = 0x7A6D_1CE5;

/// Checksum of `bytes` in a file of this identity.
pub(crate) fn crc32(seed: u64, bytes: &[u8]) -> u32 {
    let mut crc = Crc::new(seed);
    crc.update(bytes);
    crc.finish()
}

/// [`crc32`] of bytes that come in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Crc(crc32fast::Hasher);

impl Crc {
    /// The checksum of no bytes in a file of identity `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        let seed = if planted::is(Bug::ChecksumWithoutIdentity) { 0 } else { seed };
        hasher.update(&seed.to_le_bytes());
        Self(hasher)
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes taken.
    pub(crate) fn finish(self) -> u32 {
        self.0.finalize() ^ MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_never_verify() {
        for length in 0..10_000 {
            assert_ne!(crc32(0, &vec![0; length]), 0, "{length} zeros verify");
        }
    }

    #[test]
    fn the_seed_and_each_byte_count() {
        let text = b"unit 3/FT-101.PV";
        assert_ne!(crc32(1, text), crc32(2, text));
        assert_ne!(crc32(1, text), crc32(1, &text[1..]));
        let mut pieces = Crc::new(1);
        pieces.update(&text[..5]);
        pieces.update(&text[5..]);
        assert_eq!(pieces.finish(), crc32(1, text));
    }

    #[test]
    fn the_checksum_is_pinned() {
        assert_eq!(crc32(0x0123_4567_89AB_CDEF, b"tagmill"), PINNED);
    }

    /// The formats hold this value: a change of it is a change of every format.
    const PINNED: u32 = 0x0C3D_212B;
}
