//! What the tests of Tagmill share: the model of a database, workloads by seed, and the harness that drives both.
//!
//! # Reading order
//! [`model`] (what ought to be), [`workload`] (what is written), [`observe`] and [`answers`] (what the engine and SQL show), [`harness`] and
//! [`steps`] (the two side by side), [`fixture`] (data of the SQL tests), [`seeds`] (how a failure is repeated), [`clock`], [`watch`] (readers beside the
//! writers).

#![expect(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "a panic is how a test fails, and errors are those of the engine"
)]

pub mod answers;
pub mod clock;
pub mod fixture;
pub mod fuzz;
pub mod harness;
pub mod model;
pub mod observe;
pub mod process;
pub mod seeds;
pub mod steps;
pub mod watch;
pub mod workload;
