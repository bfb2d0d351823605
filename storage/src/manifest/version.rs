//! The live segments of one instant.

use std::sync::Arc;

use crate::head::tombstone::Tombstone;
use crate::ids::SegmentId;
use crate::segment::{Segment, SegmentMeta};

/// Immutable list of live segments. Readers hold it through their View; maintenance builds the next one.
///
/// # Invariants
/// 1. Ascending by rank (kind, greatest seq, id): of equal keys the later segment's row counts.
/// 2. Every id occurs once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    segments: Arc<[Arc<Segment>]>,
}

impl Version {
    pub(crate) fn new(mut segments: Vec<Arc<Segment>>) -> Self {
        segments.sort_by_key(|segment| segment.meta().rank());
        let mut ids: Vec<SegmentId> = segments.iter().map(|segment| segment.meta().id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "a segment is listed twice");
        Self { segments: segments.into() }
    }

    /// The same and `added`.
    pub(crate) fn with(&self, added: Vec<Arc<Segment>>) -> Self {
        Self::new(self.segments.iter().cloned().chain(added).collect())
    }

    /// The same with `added` in place of `removed`; `None` if one of these does not live.
    pub(crate) fn replaced(
        &self,
        removed: &[Arc<Segment>],
        added: Vec<Arc<Segment>>,
    ) -> Option<Self> {
        let mut rest = self.segments.to_vec();
        for gone in removed {
            let at = rest.iter().position(|segment| Arc::ptr_eq(segment, gone))?;
            rest.remove(at);
        }
        Some(Self::new(rest.into_iter().chain(added).collect()))
    }

    /// The same but these.
    pub(crate) fn without(&self, removed: &[SegmentId]) -> Self {
        let lives = |segment: &&Arc<Segment>| !removed.contains(&segment.meta().id);
        Self::new(self.segments.iter().filter(lives).cloned().collect())
    }

    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Whether a row that `tombstone` hides may still stand in a segment, judged by spans alone.
    pub(crate) fn may_hold(&self, tombstone: &Tombstone) -> bool {
        self.segments.iter().any(|segment| may_hide_in(tombstone, segment.meta()))
    }
}

/// Whether a tombstone may hide rows of a segment, judged by its span alone.
pub(crate) fn may_hide_in(tombstone: &Tombstone, meta: &SegmentMeta) -> bool {
    meta.max_seq < tombstone.seq && tombstone.range.overlaps_span(meta.first_ns, meta.last_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::ids::Seq;
    use crate::segment::meta::SegmentKind::{self, Base, Late};
    use crate::segment::meta::tests::example;

    fn segment(id: u64, kind: SegmentKind, max_seq: u64) -> Arc<Segment> {
        let mut meta = example();
        (meta.id, meta.kind, meta.max_seq) = (SegmentId(id), kind, Seq(max_seq));
        Arc::new(Segment::new(Arc::new(SimDisk::new(0)), meta))
    }

    fn ids(version: &Version) -> Vec<u64> {
        version.segments().iter().map(|segment| segment.meta().id.0).collect()
    }

    #[test]
    fn late_segments_win_over_base_whatever_their_seqs() {
        let all = vec![
            segment(1, Late, 20),
            segment(2, Base, 90),
            segment(3, Late, 10),
            segment(4, Base, 15),
            segment(5, Late, 20),
        ];
        assert_eq!(ids(&Version::new(all)), [4, 2, 3, 1, 5]);
    }

    #[test]
    fn only_live_segments_are_replaced() {
        let (a, b, c) = (segment(1, Base, 10), segment(2, Base, 20), segment(3, Base, 20));
        let version = Version::new(vec![Arc::clone(&a), Arc::clone(&b)]);
        let next = version.replaced(&[a], vec![Arc::clone(&c)]).unwrap();
        assert_eq!(ids(&next), [2, 3]);
        assert!(next.replaced(&[segment(2, Base, 20)], vec![]).is_none(), "it only looks alike");
        assert_eq!(ids(&next.replaced(&[b, c], vec![]).unwrap()), [0_u64; 0]);
    }
}
