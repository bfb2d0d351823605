//! Tagmill as a library: a time-series database for plant telemetry inside your own program.
//!
//! [`Database`] opens a directory, takes batches of samples, and answers SQL with Arrow record batches. Every answer is
//! consistent: it reads one snapshot, and shows nothing that a crash could take back. SQL only reads.
//!
//! # Reading order
//! [`database`] (open, append), [`session`] (a statement from text to answer), [`statement`] (text), [`dialect`] (SQL as
//! other systems' clients write it), [`catalog`] and [`relations`] (what can be selected from), [`pushdown`] and [`selection`] (filters into tags and times), [`source`]
//! and [`hints`] (the scan), [`aside`] (threads that read), [`pieces`] (what holds between samples), [`windowed`] (interval functions and gap filling), [`served`] (what EXPLAIN says of tiers),
//! [`guard`] (what could end or hang the process is refused), [`running`] (statements that run), [`small`] (which wait
//! for none), [`hosted`] (relations of a
//! host program), [`planner`], [`durations`] and [`cooperation`] (rules of planning), [`functions`], [`table_functions`], [`settings`],
//! [`error`], [`limits`].

mod aggregate_pushdown;
mod aside;
mod beyond_raw;
mod catalog;
mod cooperation;
mod database;
mod dialect;
mod durations;
mod error;
mod functions;
mod guard;
mod hints;
mod hosted;
pub mod limits;
mod near;
mod pieces;
mod planner;
mod planning;
mod pushdown;
mod relations;
mod running;
mod selection;
mod served;
mod session;
mod settings;
mod small;
mod source;
mod statement;
mod table_functions;
mod windowed;

pub use datafusion;
pub use datafusion::arrow;
pub use datafusion::execution::SendableRecordBatchStream;
pub use tagmill_storage as storage;
pub use tagmill_storage::{
    Appended, Batch, Durability, Engine, Labels, Origin, Qualities, Quality, Reject, RejectReason,
    ScanBlock, Seq, Severity, Tag, TagAttributes, TagColumn, TagDefinition, TagId, TagScope,
    TimeRange, Value, ValueType, Values,
};

pub use database::{Database, Options};
pub use dialect::Dialect;
pub use error::{Error, Result};
pub use hosted::Hosted;
pub use running::{Asker, Statement};
pub use session::{Answer, Described, Prepared, Session, with_text};
pub use settings::{Setting, Settings, TierUse};
pub use statement::statements;
