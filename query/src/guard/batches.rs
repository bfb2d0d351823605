//! Keeps what goes from one operator to the next within bounds.
//!
//! A projection can make a long text of a short one, and the next a longer one of that, outside the memory pool. Those that
//! make texts, bytes or lists are therefore watched: a batch beyond [`BATCH_BYTES_MAX`] ends the statement.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;

use crate::error::{Error, into_datafusion};
use crate::limits::BATCH_BYTES_MAX;

/// The rule. It changes no plan's meaning and must come after all that look for projections.
#[derive(Debug)]
pub(crate) struct BoundedBatches;

impl PhysicalOptimizerRule for BoundedBatches {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let makes_long = node.downcast_ref::<ProjectionExec>().is_some_and(|projection| {
                let schema = projection.schema();
                let made = projection.expr().iter().zip(schema.fields());
                made.into_iter().any(|(made, field)| {
                    made.expr.downcast_ref::<Column>().is_none() && may_grow(field.data_type())
                })
            });
            if !makes_long {
                return Ok(Transformed::no(node));
            }
            Ok(Transformed::yes(Arc::new(BoundedExec { input: node }) as Arc<dyn ExecutionPlan>))
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

/// Whether one value can be of any length.
fn may_grow(of: &DataType) -> bool {
    of.is_string() || of.is_binary() || of.is_nested()
}

/// Hands on what it gets, unless it is too much at once.
#[derive(Debug)]
struct BoundedExec {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for BoundedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Bounded")
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
        Ok(Arc::new(Self { input }))
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
        let stream = self.input.execute(partition, context)?;
        let schema = stream.schema();
        let stream = stream.and_then(|batch| async move {
            let bytes = batch.get_array_memory_size();
            if bytes <= BATCH_BYTES_MAX {
                return Ok(batch);
            }
            let rows = batch.num_rows();
            Err(into_datafusion(Error::Limit(format!(
                "the statement makes {} MiB of {rows} rows, at most {} MiB are allowed: \
                 make shorter texts and lists",
                bytes >> 20,
                BATCH_BYTES_MAX >> 20
            ))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}
