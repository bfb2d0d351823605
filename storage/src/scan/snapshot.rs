//! The View: everything a reader may see at one instant, swapped as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::head::Head;
use crate::head::latest::LatestTable;
use crate::head::tombstone::Tombstones;
use crate::ids::{SegmentId, Seq};
use crate::manifest::version::Version;
use crate::quality::Quality;
use crate::registry::Registry;
use crate::registry::gateways::Gateways;
use crate::registry::scope::TagScope;
use crate::retention::{Ends, Horizons, RetentionStatus};
use crate::sample::Value;
use crate::scan::{Scan, ScanRequest, TagSelection};
use crate::segment::damage::{Damage, DamageReports, Quarantine};
use crate::segment::meta::{SegmentKind, SegmentMeta, SegmentStage};
use crate::segment::tiers::TierEntry;
use crate::tag::{TagId, ValueType};
use crate::tier::Tier;
use crate::time::TimeRange;

/// What is durable and visible. Immutable; the committer and maintenance replace it under one mutex.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) head: Head,
    pub(crate) version: Version,
    pub(crate) tombstones: Tombstones,
    pub(crate) registry: Registry,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) latest: LatestTable,
    pub(crate) horizons: Arc<Horizons>,
    /// Backfills that are done, ascending by id.
    pub(crate) imports: Arc<Vec<(Arc<str>, Seq)>>,
    /// Tags whose latest sample could not be read when a delete hid the one before; tried again behind the scenes.
    pub(crate) stale: Arc<BTreeSet<TagId>>,
    /// Grows with each change of old samples: by a delete, another retention class, a backfill, a place given up.
    /// While it stays, a newest sample that was found is at most joined by newer ones.
    pub(crate) edition: u64,
    /// Places of the version's segments that cannot be read.
    pub(crate) quarantine: Quarantine,
    /// Where scans leave what they could not read. The same in every View of an engine.
    pub(crate) reports: Arc<DamageReports>,
    /// The newest durable record: nothing beyond it is in here.
    pub(crate) durable_seq: Seq,
}

impl View {
    /// Before which times a tag's samples and rollups have ended.
    pub(crate) fn ends_of(&self, tag: TagId) -> Ends {
        let known = self.registry.get(tag);
        known.map_or_else(Ends::default, |tag| self.horizons.of(&tag.attributes))
    }

    /// Samples of a tag before this time have ended: they are not shown, whether they still lie in a file or not.
    pub(crate) fn horizon_of(&self, tag: TagId) -> i64 {
        self.ends_of(tag).raw_ns
    }

    /// The part of `range` of which a tag's samples may be shown.
    pub(crate) fn clip(&self, tag: TagId, range: TimeRange) -> TimeRange {
        range.intersect(&TimeRange::new(self.horizon_of(tag), i64::MAX))
    }
}

/// One View, pinned: what it shows never changes. Cheap to make and to clone; holds files and memory while it lives.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) view: Arc<View>,
}

/// The current value of a tag: the sample of its greatest time.
#[derive(Clone, Debug, PartialEq)]
pub struct Latest {
    /// Source time.
    pub time_ns: i64,
    /// What was stored, whatever its quality.
    pub value: Value,
    /// Its quality.
    pub quality: Quality,
}

/// A live segment, as `system.segments` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its number.
    pub id: SegmentId,
    /// Base or late.
    pub kind: SegmentKind,
    /// How often its samples have been written again.
    pub stage: SegmentStage,
    /// UTC day of its first sample.
    pub partition: String,
    /// `raw`, or the tier's resolution.
    pub tier: &'static str,
    /// Earliest source time.
    pub first_ns: i64,
    /// Latest source time.
    pub last_ns: i64,
    /// Samples stored, or stood for.
    pub rows: u64,
    /// Length of its file.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Tags with samples or rollups in it.
    pub tags: u64,
    /// First record whose samples are in it.
    pub min_seq: Seq,
    /// Last record whose samples are in it.
    pub max_seq: Seq,
    /// File, relative to the database directory.
    pub file: String,
}

/// Rollups of one tier in one segment, as `system.tiers` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierSummary {
    /// The segment.
    pub segment: SegmentId,
    /// Which tier.
    pub tier: Tier,
    /// Blocks.
    pub blocks: u64,
    /// Runs: consecutive rollups of one tag.
    pub runs: u64,
    /// Rollups.
    pub rollups: u64,
    /// Bytes of the blocks in the file.
    pub bytes: u64,
    /// Time of the first sample that counts in one of them.
    pub first_ns: i64,
    /// Time of the last one.
    pub last_ns: i64,
}

/// A place in a segment that cannot be read: a chunk, or the whole file.
///
/// A scan that needs it fails, or leaves it out ([`crate::OnDamage`]). The rest of the database is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The segment.
    pub segment: SegmentId,
    /// Its file, relative to the database directory.
    pub file: String,
    /// Least tag concerned.
    pub first_tag: TagId,
    /// Greatest tag concerned, [`u32::MAX`] if only the lost file could say which.
    pub last_tag: TagId,
    /// Source times concerned.
    pub range: TimeRange,
    /// What was found.
    pub why: Arc<str>,
}

impl DamagedPlace {
    /// Whether the segment is lost as a whole.
    pub fn is_whole(&self) -> bool {
        self.first_tag == TagId(0) && self.last_tag == TagId(u32::MAX)
    }
}

/// What the head holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadSummary {
    /// Samples.
    pub rows: u64,
    /// Memory, about.
    pub bytes: u64,
    /// Sorted runs.
    pub runs: usize,
}

impl View {
    /// A damaged place as it is shown.
    pub(crate) fn place(&self, damage: &Damage) -> DamagedPlace {
        let file = self.version.find(damage.segment).map(|segment| segment.meta().path());
        DamagedPlace {
            segment: damage.segment,
            file: file.unwrap_or_default(),
            first_tag: damage.first_tag,
            last_tag: damage.last_tag,
            range: damage.range(),
            why: Arc::clone(&damage.why),
        }
    }
}

impl Snapshot {
    /// The newest durable record in it.
    pub fn seq(&self) -> Seq {
        self.view.durable_seq
    }

    /// The same instant for a reader who may know of the tags of a scope only: there are no others in it.
    #[must_use]
    pub fn within(&self, scope: &TagScope) -> Self {
        let registry = self.view.registry.within(scope);
        Self { view: Arc::new(View { registry, ..View::clone(&self.view) }) }
    }

    /// Tags and state sets.
    pub fn registry(&self) -> &Registry {
        &self.view.registry
    }

    /// The tag's current value: the sample of the greatest time, of equal times the newest. `None` without samples.
    pub fn latest(&self, tag: TagId) -> Option<Latest> {
        let known = self.registry().get(tag).filter(|tag| !tag.is_deleted())?;
        let horizon_ns = self.view.horizons.of(&known.attributes).raw_ns;
        let entry = self.view.latest.get(tag).filter(|entry| entry.time_ns >= horizon_ns)?;
        let value = match (&entry.text, known.value_type) {
            (Some(text), ValueType::Text) => Value::Text(Arc::clone(text)),
            (_, value_type) => Value::from_word(value_type, entry.word),
        };
        Some(Latest { time_ns: entry.time_ns, value, quality: Quality(entry.quality) })
    }

    /// Reads samples.
    ///
    /// # Panics
    /// If the request's tags do not ascend.
    pub fn scan(&self, request: ScanRequest) -> Scan {
        Scan::new(self.clone(), request)
    }

    /// The retention classes and how far their raw samples have ended, the default class first.
    pub fn retention(&self) -> Vec<RetentionStatus> {
        self.view.horizons.status()
    }

    /// Live segments: base, then late ones, each by their greatest seq: of equal keys the row of the later one counts. Then
    /// those in which nothing but rollups of one tier is left.
    pub fn segments(&self) -> Vec<SegmentSummary> {
        let metas = self.view.version.all().map(|segment| segment.meta());
        let summary = |meta: &SegmentMeta| SegmentSummary {
            id: meta.id,
            kind: meta.kind,
            stage: meta.stage,
            partition: crate::segment::name::day_of(meta.first_ns),
            tier: crate::segment::name::tier_name(meta.tier),
            first_ns: meta.first_ns,
            last_ns: meta.last_ns,
            rows: meta.rows,
            bytes: meta.file_bytes,
            chunks: u64::from(meta.chunks),
            tags: u64::from(meta.tags),
            min_seq: meta.min_seq,
            max_seq: meta.max_seq,
            file: meta.path(),
        };
        metas.map(summary).collect()
    }

    /// What is stored of each tier in each segment. Reads the directories; segments whose directory cannot be read are left
    /// out, [`Self::damage`] names them.
    pub fn tiers(&self) -> Vec<TierSummary> {
        let mut summaries = Vec::new();
        for segment in self.view.version.all() {
            let Ok(directory) = segment.directory() else { continue };
            for tier in Tier::ALL {
                let entries = || directory.tiers().iter().filter(|entry| entry.head.tier == tier);
                let sum = |of: fn(&TierEntry) -> u32| entries().map(|e| u64::from(of(e))).sum();
                let first_ns = entries().map(|entry| entry.head.first_ns).min();
                let last_ns = entries().map(|entry| entry.head.last_ns).max();
                let Some((first_ns, last_ns)) = first_ns.zip(last_ns) else { continue };
                summaries.push(TierSummary {
                    segment: segment.meta().id,
                    tier,
                    blocks: entries().count() as u64,
                    runs: sum(|entry| entry.head.runs),
                    rollups: sum(|entry| entry.head.rows),
                    bytes: sum(|entry| entry.extent.bytes),
                    first_ns,
                    last_ns,
                });
            }
        }
        summaries
    }

    /// Places that are known to be unreadable, oldest segment first.
    pub fn damage(&self) -> Vec<DamagedPlace> {
        self.view.quarantine.places().iter().map(|damage| self.view.place(damage)).collect()
    }

    /// Those of them that concern a selection of tags and times.
    ///
    /// A place may be named although it holds nothing of the tags: what a lost file held only the file could say.
    pub fn damage_in(&self, tags: &TagSelection, range: TimeRange) -> Vec<DamagedPlace> {
        let concerns = |place: &DamagedPlace| {
            let has_tag = match tags {
                TagSelection::All => true,
                TagSelection::Only(tags) => {
                    let from = tags.partition_point(|tag| *tag < place.first_tag);
                    tags.get(from).is_some_and(|tag| *tag <= place.last_tag)
                }
            };
            has_tag && !place.range.intersect(&range).is_empty()
        };
        self.damage().into_iter().filter(concerns).collect()
    }

    /// What the head holds.
    pub fn head(&self) -> HeadSummary {
        let head = &self.view.head;
        HeadSummary { rows: head.rows(), bytes: head.bytes, runs: head.runs.len() }
    }

    /// An upper bound of the rows a scan may give, from spans and directories, without decoding. A segment whose directory
    /// cannot be read counts whole.
    pub fn estimate_rows(&self, request: &ScanRequest) -> u64 {
        let range = request.range;
        let shown = range.intersect(&TimeRange::new(self.view.horizons.least_ns(), i64::MAX));
        let mut rows = 0;
        for segment in self.view.version.segments() {
            let meta = segment.meta();
            if !shown.overlaps_span(meta.first_ns, meta.last_ns) {
                continue;
            }
            rows += match (&request.tags, segment.directory()) {
                (TagSelection::Only(tags), Ok(directory)) => {
                    let of_tag = |tag: &TagId| -> u64 {
                        if !directory.spans(*tag) {
                            return 0;
                        }
                        let found = directory.find(*tag, self.view.clip(*tag, range));
                        found.map(|chunk| u64::from(directory.entry(chunk).rows)).sum()
                    };
                    tags.iter().map(of_tag).sum::<u64>().min(meta.rows)
                }
                _ => meta.rows,
            };
        }
        for run in &self.view.head.runs {
            rows += match &request.tags {
                TagSelection::All => run.times.len() as u64,
                TagSelection::Only(tags) => {
                    let spans = tags.iter().filter_map(|tag| run.span(*tag));
                    let in_range = |tag| self.view.clip(tag, range);
                    spans.map(|s| run.rows_in(s, in_range(s.tag)).len() as u64).sum()
                }
            };
        }
        request.limit.map_or(rows, |limit| rows.min(limit))
    }
}
