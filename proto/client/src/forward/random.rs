//! Numbers that look random: for file identities, and repeatable ones for tests.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A number that no other file has.
pub(super) fn identity() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// Repeatable numbers.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
    seed: u64,
}

#[cfg(test)]
impl Random {
    /// A fresh seed, or the one that `TAGMILL_SEED` names.
    pub(crate) fn seeded() -> Self {
        let told = std::env::var("TAGMILL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = told.unwrap_or_else(|| identity() % 1_000_000_000);
        Self { state: seed, seed }
    }

    /// Says at a failure which seed it was.
    pub(crate) fn case(&self) -> Case {
        Case(self.seed)
    }

    /// Others, that are repeated with these.
    pub(crate) fn fork(&mut self) -> Self {
        Self { state: self.next(), seed: self.seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Prints its seed if the test fails.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Case(u64);

#[cfg(test)]
impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: repeat it with TAGMILL_SEED={}", self.0, self.0);
        }
    }
}
