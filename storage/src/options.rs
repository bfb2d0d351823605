//! How an engine is opened. Few knobs, units in their names, checked once.

use std::time::Duration;

use crate::error::{Error, Result};

/// How an engine is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Make the directory and an empty database if there is none.
    pub create: bool,
    /// Memory of the head. A seal starts at half of it; at all of it appends wait.
    pub head_bytes: u64,
    /// Bytes of log since the last seal at which the next one starts; bounds the time a restart takes.
    pub wal_bytes: u64,
    /// Age of the oldest unsealed sample at which a seal starts.
    pub seal_age: Duration,
    /// Whether segments are merged behind the scenes. Without it [`crate::Engine::compact`] is the only way.
    pub background_compaction: bool,
    /// How long nothing must have come for a day that is over before its segments are merged for good.
    pub final_after: Duration,
    /// Bytes a second that merging behind the scenes may read and write.
    pub maintenance_bytes_per_s: u64,
    /// How long an append waits for room in the head before it is refused as busy.
    pub busy_wait: Duration,
    /// How often every byte of every segment is read again in the background; `None` for never.
    pub scrub_period: Option<Duration>,
    /// How fast that may be.
    pub scrub_bytes_per_s: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            head_bytes: 1 << 30,
            wal_bytes: 512 << 20,
            seal_age: Duration::from_hours(4),
            background_compaction: true,
            final_after: Duration::from_mins(10),
            maintenance_bytes_per_s: 256 << 20,
            busy_wait: Duration::from_secs(5),
            scrub_period: Some(Duration::from_hours(30 * 24)),
            scrub_bytes_per_s: 8 << 20,
        }
    }
}

impl Options {
    /// Refuses values with which the engine cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.head_bytes < 64 << 10 {
            return Err(Error::Invalid("head_bytes must be at least 64 KiB".into()));
        }
        if self.wal_bytes < 64 << 10 {
            return Err(Error::Invalid("wal_bytes must be at least 64 KiB".into()));
        }
        if self.maintenance_bytes_per_s < 64 << 10 {
            return Err(Error::Invalid("maintenance_bytes_per_s must be at least 64 KiB".into()));
        }
        Ok(())
    }

    /// Length of one log file: an eighth of the log, so that trimming frees most of it.
    pub(crate) fn wal_file_bytes(&self) -> u64 {
        (self.wal_bytes / 8).clamp(16 << 10, 64 << 20)
    }
}
