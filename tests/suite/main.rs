//! Every integration test of Tagmill in one binary: one link, one place.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bad_input;
mod crash;
mod examples;
mod fuzz;
mod grpc;
mod import;
mod kill;
mod model;
mod sql;
