//! What the tests of the storage engine share: the model of a database, workloads by seed, and the harness that drives both.
//!
//! # What it does not know
//! SQL, the wire, the server. It builds without them, in seconds.
//!
//! # Reading order
//! [`model`] (what ought to be), [`workload`] (what is written), [`observe`] (what the engine shows), [`harness`] and [`steps`] (the two side
//! by side), [`seeds`] (how a failure is repeated), [`clock`], [`watch`] (readers beside the writers), [`rollups`] (windows against the rule book), [`fuzz`] (bodies of the fuzz targets).

#![expect(
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "a panic is how a test fails, and errors are those of the engine"
)]

pub mod beyond;
pub mod clock;
pub mod cuts;
pub mod errors;
pub mod expiry;
pub mod fuzz;
pub mod golden;
pub mod harness;
pub mod model;
pub mod mutation;
pub mod observe;
pub mod rollups;
pub mod scripts;
pub mod seeds;
pub mod steps;
pub mod tally;
pub mod watch;
pub mod workload;
