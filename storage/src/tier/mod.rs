//! Rollups: what is known of one tag's samples in one window, as a state that can be merged.
//!
//! # Contract
//! * The rollup of a whole is the merge of the rollups of its parts, in order: counts, integers, extremes and times exactly,
//!   sums of floats within `4 n eps sum|x|`.
//! * Attributes of tags are applied when a question is asked ([`rule::Rule`]): nothing of them is stored.
//!
//! # What it does not know
//! Where samples lie, which of them were deleted or corrected: rows come in time order, each key once.
//!
//! # Reading order
//! [`rule`] (how samples are understood), [`rollup`] (the state and its merge), [`rows`] (what comes in), [`usable`] (the
//! part that interval functions need), [`fold`] (rows in, rollups out); [`width`] (the tiers), [`build`] (which rollups
//! are stored), [`stored`] (their bytes).

pub(crate) mod build;
pub(crate) mod fold;
pub(crate) mod rollup;
pub(crate) mod rows;
pub(crate) mod rule;
pub(crate) mod stored;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod usable;
pub(crate) mod width;

pub use width::Tier;
