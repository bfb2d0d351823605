//! Calls that fail: each call of scripted work and of recovery in every way, and several at random.
//!
//! # Contract
//! * After a failure, and a power cut or a killed process, a healthy disk opens and equals the model: nothing acknowledged is
//!   lost, nothing refused as not written is there.
//! * What the system continues (short calls, interrupted ones) no caller of the engine hears of.
//! * A failed call of a recovery changes nothing that the next recovery needs.

use std::sync::Mutex;

use tagmill_storage::disk::sim::{Call, Failure, Fault, Loss, Moment, Random, SimDisk};

use crate::cuts::recover;
use crate::harness::{Harness, Place};
use crate::observe;
use crate::scripts::{SCRIPTS, play, quiet};
use crate::seeds::{Case, share};
use crate::steps::Step;
use crate::tally::Tally;

/// Every call between two moments of a disk, failing in every way, once and for ever.
fn faults_between(before: &SimDisk, after: &SimDisk) -> Vec<Fault> {
    let mut faults = Vec::new();
    for call in Call::ALL {
        for nth in 0..after.calls(call) - before.calls(call) {
            for failure in call.failures() {
                // A call that is interrupted for ever never ends, on any disk.
                let often = if *failure == Failure::Interrupted { 3 } else { u64::MAX };
                for times in [1, often] {
                    faults.push(Fault { after: nth, times, ..Fault::lasting(call, *failure) });
                }
            }
        }
    }
    faults
}

/// After errors the power goes, or only the process; then nothing acknowledged is lost, nothing refused is there.
fn recover_from_errors(harness: &mut Harness) {
    harness.disk().clear_faults();
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

/// The scripts, each with the seeds that decide it and its disk.
fn scripts(seeds: &[u64]) -> Vec<(u64, &'static [Step], Random)> {
    let numbered = |seed: &u64| {
        let random = |number: usize| Random::new(*seed ^ (number as u64) << 32);
        let all = SCRIPTS.iter().enumerate();
        all.map(|(number, script)| (*seed, *script, random(number))).collect::<Vec<_>>()
    };
    seeds.iter().flat_map(numbered).collect()
}

/// Every call of every script.
pub fn at_every_call_of_scripts(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(&scripts(seeds), |(seed, script, mut random)| {
        let _case = Case::new(test, seed);
        tally.seed();
        let script_seed = random.bits();
        let start = |random: &mut Random| {
            let mut harness = quiet(script_seed, &SimDisk::new(random.bits()));
            harness.open();
            harness
        };
        let mut harness = start(&mut random);
        let before = harness.disk().fork(0);
        play(&mut harness, script);
        for fault in faults_between(&before, harness.disk()) {
            let mut harness = start(&mut random);
            harness.trace(|| format!("{fault:?}"));
            // What is continued below the engine is as if nothing had been.
            harness.is_faulty = !fault.failure.is_continued();
            harness.disk().add_fault(fault);
            play(&mut harness, script);
            harness.random = random.split();
            if harness.engine.is_some() && harness.random.once_in(2) {
                harness.close();
            }
            recover_from_errors(&mut harness);
            tally.add(1);
        }
    });
}

/// A compaction whose edit may not be durable, an open that fails to write all of it anew, and a power cut that takes the edit:
/// the files that it let go of are needed again.
pub fn at_an_edit_in_doubt(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut harness = quiet(seed, &SimDisk::new(seed));
        harness.open();
        play(
            &mut harness,
            &[Step::Define, Step::Append, Step::Seal, Step::Append, Step::Delete, Step::Seal],
        );
        harness.close();
        harness.kill();
        let mut sound = harness.fork(seed);
        sound.open();
        let before = sound.disk().calls(Call::Sync);
        play(&mut sound, &[Step::Compact]);
        // How many syncs the compaction makes is not known here: the last of some number of them is the edit's.
        for after in 0..sound.disk().calls(Call::Sync) - before {
            let mut harness = harness.fork(seed ^ after);
            harness.open();
            harness.is_faulty = true;
            let failing = Fault::lasting(Call::Sync, Failure::Io);
            harness.disk().add_fault(Fault { after, ..failing.clone() });
            play(&mut harness, &[Step::Compact]);
            harness.kill();
            harness.disk().add_fault(failing);
            assert!(harness.try_open().is_err(), "an open writes a manifest and syncs it");
            harness.disk().clear_faults();
            harness.crash();
            harness.is_faulty = false;
            harness.open();
            harness.check();
            tally.add(1);
        }
    });
}

/// Every call of the recovery after each script.
pub fn at_every_call_of_recovery(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(&scripts(seeds), |(seed, script, mut random)| {
        let _case = Case::new(test, seed);
        tally.seed();
        let script_seed = random.bits();
        let mut harness = quiet(script_seed, &SimDisk::new(script_seed));
        harness.open();
        play(&mut harness, script);
        if random.once_in(2) {
            harness.crash();
        } else {
            harness.kill(); // what recovery reads may not be durable yet
        }
        let left = harness.fork(random.bits());
        let before = left.disk().fork(0);
        harness.open();
        for fault in faults_between(&before, harness.disk()) {
            if fault.failure == Failure::FlippedBit && fault.times > 1 {
                continue; // a log of which no byte can be read reliably says nothing
            }
            let mut harness = left.fork(random.bits());
            harness.trace(|| format!("{fault:?}"));
            harness.is_faulty = !fault.failure.is_continued();
            harness.disk().add_fault(fault);
            if let Err(error) = harness.try_open() {
                assert!(harness.is_faulty, "{error}");
            } else {
                let snapshot = harness.engine().snapshot();
                harness.read(&snapshot, &observe::everything());
            }
            recover_from_errors(&mut harness);
            tally.add(1);
        }
    });
}

/// Several failures at random, of the kinds that the seed has switched on, while random work goes on; then a power cut, which
/// may cut recoveries short too.
pub fn at_random(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.samples_max = [2, 5, 12, 40][harness.random.index(4)].min(harness.samples_max);
        harness.options.busy_wait = std::time::Duration::from_millis(5);
        harness.mute_some();
        harness.open();
        let kinds = kinds(&mut harness.random);
        for _ in 0..=harness.random.below(4) {
            for _ in 0..harness.random.below(4) {
                let (call, failure) = kinds[harness.random.index(kinds.len())];
                let often = if failure == Failure::Interrupted { 5 } else { u64::MAX };
                let times = [1, 2, often][harness.random.index(3)];
                let after = harness.random.below(12);
                harness.disk().add_fault(Fault { after, times, ..Fault::lasting(call, failure) });
                harness.is_faulty |= !failure.is_continued();
            }
            if harness.random.once_in(6) {
                let room = harness.random.below(40_000);
                harness.disk().set_capacity(Some(harness.disk().used_bytes() + room));
                harness.is_faulty = true;
            }
            for _ in 0..harness.random.below(20) {
                harness.step();
            }
            if harness.random.once_in(2) {
                let changes = 1 + harness.random.below(30);
                harness.disk().end_at_change(changes, Moment::Either, Loss::Power);
                for _ in 0..harness.random.below(10) {
                    if !harness.is_down() {
                        harness.step();
                    }
                }
            }
            harness.is_faulty = false;
            tally.add(recover(&mut harness));
        }
        harness.step();
        tally.add(recover(&mut harness));
        harness.close();
    });
}

/// Some kinds of calls and failures: a seed that has few of them meets each more often.
fn kinds(random: &mut Random) -> Vec<(Call, Failure)> {
    let all = Call::ALL
        .into_iter()
        .flat_map(|call| call.failures().iter().map(move |failure| (call, *failure)));
    let all: Vec<_> = all.filter(|(call, _)| *call != Call::Lock).collect();
    let odds = 1 + random.below(8);
    let some: Vec<_> = all.iter().copied().filter(|_| random.once_in(odds)).collect();
    if some.is_empty() { all } else { some }
}

/// Bits that rot in a random place of a random file while the database is closed: it opens and shows what was, or says what is
/// wrong with which file.
pub fn rot_at_random(test: &'static str, seeds: &[u64], tally: &Tally) {
    let found = Mutex::new(0_u64);
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.samples_max = harness.samples_max.min(40);
        harness.open();
        for _ in 0..harness.random.below(40) {
            harness.step();
        }
        harness.close();
        harness.kill();
        for _ in 0..20 {
            let mut rotten = harness.fork(harness.random.clone().bits());
            harness.random.bits();
            let files: Vec<(String, u64)> = rotten.disk().files();
            let (path, length) = files[rotten.random.index(files.len())].clone();
            if length == 0 {
                continue;
            }
            let bit = rotten.random.below(length * 8);
            rotten.disk().flip_bit(&path, bit);
            let is_found = judge(&mut rotten, &path);
            *found.lock().expect("no panic so far") += u64::from(is_found);
            tally.add(1);
        }
    });
    tally.note("found", *found.lock().expect("no panic so far"));
}

/// Whether the damage to `path` was found. A wrong row, or an error that does not name the file, is a panic.
fn judge(harness: &mut Harness, path: &str) -> bool {
    let names = |error: &tagmill_storage::Error| {
        let text = error.to_string();
        // A manifest without its last edit is one that a crash may leave: what is told is what is missing then.
        let is_named = text.contains(path) || path.starts_with("manifest");
        assert!(is_named, "{path} is damaged, told was: {text}");
    };
    if let Err(error) = harness.try_open() {
        names(&error);
        return true;
    }
    let snapshot = harness.engine().snapshot();
    match observe::rows(&snapshot) {
        Ok(rows) => {
            let wrong = observe::compare(&harness.settled, &snapshot, &rows);
            assert_eq!(wrong, None, "{path} is damaged");
            false
        }
        Err(error) => {
            names(&error);
            true
        }
    }
}
