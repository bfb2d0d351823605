//! Every integration test of Tagmill in one binary: one link, one place.

mod bad_input;
mod crash;
mod import;
mod kill;
mod model;
mod sql;
