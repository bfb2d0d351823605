//! Decodes chunks whose bytes have already been verified against their checksums.
//!
//! # Contract
//! * Any bytes give rows or [`Malformed`]: a checksum protects from damage, not from a file made to harm.
//! * What is decoded agrees with the chunk's entry: its number of rows, its first and last time, ascending times.
//! * Of a plain chunk only the vectors that overlap the asked range are decoded, a packed chunk is decoded whole.
//!
//! # What it does not know
//! Files and checksums.

use std::ops::Range;
use std::sync::Arc;

use crate::bytes::{Malformed, Reader};
use crate::chunk::{ChunkEntry, SeriesBuf};
use crate::encoding;
use crate::limits::VECTOR_ROWS;
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// Appends the times of a plain chunk that lie in `range` to `out`, and returns which rows they are.
pub(crate) fn decode_times(
    entry: &ChunkEntry,
    bytes: &[u8],
    range: TimeRange,
    out: &mut Vec<i64>,
) -> Result<Range<usize>, Malformed> {
    let count = entry.len();
    let before = out.len();
    if !range.overlaps_span(entry.first_ns, entry.last_ns) {
        return Ok(0..0);
    }
    for window in [likely_rows(entry, range), 0..count] {
        encoding::decode_times(bytes, count, window.clone(), out)?;
        let times = &out[before..];
        check_times(entry, &window, times)?;
        let begins_early = window.start == 0 || times.first() < Some(&range.start_ns);
        let ends_late = window.end == count || times.last() >= Some(&range.end_ns);
        let from = times.partition_point(|time| *time < range.start_ns);
        let to = times.partition_point(|time| *time < range.end_ns);
        out.truncate(before + to);
        out.drain(before..before + from);
        if begins_early && ends_late {
            return Ok(window.start + from..window.start + to);
        }
        out.truncate(before);
    }
    unreachable!("a window of all rows holds every range")
}

/// The vectors that hold `range` and the rows around it if times advance evenly, as most sources' do. Where they do
/// not, the caller sees it by the ends of the window and decodes all.
fn likely_rows(entry: &ChunkEntry, range: TimeRange) -> Range<usize> {
    let span_ns = i128::from(entry.last_ns) - i128::from(entry.first_ns);
    let row_at = |time_ns: i64| {
        let ahead_ns = (i128::from(time_ns) - i128::from(entry.first_ns)).clamp(0, span_ns);
        let row = ahead_ns * (i128::from(entry.rows) - 1) / span_ns.max(1);
        usize::try_from(row).unwrap_or(0)
    };
    let from = row_at(range.start_ns).saturating_sub(1) / VECTOR_ROWS * VECTOR_ROWS;
    let to = (row_at(range.end_ns) + 2).next_multiple_of(VECTOR_ROWS);
    from..to.min(entry.len())
}

/// The encoding guarantees ascending times; here they meet the entry.
fn check_times(entry: &ChunkEntry, rows: &Range<usize>, times: &[i64]) -> Result<(), Malformed> {
    let first = times.first().copied().unwrap_or(entry.first_ns);
    let last = times.last().copied().unwrap_or(entry.last_ns);
    let agrees = (entry.first_ns <= first && last <= entry.last_ns)
        && (rows.start > 0 || first == entry.first_ns)
        && (rows.end < entry.len() || last == entry.last_ns);
    if agrees { Ok(()) } else { Err(Malformed("times do not span what the directory says")) }
}

/// Appends values and qualities of `rows` of a plain chunk to `out`; columns not asked for are not decoded.
pub(crate) fn decode_body(
    entry: &ChunkEntry,
    bytes: &[u8],
    rows: Range<usize>,
    (values, qualities): (bool, bool),
    out: &mut SeriesBuf,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(bytes);
    let value_bytes = reader.take(entry.values_bytes as usize)?;
    let count = entry.len();
    if values && entry.value_type == ValueType::Text {
        encoding::decode_texts(value_bytes, count, rows.clone(), &mut out.texts)?;
    } else if values {
        let words = &mut out.words;
        encoding::decode_words(entry.value_type, value_bytes, count, rows.clone(), words)?;
    }
    if qualities {
        encoding::decode_qualities(reader.rest(), count, rows, &mut out.qualities)?;
    }
    Ok(())
}

/// The distance of neighbours, if the times of a plain chunk lie on a grid.
pub(crate) fn decode_grid(entry: &ChunkEntry, bytes: &[u8]) -> Result<Option<i64>, Malformed> {
    let Some((first_ns, step_ns)) = encoding::decode_step(bytes, entry.len())? else {
        return Ok(None);
    };
    let last_ns = first_ns.wrapping_add(step_ns.wrapping_mul(i64::from(entry.rows) - 1));
    check_times(entry, &(0..entry.len()), &[first_ns, last_ns])?;
    Ok(Some(step_ns))
}

/// Rows of a chunk within `range` and the time of the first of them, if its rows are `step_ns` apart; `None` if that does
/// not fit what the directory says.
pub(crate) fn rows_on_grid(
    entry: &ChunkEntry,
    step_ns: i64,
    range: TimeRange,
) -> Option<(Range<usize>, i64)> {
    let (first_ns, step) = (i128::from(entry.first_ns), i128::from(step_ns));
    if first_ns + step * (i128::from(entry.rows) - 1) != i128::from(entry.last_ns) {
        return None;
    }
    // The first row that is not before `time_ns`.
    let row_at = |time_ns: i64| {
        let ahead = (i128::from(time_ns) - first_ns).max(0);
        usize::try_from((ahead + step - 1) / step).map_or(entry.len(), |row| row.min(entry.len()))
    };
    let from = row_at(range.start_ns);
    let rows = from..row_at(range.end_ns).max(from);
    let start_ns = entry.first_ns.wrapping_add(step_ns.wrapping_mul(i64::try_from(from).ok()?));
    Some((rows, start_ns))
}

/// Appends values and qualities of `rows` of a plain chunk; of text no values. If all qualities are one, they are not
/// written out but returned.
pub(crate) fn decode_plain(
    entry: &ChunkEntry,
    bytes: &[u8],
    rows: Range<usize>,
    words: &mut Vec<u64>,
    qualities: &mut Vec<u32>,
) -> Result<Option<u32>, Malformed> {
    let mut reader = Reader::new(bytes);
    let value_bytes = reader.take(entry.values_bytes as usize)?;
    let count = entry.len();
    if entry.value_type != ValueType::Text {
        encoding::decode_words(entry.value_type, value_bytes, count, rows.clone(), words)?;
    }
    let quality_bytes = reader.rest();
    if let Some(quality) = encoding::decode_one_quality(quality_bytes)? {
        return Ok(Some(quality));
    }
    encoding::decode_qualities(quality_bytes, count, rows, qualities)?;
    Ok(None)
}

/// A decoded packed chunk: times at once, values and qualities when they are first asked for.
#[derive(Debug)]
pub(crate) struct PackedRows {
    /// Ascending.
    tags: Vec<u32>,
    /// First row of each tag, and after them the number of rows.
    starts: Vec<usize>,
    times: Vec<i64>,
    body: Option<SeriesBuf>,
}

impl PackedRows {
    /// Decodes table and times.
    pub(crate) fn decode(entry: &ChunkEntry, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = take_size(&mut reader)?;
        if count == 0 || count > entry.len() {
            return Err(Malformed("a packed chunk has another number of tags than rows allow"));
        }
        let tags = decode_tags(entry, take_column(&mut reader)?, count)?;
        let starts = decode_starts(entry, take_column(&mut reader)?, count)?;
        let base_ns = reader.i64()?;
        let unit_ns = reader.varint()?;
        let mut first = Vec::with_capacity(count);
        let column = take_column(&mut reader)?;
        encoding::decode_words(ValueType::I64, column, count, 0..count, &mut first)?;
        let step_count = entry.len() - count;
        let mut steps = Vec::with_capacity(step_count);
        if step_count > 0 {
            let column = reader.rest();
            encoding::decode_words(ValueType::I64, column, step_count, 0..step_count, &mut steps)?;
        } else {
            reader.finish()?;
        }
        let times = sum_times(base_ns, unit_ns, &starts, &first, &steps)
            .ok_or(Malformed("packed times overflow or do not ascend"))?;
        let span = (times.iter().min(), times.iter().max());
        if span != (Some(&entry.first_ns), Some(&entry.last_ns)) {
            return Err(Malformed("times do not span what the directory says"));
        }
        Ok(Self { tags, starts, times, body: None })
    }

    /// The tags in it, ascending.
    pub(crate) fn tags(&self) -> &[u32] {
        &self.tags
    }

    /// Rows of the tag at this position of [`Self::tags`].
    pub(crate) fn rows_at(&self, position: usize) -> Range<usize> {
        self.starts[position]..self.starts[position + 1]
    }

    /// Rows of `tag`; `None` if it is not in here.
    pub(crate) fn rows_of(&self, tag: TagId) -> Option<Range<usize>> {
        self.tags.binary_search(&tag.0).ok().map(|position| self.rows_at(position))
    }

    /// First time, last time and number of these rows.
    pub(crate) fn span(&self, rows: Range<usize>) -> (i64, i64, usize) {
        assert!(!rows.is_empty(), "every tag in a packed chunk has a row");
        (self.times[rows.start], self.times[rows.end - 1], rows.len())
    }

    /// Source times of all rows, ascending within each tag.
    pub(crate) fn times(&self) -> &[i64] {
        &self.times
    }

    /// Whether values and qualities are there.
    pub(crate) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Decodes values and qualities.
    pub(crate) fn decode_body(
        &mut self,
        entry: &ChunkEntry,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let mut body = SeriesBuf::new(entry.first_tag, entry.value_type);
        decode_body(entry, bytes, 0..entry.len(), (true, true), &mut body)?;
        self.body = Some(body);
        Ok(())
    }

    /// Appends these rows to `out`; the body must be there if values or qualities are asked for.
    pub(crate) fn copy(
        &self,
        rows: Range<usize>,
        (values, qualities): (bool, bool),
        out: &mut SeriesBuf,
    ) {
        out.times.extend_from_slice(&self.times[rows.clone()]);
        let Some(body) = &self.body else {
            assert!(!values && !qualities, "the caller decoded the body");
            return;
        };
        if values && body.value_type == ValueType::Text {
            out.texts.extend(body.texts[rows.clone()].iter().map(Arc::clone));
        } else if values {
            out.words.extend_from_slice(&body.words[rows.clone()]);
        }
        if qualities {
            out.qualities.extend_from_slice(&body.qualities[rows]);
        }
    }
}

fn take_size(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    usize::try_from(reader.varint()?).map_err(|_| Malformed("a length exceeds memory"))
}

fn take_column<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let bytes = take_size(reader)?;
    reader.take(bytes)
}

fn decode_tags(entry: &ChunkEntry, bytes: &[u8], count: usize) -> Result<Vec<u32>, Malformed> {
    let mut numbers = Vec::with_capacity(count);
    encoding::decode_times(bytes, count, 0..count, &mut numbers)?;
    let tags: Vec<u32> = numbers.iter().filter_map(|tag| u32::try_from(*tag).ok()).collect();
    let ends = (tags.first(), tags.last());
    if tags.len() != count
        || ends != (Some(&entry.first_tag.0), Some(&entry.last_tag.0))
        || !tags.is_sorted_by(|a, b| a < b)
    {
        return Err(Malformed("tags do not ascend between those the directory gives"));
    }
    Ok(tags)
}

/// First row of each tag, and the number of rows, from the rows of each tag less one.
fn decode_starts(entry: &ChunkEntry, bytes: &[u8], count: usize) -> Result<Vec<usize>, Malformed> {
    const DIFFERS: Malformed = Malformed("rows of the tags do not add up to those of the chunk");
    let mut more_rows = Vec::with_capacity(count);
    encoding::decode_words(ValueType::I64, bytes, count, 0..count, &mut more_rows)?;
    let mut starts = Vec::with_capacity(count + 1);
    let mut next = 0_usize;
    for more in more_rows {
        starts.push(next);
        let more = usize::try_from(more).map_err(|_| DIFFERS)?;
        next = more.checked_add(next + 1).filter(|rows| *rows <= entry.len()).ok_or(DIFFERS)?;
    }
    starts.push(next);
    if next == entry.len() { Ok(starts) } else { Err(DIFFERS) }
}

/// Times of all rows; `None` if one is not representable or does not follow the one before.
fn sum_times(
    base_ns: i64,
    unit_ns: u64,
    starts: &[usize],
    first: &[u64],
    steps: &[u64],
) -> Option<Vec<i64>> {
    let mut times = Vec::with_capacity(first.len() + steps.len());
    let mut steps = steps.iter();
    for (first, ends) in first.iter().zip(starts.windows(2)) {
        let mut time = base_ns.checked_add_unsigned(first.checked_mul(unit_ns)?)?;
        times.push(time);
        for _ in ends[0] + 1..ends[1] {
            let step_ns = steps.next()?.checked_mul(unit_ns).filter(|step| *step > 0)?;
            time = time.checked_add_unsigned(step_ns)?;
            times.push(time);
        }
    }
    Some(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Series;
    use crate::chunk::builder::{Columns, PackedBuilder};
    use crate::encoding::Effort;

    fn series<'a>(tag: u32, times: &'a [i64], zeros: &'a (Vec<u64>, Vec<u32>)) -> Series<'a> {
        Series {
            tag: TagId(tag),
            value_type: ValueType::I64,
            times,
            words: &zeros.0[..times.len()],
            texts: &[],
            qualities: &zeros.1[..times.len()],
        }
    }

    #[test]
    fn any_range_of_any_pace_gives_its_rows() {
        let grid: Vec<i64> = (0..8_192).map(|row| row * 1_000).collect();
        let slowing: Vec<i64> = (0..8_000).map(|row| row * row + row).collect();
        let burst = (0..3_000).chain((0..3_000).map(|row| 5_000_000_000 + row * 7)).collect();
        let late: Vec<i64> =
            (0..5_000).map(|row| if row < 4_999 { row } else { i64::MAX - 1 }).collect();
        let zeros = (vec![0; 8_192], vec![0; 8_192]);
        for times in [grid, slowing, burst, late, vec![i64::MIN], vec![-5, i64::MAX - 5]] {
            let mut columns = Columns::default();
            let entry = columns.encode(series(1, &times, &zeros), Effort::Light);
            let ends: Vec<i64> = (0..40)
                .map(|i| times[(times.len() - 1) * i / 39].saturating_add(i as i64 % 3 - 1))
                .chain([i64::MIN, i64::MAX])
                .collect();
            for (&start, &end) in ends.iter().flat_map(|s| ends.iter().map(move |e| (s, e))) {
                let range = TimeRange::new(start, end);
                let mut out = vec![-1];
                let rows = decode_times(&entry, &columns.times, range, &mut out).unwrap();
                let want: Vec<i64> = times.iter().copied().filter(|t| range.contains(*t)).collect();
                assert_eq!(out[0], -1, "what was there stays");
                assert_eq!(out[1..], want, "{range:?}");
                assert_eq!(times[rows], want, "rows of {range:?}");
            }
        }
    }

    #[test]
    fn a_cut_table_is_malformed() {
        let zeros = (vec![0; 10], vec![0; 10]);
        let mut packed = PackedBuilder::new(ValueType::I64);
        packed.push(series(3, &[5, 7, 11], &zeros));
        packed.push(series(9, &[6], &zeros));
        packed.push(series(11, &[-20, i64::MAX], &zeros));
        let mut columns = Columns::default();
        let entry = packed.encode(&mut columns, Effort::Light).unwrap();
        let rows = PackedRows::decode(&entry, &columns.times).unwrap();
        assert_eq!(rows.tags(), [3, 9, 11]);
        assert_eq!(rows.times(), [5, 7, 11, 6, -20, i64::MAX]);
        assert_eq!(
            rows.rows_of(TagId(11)).map(|rows_of| rows.span(rows_of)),
            Some((-20, i64::MAX, 2))
        );
        assert_eq!(rows.rows_of(TagId(4)), None);
        for length in 0..columns.times.len() {
            assert!(
                PackedRows::decode(&entry, &columns.times[..length]).is_err(),
                "{length} bytes"
            );
        }
        columns.times.push(0);
        assert!(PackedRows::decode(&entry, &columns.times).is_err(), "a byte more");
    }
}
