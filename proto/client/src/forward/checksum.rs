//! CRC-32 as the files of the queue use it: seeded with the file's identity, and masked.
//!
//! The same arithmetic as the engine's files have, written again: a gateway is built without the engine. Under another
//! seed the same bytes have another checksum, and a run of zeros never verifies.

/// Changes the checksum of zeros, whatever the seed; part of the formats.
const MASK: u32 = 0x7A6D_1CE5;

/// Checksum of `parts`, one after the other, in a file of this identity.
pub(super) fn crc32(seed: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize() ^ MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_engine_and_zeros_never_verify() {
        // The same bytes as the engine's own test pins.
        assert_eq!(crc32(0x0123_4567_89AB_CDEF, &[b"tag", b"mill"]), 0x0C3D_212B);
        for length in 0..1_000 {
            assert_ne!(crc32(0, &[&vec![0; length]]), 0, "{length} zeros verify");
        }
    }
}
