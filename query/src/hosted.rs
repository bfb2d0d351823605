//! Relations of the program that hosts the database, in the schema `system`: what its doors know of themselves.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::relations::memory_plan;

/// A small relation that a host program gives rows to. See [`Database::host`](crate::Database::host).
pub trait Hosted: Debug + Send + Sync {
    /// Its name within the schema `system`.
    fn name(&self) -> &'static str;
    /// Its columns.
    fn schema(&self) -> SchemaRef;
    /// Whether only operators find it.
    fn for_operators(&self) -> bool;
    /// Its rows now. Called once for each scan; it may read a file, and must not wait long.
    ///
    /// # Errors
    /// A sentence for whoever asked.
    fn rows(&self) -> Result<RecordBatch, String>;
}

/// It as DataFusion wants it.
#[derive(Debug)]
pub(crate) struct HostedRelation(pub(crate) Arc<dyn Hosted>);

#[async_trait]
impl TableProvider for HostedRelation {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch = self.0.rows().map_err(DataFusionError::Execution)?;
        let batch = match projection {
            Some(wanted) => batch.project(wanted)?,
            None => batch,
        };
        memory_plan(batch.schema(), vec![batch], limit)
    }
}
