//! Power cuts: at random moments of random work, and at every change of scripted work.
//!
//! # Contract
//! * A cycle is one loss of power or of the process and the open after it, which may be cut short too, up to three times.
//!   After the last of them the database opens without a manual step and equals the model: what was acknowledged or shown is
//!   there, batches are whole, nothing is invented.
//! * One moment is tried with many fates: the disk is forked, and each fork loses another part of what was not synced.

use tagmill_storage::disk::sim::{Loss, Moment, Random, SimDisk};

use crate::harness::{Harness, Place};
use crate::scripts::{ALPHABET, SCRIPTS, play, quiet};
use crate::seeds::{Case, share};
use crate::steps::Step;
use crate::tally::Tally;

/// Cuts the power, also up to three times while the engine recovers; then the engine must open and be right. Gives the number
/// of cycles.
pub fn recover(harness: &mut Harness) -> u64 {
    harness.crash();
    let mut cycles = 1;
    for _ in 0..harness.random.below(4) {
        let within = 1 + harness.random.below(24);
        let loss = if harness.random.once_in(4) { Loss::Process } else { Loss::Power };
        harness.disk().end_at_change(within, Moment::Either, loss);
        if let Err(error) = harness.try_open() {
            assert!(harness.is_down(), "recovery: {error}");
        }
        if loss == Loss::Power {
            harness.crash();
        } else {
            harness.kill();
        }
        cycles += 1;
    }
    harness.open();
    harness.check();
    cycles
}

/// Power cuts at random moments of random work.
pub fn at_random_moments(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.samples_max = [2, 5, 12, 40][harness.random.index(4)].min(harness.samples_max);
        harness.mute_some();
        let within = 1 + harness.random.below(60);
        harness.disk().end_at_change(within, Moment::Either, Loss::Process);
        harness.open_if_possible();
        for _ in 0..=harness.random.below(4) {
            for _ in 0..harness.random.below(25) {
                if harness.engine.is_some() && !harness.is_down() {
                    harness.step();
                }
            }
            tally.add(fates(&mut harness));
            tally.add(recover(&mut harness));
            let changes = 1 + harness.random.below(80);
            harness.disk().end_at_change(changes, Moment::Either, Loss::Process);
        }
        tally.add(recover(&mut harness));
        harness.step();
        harness.close();
        harness.open();
        harness.check();
        harness.close();
    });
}

/// Tries what may become of this moment, apart from the harness itself. The engine of the harness is gone after it.
fn fates(harness: &mut Harness) -> u64 {
    harness.disk().kill();
    harness.engine = None;
    let mut cycles = 0;
    for _ in 0..10 {
        let seed = harness.random.bits();
        let mut fate = harness.fork(seed);
        cycles += recover(&mut fate);
        if fate.random.once_in(4) {
            fate.step();
            cycles += recover(&mut fate);
        }
    }
    cycles
}

/// A cut before and one after every change of every script, creation and close included.
pub fn at_every_change_of_scripts(test: &'static str, seeds: &[u64], tally: &Tally) {
    let scripts: Vec<(u64, usize)> =
        seeds.iter().flat_map(|seed| (0..SCRIPTS.len()).map(|number| (*seed, number))).collect();
    share(&scripts, |(seed, number)| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut random = Random::new(seed ^ number as u64);
        let script_seed = random.bits();
        let start = |random: &mut Random| quiet(script_seed, &SimDisk::new(random.bits()));
        cut_everywhere(SCRIPTS[number], &mut random, &start, tally);
    });
}

/// One of so many workloads of three operations is tried with each seed.
const SAMPLED: u64 = 4;

/// Every workload of one or two operations of a small alphabet, and one in [`SAMPLED`] of those of three, on a database that
/// holds a little of everything, with a cut before and one after every change.
pub fn at_every_change_of_small_workloads(test: &'static str, seeds: &[u64], tally: &Tally) {
    let mut workloads: Vec<Vec<Step>> = vec![Vec::new()];
    let mut all = Vec::new();
    for _ in 0..3 {
        let longer = workloads.iter().flat_map(|workload| {
            ALPHABET.into_iter().map(|step| [workload.as_slice(), &[step]].concat())
        });
        workloads = longer.collect();
        all.extend(workloads.iter().cloned());
    }
    for seed in seeds {
        let is_chosen = |(number, workload): &(u64, &Vec<Step>)| {
            workload.len() < 3 || number.wrapping_add(*seed) % SAMPLED == 0
        };
        let items: Vec<(u64, &Vec<Step>)> = (0..).zip(&all).filter(is_chosen).collect();
        let prepared = prepare(*seed);
        share(&items, |(number, workload)| {
            let _case = Case::new(test, *seed);
            tally.seed();
            let mut random = Random::new(seed ^ number << 20);
            let work = random.split();
            let start = |random: &mut Random| {
                let mut harness = prepared.fork(random.bits());
                harness.random = work.clone();
                harness
            };
            cut_everywhere(workload, &mut random, &start, tally);
        });
    }
}

/// A database with sealed, late, unsealed and deleted samples, closed.
fn prepare(seed: u64) -> Harness {
    let mut harness = quiet(seed, &SimDisk::new(seed));
    harness.samples_max = 6;
    harness.open();
    let script = [
        Step::Define,
        Step::Append,
        Step::Seal,
        Step::AppendLate,
        Step::Delete,
        Step::Seal,
        Step::AppendAsGateway,
        Step::Append,
    ];
    play(&mut harness, &script);
    harness.close();
    harness.kill();
    harness
}

fn cut_everywhere(
    script: &[Step],
    random: &mut Random,
    start: &dyn Fn(&mut Random) -> Harness,
    tally: &Tally,
) {
    let mut harness = start(random);
    let before = harness.disk().changes();
    harness.open();
    play(&mut harness, script);
    harness.close();
    for change in 1..=harness.disk().changes() - before {
        for moment in [Moment::Before, Moment::After] {
            let mut harness = start(random);
            harness.disk().end_at_change(change, moment, Loss::Power);
            harness.open_if_possible();
            play(&mut harness, script);
            if !harness.is_down() && harness.engine.is_some() {
                harness.close();
            }
            // What was drawn for the script must not decide what the crash and its recovery do.
            harness.random = random.split();
            tally.add(recover(&mut harness));
            if harness.random.once_in(4) {
                harness.perform(Step::Append);
                tally.add(recover(&mut harness));
                harness.close();
            }
        }
    }
}

/// Random work on a healthy disk, with seals at any time beside it, closed or killed and opened again.
pub fn random_operations(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        Harness::new(seed, Place::Sim(SimDisk::new(seed))).live(4, 120, &mut |_| {});
        tally.add(4);
    });
}

/// The process dies, the machine runs on: what was written is there, and the power may go before the next process synced it.
pub fn killed_processes(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.samples_max = harness.samples_max.min(40);
        harness.mute_some();
        harness.open();
        for _ in 0..4 {
            for _ in 0..harness.random.below(30) {
                harness.step();
            }
            harness.kill();
            tally.add(1);
            if harness.random.once_in(2) {
                let within = 1 + harness.random.below(12);
                harness.disk().crash_after_changes(within);
                if let Err(error) = harness.try_open() {
                    assert!(harness.is_down(), "recovery: {error}");
                }
                harness.crash();
                tally.add(1);
            }
            harness.open();
            harness.check();
        }
    });
}
