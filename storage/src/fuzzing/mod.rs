//! What the fuzz targets need of the formats, and nothing else. Only there with the feature `fuzzing`, which only tests
//! turn on; it may change with every commit.
//!
//! # Contract
//! * Whatever reads here is what the engine reads with. Nothing is checked here that it does not check.
//! * `seal_…` puts right checksums into bytes that were changed, as far as their structure can still be walked, so that a
//!   fuzzer gets to what lies behind them.
//!
//! # What it does not know
//! What a target claims: `tests/engine/src/fuzz`.
//!
//! # Reading order
//! [`log`], [`books`] (manifest, registry, checkpoint), [`segments`], [`rollups`].

#![expect(clippy::missing_errors_doc, reason = "errors are those of the readers they come from")]

pub mod books;
pub mod log;
pub mod rollups;
pub mod segments;

/// Copies a number's bytes over those at `at`; false if they end before.
fn put(bytes: &mut [u8], at: usize, number: &[u8]) -> bool {
    let end = at.saturating_add(number.len());
    bytes.get_mut(at..end).map(|place| place.copy_from_slice(number)).is_some()
}

/// The four bytes at `at` as a number.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

/// The eight bytes at `at` as a number.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    field.try_into().ok().map(u64::from_le_bytes)
}
