//! Segment files, whole or put together from chunks.

use std::sync::Arc;

use super::{put, u32_at, u64_at};
use crate::bytes::Reader;
use crate::checksum::crc32;
use crate::chunk::reader::{self, PackedRows};
use crate::chunk::{ChunkEntry, Extent, Series, SeriesBuf, Statistics};
use crate::disk::Disk;
use crate::encoding::Effort;
use crate::error::{Error, Result};
use crate::ids::{SegmentId, Seq};
use crate::segment::layout::{
    self, ENTRY_BYTES, FOOTER_BYTES, Field, HEADER_BYTES, TIER_CRC, TIER_ENTRY, TIER_ENTRY_BYTES,
    column,
};
use crate::segment::meta::SegmentStage;
use crate::segment::writer::{SegmentPlan, SegmentWriter};
use crate::segment::{Segment, SegmentKind, SegmentMeta, directory};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// Identity of the files made here.
const IDENTITY: u64 = 0x6675_7A7A;

/// A chunk as its three columns and what a directory says of them.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the field of the directory with its name")]
pub struct Part {
    pub value_type: ValueType,
    pub packed: bool,
    pub rows: u32,
    pub tags: (u32, u32),
    pub span: (i64, i64),
    pub times: Vec<u8>,
    pub values: Vec<u8>,
    pub qualities: Vec<u8>,
}

/// A segment file, where it belongs, and what the manifest says of it.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// Path of the file.
    pub path: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// What the manifest says.
    pub meta: Vec<u8>,
}

/// A segment of these chunks, in the order of a directory. Statistics are those of the rows, where they decode.
pub fn assemble(parts: &[Part]) -> Option<Assembled> {
    let mut bytes = vec![0; HEADER_BYTES];
    let mut entries: Vec<ChunkEntry> =
        parts.iter().map(|part| entry_of(part, &mut bytes)).collect();
    entries.sort_by_key(directory::order);
    let (first_ns, last_ns) =
        (entries.iter().map(|e| e.first_ns).min()?, entries.iter().map(|e| e.last_ns).max()?);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let directory_offset = bytes.len() as u64;
    directory::encode(&entries, &[], &mut bytes);
    let start = usize::try_from(directory_offset).ok()?;
    let meta = SegmentMeta {
        first_ns,
        last_ns,
        rows: entries.iter().map(|entry| u64::from(entry.rows)).sum(),
        chunks: u32::try_from(entries.len()).ok()?,
        tags: count_tags(&entries, &bytes),
        file_bytes: (bytes.len() + FOOTER_BYTES) as u64,
        directory_offset,
        directory_crc: crc32(IDENTITY, bytes.get(start..)?),
        ..plain_meta()
    };
    put(&mut bytes, 0, &layout::encode_header(&meta));
    bytes.extend_from_slice(&layout::encode_footer(&meta));
    assembled(&meta, bytes)
}

fn plain_meta() -> SegmentMeta {
    SegmentMeta {
        id: SegmentId(1),
        kind: SegmentKind::Base,
        stage: SegmentStage::Sealed,
        tier: 0,
        identity: IDENTITY,
        min_seq: Seq(1),
        max_seq: Seq(1),
        first_ns: 0,
        last_ns: 0,
        rows: 0,
        chunks: 0,
        tags: 0,
        file_bytes: 0,
        directory_offset: 0,
        directory_crc: 0,
        tier_blocks: 0,
    }
}

fn assembled(meta: &SegmentMeta, bytes: Vec<u8>) -> Option<Assembled> {
    let mut encoded = Vec::new();
    meta.encode(&mut encoded);
    SegmentMeta::decode(&mut Reader::new(&encoded)).ok()?;
    Some(Assembled { path: meta.path(), bytes, meta: encoded })
}

/// Appends the regions of a chunk and gives its entry.
fn entry_of(part: &Part, bytes: &mut Vec<u8>) -> ChunkEntry {
    let body = [part.values.as_slice(), part.qualities.as_slice()].concat();
    let mut append = |region: &[u8]| {
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(region);
        let length = u32::try_from(region.len()).unwrap_or(u32::MAX);
        Extent { offset, bytes: length, crc: crc32(IDENTITY, region) }
    };
    let mut entry = ChunkEntry {
        first_tag: TagId(part.tags.0),
        last_tag: TagId(part.tags.1),
        value_type: part.value_type,
        packed: part.packed,
        rows: part.rows,
        first_ns: part.span.0,
        last_ns: part.span.1,
        times: append(&part.times),
        body: append(&body),
        values_bytes: u32::try_from(part.values.len()).unwrap_or(u32::MAX),
        statistics: Statistics { good: part.rows, ..Statistics::default() },
    };
    let mut times = Vec::new();
    let is_plain = !part.packed && entry.len() <= crate::chunk::CHUNK_ROWS_CAP;
    if is_plain
        && crate::encoding::decode_times(&part.times, entry.len(), 0..entry.len(), &mut times)
            .is_ok()
        && let (Some(first), Some(last)) = (times.first(), times.last())
    {
        (entry.first_ns, entry.last_ns) = (*first, *last);
    }
    let mut rows = SeriesBuf::new(entry.first_tag, entry.value_type);
    if reader::decode_body(&entry, &body, 0..entry.len(), (true, true), &mut rows).is_ok() {
        entry.statistics = Statistics::of(entry.value_type, &rows.words, &rows.qualities);
    }
    entry
}

/// How many tags the chunks hold, if each holds others.
fn count_tags(entries: &[ChunkEntry], bytes: &[u8]) -> u32 {
    let mut tags: Vec<u32> = Vec::new();
    for entry in entries {
        if !entry.packed {
            tags.push(entry.first_tag.0);
            continue;
        }
        let start = usize::try_from(entry.times.offset).unwrap_or(usize::MAX);
        let region = bytes.get(start..start.saturating_add(entry.times.bytes as usize));
        if let Some(Ok(packed)) = region.map(|region| PackedRows::decode(entry, region)) {
            tags.extend(packed.tags());
        }
    }
    tags.sort_unstable();
    tags.dedup();
    u32::try_from(tags.len().max(1)).unwrap_or(u32::MAX)
}

/// Renews every checksum of a segment file, and the figures of its footer that follow from its directory and its length.
pub fn seal_segment(mut bytes: Vec<u8>) -> Option<Assembled> {
    let footer = bytes.len().checked_sub(FOOTER_BYTES)?;
    let chunks = u32_at(&bytes, footer + 40)?;
    let tier_blocks = u32_at(&bytes, footer + 52)?;
    let tiers = footer.checked_sub((tier_blocks as usize).checked_mul(TIER_ENTRY_BYTES)?)?;
    let directory_bytes =
        (chunks as usize).checked_mul(ENTRY_BYTES)?.checked_add(footer - tiers)?;
    let start = footer.checked_sub(directory_bytes).filter(|start| *start >= HEADER_BYTES)?;
    let identity = u64_at(&bytes, 16)?;
    let (mut rows, mut last_ns) = (0, i64::MIN);
    for chunk in 0..chunks as usize {
        let cell = |field: Field| start + chunks as usize * field.offset + chunk * field.size;
        for (offset, length, crc) in [
            (column::TIMES_OFFSET, column::TIMES_BYTES, column::TIMES_CRC),
            (column::BODY_OFFSET, column::BODY_BYTES, column::BODY_CRC),
        ] {
            let from = usize::try_from(u64_at(&bytes, cell(offset))?).ok()?;
            let to = from.checked_add(u32_at(&bytes, cell(length))? as usize)?;
            if let Some(region) = bytes.get(from..to) {
                let sum = crc32(identity, region);
                put(&mut bytes, cell(crc), &sum.to_le_bytes());
            }
        }
        rows += u64::from(u32_at(&bytes, cell(column::ROWS))?);
        last_ns = last_ns.max(u64_at(&bytes, cell(column::LAST_NS))?.cast_signed());
    }
    let [_, _, place, .., size, _, _] = TIER_ENTRY;
    for entry in (tiers..footer).step_by(TIER_ENTRY_BYTES) {
        let from = usize::try_from(u64_at(&bytes, entry + place.offset)?).ok()?;
        let to = from.checked_add(u32_at(&bytes, entry + size.offset)? as usize)?;
        if let Some(block) = bytes.get(from..to) {
            let sum = crc32(identity, block);
            put(&mut bytes, entry + TIER_CRC.offset, &sum.to_le_bytes());
        }
    }
    let meta = SegmentMeta {
        id: SegmentId(u64_at(&bytes, 24)?),
        kind: SegmentKind::from_code(*bytes.get(12)?)?,
        stage: SegmentStage::Sealed,
        tier: *bytes.get(13)?,
        identity,
        min_seq: Seq(u64_at(&bytes, 32)?),
        max_seq: Seq(u64_at(&bytes, 40)?),
        first_ns: u64_at(&bytes, 48)?.cast_signed(),
        last_ns,
        rows,
        chunks,
        tags: u32_at(&bytes, footer + 44)?,
        file_bytes: bytes.len() as u64,
        directory_offset: start as u64,
        directory_crc: crc32(identity, bytes.get(start..footer)?),
        tier_blocks,
    };
    let crc = crc32(identity, bytes.get(..HEADER_BYTES - 4)?);
    put(&mut bytes, HEADER_BYTES - 4, &crc.to_le_bytes());
    put(&mut bytes, footer, &layout::encode_footer(&meta));
    assembled(&meta, bytes)
}

/// Samples of one tag.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is what it says")]
pub struct Rows {
    pub tag: TagId,
    pub value_type: ValueType,
    pub times: Vec<i64>,
    pub words: Vec<u64>,
    pub texts: Vec<Arc<str>>,
    pub qualities: Vec<u32>,
}

/// A segment that is read.
#[derive(Debug)]
pub struct OpenSegment(Arc<Segment>);

impl OpenSegment {
    /// The segment that the manifest describes so; `None` if what it says contradicts itself.
    pub fn new(disk: &Arc<dyn Disk>, meta: &[u8]) -> Option<Self> {
        let meta = SegmentMeta::decode(&mut Reader::new(meta)).ok()?;
        Some(Self(Arc::new(Segment::new(Arc::clone(disk), meta))))
    }

    /// Everything that is wrong with it.
    pub fn verify(&self) -> Vec<Error> {
        let mut errors = Vec::new();
        self.0.verify_places(&mut |error, _place| errors.push(error), &mut |_read| true);
        errors
    }

    /// Every tag: first time, last time, rows.
    pub fn tags(&self) -> Result<Vec<(TagId, i64, i64, u64)>> {
        let mut tags = Vec::new();
        self.0.for_each_tag(&mut |tag, first, last, rows| tags.push((tag, first, last, rows)))?;
        Ok(tags)
    }

    /// The samples of a tag in `range`, chunk by chunk, whatever their types.
    pub fn read(&self, tag: TagId, range: TimeRange) -> Result<Vec<Rows>> {
        let directory = self.0.directory()?;
        let mut cursor = self.0.cursor();
        let mut all = Vec::new();
        for chunk in directory.find(tag, range) {
            let mut out = SeriesBuf::new(tag, directory.entry(chunk).value_type);
            cursor.read(chunk, tag, range, true, true, &mut out)?;
            let SeriesBuf { tag, value_type, times, words, texts, qualities } = out;
            all.push(Rows { tag, value_type, times, words, texts, qualities });
        }
        Ok(all)
    }
}

/// Writes a segment of these samples, ascending by tag.
pub fn write_segment(disk: &Arc<dyn Disk>, all: &[Rows]) -> Result<OpenSegment> {
    let first_ns = all.iter().filter_map(|rows| rows.times.first()).min().copied().unwrap_or(0);
    let plan = SegmentPlan {
        id: SegmentId(1),
        kind: SegmentKind::Base,
        tier: 0,
        stage: SegmentStage::Sealed,
        identity: IDENTITY,
        seqs: (Seq(1), Seq(1)),
        first_ns,
        effort: Effort::Final,
    };
    let mut writer = SegmentWriter::create(disk.as_ref(), plan)?;
    for rows in all {
        writer.push(Series {
            tag: rows.tag,
            value_type: rows.value_type,
            times: &rows.times,
            words: &rows.words,
            texts: &rows.texts,
            qualities: &rows.qualities,
        })?;
    }
    let meta = writer.finish()?;
    Ok(OpenSegment(Arc::new(Segment::new(Arc::clone(disk), meta))))
}
