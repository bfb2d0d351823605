//! A delete: every sample of some tags within a time range that was written before it.

use std::sync::Arc;

use crate::ids::Seq;
use crate::tag::TagId;
use crate::time::TimeRange;

/// A delete, visible from its acknowledgement on. It hides rows of runs and segments whose greatest seq is below its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tombstone {
    pub(crate) seq: Seq,
    /// Ascending, distinct.
    pub(crate) tags: Arc<[TagId]>,
    pub(crate) range: TimeRange,
    /// Who asked for it, for the audit.
    pub(crate) who: Arc<str>,
}

/// Live tombstones, ascending by seq.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tombstones {
    list: Arc<[Arc<Tombstone>]>,
}

impl Tombstones {
    pub(crate) fn new(list: Vec<Arc<Tombstone>>) -> Self {
        assert!(list.windows(2).all(|pair| pair[0].seq < pair[1].seq), "tombstones out of order");
        Self { list: list.into() }
    }

    /// The same and one more, the newest.
    pub(crate) fn with(&self, tombstone: Tombstone) -> Self {
        Self::new(self.list.iter().cloned().chain([Arc::new(tombstone)]).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Tombstone>> {
        self.list.iter()
    }

    /// Whether any could hide rows of something whose greatest seq is `max_seq`.
    pub(crate) fn any_after(&self, max_seq: Seq) -> bool {
        self.list.last().is_some_and(|newest| newest.seq > max_seq)
    }

    /// Ranges hidden from rows of `tag` in something whose greatest seq is `max_seq`.
    pub(crate) fn hiding(&self, tag: TagId, max_seq: Seq) -> Vec<TimeRange> {
        let newer = self.list.iter().rev().take_while(|tombstone| tombstone.seq > max_seq);
        newer.filter(|t| t.tags.binary_search(&tag).is_ok()).map(|t| t.range).collect()
    }
}
