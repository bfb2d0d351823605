//! What one record says, and its payload bytes.
//!
//! A payload is a list of sections: u8 kind, varint length, bytes. Producers encode it in parallel; the committer adds the
//! frame around it ([`super::file`]). Unknown kinds are refused: a new section means a new file version.

use std::sync::Arc;

use crate::bytes::{Malformed, Reader, put_varint, put_zigzag};
use crate::checksum::crc32;
use crate::head::run::{RowQualities, Run, RunBuilder, Span, index};
use crate::ids::Seq;
use crate::limits;
use crate::registry::Change;
use crate::registry::change::{count, number, put_tags, put_text, tag_id, tags, text};
use crate::sample::Origin;
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

const ORIGIN: u8 = 1;
const CHANGE: u8 = 2;
const DELETE: u8 = 3;
const SAMPLES: u8 = 4;

/// What a delete says before it has a seq.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delete {
    /// Ascending, distinct.
    pub(crate) tags: Arc<[TagId]>,
    pub(crate) range: TimeRange,
    pub(crate) who: Arc<str>,
}

/// One record's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) origin: Option<Origin>,
    pub(crate) changes: Vec<Change>,
    pub(crate) delete: Option<Delete>,
    pub(crate) run: Option<Run>,
}

/// A content's bytes, ready to be framed.
#[derive(Debug)]
pub(crate) struct Payload {
    /// As stored.
    pub(crate) bytes: Vec<u8>,
    /// Length before compression; equal to the stored length if it was not compressed.
    pub(crate) raw_bytes: usize,
    pub(crate) crc: u32,
}

impl Content {
    /// A record that changes nothing and only takes a place in the order of writes: a delete of no tags.
    pub(crate) fn place(who: &str) -> Self {
        let (tags, range) = (Arc::from([]), TimeRange::new(0, 0));
        Self { delete: Some(Delete { tags, range, who: Arc::from(who) }), ..Self::default() }
    }

    /// The bytes of this content, compressed when that pays.
    pub(crate) fn encode(&self) -> Payload {
        let mut raw = Vec::with_capacity(64 + self.run.as_ref().map_or(0, |r| r.times.len() * 9));
        if let Some(origin) = &self.origin {
            section(&mut raw, ORIGIN, |out| {
                put_text(out, &origin.gateway);
                put_varint(out, origin.epoch);
                put_varint(out, origin.seq);
            });
        }
        for change in &self.changes {
            section(&mut raw, CHANGE, |out| change.encode(out));
        }
        if let Some(delete) = &self.delete {
            section(&mut raw, DELETE, |out| put_delete(out, delete));
        }
        if let Some(run) = &self.run {
            section(&mut raw, SAMPLES, |out| put_run(out, run));
        }
        Payload::new(raw)
    }

    /// Reads a payload whose checksum was verified.
    pub(crate) fn decode(seq: Seq, stored: &[u8], raw_bytes: usize) -> Result<Self, Malformed> {
        let unpacked;
        let raw = if raw_bytes == stored.len() {
            stored
        } else {
            if raw_bytes > limits::RECORD_BYTES_MAX {
                return Err(Malformed("record is larger than allowed"));
            }
            unpacked = zstd::bulk::decompress(stored, raw_bytes)
                .map_err(|_| Malformed("record does not decompress"))?;
            if unpacked.len() != raw_bytes {
                return Err(Malformed("record decompresses to another length"));
            }
            unpacked.as_slice()
        };
        let mut content = Self::default();
        let mut reader = Reader::new(raw);
        while reader.remaining() > 0 {
            let kind = reader.u8()?;
            let length = count(&mut reader, 1)?;
            let mut section = Reader::new(reader.take(length)?);
            match kind {
                ORIGIN => content.origin = Some(origin(&mut section)?),
                CHANGE => content.changes.push(Change::decode(&mut section)?),
                DELETE => content.delete = Some(delete(&mut section)?),
                SAMPLES => content.run = Some(run(&mut section, seq)?),
                _ => return Err(Malformed("no such section")),
            }
            if section.remaining() > 0 {
                return Err(Malformed("section is longer than its content"));
            }
        }
        Ok(content)
    }
}

impl Payload {
    fn new(raw: Vec<u8>) -> Self {
        let raw_bytes = raw.len();
        let mut bytes = raw;
        if raw_bytes > limits::RECORD_COMPRESS_BYTES
            && let Ok(packed) = zstd::bulk::compress(&bytes, 1)
            && packed.len() < raw_bytes - raw_bytes / 8
        {
            bytes = packed;
        }
        let crc = crc32(0, &bytes);
        Self { bytes, raw_bytes, crc }
    }
}

fn section(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    write(&mut body);
    out.push(kind);
    put_varint(out, body.len() as u64);
    out.extend_from_slice(&body);
}

fn origin(reader: &mut Reader<'_>) -> Result<Origin, Malformed> {
    let gateway = text(reader)?;
    Ok(Origin { gateway, epoch: reader.varint()?, seq: reader.varint()?, session: 0 })
}

pub(crate) fn put_delete(out: &mut Vec<u8>, delete: &Delete) {
    put_tags(out, &delete.tags);
    put_zigzag(out, delete.range.start_ns);
    put_zigzag(out, delete.range.end_ns);
    put_text(out, &delete.who);
}

pub(crate) fn delete(reader: &mut Reader<'_>) -> Result<Delete, Malformed> {
    let tags = tags(reader)?;
    if !tags.is_sorted_by(|a, b| a < b) {
        return Err(Malformed("tags of a delete are out of order"));
    }
    let range = TimeRange::new(reader.zigzag()?, reader.zigzag()?);
    Ok(Delete { tags, range, who: text(reader)? })
}

const TIMES_AS_BEFORE: u8 = 0;
const TIMES_STEP: u8 = 1;
const TIMES_DELTAS: u8 = 2;

fn put_run(out: &mut Vec<u8>, run: &Run) {
    put_varint(out, run.spans.len() as u64);
    let mut last_tag = 0;
    let mut last_times: &[i64] = &[];
    for span in &run.spans {
        put_varint(out, u64::from(span.tag.0 - last_tag));
        last_tag = span.tag.0;
        out.push(span.value_type.code());
        let times = &run.times[span.start..span.end];
        put_varint(out, times.len() as u64);
        put_times(out, times, last_times);
        last_times = times;
        put_words(out, run, span);
    }
    match &run.qualities {
        RowQualities::Uniform(quality) => {
            out.push(0);
            put_varint(out, u64::from(*quality));
        }
        RowQualities::Each(each) => {
            out.push(1);
            for same in each.chunk_by(|a, b| a == b) {
                put_varint(out, same.len() as u64);
                put_varint(out, u64::from(same[0]));
            }
        }
    }
}

fn put_times(out: &mut Vec<u8>, times: &[i64], before: &[i64]) {
    if times == before {
        return out.push(TIMES_AS_BEFORE);
    }
    let step = if times.len() > 1 { times[1].wrapping_sub(times[0]) } else { 0 };
    let is_step = times.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step);
    out.push(if is_step { TIMES_STEP } else { TIMES_DELTAS });
    put_zigzag(out, times[0]);
    if is_step {
        return put_zigzag(out, step);
    }
    for pair in times.windows(2) {
        put_zigzag(out, pair[1].wrapping_sub(pair[0]));
    }
}

fn put_words(out: &mut Vec<u8>, run: &Run, span: &Span) {
    let words = &run.words[span.start..span.end];
    let width = width_of(span.value_type);
    if span.value_type == ValueType::Text {
        for word in words {
            put_text(out, &run.texts[index(*word)]);
        }
    } else {
        out.reserve(words.len() * width);
        for word in words {
            out.extend_from_slice(&word.to_le_bytes()[..width]);
        }
    }
}

/// Bytes of a word of this type in a record; texts have none.
const fn width_of(value_type: ValueType) -> usize {
    match value_type {
        ValueType::F64 | ValueType::I64 => 8,
        ValueType::F32 => 4,
        ValueType::State => 2,
        ValueType::Bool => 1,
        ValueType::Text => 0,
    }
}

fn run(reader: &mut Reader<'_>, seq: Seq) -> Result<Run, Malformed> {
    let spans = count(reader, 4)?;
    let mut builder = RunBuilder::with_capacity(0);
    let mut rows_left = limits::BATCH_SAMPLES_MAX;
    let mut tag = 0u32;
    let mut times: Vec<i64> = Vec::new();
    let mut words: Vec<u64> = Vec::new();
    for at in 0..spans {
        let step = tag_id(reader)?.0;
        if at > 0 && step == 0 {
            return Err(Malformed("tags of a record are out of order"));
        }
        tag = tag.checked_add(step).ok_or(Malformed("tag id out of range"))?;
        if tag as usize >= limits::TAGS_MAX {
            return Err(Malformed("tag id out of range"));
        }
        let value_type = ValueType::from_code(reader.u8()?).ok_or(Malformed("no such type"))?;
        let rows: usize = number(reader)?;
        rows_left = rows_left.checked_sub(rows).ok_or(Malformed("more rows than a batch has"))?;
        if rows == 0 {
            return Err(Malformed("a tag without rows"));
        }
        read_times(reader, rows, &mut times)?;
        read_words(reader, value_type, rows, &mut builder, &mut words)?;
        builder.extend(&times, words.iter().copied(), 0);
        builder.end_tag(TagId(tag), value_type);
    }
    let mut run = builder.finish(seq, seq);
    run.qualities = read_qualities(reader, run.times.len())?;
    Ok(run)
}

fn read_times(reader: &mut Reader<'_>, rows: usize, times: &mut Vec<i64>) -> Result<(), Malformed> {
    let code = reader.u8()?;
    if code == TIMES_AS_BEFORE {
        let same = times.len() == rows;
        return if same { Ok(()) } else { Err(Malformed("times differ in number")) };
    }
    times.clear();
    let mut time = reader.zigzag()?;
    times.push(time);
    let step = if code == TIMES_STEP { Some(reader.zigzag()?) } else { None };
    if code > TIMES_DELTAS {
        return Err(Malformed("no such coding of times"));
    }
    for _ in 1..rows {
        let delta = match step {
            Some(step) => step,
            None => reader.zigzag()?,
        };
        let next = time.checked_add(delta).ok_or(Malformed("time out of range"))?;
        if next <= time {
            return Err(Malformed("times do not ascend"));
        }
        time = next;
        times.push(time);
    }
    Ok(())
}

fn read_words(
    reader: &mut Reader<'_>,
    value_type: ValueType,
    rows: usize,
    builder: &mut RunBuilder,
    words: &mut Vec<u64>,
) -> Result<(), Malformed> {
    words.clear();
    if value_type == ValueType::Text {
        for _ in 0..rows {
            let text = text(reader)?;
            words.push(builder.push_text(text));
        }
        return Ok(());
    }
    let width = width_of(value_type);
    let bytes = reader.take(rows * width)?;
    words.extend(bytes.chunks_exact(width).map(|bytes| {
        let mut word = [0; 8];
        word[..width].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }));
    Ok(())
}

fn read_qualities(reader: &mut Reader<'_>, rows: usize) -> Result<RowQualities, Malformed> {
    match reader.u8()? {
        0 => return Ok(RowQualities::Uniform(number(reader)?)),
        1 => {}
        _ => return Err(Malformed("no such coding of qualities")),
    }
    let mut each = Vec::with_capacity(rows);
    while each.len() < rows {
        let same: usize = number(reader)?;
        if same == 0 || same > rows - each.len() {
            return Err(Malformed("quality runs do not fit the rows"));
        }
        let quality = number(reader)?;
        each.resize(each.len() + same, quality);
    }
    Ok(RowQualities::Each(each))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Content {
        let mut builder = RunBuilder::with_capacity(8);
        builder.push(5, f64::NAN.to_bits() | 1, 0);
        builder.push(9, (-0.0f64).to_bits(), 0x8000_0000);
        builder.end_tag(TagId(0), ValueType::F64);
        builder.extend(&[5, 9], [1, u64::MAX].into_iter(), 0);
        builder.end_tag(TagId(3), ValueType::I64);
        for (time, text) in [(1, "RUN"), (2, ""), (40, "STOP")] {
            let word = builder.push_text(Arc::from(text));
            builder.push(time, word, 7);
        }
        builder.end_tag(TagId(4), ValueType::Text);
        builder.extend(&[10, 20, 30], [0, 1, 1].into_iter(), 7);
        builder.end_tag(TagId(9), ValueType::Bool);
        Content {
            origin: Some(Origin { gateway: Arc::from("g"), epoch: 3, seq: 9, session: 0 }),
            changes: vec![Change::DeleteTag(TagId(1))],
            delete: Some(Delete {
                tags: Arc::from([TagId(1), TagId(4)]),
                range: TimeRange::new(-5, 12),
                who: Arc::from("ops"),
            }),
            run: Some(builder.finish(Seq(8), Seq(8))),
        }
    }

    #[test]
    fn a_record_comes_back_and_every_prefix_is_refused_or_shorter() {
        let content = example();
        let payload = content.encode();
        assert_eq!(Content::decode(Seq(8), &payload.bytes, payload.raw_bytes).unwrap(), content);
        for end in 0..payload.bytes.len() {
            let read = Content::decode(Seq(8), &payload.bytes[..end], end);
            assert!(read.is_err() || read.unwrap() != content, "cut at {end}");
        }
    }

    #[test]
    fn a_large_record_is_compressed_and_comes_back() {
        let mut builder = RunBuilder::with_capacity(10_000);
        let times: Vec<i64> = (0..10_000).map(|i| i * 1_000).collect();
        builder.extend(&times, (0..10_000u64).map(|i| i % 7), 0);
        builder.end_tag(TagId(5), ValueType::I64);
        let content = Content { run: Some(builder.finish(Seq(2), Seq(2))), ..Content::default() };
        let payload = content.encode();
        assert!(payload.raw_bytes > 80_000);
        assert!(payload.bytes.len() < 20_000);
        assert_eq!(Content::decode(Seq(2), &payload.bytes, payload.raw_bytes).unwrap(), content);
    }

    #[test]
    fn any_byte_flipped_gives_an_error_or_a_content() {
        let payload = example().encode();
        for at in 0..payload.bytes.len() {
            for bit in 0..8 {
                let mut bytes = payload.bytes.clone();
                bytes[at] ^= 1 << bit;
                let _ignored: Result<_, _> = Content::decode(Seq(8), &bytes, bytes.len());
            }
        }
    }

    #[test]
    fn the_format_page_lists_every_section() {
        let kinds =
            [(ORIGIN, "origin"), (CHANGE, "change"), (DELETE, "delete"), (SAMPLES, "samples")];
        let listed = crate::fields::tests::numbered("wal", "Payload of a record");
        assert_eq!(listed, kinds.map(|(kind, name)| (kind, name.to_owned())));
    }

    #[test]
    fn a_record_never_claims_more_rows_than_a_batch_has() {
        let rows = limits::BATCH_SAMPLES_MAX / 2 + 1;
        let times: Vec<i64> = (0..).take(rows).collect();
        let content = |tags: u32| {
            let mut builder = RunBuilder::with_capacity(0);
            for tag in 0..tags {
                builder.extend(&times, times.iter().map(|_| 1), 0);
                builder.end_tag(TagId(tag), ValueType::Bool);
            }
            Content { run: Some(builder.finish(Seq(1), Seq(1))), ..Content::default() }.encode()
        };
        for (tags, fits) in [(1, true), (2, false)] {
            let payload = content(tags);
            assert!(payload.bytes.len() < 1 << 10, "a small record that grows");
            let read = Content::decode(Seq(1), &payload.bytes, payload.raw_bytes);
            assert_eq!(read.is_ok(), fits, "{tags} tags");
        }
    }
}
