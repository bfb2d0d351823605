//! Compaction changes no answer: corrections of corrections, deletes and rewrites of few keys, in every order of seals,
//! merges, reopens and crashes. The model is the judge.

use std::sync::Arc;
use std::time::Duration;

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::rollups;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_engine_tests::steps::Step;
use tagmill_engine_tests::tally::Tally;
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Batch, DAY_NS, Engine, Options, Qualities, SECOND_NS, SegmentStage, SegmentSummary, TagColumn,
    TagDefinition, TagId, ValueType, Values,
};

/// A database in which a dozen keys of few tags, on three days, are written again and again.
fn crowded(seed: u64, disk: &SimDisk) -> Harness {
    let mut harness = Harness::new(seed, Place::Sim(disk.clone()));
    harness.timeline.step_ns = DAY_NS / 4;
    harness.timeline.reach_ns = 3 * DAY_NS;
    harness.timeline.at_ns = 20_000 * DAY_NS;
    harness.clock.set(20_010 * DAY_NS);
    harness.samples_max = 4;
    harness.options = Options {
        background_compaction: harness.random.once_in(2),
        final_after: Duration::from_millis([0, 20, 3_600_000][harness.random.index(3)]),
        seal_age: Duration::from_millis([5, 3_600_000][harness.random.index(2)]),
        ..Options::default()
    };
    harness
}

/// A database of long columns: chunks of their own, some to be copied, some overlapped here and there.
fn long(seed: u64, disk: &SimDisk) -> Harness {
    let mut harness = crowded(seed, disk);
    harness.timeline.step_ns = DAY_NS / [2_000, 20_000][harness.random.index(2)];
    harness.timeline.reach_ns = DAY_NS;
    harness.samples_max = 9_000;
    harness
}

/// One of the steps that make segments meet.
fn collide(harness: &mut Harness) {
    let step = match harness.random.below(20) {
        0..=8 => Step::Append,
        9..=11 => Step::Delete,
        12..=17 => Step::Seal,
        18 => Step::Compact,
        _ => Step::Scan,
    };
    harness.perform(step);
    harness.timeline.at_ns = 20_000 * DAY_NS;
}

#[test]
fn few_keys_written_often_read_as_the_last_write() {
    let seeds = seeds(60);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("compaction::few_keys_written_often_read_as_the_last_write", seed);
        let mut harness = crowded(seed, &SimDisk::new(seed));
        harness.open();
        for _ in 0..3 {
            harness.perform(Step::Define);
            for _ in 0..60 {
                collide(&mut harness);
                if harness.random.once_in(6) {
                    harness.check();
                }
                if harness.random.once_in(15) {
                    harness.perform(Step::Hold);
                }
            }
            harness.check();
            if harness.random.once_in(3) {
                harness.kill();
            } else {
                harness.close();
            }
            harness.open();
        }
        harness.perform(Step::Compact);
        harness.check();
        harness.close();
    }
}

#[test]
fn power_cuts_while_segments_merge() {
    let seeds = seeds(80);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("compaction::power_cuts_while_segments_merge", seed);
        let mut harness = crowded(seed, &SimDisk::new(seed));
        harness.open();
        harness.perform(Step::Define);
        for _ in 0..3 {
            for _ in 0..harness.random.below(30) {
                collide(&mut harness);
            }
            let Place::Sim(disk) = &harness.place else { unreachable!("it simulates") };
            disk.crash_after_changes(1 + harness.random.below(60));
            while !harness.is_down() {
                collide(&mut harness);
            }
            harness.crash();
            harness.open();
            harness.check();
        }
        harness.perform(Step::Compact);
        harness.check();
        harness.close();
    }
}

#[test]
fn long_columns_are_copied_and_merged() {
    let seeds = seeds(12);
    println!("seeds {} ..", seeds[0]);
    let tally = Tally::new("long_columns_are_copied_and_merged");
    for seed in seeds {
        tally.seed();
        let _case = Case::new("compaction::long_columns_are_copied_and_merged", seed);
        let mut harness = long(seed, &SimDisk::new(seed));
        harness.open();
        harness.perform(Step::Define);
        for _ in 0..harness.random.below(40) {
            let at_ns = harness.timeline.at_ns;
            collide(&mut harness);
            // New samples follow those before, day after day; late ones fall between them.
            harness.timeline.at_ns = at_ns + DAY_NS / 8;
            harness.samples_max = [9_000, 3][harness.random.index(2)];
            if harness.random.once_in(6) {
                harness.check();
            }
        }
        harness.perform(Step::Compact);
        harness.check();
        rollups::ask(&mut harness, &tally);
        harness.engine().verify(&mut |error| panic!("after compaction: {error}"));
        harness.close();
    }
    assert!(tally.figure("stored_rollups") > 0, "no rollups of what was copied were asked for");
}

/// An engine that compacts only when it is told to, half a day after the samples that these tests write.
fn told(disk: &SimDisk) -> Engine {
    let clock = Arc::new(TestClock::new(20_002 * DAY_NS));
    let options = Options {
        background_compaction: false,
        scrub_period: None,
        seal_age: Duration::from_hours(1),
        ..Options::default()
    };
    Engine::open_on(Arc::new(disk.clone()), clock, options).unwrap()
}

fn define(engine: &Engine, names: &[&str]) -> Vec<TagId> {
    let tag = |name: &&str| TagDefinition::new(*name, ValueType::F64);
    engine.define(&names.iter().map(tag).collect::<Vec<_>>()).unwrap()
}

/// A sample a second from `first` on, with two decimals: most steps are small, one in many is large.
fn write(engine: &Engine, tag: TagId, first: i64, rows: i64, random: &mut Random) {
    let at = |row| 20_000 * DAY_NS + (first + row) * SECOND_NS;
    let mut level = 0;
    let mut value = || {
        let reach = if random.once_in(20) { 400 } else { 4 };
        level += random.below(2 * reach + 1).cast_signed() - reach.cast_signed();
        level as f64 / 100.0
    };
    let (times, values) = (0..rows).map(|row| (at(row), value())).unzip();
    let column = TagColumn { tag, times, values: Values::F64(values), qualities: Qualities::GOOD };
    engine.append(Batch { columns: vec![column], ..Batch::default() }).unwrap();
}

fn only_segment(engine: &Engine) -> SegmentSummary {
    let segments = engine.snapshot().segments();
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments[0].clone()
}

/// What seals encoded in haste the end of a day encodes anew; a final segment is as small again after it lost a chunk.
#[test]
fn a_day_that_ends_is_encoded_for_good() {
    let (disk, mut random) = (SimDisk::new(1), Random::new(1));
    let engine = told(&disk);
    let tags = define(&engine, &["a", "b"]);
    for tag in &tags {
        write(&engine, *tag, 0, 3 * 8_192, &mut random);
    }
    engine.seal().unwrap();
    let sealed = only_segment(&engine);
    engine.compact().unwrap();
    let ended = only_segment(&engine);
    assert_eq!(ended.stage, SegmentStage::Final);
    assert!(ended.bytes * 100 < sealed.bytes * 92, "{} of {} bytes", ended.bytes, sealed.bytes);
    // Some seconds more: what was final stays as it is.
    write(&engine, tags[1], 80_000, 300, &mut random);
    engine.seal().unwrap();
    engine.compact().unwrap();
    let again = only_segment(&engine);
    assert!(again.bytes < ended.bytes + 2_000, "{} of {} bytes", again.bytes, ended.bytes);
    disk.flip_bit(&again.file, 8 * 1_000);
    engine.verify(&mut |_| ());
    engine.forget_damage(again.id).unwrap().expect("most of it can be read");
    let rest = only_segment(&engine);
    assert!((1..again.rows).contains(&rest.rows), "{} rows", rest.rows);
    let (rate, rate_before) = (rest.bytes * 1_000 / rest.rows, again.bytes * 1_000 / again.rows);
    assert!(rest.stage != SegmentStage::Final || rate < rate_before * 102 / 100, "{rate}");
}
