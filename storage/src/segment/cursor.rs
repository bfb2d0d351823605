//! [`SegmentCursor`]: reads samples of one tag from one chunk.
//!
//! # Contract
//! * Reads only the regions it needs and decodes only the vectors that overlap the asked range.
//! * Keeps the packed chunk it decoded last of each value type, so that walking the tags in order decodes each once.
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
use crate::segment::writer::slot_of;
use crate::segment::{ChunkIndex, Segment};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// Reads the chunks of one segment. One per reading thread.
#[derive(Debug)]
pub(crate) struct SegmentCursor {
    segment: Arc<Segment>,
    buffer: Vec<u8>,
    packed: [Option<(ChunkIndex, PackedRows)>; ValueType::ALL.len()],
}

impl SegmentCursor {
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        Self { segment, buffer: Vec::new(), packed: [const { None }; ValueType::ALL.len()] }
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
        let entry = self.segment.directory()?.entry(chunk);
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
        let read = self.read_plain(&entry, range, wanted, out);
        if read.is_err() {
            out.times.truncate(before[0]);
            out.words.truncate(before[1]);
            out.texts.truncate(before[2]);
            out.qualities.truncate(before[3]);
        }
        read
    }

    fn read_plain(
        &mut self,
        entry: &ChunkEntry,
        range: TimeRange,
        wanted: (bool, bool),
        out: &mut SeriesBuf,
    ) -> Result<()> {
        if !range.overlaps_span(entry.first_ns, entry.last_ns) {
            return Ok(());
        }
        let segment = &self.segment;
        let bytes = segment.read(entry, entry.times, &mut self.buffer)?;
        let rows = reader::decode_times(entry, bytes, range, &mut out.times)
            .map_err(|why| segment.malformed(entry, entry.times, why))?;
        if rows.is_empty() || wanted == (false, false) {
            return Ok(());
        }
        let bytes = segment.read(entry, entry.body, &mut self.buffer)?;
        reader::decode_body(entry, bytes, rows, wanted, out)
            .map_err(|why| segment.malformed(entry, entry.body, why))
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
