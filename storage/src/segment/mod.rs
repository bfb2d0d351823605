//! Segment: an immutable file of chunks, with a directory that finds them.
//!
//! # Contract
//! * A segment file is written once, synced, named in the manifest, and never changed.
//! * Every byte of it is covered by a checksum or verified to be zero. Checksums are seeded with the file's identity
//!   and lie in the parent: those of the chunks in the directory, that of the directory in footer and manifest. So
//!   zeros never verify, and a damaged, misplaced, swapped or stale piece is an error, never an answer.
//! * A tag's chunks within one segment do not overlap in time.
//!
//! # What it does not know
//! Which segment wins where two overlap, what was deleted since, what a tag is called.
//!
//! # Reading order
//! [`layout`] (header and footer), [`meta`] and [`name`] (what the manifest knows), [`directory`], [`tiers`] (blocks of
//! rollups), [`writer`], [`shared`] (times that chunks share), [`reader`] and [`cursor`], [`verify`]. Bytes: `docs/format/segment.md`.

pub(crate) mod layout;

pub(crate) mod meta;

pub(crate) mod name;

pub(crate) mod directory;

pub(crate) mod writer;

pub(crate) mod reader;

pub(crate) mod cursor;

mod shared;

pub(crate) mod tiers;

pub(crate) mod damage;

mod verify;

#[cfg(test)]
mod tests;

pub(crate) use cursor::SegmentCursor;
pub(crate) use directory::{ChunkIndex, Directory};
pub(crate) use meta::{SegmentKind, SegmentMeta, SegmentStage};
pub(crate) use reader::Segment;
