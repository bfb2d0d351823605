//! Compaction changes no answer: corrections of corrections, deletes and rewrites of few keys, in every order of seals,
//! merges, reopens and crashes. The model is the judge.

use std::time::Duration;

use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_engine_tests::steps::Step;
use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::{DAY_NS, Options};

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
    for seed in seeds {
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
        harness.close();
    }
}
