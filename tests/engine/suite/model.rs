//! The engine against the model: every operation at random, readers beside the writers, reopens between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::observe;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Batch, Durability, Engine, Options, Qualities, SystemClock, TagColumn, TagDefinition, TagId,
    Value, ValueType, Values,
};

#[test]
fn random_operations_on_a_simulated_disk() {
    let seeds = seeds(40);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("model::random_operations_on_a_simulated_disk", seed);
        Harness::new(seed, Place::Sim(SimDisk::new(seed))).live(4, 120, &mut |_| {});
    }
}

#[test]
fn random_operations_in_a_directory() {
    let seeds = seeds(4);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("model::random_operations_in_a_directory", seed);
        let folder = tempfile::tempdir().unwrap();
        Harness::new(seed, Place::Real(folder.path().join("data"))).live(4, 120, &mut |_| {});
    }
}

#[test]
fn readers_beside_the_writer_see_only_what_was() {
    let seeds = seeds(12);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("model::readers_beside_the_writer_see_only_what_was", seed);
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.keeps_history = true;
        harness.live(3, 100, &mut |_| {});
    }
}

/// One batch of a writer: the same number in every one of its tags.
fn numbered(tags: &[TagId], number: i64) -> Batch {
    let column = |tag: &TagId| TagColumn {
        tag: *tag,
        times: vec![number],
        values: Values::I64(vec![number]),
        qualities: Qualities::GOOD,
    };
    Batch { columns: tags.iter().map(column).collect(), ..Batch::default() }
}

#[test]
fn many_writers_and_readers_see_whole_batches_only() {
    const WRITERS: usize = 4;
    const TAGS: usize = 7;
    const BATCHES: i64 = 150;
    let options = Options { head_bytes: 64 << 10, wal_bytes: 64 << 10, ..Options::default() };
    let disk = Arc::new(SimDisk::new(1));
    let clock = Arc::new(SystemClock::default());
    let engine = Arc::new(Engine::open_on(disk, clock, options).unwrap());
    let names = (0..WRITERS * TAGS).map(|n| TagDefinition::new(format!("t{n}"), ValueType::I64));
    let tags = engine.define(&names.collect::<Vec<_>>()).unwrap();
    let acked: Vec<AtomicU64> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let is_over = || acked.iter().all(|a| a.load(Ordering::SeqCst) == BATCHES.unsigned_abs());
    std::thread::scope(|scope| {
        for (writer, mine) in tags.chunks(TAGS).enumerate() {
            let (engine, acked) = (&engine, &acked);
            scope.spawn(move || {
                for number in 1..=BATCHES {
                    engine.append(numbered(mine, number)).unwrap();
                    acked[writer].store(number.unsigned_abs(), Ordering::SeqCst);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over() {
                    let before: Vec<u64> = acked.iter().map(|a| a.load(Ordering::SeqCst)).collect();
                    let snapshot = engine.snapshot();
                    let rows = observe::rows(&snapshot).unwrap();
                    let mut counts: BTreeMap<TagId, u64> = BTreeMap::new();
                    for (tag, _) in rows.keys() {
                        *counts.entry(*tag).or_default() += 1;
                    }
                    for (writer, mine) in tags.chunks(TAGS).enumerate() {
                        let count = |tag: &TagId| counts.get(tag).copied().unwrap_or(0);
                        let whole = count(&mine[0]);
                        assert!(mine.iter().all(|tag| count(tag) == whole), "half a batch");
                        assert!(whole >= before[writer], "an acknowledged batch is not seen");
                        let latest = snapshot.latest(mine[0]).map(|latest| latest.value);
                        let expected = (whole > 0).then(|| Value::I64(whole.cast_signed()));
                        assert_eq!(latest, expected);
                    }
                }
            });
        }
    });
    let rows = observe::rows(&engine.snapshot()).unwrap();
    assert_eq!(rows.len(), WRITERS * TAGS * usize::try_from(BATCHES).unwrap());
}

#[test]
fn nothing_is_seen_before_the_disk_has_it() {
    let disk = SimDisk::new(2);
    let clock = Arc::new(SystemClock::default());
    let shared = Arc::new(disk.clone());
    let engine = Arc::new(Engine::open_on(shared, clock, Options::default()).unwrap());
    let tags = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap();
    engine.append(numbered(&tags, 1)).unwrap();
    for durability in [Durability::Synced, Durability::Interval] {
        let newest = engine.snapshot().latest(tags[0]).unwrap().time_ns;
        disk.hold_syncs(true);
        let (writer, mine) = (Arc::clone(&engine), tags.clone());
        let waiting = std::thread::spawn(move || {
            let batch = Batch { durability, ..numbered(&mine, newest + 1) };
            writer.append(batch).unwrap()
        });
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(waiting.is_finished(), durability == Durability::Interval);
        let snapshot = engine.snapshot();
        assert_eq!(snapshot.latest(tags[0]).unwrap().time_ns, newest);
        assert_eq!(observe::rows(&snapshot).unwrap().len(), usize::try_from(newest).unwrap());
        disk.hold_syncs(false);
        let appended = waiting.join().unwrap();
        assert_eq!(appended.durable, durability == Durability::Synced);
        engine.sync().unwrap();
        assert_eq!(engine.snapshot().latest(tags[0]).unwrap().time_ns, newest + 1);
    }
}

#[test]
fn the_same_seed_gives_the_same_workload() {
    let draw = |seed| {
        let mut random = Random::new(seed);
        let mut timeline = tagmill_engine_tests::workload::Timeline::draw(&mut random);
        let tags: Vec<_> = (0..12).map(TagId).zip(ValueType::ALL.into_iter().cycle()).collect();
        let batch = tagmill_engine_tests::workload::batch(&mut random, &mut timeline, &tags, 50);
        format!("{batch:?}")
    };
    for seed in 0..100 {
        assert_eq!(draw(seed), draw(seed));
    }
}
