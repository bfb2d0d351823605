//! What stands before DataFusion: a statement that could end or hang the process is refused with a sentence.
//!
//! # Contract
//! * A text goes through [`tokens`] before it is parsed, its tree through [`syntax`] before it is planned, its plan through
//!   [`plan`] and [`expansion`] before it is optimized, and through [`plan`] again afterwards. What comes after is bounded by
//!   the memory pool, by [`functions`] that would make much of little, by [`batches`] between operators, and by the
//!   statement's time.
//! * Every refusal is [`Error::Limit`](crate::Error::Limit), and says which limit and what to write instead.
//! * Limits stand in [`crate::limits`]. They are the same for the library and for the server.
//!
//! # What it does not know
//! Who asks, and what the statement is for.

pub(crate) mod batches;
mod concatenation;
pub(crate) mod expansion;
pub(crate) mod functions;
pub(crate) mod interrupt;
pub(crate) mod literals;
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod sizes;
pub(crate) mod syntax;
pub(crate) mod tokens;
