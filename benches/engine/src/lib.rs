//! Benchmarks of the storage engine: each file beside this folder is one, and states the claim it defends.
//!
//! They are a crate of their own so that `cargo bench -p tagmill-engine-benches` builds the engine and nothing else.
//!
//! # Reading order
//! [`plant`] (the plant whose samples most of them store), [`feed`] (writes them), [`process`] (memory and files as the
//! system sees them).

pub mod feed;
pub mod plant;
pub mod process;
