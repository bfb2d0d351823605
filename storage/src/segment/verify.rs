//! Reads every byte of a segment again and says what is wrong with it.
//!
//! Beyond checksums it decodes each chunk, computes its statistics anew and compares, and so with the rollups: a fault of
//! an encoder is found here, not by a query.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::chunk::{ChunkEntry, Series, SeriesBuf, Statistics, reader};
use crate::error::{Error, Result};
use crate::segment::damage::{Damage, damage_in};
use crate::segment::tiers::{self, TierEntry, TierRows};
use crate::segment::{ChunkIndex, Directory, Segment, SegmentCursor};
use crate::tag::{TagId, ValueType};
use crate::tier::build::BlockHead;
use crate::tier::fold::Fold;
use crate::tier::rollup::Rollup;
use crate::tier::rows::Rows;
use crate::tier::{Tier, stored};
use crate::time::TimeRange;

/// How many bytes of a chunk were read; false ends the reading.
pub(crate) type Pace<'a> = dyn FnMut(u64) -> bool + 'a;

/// First and last time of the shared regions that verified, by their place and number of rows.
type Shared = HashMap<(u64, u32), (i64, i64)>;

impl Segment {
    /// Verifies every byte and reports each thing that is wrong: each bad chunk with its tags and times. Without a
    /// valid header, footer and directory it cannot go on. With each error comes the place that is damaged, if one is.
    pub(crate) fn verify_places(
        &self,
        report: &mut dyn FnMut(Error, Option<Damage>),
        pace: &mut Pace<'_>,
    ) {
        // Anew, and not through a file opened long ago: what counts is what the name leads to now.
        let fresh = self.reopened();
        let directory = match fresh.directory() {
            Ok(directory) => directory,
            Err(error) => {
                let damage = damage_in(&error).map(|why| Damage::whole(self.meta(), why));
                return report(error, damage);
            }
        };
        let mut bad_chunks = 0;
        let mut shared = Shared::new();
        for index in directory.indices() {
            let entry = directory.entry(index);
            if let Err(error) = fresh.verify_chunk(&directory, index, &mut shared) {
                bad_chunks += 1;
                let why = damage_in(&error);
                let damage = why.map(|why| Damage::chunk(self.meta().id, &entry, why));
                report(error, damage);
            }
            if !pace(u64::from(entry.times.bytes) + u64::from(entry.body.bytes)) {
                return;
            }
        }
        // Where samples have ended there is nothing to compare rollups with.
        let has_samples = self.meta().is_raw();
        if has_samples
            && bad_chunks == 0
            && let Err(error) = fresh.verify_tags()
        {
            report(error, None);
        }
        Arc::new(fresh).verify_tiers(&directory, has_samples && bad_chunks == 0, report, pace);
    }

    /// Verifies again, through one file opened anew, places that were found damaged: of the segment as a whole, all of it.
    ///
    /// Gives for each the damage, if it is still there; [`Error::Io`] if that cannot be found out now.
    pub(crate) fn verify_again(&self, places: &[Arc<Damage>]) -> Vec<Result<()>> {
        let fresh = self.reopened();
        let directory = match fresh.directory() {
            Ok(directory) => directory,
            Err(error) => return places.iter().map(|_| Err(error.clone())).collect(),
        };
        if !self.meta().is_raw() {
            let mut buffer = Vec::new();
            let mut verify =
                |entry: &TierEntry| fresh.read_tier(entry, true, &mut buffer).map(drop);
            let again = |damage: &Arc<Damage>| {
                let mut places = directory.tiers().iter();
                places.try_for_each(|entry| {
                    if damage.covers_block(&entry.head) { verify(entry) } else { Ok(()) }
                })
            };
            return places.iter().map(again).collect();
        }
        let mut shared = Shared::new();
        let mut verify = |index| fresh.verify_chunk(&directory, index, &mut shared);
        let again = |damage: &Arc<Damage>| {
            if damage.is_whole() {
                return directory.indices().try_for_each(&mut verify);
            }
            let near = directory.find(damage.first_tag, damage.range());
            near.filter(|index| damage.covers(&directory.entry(*index))).try_for_each(&mut verify)
        };
        places.iter().map(again).collect()
    }

    /// A region that chunks share is read and decoded for the first of them.
    fn verify_chunk(
        &self,
        directory: &Directory,
        index: ChunkIndex,
        shared: &mut Shared,
    ) -> Result<()> {
        let entry = directory.entry(index);
        let mut buffer = Vec::new();
        let mut rows = SeriesBuf::new(entry.first_tag, entry.value_type);
        if entry.packed {
            let mut packed = self.read_packed(&entry, &mut buffer)?;
            let bytes = self.read(&entry, entry.body, &mut buffer)?;
            packed
                .decode_body(&entry, bytes)
                .map_err(|why| self.malformed(&entry, entry.body, why))?;
            packed.copy(0..entry.len(), (true, true), &mut rows);
        } else {
            let key = (entry.times.offset, entry.rows);
            if shared.get(&key) != Some(&(entry.first_ns, entry.last_ns)) {
                let bytes = self.read(&entry, entry.times, &mut buffer)?;
                reader::decode_times(&entry, bytes, TimeRange::ALL, &mut rows.times)
                    .map_err(|why| self.malformed(&entry, entry.times, why))?;
                if directory.shares_times(index) {
                    shared.insert(key, (entry.first_ns, entry.last_ns));
                }
            }
            let decoded = 0..entry.len();
            let bytes = self.read(&entry, entry.body, &mut buffer)?;
            reader::decode_body(&entry, bytes, decoded, (true, true), &mut rows)
                .map_err(|why| self.malformed(&entry, entry.body, why))?;
        }
        self.verify_rows(&entry, &rows)
    }

    fn verify_rows(&self, entry: &ChunkEntry, rows: &SeriesBuf) -> Result<()> {
        let wrong = |why: &str| Err(self.corrupt(entry.to_string(), entry.times.offset, why));
        // Without times if they are shared and were looked at before.
        let times = if rows.times.is_empty() { entry.len() } else { rows.len() };
        if times != entry.len() || rows.qualities.len() != entry.len() {
            return wrong("it decodes to another number of rows than the directory says");
        }
        if Statistics::of(entry.value_type, &rows.words, &rows.qualities) != entry.statistics {
            return wrong("its statistics differ from those the directory says");
        }
        Ok(())
    }

    /// Every rollup says what the samples say: where these can be read, they are rolled up again, tag by tag.
    fn verify_tiers(
        self: &Arc<Self>,
        directory: &Directory,
        compare: bool,
        report: &mut dyn FnMut(Error, Option<Damage>),
        pace: &mut Pace<'_>,
    ) {
        let mut cursor = self.cursor();
        // Runs that were compared, by block; `None` of those that cannot be read.
        let mut compared: Vec<Option<u32>> = vec![Some(0); directory.tiers().len()];
        for (position, entry) in directory.tiers().iter().enumerate() {
            if let Err(error) = cursor.tier_rows(position, true) {
                compared[position] = None;
                // Beside samples it is missed by nobody.
                let why = damage_in(&error).filter(|_| !self.meta().is_raw());
                let damage = why.map(|why| Damage::block(self.meta().id, &entry.head, why));
                report(error, damage);
            }
            if !pace(u64::from(entry.extent.bytes)) {
                return;
            }
        }
        let mut next = directory.next_tag(TagId(0)).filter(|_| compare);
        while let Some(tag) = next {
            for value_type in ValueType::ALL {
                let checked =
                    self.verify_rollups(directory, tag, value_type, &mut compared, &mut cursor);
                if let Err(error) = checked {
                    report(error, None);
                }
            }
            next = tag.0.checked_add(1).and_then(|tag| directory.next_tag(TagId(tag)));
        }
        for (entry, runs) in directory.tiers().iter().zip(compared) {
            if compare && runs.is_some_and(|runs| runs != entry.head.runs) {
                let why = "it has rollups of tags without samples";
                report(self.corrupt(entry.to_string(), entry.extent.offset, why), None);
            }
        }
    }

    /// Compares all rollups of a tag with its samples.
    fn verify_rollups(
        &self,
        directory: &Directory,
        tag: TagId,
        value_type: ValueType,
        compared: &mut [Option<u32>],
        cursor: &mut SegmentCursor,
    ) -> Result<()> {
        let mut checks = Vec::new();
        for tier in Tier::ALL {
            for position in tiers::find(directory.tiers(), tier, value_type, tag) {
                let Some(runs) = &mut compared[position] else { continue };
                let block = cursor.tier_rows(position, true)?;
                let run = block.run(tag);
                if !run.is_empty() {
                    *runs += 1;
                    checks.push(Check::new(&directory.tiers()[position], block, run));
                }
            }
        }
        let first_ns = checks.iter().map(|check| check.range.start_ns).min();
        let end_ns = checks.iter().map(|check| check.range.end_ns).max();
        let Some((first_ns, end_ns)) = first_ns.zip(end_ns) else { return Ok(()) };
        let range = TimeRange::new(first_ns, end_ns);
        for chunk in directory.find(tag, range) {
            if directory.entry(chunk).value_type == value_type {
                let mut samples = SeriesBuf::new(tag, value_type);
                cursor.read(chunk, tag, range, true, true, &mut samples)?;
                for check in &mut checks {
                    check.add(samples.as_series());
                }
            }
        }
        for check in checks {
            if let Err(entry) = check.finish() {
                let why = format!("the rollups of tag {tag} do not say what its samples say");
                return Err(self.corrupt(entry.to_string(), entry.extent.offset, why));
            }
        }
        Ok(())
    }

    /// No tag in two places, and as many tags as the manifest says.
    fn verify_tags(&self) -> Result<()> {
        let (mut tags, mut last, mut repeated) = (0_u64, None, None);
        self.for_each_tag(&mut |tag, _, _, _| {
            if last.is_some_and(|last| tag <= last) {
                repeated = Some(tag);
            }
            last = Some(tag);
            tags += 1;
        })?;
        let offset = self.meta().directory_offset;
        if let Some(tag) = repeated {
            let why = format!("tag {tag} has chunks in two places");
            return Err(self.corrupt("segment directory", offset, why));
        }
        if tags != u64::from(self.meta().tags) {
            let why = format!("{tags} tags, the manifest says {}", self.meta().tags);
            return Err(self.corrupt("segment directory", offset, why));
        }
        Ok(())
    }
}

/// A run of rollups, and the samples rolled up again.
struct Check<'a> {
    entry: &'a TierEntry,
    block: Arc<TierRows>,
    run: Range<usize>,
    range: TimeRange,
    fold: Fold,
    found: Vec<Rollup>,
}

impl<'a> Check<'a> {
    fn new(entry: &'a TierEntry, block: Arc<TierRows>, run: Range<usize>) -> Self {
        let rows = &block.rows()[run.clone()];
        let first_ns = rows.first().map_or(0, |row| row.first_ns);
        let end_ns = rows.last().map_or(0, |row| row.last_ns.saturating_add(1));
        let range = TimeRange::new(first_ns, end_ns);
        let fold = Fold::to_store(entry.head.tier, entry.head.value_type);
        Self { entry, block, run, range, fold, found: Vec::new() }
    }

    fn add(&mut self, samples: Series<'_>) {
        let from = samples.times.partition_point(|time| *time < self.range.start_ns);
        let to = samples.times.partition_point(|time| *time < self.range.end_ns);
        self.fold.add(&Rows::of(samples.slice(from..to.max(from))));
        self.found.append(&mut self.fold.take_done());
    }

    fn finish(mut self) -> std::result::Result<(), &'a TierEntry> {
        self.found.append(&mut self.fold.finish());
        let BlockHead { tier, value_type, .. } = self.entry.head;
        let rows = &self.block.rows()[self.run];
        let mut pairs = self.found.iter().zip(rows);
        let agree = self.found.len() == rows.len()
            && pairs.all(|(a, b)| stored::agree(a, b, tier, value_type));
        if agree { Ok(()) } else { Err(self.entry) }
    }
}
