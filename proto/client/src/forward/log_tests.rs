//! The log against a model: whatever is appended, cut, flipped or lost, what comes back is what was stored, and what does
//! not come back is named.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::folder::Folder;
use super::frames::{HEADER_BYTES, Kind};
use super::log::{Content, Cursor, Found, Log};
use super::random::Random;

const SEGMENT_BYTES: u64 = 700;

fn open(path: &Path) -> (Log, Arc<Folder>) {
    let folder = Arc::new(Folder::open(path).unwrap());
    let (log, _) = Log::open(Arc::clone(&folder), Kind::Batches, SEGMENT_BYTES).unwrap();
    (log, folder)
}

/// Payloads by record.
type Model = BTreeMap<u64, Vec<u8>>;

fn append(log: &Log, model: &mut Model, random: &mut Random) {
    let count = 1 + random.below(4);
    let payload = |random: &mut Random| -> Vec<u8> {
        (0..random.below(120)).map(|_| random.byte()).collect()
    };
    let payloads: Vec<Vec<u8>> = (0..count).map(|_| payload(random)).collect();
    let content = |payload: &Vec<u8>| Content { samples: 1, payload: Bytes::from(payload.clone()) };
    let contents: Vec<Content> = payloads.iter().map(content).collect();
    let first = log.end() + 1;
    assert_eq!(log.append(&contents, 0).unwrap(), first + count - 1);
    model.extend((first..).zip(payloads));
}

/// Everything that can be read from `from` on, and the records that are said to be gone.
fn read(log: &Log, from: u64, random: &mut Random) -> (Model, Vec<u64>) {
    let (mut found, mut gone) = (Model::new(), Vec::new());
    let mut cursor = Cursor::default();
    let mut next = from;
    loop {
        let most_bytes = 1 + random.index(400);
        match log.read(&mut cursor, next, most_bytes).unwrap() {
            Found::End => return (found, gone),
            Found::Gap(behind) => {
                assert!(behind > next, "a gap that is none at {next}");
                gone.extend(next..behind);
                next = behind;
            }
            Found::Records(records) => {
                assert!(!records.is_empty());
                for record in records {
                    assert_eq!(record.number, next, "without a gap, in order");
                    found.insert(next, record.content.payload.to_vec());
                    next += 1;
                }
            }
        }
    }
}

/// Files of the log by name.
fn files(path: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "batches")).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A log of a few writes: what is in it, and the first record of the last write.
fn filled(path: &Path, random: &mut Random) -> (Model, u64) {
    let (log, _) = open(path);
    let mut model = Model::new();
    let mut last_write = 1;
    for _ in 0..=random.below(12) {
        last_write = log.end() + 1;
        append(&log, &mut model, random);
    }
    (model, last_write)
}

#[test]
fn what_is_appended_is_read_over_any_restarts_and_removals() {
    let mut random = Random::seeded();
    let _case = random.case();
    for _ in 0..15 {
        let scratch = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let (mut log, mut folder) = open(scratch.path());
        for _ in 0..60 {
            match random.below(8) {
                0 => {
                    folder.release();
                    (log, folder) = open(scratch.path());
                }
                1 => {
                    if let Some((segment, false)) = log.front() {
                        assert!(log.pop_front(&segment) && !log.pop_front(&segment));
                        log.remove(&segment).unwrap();
                        model = model.split_off(&(segment.last + 1));
                    }
                }
                2 => {
                    if log.front().is_some_and(|(segment, _)| !segment.is_empty()) && log.end() > 0
                    {
                        log.seal().ok();
                    }
                }
                _ => append(&log, &mut model, &mut random),
            }
            let oldest = log.oldest();
            assert!(model.keys().next().is_none_or(|first| *first == oldest));
            let from = oldest + random.below(log.end() + 2 - oldest);
            let (found, gone) = read(&log, from, &mut random);
            assert!(gone.is_empty(), "{gone:?}");
            assert!(found.iter().eq(model.range(from..)), "from {from}");
        }
        let bytes: usize = files(scratch.path()).iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(log.bytes(), bytes as u64);
        assert_eq!(log.take_damage(), Vec::<String>::new());
    }
}

/// The newest file cut at any byte: what is left is the beginning of what was stored, and appends go on behind it.
#[test]
fn a_log_cut_anywhere_is_the_beginning_of_itself() {
    let mut random = Random::seeded();
    let _case = random.case();
    let scratch = tempfile::tempdir().unwrap();
    let (model, _) = filled(scratch.path(), &mut random);
    let all = files(scratch.path());
    let (path, bytes) = all.last().unwrap();
    for length in 0..=bytes.len() {
        for (path, _) in files(scratch.path()) {
            std::fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &all {
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::write(path, &bytes[..length]).unwrap();
        let (log, folder) = open(scratch.path());
        let end = log.end();
        let (found, gone) = read(&log, 1, &mut random);
        // What was cut off is told, and nothing else.
        let is_whole = std::fs::metadata(path).is_ok_and(|file| file.len() == length as u64);
        let told = log.take_damage();
        assert_eq!(gone, Vec::<u64>::new(), "cut at {length}");
        assert_eq!(
            told.is_empty(),
            is_whole || length <= HEADER_BYTES,
            "cut at {length}: {told:?}"
        );
        assert!(found.iter().eq(model.range(..=end)), "cut at {length}");
        assert!(length < bytes.len() || end == model.len() as u64);
        let mut now = found;
        append(&log, &mut now, &mut random);
        assert_eq!(read(&log, 1, &mut random).0, now);
        folder.release();
    }
}

/// A bit flipped anywhere, in any file: every record comes back as it was stored, or is said to be gone.
#[test]
fn a_flipped_bit_costs_little_and_is_named() {
    let mut random = Random::seeded();
    let _case = random.case();
    let scratch = tempfile::tempdir().unwrap();
    let (model, last_write) = filled(scratch.path(), &mut random);
    for (path, bytes) in &files(scratch.path()) {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << random.below(8);
            std::fs::write(path, &bad).unwrap();
            let (log, folder) = open(scratch.path());
            let (found, gone) = read(&log, 1, &mut random);
            assert!(found.iter().all(|(record, payload)| model.get(record) == Some(payload)));
            let missing: Vec<u64> =
                model.keys().copied().filter(|record| !found.contains_key(record)).collect();
            let damage = log.take_damage();
            if at < HEADER_BYTES {
                assert_eq!((missing, damage.len()), (vec![], 1), "header, byte {at}");
            } else if missing[0] >= last_write {
                // Damage to the last write looks like a tear: it ends there.
                assert!(missing.iter().copied().eq(missing[0]..=model.len() as u64));
                assert_eq!((gone, damage.len()), (vec![], 1), "byte {at}: {damage:?}");
            } else {
                assert_eq!((&gone, missing.len()), (&missing, 1), "byte {at}");
                assert_eq!(damage.len(), 1, "byte {at}: {damage:?}");
            }
            folder.release();
        }
        std::fs::write(path, bytes).unwrap();
    }
}

/// A file that is gone, or holds anything at all, costs its own records; nothing panics.
#[test]
fn lost_and_strange_files_cost_their_own_records() {
    let mut random = Random::seeded();
    let _case = random.case();
    for _ in 0..60 {
        let scratch = tempfile::tempdir().unwrap();
        let (model, _) = filled(scratch.path(), &mut random);
        let all = files(scratch.path());
        let (path, bytes) = &all[random.index(all.len())];
        match random.below(4) {
            0 => std::fs::remove_file(path).unwrap(),
            1 => std::fs::write(path, vec![random.byte(); random.index(400)]).unwrap(),
            2 => {
                let junk: Vec<u8> = (0..random.below(900)).map(|_| random.byte()).collect();
                std::fs::write(path, junk).unwrap();
            }
            _ => {
                let mut bytes = bytes.clone();
                let by = 8 * random.index(bytes.len() / 8);
                bytes.rotate_left(by);
                std::fs::write(path, bytes).unwrap();
            }
        }
        let (log, folder) = open(scratch.path());
        let (found, _) = read(&log, 1, &mut random);
        assert!(found.iter().all(|(record, payload)| model.get(record) == Some(payload)));
        let mut now = found;
        append(&log, &mut now, &mut random);
        assert_eq!(read(&log, 1, &mut random).0, now);
        folder.release();
        let (log, _) = open(scratch.path());
        assert_eq!(read(&log, 1, &mut random).0, now, "the same again after a restart");
    }
}

/// Aliases that batches hold are known from the last file that has any.
#[test]
fn a_newest_file_without_a_record_forgets_no_alias() {
    let scratch = tempfile::tempdir().unwrap();
    let reopened = || {
        let folder = Arc::new(Folder::open(scratch.path()).unwrap());
        let (log, aliases) = Log::open(Arc::clone(&folder), Kind::Batches, SEGMENT_BYTES).unwrap();
        (log, aliases, folder)
    };
    let (log, aliases, folder) = reopened();
    assert_eq!(aliases, 0);
    for aliases in [3, 17] {
        log.append(&[Content { samples: 1, payload: Bytes::new() }], aliases).unwrap();
        log.seal().unwrap();
    }
    folder.release();
    for _ in 0..2 {
        let (log, aliases, folder) = reopened();
        assert_eq!((log.end(), aliases), (2, 17));
        folder.release();
    }
}

#[test]
fn records_seen_elsewhere_are_not_numbered_again() {
    let scratch = tempfile::tempdir().unwrap();
    let mut random = Random::seeded();
    let (model, _) = filled(scratch.path(), &mut random);
    let (log, folder) = open(scratch.path());
    let end = model.len() as u64;
    log.skip_to(end + 5);
    let mut now = model;
    append(&log, &mut now, &mut random);
    assert!(now.contains_key(&(end + 6)));
    folder.release();
    let (log, _) = open(scratch.path());
    let (found, gone) = read(&log, 1, &mut random);
    assert_eq!((found, gone), (now, (end + 1..=end + 5).collect()));
}
