//! Deliberate bugs, with which the tests test themselves: `docs/testing.md` says which harness must find each.
//!
//! # Contract
//! * Without the feature `planted` every `is` is the constant `false`, and the compiler drops what hangs on it. No
//!   crate but the engine's tests may switch the feature on; a test there fails in a build that holds them unasked.
//! * With it, one bug at a time is switched on for the whole process, by `plant`.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Bug {
    /// The log is not synced before its records are acknowledged.
    AckBeforeSync = 1,
    /// A new log file's name is not made durable.
    LogFolderNotSynced,
    /// New segments' names are not made durable.
    SegmentFolderNotSynced,
    /// The manifest names segments that are not synced.
    SegmentNotSynced,
    /// The manifest names a length of the registry file that is not synced.
    RegistryNotSynced,
    /// The last log file is unlinked before the one that took its records over is synced.
    TakenOverWithoutSync,
    /// A failed sync of the log is tried again, and the second success believed.
    SyncRetried,
    /// A failed write of the log passes for one that wrote nothing.
    WriteErrorForgotten,
    /// The beginning of a write passes for all of it.
    ShortWriteTakenForWhole,
    /// An interrupted call fails.
    InterruptedCallFails,
    /// The checksum of a log record is not compared.
    LogChecksumIgnored,
    /// The checksum of a chunk is not compared.
    ChunkChecksumIgnored,
    /// The checksum of a manifest edit is not compared.
    ManifestChecksumIgnored,
    /// The checksum of the registry file is not compared.
    RegistryChecksumIgnored,
    /// The checksum of a checkpoint is not compared.
    CheckpointChecksumIgnored,
    /// Checksums do not depend on the file they are in.
    ChecksumWithoutIdentity,
    /// A bad record before good ones passes for the torn end of the log.
    RotTakenForTear,
    /// A log file that was cut passes for one that ends there.
    CutLogAccepted,
    /// The last log file may be missing.
    MissingLogFileAccepted,
    /// Recovery hands out the last record's number again.
    SeqReused,
    /// A seal says that segments hold one record more than they do.
    FloorTooHigh,
    /// The log is trimmed before the manifest edit is durable.
    LogTrimmedBeforeEdit,
    /// A manifest file is unlinked before the next one is durable.
    ManifestRemovedEarly,
    /// An open unlinks what an edit let go of before it knows that edit to be durable.
    FilesLetGoEarly,
    /// What a crashed append left in the registry file is read as valid.
    RegistryLengthIgnored,
    /// A seal forgets how far each gateway got.
    MarksForgotten,
    /// A gateway's repeated batch is taken again.
    RepeatedBatchTaken,
    /// The first record that uses a tag does not define it.
    DefinitionMissing,
    /// A seal writes rows that were deleted.
    SealForgetsTombstones,
    /// A seal drops tombstones that older segments still need.
    TombstonesDroppedEarly,
    /// A compaction writes rows that were deleted.
    CompactionForgetsTombstones,
    /// Late samples are sealed as if they were newer than everything.
    LateSealedAsBase,
    /// What a backfill has done is not remembered.
    ImportForgotten,
    /// Samples end a day early.
    HorizonOffByOne,
    /// Of two sealed samples of one time the older one wins.
    PrecedenceInverted,
    /// Of two samples of one time in the head the older one stays.
    OlderOfEqualTimesKept,
    /// What was written without a sync is shown at once.
    ShownBeforeSync,
    /// A delete leaves the latest sample as it was.
    LatestNotRenewed,
    /// What was appended while a seal ran leaves the head with the sealed rows.
    HeadDroppedWithSeal,
    /// Where parts of a window meet, the stretch between them is forgotten.
    SeamForgotten,
    /// A chunk that stands alone is folded, or answered for by its rollups, with the rows that were deleted.
    RollupsForgetTombstones,
    /// A stored rollup answers although other samples lie between its own.
    OverlappingRollupsTaken,
    /// What stored rollups leave open at the end of a stretch is not read.
    EdgeForgotten,
    /// The search for what lies before an instant takes no sample that is not usable for a break.
    BreakForgotten,
    /// A day is rolled up while samples of it wait in the head.
    HeadForgottenAtRollUp,
    /// A seal leaves out what has ended although rollups of it have not.
    EndedNotRolledUp,
    /// Deletes of days that are rolled up change nothing.
    LeftIgnoresDeletes,
}

impl Bug {
    /// Every bug.
    pub const ALL: &[Self] = &[
        Self::AckBeforeSync,
        Self::LogFolderNotSynced,
        Self::SegmentFolderNotSynced,
        Self::SegmentNotSynced,
        Self::RegistryNotSynced,
        Self::TakenOverWithoutSync,
        Self::SyncRetried,
        Self::WriteErrorForgotten,
        Self::ShortWriteTakenForWhole,
        Self::InterruptedCallFails,
        Self::LogChecksumIgnored,
        Self::ChunkChecksumIgnored,
        Self::ManifestChecksumIgnored,
        Self::RegistryChecksumIgnored,
        Self::CheckpointChecksumIgnored,
        Self::ChecksumWithoutIdentity,
        Self::RotTakenForTear,
        Self::CutLogAccepted,
        Self::MissingLogFileAccepted,
        Self::SeqReused,
        Self::FloorTooHigh,
        Self::LogTrimmedBeforeEdit,
        Self::ManifestRemovedEarly,
        Self::FilesLetGoEarly,
        Self::RegistryLengthIgnored,
        Self::MarksForgotten,
        Self::RepeatedBatchTaken,
        Self::DefinitionMissing,
        Self::SealForgetsTombstones,
        Self::TombstonesDroppedEarly,
        Self::CompactionForgetsTombstones,
        Self::LateSealedAsBase,
        Self::ImportForgotten,
        Self::HorizonOffByOne,
        Self::PrecedenceInverted,
        Self::OlderOfEqualTimesKept,
        Self::ShownBeforeSync,
        Self::LatestNotRenewed,
        Self::HeadDroppedWithSeal,
        Self::SeamForgotten,
        Self::RollupsForgetTombstones,
        Self::OverlappingRollupsTaken,
        Self::EdgeForgotten,
        Self::BreakForgotten,
        Self::HeadForgottenAtRollUp,
        Self::EndedNotRolledUp,
        Self::LeftIgnoresDeletes,
    ];
}

/// Whether this build can hold planted bugs.
pub const IS_POSSIBLE: bool = cfg!(feature = "planted");

/// Whether this bug is switched on.
#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Whether this bug is switched on.
    #[inline]
    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }

    /// Switches this bug on, for the whole process, instead of any other; `None` switches it off.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::SeqCst);
    }
}

#[cfg(feature = "planted")]
pub(crate) use switch::is;
#[cfg(feature = "planted")]
pub use switch::plant;
