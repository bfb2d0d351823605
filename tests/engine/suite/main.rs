//! Every test that drives a whole storage engine, in one binary: one link, one place.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod backfill;
mod backup;
mod bad_input;
mod beyond;
mod compaction;
mod crash;
mod damage;
mod faults;
mod fuzz;
mod golden;
mod latest;
mod model;
mod mutation;
mod planted;
mod retention;
mod rollups;
mod salvage;
