//! Chunk: up to 8,192 samples of one tag (65,536 at 100 Hz and more), or the few samples of many tags, encoded by column.
//!
//! # Contract
//! * A chunk has two regions. The *times* region holds the source times; the *body* holds the values, then the
//!   qualities. A *packed* chunk begins its times region with a table: which tag has how many rows.
//! * What a chunk says of itself ([`ChunkEntry`]) lies not in it but in its parent, the segment's directory,
//!   together with the checksums of both regions.
//! * Decoders are total: bytes no encoder wrote give [`Malformed`](crate::bytes::Malformed), never a panic.
//!
//! # What it does not know
//! Files, checksums, which segment it lies in, what a tag is called.
//!
//! # Reading order
//! [`series`] (samples in and out), [`stats`], [`builder`], [`reader`]. Bytes: `docs/format/chunk.md`.

pub(crate) mod series;

pub(crate) mod stats;

pub(crate) mod builder;

pub(crate) mod reader;

use std::fmt;

use crate::tag::{TagId, ValueType};
use crate::time::Rfc3339;

pub(crate) use series::{Series, SeriesBuf};
pub(crate) use stats::Statistics;

/// Rows a reader accepts in a chunk; writers stop at [`crate::limits::CHUNK_SAMPLES_MAX`], or for fast tags at
/// [`crate::limits::FAST_CHUNK_SAMPLES_MAX`].
pub(crate) const CHUNK_ROWS_CAP: usize = 1 << 16;
/// Text bytes at which a writer ends a chunk, so that no chunk needs more memory than a few MiB.
pub(crate) const CHUNK_TEXT_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(crate::limits::CHUNK_SAMPLES_MAX <= CHUNK_ROWS_CAP);
const _: () = assert!(crate::limits::FAST_CHUNK_SAMPLES_MAX <= CHUNK_ROWS_CAP);
const _: () = assert!(crate::limits::TEXT_VALUE_BYTES_MAX <= CHUNK_TEXT_BYTES_MAX);

/// Where a region of a chunk lies in its file, and the checksum of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// From the start of the file.
    pub offset: u64,
    /// Length.
    pub bytes: u32,
    /// Seeded with the identity of the file.
    pub crc: u32,
}

impl Extent {
    /// First offset after the region.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.bytes))
    }
}

/// What the directory knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ChunkEntry {
    /// The chunk's tag; of a packed chunk the least one.
    pub first_tag: TagId,
    /// Equal to `first_tag` unless the chunk is packed.
    pub last_tag: TagId,
    /// Type of all its values.
    pub value_type: ValueType,
    /// Whether it holds several tags, each with few rows.
    pub packed: bool,
    /// Samples in it, at least 1.
    pub rows: u32,
    /// Least source time in it.
    pub first_ns: i64,
    /// Greatest source time in it.
    pub last_ns: i64,
    /// Where the times region lies.
    pub times: Extent,
    /// Where values and qualities lie.
    pub body: Extent,
    /// Bytes of the body that hold values; the rest hold qualities.
    pub values_bytes: u32,
    /// Of all rows, whatever their tag.
    pub statistics: Statistics,
}

impl ChunkEntry {
    /// Samples in it.
    pub(crate) fn len(&self) -> usize {
        self.rows as usize
    }
}

/// Names the chunk for people: whose samples, from when to when.
impl fmt::Display for ChunkEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.packed {
            write!(f, "packed chunk of tags {} to {}", self.first_tag, self.last_tag)?;
        } else {
            write!(f, "chunk of tag {}", self.first_tag)?;
        }
        write!(f, ", {} .. {}", Rfc3339(self.first_ns), Rfc3339(self.last_ns))
    }
}
