//! The engine's contract, claim by claim, on a simulated disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::disk::Disk;
use crate::disk::sim::{Call, Failure, Fault, SimDisk};
use crate::*;

/// A clock that stands still until it is moved.
#[derive(Debug)]
struct StillClock(AtomicI64);

impl Clock for StillClock {
    fn wall_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed).cast_unsigned()
    }
}

const NOW: i64 = 1_767_225_600 * SECOND_NS;

fn small() -> Options {
    Options {
        head_bytes: 1 << 20,
        wal_bytes: 256 << 10,
        busy_wait: Duration::from_millis(300),
        ..Options::default()
    }
}

fn open(disk: &SimDisk, options: Options) -> Result<Engine> {
    let clock = StillClock(AtomicI64::new(NOW));
    Engine::open_on(Arc::new(disk.clone()), Arc::new(clock), options)
}

fn tag(engine: &Engine, name: &str) -> TagId {
    engine.define(&[TagDefinition::new(name, ValueType::F64)]).unwrap()[0]
}

fn column(tag: TagId, samples: &[(i64, f64)]) -> TagColumn {
    TagColumn {
        tag,
        times: samples.iter().map(|sample| sample.0).collect(),
        values: Values::F64(samples.iter().map(|sample| sample.1).collect()),
        qualities: Qualities::GOOD,
    }
}

fn batch(tag: TagId, samples: &[(i64, f64)]) -> Batch {
    Batch { columns: vec![column(tag, samples)], ..Batch::default() }
}

fn from_gateway(tag: TagId, session: u64, epoch: u64, seq: u64) -> Batch {
    let origin = Origin { gateway: Arc::from("g"), epoch, seq, session };
    Batch { origin: Some(origin), ..batch(tag, &[(seq.cast_signed(), 0.0)]) }
}

fn rows(snapshot: &Snapshot, tag: TagId) -> Vec<(i64, f64)> {
    let only = TagSelection::Only(Arc::from([tag]));
    let batches = snapshot.scan(ScanRequest::new(only, TimeRange::ALL)).map(Result::unwrap);
    let rows = batches.flat_map(|batch| {
        let Values::F64(values) = batch.values else { panic!("not an f64 tag") };
        batch.times.into_iter().zip(values)
    });
    rows.collect()
}

fn sync_fault(after: u64) -> Fault {
    Fault { call: Call::Sync, path: "wal/".into(), after, times: 1, failure: Failure::Io }
}

#[test]
fn a_gateway_batch_is_taken_once_and_in_order() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, small()).unwrap();
    let tag = tag(&engine, "t");
    let session = engine.open_session("g", 1).unwrap();
    assert_eq!(session.mark, 0);
    let send = |engine: &Engine, epoch, seq| {
        engine.append(from_gateway(tag, session.generation, epoch, seq))
    };
    assert!(!send(&engine, 1, 1).unwrap().repeated);
    assert!(send(&engine, 1, 1).unwrap().repeated);
    let gap = send(&engine, 1, 3).unwrap_err();
    assert!(matches!(gap, Error::Gap { expected: 2, found: 3, .. }), "{gap}");
    assert!(!send(&engine, 1, 2).unwrap().repeated);
    assert!(!send(&engine, 2, 1).unwrap().repeated, "a new epoch begins at 1");
    assert!(matches!(send(&engine, 1, 3), Err(Error::Fenced { .. })), "the old epoch is over");
    engine.seal().unwrap();
    drop(engine);

    let engine = open(&disk, small()).unwrap();
    assert!(matches!(engine.open_session("g", 1), Err(Error::Fenced { .. })));
    let session = engine.open_session("g", 2).unwrap();
    assert_eq!(session.mark, 1, "the mark survives the log it was in");
    let newer = engine.open_session("g", 2).unwrap();
    let fenced = engine.append(from_gateway(tag, session.generation, 2, 2));
    assert!(matches!(fenced, Err(Error::Fenced { .. })));
    engine.append(from_gateway(tag, newer.generation, 2, 2)).unwrap();
    assert_eq!(rows(&engine.snapshot(), tag).len(), 2, "times 1 and 2");
}

#[test]
fn nothing_is_visible_before_it_is_durable() {
    let disk = SimDisk::new(2);
    let engine = open(&disk, small()).unwrap();
    let tag = tag(&engine, "t");
    disk.hold_syncs(true);
    let (sent, answer) = std::sync::mpsc::sync_channel(1);
    let done = Box::new(move |result| sent.send(result).unwrap());
    engine.submit(batch(tag, &[(1, 1.0)]), done);
    std::thread::sleep(Duration::from_millis(50));
    assert!(answer.try_recv().is_err(), "acknowledged before its sync");
    assert_eq!(engine.snapshot().latest(tag), None, "visible before its sync");
    disk.hold_syncs(false);
    assert!(answer.recv().unwrap().unwrap().durable);
    assert_eq!(engine.snapshot().latest(tag).unwrap().time_ns, 1);

    let interval = Batch { durability: Durability::Interval, ..batch(tag, &[(2, 2.0)]) };
    disk.hold_syncs(true);
    assert!(!engine.append(interval).unwrap().durable, "the answer says what it promises");
    assert_eq!(engine.snapshot().latest(tag).unwrap().time_ns, 1);
    disk.hold_syncs(false);
    engine.sync().unwrap();
    assert_eq!(engine.snapshot().latest(tag).unwrap().time_ns, 2);
}

#[test]
fn a_failed_sync_ends_writing_and_never_reading() {
    let disk = SimDisk::new(3);
    let engine = open(&disk, small()).unwrap();
    let tag = tag(&engine, "t");
    engine.append(batch(tag, &[(1, 1.0)])).unwrap();
    disk.add_fault(sync_fault(0));
    let failed = engine.append(batch(tag, &[(2, 2.0)])).unwrap_err();
    assert_eq!(failed.outcome(), Outcome::Unknown, "{failed}");
    let later = engine.append(batch(tag, &[(3, 3.0)])).unwrap_err();
    assert!(matches!(later, Error::Poisoned { .. }), "the sync must not be retried: {later}");
    assert_eq!(rows(&engine.snapshot(), tag), [(1, 1.0)]);
    drop(engine);
    let engine = open(&disk, small()).unwrap();
    assert_eq!(rows(&engine.snapshot(), tag).first(), Some(&(1, 1.0)));
    engine.append(batch(tag, &[(4, 4.0)])).unwrap();
}

#[test]
fn a_full_disk_refuses_and_resumes_by_itself() {
    let disk = SimDisk::new(4);
    let engine = open(&disk, small()).unwrap();
    let tag = tag(&engine, "t");
    disk.set_capacity(Some(disk.used_bytes()));
    let (mut taken, mut refused) = (0i64, None);
    for at in 0..20_000 {
        match engine.append(batch(tag, &[(at, 0.5)])) {
            Ok(_) => taken = at + 1,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("the disk never filled");
    assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
    assert_eq!(refused.outcome(), Outcome::NotWritten);
    disk.set_capacity(None);
    engine.append(batch(tag, &[(taken, 0.5)])).unwrap();
    assert_eq!(rows(&engine.snapshot(), tag).len(), usize::try_from(taken).unwrap() + 1);
}

#[test]
fn a_head_that_cannot_be_sealed_pushes_back() {
    let disk = SimDisk::new(5);
    let engine = open(&disk, small()).unwrap();
    let tag = tag(&engine, "t");
    let (call, failure) = (Call::Create, Failure::NoSpace);
    disk.add_fault(Fault { call, path: "segments/".into(), after: 0, times: u64::MAX, failure });
    let rows_of = |from: i64| (from..from + 5_000).map(|at| (at, 0.25)).collect::<Vec<_>>();
    let mut from = 0;
    let busy = loop {
        match engine.append(batch(tag, &rows_of(from))) {
            Ok(_) => from += 5_000,
            Err(error) => break error,
        }
    };
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    disk.clear_faults();
    engine.seal().unwrap();
    engine.append(batch(tag, &rows_of(from))).unwrap();
    assert_eq!(rows(&engine.snapshot(), tag).len(), usize::try_from(from).unwrap() + 5_000);
}

#[test]
fn recovery_needs_no_more_memory_than_running() {
    let disk = SimDisk::new(6);
    let roomy = Options { head_bytes: 64 << 20, wal_bytes: 64 << 20, ..small() };
    let engine = open(&disk, roomy).unwrap();
    let tag = tag(&engine, "t");
    for part in 0..100 {
        let samples: Vec<_> = (part * 2_000..(part + 1) * 2_000).map(|at| (at, 1.5)).collect();
        engine.append(batch(tag, &samples)).unwrap();
    }
    assert_eq!(engine.snapshot().head().rows, 200_000);
    drop(engine);
    let engine = open(&disk, small()).unwrap();
    let head = engine.snapshot().head();
    assert!(head.bytes <= small().head_bytes, "{} bytes in the head", head.bytes);
    assert!(!engine.snapshot().segments().is_empty(), "it was sealed on the way");
    assert_eq!(rows(&engine.snapshot(), tag).len(), 200_000);
}

#[test]
fn the_latest_sample_follows_corrections_and_deletes() {
    let disk = SimDisk::new(7);
    let engine = open(&disk, small()).unwrap();
    let tag = tag(&engine, "t");
    let latest = |engine: &Engine| {
        engine.snapshot().latest(tag).map(|latest| (latest.time_ns, latest.value))
    };
    engine.append(batch(tag, &[(10, 1.0), (20, 2.0)])).unwrap();
    engine.append(batch(tag, &[(15, 9.0)])).unwrap();
    assert_eq!(latest(&engine), Some((20, Value::F64(2.0))), "a late sample is not the latest");
    engine.append(batch(tag, &[(20, 3.0)])).unwrap();
    assert_eq!(latest(&engine), Some((20, Value::F64(3.0))), "a correction is");
    engine.seal().unwrap();
    engine.delete(&[tag], TimeRange::new(16, 100), "ops").unwrap();
    assert_eq!(latest(&engine), Some((15, Value::F64(9.0))));
    engine.append(batch(tag, &[(17, 4.0)])).unwrap();
    assert_eq!(rows(&engine.snapshot(), tag), [(10, 1.0), (15, 9.0), (17, 4.0)]);
    for step in ["as it is", "sealed", "opened again"] {
        assert_eq!(latest(&engine), Some((17, Value::F64(4.0))), "{step}");
        engine.seal().unwrap();
    }
    drop(engine);
    let engine = open(&disk, small()).unwrap();
    assert_eq!(latest(&engine), Some((17, Value::F64(4.0))));
    assert_eq!(rows(&engine.snapshot(), tag), [(10, 1.0), (15, 9.0), (17, 4.0)]);
}

#[test]
fn a_gateway_has_so_many_aliases_and_sets() {
    let engine = open(&SimDisk::new(9), small()).unwrap();
    let tag = tag(&engine, "a");
    let refused = |result: Result<()>| matches!(result, Err(Error::Invalid(_)));
    let aliases: Vec<(u32, TagId)> = (0..=1 << 20).map(|alias| (alias, tag)).collect();
    assert!(refused(engine.define_aliases("g", &aliases)));
    engine.define_aliases("g", &aliases[..2]).unwrap();
    for set in 1..=1_024 {
        engine.define_tag_set("g", set, 1, &[tag]).unwrap();
    }
    assert!(refused(engine.define_tag_set("g", 1_025, 1, &[tag])));
    engine.define_tag_set("g", 7, 2, &[tag, tag]).unwrap();
    engine.define_tag_set("other", 1_025, 1, &[tag]).unwrap();
    assert_eq!((engine.tag_sets("g").len(), engine.tag_sets("g")[&7].0), (1_024, 2));
    assert!(!engine.has_name("b"));
    engine.reserve(&[TagDefinition::new("b", ValueType::F64)]);
    assert!(engine.has_name("b") && engine.snapshot().registry().find("b").is_none());
}

#[test]
fn a_reserved_tag_becomes_durable_with_its_first_samples() {
    let disk = SimDisk::new(8);
    let engine = open(&disk, small()).unwrap();
    let wanted = ["a", "b"].map(|name| TagDefinition::new(name, ValueType::F64));
    let ids: Vec<TagId> = engine.reserve(&wanted).into_iter().map(Result::unwrap).collect();
    assert_eq!(engine.snapshot().registry().find("a"), None, "nothing is durable yet");
    engine.append(batch(ids[1], &[(1, 1.0)])).unwrap();
    assert_eq!(engine.snapshot().registry().find("b"), Some(ids[1]));
    disk.crash();
    drop(engine);
    let engine = open(&disk.restart(), small()).unwrap();
    assert_eq!(engine.snapshot().registry().find("b"), Some(ids[1]));
    assert_eq!(engine.snapshot().registry().find("a"), None);
    let again = tag(&engine, "c");
    assert_ne!(again, ids[1], "an id is never handed out twice");
}

#[test]
fn a_name_is_free_again_only_after_a_rename_or_delete() {
    let disk = SimDisk::new(9);
    let engine = open(&disk, small()).unwrap();
    let (a, b) = (tag(&engine, "a"), tag(&engine, "b"));
    let rename = |tag, name: &str| {
        engine.edit_tag(tag, TagEdit { name: Some(name.into()), ..TagEdit::default() })
    };
    let taken = rename(a, "b").unwrap_err();
    assert!(taken.to_string().contains("taken"), "{taken}");
    rename(a, "c").unwrap();
    rename(b, "a").unwrap();
    engine.append(batch(b, &[(1, 1.0)])).unwrap();
    engine.delete_tag(b, "ops").unwrap();
    let registry = engine.snapshot();
    assert_eq!(registry.registry().find("c"), Some(a));
    assert_eq!(registry.registry().find("a"), None);
    assert_eq!(rows(&registry, b), []);
    let text = engine.define(&[TagDefinition::new("c", ValueType::Text)]).unwrap_err();
    assert!(text.to_string().contains("f64"), "types never change: {text}");
}

#[test]
fn verify_names_each_damaged_place_and_the_rest_is_served() {
    let disk = SimDisk::new(10);
    let engine = open(&disk, small()).unwrap();
    let (bad, good) = (tag(&engine, "bad"), tag(&engine, "good"));
    let samples: Vec<(i64, f64)> = (0..3_000).map(|at| (at, (at as f64).sqrt())).collect();
    engine.append(batch(bad, &samples)).unwrap();
    engine.append(batch(good, &samples)).unwrap();
    engine.seal().unwrap();
    assert_eq!(engine.verify(&mut |error| panic!("{error}")), 0);
    drop(engine);

    let engine = open(&disk, small()).unwrap();
    let file = engine.snapshot().segments()[0].file.clone();
    disk.flip_bit(&file, 8 * 400); // within the first chunk, which is the first tag's
    let mut found = Vec::new();
    assert_eq!(engine.verify(&mut |error| found.push(error.to_string())), 1);
    assert!(found[0].contains(&file) && found[0].contains("#0"), "{}", found[0]);
    let only = TagSelection::Only(Arc::from([bad]));
    let refused = engine.snapshot().scan(ScanRequest::new(only, TimeRange::ALL)).next().unwrap();
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    assert_eq!(rows(&engine.snapshot(), good), samples);
}

/// A database that is closed with everything in segments keeps no room for records it does not have; one that is not
/// sealed keeps them. Either opens again, as often as one likes.
#[test]
fn a_closed_log_keeps_no_room_for_nothing() {
    let disk = SimDisk::new(3);
    let log_bytes = |disk: &SimDisk| {
        disk.list("wal").unwrap().into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    let engine = open(&disk, Options::default()).unwrap();
    let t = tag(&engine, "t");
    engine.append(batch(t, &[(NOW, 1.0)])).unwrap();
    let running = log_bytes(&disk);
    engine.close().unwrap();
    assert_eq!(log_bytes(&disk), running, "its records are in no segment");
    for round in 1..4 {
        let engine = open(&disk, Options::default()).unwrap();
        assert_eq!(log_bytes(&disk), running, "round {round}");
        if round < 3 {
            engine.append(batch(t, &[(NOW + round, 2.0)])).unwrap();
            engine.seal().unwrap();
        }
        engine.close().unwrap();
        assert_eq!(log_bytes(&disk), [104], "round {round}");
    }
    let engine = open(&disk, Options::default()).unwrap();
    engine.append(batch(t, &[(NOW + 9, 3.0)])).unwrap();
    engine.close().unwrap();
    let engine = open(&disk, Options::default()).unwrap();
    let request = ScanRequest::new(TagSelection::All, TimeRange::ALL);
    let rows: usize = engine.snapshot().scan(request).map(|batch| batch.unwrap().times.len()).sum();
    assert_eq!(rows, 4);
}
