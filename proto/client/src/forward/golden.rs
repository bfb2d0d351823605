//! The format page and the golden files against the code: bytes change with a new version, or not at all.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tagmill_proto::Message as _;
use tagmill_proto::v1::client_message::Message;
use tagmill_proto::v1::{ClientMessage, ValueType};

use super::folder::Folder;
use super::frames::{
    FRAME_BYTES, HEADER_BYTES, Kind, Name, NewFrame, frame, header, put_frame, survey, whole_frame,
};
use super::known::Known;
use super::log::{Content, Cursor, Found, Log, Record};
use super::position::{Position, Stored, decode, encode};
use crate::batch::BatchBuilder;
use crate::definitions::{TagDef, set_message, tag_messages};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The golden file of this name; `UPDATE_GOLDEN=1` writes it if it is missing. A released one never changes.
fn golden(name: &str, written_today: &[u8]) {
    let path = root().join("tests/golden/forward").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, written_today).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        golden == written_today,
        "{name} differs: the format changed, so it needs a new version"
    );
}

fn file(name: Name, kind: Kind, payloads: &[Bytes], aliases: u32) -> Vec<u8> {
    let mut bytes = header(name, kind);
    for (record, payload) in (name.first..).zip(payloads) {
        let synced = record - 1;
        let frame = NewFrame { record, synced, samples: 3, aliases, payload };
        put_frame(&mut bytes, name.identity, &frame);
    }
    bytes
}

const IDENTITY: u64 = 0x0011_2233_4455_6677;

fn batches() -> Vec<Bytes> {
    let batch = |second: i64| {
        let mut batch = BatchBuilder::new();
        let times =
            [second, second + 1, second + 3].map(|t| 1_700_000_000_000_000_000 + t * 1_000_000_000);
        batch.f64(1, &times, &[1.0, -0.5, f64::MAX]).unwrap();
        batch.into_body()
    };
    vec![batch(0), Bytes::new(), batch(10)]
}

#[test]
fn the_golden_files_are_read_and_written_again() {
    let name = Name { first: 41, identity: IDENTITY };
    golden("v1.batches", &file(name, Kind::Batches, &batches(), 2));
    let tags = [
        TagDef::new("u1/TI-101.PV", ValueType::F64).unit("degC"),
        TagDef::new("u1/mode", ValueType::State),
    ];
    let said = tag_messages((1..).zip(&tags)).remove(0);
    let message = |message| Bytes::from(ClientMessage { message: Some(message) }.encode_to_vec());
    let said = [
        message(Message::DefineTags(said)),
        message(Message::DefineTagSet(set_message(0, 1, &[2, 1]))),
    ];
    let name = Name { first: 1, identity: IDENTITY };
    golden("v1.tags", &file(name, Kind::Definitions, &said, 2));
    let position =
        Position { epoch: 2, base: 40, acked: 42, incarnation: 0x0102_0304_0506_0708, lost: 7 };
    golden("v1.position", &encode(&position, "boiler-house", "plant:7410"));

    // And read, as a folder that a process has left.
    let scratch = tempfile::tempdir().unwrap();
    let stands = |name: &str| root().join("tests/golden/forward").join(name);
    let copy =
        |from: &str, to: String| std::fs::copy(stands(from), scratch.path().join(to)).unwrap();
    copy("v1.batches", Name { first: 41, identity: IDENTITY }.file(Kind::Batches));
    copy("v1.tags", Name { first: 1, identity: IDENTITY }.file(Kind::Definitions));
    let folder = Arc::new(Folder::open(scratch.path()).unwrap());
    let (log, aliases) = Log::open(Arc::clone(&folder), Kind::Batches, 1 << 20).unwrap();
    assert_eq!((log.oldest(), log.end(), aliases), (41, 43, 2));
    let content = |payload| Content { samples: 3, payload };
    let records =
        (41..).zip(batches()).map(|(number, payload)| Record { number, content: content(payload) });
    let found = log.read(&mut Cursor::default(), 41, usize::MAX).unwrap();
    assert_eq!(found, Found::Records(records.collect()));
    let mut known = Known::open(folder, aliases).unwrap();
    let (given, news) = known.define(&tags).unwrap();
    assert_eq!((given, news.tags.len()), (vec![1, 2], 0));
    assert!(known.define_set(&[2, 1]).unwrap().1.set.is_none());
    let bytes = std::fs::read(stands("v1.position")).unwrap();
    assert_eq!(decode(&bytes, "boiler-house", "plant:7410"), Ok(Stored::Position(position)));
}

/// Rows of the table in a section of the format page: offset, size, field.
fn documented(heading: &str) -> Vec<(usize, usize, String)> {
    let text = std::fs::read_to_string(root().join("docs/format/forward-queue.md")).unwrap();
    let section = text.split("\n## ").find(|part| part.starts_with(heading)).unwrap();
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, offset, size, _, name, ..] = cells[..] else { return None };
        Some((offset.parse().ok()?, size.parse().ok()?, name.to_owned()))
    });
    rows.collect()
}

/// Fails unless the table fills a block of this length, and each field has the number it says.
fn check(heading: &str, block: &[u8], numbers: &[(&str, u64)]) {
    let rows = documented(heading);
    let mut next = 0;
    for (offset, size, name) in &rows {
        assert_eq!(*offset, next, "{heading}: {name}");
        next += size;
        let bytes = &block[*offset..next];
        if name == "reserved" {
            assert!(bytes.iter().all(|byte| *byte == 0), "{heading}: reserved at {offset}");
        } else if let Some((_, number)) = numbers.iter().find(|(known, _)| known == name) {
            let found = bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
            assert_eq!(found, *number, "{heading}: {name}");
        }
    }
    assert_eq!(next, block.len(), "{heading}");
    for (name, _) in numbers {
        assert!(rows.iter().any(|(_, _, row)| row == name), "{heading} has no {name}");
    }
}

#[test]
fn the_format_page_agrees() {
    let name = Name { first: 41, identity: IDENTITY };
    let bytes = file(name, Kind::Batches, &[Bytes::from_static(&[9; 5])], 77);
    let numbers = [("version", 1), ("kind", 1), ("identity", IDENTITY), ("first_record", 41)];
    check("File header", &bytes[..HEADER_BYTES], &numbers);
    let block = &bytes[HEADER_BYTES..HEADER_BYTES + FRAME_BYTES];
    let numbers =
        [("payload_bytes", 5), ("samples", 3), ("record", 41), ("synced", 40), ("aliases", 77)];
    check("Frame", block, &numbers);
    assert_eq!(frame(block, IDENTITY).unwrap().len(), FRAME_BYTES + 8);
    assert!(whole_frame(block, IDENTITY).is_none(), "its payload is missing");
    assert_eq!(survey(&bytes, name).last, 41);
    let position = Position { epoch: 3, base: 4, acked: 5, incarnation: 6, lost: 7 };
    let bytes = encode(&position, "gg", "sss");
    let numbers = [
        ("version", 1),
        ("gateway_bytes", 2),
        ("server_bytes", 3),
        ("epoch", 3),
        ("base", 4),
        ("acked", 5),
        ("incarnation", 6),
        ("lost", 7),
    ];
    check("Position", &bytes[..64], &numbers);
}
