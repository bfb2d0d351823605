//! Encodes samples into chunks: [`Columns::encode`] for one tag, [`PackedBuilder`] for many tags with few rows each.
//!
//! # Contract
//! * The same samples give the same bytes.
//! * Memory is bounded: a packed builder holds at most one chunk's rows and text.
//!
//! # What it does not know
//! Where a chunk will lie: the extents of the entries it returns have lengths only.

use std::sync::Arc;

use crate::bytes::put_varint;
use crate::chunk::{CHUNK_TEXT_BYTES_MAX, ChunkEntry, Extent, Series, Statistics};
use crate::encoding::{self, Effort};
use crate::limits::{
    CHUNK_SAMPLES_MAX, FAST_CHUNK_SAMPLES_MAX, FAST_STEP_NS, PACKED_TAG_SAMPLES_MAX,
};
use crate::tag::{TagId, ValueType};

/// Rows the next plain chunk takes of `left`, which is not empty.
///
/// A remainder shorter than [`PACKED_TAG_SAMPLES_MAX`] is not worth a directory entry: the last two chunks share alike.
pub(crate) fn piece_rows(left: Series<'_>) -> usize {
    let (rows, rows_max) = (left.len(), rows_max(left));
    let by_rows = if rows <= rows_max {
        rows
    } else if rows < rows_max + PACKED_TAG_SAMPLES_MAX {
        rows_max / 2
    } else {
        rows_max
    };
    let mut bytes = 0;
    for (row, text) in left.texts[..by_rows.min(left.texts.len())].iter().enumerate() {
        bytes += text.len();
        if bytes > CHUNK_TEXT_BYTES_MAX && row > 0 {
            return row;
        }
    }
    by_rows
}

/// Rows of a chunk at the start of `left`: more for samples that come fast. Text has no large chunks.
fn rows_max(left: Series<'_>) -> usize {
    let rows = left.len().min(FAST_CHUNK_SAMPLES_MAX);
    if rows <= CHUNK_SAMPLES_MAX || left.value_type == ValueType::Text {
        return CHUNK_SAMPLES_MAX;
    }
    let span_ns = left.times[rows - 1].abs_diff(left.times[0]);
    let is_fast = span_ns / (rows as u64 - 1) <= FAST_STEP_NS.unsigned_abs();
    if is_fast { FAST_CHUNK_SAMPLES_MAX } else { CHUNK_SAMPLES_MAX }
}

/// The two regions of a chunk; kept between chunks for their memory.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    /// Table of a packed chunk, then source times.
    pub times: Vec<u8>,
    /// Values, then qualities.
    pub body: Vec<u8>,
}

impl Columns {
    /// Makes the columns those of a plain chunk.
    pub(crate) fn encode(&mut self, series: Series<'_>, effort: Effort) -> ChunkEntry {
        let (Some(&first_ns), Some(&last_ns)) = (series.times.first(), series.times.last()) else {
            unreachable!("a chunk has at least one row");
        };
        self.times.clear();
        encoding::encode_times(series.times, effort, &mut self.times);
        let values_bytes = self.encode_body(series, effort);
        let tags = (series.tag, series.tag);
        self.entry(tags, false, series, (first_ns, last_ns), values_bytes)
    }

    /// Encodes values and qualities; returns the bytes of the values.
    fn encode_body(&mut self, series: Series<'_>, effort: Effort) -> u32 {
        self.body.clear();
        if series.value_type == ValueType::Text {
            encoding::encode_texts(series.texts, &mut self.body);
        } else {
            encoding::encode_words(series.value_type, series.words, effort, &mut self.body);
        }
        let values_bytes = length(&self.body);
        encoding::encode_qualities(series.qualities, &mut self.body);
        values_bytes
    }

    fn entry(
        &self,
        (first_tag, last_tag): (TagId, TagId),
        packed: bool,
        series: Series<'_>,
        (first_ns, last_ns): (i64, i64),
        values_bytes: u32,
    ) -> ChunkEntry {
        let Series { value_type, words, qualities, .. } = series;
        ChunkEntry {
            first_tag,
            last_tag,
            value_type,
            packed,
            rows: u32::try_from(series.len()).expect("a chunk has far fewer rows"),
            first_ns,
            last_ns,
            times: Extent { bytes: length(&self.times), ..Extent::default() },
            body: Extent { bytes: length(&self.body), ..Extent::default() },
            values_bytes,
            statistics: Statistics::of(value_type, words, qualities),
        }
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("rows and text of a chunk are limited to a few MiB")
}

/// Collects the rows of tags too short for a chunk of their own. All have one value type.
#[derive(Debug)]
pub(crate) struct PackedBuilder {
    value_type: ValueType,
    /// Ascending.
    tags: Vec<i64>,
    /// Rows of each tag, less one.
    more_rows: Vec<u64>,
    times: Vec<i64>,
    words: Vec<u64>,
    texts: Vec<Arc<str>>,
    text_bytes: usize,
    qualities: Vec<u32>,
}

impl PackedBuilder {
    /// An empty builder for tags of this type.
    pub(crate) const fn new(value_type: ValueType) -> Self {
        Self {
            value_type,
            tags: Vec::new(),
            more_rows: Vec::new(),
            times: Vec::new(),
            words: Vec::new(),
            texts: Vec::new(),
            text_bytes: 0,
            qualities: Vec::new(),
        }
    }

    /// Whether a tag with these samples belongs into a packed chunk at all.
    pub(crate) fn takes(series: Series<'_>) -> bool {
        series.len() < PACKED_TAG_SAMPLES_MAX && series.text_bytes() <= CHUNK_TEXT_BYTES_MAX
    }

    /// Whether there is room for these samples; otherwise encode first.
    pub(crate) fn has_room(&self, series: Series<'_>) -> bool {
        self.times.len() + series.len() <= CHUNK_SAMPLES_MAX
            && self.text_bytes + series.text_bytes() <= CHUNK_TEXT_BYTES_MAX
    }

    /// Takes all samples of one tag, greater than every tag taken before.
    pub(crate) fn push(&mut self, series: Series<'_>) {
        assert_eq!(series.value_type, self.value_type, "a packed chunk has one value type");
        assert!(!series.is_empty(), "a packed tag has at least one row");
        let tag = i64::from(series.tag.0);
        assert!(self.tags.last().is_none_or(|last| *last < tag), "tags must ascend");
        self.tags.push(tag);
        self.more_rows.push(series.len() as u64 - 1);
        self.times.extend_from_slice(series.times);
        self.words.extend_from_slice(series.words);
        self.texts.extend_from_slice(series.texts);
        self.text_bytes += series.text_bytes();
        self.qualities.extend_from_slice(series.qualities);
    }

    /// Makes `columns` those of a chunk with all rows taken, and begins anew; `None` if there are none.
    pub(crate) fn encode(&mut self, columns: &mut Columns, effort: Effort) -> Option<ChunkEntry> {
        let first_ns = *self.times.iter().min()?;
        let last_ns = *self.times.iter().max()?;
        let tag_at = |position: Option<&i64>| {
            TagId(position.and_then(|tag| u32::try_from(*tag).ok()).expect("tags were pushed"))
        };
        let tags = (tag_at(self.tags.first()), tag_at(self.tags.last()));
        let rows = Series {
            tag: tags.0,
            value_type: self.value_type,
            times: &self.times,
            words: &self.words,
            texts: &self.texts,
            qualities: &self.qualities,
        };
        columns.times.clear();
        self.encode_times(first_ns, effort, &mut columns.times);
        let values_bytes = columns.encode_body(rows, effort);
        let entry = columns.entry(tags, true, rows, (first_ns, last_ns), values_bytes);
        self.tags.clear();
        self.more_rows.clear();
        self.times.clear();
        self.words.clear();
        self.texts.clear();
        self.text_bytes = 0;
        self.qualities.clear();
        Some(entry)
    }

    /// Table and times. Times are counted in the greatest unit that divides all of them, from the chunk's first.
    fn encode_times(&self, base_ns: i64, effort: Effort, out: &mut Vec<u8>) {
        let mut starts = Vec::with_capacity(self.tags.len());
        let mut steps = Vec::with_capacity(self.times.len() - self.tags.len());
        let mut rest = self.times.as_slice();
        for more in &self.more_rows {
            let rows = usize::try_from(*more).expect("counted in usize") + 1;
            let (run, others) = rest.split_at(rows);
            starts.push(run[0].wrapping_sub(base_ns).cast_unsigned());
            steps.extend(run.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]).cast_unsigned()));
            rest = others;
        }
        let unit_ns = unit_of(starts.iter().chain(&steps));
        for offset in starts.iter_mut().chain(&mut steps) {
            *offset /= unit_ns;
        }
        let mut column = Vec::new();
        let mut put_column = |out: &mut Vec<u8>, encode: &dyn Fn(&mut Vec<u8>)| {
            column.clear();
            encode(&mut column);
            put_varint(out, column.len() as u64);
            out.extend_from_slice(&column);
        };
        put_varint(out, self.tags.len() as u64);
        put_column(out, &|out| encoding::encode_times(&self.tags, effort, out));
        put_column(out, &|out| {
            encoding::encode_words(ValueType::I64, &self.more_rows, effort, out);
        });
        out.extend_from_slice(&base_ns.to_le_bytes());
        put_varint(out, unit_ns);
        put_column(out, &|out| encoding::encode_words(ValueType::I64, &starts, effort, out));
        if !steps.is_empty() {
            encoding::encode_words(ValueType::I64, &steps, effort, out);
        }
    }
}

/// Greatest number that divides all of these; 1 if all are 0.
fn unit_of<'a>(numbers: impl Iterator<Item = &'a u64>) -> u64 {
    let mut unit = 0;
    for &number in numbers {
        let (mut a, mut b) = (unit, number);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        unit = a;
        if unit == 1 {
            break;
        }
    }
    unit.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_divides_all() {
        assert_eq!(unit_of([0, 12, 18, 0].iter()), 6);
        assert_eq!(unit_of([0, 0].iter()), 1);
        assert_eq!(unit_of([7, u64::MAX].iter()), 1);
        assert_eq!(unit_of([u64::MAX].iter()), u64::MAX);
    }

    #[test]
    fn a_short_remainder_shares_with_its_neighbour() {
        let grid = |step_ns: i64| (0..200_000).map(|row| row * step_ns).collect::<Vec<i64>>();
        let (words, qualities) = (vec![0; 200_000], vec![0; 200_000]);
        let check = |times: &[i64], rows: usize, want: &[usize]| {
            let series = Series {
                tag: TagId(1),
                value_type: ValueType::I64,
                times: &times[..rows],
                words: &words[..rows],
                texts: &[],
                qualities: &qualities[..rows],
            };
            let (mut from, mut got) = (0, Vec::new());
            while from < rows {
                got.push(piece_rows(series.slice(from..rows)));
                from += got[got.len() - 1];
            }
            assert_eq!(got, want);
        };
        let slow = grid(FAST_STEP_NS + 1);
        check(&slow, 1, &[1]);
        check(&slow, 8_192, &[8_192]);
        check(&slow, 8_193, &[4_096, 4_097]);
        check(&slow, 8_448, &[8_192, 256]);
        check(&slow, 20_000, &[8_192, 8_192, 3_616]);
        check(&slow, 16_385, &[8_192, 4_096, 4_097]);
        let fast = grid(FAST_STEP_NS);
        check(&fast, 8_193, &[8_193]);
        check(&fast, 65_536, &[65_536]);
        check(&fast, 65_537, &[32_768, 32_769]);
        check(&fast, 200_000, &[65_536, 65_536, 65_536, 3_392]);
        let mut then_slow = fast.clone();
        for (row, time) in then_slow.iter_mut().enumerate().skip(65_536) {
            *time += row as i64 * FAST_STEP_NS;
        }
        check(&then_slow, 100_000, &[65_536, 8_192, 8_192, 8_192, 8_192, 1_696]);
    }

    #[test]
    fn long_texts_end_a_chunk() {
        let texts = vec![Arc::from("x".repeat(1 << 20)); 9];
        let times: Vec<i64> = (0..9).collect();
        let series = Series {
            tag: TagId(1),
            value_type: ValueType::Text,
            times: &times,
            words: &[],
            texts: &texts,
            qualities: &[0; 9],
        };
        assert!(!PackedBuilder::takes(series));
        assert_eq!(piece_rows(series), 4);
        assert_eq!(piece_rows(series.slice(8..9)), 1);
    }
}
