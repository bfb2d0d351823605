//! [`Outlived`]: the rollups that are left where samples have ended, tag by tag.
//!
//! # Contract
//! * What a tag has there lies in tier segments: of each tier that is left all of it, in runs that are disjoint in time.
//! * Samples that have ended stay in raw segments until their day is rolled up: [`Outlived::parts`] tells these days. One
//!   of which no tier can tell any more counts as rolled up, where damage is left out.
//! * Blocks are kept decoded between tags that share them, up to [`KEPT_MAX`] rollups.
//!
//! # What it does not know
//! Which rollups may answer, and horizons: [`super::rollups`] and [`super::neighbours`] look there.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::merge::{Cursors, TagReader};
use super::snapshot::{Snapshot, View};
use super::{OnDamage, ScanRequest, TagSelection};
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::segment::damage::{Damage, damage_in};
use crate::segment::tiers::{self, TierRows};
use crate::segment::{Segment, SegmentCursor};
use crate::tag::{Tag, TagId, ValueType};
use crate::tier::Tier;
use crate::tier::rollup::Rollup;
use crate::time::{DAY_NS, Rfc3339, TimeRange};

/// Rollups kept decoded: some 50 MB.
const KEPT_MAX: usize = 1 << 17;

/// Time of which rollups are looked for at once.
pub(super) const LEFT_STEP_NS: i64 = 32 * DAY_NS;

/// Rows of a tag in one block, or why they cannot be read, and the place if that is damaged.
pub(crate) type Found = Result<(Arc<TierRows>, Range<usize>), Unread>;

/// A block that cannot be read.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) damage: Option<Box<Damage>>,
    pub(crate) error: Error,
}

/// Which rollups of a tag are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) tag: TagId,
    pub(crate) value_type: ValueType,
    pub(crate) tier: Tier,
    /// Whether what interval functions need is wanted too.
    pub(crate) usable: bool,
    pub(crate) range: TimeRange,
}

/// Part of a tag's time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Samples are there, with rollups beside them.
    Samples(TimeRange),
    /// Rollups alone are left.
    Left(TimeRange),
}

/// Reads tier segments of one View.
#[derive(Debug)]
pub(crate) struct Outlived {
    /// For each tier segment the greatest last time of those of its tier up to it: a bound for searching.
    lasts: Vec<i64>,
    /// Before and after it there are no tier segments.
    hull: TimeRange,
    cursors: HashMap<usize, SegmentCursor>,
    kept: usize,
}

impl Outlived {
    /// Reads nothing yet.
    pub(crate) fn new(view: &View) -> Self {
        let mut lasts: Vec<i64> = Vec::with_capacity(view.version.tier_segments().len());
        let mut tier = 0;
        for segment in view.version.tier_segments() {
            let meta = segment.meta();
            let before = lasts.last().copied().filter(|_| meta.tier == tier);
            lasts.push(meta.last_ns.max(before.unwrap_or(i64::MIN)));
            tier = meta.tier;
        }
        let metas = || view.version.tier_segments().iter().map(|segment| segment.meta());
        let first_ns = metas().map(|meta| meta.first_ns).min().unwrap_or(0);
        let last_ns = metas().map(|meta| meta.last_ns).max();
        let hull = TimeRange::new(first_ns, last_ns.map_or(0, |last_ns| last_ns.saturating_add(1)));
        Self { lasts, hull, cursors: HashMap::new(), kept: 0 }
    }

    /// Rows that overlap a range, block by block, ascending by time.
    pub(crate) fn find(&mut self, view: &View, wanted: &Wanted) -> Vec<Found> {
        let Wanted { tag, value_type, tier, usable, range } = *wanted;
        let segments = view.version.tier_segments();
        let of_tier = view.version.tier_segments_of(tier);
        let lasts = &self.lasts[of_tier.clone()];
        let from = of_tier.start + lasts.partition_point(|last_ns| *last_ns < range.start_ns);
        let mut found = Vec::new();
        for (number, segment) in segments.iter().enumerate().take(of_tier.end).skip(from) {
            let meta = segment.meta();
            if meta.first_ns >= range.end_ns {
                break;
            }
            if !range.overlaps_span(meta.first_ns, meta.last_ns) {
                continue;
            }
            let mut hidden = view.tombstones.hiding(tag, meta.max_seq);
            if planted::is(Bug::LeftIgnoresDeletes) {
                hidden.clear();
            }
            let directory = match segment.directory() {
                Ok(directory) => directory,
                Err(error) => {
                    let damage = damage_in(&error).map(|why| Box::new(Damage::whole(meta, why)));
                    found.push((meta.first_ns, Err(Unread { damage, error })));
                    continue;
                }
            };
            for position in tiers::find(directory.tiers(), tier, value_type, tag) {
                let head = directory.tiers()[position].head;
                if !range.overlaps_span(head.first_ns, head.last_ns) {
                    continue;
                }
                let rows = self.rows(number, segment, position, usable).map_err(|error| {
                    let why = damage_in(&error);
                    let damage = why.map(|why| Box::new(Damage::block(meta.id, &head, why)));
                    Unread { damage, error }
                });
                match rows {
                    Ok(rows) => {
                        let run = rows.run(tag);
                        let of_tag = &rows.rows()[run.clone()];
                        let before = of_tag.partition_point(|row| row.last_ns < range.start_ns);
                        let through = of_tag.partition_point(|row| row.first_ns < range.end_ns);
                        for part in shown(of_tag, before..through.max(before), &hidden) {
                            let first_ns = of_tag[part.start].first_ns;
                            let part = run.start + part.start..run.start + part.end;
                            found.push((first_ns, Ok((Arc::clone(&rows), part))));
                        }
                    }
                    Err(unread) => found.push((head.first_ns, Err(unread))),
                }
            }
        }
        found.sort_by_key(|(first_ns, _)| *first_ns);
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// What a tag has in a range, in the order of time.
    pub(super) fn parts(
        &mut self,
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        (tag, value_type): (TagId, ValueType),
        range: TimeRange,
        damage: OnDamage,
    ) -> Result<VecDeque<Part>> {
        let view = &snapshot.view;
        let ends = view.ends_of(tag);
        let beyond = range.intersect(&ends.beyond_raw());
        let samples = TimeRange::new(range.start_ns.max(ends.raw_ns), range.end_ns);
        let samples = Some(Part::Samples(samples)).filter(|_| !samples.is_empty());
        if beyond.is_empty() {
            return Ok(samples.into_iter().collect());
        }
        // Days that are not rolled up yet.
        let reader = TagReader::open_in(snapshot, cursors, (tag, value_type), beyond, false)?;
        let day_of = |time_ns: i64| time_ns.div_euclid(DAY_NS);
        let days = reader.spans().flat_map(|(first, last)| day_of(first)..=day_of(last));
        let days: BTreeSet<i64> = days.collect();
        let (mut parts, mut next_ns) = (VecDeque::new(), beyond.start_ns);
        let hull = self.hull;
        let left = |start_ns, end_ns| {
            let range = TimeRange::new(start_ns, end_ns).intersect(&hull);
            Some(Part::Left(range)).filter(|_| !range.is_empty())
        };
        for day in days {
            let start_ns = day.saturating_mul(DAY_NS);
            let day = TimeRange::new(start_ns, start_ns.saturating_add(DAY_NS));
            let inside = day.intersect(&beyond);
            if inside.is_empty() {
                continue;
            }
            let is_rolled_up = match self.look(view, tag, day) {
                Ok(is_any) => is_any,
                Err(unread) => cursors.miss(snapshot, tag, unread, damage).map(|()| true)?,
            };
            if is_rolled_up {
                continue; // what came after a day was rolled up came too late
            }
            parts.extend(left(next_ns, inside.start_ns));
            parts.push_back(Part::Samples(inside));
            next_ns = inside.end_ns;
        }
        parts.extend(left(next_ns, beyond.end_ns));
        parts.extend(samples);
        Ok(parts)
    }

    fn rows(
        &mut self,
        number: usize,
        segment: &Arc<Segment>,
        position: usize,
        usable: bool,
    ) -> Result<Arc<TierRows>> {
        if self.kept > KEPT_MAX {
            self.cursors.clear();
            self.kept = 0;
        }
        let cursor = self.cursors.entry(number).or_insert_with(|| segment.cursor());
        let before = cursor.kept_rollups();
        let rows = cursor.tier_rows(position, usable);
        self.kept = (self.kept + cursor.kept_rollups()).saturating_sub(before);
        rows
    }

    /// Whether anything is left of a tag's samples in a range that have ended.
    ///
    /// # Errors
    /// If no tier can tell.
    pub(crate) fn has_any(&mut self, view: &View, tag: TagId, range: TimeRange) -> Result<bool> {
        self.look(view, tag, range).map_err(|unread| unread.error)
    }

    /// The coarsest tier tells, for it ends last. Where it cannot be read, what a finer one has stands for it; a finer one
    /// that has nothing says nothing, since it may have ended.
    fn look(&mut self, view: &View, tag: TagId, range: TimeRange) -> Result<bool, Unread> {
        let Some(known) = view.registry.get(tag) else { return Ok(false) };
        let value_type = known.value_type;
        let mut unread = None;
        for tier in Tier::ALL.into_iter().rev() {
            let wanted = Wanted { tag, value_type, tier, usable: false, range };
            for found in self.find(view, &wanted) {
                match found {
                    Ok(_) => return Ok(true),
                    Err(why) => unread = unread.or(Some(why)),
                }
            }
            if unread.is_none() {
                return Ok(false);
            }
        }
        unread.map_or(Ok(false), Err)
    }
}

/// Whether a tag has samples in a range, ended or not.
fn has_rows(
    snapshot: &Snapshot,
    cursors: &mut Cursors,
    of: (TagId, ValueType),
    range: TimeRange,
) -> Result<bool> {
    let mut request = ScanRequest::new(TagSelection::All, range);
    (request.values, request.qualities) = (false, false);
    let mut reader = TagReader::open_in(snapshot, cursors, of, range, false)?;
    while let Some(rows) = reader.next(snapshot, cursors, &request)? {
        if rows.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Snapshot {
    /// When the oldest of what is left begins, if rollups of any tag outlive its samples; nothing of any tag is older.
    pub fn left_from(&self) -> Option<i64> {
        let (view, horizons) = (&self.view, &self.view.horizons);
        if !horizons.is_outlived() {
            return None;
        }
        let firsts = view.version.all().map(|segment| segment.meta().first_ns);
        let first_ns = firsts.chain(view.head.first_ns()).min()?;
        Some(first_ns.max(horizons.least_of_all_ns()))
    }

    /// The part of a range of which windows of a tag can be answered for, if a bound has to move inward for it: to whole
    /// windows of the finest tier that is left where samples have ended.
    pub fn cut(&self, tag: TagId, range: TimeRange) -> Option<TimeRange> {
        let ends = self.view.ends_of(tag);
        let (whole, left) =
            (range.intersect(&TimeRange::new(ends.all_ns(), i64::MAX)), ends.clip(range));
        Some(left).filter(|left| !whole.is_empty() && *left != whole)
    }

    /// Refuses to read samples one by one where they have ended and rollups of them are left: an answer that is silent about
    /// these would be a wrong one.
    ///
    /// # Errors
    /// [`Error::Ended`], with the time from which on samples can be read; as a [`super::Scan`].
    pub fn require_samples(&self, tags: &TagSelection, range: TimeRange) -> Result<()> {
        let view = &self.view;
        if range.start_ns >= view.horizons.greatest_ns() || !view.horizons.is_outlived() {
            return Ok(());
        }
        let (mut outlived, mut cursors) = (Outlived::new(view), Cursors::new(self));
        let mut check = |tag: &Tag| {
            let ends = view.ends_of(tag.id);
            let beyond = range.intersect(&ends.beyond_raw());
            if beyond.is_empty() {
                return Ok(());
            }
            let of = (tag.id, tag.value_type);
            // A day that may be rolled up is refused as one that is.
            for part in outlived.parts(self, &mut cursors, of, beyond, OnDamage::Skip)? {
                let (has_any, at_ns) = match part {
                    Part::Samples(day) => (has_rows(self, &mut cursors, of, day)?, day.start_ns),
                    Part::Left(left) => (outlived.has_any(view, tag.id, left)?, left.start_ns),
                };
                if !has_any {
                    continue;
                }
                let before_ns = ends.raw_ns;
                let from = Rfc3339(before_ns);
                let why = format!(
                    "they hold windows, not single samples; ask for windows, or from {from} on"
                );
                let tier = ends.finest_at(at_ns).unwrap_or(Tier::Day);
                return Err(Error::Ended {
                    tag: tag.name.to_string(),
                    before_ns,
                    at_ns,
                    tier,
                    why,
                });
            }
            Ok(())
        };
        match tags {
            TagSelection::All => view.registry.iter().try_for_each(|tag| check(tag)),
            TagSelection::Only(tags) => {
                let mut known = tags.iter().filter_map(|tag| view.registry.get(*tag));
                known.try_for_each(|tag| check(tag))
            }
        }
    }
}

/// The parts of some rows that no delete touches. Deletes there are of whole days.
fn shown(rows: &[Rollup], all: Range<usize>, hidden: &[TimeRange]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for at in all {
        let row = &rows[at];
        if hidden.iter().any(|range| range.overlaps_span(row.first_ns, row.last_ns)) {
            continue;
        }
        match parts.last_mut().filter(|part| part.end == at) {
            Some(part) => part.end += 1,
            None => parts.push(at..at + 1),
        }
    }
    parts
}

/// The rows that were found.
pub(crate) fn rows_of((block, run): &(Arc<TierRows>, Range<usize>)) -> &[Rollup] {
    &block.rows()[run.clone()]
}
