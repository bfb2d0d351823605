//! Bodies of the fuzz targets. `fuzz/` runs them under libFuzzer; `tests/engine/suite/fuzz.rs` replays the corpora in `cargo test`.
//!
//! # Contract
//! * A body takes bytes and panics when a claim breaks. It needs nothing else, and the same bytes do the same.
//! * The claims: what reads never panics; what was read is written and read again to the same; a segment that verifies gives
//!   the same rows by every way of asking; the engine equals its model. That memory stays in proportion is checked by
//!   the allocator of `fuzz/`.
//! * Checksums are renewed before reading where the input asks for it, so that they do not end the search.
//!
//! # Reading order
//! [`mod@column`], [`segment`] (chunks, whole files), [`mod@rollups`], [`log`], [`books`] (manifest, registry, checkpoint),
//! [`database`] (one file of a whole database), [`steps`] (the engine against its model).

pub mod books;
pub mod column;
pub mod database;
pub mod log;
pub mod rollups;
pub mod segment;
pub mod steps;

use std::sync::Arc;

use tagmill_storage::Error;
use tagmill_storage::disk::Disk;
use tagmill_storage::disk::sim::SimDisk;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Its body.
    pub body: fn(&[u8]),
}

/// Every target whose body is here.
pub const TARGETS: [Target; 11] = [
    Target { name: "column", body: column::column },
    Target { name: "chunk", body: segment::chunk },
    Target { name: "segment", body: segment::segment },
    Target { name: "rollups", body: rollups::rollups },
    Target { name: "wal_record", body: log::record },
    Target { name: "wal", body: log::files },
    Target { name: "manifest", body: books::manifest },
    Target { name: "registry", body: books::registry },
    Target { name: "checkpoint", body: books::checkpoint },
    Target { name: "database", body: database::database },
    Target { name: "engine", body: steps::engine },
];

/// An empty simulated disk, and the same as the engine sees it.
fn empty_disk() -> (SimDisk, Arc<dyn Disk>) {
    let disk = SimDisk::new(1);
    let shared = Arc::new(disk.clone());
    (disk, shared)
}

/// Bad bytes are told as such, and not as a refusal of the disk.
fn check_refusal(error: &Error) {
    let is_of_bytes = matches!(error, Error::Corrupt { .. } | Error::TooNew { .. });
    assert!(is_of_bytes, "bad bytes gave {error:?}");
}
