//! Segment files: put together from chunks, or mutated as a whole.

use tagmill_storage::fuzzing::segments::{
    Assembled, OpenSegment, Part, Rows, assemble, seal_segment, write_segment,
};
use tagmill_storage::{TagId, TimeRange, ValueType};

use super::{check_refusal, empty_disk};

/// Chunks of one input.
const PARTS_MAX: usize = 6;
/// Bytes of a part before its columns.
const PART_HEADER_BYTES: usize = 32;

/// Chunks of any bytes, in a segment whose checksums hold, are read or refused like the file of [`segment`].
///
/// Each chunk: value type and 128 if it is packed; flags, not used; rows, times bytes, values bytes and qualities bytes in
/// two bytes each; first and last tag in three bytes each; first and last time in eight bytes each; then the columns.
/// What the bytes of a plain chunk's times say is its first and last time.
pub fn chunk(data: &[u8]) {
    let mut rest = data;
    let mut parts = Vec::new();
    while parts.len() < PARTS_MAX
        && let Some((part, after)) = take_part(rest)
    {
        parts.push(part);
        rest = after;
    }
    if let Some(assembled) = assemble(&parts) {
        check(&assembled);
    }
}

/// Reads a part as [`chunk`] says.
pub fn take_part(data: &[u8]) -> Option<(Part, &[u8])> {
    let (header, rest) = data.split_at_checked(PART_HEADER_BYTES)?;
    let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let tag = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], 0]);
    let long = |at: usize| {
        let bytes: Option<&[u8; 8]> = header.get(at..)?.first_chunk();
        bytes.map(|bytes| i64::from_le_bytes(*bytes))
    };
    let lengths = [4, 6, 8].map(|at| usize::from(short(at)));
    let mut rest = rest;
    let mut column = |length: usize| {
        let (column, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        column.to_vec()
    };
    let [times, values, qualities] = lengths.map(&mut column);
    let value_type = ValueType::ALL[usize::from(header[0] & 127) % ValueType::ALL.len()];
    let packed = header[0] & 128 != 0;
    let first_tag = tag(10);
    let part = Part {
        value_type,
        packed,
        rows: u32::from(short(2)),
        tags: (first_tag, if packed { tag(13) } else { first_tag }),
        span: (long(16)?, long(24)?),
        times,
        values,
        qualities,
    };
    Some((part, rest))
}

/// Writes a part as [`chunk`] reads it; `None` if a column is too long for it.
pub fn put_part(part: &Part, out: &mut Vec<u8>) -> Option<()> {
    let position = ValueType::ALL.iter().position(|known| *known == part.value_type)?;
    let packed = if part.packed { 128 } else { 0 };
    out.extend_from_slice(&[u8::try_from(position).ok()? | packed, 0]);
    let columns = [&part.times, &part.values, &part.qualities];
    out.extend_from_slice(&u16::try_from(part.rows).ok()?.to_le_bytes());
    for column in columns {
        out.extend_from_slice(&u16::try_from(column.len()).ok()?.to_le_bytes());
    }
    for tag in [part.tags.0, part.tags.1] {
        out.extend_from_slice(&tag.to_le_bytes()[..3]);
    }
    out.extend_from_slice(&part.span.0.to_le_bytes());
    out.extend_from_slice(&part.span.1.to_le_bytes());
    for column in columns {
        out.extend_from_slice(column);
    }
    Some(())
}

/// Any segment file, its checksums renewed, is read or refused. One that verifies gives the same rows whole and in parts,
/// and is written and read again to the same.
pub fn segment(data: &[u8]) {
    if let Some(assembled) = seal_segment(data.to_vec()) {
        check(&assembled);
    }
}

fn check(assembled: &Assembled) {
    let Assembled { path, bytes, meta } = assembled;
    let (disk, shared) = empty_disk();
    disk.replace(path, bytes);
    let segment = OpenSegment::new(&shared, meta).expect("the figures agree with each other");
    let errors = segment.verify();
    errors.iter().for_each(check_refusal);
    let tags = match segment.tags() {
        Ok(tags) => tags,
        Err(error) => {
            check_refusal(&error);
            assert!(!errors.is_empty(), "it verifies, and its tags cannot be read: {error}");
            return;
        }
    };
    if errors.is_empty() {
        check_good(&segment, &tags);
        return;
    }
    for (tag, first, ..) in tags.into_iter().take(20) {
        for range in [TimeRange::ALL, TimeRange::new(first, first.saturating_add(1_000_000_000))] {
            match segment.read(tag, range) {
                Ok(parts) => parts.iter().for_each(|rows| check_rows(rows, tag, range)),
                Err(error) => check_refusal(&error),
            }
        }
    }
}

fn check_rows(rows: &Rows, tag: TagId, range: TimeRange) {
    assert_eq!(rows.tag, tag);
    let count = rows.times.len();
    let is_text = rows.value_type == ValueType::Text;
    let expected = if is_text { (0, count, count) } else { (count, 0, count) };
    assert_eq!((rows.words.len(), rows.texts.len(), rows.qualities.len()), expected);
    assert!(rows.times.is_sorted_by(|a, b| a < b), "times of {tag} out of order");
    assert!(rows.times.iter().all(|time| range.contains(*time)), "rows of {tag} out of range");
}

/// A segment that verifies: nothing may fail any more.
fn check_good(segment: &OpenSegment, tags: &[(TagId, i64, i64, u64)]) {
    let mut all = Vec::new();
    for (tag, first, last, rows) in tags {
        let parts = segment.read(*tag, TimeRange::ALL).expect("a good segment reads");
        let whole = join(*tag, &parts);
        check_rows(&whole, *tag, TimeRange::ALL);
        let ends = (whole.times.first(), whole.times.last(), whole.times.len() as u64);
        assert_eq!(ends, (Some(first), Some(last), *rows), "span of {tag}");
        let middle = whole.times[whole.times.len() / 2];
        for range in [
            TimeRange::new(*first, middle),
            TimeRange::new(middle, *last),
            TimeRange::new(middle, middle.saturating_add(1)),
        ] {
            let parts = segment.read(*tag, range).expect("a good segment reads");
            assert_eq!(join(*tag, &parts).times, within(&whole, range).times, "{tag} in {range}");
            assert_same(&join(*tag, &parts), &within(&whole, range));
        }
        all.push(whole);
    }
    let (_, other) = empty_disk();
    other.create_dir("segments").expect("an empty disk");
    let again = write_segment(&other, &all).expect("a healthy disk");
    assert!(again.verify().is_empty(), "our own segment verifies");
    for whole in &all {
        let parts = again.read(whole.tag, TimeRange::ALL).expect("our own segment reads");
        assert_eq!(&join(whole.tag, &parts), whole);
    }
}

fn assert_same(found: &Rows, expected: &Rows) {
    if !expected.times.is_empty() {
        assert_eq!(found, expected);
    }
}

/// The rows of one tag from all its chunks.
fn join(tag: TagId, parts: &[Rows]) -> Rows {
    let filled = |rows: &&Rows| !rows.times.is_empty();
    let value_type = parts.iter().find(filled).map_or(ValueType::F64, |rows| rows.value_type);
    let mut all = Rows {
        tag,
        value_type,
        times: Vec::new(),
        words: Vec::new(),
        texts: Vec::new(),
        qualities: Vec::new(),
    };
    for part in parts.iter().filter(filled) {
        assert_eq!(part.value_type, value_type, "{tag} has values of two types");
        all.times.extend(&part.times);
        all.words.extend(&part.words);
        all.texts.extend(part.texts.iter().cloned());
        all.qualities.extend(&part.qualities);
    }
    all
}

fn within(rows: &Rows, range: TimeRange) -> Rows {
    let from = rows.times.partition_point(|time| *time < range.start_ns);
    let to = rows.times.partition_point(|time| *time < range.end_ns).max(from);
    let is_text = rows.value_type == ValueType::Text;
    Rows {
        times: rows.times[from..to].to_vec(),
        words: if is_text { Vec::new() } else { rows.words[from..to].to_vec() },
        texts: if is_text { rows.texts[from..to].to_vec() } else { Vec::new() },
        qualities: rows.qualities[from..to].to_vec(),
        ..*rows
    }
}
