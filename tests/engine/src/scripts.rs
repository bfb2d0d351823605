//! Scripted workloads, short enough that everything can go wrong at each of their disk calls.

use std::time::Duration;

use tagmill_storage::Options;
use tagmill_storage::disk::sim::SimDisk;

use crate::harness::{Harness, Place};
use crate::steps::Step;

/// Workloads that between them take every path of the engine to the disk.
pub const SCRIPTS: [&[Step]; 20] = {
    use Step::{
        Alias, Append, AppendAsGateway, AppendLate, AppendMuch, Backfill, Compact, Define, Delete,
        DeleteTag, Edit, GrowStates, Reopen, Scan, Seal, Sync,
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
        &[Define, Append, Seal, AppendLate, Seal, AppendLate, Delete, AppendLate, Seal, Scan],
        &[Define, Append, Reopen, Define, Seal, Reopen, AppendLate, Reopen, Append],
        &[Define, AppendMuch, Append, AppendMuch, AppendAsGateway, Seal, AppendMuch, Reopen],
        &[Define, AppendAsGateway, Seal, Define, Alias, Define, Seal, Reopen, Define, Seal, Append],
        &[Define, Append, Seal, AppendLate, Seal, Compact, Delete, AppendLate, Seal, Compact, Scan],
        &[Define, Append, Backfill, Append, Seal, Backfill, Reopen, Scan],
        &[Define, Append, Seal, Delete, Compact, Append, Seal, Append, Seal, Compact, Reopen],
        &[Define, Backfill, AppendLate, Delete, Seal, Backfill, Compact, Append, Backfill],
    ]
};

/// What the smallest workloads are made of.
pub const ALPHABET: [Step; 11] = [
    Step::Append,
    Step::AppendLate,
    Step::AppendAsGateway,
    Step::Define,
    Step::Delete,
    Step::DeleteTag,
    Step::GrowStates,
    Step::Seal,
    Step::Compact,
    Step::Backfill,
    Step::Reopen,
];

/// A database for a script: limits that make no seal start by itself, so that the same seed makes the same calls.
pub fn quiet(seed: u64, disk: &SimDisk) -> Harness {
    let mut harness = Harness::new(seed, Place::Sim(disk.clone()));
    harness.options = Options {
        wal_bytes: 128 << 10,
        seal_age: Duration::from_hours(1),
        background_compaction: false,
        scrub_period: None,
        busy_wait: Duration::from_secs(2),
        ..Options::default()
    };
    harness.samples_max = 20;
    harness
}

/// Does what the script says, until the disk goes down or a failing one refuses to open.
pub fn play(harness: &mut Harness, script: &[Step]) {
    for step in script {
        if harness.is_down() || harness.engine.is_none() {
            return;
        }
        harness.perform(*step);
    }
}
