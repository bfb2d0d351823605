//! Runs a table function: its reads block, so they have a thread of their own and stay a few batches ahead of the reader.
//!
//! Work starts when the stream is first polled and ends when it is dropped: a [`Job`] asks its [`Sink`] now and then
//! whether anybody still listens.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{
    EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};

use crate::aside::{BatchSender, stream_of};
use crate::source::Flow;

/// What a table function does once its arguments are known.
pub(crate) trait Job: fmt::Debug + Send + Sync {
    /// Its columns.
    fn schema(&self) -> SchemaRef;

    /// The columns its rows ascend by.
    fn order(&self) -> &'static [&'static str];

    /// What EXPLAIN says of it.
    fn explain(&self) -> String;

    /// Gives its rows to the sink, until there are no more or nobody wants more.
    fn run(&self, sink: &mut Sink) -> Result<()>;
}

/// Where a job leaves its rows.
pub(crate) struct Sink {
    sender: BatchSender,
    baseline: BaselineMetrics,
    left: Option<usize>,
    memory: MemoryReservation,
}

impl Sink {
    /// Hands on rows, and says whether more are wanted.
    pub(crate) fn send(&mut self, batch: &RecordBatch) -> Flow {
        let rows = self.left.unwrap_or(usize::MAX).min(batch.num_rows());
        if rows == 0 {
            return self.flow();
        }
        self.left = self.left.map(|left| left - rows);
        self.baseline.record_output(rows);
        match self.sender.blocking_send(Ok(batch.slice(0, rows))) {
            Ok(()) => self.flow(),
            Err(_) => Flow::Stop,
        }
    }

    /// Whether more rows are wanted.
    pub(crate) fn flow(&self) -> Flow {
        if self.left == Some(0) || self.sender.is_closed() { Flow::Stop } else { Flow::Continue }
    }

    /// Says how much memory the job holds now, beyond a few batches.
    ///
    /// # Errors
    /// If running statements together would have more than the database gives them.
    pub(crate) fn holds(&mut self, bytes: usize) -> Result<()> {
        self.memory.try_resize(bytes)
    }
}

/// The plan that runs a job.
pub(crate) fn job_plan(job: Arc<dyn Job>) -> Arc<dyn ExecutionPlan> {
    let metrics = ExecutionPlanMetricsSet::new();
    DataSourceExec::from_data_source(JobSource { job, fetch: None, metrics })
}

#[derive(Clone, Debug)]
struct JobSource {
    job: Arc<dyn Job>,
    fetch: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
}

impl DataSource for JobSource {
    fn open(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let job = Arc::clone(&self.job);
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let memory = MemoryConsumer::new("table function").register(context.memory_pool());
        let (schema, left) = (job.schema(), self.fetch);
        Ok(stream_of(&schema, move |sender| {
            job.run(&mut Sink { sender: sender.clone(), baseline, left, memory })
        }))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TagmillTable: {}", self.job.explain())?;
        match self.fetch {
            Some(rows) => write!(f, " limit={rows}"),
            None => Ok(()),
        }
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(1)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        let schema = self.job.schema();
        let key = |name: &&str| {
            let column = Column::new_with_schema(name, &schema).ok()?;
            let column: Arc<dyn PhysicalExpr> = Arc::new(column);
            Some(PhysicalSortExpr::new(column, SortOptions::new(false, false)))
        };
        let order: Option<Vec<_>> = self.job.order().iter().map(key).collect();
        EquivalenceProperties::new_with_orderings(Arc::clone(&schema), order)
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.job.schema())))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(Self { fetch: limit, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    fn try_swapping_with_projection(
        &self,
        _: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
}
