//! The engine against its model: bytes decide the steps, the simulated disk takes them, the harness judges.

use std::time::Duration;

use tagmill_storage::disk::sim::{Random, SimDisk};

use crate::harness::{Harness, Place};
use crate::steps::Step;

/// Steps of one input.
const STEPS_MAX: usize = 48;

/// What a byte means. New ones go to the end: the corpus knows the numbers.
const STEPS: [Step; 13] = [
    Step::Append,
    Step::AppendAsGateway,
    Step::Define,
    Step::Delete,
    Step::Edit,
    Step::DeleteTag,
    Step::Seal,
    Step::Sync,
    Step::GrowStates,
    Step::Alias,
    Step::Scan,
    Step::Hold,
    Step::MoveClock,
];

/// Any sequence of steps, checks, closes, kills and power cuts leaves the engine equal to its model.
///
/// The first two bytes seed disk and limits. Then three bytes a step: what, and the seed of its details.
pub fn engine(data: &[u8]) {
    let [low, high, rest @ ..] = data else { return };
    let seed = u64::from(u16::from_le_bytes([*low, *high]));
    let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
    harness.samples_max = harness.samples_max.min(40);
    // Seals come when the input says so, or when memory does: never by time.
    harness.options.seal_age = Duration::from_hours(1);
    harness.open();
    for step in rest.chunks_exact(3).take(STEPS_MAX) {
        let seed = u64::from(u16::from_le_bytes([step[1], step[2]]));
        harness.random = Random::new(seed);
        act(&mut harness, step[0], seed);
        if harness.is_down() {
            recover(&mut harness);
        }
    }
    if !harness.is_down() {
        harness.check();
        harness.close();
    }
    reopen(&mut harness);
    harness.check();
    harness.close();
}

/// Opens the engine after a close, which may have been cut short.
fn reopen(harness: &mut Harness) {
    if harness.is_down() {
        return recover(harness);
    }
    if let Place::Sim(disk) = &harness.place {
        disk.crash_after_changes(u64::MAX / 2); // no longer soon
    }
    harness.open();
}

fn act(harness: &mut Harness, code: u8, seed: u64) {
    if let Some(step) = STEPS.get(usize::from(code % 32)) {
        return harness.perform(*step);
    }
    match code % 32 {
        31 => harness.check(),
        30 => {
            harness.close();
            reopen(harness);
        }
        29 => {
            harness.kill();
            harness.open();
        }
        28 => recover(harness),
        27 => {
            if let Place::Sim(disk) = &harness.place {
                disk.crash_after_changes(1 + seed % 64);
            }
        }
        _ => {}
    }
}

/// Cuts the power, once more while the engine recovers, and opens.
fn recover(harness: &mut Harness) {
    harness.crash();
    let within = 1 + harness.random.below(24);
    if let Place::Sim(disk) = &harness.place {
        disk.crash_after_changes(within);
    }
    if let Err(error) = harness.try_open() {
        assert!(harness.is_down(), "recovery: {error}");
    }
    harness.crash();
    harness.open();
    harness.check();
}
