//! A spill: sorted samples of a backfill that memory has no room for, in a file of the folder `scratch`.
//!
//! # Contract
//! * Sorted by (day, tag, time), each key once. Cut into frames, each of one day, so that a reader needs one at a time.
//! * Only the process that wrote a spill reads it: the table of frames stays in memory, the file has no header. It is
//!   unlinked when the spill is dropped, and what a crash leaves is cleared away by the next open.
//! * What is read back is verified.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::merge::{Extent, Piece, for_each_spilled, gather};
use crate::bytes::{Malformed, Reader, put_i64, put_u32, put_u64};
use crate::checksum::crc32;
use crate::chunk::series::SeriesBuf;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::head::run::Run;
use crate::tag::{TagId, ValueType};

/// Folder of the spills.
pub(crate) const SCRATCH_DIR: &str = "scratch";
/// How their names end.
const SUFFIX: &str = ".run";
/// Rows and bytes at which a frame ends.
const FRAME_ROWS: usize = 16 << 10;
const FRAME_BYTES: usize = 512 << 10;
/// Bytes collected before they go to the disk.
const BUFFER_BYTES: usize = 1 << 20;

/// Rows of one day and some tags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) extent: Extent,
    last_tag: TagId,
    offset: u64,
    bytes: usize,
    crc: u32,
}

/// A file of sorted samples.
#[derive(Debug)]
pub(crate) struct Spill {
    disk: Arc<dyn Disk>,
    path: String,
    file: Arc<dyn DiskFile>,
    identity: u64,
    pub(super) frames: Vec<Frame>,
}

/// Unlinks what earlier processes left in `scratch`; a file of another name is none of ours.
pub(crate) fn clear(disk: &Arc<dyn Disk>) {
    let Ok(names) = disk.list(SCRATCH_DIR) else { return };
    for (name, _) in names.iter().filter(|(name, _)| name.ends_with(SUFFIX)) {
        match disk.remove(&format!("{SCRATCH_DIR}/{name}")) {
            Ok(()) | Err(_) => {}
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        match self.disk.remove(&self.path) {
            Ok(()) | Err(_) => {}
        }
    }
}

impl Spill {
    /// Writes the rows of these runs; of equal keys the later run's row stays.
    pub(crate) fn write(disk: &Arc<dyn Disk>, runs: &[Run]) -> Result<Self> {
        let (mut spill, mut writer) = Self::begin(disk)?;
        let pieces = Piece::all_of(runs);
        for same in pieces.chunk_by(|a, b| (a.day, a.tag) == (b.day, b.tag)) {
            let mut rows = SeriesBuf::new(same[0].tag, same[0].value_type);
            gather(runs, same, &mut rows);
            writer.put(&mut spill, same[0].day, &rows)?;
        }
        writer.finish(&mut spill)?;
        Ok(spill)
    }

    /// Writes the rows of these spills, oldest first, as one.
    pub(super) fn merge(disk: &Arc<dyn Disk>, spills: &[Self]) -> Result<Self> {
        let (mut merged, mut writer) = Self::begin(disk)?;
        let frames = spills.iter().flat_map(|spill| &spill.frames);
        let days: BTreeSet<i64> = frames.map(|frame| frame.extent.day).collect();
        for day in days {
            let tags = (TagId(0), TagId(u32::MAX));
            for_each_spilled(spills, day, tags, &mut |rows| writer.put(&mut merged, day, &rows))?;
        }
        writer.finish(&mut merged)?;
        Ok(merged)
    }

    fn begin(disk: &Arc<dyn Disk>) -> Result<(Self, Writer)> {
        let io = |e| Error::io("make folder", SCRATCH_DIR, e);
        disk.create_dir(SCRATCH_DIR).map_err(io)?;
        let identity = crate::ids::random();
        let path = format!("{SCRATCH_DIR}/{identity:016x}{SUFFIX}");
        let file = disk.create(&path, 0).map_err(|e| Error::io("create spill", &path, e))?;
        let (disk, frames) = (Arc::clone(disk), Vec::new());
        let writer = Writer { buffer: Vec::new(), written: 0, open: None, start: 0 };
        Ok((Self { disk, path, file, identity, frames }, writer))
    }

    fn error(&self, why: Malformed) -> Error {
        Error::corrupt("spill of a backfill", self.disk.root().join(&self.path), 0, why.0)
    }
}

/// Collects the frames of a spill.
struct Writer {
    buffer: Vec<u8>,
    written: u64,
    open: Option<Frame>,
    /// Where the open frame begins in the buffer.
    start: usize,
}

impl Writer {
    fn put(&mut self, spill: &mut Spill, day: i64, rows: &SeriesBuf) -> Result<()> {
        let mut from = 0;
        while from < rows.times.len() {
            if self.is_full() || self.open.is_some_and(|open| open.extent.day != day) {
                self.end_frame(spill);
                if self.buffer.len() >= BUFFER_BYTES {
                    self.flush(spill)?;
                }
            }
            let (start, offset) = (self.buffer.len(), self.written + self.buffer.len() as u64);
            if self.open.is_none() {
                self.start = start;
            }
            let extent = Extent { day, first_tag: rows.tag, first_ns: i64::MAX, rows: 0 };
            let (last_tag, bytes, crc) = (rows.tag, 0, 0);
            let frame = self.open.get_or_insert(Frame { extent, last_tag, offset, bytes, crc });
            let to = rows.times.len().min(from + FRAME_ROWS - frame.extent.rows);
            let to = from + put_rows(&mut self.buffer, rows, from..to);
            frame.last_tag = rows.tag;
            frame.extent.first_ns = frame.extent.first_ns.min(rows.times[from]);
            frame.extent.rows += to - from;
            from = to;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let bytes = self.buffer.len() - self.start;
        self.open.is_some_and(|open| open.extent.rows >= FRAME_ROWS || bytes >= FRAME_BYTES)
    }

    fn end_frame(&mut self, spill: &mut Spill) {
        let Some(mut frame) = self.open.take() else { return };
        let bytes = &self.buffer[self.start..];
        (frame.bytes, frame.crc) = (bytes.len(), crc32(spill.identity, bytes));
        spill.frames.push(frame);
        self.start = self.buffer.len();
    }

    fn finish(mut self, spill: &mut Spill) -> Result<()> {
        self.end_frame(spill);
        self.flush(spill)
    }

    fn flush(&mut self, spill: &Spill) -> Result<()> {
        let written = spill.file.write_at(self.written, &self.buffer);
        written.map_err(|e| Error::io("write spill", &spill.path, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.start = 0;
        Ok(())
    }
}

const HEADER_BYTES: usize = 18;
const STEP: u8 = 1;
const UNIFORM: u8 = 2;

/// Bytes of a value of this type; texts have none of a fixed length.
const fn width_of(value_type: ValueType) -> usize {
    match value_type {
        ValueType::F64 | ValueType::I64 => 8,
        ValueType::F32 => 4,
        ValueType::State => 2,
        ValueType::Bool => 1,
        ValueType::Text => 0,
    }
}

/// Appends rows: tag, type, form, count, length; times, values, qualities. Gives how many: long texts end it early.
fn put_rows(out: &mut Vec<u8>, rows: &SeriesBuf, range: Range<usize>) -> usize {
    let mut count = range.len();
    if rows.value_type == ValueType::Text {
        let mut bytes = 0;
        let is_over = |text: &Arc<str>| {
            bytes += text.len();
            bytes > FRAME_BYTES
        };
        let long = rows.texts[range.clone()].iter().position(is_over);
        count = long.map_or(count, |at| at.max(1));
    }
    let range = range.start..range.start + count;
    let (times, qualities) = (&rows.times[range.clone()], &rows.qualities[range.clone()]);
    let step = if count > 1 { times[1] - times[0] } else { 0 };
    let is_step = times.windows(2).all(|pair| pair[1] - pair[0] == step);
    let is_uniform = qualities.iter().all(|quality| *quality == qualities[0]);
    let start = out.len();
    put_u32(out, rows.tag.0);
    out.push(rows.value_type.code());
    out.push(if is_step { STEP } else { 0 } | if is_uniform { UNIFORM } else { 0 });
    put_u32(out, u32::try_from(count).expect("a frame has few rows"));
    put_u64(out, 0);
    if is_step {
        put_i64(out, times[0]);
        put_i64(out, step);
    } else {
        for time in times {
            put_i64(out, *time);
        }
    }
    if rows.value_type == ValueType::Text {
        for text in &rows.texts[range] {
            put_u32(out, u32::try_from(text.len()).expect("a text has at most 64 KiB"));
            out.extend_from_slice(text.as_bytes());
        }
    } else {
        let width = width_of(rows.value_type);
        out.reserve(count * width);
        for word in &rows.words[range] {
            out.extend_from_slice(&word.to_le_bytes()[..width]);
        }
    }
    let different = if is_uniform { &qualities[..1] } else { qualities };
    for quality in different {
        put_u32(out, *quality);
    }
    let bytes = (out.len() - start - HEADER_BYTES) as u64;
    out[start + HEADER_BYTES - 8..start + HEADER_BYTES].copy_from_slice(&bytes.to_le_bytes());
    count
}

/// What stands before rows.
#[derive(Clone, Copy, Debug)]
struct RowsHeader {
    tag: TagId,
    value_type: ValueType,
    form: u8,
    count: usize,
    bytes: usize,
}

impl RowsHeader {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let tag = TagId(reader.u32()?);
        let value_type = ValueType::from_code(reader.u8()?).ok_or(Malformed("no such type"))?;
        let (form, count) = (reader.u8()?, reader.u32()? as usize);
        let bytes = usize::try_from(reader.u64()?).map_err(|_| Malformed("too long"))?;
        Ok(Self { tag, value_type, form, count, bytes })
    }

    fn read_rows(self, bytes: &[u8], out: &mut SeriesBuf) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        let count = self.count;
        if self.form & STEP != 0 {
            let (first, step) = (reader.i64()?, reader.i64()?);
            let times = (0i64..).take(count).map(|row| first.wrapping_add(row.wrapping_mul(step)));
            out.times.extend(times);
        } else {
            for _ in 0..count {
                out.times.push(reader.i64()?);
            }
        }
        if self.value_type == ValueType::Text {
            for _ in 0..count {
                let length = reader.u32()? as usize;
                let text = std::str::from_utf8(reader.take(length)?);
                out.texts.push(Arc::from(text.map_err(|_| Malformed("a text is no UTF-8"))?));
            }
        } else {
            let width = width_of(self.value_type);
            let words = reader.take(count.checked_mul(width).ok_or(Malformed("too long"))?)?;
            out.words.extend(words.chunks_exact(width).map(|bytes| {
                let mut word = [0; 8];
                word[..width].copy_from_slice(bytes);
                u64::from_le_bytes(word)
            }));
        }
        if self.form & UNIFORM != 0 {
            let quality = reader.u32()?;
            out.qualities.resize(out.qualities.len() + count, quality);
        } else {
            for _ in 0..count {
                out.qualities.push(reader.u32()?);
            }
        }
        reader.finish()
    }
}

/// Reads the rows of some tags of one day from a spill, ascending by tag.
#[derive(Debug)]
pub(super) struct SpillCursor<'a> {
    spill: &'a Spill,
    tags: (TagId, TagId),
    rest: std::slice::Iter<'a, Frame>,
    frame: Vec<u8>,
    at: usize,
    next: Option<RowsHeader>,
}

impl<'a> SpillCursor<'a> {
    /// At the first row of tags `tags.0..=tags.1` on `day`.
    pub(super) fn open(spill: &'a Spill, day: i64, tags: (TagId, TagId)) -> Result<Self> {
        let from = spill.frames.partition_point(|f| (f.extent.day, f.last_tag) < (day, tags.0));
        let is_until = |f: &Frame| (f.extent.day, f.extent.first_tag) <= (day, tags.1);
        let to = spill.frames.partition_point(is_until);
        let rest = spill.frames[from..to.max(from)].iter();
        let mut cursor = Self { spill, tags, rest, frame: Vec::new(), at: 0, next: None };
        cursor.advance()?;
        Ok(cursor)
    }

    pub(super) fn peek(&self) -> Option<(TagId, ValueType)> {
        self.next.map(|next| (next.tag, next.value_type))
    }

    /// Appends the rows at hand and goes on.
    pub(super) fn take(&mut self, out: &mut SeriesBuf) -> Result<()> {
        let Some(next) = self.next.take() else { return Ok(()) };
        let bytes = &self.frame[self.at..self.at + next.bytes];
        next.read_rows(bytes, out).map_err(|why| self.spill.error(why))?;
        self.at += next.bytes;
        self.advance()
    }

    /// Goes to the next rows of the tags that are asked for.
    fn advance(&mut self) -> Result<()> {
        loop {
            if self.at == self.frame.len() && !self.load()? {
                return Ok(());
            }
            let mut reader = Reader::new(&self.frame[self.at..]);
            let next = RowsHeader::read(&mut reader).map_err(|why| self.spill.error(why))?;
            if reader.remaining() < next.bytes {
                return Err(self.spill.error(Malformed("rows end after their frame")));
            }
            self.at += HEADER_BYTES;
            if next.tag > self.tags.1 {
                (self.rest, self.at) = ([].iter(), self.frame.len());
            } else if next.tag < self.tags.0 {
                self.at += next.bytes;
            } else {
                self.next = Some(next);
                return Ok(());
            }
        }
    }

    fn load(&mut self) -> Result<bool> {
        let Some(frame) = self.rest.next() else { return Ok(false) };
        self.frame.clear();
        self.frame.resize(frame.bytes, 0);
        self.at = 0;
        let spill = self.spill;
        let read = spill.file.read_at(frame.offset, &mut self.frame);
        read.map_err(|e| Error::io("read spill", &spill.path, e))?;
        if crc32(spill.identity, &self.frame) != frame.crc {
            return Err(spill.error(Malformed("the bytes do not match their checksum")));
        }
        Ok(true)
    }
}
