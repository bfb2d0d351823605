//! What is known of a queue and its servers, for people and for alarms.

use crate::definitions::Refused;
use crate::gateway::{AckSummary, Ticket};

/// How a queue stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardStatus {
    /// The last record that is stored; its number is what [`crate::Forwarder::append`] gave.
    pub last: Ticket,
    /// The oldest record that is kept, or the number of the next one.
    pub oldest: Ticket,
    /// Bytes of batches on disk.
    pub bytes: u64,
    /// Each server, in the order of the options.
    pub servers: Vec<ServerStatus>,
}

/// How one server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// The server's name.
    pub name: String,
    /// Whether a connection stands.
    pub connected: bool,
    /// Whether nothing is tried any more; `last_error` says why.
    pub ended: bool,
    /// The epoch that records are sent in.
    pub epoch: u64,
    /// Every record up to this one is on its disk, or was given up.
    pub acked: Ticket,
    /// Records that it lacks.
    pub waiting_records: u64,
    /// Bytes of the files that hold them.
    pub waiting_bytes: u64,
    /// Records that it never gets: dropped from a full queue, damaged, or taken from it by a restore and no longer kept.
    pub lost_records: u64,
    /// Samples that it has taken since the queue was opened. Those whose acknowledgement was lost are not counted.
    pub accepted_samples: u64,
    /// Samples that it has left out for good since the queue was opened.
    pub rejected_samples: u64,
    /// Batches that it never takes, in whose place it got an empty one.
    pub emptied_batches: u64,
    /// Why the last connection ended, until there is another.
    pub last_error: Option<String>,
}

impl ServerStatus {
    /// Whether it has everything that is stored, as far as can be known: a server that was not tried yet may have been put
    /// back to an earlier state, and says so only then.
    pub fn is_delivered(&self) -> bool {
        self.waiting_records == 0 && self.was_tried()
    }

    /// Whether it was heard since the queue was opened, or is known to be away.
    pub fn was_tried(&self) -> bool {
        self.connected || self.last_error.is_some()
    }
}

/// What one server has said since the last summary.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSummary {
    /// The server's name.
    pub name: String,
    /// What became of the records. A ticket is the record's number.
    pub acks: AckSummary,
    /// Definitions that it does not accept: samples of these tags are rejected.
    pub refused: Vec<Refused>,
}
