//! Every call that the queue makes of its disk fails once, or is the last before the process or the machine dies. Whatever
//! was reported or seen stays what it was: no number and no alias comes to mean anything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tagmill_proto::v1::ValueType;

use super::folder::Folder;
use super::frames::{Kind, Name, header};
use super::known::Known;
use super::log::{Content, Cursor, Found, Log};
use super::position::{self, Position, Stored};
use super::random::Random;
use super::sim::{Fault, SimDisk};
use crate::definitions::TagDef;
use crate::error::Result;

const SEGMENT_BYTES: u64 = 700;
const FAULTS: [Fault; 4] = [Fault::Error, Fault::Full, Fault::Process, Fault::Power];
/// Calls that one life makes at most.
const CALLS_MAX: u64 = 2_000;

/// Lives one life with each fault at each call, then two without any; the machine goes down before the last.
fn at_every_call<M: Default>(live: impl Fn(&SimDisk, &mut M, &mut Random) -> Result<()>) {
    let mut random = Random::seeded();
    let _case = random.case();
    for fault in FAULTS {
        // The beginning is the same for each call that fails.
        let beginning = random.fork();
        for nth in 1.. {
            assert!(nth < CALLS_MAX, "a life has an end");
            let disk = SimDisk::new(random.fork());
            let mut model = M::default();
            let mut script = beginning.clone();
            live(&disk, &mut model, &mut script).unwrap();
            disk.restart(false);
            disk.fail(nth, fault);
            // It may end early, and may end in an error.
            live(&disk, &mut model, &mut script).ok();
            if disk.is_waiting() {
                assert!(nth > 10, "only {nth} calls were tried");
                break;
            }
            for is_power_lost in [random.below(2) == 0, true] {
                disk.restart(is_power_lost);
                live(&disk, &mut model, &mut script).unwrap();
            }
        }
    }
}

fn folder(disk: &SimDisk) -> Result<Arc<Folder>> {
    // Only its lock is the system's, and nobody else asks for that.
    let path = tempfile::tempdir().unwrap();
    Folder::open_on(Arc::new(disk.clone()), path.path()).map(Arc::new)
}

/// What a log has said.
#[derive(Default)]
struct Said {
    /// What was reported as stored, or read, by number.
    records: BTreeMap<u64, Vec<u8>>,
    /// Records up to here were removed.
    removed: u64,
    /// Batches that were made.
    made: u32,
}

impl Said {
    /// Whatever was said before is there, and what is new there was asked for.
    fn check(&mut self, log: &Log) -> Result<()> {
        let (mut cursor, mut next) = (Cursor::default(), log.oldest());
        let mut found = BTreeMap::new();
        loop {
            match log.read(&mut cursor, next, 300)? {
                Found::End => break,
                Found::Gap(behind) => {
                    assert!(behind <= self.removed + 1, "records {next} to {behind} are gone");
                    next = behind;
                }
                Found::Records(records) => {
                    for record in records {
                        next = record.number + 1;
                        found.insert(record.number, record.content.payload.to_vec());
                    }
                }
            }
        }
        for (number, payload) in self.records.range(self.removed + 1..) {
            assert_eq!(found.get(number), Some(payload), "record {number}");
        }
        for (number, payload) in found {
            let before = self.records.entry(number).or_insert_with(|| payload.clone());
            assert_eq!(*before, payload, "number {number} means something else now");
        }
        assert!(log.end() >= self.records.keys().next_back().copied().unwrap_or_default());
        Ok(())
    }

    fn append(&mut self, log: &Log, random: &mut Random) -> Result<()> {
        let payloads: Vec<Vec<u8>> = (0..=random.below(3))
            .map(|_| {
                self.made += 1;
                let mut payload = self.made.to_le_bytes().to_vec();
                payload.resize(4 + random.index(150), 7);
                payload
            })
            .collect();
        let content = |payload: &Vec<u8>| Content { samples: 1, payload: payload.clone().into() };
        let contents: Vec<Content> = payloads.iter().map(content).collect();
        let last = log.append(&contents, 0)?;
        let first = last + 1 - payloads.len() as u64;
        for (number, payload) in (first..).zip(payloads) {
            assert!(
                self.records.range(number..).next().is_none(),
                "number {number} is given twice"
            );
            self.records.insert(number, payload);
        }
        Ok(())
    }
}

#[test]
fn records_stay_what_they_are_whichever_call_fails() {
    at_every_call(|disk, said: &mut Said, random| {
        let folder = folder(disk)?;
        let (log, _) = Log::open(folder, Kind::Batches, SEGMENT_BYTES)?;
        said.check(&log)?;
        let mut ended = Ok(());
        for _ in 0..8 {
            // An error need not be the end: whoever appends tries again.
            let done = match random.below(6) {
                0 => log.seal(),
                1 => match log.front() {
                    Some((segment, false)) => {
                        assert!(log.pop_front(&segment));
                        said.removed = said.removed.max(segment.last);
                        log.remove(&segment)
                    }
                    _ => Ok(()),
                },
                _ => said.append(&log, random),
            };
            ended = ended.and(done);
        }
        said.check(&log)?;
        ended
    });
}

#[test]
fn aliases_stay_what_they_are_whichever_call_fails() {
    at_every_call(|disk, given: &mut BTreeMap<u32, TagDef>, random| {
        let mut known = Known::open(folder(disk)?, 0)?;
        for (alias, tag) in given.iter() {
            assert_eq!(known.definitions().get(*alias), Some(tag), "alias {alias}");
        }
        let mut ended = Ok(());
        for _ in 0..6 {
            let types = [ValueType::F64, ValueType::I64];
            let tags: Vec<TagDef> = (0..=random.below(2))
                .map(|_| TagDef::new(format!("t{}", random.below(30)), types[random.index(2)]))
                .collect();
            match known.define(&tags) {
                Ok((aliases, _)) => {
                    for (alias, tag) in aliases.into_iter().zip(tags) {
                        let before = given.entry(alias).or_insert_with(|| tag.clone());
                        assert_eq!(*before, tag, "alias {alias} is another tag now");
                    }
                }
                Err(error) => ended = Err(error),
            }
        }
        ended
    });
}

#[test]
fn a_position_is_the_last_or_the_one_before_whichever_call_fails() {
    at_every_call(|disk, (reported, asked): &mut (u64, u64), _| {
        let folder = folder(disk)?;
        match position::load(&folder, "g", "s")? {
            Stored::None => assert_eq!(*reported, 0),
            Stored::Position(Position { acked, .. }) => {
                assert!((*reported..=*asked).contains(&acked), "{acked}: {reported} to {asked}");
            }
            other => panic!("{other:?}"),
        }
        let mut ended = Ok(());
        for _ in 0..4 {
            *asked += 1;
            let position = Position { epoch: 1, base: 0, acked: *asked, incarnation: 9, lost: 0 };
            match position::save(&folder, &position, "g", "s") {
                Ok(()) => *reported = *asked,
                Err(error) => ended = Err(error),
            }
        }
        ended
    });
}

/// A damaged end that is longer than any write: it stays, with a copy, and its numbers are not given again.
#[test]
fn a_long_damaged_end_is_kept_and_its_numbers_are_not_given_again() {
    let scratch = tempfile::tempdir().unwrap();
    let open = || {
        let folder = Arc::new(Folder::open(scratch.path()).unwrap());
        (Log::open(Arc::clone(&folder), Kind::Batches, 1 << 30).unwrap().0, folder)
    };
    let content = Content { samples: 1, payload: Bytes::from(vec![5; 1 << 20]) };
    let (log, folder) = open();
    for _ in 0..20 {
        log.append(std::slice::from_ref(&content), 0).unwrap();
    }
    folder.release();
    let entries = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().path());
    let path = entries.into_iter().find(|path| path.extension().is_some()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let bad_from = bytes.len() / 2;
    bytes[bad_from..].fill(0);
    std::fs::write(&path, &bytes).unwrap();

    for life in 0..3 {
        let (log, folder) = open();
        let told = log.take_damage().join("\n");
        assert_eq!(told.contains("a copy is kept"), life < 2, "{told}");
        assert!(log.end() >= 20);
        if life > 0 {
            assert!(log.append(std::slice::from_ref(&content), 0).unwrap() > 20);
        }
        let found = log.read(&mut Cursor::default(), 1, usize::MAX).unwrap();
        assert!(matches!(found, Found::Records(records) if (8..11).contains(&records.len())));
        folder.release();
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read(format!("{}.damaged", path.display())).unwrap(), bytes);
}

/// A file without a record beside or behind those that hold its numbers, as a create that failed may leave it: it is nothing.
#[test]
fn a_file_without_a_record_covers_no_other() {
    for (first, identity) in [(1, 0), (1, u64::MAX), (2, 7)] {
        let scratch = tempfile::tempdir().unwrap();
        let open = || {
            let folder = Arc::new(Folder::open(scratch.path()).unwrap());
            (Log::open(Arc::clone(&folder), Kind::Batches, 1 << 20).unwrap().0, folder)
        };
        let content = Content { samples: 1, payload: Bytes::from_static(b"kept") };
        let (log, folder) = open();
        log.append(&[content.clone(), content.clone()], 0).unwrap();
        folder.release();
        let empty = Name { first, identity };
        let path = scratch.path().join(empty.file(Kind::Batches));
        std::fs::write(&path, header(empty, Kind::Batches)).unwrap();
        let (log, folder) = open();
        assert_eq!((log.end(), log.take_damage(), path.exists()), (2, vec![], false));
        assert_eq!(log.append(&[content], 0).unwrap(), 3);
        folder.release();
    }
}

/// A sector that cannot be read is tried a few times; then it costs the records in it, which are named, and no other.
#[test]
fn a_sector_that_cannot_be_read_costs_its_records() {
    let disk = SimDisk::new(Random::seeded());
    let (log, _) = Log::open(folder(&disk).unwrap(), Kind::Batches, 1 << 20).unwrap();
    let content = Content { samples: 1, payload: Bytes::from(vec![5; 1_000]) };
    for _ in 0..20 {
        log.append(std::slice::from_ref(&content), 0).unwrap();
    }
    // Records 8 to 12 have a part of it.
    disk.set_unreadable(8_192..12_288);
    let (mut cursor, mut next, mut failures) = (Cursor::default(), 1, 0);
    let (mut found, mut gone) = (Vec::new(), Vec::new());
    loop {
        match log.read(&mut cursor, next, 3_000) {
            Err(_) => failures += 1,
            Ok(Found::End) => break,
            Ok(Found::Gap(behind)) => {
                gone.extend(next..behind);
                next = behind;
            }
            Ok(Found::Records(records)) => {
                found.extend(records.iter().map(|record| record.number));
                next += records.len() as u64;
            }
        }
        assert!(failures < 100, "it gives up on a sector some time");
    }
    assert_eq!(failures, 3, "a disk that is away for a moment loses nothing");
    assert_eq!(gone, (8..=12).collect::<Vec<u64>>());
    assert_eq!(found, (1..=7).chain(13..=20).collect::<Vec<u64>>());
    assert!(log.take_damage().join("\n").contains("records 8 to 12 are damaged"));
    // Another reader finds the same without a wait, and a record that can be read again is there.
    assert_eq!(log.read(&mut Cursor::default(), 8, 1).unwrap(), Found::Gap(13));
    disk.set_unreadable(0..0);
    assert!(matches!(log.read(&mut Cursor::default(), 8, 1).unwrap(), Found::Records(_)));
}
