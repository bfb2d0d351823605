//! Places that cannot be read: what a scan makes of them, who comes into quarantine and who leaves it.

use std::sync::Arc;
use std::time::Duration;

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::model::Rows;
use tagmill_engine_tests::observe;
use tagmill_storage::disk::sim::{Call, Failure, Fault, SimDisk};
use tagmill_storage::{
    Batch, DamagedPlace, Engine, Error, OnDamage, Options, Qualities, Result, SECOND_NS,
    ScanRequest, SegmentId, TagColumn, TagDefinition, TagId, TagSelection, TimeRange, Value,
    ValueType, Values,
};

const NOW_NS: i64 = 1_767_225_600 * SECOND_NS;
const ROWS: i64 = 1_000;

fn open(disk: &SimDisk) -> Engine {
    let clock = Arc::new(TestClock::new(NOW_NS));
    // Small files: a simulated disk holds them in memory, and some tests copy it often.
    let options = Options { wal_bytes: 1 << 20, ballast_bytes: 1 << 20, ..Options::default() };
    Engine::open_on(Arc::new(disk.clone()), clock, options).unwrap()
}

/// Each tag has times of its own: a column that chunks share would be damaged for all of them.
fn write(engine: &Engine, tag: TagId, seconds: std::ops::Range<i64>, value: f64) {
    let times: Vec<i64> = seconds.map(|second| second * SECOND_NS + i64::from(tag.0)).collect();
    let values = Values::F64(times.iter().map(|time| value + (*time % 977) as f64).collect());
    let column = TagColumn { tag, times, values, qualities: Qualities::GOOD };
    engine.append(Batch { columns: vec![column], ..Batch::default() }).unwrap();
}

/// Two tags; an old segment with all their rows, a newer one that corrects the middle of both, and rows in the head.
fn database(seed: u64) -> (SimDisk, Engine, [TagId; 2]) {
    let disk = SimDisk::new(seed);
    let engine = open(&disk);
    let define = |name| TagDefinition::new(name, ValueType::F64);
    let tags = engine.define(&[define("a"), define("b")]).unwrap();
    for tag in &tags {
        write(&engine, *tag, 0..ROWS, 0.25);
    }
    engine.seal().unwrap();
    for tag in &tags {
        write(&engine, *tag, 300..600, 7_000.5);
    }
    engine.seal().unwrap();
    write(&engine, tags[0], 590..595, 9_000.5);
    (disk, engine, [tags[0], tags[1]])
}

/// The file of the newer segment.
fn newer(engine: &Engine) -> (SegmentId, String) {
    let segments = engine.snapshot().segments();
    let newer = segments.iter().max_by_key(|segment| segment.max_seq).unwrap();
    (newer.id, newer.file.clone())
}

/// Turns a bit over in the values of the first chunk of a file: the chunk of tag `a`. The times before them, in the
/// twelve bytes behind the header, are those of tag `b` too.
fn flip_first_chunk(disk: &SimDisk, file: &str) {
    disk.flip_bit(file, 8 * 90);
}

fn request(tags: TagSelection, damage: OnDamage) -> ScanRequest {
    ScanRequest { damage, ..ScanRequest::new(tags, TimeRange::ALL) }
}

fn only(tag: TagId) -> TagSelection {
    TagSelection::Only(Arc::from([tag]))
}

fn rows_of(engine: &Engine, tags: TagSelection, damage: OnDamage) -> Result<Rows> {
    let rows = observe::read(&engine.snapshot(), &request(tags, damage))?;
    Ok(rows.into_iter().collect())
}

fn wait_for_quarantine(engine: &Engine) -> Vec<DamagedPlace> {
    for _ in 0..400 {
        let places = engine.snapshot().damage();
        if !places.is_empty() {
            return places;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("what a reader met never came into quarantine");
}

#[test]
fn a_damaged_chunk_fails_the_scans_that_need_it_and_names_itself() {
    let (disk, engine, [a, b]) = database(1);
    let (_, file) = newer(&engine);
    let whole = rows_of(&engine, only(b), OnDamage::Fail).unwrap();
    drop(engine);
    let disk = disk.restart();
    flip_first_chunk(&disk, &file);
    let engine = open(&disk);
    for _ in 0..2 {
        let error = rows_of(&engine, only(a), OnDamage::Fail).unwrap_err();
        let Error::Corrupt { what, path, .. } = &error else { panic!("{error}") };
        assert!(what.contains("tag \"a\"") && what.contains("1970-01-01T00:05:00Z"), "{error}");
        assert!(path.ends_with(&file), "{error}");
        assert_eq!(rows_of(&engine, only(b), OnDamage::Fail).unwrap(), whole);
        wait_for_quarantine(&engine); // the second time it is known
    }
    let outside = TimeRange::new(0, 300 * SECOND_NS);
    let request = ScanRequest::new(only(a), outside);
    assert_eq!(observe::read(&engine.snapshot(), &request).unwrap().len(), 300);
    assert_eq!(engine.snapshot().damage()[0].file, file);
}

#[test]
fn what_is_left_out_takes_older_rows_with_it_and_is_listed() {
    for is_known in [false, true] {
        let (disk, engine, [a, b]) = database(2);
        let (id, file) = newer(&engine);
        let before = rows_of(&engine, TagSelection::All, OnDamage::Fail).unwrap();
        drop(engine);
        let disk = disk.restart();
        flip_first_chunk(&disk, &file);
        let engine = open(&disk);
        if is_known {
            assert_eq!(engine.verify(&mut |_| ()), 1);
        }
        let mut scan = engine.snapshot().scan(request(TagSelection::All, OnDamage::Skip));
        let batches: Result<Vec<_>> = scan.by_ref().collect();
        batches.unwrap();
        let skipped = scan.skipped();
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        assert_eq!((skipped[0].segment, skipped[0].first_tag, skipped[0].last_tag), (id, a, a));
        let range = TimeRange::new(300 * SECOND_NS, 599 * SECOND_NS + 1);
        assert_eq!(skipped[0].range, range);
        let found = rows_of(&engine, TagSelection::All, OnDamage::Skip).unwrap();
        let newest = TimeRange::new(590 * SECOND_NS, 595 * SECOND_NS); // in the log, newer than the damage
        let expected = before.into_iter().filter(|((tag, time), _)| {
            *tag == b || !range.contains(*time) || newest.contains(*time)
        });
        assert_eq!(found, expected.collect::<Rows>(), "known: {is_known}");
    }
}

#[test]
fn a_missing_or_cut_segment_is_quarantined_as_a_whole_and_the_rest_is_served() {
    for is_cut in [false, true] {
        let (disk, engine, [a, _]) = database(3);
        let (id, file) = newer(&engine);
        let before = rows_of(&engine, TagSelection::All, OnDamage::Fail).unwrap();
        engine.close().unwrap();
        let disk = disk.restart();
        let bytes = disk.bytes(&file).unwrap();
        if is_cut {
            disk.replace(&file, &bytes[..bytes.len() / 2]);
        } else {
            disk.lose(&file);
        }
        let engine = open(&disk);
        let places = engine.snapshot().damage();
        assert_eq!((places.len(), places[0].segment, places[0].is_whole()), (1, id, true));
        let error = rows_of(&engine, only(a), OnDamage::Fail).unwrap_err();
        assert!(error.to_string().contains(&file), "{error}");
        let found = rows_of(&engine, TagSelection::All, OnDamage::Skip).unwrap();
        let lost = TimeRange::new(300 * SECOND_NS, 600 * SECOND_NS);
        assert_eq!(found.keys().filter(|(_, time)| lost.contains(*time)).count(), 5);
        assert_eq!(found.len(), 2 * 700 + 5);
        // Writes go on, and what they write is newer than what is lost.
        write(&engine, a, 400..410, 1.0);
        engine.seal().unwrap();
        drop(engine);
        let disk = disk.restart();
        let engine = open(&disk);
        let found = rows_of(&engine, only(a), OnDamage::Skip).unwrap();
        assert_eq!(found.keys().filter(|(_, time)| lost.contains(*time)).count(), 15);
        drop(engine);
        // Put back, it leaves the quarantine by itself.
        let disk = disk.restart();
        disk.replace(&file, &bytes);
        let engine = open(&disk);
        assert_eq!(engine.snapshot().damage(), []);
        let after = rows_of(&engine, TagSelection::All, OnDamage::Fail).unwrap();
        assert_eq!(after.len(), before.len());
    }
}

#[test]
fn a_place_leaves_the_quarantine_when_it_verifies_again() {
    let (disk, engine, [a, _]) = database(4);
    let (_, file) = newer(&engine);
    let before = rows_of(&engine, TagSelection::All, OnDamage::Fail).unwrap();
    flip_first_chunk(&disk, &file);
    assert_eq!(engine.verify(&mut |_| ()), 1);
    assert_eq!(engine.snapshot().damage().len(), 1);
    rows_of(&engine, only(a), OnDamage::Fail).unwrap_err();
    flip_first_chunk(&disk, &file);
    assert_eq!(engine.verify(&mut |_| ()), 0);
    assert_eq!(engine.snapshot().damage(), []);
    assert_eq!(rows_of(&engine, TagSelection::All, OnDamage::Fail).unwrap(), before);
}

#[test]
fn a_fault_that_passes_quarantines_nothing() {
    let (disk, engine, _) = database(5);
    drop(engine);
    let disk = disk.restart();
    let engine = open(&disk);
    let fault = |times, failure| Fault {
        call: Call::Read,
        path: "segments/".into(),
        after: 0,
        times,
        failure,
    };
    for failure in [Failure::Io, Failure::FlippedBit] {
        disk.add_fault(fault(1, failure));
        rows_of(&engine, TagSelection::All, OnDamage::Fail).ok();
        disk.clear_faults();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(engine.snapshot().damage(), [], "{failure:?}");
        rows_of(&engine, TagSelection::All, OnDamage::Fail).unwrap();
    }
}

#[test]
fn forgetting_keeps_the_readable_rest_and_lets_older_samples_be_current() {
    for is_whole in [false, true] {
        let (disk, engine, [a, b]) = database(6);
        let (id, file) = newer(&engine);
        let before = rows_of(&engine, only(b), OnDamage::Fail).unwrap();
        assert!(engine.forget_damage(id).is_err(), "a good segment was forgotten");
        if is_whole {
            disk.replace(&file, b"nothing of a segment");
        } else {
            flip_first_chunk(&disk, &file);
        }
        drop(engine);
        let disk = disk.restart();
        let engine = open(&disk);
        engine.verify(&mut |_| ());
        let rest = engine.forget_damage(id).unwrap();
        assert_eq!(rest.is_none(), is_whole);
        let mut engine = engine;
        for _ in 0..2 {
            assert_eq!(engine.snapshot().damage(), []);
            assert_eq!(engine.verify(&mut |error| panic!("{error}")), 0);
            let found = rows_of(&engine, only(a), OnDamage::Fail).unwrap();
            assert_eq!(found.len(), usize::try_from(ROWS).unwrap());
            let second = |second: i64| match &found[&(a, second * SECOND_NS)].0 {
                Value::F64(value) => *value,
                other => panic!("{other:?}"),
            };
            assert!(second(400) < 1_000.0, "the older sample is current");
            assert!(second(592) > 9_000.0, "the newest is");
            if !is_whole {
                assert_eq!(rows_of(&engine, only(b), OnDamage::Fail).unwrap(), before);
            }
            drop(engine);
            engine = open(&disk.restart());
        }
        assert_eq!(files_in(&disk, "quarantine/").len(), 1, "the damaged file is kept");
    }
}

fn files_in(disk: &SimDisk, folder: &str) -> Vec<String> {
    let paths = disk.files().into_iter().map(|(path, _)| path);
    paths.filter(|path| path.starts_with(folder)).collect()
}

#[test]
fn power_cuts_while_damage_is_given_up_lose_no_file() {
    let (disk, engine, [a, b]) = database(10);
    let (id, file) = newer(&engine);
    let before = rows_of(&engine, only(b), OnDamage::Fail).unwrap();
    engine.close().unwrap();
    let disk = disk.restart();
    flip_first_chunk(&disk, &file);
    let damaged = disk.bytes(&file).unwrap();
    open(&disk).verify(&mut |_| ());
    let disk = disk.restart();
    let (mut kept, mut given_up) = (0, 0);
    for at in 1.. {
        let fork = disk.fork(at);
        let engine = open(&fork);
        fork.crash_after_changes(at);
        let forgotten = engine.forget_damage(id);
        fork.crash();
        drop(engine);
        let fork = fork.restart();
        let engine = open(&fork);
        let aside = format!("quarantine/{}", file.trim_start_matches("segments/"));
        let places = engine.snapshot().damage();
        if places.is_empty() {
            assert_eq!(fork.bytes(&aside).as_ref(), Some(&damaged), "cut at change {at}");
            assert_eq!(rows_of(&engine, only(a), OnDamage::Fail).unwrap().len(), 1_000);
            given_up += 1;
        } else {
            assert!(forgotten.is_err(), "cut at change {at}");
            assert_eq!((places.len(), places[0].is_whole()), (1, false), "cut at change {at}");
            assert_eq!(fork.bytes(&file).as_ref(), Some(&damaged), "cut at change {at}");
            kept += 1;
        }
        assert_eq!(rows_of(&engine, only(b), OnDamage::Fail).unwrap(), before);
        if forgotten.is_ok() {
            break;
        }
    }
    println!("{kept} times the segment, {given_up} times the rest of it");
    assert!(kept > 5 && given_up > 0);
}

#[test]
fn damage_that_cannot_be_given_up_changes_nothing() {
    let (disk, engine, [a, b]) = database(11);
    let (id, file) = newer(&engine);
    let before = rows_of(&engine, only(b), OnDamage::Fail).unwrap();
    flip_first_chunk(&disk, &file);
    engine.verify(&mut |_| ());
    let segments = files_in(&disk, "segments/");
    for (call, path) in [
        (Call::Write, "segments/"),
        (Call::Sync, "segments/"),
        (Call::Rename, "segments/"),
        (Call::SyncDir, "quarantine"),
        (Call::Write, "manifest"),
    ] {
        let failure = if path == "manifest" { Failure::NoSpace } else { Failure::Io };
        disk.add_fault(Fault { call, path: path.into(), after: 0, times: u64::MAX, failure });
        let refused = engine.forget_damage(id).unwrap_err();
        disk.clear_faults();
        assert_eq!(files_in(&disk, "segments/"), segments, "{call:?} {path}: {refused}");
        assert_eq!(files_in(&disk, "quarantine/"), [""; 0], "{call:?} {path}");
        assert_eq!(engine.snapshot().damage().len(), 1);
        assert_eq!(rows_of(&engine, only(b), OnDamage::Fail).unwrap(), before);
    }
    engine.forget_damage(id).unwrap();
    assert_eq!(rows_of(&engine, only(a), OnDamage::Fail).unwrap().len(), 1_000);
}

#[test]
fn a_further_bad_chunk_met_while_giving_up_is_listed() {
    let (disk, engine, [a, b]) = database(12);
    let (id, file) = newer(&engine);
    let second = (70..).step_by(16).find(|at| {
        disk.flip_bit(&file, at * 8);
        engine.verify(&mut |_| ());
        disk.flip_bit(&file, at * 8);
        engine.snapshot().damage().iter().any(|place| place.first_tag == b)
    });
    assert_eq!(engine.verify(&mut |_| ()), 0);
    flip_first_chunk(&disk, &file);
    assert_eq!(engine.verify(&mut |_| ()), 1);
    disk.flip_bit(&file, second.unwrap() * 8);
    let refused = engine.forget_damage(id).unwrap_err();
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused}");
    for _ in 0..400 {
        if engine.snapshot().damage().len() > 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(engine.snapshot().damage().len(), 2, "the second place was not reported");
    assert_eq!(engine.forget_damage(id).unwrap(), None, "nothing of it can be read");
    for tag in [a, b] {
        assert_eq!(rows_of(&engine, only(tag), OnDamage::Fail).unwrap().len(), 1_000);
    }
}

#[test]
fn the_rest_of_a_crash_goes_when_all_else_is_whole() {
    let (disk, engine, _) = database(13);
    let (_, file) = newer(&engine);
    engine.close().unwrap();
    let disk = disk.restart();
    disk.replace("segments/raw-20260101-0000000000000fff.seg", b"the rest of a compaction");
    disk.replace("trash/notes.txt", b"none of ours");
    let engine = open(&disk);
    let left = ["trash/notes.txt", "trash/raw-20260101-0000000000000fff.seg"];
    assert_eq!(files_in(&disk, "trash/"), left);
    flip_first_chunk(&disk, &file);
    assert_eq!(engine.verify(&mut |_| ()), 1);
    assert_eq!(files_in(&disk, "trash/"), left, "something is missing: it may be looked for there");
    flip_first_chunk(&disk, &file);
    assert_eq!(engine.verify(&mut |_| ()), 0);
    assert_eq!(files_in(&disk, "trash/"), left[..1]);
}

#[test]
fn what_was_deleted_as_a_whole_is_missed_by_nobody() {
    let (disk, engine, [a, b]) = database(7);
    let (_, file) = newer(&engine);
    flip_first_chunk(&disk, &file);
    engine.verify(&mut |_| ());
    rows_of(&engine, only(a), OnDamage::Fail).unwrap_err();
    let range = TimeRange::new(300 * SECOND_NS, 600 * SECOND_NS);
    engine.delete(&[a, b], range, "a test").unwrap();
    assert_eq!(rows_of(&engine, only(a), OnDamage::Fail).unwrap().len(), 700);
    engine.seal().unwrap();
    drop(engine);
    let engine = open(&disk.restart());
    assert_eq!(rows_of(&engine, only(a), OnDamage::Fail).unwrap().len(), 700);
}

#[test]
fn no_older_sample_passes_for_the_latest() {
    let disk = SimDisk::new(8);
    let engine = open(&disk);
    let tag = engine.define(&[TagDefinition::new("a", ValueType::F64)]).unwrap()[0];
    for part in 0..3 {
        write(&engine, tag, part * 400..part * 400 + 400, 1.0);
        engine.seal().unwrap();
    }
    let (_, file) = newer(&engine);
    flip_first_chunk(&disk, &file);
    engine.verify(&mut |_| ());
    let latest = engine.snapshot().latest(tag).map(|latest| latest.time_ns);
    assert_eq!(latest, Some(1_199 * SECOND_NS), "known from the time it was written");
    let newest = TimeRange::new(1_199 * SECOND_NS, 1_200 * SECOND_NS);
    engine.delete(&[tag], newest, "a test").unwrap();
    assert_eq!(engine.snapshot().latest(tag), None, "which is the latest now is not known");
    engine.seal().unwrap();
    drop(engine);
    let disk = disk.restart();
    let checkpoints: Vec<_> =
        disk.files().into_iter().filter(|(path, _)| path.starts_with("latest-")).collect();
    for (path, _) in checkpoints {
        disk.flip_bit(&path, 300);
    }
    let engine = open(&disk);
    assert_eq!(engine.snapshot().latest(tag), None, "after a restart without a checkpoint");
    flip_first_chunk(&disk, &file);
    engine.verify(&mut |_| ());
    for _ in 0..300 {
        if engine.snapshot().latest(tag).is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let latest = engine.snapshot().latest(tag).map(|latest| latest.time_ns);
    assert_eq!(latest, Some(1_198 * SECOND_NS), "the file was mended");
}

#[test]
fn scrubbing_finds_damage_that_nobody_has_read() {
    let (disk, engine, _) = database(9);
    let (id, file) = newer(&engine);
    drop(engine);
    let disk = disk.restart();
    flip_first_chunk(&disk, &file);
    let clock = Arc::new(TestClock::new(NOW_NS));
    let scrub_period = Some(Duration::from_millis(20));
    let options = Options { scrub_period, ..Options::default() };
    let engine = Engine::open_on(Arc::new(disk.clone()), clock, options).unwrap();
    let places = wait_for_quarantine(&engine);
    assert_eq!((places.len(), places[0].segment), (1, id));
    for _ in 0..400 {
        if engine.scrubbed().segments >= 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let scrubbed = engine.scrubbed();
    assert!(scrubbed.segments >= 2 && scrubbed.bytes > 0 && scrubbed.damaged > 0, "{scrubbed:?}");
    assert!(engine.metrics().scrubbed.segments >= scrubbed.segments, "the same figures");
    engine.close().unwrap();
}
