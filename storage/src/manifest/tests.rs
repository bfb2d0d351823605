//! The manifest's bytes: what the format page says, what golden files hold, what damage does.

use super::*;
use crate::disk::sim::SimDisk;
use crate::fields::tests::{check_page, golden};
use crate::head::tombstone::Tombstone;
use crate::retention::Ends;
use crate::segment::damage::Damage;
use crate::segment::meta::tests::example as segment;
use crate::tag::TagId;
use crate::time::TimeRange;

const IDENTITY: u64 = 0x0123_4567_89AB_CDEF;
const NUMBER: u64 = 5;
const INCARNATION: u64 = 77;

/// A first edit with something of everything, and one that changes it.
fn edits() -> [Edit; 2] {
    let tombstone = |seq| {
        let tags = Arc::from([TagId(1), TagId(40)]);
        let (range, who) = (TimeRange::new(-5, 1_000), Arc::from("operator"));
        Arc::new(Tombstone { seq: Seq(seq), tags, range, who })
    };
    let damage = Damage {
        segment: SegmentId(7),
        first_tag: TagId(2),
        last_tag: TagId(9),
        first_ns: 1_767_225_600_000_000_000,
        last_ns: 1_767_225_600_000_000_500,
        why: Arc::from("the bytes do not match their checksum"),
    };
    let state = State {
        floor: Seq(12),
        next_segment: SegmentId(9),
        registry_bytes: 400,
        latest_file: 3,
        marks: vec![(Arc::from("Gerät 2"), 1, 1), (Arc::from("gw-1"), 2, 300)],
        tombstones: vec![tombstone(4), tombstone(11)],
        horizons: vec![
            (Arc::from(""), Ends::at(-86_400)),
            (Arc::from("long"), Ends { raw_ns: 1 << 40, tiers_ns: [1 << 39, 1 << 38, 7, 0] }),
        ],
        imports: vec![(Arc::from("plant/2025.parquet"), Seq(10))],
        quarantine: vec![Arc::new(damage)],
    };
    let mut older = segment();
    older.id = SegmentId(6);
    let first = Edit { remove: Vec::new(), add: vec![older, segment()], state: state.clone() };
    let mut merged = segment();
    (merged.id, merged.identity) = (SegmentId(9), 9);
    let state = State { floor: Seq(20), next_segment: SegmentId(10), ..state };
    let second = Edit { remove: vec![SegmentId(6), SegmentId(7)], add: vec![merged], state };
    [first, second]
}

fn frame(number: u64, edit: &Edit) -> Vec<u8> {
    frame_of(IDENTITY, number, edit, EDIT_BYTES_MAX).unwrap()
}

fn written() -> Vec<u8> {
    let mut bytes = header(IDENTITY, NUMBER, INCARNATION).to_vec();
    for (number, edit) in (0..).zip(&edits()) {
        bytes.extend(frame(number, edit));
    }
    bytes
}

fn load(bytes: &[u8]) -> Result<Loaded> {
    let disk = SimDisk::new(1);
    disk.replace(&path(NUMBER), bytes);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    Manifest::load(&disk).map(|loaded| loaded.expect("there is a file"))
}

fn assert_second(loaded: &Loaded) {
    let [_, second] = edits();
    assert_eq!((loaded.number, loaded.incarnation), (NUMBER, INCARNATION));
    assert_eq!(loaded.segments.values().collect::<Vec<_>>(), second.add.iter().collect::<Vec<_>>());
    assert_eq!(loaded.state, second.state);
}

#[test]
fn the_format_page_agrees() {
    check_page("manifest", "File header", &[&HEADER[..], &[HEADER_CRC]].concat());
    check_page("manifest", "Frame", &FRAME);
}

#[test]
fn the_golden_manifest_is_written_and_read_the_same() {
    assert_second(&load(&golden("manifest/v5.log", &written())).unwrap());
}

/// A change of any byte is found, or undoes the last edit as a torn write of it would; nothing else is ever read.
#[test]
fn no_byte_may_change_but_those_of_the_last_edit() {
    let bytes = written();
    let last = {
        let mut before = header(IDENTITY, NUMBER, INCARNATION).to_vec();
        before.extend(frame(0, &edits()[0]));
        before.len()
    };
    let check = |result: Result<Loaded>, at: usize| match result {
        Ok(loaded) => {
            assert!(at >= last, "byte {at} of an edit before the last went unseen");
            assert_eq!(loaded.state, edits()[0].state, "byte {at}");
        }
        Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "byte {at}: {error}"),
    };
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        check(load(&changed), at);
        check(load(&bytes[..at]), at);
    }
}

/// A reader takes what a writer lets through, and no more.
#[test]
fn an_edit_that_no_reader_takes_is_not_written() {
    let [edit, _] = edits();
    let mut payload = Vec::new();
    edit.encode(&mut payload);
    let bytes = payload.len();
    assert!(frame_of(IDENTITY, 0, &edit, bytes).is_ok());
    assert_eq!(frame_of(IDENTITY, 0, &edit, bytes - 1), Err(bytes));
    assert!(matches!(too_long("manifest", bytes), Error::Invalid(_)));
    let mut header = [0; FRAME_HEADER_BYTES];
    FRAME[1].put(&mut header, EDIT_BYTES_MAX as u64 + 1);
    assert!(super::frame(&header, 0, IDENTITY).is_none());
}

#[test]
fn a_newer_version_and_reserved_bytes_are_told_from_damage() {
    let with = |field: Field, number: u64| {
        let mut bytes = written();
        field.put(&mut bytes, number);
        let crc = crc32(0, &bytes[..HEADER_CRC.offset]);
        HEADER_CRC.put(&mut bytes, crc.into());
        load(&bytes)
    };
    let [_, version, reserved, .., reserved_too] = HEADER;
    assert!(matches!(with(version, 6), Err(Error::TooNew { found: 6, .. })));
    for field in [reserved, reserved_too] {
        assert!(matches!(with(field, 1), Err(Error::Corrupt { .. })));
    }
    assert!(with(reserved, 0).is_ok());
}
