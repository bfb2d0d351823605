//! The live segments of one instant.

use std::ops::Range;
use std::sync::Arc;

use crate::head::tombstone::Tombstone;
use crate::ids::SegmentId;
use crate::segment::{Segment, SegmentMeta};
use crate::tier::Tier;

/// Immutable lists of live segments. Readers hold them through their View; maintenance builds the next ones.
///
/// # Invariants
/// 1. Raw segments ascend by rank (kind, greatest seq, id): of equal keys the later segment's row counts.
/// 2. Tier segments, in which nothing but rollups is left, ascend by (tier, first time, id).
/// 3. Every id occurs once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    segments: Arc<[Arc<Segment>]>,
    tier_segments: Arc<[Arc<Segment>]>,
}

impl Version {
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> Self {
        let mut ids: Vec<SegmentId> = segments.iter().map(|segment| segment.meta().id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "a segment is listed twice");
        let is_raw = |segment: &Arc<Segment>| segment.meta().is_raw();
        let (mut segments, mut tiers): (Vec<_>, Vec<_>) = segments.into_iter().partition(is_raw);
        segments.sort_by_key(|segment| segment.meta().rank());
        tiers.sort_by_key(|segment| {
            let meta = segment.meta();
            (meta.tier, meta.first_ns, meta.id)
        });
        Self { segments: segments.into(), tier_segments: tiers.into() }
    }

    /// The same and `added`.
    pub(crate) fn with(&self, added: Vec<Arc<Segment>>) -> Self {
        Self::new(self.all().cloned().chain(added).collect())
    }

    /// The same with `added` in place of `removed`; `None` if one of these does not live.
    pub(crate) fn replaced(
        &self,
        removed: &[Arc<Segment>],
        added: Vec<Arc<Segment>>,
    ) -> Option<Self> {
        let mut rest: Vec<Arc<Segment>> = self.all().cloned().collect();
        for gone in removed {
            let at = rest.iter().position(|segment| Arc::ptr_eq(segment, gone))?;
            rest.remove(at);
        }
        Some(Self::new(rest.into_iter().chain(added).collect()))
    }

    /// The same but these.
    pub(crate) fn without(&self, removed: &[SegmentId]) -> Self {
        let lives = |segment: &&Arc<Segment>| !removed.contains(&segment.meta().id);
        Self::new(self.all().filter(lives).cloned().collect())
    }

    /// Those with samples.
    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Those with rollups alone.
    pub(crate) fn tier_segments(&self) -> &[Arc<Segment>] {
        &self.tier_segments
    }

    /// Those with rollups alone, of one tier, as positions in [`Self::tier_segments`].
    pub(crate) fn tier_segments_of(&self, tier: Tier) -> Range<usize> {
        let start = self.tier_segments.partition_point(|s| s.meta().tier < tier.code());
        let end = self.tier_segments.partition_point(|s| s.meta().tier <= tier.code());
        start..end
    }

    /// Every live segment.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter().chain(self.tier_segments.iter())
    }

    /// The live segment of this number.
    pub(crate) fn find(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.all().find(|segment| segment.meta().id == id)
    }

    /// Whether something that `tombstone` hides may still stand in a segment, judged by spans alone.
    pub(crate) fn may_hold(&self, tombstone: &Tombstone) -> bool {
        self.all().any(|segment| may_hide_in(tombstone, segment.meta()))
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
    fn tier_segments_stand_apart_by_tier_and_time() {
        let of = |id, tier: Tier, first_ns| {
            let mut meta = example();
            (meta.id, meta.tier, meta.first_ns) = (SegmentId(id), tier.code(), first_ns);
            Arc::new(Segment::new(Arc::new(SimDisk::new(0)), meta))
        };
        let all = vec![
            of(1, Tier::Hour, 5),
            segment(2, Base, 90),
            of(3, Tier::Minute, 9),
            of(4, Tier::Hour, 1),
        ];
        let version = Version::new(all);
        assert_eq!(ids(&version), [2]);
        let tiers: Vec<u64> = version.tier_segments().iter().map(|s| s.meta().id.0).collect();
        assert_eq!(tiers, [3, 4, 1]);
        assert_eq!(Tier::ALL.map(|tier| version.tier_segments_of(tier)), [0..1, 1..1, 1..3, 3..3]);
        assert_eq!(version.all().count(), 4);
        assert_eq!(version.without(&[SegmentId(4), SegmentId(2)]).all().count(), 2);
        assert!(version.find(SegmentId(1)).is_some() && version.find(SegmentId(5)).is_none());
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
