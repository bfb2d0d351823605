//! The engine's limits, each with its unit in its name.
//!
//! A limit is a promise about memory or about a format; docs link here rather than repeat a number.

use std::time::Duration;

/// Greatest number that files may give a record, a segment or a checkpoint: so far from overflow that none can follow.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Samples of one tag in a chunk.
pub const CHUNK_SAMPLES_MAX: usize = 8_192;
/// Samples of one tag in a chunk, if they are at most [`FAST_STEP_NS`] apart on average: those of vibration and current
/// sensors, of which the smaller chunk would hold seconds.
pub const FAST_CHUNK_SAMPLES_MAX: usize = 65_536;
/// Mean distance of samples up to which chunks are large: 100 Hz.
pub const FAST_STEP_NS: i64 = 10_000_000;
/// A tag with fewer samples than this in a segment shares a packed chunk with its neighbours.
pub const PACKED_TAG_SAMPLES_MAX: usize = 256;
/// Rows of a vector: the unit of bit-packing and of partial decoding.
pub const VECTOR_ROWS: usize = 1_024;

/// Bytes of one encoded record's payload, before compression.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Samples in one batch.
pub const BATCH_SAMPLES_MAX: usize = 1 << 20;
/// Records above this size are compressed.
pub const RECORD_COMPRESS_BYTES: usize = 4 << 10;
/// Bytes of one group commit; a larger queue is written in several groups.
pub const GROUP_BYTES_MAX: usize = 16 << 20;

/// Bytes of a tag name.
pub const TAG_NAME_BYTES_MAX: usize = 512;
/// Levels of a tag name, separated by `/`.
pub const TAG_NAME_LEVELS_MAX: usize = 32;
/// Bytes of one description, unit, label key or label value.
pub const TAG_TEXT_BYTES_MAX: usize = 4 << 10;
/// Labels of one tag.
pub const TAG_LABELS_MAX: usize = 64;
/// Tags of one database.
pub const TAGS_MAX: usize = 1 << 24;
/// Labels of one state set: codes are `u16`.
pub const STATES_MAX: usize = 1 << 16;
/// Bytes of one text value.
pub const TEXT_VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a gateway id.
pub const GATEWAY_BYTES_MAX: usize = 128;
/// Bytes of the id of an import.
pub const IMPORT_ID_BYTES_MAX: usize = 256;
/// Finished imports that are remembered; of more the oldest are forgotten.
pub const IMPORTS_MAX: usize = 4_096;
/// Tags of one gateway's tag set.
pub const TAG_SET_MAX: usize = 1 << 20;
/// Aliases of one gateway.
pub const GATEWAY_ALIASES_MAX: usize = 1 << 20;
/// Tag sets of one gateway.
pub const GATEWAY_SETS_MAX: usize = 1_024;
/// Tags of all tag sets of one gateway.
pub const GATEWAY_SET_TAGS_MAX: usize = 4 << 20;

/// Retention classes of one database.
pub const RETENTION_CLASSES_MAX: usize = 64;
/// Bytes of the name of a retention class.
pub const RETENTION_NAME_BYTES_MAX: usize = 64;

/// Earliest accepted source time: 1970-01-01, inclusive.
pub const TIME_MIN_NS: i64 = 0;
/// Latest accepted source time: 2261-01-01, exclusive.
pub const TIME_MAX_NS: i64 = 9_183_110_400_000_000_000;
/// How far a source time may lie ahead of the engine's clock.
pub const FUTURE_NS: i64 = 5 * 60 * 1_000_000_000;

/// Rows of small runs at which the head folds them into one.
pub const FOLD_ROWS: usize = 1 << 20;
/// Number of small runs at which the head folds them into one.
pub const FOLD_RUNS: usize = 512;
/// Age of the oldest small run at which the head folds.
pub const FOLD_AGE: Duration = Duration::from_millis(500);
/// Folded runs kept side by side before they are merged.
pub const RUNS_MAX: usize = 8;
/// Tags whose latest samples share a copy-on-write page.
pub const PAGE_TAGS: usize = 1_024;

const _: () = assert!(CHUNK_SAMPLES_MAX.is_multiple_of(VECTOR_ROWS));
const _: () = assert!(FAST_CHUNK_SAMPLES_MAX.is_multiple_of(CHUNK_SAMPLES_MAX));
const _: () = assert!(PACKED_TAG_SAMPLES_MAX < CHUNK_SAMPLES_MAX);
