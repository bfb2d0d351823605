//! One tag on one day: its rows from all inputs, merged in pieces of a chunk's size, or copied where nothing touches them.
//!
//! # Contract
//! * Of equal times the row of the input with the greater rank stays. Rows that a delete newer than their input hides go.
//! * A chunk is copied byte for byte if no other row lies in its span, no delete touches it, it lies within the day, it
//!   is full enough to stand alone, and no better encoding is due: what is written for good takes chunks as they are only
//!   from what was. Neighbours too short for that are encoded together.
//! * Held in memory: the chunks that overlap at one instant, and rows of two chunks to be written.
//!
//! # What it does not know
//! Days, classes and files: it is handed a range and an [`Output`].

use std::ops::Range;
use std::sync::Arc;

use super::output::Output;
use super::{Failed, Pace};
use crate::chunk::{ChunkEntry, SeriesBuf};
use crate::error::Error;
use crate::head::tombstone::Tombstones;
use crate::ids::Seq;
use crate::limits::{CHUNK_SAMPLES_MAX, PACKED_TAG_SAMPLES_MAX};
use crate::planted::{self, Bug};
use crate::scan::unite::{hide, order};
use crate::segment::damage::{Damage, damage_in};
use crate::segment::{ChunkIndex, Directory, Segment, SegmentCursor};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// Rows of a chunk that is full enough to be copied.
const COPIED_ROWS_MIN: usize = CHUNK_SAMPLES_MAX / 2;
/// Text bytes of rows to be written, above which some are written.
const PENDING_TEXT_BYTES_MAX: usize = 8 << 20;

/// A segment that is being written again. Inputs stand in the order of their rank.
pub(super) struct Input {
    pub(super) segment: Arc<Segment>,
    pub(super) directory: Arc<Directory>,
    cursor: SegmentCursor,
    buffers: [Vec<u8>; 2],
}

impl Input {
    /// Opens the segment.
    pub(super) fn open(segment: &Arc<Segment>) -> Result<Self, Failed> {
        let directory = segment.directory().map_err(|error| match damage_in(&error) {
            Some(why) => Failed::Damaged(Box::new(Damage::whole(segment.meta(), why)), error),
            None => Failed::Disk(error),
        })?;
        let (segment, cursor) = (Arc::clone(segment), segment.cursor());
        Ok(Self { segment, directory, cursor, buffers: Default::default() })
    }

    fn failed(&self, chunk: ChunkIndex, error: Error) -> Failed {
        match self.cursor.damage(chunk, &error) {
            Some(damage) => Failed::Damaged(Box::new(damage), error),
            None => Failed::Disk(error),
        }
    }

    /// The tag's first and last time in a chunk.
    fn span(&mut self, chunk: ChunkIndex, tag: TagId) -> Result<Option<(i64, i64)>, Failed> {
        let span = self.cursor.span(chunk, tag).map_err(|e| self.failed(chunk, e))?;
        Ok(span.map(|(first_ns, last_ns, _)| (first_ns, last_ns)))
    }

    /// The tag's first time in a chunk at or after `from_ns`.
    fn first_from(
        &mut self,
        chunk: ChunkIndex,
        tag: TagId,
        value_type: ValueType,
        from_ns: i64,
    ) -> Result<Option<i64>, Failed> {
        let mut rows = SeriesBuf::new(tag, value_type);
        let range = TimeRange::new(from_ns, i64::MAX);
        let read = self.cursor.read(chunk, tag, range, false, false, &mut rows);
        read.map_err(|e| self.failed(chunk, e))?;
        Ok(rows.times.first().copied())
    }

    fn read(&mut self, piece: &Piece, tag: TagId, range: TimeRange) -> Result<SeriesBuf, Failed> {
        let mut rows = SeriesBuf::new(tag, piece.entry.value_type);
        let read = self.cursor.read(piece.chunk, tag, range, true, true, &mut rows);
        read.map_err(|e| self.failed(piece.chunk, e))?;
        Ok(rows)
    }

    /// Copies a chunk, verified.
    fn copy(&mut self, piece: &Piece, output: &mut Output<'_>) -> Result<(), Failed> {
        let mut buffers = std::mem::take(&mut self.buffers);
        let [times, body] = &mut buffers;
        let Piece { chunk, entry, .. } = piece;
        let failed = |error| self.failed(*chunk, error);
        let times = self.segment.read(entry, entry.times, times).map_err(failed)?;
        let body = self.segment.read(entry, entry.body, body).map_err(failed)?;
        output.copy(entry, times, body)?;
        self.buffers = buffers;
        Ok(())
    }
}

/// A tag's rows in one chunk of one input.
struct Piece {
    input: usize,
    chunk: ChunkIndex,
    entry: ChunkEntry,
    first_ns: i64,
    last_ns: i64,
}

/// What is not written again.
pub(super) struct Unwanted<'a> {
    pub(super) tombstones: &'a Tombstones,
    /// Before it the tag's samples have ended.
    pub(super) horizon_ns: i64,
}

impl Unwanted<'_> {
    /// Times of which a segment's rows of a tag are left out.
    fn of(&self, max_seq: Seq, tag: TagId) -> Vec<TimeRange> {
        let deletes = self.tombstones;
        let may_hide = deletes.any_after(max_seq) && !planted::is(Bug::CompactionForgetsTombstones);
        let mut hidden = if may_hide { deletes.hiding(tag, max_seq) } else { Vec::new() };
        hidden.push(TimeRange::new(i64::MIN, self.horizon_ns));
        hidden
    }
}

/// What a tag has in a range, and when it goes on after it.
pub(super) struct Found {
    value_type: Option<ValueType>,
    /// Ascending by (first time, rank).
    pieces: Vec<Piece>,
    /// First time of the tag after the range.
    pub(super) next_ns: Option<i64>,
}

impl Found {
    /// Looks for the tag in all inputs.
    pub(super) fn look(inputs: &mut [Input], tag: TagId, range: TimeRange) -> Result<Self, Failed> {
        let mut found = Self { value_type: None, pieces: Vec::new(), next_ns: None };
        for (number, input) in inputs.iter_mut().enumerate() {
            let directory = Arc::clone(&input.directory);
            for chunk in directory.find(tag, TimeRange::new(range.start_ns, i64::MAX)) {
                let entry = directory.entry(chunk);
                if !entry.packed && entry.first_ns >= range.end_ns {
                    found.goes_on(entry.first_ns);
                    break; // the packed chunks of other types, which come after, do not hold the tag
                }
                let Some((first_ns, last_ns)) = input.span(chunk, tag)? else { continue };
                if last_ns >= range.end_ns {
                    let next = input.first_from(chunk, tag, entry.value_type, range.end_ns)?;
                    if let Some(next_ns) = next {
                        found.goes_on(next_ns);
                    }
                }
                if found.value_type.is_some_and(|known| known != entry.value_type) {
                    let why = format!("tag {tag} has values of another type elsewhere");
                    let error = input.segment.corrupt(entry.to_string(), entry.times.offset, why);
                    return Err(input.failed(chunk, error));
                }
                found.value_type = Some(entry.value_type);
                if range.overlaps_span(first_ns, last_ns) {
                    found.pieces.push(Piece { input: number, chunk, entry, first_ns, last_ns });
                }
            }
        }
        found.pieces.sort_by_key(|piece| (piece.first_ns.max(range.start_ns), piece.input));
        Ok(found)
    }

    fn goes_on(&mut self, next_ns: i64) {
        self.next_ns = Some(self.next_ns.map_or(next_ns, |known| known.min(next_ns)));
    }

    /// Writes the rows within `range`.
    #[expect(clippy::too_many_arguments, reason = "whose rows, where from, where to, how fast")]
    pub(super) fn write(
        &self,
        inputs: &mut [Input],
        tag: TagId,
        range: TimeRange,
        unwanted: &Unwanted<'_>,
        output: &mut Output<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Failed> {
        let Some(value_type) = self.value_type else { return Ok(()) };
        let hidden = |input: &Input| unwanted.of(input.segment.meta().max_seq, tag);
        let hidden: Vec<Vec<TimeRange>> = inputs.iter().map(hidden).collect();
        let mut merge = Merge::new(tag, value_type);
        for (at, piece) in self.pieces.iter().enumerate() {
            let input = &mut inputs[piece.input];
            let next_ns = self.pieces.get(at + 1).map_or(i64::MAX, |next| next.first_ns);
            let hidden = &hidden[piece.input];
            if hidden.iter().any(|r| r.covers_span(piece.first_ns, piece.last_ns)) {
                merge.settle(next_ns, output)?;
                continue;
            }
            pace.spend(piece.cost())?;
            let is_apart = output.takes_as_is(input.segment.meta().stage)
                && next_ns > piece.last_ns
                && !merge.has_rows_through(piece.last_ns)
                && range.covers_span(piece.first_ns, piece.last_ns)
                && !hidden.iter().any(|r| r.overlaps_span(piece.first_ns, piece.last_ns));
            if is_apart && piece.stands_alone(next_ns == i64::MAX) && merge.make_way(output)? {
                input.copy(piece, output)?;
                merge.settle(next_ns, output)?;
                continue;
            }
            let mut rows = input.read(piece, tag, range)?;
            hide(&mut rows, 0, hidden);
            merge.take(piece.input, rows);
            merge.settle(next_ns, output)?;
        }
        merge.finish(output)
    }
}

impl Piece {
    /// Whether the chunk may be copied if nothing touches it.
    fn stands_alone(&self, is_last: bool) -> bool {
        let rows = self.entry.len();
        !self.entry.packed
            && (rows >= COPIED_ROWS_MIN || (is_last && rows >= PACKED_TAG_SAMPLES_MAX))
    }

    /// Bytes to be read and about to be written.
    fn cost(&self) -> u64 {
        if self.entry.packed {
            return 256; // a few rows of a chunk that is read once for many tags
        }
        2 * (u64::from(self.entry.times.bytes) + u64::from(self.entry.body.bytes))
    }
}

/// Rows on their way from the inputs to the output.
struct Merge {
    /// Rows of inputs that other pieces may overlap, by rank.
    active: Vec<Active>,
    /// Merged and not written yet.
    pending: SeriesBuf,
    /// Rows of one instant from several inputs, while they are put in order.
    scratch: SeriesBuf,
    /// Whether chunks of the tag were written.
    has_chunks: bool,
}

struct Active {
    input: usize,
    rows: SeriesBuf,
    /// First row that is not merged yet.
    next: usize,
}

impl Active {
    fn before(&self, end_ns: i64) -> Range<usize> {
        let rest = &self.rows.times[self.next..];
        self.next..self.next + rest.partition_point(|time| *time < end_ns)
    }
}

impl Merge {
    fn new(tag: TagId, value_type: ValueType) -> Self {
        let empty = || SeriesBuf::new(tag, value_type);
        Self { active: Vec::new(), pending: empty(), scratch: empty(), has_chunks: false }
    }

    /// Whether rows wait whose times are up to `last_ns`.
    fn has_rows_through(&self, last_ns: i64) -> bool {
        let waits = |active: &Active| {
            active.rows.times.get(active.next).is_some_and(|time| *time <= last_ns)
        };
        self.active.iter().any(waits)
    }

    fn take(&mut self, input: usize, rows: SeriesBuf) {
        let at = self.active.partition_point(|active| active.input <= input);
        self.active.insert(at, Active { input, rows, next: 0 });
    }

    /// Merges all rows before `end_ns`: no further ones will come.
    fn settle(&mut self, end_ns: i64, output: &mut Output<'_>) -> Result<(), Failed> {
        let due = |active: &&Active| !active.before(end_ns).is_empty();
        let count = self.active.iter().filter(due).count();
        let target = if count > 1 { &mut self.scratch } else { &mut self.pending };
        for active in &mut self.active {
            let rows = active.before(end_ns);
            target.append(active.rows.as_series().slice(rows.clone()));
            active.next = rows.end;
        }
        if count > 1 {
            order(&mut self.scratch);
            self.pending.append(self.scratch.as_series());
            self.scratch.clear();
        }
        self.active.retain(|active| active.next < active.rows.len());
        self.write_some(output)
    }

    /// Writes full chunks while enough stays for the last ones to share.
    fn write_some(&mut self, output: &mut Output<'_>) -> Result<(), Failed> {
        let mut written = 0;
        loop {
            let rest = self.pending.as_series().slice(written..self.pending.len());
            let is_much =
                rest.len() >= 2 * CHUNK_SAMPLES_MAX || rest.text_bytes() > PENDING_TEXT_BYTES_MAX;
            if !is_much {
                break;
            }
            written += output.write_one(rest)?;
            self.has_chunks = true;
        }
        self.pending.drop_front(written);
        Ok(())
    }

    /// Makes a chunk to be copied the next in order. False if the rows before it are too few to stand alone: it then is to be
    /// encoded with them.
    fn make_way(&mut self, output: &mut Output<'_>) -> Result<bool, Failed> {
        if (1..COPIED_ROWS_MIN).contains(&self.pending.len()) {
            return Ok(false);
        }
        output.extend(self.pending.as_series())?;
        self.pending.clear();
        self.has_chunks = true;
        Ok(true)
    }

    fn finish(&mut self, output: &mut Output<'_>) -> Result<(), Failed> {
        assert!(self.active.is_empty(), "the last piece settles all rows");
        let rest = self.pending.as_series();
        if self.has_chunks { output.extend(rest) } else { output.push(rest) }
    }
}
