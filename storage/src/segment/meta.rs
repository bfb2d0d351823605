//! What the manifest knows of a segment: enough to tell the right file from a damaged, foreign or older one.

use std::fmt;

use crate::bytes::{Malformed, Reader};
use crate::encoding::Effort;
use crate::limits::NUMBER_MAX;
use crate::segment::layout::{
    CHUNKS_MAX, ENTRY_BYTES, FOOTER_BYTES, HEADER_BYTES, TIER_BLOCKS_MAX, TIER_ENTRY_BYTES,
};
use crate::segment::name::{self, SegmentName};
use crate::tier::Tier;
use crate::{SegmentId, Seq};

/// How a segment's samples relate to those sealed before it. The numbers are part of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentKind {
    /// Every sample was newer than its tag's newest sealed one.
    Base = 1,
    /// Some samples arrived late, or correct sealed ones.
    Late = 2,
}

impl SegmentKind {
    /// The kind with this number, if there is one.
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Base),
            2 => Some(Self::Late),
            _ => None,
        }
    }

    /// The kind's number in the formats.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for SegmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Late => "late",
        })
    }
}

/// How often a segment's samples have been written again. The numbers are part of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SegmentStage {
    /// As sealed, or a part of it.
    Sealed = 0,
    /// Merged from others.
    Merged = 1,
    /// Merged for good: its partition is complete as far as is known.
    Final = 2,
}

impl SegmentStage {
    /// The stage with this number, if there is one.
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Sealed),
            1 => Some(Self::Merged),
            2 => Some(Self::Final),
            _ => None,
        }
    }

    /// The stage's number in the formats.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// How hard the encoders try for a segment of this stage. So a chunk of a final segment never needs another try.
    pub(crate) const fn effort(self) -> Effort {
        match self {
            Self::Sealed | Self::Merged => Effort::Light,
            Self::Final => Effort::Final,
        }
    }
}

impl fmt::Display for SegmentStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sealed => "sealed",
            Self::Merged => "merged",
            Self::Final => "final",
        })
    }
}

/// Everything the manifest knows of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    /// Number of the segment, never reused.
    pub id: SegmentId,
    /// Base or late.
    pub kind: SegmentKind,
    /// 0 is raw; else the number of the tier whose rollups it holds, and nothing else.
    pub tier: u8,
    /// Random; seeds every checksum in the file.
    pub identity: u64,
    /// Least sequence number of a record it holds samples of.
    pub min_seq: Seq,
    /// Greatest sequence number of a record it holds samples of.
    pub max_seq: Seq,
    /// No sample is older; its UTC day is in the file's name.
    pub first_ns: i64,
    /// Time of the newest sample.
    pub last_ns: i64,
    /// Samples, or samples that its rollups stand for.
    pub rows: u64,
    /// Chunks: at least 1 in a raw segment, else none.
    pub chunks: u32,
    /// Tags that have samples or rollups in it.
    pub tags: u32,
    /// Length of the file.
    pub file_bytes: u64,
    /// Where the directory begins; it ends where the footer begins.
    pub directory_offset: u64,
    /// Checksum of the directory.
    pub directory_crc: u32,
    /// Blocks of rollups.
    pub tier_blocks: u32,
    /// How often its samples have been written again.
    pub stage: SegmentStage,
}

impl SegmentMeta {
    /// Bytes that [`Self::encode`] appends.
    const BYTES: usize = 91;

    /// Place in the order of precedence: of equal keys the row of the greater rank counts.
    ///
    /// A base segment held no key of another when it was sealed, so every late segment is newer than any base segment
    /// it shares a key with, whatever their seqs say after merges.
    pub(crate) fn rank(&self) -> (u8, Seq, SegmentId) {
        (self.kind.code(), self.max_seq, self.id)
    }

    /// Whether it holds samples, and not what is left of some that have ended.
    pub(crate) const fn is_raw(&self) -> bool {
        self.tier == 0
    }

    /// The tier whose rollups are all it holds.
    pub(crate) const fn only_tier(&self) -> Option<Tier> {
        Tier::from_code(self.tier)
    }

    /// Path of the file, relative to the database directory.
    pub(crate) fn path(&self) -> String {
        SegmentName::new(self.tier, self.first_ns, self.id).path()
    }

    /// Appends the 91 bytes that [`Self::decode`] reads.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(Self::BYTES);
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&[self.kind.code(), self.tier]);
        out.extend_from_slice(&self.identity.to_le_bytes());
        out.extend_from_slice(&self.min_seq.0.to_le_bytes());
        out.extend_from_slice(&self.max_seq.0.to_le_bytes());
        out.extend_from_slice(&self.first_ns.to_le_bytes());
        out.extend_from_slice(&self.last_ns.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.chunks.to_le_bytes());
        out.extend_from_slice(&self.tags.to_le_bytes());
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        out.extend_from_slice(&self.directory_offset.to_le_bytes());
        out.extend_from_slice(&self.directory_crc.to_le_bytes());
        out.extend_from_slice(&self.tier_blocks.to_le_bytes());
        out.push(self.stage.code());
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes end early, or the figures contradict each other.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = SegmentId(reader.u64()?);
        let kind = SegmentKind::from_code(reader.u8()?).ok_or(Malformed("unknown segment kind"))?;
        let meta = Self {
            id,
            kind,
            tier: reader.u8()?,
            identity: reader.u64()?,
            min_seq: Seq(reader.u64()?),
            max_seq: Seq(reader.u64()?),
            first_ns: reader.i64()?,
            last_ns: reader.i64()?,
            rows: reader.u64()?,
            chunks: reader.u32()?,
            tags: reader.u32()?,
            file_bytes: reader.u64()?,
            directory_offset: reader.u64()?,
            directory_crc: reader.u32()?,
            tier_blocks: reader.u32()?,
            stage: SegmentStage::from_code(reader.u8()?)
                .ok_or(Malformed("unknown segment stage"))?,
        };
        if meta.is_consistent() { Ok(meta) } else { Err(Malformed("a segment contradicts itself")) }
    }

    /// Bytes of the directory: entries of chunks, and of blocks of rollups.
    pub(crate) fn directory_bytes(&self) -> u64 {
        u64::from(self.chunks) * ENTRY_BYTES as u64
            + u64::from(self.tier_blocks) * TIER_ENTRY_BYTES as u64
    }

    fn is_consistent(&self) -> bool {
        let file_bytes = self
            .directory_offset
            .checked_add(self.directory_bytes())
            .and_then(|end| end.checked_add(FOOTER_BYTES as u64));
        name::is_tier(self.tier)
            && self.id.0 <= NUMBER_MAX
            && self.max_seq.0 <= NUMBER_MAX
            && self.min_seq <= self.max_seq
            && self.first_ns <= self.last_ns
            && self.chunks as usize <= CHUNKS_MAX
            && self.tier_blocks as usize <= TIER_BLOCKS_MAX
            && if self.is_raw() {
                self.chunks > 0
            } else {
                self.chunks == 0 && self.tier_blocks > 0
            }
            && u32::try_from(self.directory_bytes()).is_ok()
            && self.tags > 0
            && u64::from(self.tags) <= self.rows
            && self.directory_offset >= HEADER_BYTES as u64
            && file_bytes == Some(self.file_bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> SegmentMeta {
        SegmentMeta {
            id: SegmentId(7),
            kind: SegmentKind::Late,
            tier: 0,
            identity: 0x0123_4567_89AB_CDEF,
            min_seq: Seq(3),
            max_seq: Seq(9),
            first_ns: 1_767_225_600_000_000_000,
            last_ns: 1_767_225_600_000_000_500,
            rows: 40,
            chunks: 2,
            tags: 5,
            file_bytes: 1_000 + (2 * ENTRY_BYTES + TIER_ENTRY_BYTES + FOOTER_BYTES) as u64,
            directory_offset: 1_000,
            directory_crc: 77,
            tier_blocks: 1,
            stage: SegmentStage::Merged,
        }
    }

    #[test]
    fn the_manifests_copy_reads_back() {
        let mut bytes = Vec::new();
        example().encode(&mut bytes);
        assert_eq!(bytes.len(), SegmentMeta::BYTES);
        assert_eq!(SegmentMeta::decode(&mut Reader::new(&bytes)).unwrap(), example());
        for length in 0..bytes.len() {
            assert!(SegmentMeta::decode(&mut Reader::new(&bytes[..length])).is_err());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let broken = [
            SegmentMeta { tier: 9, ..example() },
            SegmentMeta { min_seq: Seq(10), ..example() },
            SegmentMeta { last_ns: 0, ..example() },
            SegmentMeta { chunks: 3, ..example() },
            SegmentMeta { tier_blocks: 2, ..example() },
            SegmentMeta { directory_offset: u64::MAX, ..example() },
            SegmentMeta { tags: 41, ..example() },
            SegmentMeta { file_bytes: 0, ..example() },
        ];
        for meta in broken {
            let mut bytes = Vec::new();
            meta.encode(&mut bytes);
            assert!(SegmentMeta::decode(&mut Reader::new(&bytes)).is_err(), "{meta:?}");
        }
    }
}
