//! Power cuts at every moment: what was acknowledged or shown is there, whole batches only, and recovery survives its own.

use std::time::{Duration, Instant};

use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::observe;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_engine_tests::steps::Step;
use tagmill_storage::Options;
use tagmill_storage::disk::sim::{Call, Failure, Fault, Random, SimDisk};

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
        for _ in 0..=harness.random.below(4) {
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
        seal_age: Duration::from_hours(1),
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

/// The ways in which a kind of call can fail.
fn failures_of(call: Call) -> &'static [Failure] {
    use Failure::{FlippedBit, Io, NoSpace, ReadOnly, TooManyFiles};
    match call {
        Call::Create => &[Io, NoSpace, TooManyFiles, ReadOnly],
        Call::Write | Call::Truncate => &[Io, NoSpace],
        Call::Open => &[Io, TooManyFiles],
        Call::Read => &[Io, FlippedBit],
        Call::CreateDir | Call::Rename | Call::Remove => &[Io, ReadOnly],
        Call::Sync | Call::SyncDir | Call::List | Call::Len => &[Io],
        Call::Lock => &[],
    }
}

/// Every call from `begin` on, failing in every way, once and for ever.
fn each_fault(before: &SimDisk, after: &SimDisk, mut run: impl FnMut(Fault)) -> u64 {
    let mut faults = 0;
    for call in Call::ALL {
        for nth in before.calls(call)..after.calls(call) {
            for failure in failures_of(call) {
                for times in [1, u64::MAX] {
                    let after = nth - before.calls(call);
                    run(Fault { call, path: String::new(), after, times, failure: *failure });
                    faults += 1;
                }
            }
        }
    }
    faults
}

/// After errors the power goes, or only the process; then nothing acknowledged is lost, nothing refused is there.
fn recover_from_errors(harness: &mut Harness) {
    disk_of(harness).clear_faults();
    if harness.random.once_in(3) {
        harness.kill();
    } else {
        harness.crash();
    }
    harness.is_faulty = false;
    harness.open();
    harness.check();
    harness.perform(Step::Append);
    recover(harness);
    harness.close();
}

#[test]
fn errors_at_every_call_of_scripts() {
    let seeds = seeds(1);
    println!("seed {}", seeds[0]);
    let _case = Case::new("crash::errors_at_every_call_of_scripts", seeds[0]);
    let (started, mut faults) = (Instant::now(), 0);
    for (number, script) in SCRIPTS.iter().enumerate() {
        let mut random = Random::new(seeds[0] ^ (number as u64) << 32);
        let seed = random.bits();
        let start = |random: &mut Random| {
            let mut harness = quiet(seed, &SimDisk::new(random.bits()));
            harness.open();
            harness
        };
        let mut harness = start(&mut random);
        let before = disk_of(&harness).fork(0);
        play(&mut harness, script);
        faults += each_fault(&before, &disk_of(&harness), |fault| {
            let mut harness = start(&mut random);
            harness.trace(|| format!("{fault:?}"));
            disk_of(&harness).add_fault(fault);
            harness.is_faulty = true;
            play(&mut harness, script);
            harness.random = random.split();
            if harness.random.once_in(2) {
                harness.close();
            }
            recover_from_errors(&mut harness);
        });
    }
    println!("{faults} faults in {:?}", started.elapsed());
}

#[test]
fn errors_at_every_call_of_recovery() {
    let seeds = seeds(1);
    println!("seed {}", seeds[0]);
    let _case = Case::new("crash::errors_at_every_call_of_recovery", seeds[0]);
    let (started, mut faults) = (Instant::now(), 0);
    for (number, script) in SCRIPTS.iter().enumerate() {
        let mut random = Random::new(seeds[0] ^ (number as u64) << 32);
        let seed = random.bits();
        // The same state each time: what the script left when the power went after it.
        let left = |random: &mut Random| {
            let mut harness = quiet(seed, &SimDisk::new(seed));
            harness.open();
            play(&mut harness, script);
            harness.crash();
            harness.random = random.split();
            harness
        };
        let mut harness = left(&mut random);
        let before = disk_of(&harness).fork(0);
        harness.open();
        faults += each_fault(&before, &disk_of(&harness), |fault| {
            if fault.failure == Failure::FlippedBit {
                return; // a wrong bit in the log's last group cannot be told from a tear
            }
            let mut harness = left(&mut random);
            harness.trace(|| format!("{fault:?}"));
            disk_of(&harness).add_fault(fault);
            harness.is_faulty = true;
            if harness.try_open().is_ok() {
                let snapshot = harness.engine().snapshot();
                harness.read(&snapshot, &observe::everything());
            }
            recover_from_errors(&mut harness);
        });
    }
    println!("{faults} faults in {:?}", started.elapsed());
}
