//! Every integration test of Tagmill in one binary: one link, one place.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod access;
mod between;
mod care;
mod examples;
mod export;
mod forward;
mod grpc;
mod guard;
mod import;
mod kill;
mod model;
mod sql;
mod tiers;
