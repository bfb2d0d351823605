//! What an engine has done since it was opened, in figures: [`Metrics`].
//!
//! # Contract
//! Counting costs one relaxed addition a group, seal or task, never one a sample. Figures of one reading may be of slightly
//! different instants.
//!
//! # What it does not know
//! Names and formats of a monitoring system.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an engine has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Samples written to the log, corrections included.
    pub samples: u64,
    /// Bytes written to the log: records, without what its files have reserved.
    pub wal_bytes: u64,
    /// Bytes of segments that seals wrote.
    pub seal_bytes: u64,
    /// Seals that wrote a segment.
    pub seals: u64,
    /// Compaction tasks done.
    pub compactions: u64,
    /// Bytes of segments that compactions read.
    pub compaction_read_bytes: u64,
    /// Bytes of segments that compactions wrote.
    pub compaction_written_bytes: u64,
    /// Samples that backfills have brought, each key once.
    pub backfill_samples: u64,
    /// Bytes of segments that backfills wrote.
    pub backfill_bytes: u64,
    /// What scrubbing has done.
    pub scrubbed: Scrubbed,
    /// Live segments.
    pub segments: u64,
    /// Bytes of live segments.
    pub segment_bytes: u64,
}

/// What scrubbing has done since the open ([`crate::Options::scrub_period`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Segments verified to their end.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Places that did not verify; those that still do not are in [`crate::Snapshot::damage`].
    pub damaged: u64,
}

impl Metrics {
    /// Bytes written by log, seals, backfills and compactions for each sample taken in; `None` before the first.
    pub fn written_bytes_per_sample(&self) -> Option<f64> {
        let written =
            [self.wal_bytes, self.seal_bytes, self.backfill_bytes, self.compaction_written_bytes];
        let (bytes, samples) = (written.iter().sum::<u64>(), self.samples + self.backfill_samples);
        (samples > 0).then(|| bytes as f64 / samples as f64)
    }
}

/// The figures while they grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) samples: AtomicU64,
    pub(crate) wal_bytes: AtomicU64,
    pub(crate) seal_bytes: AtomicU64,
    pub(crate) seals: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compaction_read_bytes: AtomicU64,
    pub(crate) compaction_written_bytes: AtomicU64,
    pub(crate) backfill_samples: AtomicU64,
    pub(crate) backfill_bytes: AtomicU64,
    pub(crate) scrubbed_segments: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) scrubbed_damaged: AtomicU64,
}

/// Adds to a figure.
pub(crate) fn count(figure: &AtomicU64, more: u64) {
    figure.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    /// The figures now, but for those that a View knows.
    pub(crate) fn read(&self) -> Metrics {
        let value = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Metrics {
            samples: value(&self.samples),
            wal_bytes: value(&self.wal_bytes),
            seal_bytes: value(&self.seal_bytes),
            seals: value(&self.seals),
            compactions: value(&self.compactions),
            compaction_read_bytes: value(&self.compaction_read_bytes),
            compaction_written_bytes: value(&self.compaction_written_bytes),
            backfill_samples: value(&self.backfill_samples),
            backfill_bytes: value(&self.backfill_bytes),
            scrubbed: Scrubbed {
                segments: value(&self.scrubbed_segments),
                bytes: value(&self.scrubbed_bytes),
                damaged: value(&self.scrubbed_damaged),
            },
            segments: 0,
            segment_bytes: 0,
        }
    }
}
