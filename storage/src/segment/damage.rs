//! [`Damage`]: a place in a segment that is known to be unreadable, and [`Quarantine`], all of them.
//!
//! # Contract
//! * A place is a chunk, a block of rollups whose samples have ended, or a whole segment when its file, header or directory
//!   is bad.
//! * What a place held is newer than older segments: they must not answer for it.
//! * A quarantined place is never compacted. It leaves when it verifies again, or when someone forgets it.
//!
//! It knows nothing of files: who finds damage, and who writes it down, is [`crate::maintenance`]'s part.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chunk::ChunkEntry;
use crate::error::Error;
use crate::ids::SegmentId;
use crate::segment::SegmentMeta;
use crate::tag::TagId;
use crate::tier::build::BlockHead;
use crate::time::{Rfc3339, TimeRange};

/// Most places of one segment that are listed one by one. With more of them the segment counts as damaged as a whole: the
/// list is in every edit of the manifest.
pub(crate) const PLACES_MAX: usize = 256;
/// Places that may wait to be looked at: more are met again later.
const REPORTS_MAX: usize = 1_024;

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

impl Damage {
    /// All of a segment: which tags it holds only its file could say.
    pub(crate) fn whole(meta: &SegmentMeta, why: impl Into<Arc<str>>) -> Self {
        Self {
            segment: meta.id,
            first_tag: TagId(0),
            last_tag: TagId(u32::MAX),
            first_ns: meta.first_ns,
            last_ns: meta.last_ns,
            why: why.into(),
        }
    }

    /// One chunk.
    pub(crate) fn chunk(segment: SegmentId, entry: &ChunkEntry, why: impl Into<Arc<str>>) -> Self {
        Self {
            segment,
            first_tag: entry.first_tag,
            last_tag: entry.last_tag,
            first_ns: entry.first_ns,
            last_ns: entry.last_ns,
            why: why.into(),
        }
    }

    /// A block of rollups in a segment that has nothing else.
    pub(crate) fn block(segment: SegmentId, head: &BlockHead, why: impl Into<Arc<str>>) -> Self {
        let BlockHead { first_tag, last_tag, first_ns, last_ns, .. } = *head;
        Self { segment, first_tag, last_tag, first_ns, last_ns, why: why.into() }
    }

    /// Whether it is a segment as a whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.first_tag == TagId(0) && self.last_tag == TagId(u32::MAX)
    }

    /// Whether it is this chunk of its segment, or the whole of it.
    pub(crate) fn covers(&self, entry: &ChunkEntry) -> bool {
        let is_chunk = (self.first_tag, self.last_tag) == (entry.first_tag, entry.last_tag)
            && (self.first_ns, self.last_ns) == (entry.first_ns, entry.last_ns);
        is_chunk || self.is_whole()
    }

    /// Whether it is this block of its segment, or the whole of it.
    pub(crate) fn covers_block(&self, head: &BlockHead) -> bool {
        let is_block = (self.first_tag, self.last_tag) == (head.first_tag, head.last_tag)
            && (self.first_ns, self.last_ns) == (head.first_ns, head.last_ns);
        is_block || self.is_whole()
    }

    /// Whether it concerns any tag of `first..=last`.
    pub(crate) fn touches(&self, first: TagId, last: TagId) -> bool {
        self.first_tag <= last && first <= self.last_tag
    }

    /// The times concerned.
    pub(crate) fn range(&self) -> TimeRange {
        TimeRange::new(self.first_ns, self.last_ns.saturating_add(1))
    }

    /// Whether it is the same place as another, whatever was found there.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        self.place() == other.place()
    }

    fn place(&self) -> (SegmentId, TagId, TagId, i64, i64) {
        (self.segment, self.first_tag, self.last_tag, self.first_ns, self.last_ns)
    }
}

/// Names the place for people.
impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, first_tag, last_tag, first_ns, last_ns, why } = self;
        write!(f, "segment {segment}, tags {first_tag} to {last_tag}, ")?;
        write!(f, "{} .. {}: {why}", Rfc3339(*first_ns), Rfc3339(*last_ns))
    }
}

/// What an error says of the bytes it comes from; `None` if they may well be good.
///
/// A disk that cannot read a sector says so with EIO; every other refusal (too many files, no right) may pass.
pub(crate) fn damage_in(error: &Error) -> Option<Arc<str>> {
    match error {
        Error::Corrupt { what, why, .. } => Some(Arc::from(format!("{what}: {why}"))),
        Error::Io { source, .. } if is_unreadable(&source.0) => {
            Some(Arc::from(format!("the disk cannot read it: {source}")))
        }
        _ => None,
    }
}

fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Places known to be unreadable, of one instant.
///
/// # Invariants
/// 1. Ascending by segment, tags, times; each place once.
/// 2. Of a segment that is damaged as a whole nothing else is listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quarantine {
    places: Arc<[Arc<Damage>]>,
}

impl Quarantine {
    /// These places, in order and each once, and of a segment with too many of them the whole.
    pub(crate) fn bounded<'a>(
        places: Vec<Arc<Damage>>,
        meta_of: impl Fn(SegmentId) -> Option<&'a SegmentMeta>,
    ) -> Self {
        let all = Self::new(places);
        let mut crowded = Vec::new();
        for same in all.places.chunk_by(|a, b| a.segment == b.segment) {
            let meta = meta_of(same[0].segment).filter(|_| same.len() > PLACES_MAX);
            let why = || format!("{} of its chunks, or more, cannot be read", same.len());
            crowded.extend(meta.map(|meta| Arc::new(Damage::whole(meta, why()))));
        }
        if crowded.is_empty() { all } else { Self::new([&crowded, &*all.places].concat()) }
    }

    /// These places, in order and each once.
    pub(crate) fn new(mut places: Vec<Arc<Damage>>) -> Self {
        places.sort_by_key(|damage| (damage.segment, !damage.is_whole(), damage.place()));
        let mut kept: Vec<Arc<Damage>> = Vec::with_capacity(places.len());
        for damage in places {
            let is_known = kept.last().is_some_and(|last| {
                last.segment == damage.segment
                    && (last.is_whole() || last.place() == damage.place())
            });
            if !is_known {
                kept.push(damage);
            }
        }
        Self { places: kept.into() }
    }

    /// Every place.
    pub(crate) fn places(&self) -> &[Arc<Damage>] {
        &self.places
    }

    /// The places of one segment.
    pub(crate) fn of(&self, segment: SegmentId) -> &[Arc<Damage>] {
        let from = self.places.partition_point(|damage| damage.segment < segment);
        let to = self.places.partition_point(|damage| damage.segment <= segment);
        &self.places[from..to]
    }

    /// The place among those of a chunk's segment that it is, or is in.
    pub(crate) fn covering<'a>(
        of_segment: &'a [Arc<Damage>],
        entry: &ChunkEntry,
    ) -> Option<&'a Arc<Damage>> {
        let key = (entry.first_tag, entry.last_tag, entry.first_ns, entry.last_ns);
        let whole = of_segment.first().filter(|first| first.is_whole());
        whole.or_else(|| {
            let at = of_segment.binary_search_by_key(&key, |damage| {
                let (_, first_tag, last_tag, first_ns, last_ns) = damage.place();
                (first_tag, last_tag, first_ns, last_ns)
            });
            at.ok().map(|at| &of_segment[at])
        })
    }

    /// Whether a place of `segment` concerns any tag of `first..=last`: then that part of it must stay where it is.
    pub(crate) fn touches(&self, segment: SegmentId, first: TagId, last: TagId) -> bool {
        self.of(segment).iter().any(|damage| damage.touches(first, last))
    }
}

/// Where readers leave what they could not read; maintenance looks at it again and decides.
#[derive(Debug, Default)]
pub(crate) struct DamageReports {
    places: Mutex<Vec<Damage>>,
}

impl DamageReports {
    /// Leaves a place. Never waits for the disk.
    pub(crate) fn leave(&self, damage: Damage) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() < REPORTS_MAX && !places.contains(&damage) {
            places.push(damage);
        }
    }

    /// Takes all that was left.
    pub(crate) fn take(&self) -> Vec<Damage> {
        std::mem::take(&mut *self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u64, first_tag: u32, last_tag: u32, first_ns: i64) -> Arc<Damage> {
        Arc::new(Damage {
            segment: SegmentId(segment),
            first_tag: TagId(first_tag),
            last_tag: TagId(last_tag),
            first_ns,
            last_ns: first_ns + 9,
            why: "a test".into(),
        })
    }

    #[test]
    fn each_place_is_listed_once_and_a_whole_segment_alone() {
        let quarantine = Quarantine::new(vec![
            place(3, 7, 7, 0),
            place(2, 5, 9, 0),
            place(3, 0, u32::MAX, 0),
            place(2, 5, 9, 0),
            place(2, 5, 9, 10),
        ]);
        let listed: Vec<_> =
            quarantine.places().iter().map(|d| (d.segment.0, d.first_ns)).collect();
        assert_eq!(listed, [(2, 0), (2, 10), (3, 0)]);
        assert!(quarantine.of(SegmentId(3))[0].is_whole());
        assert!(quarantine.of(SegmentId(1)).is_empty());
    }

    #[test]
    fn a_segment_with_too_many_places_is_listed_as_a_whole() {
        let mut meta = crate::segment::meta::tests::example();
        (meta.id, meta.first_ns, meta.last_ns) = (SegmentId(3), -5, 100_000);
        let of = |segment, count: usize| {
            (0..u32::try_from(count).unwrap()).map(move |tag| place(segment, tag, tag, 0))
        };
        let metas = |id| (id == SegmentId(3)).then_some(&meta);
        let places = of(3, PLACES_MAX).chain(of(2, 1)).collect();
        assert_eq!(Quarantine::bounded(places, metas).places().len(), PLACES_MAX + 1);
        let places = of(3, PLACES_MAX + 1).chain(of(2, 1)).collect();
        let quarantine = Quarantine::bounded(places, metas);
        assert_eq!(quarantine.places().len(), 2);
        let whole = &quarantine.of(SegmentId(3))[0];
        assert!(whole.is_whole() && (whole.first_ns, whole.last_ns) == (-5, 100_000), "{whole}");
        assert!(whole.why.contains("257"), "{whole}");
    }

    #[test]
    fn only_segments_and_tags_of_a_place_are_touched() {
        let quarantine = Quarantine::new(vec![place(2, 5, 9, 0), place(4, 0, u32::MAX, 0)]);
        let touches = |segment, first, last| {
            quarantine.touches(SegmentId(segment), TagId(first), TagId(last))
        };
        assert!(touches(2, 9, 20) && touches(2, 0, 5) && touches(2, 6, 7));
        assert!(!touches(2, 0, 4) && !touches(2, 10, 20) && !touches(3, 5, 9));
        assert!(touches(4, 77, 77));
    }
}
