//! What the tests of the whole program share. The model and the harness of the engine are in `tests/engine`.
//!
//! # Reading order
//! [`answers`] (what SQL shows, against the model), [`aggregates`] and [`groupings`] (grouped queries, against it),
//! [`weights`], [`questions`] and [`intervals`] (interval functions, against the rule book), [`client`] (a session),
//! [`fixture`] (data of the SQL tests), [`process`] (the real binary).

pub mod aggregates;
pub mod answers;
pub mod client;
pub mod fixture;
pub mod groupings;
pub mod intervals;
pub mod process;
pub mod questions;
pub mod weights;
