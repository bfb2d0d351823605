//! Why the client could not do what was asked.

use std::path::PathBuf;

use crate::definitions::Refused;

/// Result of a client call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the client could not do what was asked. Variants are named by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing answers at the address.
    #[error("cannot reach {uri}: {why}; is `tagmill serve` running there?")]
    Unreachable {
        /// The address.
        uri: String,
        /// What the network says.
        why: String,
    },
    /// The server answered with an error.
    #[error("the server says: {message} ({code:?})")]
    Server {
        /// The gRPC status code.
        code: tonic::Code,
        /// The server's sentence.
        message: String,
    },
    /// The caller's request makes no sense as it is.
    #[error("{0}")]
    Invalid(String),
    /// The batch is longer than the server reads.
    #[error("the batch has {bytes} bytes, the server reads up to {limit_bytes}: send it in parts")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The greatest length.
        limit_bytes: usize,
    },
    /// The batch is longer than a queue on disk has room for.
    #[error(
        "the batch has {bytes} bytes, the queue has room for {limit_bytes}: send it in parts, or give the queue more room"
    )]
    Unfit {
        /// Its length.
        bytes: usize,
        /// The greatest length.
        limit_bytes: usize,
    },
    /// The server refused some of the tags; the others are defined.
    #[error("{} refused, the first: {}", Count(.0.len()), First(.0))]
    Definition(Vec<Refused>),
    /// Another program sends under this gateway's name.
    #[error("gateway {gateway} is taken over: {detail}; give each gateway its own name")]
    Fenced {
        /// The name.
        gateway: String,
        /// What shows it.
        detail: String,
    },
    /// The server breaks the protocol.
    #[error("the server at {uri} does not speak this protocol: {why}")]
    Protocol {
        /// The address.
        uri: String,
        /// What is wrong.
        why: String,
    },
    /// The system refuses what a queue on disk needs, or a file of it cannot be read.
    #[error("cannot {op} {}: {why}", .path.display())]
    Queue {
        /// What was tried.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        why: String,
        /// What kind of error it is to the system.
        kind: std::io::ErrorKind,
    },
    /// The queue on disk is full of records that some server lacks.
    #[error(
        "the queue in {} has used up {}, and some server lacks every record in it: wait, give it more room, or no longer \
         forward to that server",
        .path.display(),
        Room(*.capacity_bytes)
    )]
    Full {
        /// Its folder.
        path: PathBuf,
        /// What it may take; none: the disk has no more.
        capacity_bytes: Option<u64>,
    },
    /// Some server still lacks records; they stay in the queue.
    #[error("not everything is delivered: {0}")]
    Undelivered(String),
    /// The gateway was closed.
    #[error("the gateway is closed")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Unreachable { .. } => true,
            Self::Server { code, .. } => matches!(
                code,
                Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::Cancelled
                    | Code::Internal
                    | Code::Unknown
            ),
            _ => false,
        }
    }

    /// Whether it needs nothing but room on the disk of a queue.
    pub(crate) fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind;
        let Self::Queue { kind, .. } = self else { return false };
        matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Server { code: status.code(), message: status.message().to_owned() }
    }
}

struct Room(Option<u64>);

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "its {bytes} bytes"),
            None => f.write_str("the room on its disk"),
        }
    }
}

struct Count(usize);

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 1 { f.write_str("1 tag") } else { write!(f, "{} tags", self.0) }
    }
}

struct First<'a>(&'a [Refused]);

impl std::fmt::Display for First<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.first() {
            Some(refused) => write!(f, "{:?}: {}", refused.name, refused.detail),
            None => f.write_str("none"),
        }
    }
}
