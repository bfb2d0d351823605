//! The interval functions: what holds between samples, weighted by time.
//!
//! # Contract
//! * They mean what `docs/sql.md` says of them, for every group alike: late, corrected and deleted samples, bad
//!   stretches, silent tags and running buckets included.
//! * A statement in which they cannot be right is refused with an error that says the way out.
//! * One snapshot and one `now()` for everything in a statement.
//!
//! # Reading order
//! [`crate::functions::interval`] (names and types), [`analyze`] with [`input`] (cuts them out of an aggregate),
//! [`node`], [`plan`] (constants), [`exec`] with [`read`] and [`output`]; the arithmetic is in [`fold`], [`chain`] and
//! [`axis`], which know no SQL.

pub(crate) mod analyze;
mod axis;
mod chain;
mod exec;
mod fill;
mod fold;
mod input;
pub(crate) mod node;
mod output;
pub(crate) mod plan;
mod read;
