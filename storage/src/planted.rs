//! Deliberate bugs, with which the tests test themselves: `docs/testing.md` says which harness must find each.
//!
//! # Contract
//! * Without the feature `planted` every `is` is the constant `false`, and the compiler drops what hangs on it. No
//!   crate but the engine's tests may switch the feature on; `tests/tidy.rs` checks that.
//! * With it, one bug at a time is switched on for the whole process, by `plant`.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Bug {
    /// Batches are acknowledged before their log records are synced.
    AckBeforeSync = 1,
    /// A new log file's name is not made durable.
    LogFolderNotSynced,
    /// New segments' names are not made durable.
    SegmentFolderNotSynced,
    /// A failed sync of the log is tried again, and the second success believed.
    SyncRetried,
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
    /// Recovery hands out the last record's number again.
    SeqReused,
    /// The last log file is not taken over by a new one: its unsynced records are trusted.
    TornTailTrusted,
    /// A seal writes rows that were deleted.
    SealForgetsTombstones,
    /// A seal drops tombstones that older segments still need.
    TombstonesDroppedEarly,
    /// Of two samples of one time the older one wins, once both are sealed.
    PrecedenceInverted,
    /// Late samples are sealed as if they were newer than everything.
    LateSealedAsBase,
    /// A checkpoint is not synced.
    CheckpointNotSynced,
    /// The manifest names segments that are not synced.
    SegmentNotSynced,
    /// The log is trimmed before the manifest edit is durable.
    LogTrimmedBeforeEdit,
    /// What a crashed append left in the registry file is read as valid.
    RegistryLengthIgnored,
    /// Registry changes do not reach their file before the log is trimmed.
    RegistryNotSynced,
    /// A seal forgets how far each gateway got.
    MarksForgotten,
    /// A gateway's repeated batch is taken again.
    RepeatedBatchTaken,
    /// What was written without a sync is shown at once.
    ShownBeforeSync,
    /// A delete leaves the latest sample as it was.
    LatestNotRenewed,
    /// What was appended while a seal ran leaves the head with the sealed rows.
    HeadDroppedWithSeal,
    /// The beginning of a write passes for all of it.
    ShortWriteTakenForWhole,
    /// An interrupted call fails.
    InterruptedCallFails,
    /// Folding runs of the head keeps the older of two samples of one time.
    FoldKeepsOlder,
    /// A manifest file is unlinked before the next one is durable.
    ManifestRemovedEarly,
    /// A failed write does not stop the log.
    WriteErrorForgotten,
    /// Tags reserved but not durable are not defined again in the record that uses them.
    DefinitionMissing,
    /// A new log file may begin before the old one is durable.
    NextFileBeforeSync,
}

impl Bug {
    /// Every bug.
    pub const ALL: &[Self] = &[
        Self::AckBeforeSync,
        Self::LogFolderNotSynced,
        Self::SegmentFolderNotSynced,
        Self::SyncRetried,
        Self::LogChecksumIgnored,
        Self::ChunkChecksumIgnored,
        Self::ManifestChecksumIgnored,
        Self::RegistryChecksumIgnored,
        Self::CheckpointChecksumIgnored,
        Self::ChecksumWithoutIdentity,
        Self::RotTakenForTear,
        Self::SeqReused,
        Self::TornTailTrusted,
        Self::SealForgetsTombstones,
        Self::TombstonesDroppedEarly,
        Self::PrecedenceInverted,
        Self::LateSealedAsBase,
        Self::CheckpointNotSynced,
        Self::SegmentNotSynced,
        Self::LogTrimmedBeforeEdit,
        Self::RegistryLengthIgnored,
        Self::RegistryNotSynced,
        Self::MarksForgotten,
        Self::RepeatedBatchTaken,
        Self::ShownBeforeSync,
        Self::LatestNotRenewed,
        Self::HeadDroppedWithSeal,
        Self::ShortWriteTakenForWhole,
        Self::InterruptedCallFails,
        Self::FoldKeepsOlder,
        Self::ManifestRemovedEarly,
        Self::WriteErrorForgotten,
        Self::DefinitionMissing,
        Self::NextFileBeforeSync,
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
