//! Writes one segment file from front to back.
//!
//! # Contract
//! * Tags come in ascending order, each with its samples in time order; the same input gives the same bytes.
//! * A tag comes whole ([`SegmentWriter::push`]), or piece by piece ([`SegmentWriter::extend`], [`SegmentWriter::copy`]).
//! * Chunks with equal times point at one stored region, as far as it was written lately.
//! * Memory is bounded by the write buffer, a few MiB of such regions, one packed chunk per value type, blocks of rollups
//!   and the directory.
//! * Rollups are of exactly the samples it was given. Or it is given blocks of one tier and no samples at all
//!   ([`SegmentWriter::put_block`]): what outlives samples that have ended.
//! * The file counts only once the manifest names it. After an error the caller removes it.
//!
//! # What it does not know
//! Why these samples go together, and whether others win over them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::checksum::crc32;
use crate::chunk::builder::{Columns, PackedBuilder, piece_rows};
use crate::chunk::{ChunkEntry, Extent, Series, SeriesBuf, reader};
use crate::disk::{Disk, DiskFile};
use crate::encoding::Effort;
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::segment::layout::{
    CHUNKS_MAX, DIRECTORY_ALIGN, FOOTER_BYTES, HEADER_BYTES, TIER_BLOCKS_MAX, encode_footer,
    encode_header,
};
use crate::segment::name::SegmentName;
use crate::segment::shared::KeptTimes;
use crate::segment::tiers::TierEntry;
use crate::segment::{SegmentKind, SegmentMeta, SegmentStage, directory};
use crate::tag::{TagId, ValueType};
use crate::tier::build::{BlockHead, TierBlock, TierBuilder};
use crate::tier::rows::Rows;
use crate::time::TimeRange;
use crate::{SegmentId, Seq};

/// Bytes collected before they go to the disk.
const BUFFER_BYTES: usize = 1 << 20;

/// What is settled of a segment before its first sample comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentPlan {
    /// Number of the segment, never used before.
    pub id: SegmentId,
    /// Base or late.
    pub kind: SegmentKind,
    /// 0 is raw, see [`SegmentMeta::tier`].
    pub tier: u8,
    /// How often its samples have been written again.
    pub stage: SegmentStage,
    /// Random; seeds every checksum in the file.
    pub identity: u64,
    /// Least and greatest sequence number of a record it holds samples of.
    pub seqs: (Seq, Seq),
    /// Not after the first sample.
    pub first_ns: i64,
    /// How hard the encoders try.
    pub effort: Effort,
}

/// A segment file being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: Arc<dyn DiskFile>,
    /// For messages.
    path: PathBuf,
    /// Complete but for the figures known at the end.
    meta: SegmentMeta,
    /// Bytes not on the disk yet; they go to `written`.
    buffer: Vec<u8>,
    written: u64,
    effort: Effort,
    last_tag: Option<TagId>,
    /// Newest sample of that tag, if it has chunks of its own.
    last_ns: Option<i64>,
    columns: Columns,
    kept: KeptTimes,
    /// One per value type, in the order of the type numbers.
    packed: [PackedBuilder; ValueType::ALL.len()],
    entries: Vec<ChunkEntry>,
    builder: TierBuilder,
    tiers: Vec<TierEntry>,
}

impl SegmentPlan {
    /// Where the file will be.
    pub(crate) fn path(&self) -> String {
        SegmentName::new(self.tier, self.first_ns, self.id).path()
    }
}

impl SegmentWriter {
    /// Makes the file.
    ///
    /// # Errors
    /// If the file exists or the disk refuses.
    pub(crate) fn create(disk: &dyn Disk, plan: SegmentPlan) -> Result<Self> {
        let SegmentPlan { id, kind, tier, stage, identity, seqs, first_ns, effort } = plan;
        assert!(seqs.0 <= seqs.1, "a segment's seqs ascend");
        let meta = SegmentMeta {
            id,
            kind,
            tier,
            identity,
            min_seq: seqs.0,
            max_seq: seqs.1,
            first_ns,
            last_ns: first_ns,
            rows: 0,
            chunks: 0,
            tags: 0,
            file_bytes: 0,
            directory_offset: 0,
            directory_crc: 0,
            tier_blocks: 0,
            stage,
        };
        let path = disk.root().join(meta.path());
        let file = disk
            .create(&meta.path(), 0)
            .map_err(|source| Error::io("create segment", &path, source))?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + BUFFER_BYTES / 4);
        buffer.extend_from_slice(&encode_header(&meta));
        Ok(Self {
            file,
            path,
            meta,
            buffer,
            written: 0,
            effort,
            last_tag: None,
            last_ns: None,
            columns: Columns::default(),
            kept: KeptTimes::default(),
            packed: ValueType::ALL.map(PackedBuilder::new),
            entries: Vec::new(),
            builder: TierBuilder::new(),
            tiers: Vec::new(),
        })
    }

    /// Whether nothing was pushed yet: such a segment cannot be finished.
    pub(crate) fn is_empty(&self) -> bool {
        self.meta.rows == 0
    }

    /// Bytes the file has so far, without the rows still being collected, directory and footer.
    pub(crate) fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Takes all samples of one tag, greater than every tag pushed before. A tag without samples is left out.
    ///
    /// # Errors
    /// If the disk refuses; the writer is then of no further use.
    ///
    /// # Panics
    /// If tags do not ascend, columns differ in length, or a sample is older than the segment.
    pub(crate) fn push(&mut self, series: Series<'_>) -> Result<()> {
        if series.is_empty() {
            return Ok(());
        }
        assert!(self.last_tag.is_none_or(|last| last < series.tag), "tags must ascend");
        if !PackedBuilder::takes(series) {
            return self.extend(series);
        }
        self.note(series)?;
        self.last_ns = None;
        let slot = slot_of(series.value_type);
        if !self.packed[slot].has_room(series) {
            self.put_packed(slot)?;
        }
        self.packed[slot].push(series);
        Ok(())
    }

    /// Takes samples of a tag as chunks of its own: the first of a tag greater than every one before, or further ones of
    /// the last tag that are newer than those it came with.
    ///
    /// # Errors
    /// As [`Self::push`].
    ///
    /// # Panics
    /// As [`Self::push`]; if the tag came packed.
    pub(crate) fn extend(&mut self, series: Series<'_>) -> Result<()> {
        if series.is_empty() {
            return Ok(());
        }
        self.note(series)?;
        let mut from = 0;
        while from < series.len() {
            let left = series.slice(from..series.len());
            let rows = piece_rows(left);
            let entry = self.columns.encode(left.slice(0..rows), self.effort);
            self.put_chunk(entry)?;
            from += rows;
        }
        Ok(())
    }

    /// Takes a plain chunk of another segment as it is, under the rules of [`Self::extend`]. `times` and `body` are its
    /// verified bytes; their checksums are computed anew, under this file's identity.
    ///
    /// # Errors
    /// As [`Self::push`].
    ///
    /// # Panics
    /// As [`Self::extend`].
    pub(crate) fn copy(&mut self, entry: &ChunkEntry, times: &[u8], body: &[u8]) -> Result<()> {
        assert!(!entry.packed, "a packed chunk holds other tags too");
        assert_eq!(entry.times.bytes as usize, times.len(), "times of {entry}");
        assert_eq!(entry.body.bytes as usize, body.len(), "body of {entry}");
        self.advance(entry.first_tag, entry.first_ns, entry.last_ns, u64::from(entry.rows));
        self.roll_up_copied(entry, times, body)?;
        self.columns.times.clear();
        self.columns.times.extend_from_slice(times);
        self.columns.body.clear();
        self.columns.body.extend_from_slice(body);
        self.put_chunk(*entry)
    }

    /// Takes a block of rollups of the tier that the segment is of, instead of samples.
    ///
    /// # Errors
    /// If the disk refuses; the writer is then of no further use.
    ///
    /// # Panics
    /// If the block is of another tier, or the segment of none.
    pub(crate) fn put_block(&mut self, block: &TierBlock) -> Result<()> {
        let TierBlock { head, samples, bytes } = block;
        assert_eq!(head.tier.code(), self.meta.tier, "a tier segment holds one tier");
        assert!(self.meta.first_ns <= head.first_ns, "a block is older than its segment");
        self.meta.last_ns = self.meta.last_ns.max(head.last_ns);
        self.meta.rows += samples;
        self.meta.tags += head.runs; // a tag has one run of a day
        self.append_block(*head, bytes)
    }

    /// Takes note of samples to come.
    fn note(&mut self, series: Series<'_>) -> Result<()> {
        series.check();
        let (Some(&first_ns), Some(&last_ns)) = (series.times.first(), series.times.last()) else {
            return Ok(());
        };
        self.advance(series.tag, first_ns, last_ns, series.len() as u64);
        self.builder.add(series.tag, &Rows::of(series));
        self.put_blocks()
    }

    /// The rollups of a chunk that is copied are made from what it decodes to.
    fn roll_up_copied(&mut self, entry: &ChunkEntry, times: &[u8], body: &[u8]) -> Result<()> {
        let mut rows = SeriesBuf::new(entry.first_tag, entry.value_type);
        let wanted = (entry.value_type != ValueType::Text, true);
        let decoded = reader::decode_times(entry, times, TimeRange::ALL, &mut rows.times)
            .and_then(|all| reader::decode_body(entry, body, all, wanted, &mut rows));
        decoded.map_err(|why| Error::corrupt(entry.to_string(), &self.path, 0, why.0))?;
        self.builder.add(entry.first_tag, &Rows::of(rows.as_series()));
        self.put_blocks()
    }

    /// Writes the blocks of rollups that are full.
    fn put_blocks(&mut self) -> Result<()> {
        while let Some(TierBlock { head, bytes, .. }) = self.builder.next_block() {
            self.append_block(head, &bytes)?;
        }
        Ok(())
    }

    fn append_block(&mut self, head: BlockHead, block: &[u8]) -> Result<()> {
        let bytes = u32::try_from(block.len()).expect("a block is below 4 GiB");
        let crc = crc32(self.meta.identity, block);
        let extent = Extent { offset: self.bytes(), bytes, crc };
        self.tiers.push(TierEntry { head, extent });
        self.buffer.extend_from_slice(block);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn advance(&mut self, tag: TagId, first_ns: i64, last_ns: i64, rows: u64) {
        let follows = match self.last_tag {
            None => true,
            Some(last) if last == tag => self.last_ns.is_some_and(|end_ns| end_ns < first_ns),
            Some(last) => last < tag,
        };
        assert!(follows, "tags must ascend, and the times of each");
        assert!(self.meta.first_ns <= first_ns, "a sample is older than its segment");
        assert!(first_ns <= last_ns, "times must ascend");
        self.meta.tags += u32::from(self.last_tag != Some(tag));
        (self.last_tag, self.last_ns) = (Some(tag), Some(last_ns));
        self.meta.last_ns = self.meta.last_ns.max(last_ns);
        self.meta.rows += rows;
    }

    /// Writes directory and footer and syncs the file, but not its folder.
    ///
    /// # Errors
    /// If the disk refuses, or nothing was pushed. The caller then removes the file.
    pub(crate) fn finish(mut self) -> Result<SegmentMeta> {
        if self.is_empty() {
            return Err(Error::Invalid("a segment must hold at least one sample".into()));
        }
        for slot in 0..self.packed.len() {
            self.put_packed(slot)?;
        }
        self.builder.finish();
        self.put_blocks()?;
        self.entries.sort_by_key(directory::order);
        self.tiers.sort_by_key(TierEntry::order);
        self.meta.directory_offset = self.bytes().next_multiple_of(DIRECTORY_ALIGN);
        self.meta.chunks = u32::try_from(self.entries.len())
            .ok()
            .filter(|_| self.entries.len() <= CHUNKS_MAX)
            .ok_or_else(|| Error::Invalid(format!("a segment has at most {CHUNKS_MAX} chunks")))?;
        self.meta.tier_blocks = u32::try_from(self.tiers.len())
            .ok()
            .filter(|blocks| *blocks as usize <= TIER_BLOCKS_MAX)
            .ok_or_else(|| Error::Invalid("a segment has too many blocks of rollups".into()))?;
        let padding = self.meta.directory_offset - self.bytes();
        self.buffer.extend((0..padding).map(|_| 0));
        let start = self.buffer.len();
        directory::encode(&self.entries, &self.tiers, &mut self.buffer);
        self.meta.directory_crc = crc32(self.meta.identity, &self.buffer[start..]);
        self.meta.file_bytes = self.bytes() + FOOTER_BYTES as u64;
        self.buffer.extend_from_slice(&encode_footer(&self.meta));
        self.flush()?;
        assert_eq!(self.written, self.meta.file_bytes, "the file has the length its meta says");
        assert!(self.meta.directory_offset >= HEADER_BYTES as u64, "chunks follow the header");
        if !planted::is(Bug::SegmentNotSynced) {
            self.file.sync().map_err(|source| Error::io("sync segment", &self.path, source))?;
        }
        Ok(self.meta)
    }

    fn put_packed(&mut self, slot: usize) -> Result<()> {
        match self.packed[slot].encode(&mut self.columns, self.effort) {
            Some(entry) => self.put_chunk(entry),
            None => Ok(()),
        }
    }

    /// Writes the chunk in `columns` and notes where it lies.
    fn put_chunk(&mut self, mut entry: ChunkEntry) -> Result<()> {
        let identity = self.meta.identity;
        entry.times.crc = crc32(identity, &self.columns.times);
        let twin = self.kept.find(&self.columns.times, entry.times.crc).filter(|_| !entry.packed);
        if let Some(twin) = twin {
            entry.times = twin;
        } else {
            entry.times.offset = self.bytes();
            self.buffer.extend_from_slice(&self.columns.times);
            if !entry.packed {
                self.kept.keep(&self.columns.times, entry.times);
            }
        }
        entry.body.offset = self.bytes();
        entry.body.crc = crc32(identity, &self.columns.body);
        self.buffer.extend_from_slice(&self.columns.body);
        self.entries.push(entry);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file
            .write_at(self.written, &self.buffer)
            .map_err(|source| Error::io("write segment", &self.path, source))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Position of a type in a table of all types.
pub(crate) fn slot_of(value_type: ValueType) -> usize {
    usize::from(value_type.code()) - 1
}

const _: () = {
    let mut slot = 0;
    while slot < ValueType::ALL.len() {
        assert!(ValueType::ALL[slot].code() as usize == slot + 1, "type numbers count from 1");
        slot += 1;
    }
};
