//! Reading samples: one consistent view, tag by tag, in time order, each key once.
//!
//! # Contract
//! * A [`Scan`] sees exactly what its [`Snapshot`] pinned, whatever is written, sealed or deleted meanwhile.
//! * Tags ascend; within a tag times ascend (or descend, if asked). Of rows with one key the newest write is shown.
//! * Chunks outside the asked range are not read; memory is bounded by the rows of one tag that overlap in time.
//!
//! # Reading order
//! [`snapshot`] (the View), [`merge`] (the pieces of one tag), [`unite`] (their rows), [`rollups`] (aggregates of windows),
//! [`routing`] (what answers for them) and [`outlived`] (rollups of samples that have ended), [`newest`] (samples).

pub(crate) mod merge;
pub(crate) mod neighbours;
pub(crate) mod newest;
pub(crate) mod outlived;
pub(crate) mod rollups;
mod routing;
pub(crate) mod snapshot;
pub(crate) mod unite;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chunk::series::SeriesBuf;
use crate::error::Result;
use crate::limits::CHUNK_SAMPLES_MAX;
use crate::quality::Quality;
use crate::sample::{Qualities, Values};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;
use merge::TagReader;
use snapshot::DamagedPlace;
pub use snapshot::Snapshot;

/// Which tags a scan reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagSelection {
    /// Every live tag.
    All,
    /// These, ascending and distinct. Unknown and deleted ones have no rows.
    Only(Arc<[TagId]>),
}

/// What a scan does when it meets a place that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// It fails, naming file, tag and times.
    #[default]
    Fail,
    /// It leaves the place out, together with whatever older samples have its tag and times: they must not pass for
    /// current. [`Scan::skipped`] lists the places.
    Skip,
}

/// What a scan shall read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// Of which tags.
    pub tags: TagSelection,
    /// Of which source times.
    pub range: TimeRange,
    /// Newest first within each tag.
    pub descending: bool,
    /// At most this many rows in all.
    pub limit: Option<u64>,
    /// Whether values are wanted; if not, [`ScanBatch::values`] is empty.
    pub values: bool,
    /// Whether qualities are wanted; if not, they read as Good.
    pub qualities: bool,
    /// What to do about places that cannot be read.
    pub damage: OnDamage,
}

impl ScanRequest {
    /// Everything of these tags in this range.
    pub const fn new(tags: TagSelection, range: TimeRange) -> Self {
        let (descending, limit, values, qualities) = (false, None, true, true);
        Self { tags, range, descending, limit, values, qualities, damage: OnDamage::Fail }
    }
}

/// Consecutive samples of one tag: 1 to [`CHUNK_SAMPLES_MAX`] rows.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanBatch {
    /// Whose samples.
    pub tag: TagId,
    /// Source times, strictly ascending or descending.
    pub times: Vec<i64>,
    /// A value for each time, if asked for.
    pub values: Values,
    /// A quality for each time.
    pub qualities: Qualities,
}

/// Iterates over the batches of a scan. After an error it ends.
///
/// # Errors
/// [`crate::Error::Corrupt`] names the damaged chunk's file, tag and time range; [`crate::Error::Io`] the file.
#[derive(Debug)]
pub struct Scan {
    snapshot: Snapshot,
    request: ScanRequest,
    next_tag: usize,
    reader: Option<TagReader>,
    /// Cursors of the segments, in the version's order: they keep the packed chunk decoded last.
    cursors: merge::Cursors,
    ready: VecDeque<ScanBatch>,
    left: u64,
    is_over: bool,
}

impl Scan {
    pub(crate) fn new(snapshot: Snapshot, request: ScanRequest) -> Self {
        if let TagSelection::Only(tags) = &request.tags {
            assert!(tags.is_sorted_by(|a, b| a < b), "tags of a scan must ascend");
        }
        let cursors = merge::Cursors::new(&snapshot);
        let left = request.limit.unwrap_or(u64::MAX);
        let is_over = request.range.is_empty() || left == 0;
        let (reader, ready) = (None, VecDeque::new());
        Self { snapshot, request, next_tag: 0, reader, cursors, ready, left, is_over }
    }

    /// Whether anything was left out so far.
    pub fn has_skipped(&self) -> bool {
        !self.cursors.skipped.is_empty()
    }

    /// Places that were left out so far, each once; what is missing are their tags and times within the request.
    pub fn skipped(&self) -> Vec<DamagedPlace> {
        self.cursors.skipped.iter().map(|damage| self.snapshot.view.place(damage)).collect()
    }

    /// The next tag that is asked for and lives.
    fn next_tag(&mut self) -> Option<(TagId, ValueType)> {
        loop {
            let tag = match &self.request.tags {
                TagSelection::Only(tags) => *tags.get(self.next_tag)?,
                TagSelection::All => {
                    let is_known = self.next_tag < self.snapshot.registry().len();
                    TagId(u32::try_from(self.next_tag).ok().filter(|_| is_known)?)
                }
            };
            self.next_tag += 1;
            let known = self.snapshot.registry().get(tag).filter(|known| !known.is_deleted());
            if let Some(known) = known {
                return Some((tag, known.value_type));
            }
        }
    }

    fn advance_tag(&mut self) -> Result<bool> {
        while let Some((tag, value_type)) = self.next_tag() {
            let reader =
                TagReader::open(&self.snapshot, &mut self.cursors, tag, value_type, &self.request)?;
            if reader.has_rows() {
                self.reader = Some(reader);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fill(&mut self) -> Result<()> {
        while self.ready.is_empty() {
            if self.reader.is_none() && !self.advance_tag()? {
                return Ok(());
            }
            let Some(reader) = &mut self.reader else { return Ok(()) };
            match reader.next(&self.snapshot, &mut self.cursors, &self.request)? {
                Some(series) => split(series, &self.request, &mut self.ready),
                None => self.reader = None,
            }
        }
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<ScanBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        if let Err(error) = self.fill() {
            self.is_over = true;
            return Some(Err(error));
        }
        let mut batch = self.ready.pop_front()?;
        let rows = batch.times.len() as u64;
        if rows >= self.left {
            truncate(&mut batch, usize::try_from(self.left).unwrap_or(usize::MAX));
            self.is_over = true;
        }
        self.left = self.left.saturating_sub(rows);
        Some(Ok(batch))
    }
}

/// Cuts merged rows into batches, in the asked order.
fn split(series: SeriesBuf, request: &ScanRequest, ready: &mut VecDeque<ScanBatch>) {
    let SeriesBuf { tag, value_type, mut times, mut words, mut texts, mut qualities } = series;
    if request.descending {
        times.reverse();
        words.reverse();
        texts.reverse();
        qualities.reverse();
    }
    let qualities_of = |qualities: Vec<u32>| match qualities.first() {
        None => Qualities::GOOD,
        Some(first) if qualities.iter().all(|q| q == first) => Qualities::Uniform(Quality(*first)),
        Some(_) => Qualities::Each(qualities.into_iter().map(Quality).collect()),
    };
    while times.len() > CHUNK_SAMPLES_MAX {
        let rest_of = |len: usize| CHUNK_SAMPLES_MAX.min(len);
        let rest_times = times.split_off(CHUNK_SAMPLES_MAX);
        let rest_words = words.split_off(rest_of(words.len()));
        let rest_texts = texts.split_off(rest_of(texts.len()));
        let rest_qualities = qualities.split_off(rest_of(qualities.len()));
        let values = Values::from_parts(value_type, words, texts);
        ready.push_back(ScanBatch { tag, times, values, qualities: qualities_of(qualities) });
        (times, words, texts, qualities) = (rest_times, rest_words, rest_texts, rest_qualities);
    }
    if !times.is_empty() {
        let values = Values::from_parts(value_type, words, texts);
        ready.push_back(ScanBatch { tag, times, values, qualities: qualities_of(qualities) });
    }
}

fn truncate(batch: &mut ScanBatch, rows: usize) {
    batch.times.truncate(rows);
    match &mut batch.values {
        Values::F64(v) => v.truncate(rows),
        Values::F32(v) => v.truncate(rows),
        Values::I64(v) => v.truncate(rows),
        Values::Bool(v) => v.truncate(rows),
        Values::State(v) => v.truncate(rows),
        Values::Text(v) => v.truncate(rows),
    }
    if let Qualities::Each(each) = &mut batch.qualities {
        each.truncate(rows);
    }
}
