//! How an engine is opened. Few knobs, units in their names, checked once.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits;
use crate::tier::width::Tier;

/// The shortest retention: horizons are whole days.
const RETENTION_MIN: Duration = Duration::from_hours(24);

/// How long samples of some tags are kept, and rollups of them. A tag names its class in its attribute `retention`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionClass {
    /// The class's name. The empty one is the default class: of tags that name none, or one that does not exist.
    pub name: String,
    /// Raw samples are kept at least this long, and at most a day longer; `None` for ever. At least a day.
    pub raw: Option<Duration>,
    /// Tiers whose rollups are kept longer, the finest first, and how long; `None` for ever. Each at least as long as what is
    /// finer. A tier that is not named is kept as long as the next finer one, that of a minute as long as raw samples.
    pub tiers: Vec<(Tier, Option<Duration>)>,
}

impl RetentionClass {
    /// Raw samples, and rollups no longer than these.
    pub fn of_raw(name: impl Into<String>, raw: Option<Duration>) -> Self {
        Self { name: name.into(), raw, tiers: Vec::new() }
    }

    /// How long each tier is kept, in the order of [`Tier::ALL`].
    pub(crate) fn of_tiers(&self) -> [Option<Duration>; Tier::ALL.len()] {
        let mut kept = self.raw;
        Tier::ALL.map(|tier| {
            let own = self.tiers.iter().find(|(named, _)| *named == tier);
            kept = own.map_or(kept, |(_, time)| *time);
            kept
        })
    }

    fn check(&self) -> Result<()> {
        let Self { name, raw, tiers } = self;
        let invalid = |why: String| Err(Error::Invalid(format!("retention class '{name}' {why}")));
        if raw.is_some_and(|raw| raw < RETENTION_MIN) {
            return invalid("must keep at least one day".into());
        }
        let mut before = ("raw samples".to_owned(), *raw);
        for (at, (tier, kept)) in tiers.iter().enumerate() {
            if at > 0 && tiers[at - 1].0 >= *tier {
                return invalid("must name each tier once, the finest first".into());
            }
            // For ever is the longest.
            if kept.is_some_and(|kept| before.1.is_none_or(|finer| kept < finer)) {
                return invalid(format!("must keep {tier} at least as long as {}", before.0));
            }
            before = (tier.to_string(), *kept);
        }
        Ok(())
    }
}

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
    /// Room set aside for the moment when the disk is full, so that seals, deletes and opens still work then. At most a
    /// sixteenth of the disk; 0 for none.
    pub ballast_bytes: u64,
    /// How often every byte of every segment is read again in the background; `None` for never.
    pub scrub_period: Option<Duration>,
    /// How fast that may be.
    pub scrub_bytes_per_s: u64,
    /// Memory of each backfill; what it has no room for goes to the folder `scratch` until it is finished.
    pub backfill_bytes: u64,
    /// How long samples are kept, by class; by default for ever.
    pub retention: Vec<RetentionClass>,
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
            ballast_bytes: 64 << 20,
            scrub_period: Some(Duration::from_hours(30 * 24)),
            scrub_bytes_per_s: 8 << 20,
            backfill_bytes: 512 << 20,
            retention: Vec::new(),
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
        if self.backfill_bytes < 4 << 10 {
            return Err(Error::Invalid("backfill_bytes must be at least 4 KiB".into()));
        }
        self.check_retention()
    }

    fn check_retention(&self) -> Result<()> {
        let invalid = |why: String| Err(Error::Invalid(why));
        if self.retention.len() > limits::RETENTION_CLASSES_MAX {
            let most = limits::RETENTION_CLASSES_MAX;
            return invalid(format!("a database has at most {most} retention classes"));
        }
        for (at, class) in self.retention.iter().enumerate() {
            let name = &class.name;
            if name.len() > limits::RETENTION_NAME_BYTES_MAX || name.chars().any(char::is_control) {
                let most = limits::RETENTION_NAME_BYTES_MAX;
                let why = "a retention class's name has no control characters and at most";
                return invalid(format!("{why} {most} bytes"));
            }
            if self.retention[..at].iter().any(|other| other.name == *name) {
                return invalid(format!("retention class '{name}' is given twice"));
            }
            class.check()?;
        }
        Ok(())
    }

    /// Length of one log file: an eighth of the log, so that trimming frees most of it.
    pub(crate) fn wal_file_bytes(&self) -> u64 {
        (self.wal_bytes / 8).clamp(16 << 10, 64 << 20)
    }
}
