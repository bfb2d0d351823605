//! What an open finds, and does: each row of the table in docs/recovery.md. What `verify` says of it, and what a salvage
//! makes of what an open refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::model::Rows;
use tagmill_engine_tests::observe;
use tagmill_storage::disk::Disk;
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Batch, Engine, Error, Finding, OnDamage, Options, Qualities, Result, SECOND_NS, ScanRequest,
    TagColumn, TagDefinition, TagId, ValueType, Values, salvage_on, verify_on,
};

const NOW_NS: i64 = 1_767_225_600 * SECOND_NS;

fn shared(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn open(disk: &SimDisk) -> Result<Engine> {
    let options = Options { wal_bytes: 128 << 10, ..Options::default() };
    Engine::open_on(shared(disk), Arc::new(TestClock::new(NOW_NS)), options)
}

/// Opens and gives the rows.
fn rows_in(disk: &SimDisk) -> Result<Rows> {
    observe::rows(&open(disk)?.snapshot())
}

fn write(engine: &Engine, tag: TagId, part: i64) {
    let times: Vec<i64> = (0..20).map(|i| (part * 20 + i) * SECOND_NS).collect();
    let values = Values::I64((0..20).map(|i| part * 1_000 + i).collect());
    let column = TagColumn { tag, times, values, qualities: Qualities::GOOD };
    engine.append(Batch { columns: vec![column], ..Batch::default() }).unwrap();
}

/// A database of `parts` batches, the first `sealed` of them in segments, closed.
fn database(sealed: i64, parts: i64) -> SimDisk {
    let disk = SimDisk::new(3);
    let engine = open(&disk).unwrap();
    let tag = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap()[0];
    for part in 0..parts {
        write(&engine, tag, part);
        if part + 1 == sealed {
            engine.seal().unwrap();
        }
    }
    engine.close().unwrap();
    disk.restart()
}

fn paths(disk: &SimDisk, prefix: &str) -> Vec<String> {
    let paths = disk.files().into_iter().map(|(path, _)| path);
    paths.filter(|path| path.starts_with(prefix)).collect()
}

fn findings(disk: &SimDisk) -> Vec<Finding> {
    let mut found = Vec::new();
    let report = verify_on(&shared(disk), &mut |finding| found.push(finding.clone())).unwrap();
    let damaged = found.iter().filter(|finding| finding.is_damage).count() as u64;
    assert_eq!((report.damaged, report.remarks), (damaged, found.len() as u64 - damaged));
    found
}

fn damage(disk: &SimDisk) -> Vec<String> {
    let found = findings(disk).into_iter().filter(|finding| finding.is_damage);
    found.map(|finding| finding.to_string()).collect()
}

/// Where each frame of a log file begins: header fields are at fixed places.
fn frames(bytes: &[u8]) -> Vec<(usize, u64)> {
    let (mut at, mut found) = (64, Vec::new());
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    while at + 40 <= bytes.len() && word(at) != 0 {
        found.push((at, u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap())));
        at += (40 + word(at + 4)).next_multiple_of(8);
    }
    found
}

#[test]
fn a_whole_database_has_nothing_to_find_and_nothing_to_salvage() {
    let disk = database(3, 6);
    let before = disk.files();
    assert_eq!(findings(&disk), []);
    let report = salvage_on(&shared(&disk), true).unwrap();
    assert!(report.steps.is_empty() && !report.is_done, "{report:?}");
    let data =
        |files: Vec<(String, u64)>| files.into_iter().filter(|f| f.0 != "LOCK").collect::<Vec<_>>();
    assert_eq!(data(disk.files()), data(before), "nothing was changed");
    let _engine = open(&disk).unwrap();
    for refused in [
        verify_on(&shared(&disk), &mut |_| ()).unwrap_err(),
        salvage_on(&shared(&disk), true).unwrap_err(),
    ] {
        assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    }
}

#[test]
fn a_log_with_a_bad_middle_is_refused_named_and_salvaged() {
    let whole = database(2, 10);
    let expected = rows_in(&whole.fork(1)).unwrap();
    let log = paths(&whole, "wal/").remove(0);
    let bytes = whole.bytes(&log).unwrap();
    let records = frames(&bytes);
    let mut random = Random::new(1);
    let mut salvaged = 0;
    for window in records.windows(2) {
        let [(start, seq), (end, _)] = window else { continue };
        for _ in 0..3 {
            let disk = whole.fork(random.bits());
            let at = *start as u64 + random.below((end - start) as u64);
            disk.flip_bit(&log, at * 8 + random.below(8));
            let before = disk.files();
            let error = open(&disk).unwrap_err();
            assert!(error.to_string().contains("tagmill salvage"), "{error}");
            let said = damage(&disk).join("\n");
            // What is sealed is lost to nobody, though the log is refused as it is.
            let lost = usize::from(*seq > 3);
            let named = format!("records {seq} to {seq}");
            assert!(said.contains(&log) && (lost == 0 || said.contains(&named)), "{said}");
            let planned = salvage_on(&shared(&disk), false).unwrap();
            assert!(!planned.is_done && !planned.steps.is_empty());
            assert_eq!(disk.files(), before, "a dry run wrote something");
            open(&disk).unwrap_err();
            let done = salvage_on(&shared(&disk), true).unwrap();
            assert!(done.is_done);
            assert_eq!(done.losses, planned.losses);
            assert_eq!(done.losses.len(), lost, "{:?}", done.losses);
            assert!(done.losses.iter().all(|loss| loss.starts_with(&named)), "{done:?}");
            let name = log.trim_start_matches("wal/");
            let kept = disk.bytes(&format!("quarantine/{name}")).expect("the damaged file is kept");
            assert_ne!(kept, bytes);
            let found = rows_in(&disk).unwrap();
            let missing: Vec<_> = expected.keys().filter(|key| !found.contains_key(key)).collect();
            assert!(
                missing.len() <= 20 * lost
                    && found.iter().all(|row| expected.get(row.0) == Some(row.1))
            );
            assert_eq!(damage(&disk.restart()), Vec::<String>::new());
            salvaged += 1;
        }
    }
    assert!(salvaged >= 20, "{salvaged}");
}

#[test]
fn a_crash_while_salvaging_leaves_what_can_be_salvaged() {
    let whole = database(2, 8);
    let log = paths(&whole, "wal/").remove(0);
    let start = frames(&whole.bytes(&log).unwrap())[2].0 as u64;
    whole.flip_bit(&log, (start + 50) * 8);
    let reference = whole.fork(1);
    salvage_on(&shared(&reference), true).unwrap();
    let expected = rows_in(&reference).unwrap();
    for at in 1.. {
        let disk = whole.fork(at);
        disk.crash_after_changes(at);
        let done = salvage_on(&shared(&disk), true);
        let disk = disk.restart();
        if open(&disk).is_err() {
            salvage_on(&shared(&disk.restart()), true).unwrap();
        }
        assert_eq!(rows_in(&disk.restart()).unwrap(), expected, "cut at change {at}");
        if done.is_ok() {
            println!("{at} cuts");
            break;
        }
    }
}

#[test]
fn a_lost_definition_gets_a_placeholder_and_its_id_is_not_given_again() {
    let disk = SimDisk::new(4);
    let engine = open(&disk).unwrap();
    let tag = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap()[0];
    for part in 0..4 {
        write(&engine, tag, part);
    }
    engine.close().unwrap();
    let disk = disk.restart();
    let log = paths(&disk, "wal/").remove(0);
    let first = frames(&disk.bytes(&log).unwrap())[0].0 as u64;
    disk.flip_bit(&log, (first + 45) * 8);
    let report = salvage_on(&shared(&disk), true).unwrap();
    assert!(report.losses.iter().any(|loss| loss.contains("salvaged/")), "{report:?}");
    let engine = open(&disk).unwrap();
    assert_eq!(observe::rows(&engine.snapshot()).unwrap().len(), 80);
    let new = engine.define(&[TagDefinition::new("b", ValueType::F64)]).unwrap()[0];
    assert_ne!(new, tag);
}

#[test]
fn a_removed_log_file_is_refused_and_the_others_are_salvaged() {
    let disk = SimDisk::new(5);
    let engine = open(&disk).unwrap();
    let tags: Vec<_> =
        (0..40).map(|n| TagDefinition::new(format!("t{n}"), ValueType::I64)).collect();
    let tags = engine.define(&tags).unwrap();
    for part in 0..400 {
        write(&engine, tags[usize::try_from(part % 40).unwrap()], part);
    }
    engine.close().unwrap();
    let disk = disk.restart();
    let files = paths(&disk, "wal/");
    assert!(files.len() > 2, "{files:?}");
    let expected = rows_in(&disk.fork(1)).unwrap();
    for lost in &files {
        let disk = disk.fork(2);
        disk.lose(lost);
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(!damage(&disk).is_empty());
        let report = salvage_on(&shared(&disk), true).unwrap();
        assert!(!report.losses.is_empty(), "{lost}: {report:?}");
        let found = rows_in(&disk).unwrap();
        assert!(found.len() < expected.len());
        assert!(found.iter().all(|row| expected.get(row.0) == Some(row.1)));
    }
}

#[test]
fn a_torn_tail_is_no_damage() {
    let disk = SimDisk::new(6);
    let engine = open(&disk).unwrap();
    let tag = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap()[0];
    for part in 0..4 {
        write(&engine, tag, part);
    }
    disk.kill();
    drop(engine);
    let disk = disk.restart();
    let log = paths(&disk, "wal/").remove(0);
    let last = frames(&disk.bytes(&log).unwrap()).last().unwrap().0 as u64;
    disk.flip_bit(&log, (last + 60) * 8);
    assert_eq!(damage(&disk), Vec::<String>::new(), "the last group may be a tear");
    assert_eq!(salvage_on(&shared(&disk), true).unwrap().steps, Vec::<String>::new());
    assert_eq!(rows_in(&disk).unwrap().len(), 60);
}

#[test]
fn a_lost_manifest_is_rebuilt_only_from_a_log_that_holds_everything() {
    for (is_trimmed, is_bad) in [(false, false), (false, true), (true, false), (true, true)] {
        // A close with everything in segments keeps nothing of the log.
        let disk = database(if is_trimmed { 5 } else { 4 }, 5);
        if is_trimmed {
            // An open takes over what the log has above the floor: here nothing.
            let engine = open(&disk).unwrap();
            write(&engine, TagId(0), 9);
            engine.close().unwrap();
        }
        let disk = disk.restart();
        let expected = rows_in(&disk.fork(1)).unwrap();
        let manifest = paths(&disk, "manifest-").remove(0);
        if is_bad {
            disk.flip_bit(&manifest, 8 * 90); // in the first edit
        } else {
            disk.lose(&manifest);
        }
        open(&disk.fork(2)).unwrap_err();
        assert!(!damage(&disk).is_empty());
        let before = disk.files();
        let done = salvage_on(&shared(&disk), true);
        if is_trimmed {
            let error = done.unwrap_err();
            assert!(error.to_string().contains("restore a backup"), "{error}");
            let data = |files: Vec<(String, u64)>| {
                files.into_iter().filter(|f| f.0 != "LOCK").collect::<Vec<_>>()
            };
            assert_eq!(data(disk.files()), data(before), "a refusal changed something");
        } else {
            assert!(done.unwrap().is_done);
            assert_eq!(rows_in(&disk).unwrap(), expected);
        }
    }
}

#[test]
fn a_bad_edit_before_a_good_one_is_refused() {
    let disk = SimDisk::new(7);
    let engine = open(&disk).unwrap();
    let tag = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap()[0];
    for part in 0..4 {
        write(&engine, tag, part);
        engine.seal().unwrap();
    }
    disk.kill();
    drop(engine);
    let disk = disk.restart();
    let manifest = paths(&disk, "manifest-").remove(0);
    let length = disk.files().iter().find(|(path, _)| *path == manifest).unwrap().1;
    let middle = disk.fork(1);
    middle.flip_bit(&manifest, length / 2 * 8);
    let error = open(&middle).unwrap_err();
    assert!(error.to_string().contains("an edit in the middle"), "{error}");
    assert!(damage(&middle)[0].contains(&manifest));
    // The last edit alone: a crash, and the log still has its samples.
    disk.flip_bit(&manifest, (length - 12) * 8);
    let said = damage(&disk);
    assert!(said.iter().all(|line| line.contains("latest-")), "its checkpoint is gone: {said:?}");
    assert_eq!(rows_in(&disk).unwrap().len(), 80);
}

#[test]
fn a_damaged_checkpoint_or_registry_is_found() {
    let whole = database(3, 5);
    let expected = rows_in(&whole.fork(1)).unwrap();
    let checkpoint = paths(&whole, "latest-").remove(0);
    let disk = whole.fork(2);
    disk.flip_bit(&checkpoint, 300);
    assert!(damage(&disk)[0].contains(&checkpoint));
    assert_eq!(rows_in(&disk).unwrap(), expected, "it is computed anew");
    let disk = whole.fork(3);
    disk.flip_bit("registry.log", 8 * 82);
    assert!(damage(&disk)[0].contains("registry.log"));
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_missing_folder_of_segments_is_not_taken_for_an_empty_one() {
    let disk = database(3, 5);
    for path in paths(&disk, "segments/") {
        disk.lose(&path);
    }
    let engine = open(&disk).unwrap();
    assert!(observe::rows(&engine.snapshot()).is_err(), "lost samples must be missed");
    let request = ScanRequest { damage: OnDamage::Skip, ..observe::everything() };
    assert_eq!(observe::read(&engine.snapshot(), &request).unwrap().len(), 40);
}

/// Every file, every kind of byte damage: what an open or a read would trip over, `verify` has said before.
#[test]
fn verify_finds_what_an_open_or_a_read_would_find() {
    let whole = database(3, 6);
    let expected = rows_in(&whole.fork(1)).unwrap();
    let mut random = Random::new(9);
    let mut counts: BTreeMap<bool, u64> = BTreeMap::new();
    for (path, length) in whole.files() {
        if path == "LOCK" {
            continue;
        }
        let bytes = whole.bytes(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        for _ in 0..60 {
            let disk = whole.fork(random.bits());
            if random.once_in(4) {
                let cut = usize::try_from(random.below(length)).unwrap();
                disk.replace(&path, &bytes[..cut]);
            } else {
                disk.flip_bit(&path, random.below(used.max(1) * 8));
            }
            let said = damage(&disk);
            let is_whole = matches!(rows_in(&disk.fork(5)), Ok(rows) if rows == expected);
            assert!(
                is_whole || !said.is_empty(),
                "{path}: an open or a read fails, verify is silent"
            );
            *counts.entry(is_whole).or_default() += 1;
        }
    }
    println!("{counts:?} (true: read as if nothing had happened)");
    assert_eq!(counts.len(), 2, "one of the two never came about");
}
