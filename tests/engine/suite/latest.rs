//! Latest samples: always those of the newest rows, whatever goes on, and found without reading anything twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Batch, Engine, Options, Qualities, SECOND_NS, ScanRequest, Snapshot, TagColumn, TagDefinition,
    TagId, TagSelection, TimeRange, ValueType, Values,
};

const NOW_NS: i64 = 1_767_225_600 * SECOND_NS;

fn open(disk: &SimDisk) -> Engine {
    let clock = Arc::new(TestClock::new(NOW_NS));
    Engine::open_on(Arc::new(disk.clone()), clock, Options::default()).unwrap()
}

fn define(engine: &Engine, count: usize) -> Vec<TagId> {
    let names = (0..count).map(|n| TagDefinition::new(format!("t{n}"), ValueType::I64));
    engine.define(&names.collect::<Vec<_>>()).unwrap()
}

fn column(tag: TagId, seconds: std::ops::Range<i64>, value: i64) -> TagColumn {
    let times: Vec<i64> = seconds.map(|second| second * SECOND_NS).collect();
    let values = Values::I64(vec![value; times.len()]);
    TagColumn { tag, times, values, qualities: Qualities::GOOD }
}

fn batch(columns: Vec<TagColumn>) -> Batch {
    Batch { columns, ..Batch::default() }
}

/// The newest row of a tag, read as any query would.
fn newest(snapshot: &Snapshot, tag: TagId) -> Option<(i64, tagmill_storage::Value)> {
    let only = TagSelection::Only(Arc::from([tag]));
    let mut request = ScanRequest::new(only, TimeRange::ALL);
    (request.descending, request.limit) = (true, Some(1));
    let batch = snapshot.scan(request).next()?.unwrap();
    Some((batch.times[0], batch.values.get(0).unwrap()))
}

fn check(snapshot: &Snapshot, tags: &[TagId]) {
    for tag in tags {
        let latest = snapshot.latest(*tag).map(|latest| (latest.time_ns, latest.value));
        assert_eq!(latest, newest(snapshot, *tag), "{tag:?} at {}", snapshot.seq());
    }
}

/// Counts a worker down, however it ends.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A delete of the newest samples of many tags, and an open without a checkpoint, decode what the tags share once, and
/// leave old segments alone.
#[test]
fn what_is_newest_of_many_tags_is_found_in_one_pass() {
    const TAGS: usize = 400;
    const OLD: i64 = 20;
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let tags = define(&engine, TAGS);
    for part in 0..OLD {
        let seconds = part * 100..part * 100 + 3;
        engine
            .append(batch(tags.iter().map(|t| column(*t, seconds.clone(), part)).collect()))
            .unwrap();
        engine.seal().unwrap();
    }
    engine.close().unwrap();
    let disk = disk.restart();
    let engine = open(&disk);
    let hidden = TimeRange::new(((OLD - 1) * 100 + 1) * SECOND_NS, i64::MAX);
    let reads = disk.reads_of(|| assert!(engine.delete(&tags, hidden, "a test").is_ok()));
    let of_segments = reads.iter().filter(|(path, _)| path.starts_with("segments/")).count();
    println!("{of_segments} reads for {TAGS} tags, of {OLD} segments");
    assert!((1..20).contains(&of_segments), "{of_segments} reads for {TAGS} tags");
    check(&engine.snapshot(), &tags);
    engine.close().unwrap();
    let disk = disk.restart();
    for (path, _) in disk.files().into_iter().filter(|(path, _)| path.starts_with("latest-")) {
        disk.flip_bit(&path, 300);
    }
    let mut engine = None;
    let reads = disk.reads_of(|| engine = Some(open(&disk)));
    let of_segments = reads.iter().filter(|(path, _)| path.starts_with("segments/")).count();
    println!("{of_segments} reads for an open without a checkpoint");
    assert!(of_segments < 20 * usize::try_from(OLD).unwrap(), "{of_segments} reads");
    check(&engine.unwrap().snapshot(), &tags);
}

/// At any moment, while deletes, corrections, backfills, seals and compactions go on, a snapshot's latest samples are the
/// newest rows that the same snapshot shows.
#[test]
fn a_snapshot_never_contradicts_itself() {
    let seeds = seeds(6);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("latest::a_snapshot_never_contradicts_itself", seed);
        let mut random = Random::new(seed);
        let disk = SimDisk::new(seed);
        let engine = open(&disk);
        let tags = define(&engine, 4);
        let working = AtomicUsize::new(3);
        let (engine, tags, working) = (&engine, &tags, &working);
        let draw = |random: &mut Random, value: i64| {
            let start = random.below(40).cast_signed();
            let end = start + 1 + random.below(6).cast_signed();
            column(tags[random.index(tags.len())], start..end, value)
        };
        std::thread::scope(|scope| {
            let mut own = random.split();
            scope.spawn(move || {
                let _done = Done(working);
                for n in 0..300 {
                    if own.once_in(2) {
                        let start = own.below(40).cast_signed() * SECOND_NS;
                        let range = TimeRange::new(start, start + 8 * SECOND_NS);
                        engine.delete(&tags[..=own.index(tags.len())], range, "a test").unwrap();
                    } else {
                        engine.append(batch(vec![draw(&mut own, n)])).unwrap();
                    }
                }
            });
            let mut own = random.split();
            scope.spawn(move || {
                let _done = Done(working);
                for n in 0..25 {
                    let mut backfill = engine.backfill(&format!("import {n}")).unwrap();
                    backfill.push(vec![draw(&mut own, 1_000 + n)]).unwrap();
                    backfill.finish().unwrap();
                }
            });
            let mut own = random.split();
            scope.spawn(move || {
                let _done = Done(working);
                for _ in 0..10 {
                    if own.once_in(3) {
                        engine.compact().unwrap();
                    } else {
                        engine.seal().unwrap();
                    }
                }
            });
            let mut snapshots = 0;
            while working.load(Ordering::SeqCst) > 0 {
                check(&engine.snapshot(), tags);
                snapshots += 1;
            }
            println!("{snapshots} snapshots");
        });
        check(&engine.snapshot(), tags);
    }
}
