//! [`Damage`]: a place in a segment that is known to be unreadable.

use std::fmt;
use std::sync::Arc;

use crate::ids::SegmentId;
use crate::tag::TagId;
use crate::time::Rfc3339;

/// A place in a segment that is known to be unreadable. What it held is newer than older segments: they must not answer
/// for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Where.
    pub segment: SegmentId,
    /// Least tag concerned.
    pub first_tag: TagId,
    /// Greatest tag concerned.
    pub last_tag: TagId,
    /// Earliest source time concerned.
    pub first_ns: i64,
    /// Latest source time concerned.
    pub last_ns: i64,
    /// What was found.
    pub why: Arc<str>,
}

/// Names the place for people.
impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, first_tag, last_tag, first_ns, last_ns, why } = self;
        write!(f, "segment {segment}, tags {first_tag} to {last_tag}, ")?;
        write!(f, "{} .. {}: {why}", Rfc3339(*first_ns), Rfc3339(*last_ns))
    }
}
