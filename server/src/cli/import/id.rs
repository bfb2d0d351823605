//! The import id: the same file, read the same way, is the same import.
//!
//! Contract: 32 hexadecimal digits from the file's bytes and the words that decide what its cells become; the same on
//! every build, since databases keep them. It guards against chance, not against malice.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::cli::failure::{Failure, Result};

/// Raised when batches of the same file would be cut or read differently.
const RULES: &str = "tagmill import rules 1";

/// The id of reading the file at `path` in the way `words` say.
///
/// # Errors
/// If the file cannot be read.
pub fn import_id(path: &Path, words: &str) -> Result<String> {
    let read = || -> std::io::Result<u128> {
        let mut file = File::open(path)?;
        let mut hash = Fnv::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            hash.add(bytes);
        }
        hash.add(RULES.as_bytes());
        hash.add(words.as_bytes());
        Ok(hash.0)
    };
    let hash = read().map_err(|error| {
        Failure::new(format!("read {}: {error}", path.display()))
            .next("check the path, and that you may read the file")
    })?;
    Ok(format!("{hash:032x}"))
}

/// FNV-1a with 128 bits (Fowler, Noll, Vo).
struct Fnv(u128);

impl Fnv {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    const fn new() -> Self {
        Self(Self::OFFSET)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(Self::PRIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_published() {
        let mut hash = Fnv::new();
        hash.add(b"foobar");
        assert_eq!(hash.0, 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn content_and_words_both_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "t,v\n").unwrap();
        let id = import_id(&path, "x").unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(import_id(&path, "x").unwrap(), id);
        assert_ne!(import_id(&path, "y").unwrap(), id);
        std::fs::write(&path, "t,v\n1,2\n").unwrap();
        assert_ne!(import_id(&path, "x").unwrap(), id);
        assert!(import_id(&dir.path().join("b"), "x").unwrap_err().to_string().contains('b'));
    }
}
