//! The live segments of one instant.

use std::sync::Arc;

use crate::head::tombstone::Tombstone;
use crate::ids::SegmentId;
use crate::segment::Segment;

/// Immutable list of live segments. Readers hold it through their View; maintenance builds the next one.
///
/// # Invariants
/// 1. Ascending by (greatest seq, id): of equal keys the later segment's row is the newer.
/// 2. Every id occurs once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    segments: Arc<[Arc<Segment>]>,
}

impl Version {
    pub(crate) fn new(mut segments: Vec<Arc<Segment>>) -> Self {
        segments.sort_by_key(|segment| (segment.meta().max_seq, segment.meta().id));
        let mut ids: Vec<SegmentId> = segments.iter().map(|segment| segment.meta().id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "a segment is listed twice");
        Self { segments: segments.into() }
    }

    /// The same and `added`.
    pub(crate) fn with(&self, added: Vec<Arc<Segment>>) -> Self {
        Self::new(self.segments.iter().cloned().chain(added).collect())
    }

    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Whether a row that `tombstone` hides may still stand in a segment, judged by spans alone.
    pub(crate) fn may_hold(&self, tombstone: &Tombstone) -> bool {
        self.segments.iter().map(|segment| segment.meta()).any(|meta| {
            meta.max_seq < tombstone.seq
                && tombstone.range.overlaps_span(meta.first_ns, meta.last_ns)
        })
    }
}
