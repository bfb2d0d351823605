//! `latest`: the current value of every tag that has one, with its age at the statement's `now()`.
//!
//! The columns of `samples` and `age`. Kept by the engine at every write, so nothing is scanned.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tagmill_storage::{Latest as Newest, Qualities, ScanBatch, TagId, Values};

use super::rows::{RowBuilder, RowColumn, schema_of};
use super::{Scope, memory_plan};
use crate::limits::BATCH_ROWS;
use crate::pushdown;
use crate::selection::select;

/// See the module.
#[derive(Debug)]
pub(crate) struct Latest {
    scope: Scope,
    columns: Vec<RowColumn>,
    schema: SchemaRef,
}

impl Latest {
    /// The relation of one statement.
    pub(crate) fn new(scope: Scope) -> Self {
        let columns: Vec<_> = RowColumn::SAMPLES.into_iter().chain([RowColumn::Age]).collect();
        let schema = schema_of(&columns);
        Self { scope, columns, schema }
    }
}

#[async_trait]
impl TableProvider for Latest {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters.iter().map(|filter| pushdown::support_of_tags(filter)).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = match projection {
            Some(wanted) => wanted.iter().filter_map(|&at| self.columns.get(at).copied()).collect(),
            None => self.columns.clone(),
        };
        let snapshot = &self.scope.snapshot;
        let pushed = pushdown::push(filters);
        let tags = select(snapshot.registry(), &pushed.tags, session, &self.scope.notices)?;
        let now = session.execution_props().query_execution_start_time;
        let now_ns = now.and_then(|now| now.timestamp_nanos_opt()).unwrap_or_default();
        let mut rows = RowBuilder::new(snapshot.clone(), &columns, now_ns);
        let mut batches = Vec::new();
        let newest = tags.iter().filter_map(|&tag| Some((tag, snapshot.latest(tag)?)));
        for (tag, newest) in newest.take(limit.unwrap_or(usize::MAX)) {
            rows.push(single(tag, newest));
            if rows.rows() == BATCH_ROWS {
                batches.push(rows.finish()?);
            }
        }
        if rows.rows() > 0 || batches.is_empty() {
            batches.push(rows.finish()?);
        }
        memory_plan(schema_of(&columns), batches, limit)
    }
}

fn single(tag: TagId, newest: Newest) -> ScanBatch {
    let Newest { time_ns, value, quality } = newest;
    let mut values = Values::empty(value.value_type());
    values.push(value);
    ScanBatch { tag, times: vec![time_ns], values, qualities: Qualities::Uniform(quality) }
}
