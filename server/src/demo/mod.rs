//! demo
pub mod answer;
pub mod equipment;
pub mod feed;
pub mod ledger;
pub mod plant;
pub mod questions;
pub mod report;
pub mod signals;
