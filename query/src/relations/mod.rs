//! What can be selected from: `samples`, `tags`, `latest`, `rollup_1m` to `rollup_1d`, and the schema `system`.
//!
//! Every relation of a statement reads the same snapshot. Reading order: [`rows`] (how samples become columns and what
//! is null), [`samples`] (plans a scan; [`crate::source`] runs it), [`latest`], [`tags`],
//! [`rollups`] (views), [`system`].

pub(crate) mod latest;
pub(crate) mod rollups;
pub(crate) mod rows;
pub(crate) mod samples;
pub(crate) mod system;
pub(crate) mod tags;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::physical_plan::ExecutionPlan;
use tagmill_storage::Snapshot;

use crate::hosted::Hosted;
use crate::running::{Asker, Running};
use crate::selection::Notices;
use crate::settings::Settings;

/// The zone of every timestamp that leaves this crate.
pub(crate) const UTC: &str = "UTC";

/// Type of every timestamp column.
pub(crate) fn utc_time() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from(UTC)))
}

/// What the relations of one statement share.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// What is read.
    pub(crate) snapshot: Snapshot,
    /// Where relations leave what the asker should know.
    pub(crate) notices: Notices,
    /// The session's settings when the statement began.
    pub(crate) settings: Settings,
    /// Whether the reader may know of every tag, and of what the database says of itself.
    pub(crate) is_whole: bool,
    /// On whose behalf it is read.
    pub(crate) asker: Asker,
    /// Statements that run.
    pub(crate) running: Arc<Running>,
    /// Relations of the host program.
    pub(crate) hosted: Arc<[Arc<dyn Hosted>]>,
}

/// A plan over batches that are small enough to be there at once. They hold the projected columns only.
pub(crate) fn memory_plan(
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let source = MemorySourceConfig::try_new(&[batches], schema, None)?;
    let source = source.with_fetch(limit).map_or_else(
        || DataSourceExec::from_data_source(source),
        |limited| Arc::new(DataSourceExec::new(limited)),
    );
    Ok(source)
}
