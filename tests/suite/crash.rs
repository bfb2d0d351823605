//! Power cuts at every moment: what was acknowledged or shown is there, whole batches only, and recovery survives its own.

use std::time::{Duration, Instant};

use tagmill_storage::Options;
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_tests::harness::{Harness, Place};
use tagmill_tests::seeds::{Case, seeds};
use tagmill_tests::steps::Step;

fn disk_of(harness: &Harness) -> SimDisk {
    match &harness.place {
        Place::Sim(disk) => disk.clone(),
        Place::Real(_) => unreachable!("these tests simulate"),
    }
}

/// Cuts the power, also up to three times while the engine recovers; then the engine must open and be right.
fn recover(harness: &mut Harness) -> u64 {
    harness.crash();
    let mut cycles = 1;
    for _ in 0..harness.random.below(4) {
        let within = 1 + harness.random.below(24);
        disk_of(harness).crash_after_changes(within);
        if let Err(error) = harness.try_open() {
            assert!(harness.is_down(), "recovery: {error}");
        }
        harness.crash();
        cycles += 1;
    }
    harness.open();
    harness.check();
    cycles
}

/// Opens a new database, which may be cut short too.
fn begin(harness: &mut Harness) -> bool {
    match harness.try_open() {
        Ok(()) => true,
        Err(error) => {
            assert!(harness.is_down(), "creation: {error}");
            false
        }
    }
}

#[test]
fn power_cuts_at_random_moments() {
    let seeds = seeds(400);
    println!("seeds {} ..", seeds[0]);
    let (started, mut cycles) = (Instant::now(), 0);
    for seed in seeds {
        let _case = Case::new("crash::power_cuts_at_random_moments", seed);
        let disk = SimDisk::new(seed);
        let mut harness = Harness::new(seed, Place::Sim(disk.clone()));
        harness.samples_max = harness.samples_max.min(300);
        disk.crash_after_changes(1 + harness.random.below(300));
        let mut is_open = begin(&mut harness);
        for _ in 0..1 + harness.random.below(4) {
            for _ in 0..harness.random.below(60) {
                if is_open && !harness.is_down() {
                    harness.step();
                }
            }
            cycles += recover(&mut harness);
            is_open = true;
            let changes = harness.random.below(200);
            disk_of(&harness).crash_after_changes(1 + changes);
        }
        cycles += recover(&mut harness);
        harness.step();
        harness.close();
        harness.open();
        harness.check();
        harness.close();
    }
    println!("{cycles} crash and recover cycles in {:?}", started.elapsed());
}

const SCRIPTS: [&[Step]; 12] = {
    use Step::{
        Alias, Append, AppendAsGateway, Define, Delete, DeleteTag, Edit, GrowStates, Scan, Seal,
        Sync,
    };
    [
        &[Define, Append, Append, Append],
        &[Define, Append, Seal, Append],
        &[Define, Append, Seal, Append, Seal, Append],
        &[Append, Append, Append, Sync, Append, Append],
        &[Define, Append, Delete, Append, Delete],
        &[Define, Append, Seal, Delete, Seal, Append],
        &[Define, Append, Delete, Seal, Append, Delete, Seal],
        &[Define, AppendAsGateway, AppendAsGateway, Seal, AppendAsGateway],
        &[Define, Edit, Append, Edit, Seal, Edit],
        &[Define, Append, DeleteTag, Seal, Define, Append, DeleteTag],
        &[Define, GrowStates, Alias, Append, Seal, GrowStates, Alias],
        &[Define, Append, Append, Seal, Scan, Seal, Append, AppendAsGateway, Seal, Delete, Sync],
    ]
};

/// A database for a script: limits that make no seal start by itself.
fn quiet(seed: u64, disk: &SimDisk) -> Harness {
    let mut harness = Harness::new(seed, Place::Sim(disk.clone()));
    harness.options = Options {
        wal_bytes: 128 << 10,
        seal_age: Duration::from_secs(3_600),
        busy_wait: Duration::from_secs(2),
        ..Options::default()
    };
    harness.samples_max = 20;
    harness
}

fn play(harness: &mut Harness, script: &[Step]) {
    for step in script {
        if harness.is_down() {
            return;
        }
        harness.perform(*step);
    }
}

#[test]
fn power_cuts_at_every_change_of_scripts() {
    let seeds = seeds(1);
    println!("seed {}", seeds[0]);
    let (started, mut cycles) = (Instant::now(), 0);
    for (number, script) in SCRIPTS.iter().enumerate() {
        let mut random = Random::new(seeds[0] ^ number as u64);
        let seed = random.bits();
        let disk = SimDisk::new(seed);
        let mut harness = quiet(seed, &disk);
        harness.open();
        play(&mut harness, script);
        harness.close();
        for change in 1..=disk.changes() {
            let _case = Case::new("crash::power_cuts_at_every_change_of_scripts", seeds[0]);
            let disk = SimDisk::new(random.bits());
            let mut harness = quiet(seed, &disk);
            disk.crash_after_changes(change);
            if begin(&mut harness) {
                play(&mut harness, script);
            }
            if !harness.is_down() && harness.engine.is_some() {
                harness.close();
            }
            // What was drawn for the script must not decide what the crash and its recovery do.
            harness.random = random.split();
            cycles += recover(&mut harness);
            harness.perform(Step::Append);
            cycles += recover(&mut harness);
            harness.close();
        }
    }
    println!("{cycles} crash and recover cycles in {:?}", started.elapsed());
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let seeds = seeds(100);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("crash::a_killed_process_loses_nothing_it_acknowledged", seed);
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.open();
        for _ in 0..4 {
            for _ in 0..harness.random.below(40) {
                harness.step();
            }
            harness.kill();
            if harness.random.once_in(2) {
                // Power fails before the next process has synced what it took from the cache.
                let within = 1 + harness.random.below(12);
                disk_of(&harness).crash_after_changes(within);
                if let Err(error) = harness.try_open() {
                    assert!(harness.is_down(), "recovery: {error}");
                }
                harness.crash();
            }
            harness.open();
            harness.check();
        }
    }
}
