//! The storage engine of Tagmill, a time-series database for plant telemetry. Usable alone.
//!
//! A *tag* is one measured point of the plant; a *sample* is its (time, value, quality). An [`Engine`] takes batches of
//! samples, has them on disk before it acknowledges them, and reads them back by tag and time range through [`Snapshot`]s.
//!
//! # What it does not know
//! SQL, networks, async runtimes. Disk and clock are handed in ([`Engine::open_on`]).
//!
//! # Reading order
//! `engine` knows the whole flow. Then, from the disk up: `disk`, `encoding`, `chunk`, `segment`, `wal`, `head`,
//! `registry`, `manifest`, `tier`, `scan`, `maintenance`, `recovery`. The bytes of every file: `docs/format/`.

mod backup;
mod bytes;
mod checksum;
mod chunk;
pub mod disk;
pub mod encoding;
mod engine;
mod error;
mod fields;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod head;
mod ids;
pub mod limits;
mod maintenance;
mod manifest;
mod metrics;
mod options;
#[doc(hidden)]
pub mod planted;
mod quality;
mod recovery;
mod registry;
mod retention;
mod salvage;
mod sample;
mod scan;
mod segment;
mod tag;
mod tier;
mod time;
mod verify;
mod wal;

pub use backup::{BackupReport, RestoreReport, restore, restore_on};
pub use engine::{
    Backfill, BackfillReport, Engine, GatewayMark, Pushed, Session, TagEdit, check_gateway,
};
pub use error::{Error, Outcome, Result, SharedIo};
pub use ids::{SegmentId, Seq};
pub use maintenance::compact::CompactionReport;
pub use metrics::{Metrics, Scrubbed};
pub use options::{Options, RetentionClass};
pub use quality::{Quality, Severity};
pub use registry::gateways::{Aliases, TagSets};
pub use registry::scope::TagScope;
pub use registry::{Registry, StateSet};
pub use retention::RetentionStatus;
pub use salvage::{SalvageReport, salvage, salvage_on};
pub use sample::{
    Appended, Batch, Durability, Origin, Qualities, Reject, RejectReason, ScanBlock, TagColumn,
    Value, Values,
};
pub use scan::neighbours::{Before, Neighbours, Next};
pub use scan::rollups::{
    ROLLUPS_MAX, RollupRequest, RollupWindows, Rollups, Served, TagRollups, Tiers,
};
pub use scan::snapshot::{DamagedPlace, HeadSummary, Latest, SegmentSummary, TierSummary};
pub use scan::{OnDamage, Scan, ScanBatch, ScanRequest, Snapshot, TagSelection};
pub use segment::meta::{SegmentKind, SegmentStage};
pub use tag::{Labels, Tag, TagAttributes, TagDefinition, TagId, ValueType, check_name};
pub use tier::Tier;
pub use tier::rollup::{Needs, Point, Rollup};
pub use tier::rule::Rule;
pub use tier::usable::{MaybeUsable, Usable};
pub use time::{Clock, DAY_NS, Rfc3339, SECOND_NS, SystemClock, TimeRange};
pub use verify::{Finding, VerifyReport, verify, verify_on};
