//! Where an import puts its batches: an engine in this process, a server, or nowhere (a dry run).
//!
//! Contract: batches are numbered from 1 without a hole, and the same file read the same way gives the same batches,
//! so a sink that has a batch already leaves it out and the rest goes on from there: exactly once.

use tagmill_storage::{Qualities, TagDefinition, ValueType, Values};

use crate::cli::failure::Result;

/// Samples of one tag in a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The tag, as [`Sink::define`] numbered it.
    pub tag: u32,
    /// Times, nanoseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// Values, of the type the tag was defined with.
    pub values: Values,
    /// Qualities.
    pub qualities: Qualities,
}

/// Samples the sink refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkReject {
    /// The tag.
    pub tag: u32,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: String,
}

/// Where an import puts its batches.
pub trait Sink: std::fmt::Debug {
    /// Begins the import `id`, or goes on with it: the greatest batch number that is durable, 0 for none.
    ///
    /// # Errors
    /// If the database cannot be reached.
    fn begin(&mut self, id: &str) -> Result<u64>;

    /// The type of a tag that exists already.
    fn type_of(&self, name: &str) -> Option<ValueType>;

    /// Numbers tags; a tag that is refused has its reason instead.
    ///
    /// # Errors
    /// If the database cannot be reached.
    fn define(&mut self, tags: &[TagDefinition]) -> Result<Vec<Result<u32, String>>>;

    /// Hands over batch `seq`; it may be on its way when this returns.
    ///
    /// # Errors
    /// If this batch or one before it could not be written. What is durable stays; the same import goes on there.
    fn send(&mut self, seq: u64, columns: Vec<Column>) -> Result<()>;

    /// Waits until every batch is durable, and tells what was refused.
    ///
    /// # Errors
    /// As [`Sink::send`].
    fn finish(&mut self) -> Result<Vec<SinkReject>>;

    /// Whether everything is thrown away.
    fn is_dry_run(&self) -> bool {
        false
    }
}

/// Takes everything and keeps nothing.
#[derive(Debug, Default)]
pub struct DryRun {
    defined: u32,
}

impl Sink for DryRun {
    fn begin(&mut self, _id: &str) -> Result<u64> {
        Ok(0)
    }

    fn type_of(&self, _name: &str) -> Option<ValueType> {
        None
    }

    fn define(&mut self, tags: &[TagDefinition]) -> Result<Vec<Result<u32, String>>> {
        let number = |_: &TagDefinition| {
            self.defined += 1;
            Ok(self.defined)
        };
        Ok(tags.iter().map(number).collect())
    }

    fn send(&mut self, _seq: u64, _columns: Vec<Column>) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<SinkReject>> {
        Ok(Vec::new())
    }

    fn is_dry_run(&self) -> bool {
        true
    }
}
