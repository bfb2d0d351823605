//! Why the engine could not do what was asked.

use std::io;
use std::path::PathBuf;

use crate::Seq;
use crate::tier::width::Tier;
use crate::time::Rfc3339;

/// Result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the engine could not do what was asked. Variants are named by what the caller can do about it.
///
/// `Clone`, because one failed group commit answers many callers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused, and nothing was written. `op` is a verb phrase such as "open segment".
    #[error("{op} {}: {}", .path.display(), .source.0)]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: SharedIo,
    },
    /// Stored bytes break their format or checksum. Nothing was changed; the rest of the data stays readable.
    #[error("corrupt {what} in {} at byte {offset}: {why}", .path.display())]
    Corrupt {
        /// Which structure, with tag and time range where known.
        what: String,
        /// In which file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The file is valid but written by a newer build.
    #[error("{} has format {found}, this build reads up to {supported}: upgrade tagmill", .path.display())]
    TooNew {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The greatest version known here.
        supported: u16,
    },
    /// The caller's request cannot be served; asking again will not help.
    #[error("{0}")]
    Invalid(String),
    /// Another process has the directory open.
    #[error("{} is open in another process: stop that process, or connect to its server instead", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The head is full and sealing has not caught up. Nothing was written; try again.
    #[error("head holds {used_bytes} of {limit_bytes} bytes: try again when it has been sealed")]
    Busy {
        /// Bytes held.
        used_bytes: u64,
        /// Bytes allowed.
        limit_bytes: u64,
    },
    /// The disk is full. Nothing was written; writes resume by themselves when there is room.
    #[error("no space left to write {}: free some, writes resume by themselves", .path.display())]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// A gateway's batch does not follow its last one.
    #[error("batch {found} of gateway {gateway} does not follow: expected {expected}")]
    Gap {
        /// The gateway.
        gateway: String,
        /// The seq it must send next.
        expected: u64,
        /// The seq it sent.
        found: u64,
    },
    /// A newer session of the same gateway, or a newer epoch, has taken over.
    #[error("a newer session of gateway {gateway} has taken over")]
    Fenced {
        /// The gateway.
        gateway: String,
    },
    /// A sync of the log failed: batches after `since` may or may not be on disk. Reopen to find out.
    #[error("the log is poisoned since {since}: a sync failed; restart to learn what the disk has")]
    Poisoned {
        /// First record whose fate is unknown.
        since: Seq,
    },
    /// The samples have ended, and what is left of them does not say what is asked.
    #[error(
        "the samples of tag {tag:?} before {} have ended, and the rollups of {tier} that are left of {} cannot answer: {why}",
        Rfc3339(*before_ns),
        Rfc3339(*at_ns)
    )]
    Ended {
        /// The tag's name.
        tag: String,
        /// When its samples begin.
        before_ns: i64,
        /// What was asked about.
        at_ns: i64,
        /// The finest tier that is left there.
        tier: Tier,
        /// Why it does not do, and what would.
        why: String,
    },
    /// The engine was closed, or its committer has ended.
    #[error("the database is closed")]
    Closed,
}

/// What is known of a write that returned an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is certain that nothing was written.
    NotWritten,
    /// It may be on disk or not.
    Unknown,
}

impl Error {
    /// What is known of the write that returned this error.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Poisoned { .. } | Self::Closed => Outcome::Unknown,
            _ => Outcome::NotWritten,
        }
    }

    pub(crate) fn corrupt(
        what: impl Into<String>,
        path: impl Into<PathBuf>,
        offset: u64,
        why: impl Into<String>,
    ) -> Self {
        Self::Corrupt { what: what.into(), path: path.into(), offset, why: why.into() }
    }

    /// Attaches what was tried, and on which file, to the system's answer.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull { path: path.into() };
        }
        Self::Io { op, path: path.into(), source: SharedIo(std::sync::Arc::new(source)) }
    }
}

/// An [`io::Error`] that several callers can hold.
#[derive(Clone, Debug)]
pub struct SharedIo(pub std::sync::Arc<io::Error>);

impl std::fmt::Display for SharedIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedIo {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
