//! [`SegmentCursor`]: reads samples of one tag from one chunk.
//!
//! # Contract
//! * Reads only the regions it needs and decodes only the vectors that overlap the asked range.
//! * Keeps the packed chunk it decoded last of each value type, and the times decoded last of regions that chunks
//!   share, so that walking the tags in order decodes each once.
//! * Keeps the block of rollups it decoded last of each tier and value type.
//! * Nothing is appended to the caller's buffer when a call fails.
//!
//! # What it does not know
//! Which chunks to read: [`Directory::find`](crate::segment::Directory::find) says.

use std::ops::Range;
use std::sync::Arc;

use crate::chunk::reader::{self, PackedRows};
use crate::chunk::{ChunkEntry, SeriesBuf};
use crate::error::{Error, Result};
use crate::segment::damage::{Damage, damage_in};
use crate::segment::shared::{Decoded, DecodedKey, DecodedTimes};
use crate::segment::tiers::TierRows;
use crate::segment::writer::slot_of;
use crate::segment::{ChunkIndex, Segment};
use crate::tag::{TagId, ValueType};
use crate::tier::Tier;
use crate::time::TimeRange;

/// Grids remembered: those of a day of a dozen groups of tags.
const GRIDS_MAX: usize = 128;

/// Rows of a plain chunk in memory that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct PlainBuf {
    /// Filled for [`PlainTimes::Each`].
    pub times: Vec<i64>,
    /// Filled unless the values are text.
    pub words: Vec<u64>,
    /// Filled if the qualities differ.
    pub qualities: Vec<u32>,
}

/// What was read into a [`PlainBuf`], and what needed no place there.
#[derive(Debug)]
pub(crate) struct PlainRows {
    /// Rows read.
    pub count: usize,
    /// Their times.
    pub times: PlainTimes,
    /// Their quality, if it is one for all.
    pub quality: Option<u32>,
}

/// Times of rows.
#[derive(Debug)]
pub(crate) enum PlainTimes {
    /// On a grid.
    Step {
        /// Time of the first row.
        first_ns: i64,
        /// Distance of neighbours.
        step_ns: i64,
    },
    /// Those that other chunks have, too.
    Shared(Arc<[i64]>),
    /// In the buffer.
    Each,
}

/// A block of rollups: its position, whether all of it was decoded, and its rows.
type KeptRows = (usize, bool, Arc<TierRows>);

/// Reads the chunks of one segment. One per reading thread.
#[derive(Debug)]
pub(crate) struct SegmentCursor {
    segment: Arc<Segment>,
    buffer: Vec<u8>,
    packed: [Option<(ChunkIndex, PackedRows)>; ValueType::ALL.len()],
    times: DecodedTimes,
    /// Places and steps of shared regions that are grids, the latest first.
    grids: Vec<(u64, i64)>,
    /// Blocks of rollups by tier and type.
    tiers: [[Option<KeptRows>; ValueType::ALL.len()]; Tier::ALL.len()],
    kept_rollups: usize,
}

impl SegmentCursor {
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            buffer: Vec::new(),
            packed: [const { None }; ValueType::ALL.len()],
            times: DecodedTimes::default(),
            grids: Vec::new(),
            tiers: [const { [const { None }; ValueType::ALL.len()] }; Tier::ALL.len()],
            kept_rollups: 0,
        }
    }

    /// Rollups of a block of the directory's list; with `usable`, all of them.
    ///
    /// # Errors
    /// If the segment does not open or the block is damaged.
    pub(crate) fn tier_rows(&mut self, position: usize, usable: bool) -> Result<Arc<TierRows>> {
        let directory = self.segment.directory()?;
        let entry = &directory.tiers()[position];
        let kept = &mut self.tiers[entry.head.tier.index()][slot_of(entry.head.value_type)];
        if let Some((at, is_all, rows)) = kept
            && *at == position
            && (*is_all || !usable)
        {
            return Ok(Arc::clone(rows));
        }
        let rows = Arc::new(self.segment.read_tier(entry, usable, &mut self.buffer)?);
        let before = kept.replace((position, usable, Arc::clone(&rows)));
        self.kept_rollups -= before.map_or(0, |(_, _, rows)| rows.rows().len());
        self.kept_rollups += rows.rows().len();
        Ok(rows)
    }

    /// Whether a block is kept decoded.
    pub(crate) fn has_tier_rows(&self, position: usize) -> bool {
        self.tiers.iter().flatten().flatten().any(|(at, _, _)| *at == position)
    }

    /// How many rollups are kept decoded.
    pub(crate) const fn kept_rollups(&self) -> usize {
        self.kept_rollups
    }

    /// Lets go of the rollups that are kept.
    pub(crate) fn forget_rollups(&mut self) {
        self.tiers = [const { [const { None }; ValueType::ALL.len()] }; Tier::ALL.len()];
        self.kept_rollups = 0;
    }

    /// The segment it reads.
    #[cfg(test)]
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The place that an error of reading a chunk says is damaged, if it says so.
    pub(crate) fn damage(&self, chunk: ChunkIndex, error: &Error) -> Option<Damage> {
        let why = damage_in(error)?;
        let id = self.segment.meta().id;
        let directory = self.segment.directory().ok()?;
        Some(Damage::chunk(id, &directory.entry(chunk), why))
    }

    /// First time, last time and number of `tag`'s samples in a chunk; `None` if it holds none.
    ///
    /// # Errors
    /// If the segment does not open or a packed chunk is damaged.
    pub(crate) fn span(
        &mut self,
        chunk: ChunkIndex,
        tag: TagId,
    ) -> Result<Option<(i64, i64, usize)>> {
        let entry = self.segment.directory()?.entry(chunk);
        if !entry.packed {
            let span = (entry.first_ns, entry.last_ns, entry.len());
            return Ok((entry.first_tag == tag).then_some(span));
        }
        let packed = self.packed(chunk, &entry, tag, false)?;
        Ok(packed.map(|(chunk, rows)| chunk.span(rows)))
    }

    /// Appends the samples of `tag` within `range` to `out`, ascending in time; none if the chunk does not hold the
    /// tag. Where `values` or `qualities` is false, those columns are not decoded and `out` gets none.
    ///
    /// # Errors
    /// If the segment does not open, the chunk is damaged, or it holds values of another type than `out`.
    #[expect(clippy::too_many_arguments, reason = "what to read, how much of it, and where to")]
    pub(crate) fn read(
        &mut self,
        chunk: ChunkIndex,
        tag: TagId,
        range: TimeRange,
        values: bool,
        qualities: bool,
        out: &mut SeriesBuf,
    ) -> Result<()> {
        let directory = self.segment.directory()?;
        let entry = directory.entry(chunk);
        if entry.first_tag > tag || entry.last_tag < tag {
            return Ok(());
        }
        let wanted = (values, qualities);
        if entry.packed {
            let Some((packed, rows)) = self.packed(chunk, &entry, tag, values || qualities)? else {
                return Ok(());
            };
            let times = &packed.times()[rows.clone()];
            let from = times.partition_point(|time| *time < range.start_ns);
            let to = times.partition_point(|time| *time < range.end_ns).max(from);
            let rows = rows.start + from..rows.start + to;
            let copied =
                (entry.value_type == out.value_type).then(|| packed.copy(rows, wanted, out));
            return copied.ok_or_else(|| self.wrong_type(&entry, out.value_type));
        }
        if entry.value_type != out.value_type {
            return Err(self.wrong_type(&entry, out.value_type));
        }
        let before = [out.times.len(), out.words.len(), out.texts.len(), out.qualities.len()];
        let is_shared = directory.shares_times(chunk);
        let read = self.read_plain((&entry, is_shared), range, wanted, out);
        if read.is_err() {
            out.times.truncate(before[0]);
            out.words.truncate(before[1]);
            out.texts.truncate(before[2]);
            out.qualities.truncate(before[3]);
        }
        read
    }

    /// Reads the rows of a plain chunk within `range` for a fold: what is the same for all rows is not written out, and
    /// of text only times and qualities are read. `None` for a packed chunk.
    ///
    /// # Errors
    /// As [`Self::read`]; the buffer then holds anything.
    pub(crate) fn read_plain_rows(
        &mut self,
        chunk: ChunkIndex,
        value_type: ValueType,
        range: TimeRange,
        buffer: &mut PlainBuf,
    ) -> Result<Option<PlainRows>> {
        let directory = self.segment.directory()?;
        let entry = &directory.entry(chunk);
        if entry.packed {
            return Ok(None);
        }
        if entry.value_type != value_type {
            return Err(self.wrong_type(entry, value_type));
        }
        buffer.times.clear();
        buffer.words.clear();
        buffer.qualities.clear();
        let is_shared = directory.shares_times(chunk);
        let (rows, times) = self.plain_times((entry, is_shared), range, buffer)?;
        let count = rows.len();
        let bytes = self.segment.read(entry, entry.body, &mut self.buffer)?;
        let quality =
            reader::decode_plain(entry, bytes, rows, &mut buffer.words, &mut buffer.qualities)
                .map_err(|why| self.segment.malformed(entry, entry.body, why))?;
        Ok(Some(PlainRows { count, times, quality }))
    }

    fn plain_times(
        &mut self,
        (entry, is_shared): (&ChunkEntry, bool),
        range: TimeRange,
        buffer: &mut PlainBuf,
    ) -> Result<(Range<usize>, PlainTimes)> {
        if let Some(grid) = self.grids.iter().find(|(offset, _)| *offset == entry.times.offset)
            && let Some((rows, first_ns)) = reader::rows_on_grid(entry, grid.1, range)
        {
            return Ok((rows, PlainTimes::Step { first_ns, step_ns: grid.1 }));
        }
        if is_shared && let Some(decoded) = self.times.find(&DecodedKey::new(entry, range)) {
            return Ok((decoded.rows, PlainTimes::Shared(decoded.times)));
        }
        let segment = &self.segment;
        let malformed = |why| segment.malformed(entry, entry.times, why);
        let bytes = segment.read(entry, entry.times, &mut self.buffer)?;
        if let Some(step_ns) = reader::decode_grid(entry, bytes).map_err(malformed)?
            && let Some((rows, first_ns)) = reader::rows_on_grid(entry, step_ns, range)
        {
            if is_shared {
                self.grids.truncate(GRIDS_MAX - 1);
                self.grids.insert(0, (entry.times.offset, step_ns));
            }
            return Ok((rows, PlainTimes::Step { first_ns, step_ns }));
        }
        let rows =
            reader::decode_times(entry, bytes, range, &mut buffer.times).map_err(malformed)?;
        if is_shared {
            let decoded = Decoded { rows, times: buffer.times.as_slice().into() };
            self.times.keep(DecodedKey::new(entry, range), decoded.clone());
            return Ok((decoded.rows, PlainTimes::Shared(decoded.times)));
        }
        Ok((rows, PlainTimes::Each))
    }

    fn read_plain(
        &mut self,
        (entry, is_shared): (&ChunkEntry, bool),
        range: TimeRange,
        wanted: (bool, bool),
        out: &mut SeriesBuf,
    ) -> Result<()> {
        if !range.overlaps_span(entry.first_ns, entry.last_ns) {
            return Ok(());
        }
        let rows = if is_shared {
            let decoded = self.shared_times(entry, range)?;
            out.times.extend_from_slice(&decoded.times);
            decoded.rows
        } else {
            self.read_times(entry, range, &mut out.times)?
        };
        let segment = &self.segment;
        if rows.is_empty() || wanted == (false, false) {
            return Ok(());
        }
        let bytes = segment.read(entry, entry.body, &mut self.buffer)?;
        reader::decode_body(entry, bytes, rows, wanted, out)
            .map_err(|why| segment.malformed(entry, entry.body, why))
    }

    /// Appends the times of a plain chunk within `range`, and tells which rows these are.
    fn read_times(
        &mut self,
        entry: &ChunkEntry,
        range: TimeRange,
        out: &mut Vec<i64>,
    ) -> Result<Range<usize>> {
        let segment = &self.segment;
        let bytes = segment.read(entry, entry.times, &mut self.buffer)?;
        reader::decode_times(entry, bytes, range, out)
            .map_err(|why| segment.malformed(entry, entry.times, why))
    }

    /// The same of a region that chunks share: read and decoded once for many of them.
    fn shared_times(&mut self, entry: &ChunkEntry, range: TimeRange) -> Result<Decoded> {
        let key = DecodedKey::new(entry, range);
        if let Some(decoded) = self.times.find(&key) {
            return Ok(decoded);
        }
        let mut times = Vec::new();
        let rows = self.read_times(entry, range, &mut times)?;
        let decoded = Decoded { rows, times: times.into() };
        self.times.keep(key, decoded.clone());
        Ok(decoded)
    }

    /// A packed chunk and the rows of `tag` in it, decoded as far as needed.
    fn packed(
        &mut self,
        chunk: ChunkIndex,
        entry: &ChunkEntry,
        tag: TagId,
        body: bool,
    ) -> Result<Option<(&PackedRows, Range<usize>)>> {
        if entry.first_tag > tag || entry.last_tag < tag {
            return Ok(None);
        }
        let slot = &mut self.packed[slot_of(entry.value_type)];
        if slot.as_ref().is_none_or(|(kept, _)| *kept != chunk) {
            *slot = Some((chunk, self.segment.read_packed(entry, &mut self.buffer)?));
        }
        let (_, packed) = slot.as_mut().expect("it was put there above");
        let Some(rows) = packed.rows_of(tag) else { return Ok(None) };
        if body && !packed.has_body() {
            let bytes = self.segment.read(entry, entry.body, &mut self.buffer)?;
            packed
                .decode_body(entry, bytes)
                .map_err(|why| self.segment.malformed(entry, entry.body, why))?;
        }
        Ok(Some((packed, rows)))
    }

    fn wrong_type(&self, entry: &ChunkEntry, wanted: ValueType) -> Error {
        let why = format!("it holds {} values, the tag is {wanted}", entry.value_type);
        self.segment.corrupt(entry.to_string(), entry.times.offset, why)
    }
}
