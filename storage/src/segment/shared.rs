//! Times that several chunks share: a gateway that scans many tags gives all of them the same times.
//!
//! # Contract
//! * [`KeptTimes`] finds, while a segment is written, the region that already holds the same bytes. Bytes are compared,
//!   never hashes alone.
//! * [`DecodedTimes`] keeps, while a segment is read, the times decoded last of regions that chunks share.
//! * Both are bounded in memory: what was not asked for lately goes.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::chunk::{ChunkEntry, Extent};
use crate::time::TimeRange;

/// Bytes of regions kept while writing, about. A day of a tag at 1 Hz with jitter has eleven regions of 4 to 20 KiB, and
/// its chunks come before those of the next tag: this holds a day of more than a dozen groups of tags.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// What a region takes beside its bytes, about.
const KEPT_OVERHEAD_BYTES: usize = 96;
/// Rows of decoded times kept for one segment while reading: 1 MiB.
const DECODED_ROWS_MAX: usize = 1 << 17;

/// Regions of times written so far, the latest of them.
#[derive(Debug, Default)]
pub(super) struct KeptTimes {
    /// Asked for since the last turn, and before it. At a turn the older ones go.
    recent: HashMap<(u32, u32), Region>,
    older: HashMap<(u32, u32), Region>,
    recent_bytes: usize,
}

#[derive(Debug)]
struct Region {
    offset: u64,
    bytes: Box<[u8]>,
}

impl KeptTimes {
    /// Where these bytes already lie.
    pub(super) fn find(&mut self, bytes: &[u8], crc: u32) -> Option<Extent> {
        let length = u32::try_from(bytes.len()).ok()?;
        let key = (crc, length);
        let found = |region: &Region| {
            (*region.bytes == *bytes).then_some(Extent {
                offset: region.offset,
                bytes: length,
                crc,
            })
        };
        if let Some(region) = self.recent.get(&key) {
            return found(region);
        }
        let region = self.older.remove(&key)?;
        let extent = found(&region);
        self.put(key, region);
        extent
    }

    /// Remembers a region just written.
    pub(super) fn keep(&mut self, bytes: &[u8], extent: Extent) {
        let region = Region { offset: extent.offset, bytes: bytes.into() };
        self.put((extent.crc, extent.bytes), region);
    }

    fn put(&mut self, key: (u32, u32), region: Region) {
        self.recent_bytes += region.bytes.len() + KEPT_OVERHEAD_BYTES;
        self.recent.insert(key, region);
        if self.recent_bytes > KEPT_BYTES_MAX / 2 {
            self.older = std::mem::take(&mut self.recent);
            self.recent_bytes = 0;
        }
    }
}

/// Decoded times of one tag's rows within a range, and which rows of the chunk these are.
#[derive(Clone, Debug)]
pub(super) struct Decoded {
    pub(super) rows: Range<usize>,
    pub(super) times: Arc<[i64]>,
}

/// What must agree for decoded times to be those of another chunk: region, rows, ends, and the asked range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecodedKey {
    offset: u64,
    rows: u32,
    span: (i64, i64),
    range: TimeRange,
}

impl DecodedKey {
    pub(super) fn new(entry: &ChunkEntry, range: TimeRange) -> Self {
        // Ranges that hold all of a chunk are one.
        let clipped = TimeRange::new(
            range.start_ns.max(entry.first_ns),
            range.end_ns.min(entry.last_ns.saturating_add(1)),
        );
        let span = (entry.first_ns, entry.last_ns);
        Self { offset: entry.times.offset, rows: entry.rows, span, range: clipped }
    }
}

/// Times decoded last, the latest at the end.
#[derive(Debug, Default)]
pub(super) struct DecodedTimes {
    kept: VecDeque<(DecodedKey, Decoded)>,
    rows: usize,
}

impl DecodedTimes {
    /// The times, if they were decoded lately.
    pub(super) fn find(&self, key: &DecodedKey) -> Option<Decoded> {
        self.kept.iter().find(|(kept, _)| kept == key).map(|(_, decoded)| decoded.clone())
    }

    /// Keeps times in the place of the oldest.
    pub(super) fn keep(&mut self, key: DecodedKey, decoded: Decoded) {
        self.rows += decoded.times.len();
        self.kept.push_back((key, decoded));
        while self.rows > DECODED_ROWS_MAX && self.kept.len() > 1 {
            let gone = self.kept.pop_front();
            self.rows -= gone.map_or(0, |(_, decoded)| decoded.times.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, bytes: &[u8], crc: u32) -> Extent {
        Extent { offset, bytes: u32::try_from(bytes.len()).unwrap(), crc }
    }

    #[test]
    fn equal_bytes_are_found_and_a_shared_checksum_is_not_enough() {
        let mut kept = KeptTimes::default();
        kept.keep(b"one", extent(64, b"one", 9));
        assert_eq!(kept.find(b"one", 9), Some(extent(64, b"one", 9)));
        assert_eq!(kept.find(b"two", 9), None);
        assert_eq!(kept.find(b"one", 8), None);
    }

    #[test]
    fn what_is_asked_for_stays_and_memory_is_bounded() {
        let mut kept = KeptTimes::default();
        let large = vec![7; 100_000];
        kept.keep(b"often", extent(64, b"often", 1));
        for crc in 2..200 {
            kept.keep(&large, extent(u64::from(crc), &large, crc));
            assert!(kept.find(b"often", 1).is_some(), "after {crc}");
        }
        assert_eq!(kept.find(&large, 2), None, "what was not asked for went");
        let held: usize =
            kept.recent.values().chain(kept.older.values()).map(|region| region.bytes.len()).sum();
        assert!(held <= KEPT_BYTES_MAX + large.len(), "{held} bytes");
    }
}
