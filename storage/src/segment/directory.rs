//! Directory of a segment: which chunk holds which tag and time, where, and what is known of it.
//!
//! # Invariants
//! 1. Plain entries come first, ascending by (tag, time); the chunks of one tag have one type and do not overlap.
//! 2. Packed entries follow, ascending by (type, tags); those of one type do not overlap in tags. They may reach over
//!    tags that have plain chunks, so a lookup asks one binary search among the plain and one per type.
//! 3. The extents of chunks and of blocks of rollups fill the file from the header to the directory without gap or
//!    overlap, but for the zero bytes that align the directory. Plain chunks may share a times region: same place, length and checksum.
//!
//! [`Directory::decode`] checks them, so that no reader needs to.
//!
//! # What it does not know
//! The file. It is handed verified bytes.

use crate::bytes::Malformed;
use crate::chunk::{CHUNK_ROWS_CAP, ChunkEntry, Extent, Statistics};
use crate::segment::SegmentMeta;
use crate::segment::layout::{
    DIRECTORY, DIRECTORY_ALIGN, ENTRY_BYTES, Field, HEADER_BYTES, TIER_ENTRY_BYTES, column,
};
use crate::segment::tiers::TierEntry;
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// The one known flag of an entry.
const PACKED: u8 = 1;

/// Position of a chunk in its segment's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkIndex(pub u32);

/// The directory in the form it has in the file: one array per column.
#[derive(Debug)]
pub(crate) struct Directory {
    bytes: Vec<u8>,
    len: usize,
    /// Where the packed entries of each type begin, in the order of the type numbers, and the number of entries.
    packed: [usize; ValueType::ALL.len() + 1],
    /// A bit for each chunk: whether others share its times region.
    shared: Vec<u64>,
    /// The first and the last tag of any chunk.
    tags: (TagId, TagId),
    /// Blocks of rollups.
    tiers: Vec<TierEntry>,
}

/// Appends the directory of these entries, which are in directory order.
pub(crate) fn encode(entries: &[ChunkEntry], tiers: &[TierEntry], out: &mut Vec<u8>) {
    out.reserve(entries.len() * ENTRY_BYTES + tiers.len() * TIER_ENTRY_BYTES);
    for column in DIRECTORY {
        for entry in entries {
            let cell = cell_of(entry, column).to_le_bytes();
            out.extend_from_slice(&cell[..column.size]);
        }
    }
    for tier in tiers {
        tier.encode(out);
    }
}

/// The order of a directory's entries.
pub(crate) fn order(entry: &ChunkEntry) -> (bool, u8, TagId, i64) {
    let group = if entry.packed { entry.value_type.code() } else { 0 };
    (entry.packed, group, entry.first_tag, entry.first_ns)
}

fn cell_of(entry: &ChunkEntry, column: Field) -> u64 {
    let statistics = &entry.statistics;
    match column {
        column::FIRST_NS => entry.first_ns.cast_unsigned(),
        column::LAST_NS => entry.last_ns.cast_unsigned(),
        column::TIMES_OFFSET => entry.times.offset,
        column::BODY_OFFSET => entry.body.offset,
        column::MIN => statistics.min,
        column::MAX => statistics.max,
        column::SUM => statistics.sum.to_bits(),
        column::FIRST => statistics.first,
        column::LAST => statistics.last,
        column::FIRST_TAG => u64::from(entry.first_tag.0),
        column::LAST_TAG => u64::from(entry.last_tag.0),
        column::ROWS => u64::from(entry.rows),
        column::TIMES_BYTES => u64::from(entry.times.bytes),
        column::TIMES_CRC => u64::from(entry.times.crc),
        column::BODY_BYTES => u64::from(entry.body.bytes),
        column::BODY_CRC => u64::from(entry.body.crc),
        column::VALUES_BYTES => u64::from(entry.values_bytes),
        column::GOOD => u64::from(statistics.good),
        column::UNCERTAIN => u64::from(statistics.uncertain),
        column::BAD => u64::from(statistics.bad),
        column::NON_FINITE => u64::from(statistics.non_finite),
        column::VALUE_TYPE => u64::from(entry.value_type.code()),
        column::FLAGS => u64::from(if entry.packed { PACKED } else { 0 }),
        _ => unreachable!("every column of the layout stands above"),
    }
}

impl Directory {
    /// Takes the bytes of a directory and checks its invariants against what the manifest says of the segment.
    ///
    /// # Errors
    /// The position of the first entry that breaks them, if it is one entry, and what is wrong.
    pub(crate) fn decode(
        meta: &SegmentMeta,
        mut bytes: Vec<u8>,
    ) -> Result<Self, (ChunkIndex, Malformed)> {
        let whole = |why| (ChunkIndex(0), Malformed(why));
        let len = meta.chunks as usize;
        let entries_bytes = len * ENTRY_BYTES;
        if bytes.len() < entries_bytes || (len == 0 && meta.is_raw()) {
            return Err(whole("the directory has another length"));
        }
        let tiers = TierEntry::decode_all(&bytes[entries_bytes..], meta);
        let tiers = tiers.map_err(|why| (ChunkIndex(0), why))?;
        bytes.truncate(entries_bytes);
        bytes.shrink_to_fit();
        let mut directory = Self {
            tiers,
            bytes,
            len,
            packed: [len; ValueType::ALL.len() + 1],
            shared: vec![0; len.div_ceil(64)],
            tags: (TagId(u32::MAX), TagId(0)),
        };
        let mut rows = 0;
        let mut last = None;
        for index in directory.indices() {
            let entry = directory.check_entry(index, meta).map_err(|why| (index, why))?;
            rows += u64::from(entry.rows);
            let (first, through) = directory.tags;
            directory.tags = (first.min(entry.first_tag), through.max(entry.last_tag));
            if let Some(last) = last {
                check_order(&last, &entry).map_err(|why| (index, why))?;
            }
            last = Some(entry);
        }
        if meta.is_raw() && rows != meta.rows {
            return Err(whole("the chunks have another number of rows than the segment"));
        }
        directory.check_extents(meta.directory_offset).map_err(whole)?;
        directory.find_sections();
        Ok(directory)
    }

    /// All chunks in directory order: plain ones by (tag, time), then packed ones by (type, tags).
    pub(crate) fn indices(&self) -> impl Iterator<Item = ChunkIndex> + use<> {
        (0..u32::try_from(self.len).expect("the number of chunks is a u32")).map(ChunkIndex)
    }

    /// Positions of the plain chunks.
    pub(crate) fn plain(&self) -> std::ops::Range<usize> {
        0..self.packed[0]
    }

    /// Positions of the packed chunks, type by type.
    pub(crate) fn packed(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.packed.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// The least tag from `tag` on that may have samples. Every tag that has some is found by asking on from it.
    pub(crate) fn next_tag(&self, tag: TagId) -> Option<TagId> {
        let plain = partition_point(self.plain(), |i| self.u32(column::FIRST_TAG, i) < tag.0);
        let plain = (plain < self.packed[0]).then(|| self.u32(column::FIRST_TAG, plain));
        let packed = self.packed().filter_map(|section| {
            let end = section.end;
            let index = partition_point(section, |i| self.u32(column::LAST_TAG, i) < tag.0);
            (index < end).then(|| self.u32(column::FIRST_TAG, index).max(tag.0))
        });
        packed.chain(plain).min().map(TagId)
    }

    /// Chunks that may hold samples of `tag` in `range`, ascending in time.
    ///
    /// A packed chunk is named if its tags reach over `tag`; only reading it tells whether it holds the tag. At most
    /// one per value type is named, and callers that know the tag's type may skip those of others.
    pub(crate) fn find(
        &self,
        tag: TagId,
        range: TimeRange,
    ) -> impl Iterator<Item = ChunkIndex> + '_ {
        let mut next = partition_point(self.plain(), |i| {
            let key = (self.u32(column::FIRST_TAG, i), self.i64(column::LAST_NS, i));
            key < (tag.0, range.start_ns)
        });
        let plain = std::iter::from_fn(move || {
            let index = next;
            next += 1;
            let holds = index < self.packed[0]
                && self.u32(column::FIRST_TAG, index) == tag.0
                && self.overlaps(index, range);
            holds.then_some(index)
        });
        let packed = self.packed().filter_map(move |section| {
            let end = section.end;
            let index = partition_point(section, |i| self.u32(column::LAST_TAG, i) < tag.0);
            let holds = index < end
                && self.u32(column::FIRST_TAG, index) <= tag.0
                && self.overlaps(index, range);
            holds.then_some(index)
        });
        plain.chain(packed).map(|i| ChunkIndex(u32::try_from(i).expect("within the directory")))
    }

    fn overlaps(&self, i: usize, range: TimeRange) -> bool {
        range.overlaps_span(self.i64(column::FIRST_NS, i), self.i64(column::LAST_NS, i))
    }

    /// Whether a tag lies between the first and the last one of all chunks. If not, none of them holds it, which is told
    /// without a search.
    pub(crate) fn spans(&self, tag: TagId) -> bool {
        self.tags.0 <= tag && tag <= self.tags.1
    }

    /// What is known of the chunk at `index`.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub(crate) fn entry(&self, index: ChunkIndex) -> ChunkEntry {
        self.entry_or(index).expect("decode looked at every entry")
    }

    fn entry_or(&self, index: ChunkIndex) -> Result<ChunkEntry, Malformed> {
        let i = index.0 as usize;
        assert!(i < self.len, "chunk {i} of {}", self.len);
        let value_type = ValueType::from_code(self.u8(column::VALUE_TYPE, i))
            .ok_or(Malformed("unknown value type"))?;
        let packed = match self.u8(column::FLAGS, i) {
            0 => false,
            PACKED => true,
            _ => return Err(Malformed("unknown flags")),
        };
        let extent = |offset, bytes, crc| Extent {
            offset: self.u64(offset, i),
            bytes: self.u32(bytes, i),
            crc: self.u32(crc, i),
        };
        Ok(ChunkEntry {
            first_tag: TagId(self.u32(column::FIRST_TAG, i)),
            last_tag: TagId(self.u32(column::LAST_TAG, i)),
            value_type,
            packed,
            rows: self.u32(column::ROWS, i),
            first_ns: self.i64(column::FIRST_NS, i),
            last_ns: self.i64(column::LAST_NS, i),
            times: extent(column::TIMES_OFFSET, column::TIMES_BYTES, column::TIMES_CRC),
            body: extent(column::BODY_OFFSET, column::BODY_BYTES, column::BODY_CRC),
            values_bytes: self.u32(column::VALUES_BYTES, i),
            statistics: Statistics {
                good: self.u32(column::GOOD, i),
                uncertain: self.u32(column::UNCERTAIN, i),
                bad: self.u32(column::BAD, i),
                non_finite: self.u32(column::NON_FINITE, i),
                min: self.u64(column::MIN, i),
                max: self.u64(column::MAX, i),
                sum: f64::from_bits(self.u64(column::SUM, i)),
                first: self.u64(column::FIRST, i),
                last: self.u64(column::LAST, i),
            },
        })
    }

    /// The entry, if it makes sense by itself.
    fn check_entry(&self, index: ChunkIndex, meta: &SegmentMeta) -> Result<ChunkEntry, Malformed> {
        let entry = self.entry_or(index)?;
        let Statistics { good, uncertain, bad, non_finite, .. } = entry.statistics;
        let counts = [good, uncertain, bad].into_iter().map(u64::from).sum::<u64>();
        let span_ns = entry.last_ns.checked_sub(entry.first_ns);
        if entry.rows == 0 || entry.len() > CHUNK_ROWS_CAP {
            return Err(Malformed("a chunk has no rows, or more than allowed"));
        }
        if counts != u64::from(entry.rows) || non_finite > good {
            return Err(Malformed("the counts of a chunk do not add up"));
        }
        if entry.last_tag < entry.first_tag || (!entry.packed && entry.last_tag > entry.first_tag) {
            return Err(Malformed("the tags of a chunk are out of order"));
        }
        if span_ns.is_none_or(|span| span < 0)
            || entry.first_ns < meta.first_ns
            || entry.last_ns > meta.last_ns
        {
            return Err(Malformed("a chunk lies outside the segment's span of time"));
        }
        if entry.values_bytes > entry.body.bytes {
            return Err(Malformed("the values of a chunk exceed its body"));
        }
        Ok(entry)
    }

    /// Whether other chunks have the same times region.
    pub(crate) fn shares_times(&self, index: ChunkIndex) -> bool {
        let i = index.0 as usize;
        self.shared.get(i / 64).is_some_and(|bits| bits >> (i % 64) & 1 == 1)
    }

    /// Invariant 3; notes which chunks share their times.
    fn check_extents(&mut self, directory_offset: u64) -> Result<(), &'static str> {
        // What is the same for chunks that share a region; no body is, and no packed chunk's.
        let mut extents = Vec::with_capacity(2 * self.len + self.tiers.len());
        for index in self.indices() {
            let entry = self.entry(index);
            let alone = entry.packed.then_some(index);
            extents.push((entry.times.offset, entry.times.end(), entry.times.crc, alone, index));
            extents.push((entry.body.offset, entry.body.end(), entry.body.crc, Some(index), index));
        }
        let none = ChunkIndex(u32::MAX);
        for TierEntry { extent, .. } in &self.tiers {
            extents.push((extent.offset, extent.end(), extent.crc, Some(none), none));
        }
        extents.sort_unstable();
        let mut next = HEADER_BYTES as u64;
        let mut last = None;
        for (start, end, crc, alone, index) in extents {
            if let Some((region, first)) = last
                && region == (start, end, crc)
                && alone.is_none()
            {
                for ChunkIndex(i) in [first, index] {
                    self.shared[i as usize / 64] |= 1 << (i % 64);
                }
                continue;
            }
            if start != next || end <= start {
                return Err("the chunks leave a gap or overlap");
            }
            next = end;
            last = alone.is_none().then_some(((start, end, crc), index));
        }
        if next.checked_next_multiple_of(DIRECTORY_ALIGN) != Some(directory_offset) {
            return Err("the chunks do not end where the directory begins");
        }
        Ok(())
    }

    /// First offset after the last chunk or block; zero bytes follow up to the directory.
    pub(crate) fn chunks_end(&self) -> u64 {
        let chunks = self.indices().map(|index| self.entry(index).body.end());
        chunks.chain(self.tiers.iter().map(|tier| tier.extent.end())).max().unwrap_or(0)
    }

    /// Blocks of rollups, by tier, type and tags.
    pub(crate) fn tiers(&self) -> &[TierEntry] {
        &self.tiers
    }

    fn find_sections(&mut self) {
        for (section, value_type) in ValueType::ALL.into_iter().enumerate() {
            self.packed[section] = partition_point(0..self.len, |i| {
                self.u8(column::FLAGS, i) == 0 || self.u8(column::VALUE_TYPE, i) < value_type.code()
            });
        }
    }

    fn cell<const N: usize>(&self, column: Field, i: usize) -> [u8; N] {
        debug_assert_eq!(column.size, N, "width of {}", column.name);
        let at = self.len * column.offset + i * N;
        self.bytes[at..at + N].try_into().expect("the slice has N bytes")
    }

    fn u64(&self, column: Field, i: usize) -> u64 {
        u64::from_le_bytes(self.cell(column, i))
    }

    fn i64(&self, column: Field, i: usize) -> i64 {
        i64::from_le_bytes(self.cell(column, i))
    }

    fn u32(&self, column: Field, i: usize) -> u32 {
        u32::from_le_bytes(self.cell(column, i))
    }

    fn u8(&self, column: Field, i: usize) -> u8 {
        let [cell] = self.cell(column, i);
        cell
    }
}

/// Invariants 1 and 2, for neighbours.
fn check_order(last: &ChunkEntry, entry: &ChunkEntry) -> Result<(), Malformed> {
    if order(last) >= order(entry) {
        return Err(Malformed("the directory is out of order"));
    }
    let same_tag = !entry.packed && last.first_tag == entry.first_tag;
    if same_tag && (last.last_ns >= entry.first_ns || last.value_type != entry.value_type) {
        return Err(Malformed("chunks of one tag overlap in time or differ in type"));
    }
    let neighbours = entry.packed && last.packed && last.value_type == entry.value_type;
    if neighbours && last.last_tag >= entry.first_tag {
        return Err(Malformed("packed chunks of one type overlap in tags"));
    }
    Ok(())
}

/// First position of `range` for which `before` does not hold, given that it holds for a prefix.
fn partition_point(range: std::ops::Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
