//! Keeps what goes from one operator to the next within bounds.
//!
//! * A projection can make a long text of a short one, and the next a longer one of that, outside the memory pool. Those that
//!   make texts, bytes or lists are therefore watched: a batch beyond [`BATCH_BYTES_MAX`] ends the statement.
//! * A join writes one value into as many rows of a batch as it finds pairs. A value that would come to more than a batch
//!   may have ends the statement before the join.
//! * A window that looks to the end of its rows holds them all, outside the memory pool. They are counted for it there.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::future::ready;
use futures::{Stream, TryStreamExt};

use super::sizes::{Sizes, bytes_of};
use crate::error::{Error, into_datafusion};
use crate::limits::{BATCH_BYTES_MAX, BATCH_ROWS};

/// The rule. It changes no plan's meaning and must come after all that look for projections, joins and windows.
#[derive(Debug)]
pub(crate) struct BoundedBatches;

impl PhysicalOptimizerRule for BoundedBatches {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if makes_long(&node) {
                return Ok(Transformed::yes(bounded(node, Bound::Batch)));
            }
            if node.is::<WindowAggExec>() {
                return with_inputs(node, |input| bounded(input, Bound::Held));
            }
            let is_join = node.is::<HashJoinExec>()
                || node.is::<CrossJoinExec>()
                || node.is::<NestedLoopJoinExec>();
            let has_long = |input: &Arc<dyn ExecutionPlan>| {
                input.schema().fields().iter().any(|field| is_copied(field.data_type()))
            };
            if !is_join || !node.children().into_iter().any(has_long) {
                return Ok(Transformed::no(node));
            }
            with_inputs(
                node,
                |input| {
                    if has_long(&input) { bounded(input, Bound::Values) } else { input }
                },
            )
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "bounded_batches"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn with_inputs(
    node: Arc<dyn ExecutionPlan>,
    change: impl Fn(Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let inputs = node.children().into_iter().map(|input| change(Arc::clone(input))).collect();
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Ok(Transformed::yes(node.replace_children(inputs, options)?))
}

fn bounded(input: Arc<dyn ExecutionPlan>, bound: Bound) -> Arc<dyn ExecutionPlan> {
    Arc::new(BoundedExec { input, bound })
}

/// Whether a node computes texts, bytes or lists.
fn makes_long(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.downcast_ref::<ProjectionExec>().is_some_and(|projection| {
        let schema = projection.schema();
        let mut made = projection.expr().iter().zip(schema.fields());
        made.any(|(made, field)| {
            made.expr.downcast_ref::<Column>().is_none() && may_grow(field.data_type())
        })
    })
}

/// Whether one value can be of any length.
fn may_grow(of: &DataType) -> bool {
    of.is_string() || of.is_binary() || of.is_nested()
}

/// Whether it is then written out wherever it stands. A view only says where it lies.
fn is_copied(of: &DataType) -> bool {
    may_grow(of) && !matches!(of, DataType::Utf8View | DataType::BinaryView)
}

/// What is bounded of the batches that an operator hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// Each by itself.
    Batch,
    /// The longest value in it, as if it stood in each row of another.
    Values,
    /// All together, by the memory of the statement.
    Held,
}

/// Hands on what it gets, unless it is too much.
#[derive(Debug)]
struct BoundedExec {
    input: Arc<dyn ExecutionPlan>,
    bound: Bound,
}

impl DisplayAs for BoundedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match self.bound {
            Bound::Batch => write!(f, "Bounded"),
            Bound::Values => write!(f, "Bounded: values"),
            Bound::Held => write!(f, "Bounded: held"),
        }
    }
}

impl ExecutionPlan for BoundedExec {
    fn name(&self) -> &'static str {
        "BoundedExec"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("BoundedExec has one input");
        };
        Ok(Arc::new(Self { input, bound: self.bound }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let pool = Arc::clone(context.memory_pool());
        let stream = self.input.execute(partition, context)?;
        let schema = stream.schema();
        let stream: SendableRecordBatchStream = match self.bound {
            Bound::Batch => adapted(schema, stream.and_then(|batch| ready(check_batch(batch)))),
            Bound::Values => adapted(schema, stream.and_then(|batch| ready(check_values(batch)))),
            Bound::Held => {
                // Given back when the operator above drops its input.
                let held = MemoryConsumer::new("window").register(&pool);
                let count = move |batch: RecordBatch| {
                    // As they came, and put together in the end.
                    let bytes = usize::try_from(bytes_of(&batch)).unwrap_or(usize::MAX);
                    ready(held.try_grow(bytes.saturating_mul(2)).map(|()| batch))
                };
                adapted(schema, stream.and_then(count))
            }
        };
        Ok(stream)
    }
}

fn adapted(
    schema: SchemaRef,
    stream: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

fn check_batch(batch: RecordBatch) -> Result<RecordBatch> {
    // What is shown twice lies there once, and what lies there may be shown by others.
    let bytes = bytes_of(&batch).min(batch.get_array_memory_size() as u64);
    if bytes <= BATCH_BYTES_MAX as u64 {
        return Ok(batch);
    }
    let rows = batch.num_rows();
    Err(into_datafusion(Error::Limit(format!(
        "the statement makes {} MiB of {rows} rows, at most {} MiB are allowed: \
         make shorter texts and lists",
        bytes >> 20,
        BATCH_BYTES_MAX >> 20
    ))))
}

fn check_values(batch: RecordBatch) -> Result<RecordBatch> {
    let copied = batch.columns().iter().filter(|column| is_copied(column.data_type()));
    let longest = copied.map(|column| Sizes::bytes(column).largest()).max().unwrap_or(0);
    let most = (BATCH_BYTES_MAX / BATCH_ROWS) as u64;
    if longest <= most {
        return Ok(batch);
    }
    Err(into_datafusion(Error::Limit(format!(
        "the statement joins a value of {longest} bytes, at most {most} are allowed: \
         join first, and make long texts and lists of the result"
    ))))
}
