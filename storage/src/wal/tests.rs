//! The log's bytes: what the format page says, and what golden files hold.

use std::sync::Arc;

use super::file::{FRAME, FRAME_CRC, FileHeader, Frame, HEADER, HEADER_BYTES, HEADER_CRC, Kind};
use super::record::{Content, Delete};
use super::replay::Listing;
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::error::Error;
use crate::fields::tests::{check_page, golden};
use crate::head::run::RunBuilder;
use crate::ids::Seq;
use crate::registry::change::tests::examples;
use crate::sample::Origin;
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

const START_NS: i64 = 1_767_225_600_000_000_000;

#[test]
fn the_format_page_agrees() {
    check_page("wal", "File header", &[&HEADER[..], &[HEADER_CRC]].concat());
    check_page("wal", "Frame", &[&[FRAME_CRC], &FRAME[..]].concat());
}

/// Samples of every type; the second is large enough to be compressed.
fn samples(seq: u64, rows: i64) -> Content {
    let mut builder = RunBuilder::with_capacity(0);
    for (tag, value_type) in (0..).zip(ValueType::ALL) {
        for row in 0..rows {
            // Half of the tags on one grid, the others at times of their own.
            let jitter = if tag % 2 == 0 { 0 } else { row * row % 7 };
            let time_ns = START_NS + row * 1_000_000_000 + jitter;
            let number = row.cast_unsigned() % 5;
            let quality = if row % 11 == 3 { 0x8031_0000 } else { 0 };
            let word = match value_type {
                ValueType::F64 if number == 4 => f64::NAN.to_bits() | 7,
                ValueType::F64 => (number as f64 / 8.0).to_bits(),
                ValueType::F32 => 0x3FC0_0000 + number,
                ValueType::I64 => u64::MAX - number,
                ValueType::Bool => number % 2,
                ValueType::State => 65_535 - number,
                ValueType::Text => builder.push_text(Arc::from(format!("Füllen {number}"))),
            };
            builder.push(time_ns, word, quality);
        }
        builder.end_tag(TagId(tag * 300), value_type);
    }
    let origin = Origin { gateway: Arc::from("gw-1"), epoch: 2, seq: 300, session: 0 };
    let run = Some(builder.finish(Seq(seq), Seq(seq)));
    Content { origin: Some(origin), run, ..Content::default() }
}

fn contents() -> [Content; 4] {
    let range = TimeRange::new(-5, START_NS);
    let tags = Arc::from([TagId(0), TagId(600)]);
    let delete = Some(Delete { tags, range, who: Arc::from("operator") });
    [
        Content { changes: examples(), ..Content::default() },
        samples(2, 4),
        Content { delete, ..Content::default() },
        samples(4, 120),
    ]
}

/// Two files: the first goes on in the second, which is closed.
fn written() -> [(String, Vec<u8>); 2] {
    let contents = contents();
    [(1, 0xA1_u64, Kind::Continue), (4, 0xB2, Kind::Close)].map(|(first, identity, mark)| {
        let length = 4_096;
        let (first_seq, synced_seq) = (Seq(first), Seq(first - 1));
        let header = FileHeader { identity, first_seq, synced_seq, incarnation: 77, length };
        let mut bytes = header.encode().to_vec();
        let mut put = |kind, seq, synced_seq, content: Option<&Content>| {
            let payload = content.map(Content::encode);
            let raw_bytes = payload.as_ref().map_or(0, |payload| payload.raw_bytes);
            let payload = payload.map_or(Vec::new(), |payload| payload.bytes);
            let frame = Frame {
                kind,
                seq: Seq(seq),
                synced_seq: Seq(synced_seq),
                stored_bytes: u32::try_from(payload.len()).unwrap(),
                raw_bytes: u32::try_from(raw_bytes).unwrap(),
                payload_crc: crate::checksum::crc32(0, &payload),
            };
            frame.put(identity, &payload, &mut bytes);
        };
        let records = if first == 1 { 1..=3_u64 } else { 4..=4 };
        for seq in records.clone() {
            put(Kind::Record, seq, seq - 1, contents.get(usize::try_from(seq - 1).unwrap()));
        }
        put(mark, *records.end(), *records.end(), None);
        assert!(bytes.len() < 4_096, "the records fit");
        bytes.resize(4_096, 0);
        (header.path(), bytes)
    })
}

fn replay(files: &[(String, Vec<u8>)]) -> Result<Vec<(Seq, Content)>, Error> {
    let disk = SimDisk::new(1);
    disk.create_dir(super::file::DIR).unwrap();
    for (path, bytes) in files {
        disk.replace(path, bytes);
    }
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let mut records = Vec::new();
    Listing::read(&disk)?.replay(&disk, Seq(0), |file| {
        for (offset, frame, payload) in file.frames() {
            records.push((frame.seq, file.content(offset, &frame, payload)?));
        }
        Ok(())
    })?;
    Ok(records)
}

#[test]
fn the_golden_log_is_written_and_read_the_same() {
    let files = written();
    let names = ["wal/v1-first.wal", "wal/v1-last.wal"];
    let read =
        files.iter().zip(names).map(|((path, bytes), name)| (path.clone(), golden(name, bytes)));
    let records = replay(&read.collect::<Vec<_>>()).unwrap();
    let expected: Vec<_> = (1..).map(Seq).zip(contents()).collect();
    assert_eq!(records, expected);
    let compressed = Frame::read(&files[1].1[HEADER_BYTES..], 0xB2).unwrap().0;
    assert!(compressed.stored_bytes < compressed.raw_bytes, "one record is compressed");
}

/// In a log that was closed nothing looks like a tear: a changed byte is found, or is in the zeros behind the last mark
/// and harmless.
#[test]
fn no_byte_of_a_closed_log_may_change() {
    let files = written();
    let good = replay(&files).unwrap();
    for (number, (_, bytes)) in files.iter().enumerate() {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for at in 0..bytes.len().min(used + 64) {
            let mut changed = files.clone();
            changed[number].1[at] ^= 0x10;
            match replay(&changed) {
                Ok(records) => {
                    assert_eq!(records, good, "file {number}, byte {at}");
                    assert!(at + 40 > used, "file {number}, byte {at} went unseen");
                }
                Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
            }
        }
    }
}
