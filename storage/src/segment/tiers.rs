//! Blocks of rollups in a segment: where they lie, and which of them may say something of a tag.
//!
//! # Invariants
//! Entries ascend by (tier, type, tags, times). A tag is in several blocks of a tier only if it has several runs.
//!
//! # What it does not know
//! The file, and what the rows of a block mean: `crate::tier::stored` knows.

use std::fmt;
use std::ops::Range;

use crate::bytes::{Malformed, Reader};
use crate::chunk::Extent;
use crate::segment::SegmentMeta;
use crate::segment::layout::{TIER_CRC, TIER_ENTRY, TIER_ENTRY_BYTES};
use crate::tag::{TagId, ValueType};
use crate::tier::Tier;
use crate::tier::build::{BLOCK_ROWS_MAX, BlockHead};
use crate::tier::rollup::Rollup;
use crate::tier::stored;
use crate::time::Rfc3339;

/// A block of rollups and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TierEntry {
    /// What is in it.
    pub head: BlockHead,
    /// Where it is.
    pub extent: Extent,
}

impl TierEntry {
    /// The order of entries.
    pub(crate) fn order(&self) -> (Tier, u8, TagId, i64) {
        let BlockHead { tier, value_type, first_tag, first_ns, .. } = self.head;
        (tier, value_type.code(), first_tag, first_ns)
    }

    /// Appends the entry.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let BlockHead { tier, value_type, first_tag, last_tag, first_ns, last_ns, runs, rows } =
            self.head;
        let cells = [
            first_ns.cast_unsigned(),
            last_ns.cast_unsigned(),
            self.extent.offset,
            u64::from(first_tag.0),
            u64::from(last_tag.0),
            u64::from(runs),
            u64::from(rows),
            u64::from(self.extent.bytes),
            u64::from(tier.code()),
            u64::from(value_type.code()),
        ];
        let mut entry = [0; TIER_ENTRY_BYTES];
        for (field, cell) in TIER_ENTRY.into_iter().zip(cells) {
            field.put(&mut entry, cell);
        }
        TIER_CRC.put(&mut entry, u64::from(self.extent.crc));
        out.extend_from_slice(&entry);
    }

    /// Reads the entries of all blocks and checks that they can be those of this segment.
    pub(crate) fn decode_all(bytes: &[u8], meta: &SegmentMeta) -> Result<Vec<Self>, Malformed> {
        let (each, rest) = bytes.as_chunks::<TIER_ENTRY_BYTES>();
        if each.len() != meta.tier_blocks as usize || !rest.is_empty() {
            return Err(Malformed("the list of tier blocks has another length"));
        }
        let entries: Vec<Self> = each.iter().map(Self::decode).collect::<Result<_, _>>()?;
        for entry in &entries {
            entry.check(meta)?;
        }
        let follows = |a: &Self, b: &Self| {
            let is_next = a.head.tier != b.head.tier || a.head.value_type != b.head.value_type;
            a.order() < b.order() && (is_next || a.head.last_tag <= b.head.first_tag)
        };
        if entries.is_sorted_by(follows) {
            Ok(entries)
        } else {
            Err(Malformed("the tier blocks are out of order"))
        }
    }

    fn decode(bytes: &[u8; TIER_ENTRY_BYTES]) -> Result<Self, Malformed> {
        let [first_ns, last_ns, offset, first_tag, last_tag, runs, rows, size, tier, value_type] =
            TIER_ENTRY;
        let byte = |field: crate::fields::Field| u8::try_from(field.get(bytes)).unwrap_or(0);
        let head = BlockHead {
            tier: Tier::from_code(byte(tier)).ok_or(Malformed("unknown tier"))?,
            value_type: ValueType::from_code(byte(value_type))
                .ok_or(Malformed("unknown value type"))?,
            first_tag: TagId(first_tag.get_u32(bytes)),
            last_tag: TagId(last_tag.get_u32(bytes)),
            first_ns: first_ns.get(bytes).cast_signed(),
            last_ns: last_ns.get(bytes).cast_signed(),
            runs: runs.get_u32(bytes),
            rows: rows.get_u32(bytes),
        };
        let extent = Extent {
            offset: offset.get(bytes),
            bytes: size.get_u32(bytes),
            crc: TIER_CRC.get_u32(bytes),
        };
        Ok(Self { head, extent })
    }

    /// Whether it makes sense by itself.
    fn check(&self, meta: &SegmentMeta) -> Result<(), Malformed> {
        let BlockHead { first_tag, last_tag, first_ns, last_ns, runs, rows, .. } = self.head;
        if last_tag < first_tag || runs == 0 || runs > rows || rows as usize > BLOCK_ROWS_MAX {
            return Err(Malformed("a tier block contradicts itself"));
        }
        if meta.only_tier().is_some_and(|only| only != self.head.tier) {
            return Err(Malformed("a tier block is of another tier than its segment"));
        }
        if first_ns < meta.first_ns || last_ns > meta.last_ns || last_ns < first_ns {
            return Err(Malformed("a tier block lies outside the segment's span of time"));
        }
        Ok(())
    }
}

impl fmt::Display for TierEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BlockHead { tier, first_tag, last_tag, first_ns, last_ns, .. } = self.head;
        let (first, last) = (Rfc3339(first_ns), Rfc3339(last_ns));
        write!(f, "rollups of {tier}, tags {first_tag} to {last_tag}, {first} .. {last}")
    }
}

/// The rows of a block.
#[derive(Debug)]
pub(crate) struct TierRows {
    /// Tags, ascending, and where the rows of each end.
    runs: Vec<(TagId, usize)>,
    rows: Vec<Rollup>,
}

impl TierRows {
    /// Decodes a block and checks that it is what its entry says.
    pub(crate) fn decode(entry: &TierEntry, usable: bool, bytes: &[u8]) -> Result<Self, Malformed> {
        let BlockHead { tier, value_type, runs, rows, .. } = entry.head;
        let mut reader = Reader::new(bytes);
        let runs = stored::decode_runs(&mut reader, runs as usize, rows as usize)?;
        let rows = stored::decode(reader.rest(), rows as usize, tier, value_type, usable)?;
        let block = Self { runs, rows };
        block.check(&entry.head)?;
        Ok(block)
    }

    fn check(&self, head: &BlockHead) -> Result<(), Malformed> {
        let ends = self.runs.first().zip(self.runs.last());
        if ends.is_none_or(|(first, last)| (first.0, last.0) != (head.first_tag, head.last_tag)) {
            return Err(Malformed("a tier block has other tags than the directory says"));
        }
        let (mut first_ns, mut last_ns) = (i64::MAX, i64::MIN);
        for (_, rows) in self.runs() {
            if !rows.is_sorted_by(|a, b| a.last_ns < b.first_ns && a.start_ns < b.start_ns) {
                return Err(Malformed("the rollups of a run are out of order"));
            }
            first_ns = first_ns.min(rows.first().map_or(i64::MAX, |row| row.first_ns));
            last_ns = last_ns.max(rows.last().map_or(i64::MIN, |row| row.last_ns));
        }
        if (first_ns, last_ns) != (head.first_ns, head.last_ns) {
            return Err(Malformed("a tier block has other times than the directory says"));
        }
        Ok(())
    }

    /// Each tag and its rows.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (TagId, &[Rollup])> {
        let starts = std::iter::once(0).chain(self.runs.iter().map(|(_, end)| *end));
        self.runs.iter().zip(starts).map(|((tag, end), start)| (*tag, &self.rows[start..*end]))
    }

    /// All rows.
    pub(crate) fn rows(&self) -> &[Rollup] {
        &self.rows
    }

    /// Positions of a tag's rows; none if the block holds none.
    pub(crate) fn run(&self, tag: TagId) -> Range<usize> {
        let Ok(at) = self.runs.binary_search_by_key(&tag, |(tag, _)| *tag) else { return 0..0 };
        let start = at.checked_sub(1).map_or(0, |before| self.runs[before].1);
        start..self.runs[at].1
    }
}

/// Positions of the blocks of a tier that may hold runs of a tag.
pub(crate) fn find(
    entries: &[TierEntry],
    tier: Tier,
    value_type: ValueType,
    tag: TagId,
) -> Range<usize> {
    let key = |entry: &TierEntry| (entry.head.tier, entry.head.value_type.code());
    let wanted = (tier, value_type.code());
    let start = entries.partition_point(|e| (key(e), e.head.last_tag) < (wanted, tag));
    let end = entries.partition_point(|e| (key(e), e.head.first_tag) <= (wanted, tag));
    start..end.max(start)
}
