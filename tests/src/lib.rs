//! What the tests of the whole program share. The model and the harness of the engine are in `tests/engine`.
//!
//! # Reading order
//! [`answers`] (what SQL shows, against the model), [`aggregates`] and [`groupings`] (grouped queries, against it), [`fixture`] (data of the SQL tests), [`process`] (the real binary).

pub mod aggregates;
pub mod answers;
pub mod fixture;
pub mod groupings;
pub mod process;
