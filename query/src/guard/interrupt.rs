//! Ends joins in the middle of their work.
//!
//! A join that compares each row with each other, and keeps none, gives nothing to whoever polls it for minutes: no timer
//! and no cancel reaches it, and when all threads of a runtime are in such joins, nothing else does either. The condition of
//! a join is evaluated again and again, so it asks each time whether the statement is over. A join that keeps little of what
//! it finds, such as that of EXISTS, gets a condition if it has none.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use tokio::time::Instant;

use crate::error::{Error, into_datafusion};

/// Whether a statement is over. Asked from wherever it works.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    is_ended: AtomicBool,
}

impl Interrupt {
    /// It is.
    pub(crate) fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

/// When a statement is over.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) interrupt: Arc<Interrupt>,
    /// At this time, and how long that is from its begin.
    pub(crate) deadline: Option<(Instant, Duration)>,
}

impl Limit {
    fn check(&self) -> Result<()> {
        if self.interrupt.is_ended.load(Ordering::Relaxed) {
            return Err(into_datafusion(Error::Cancelled));
        }
        match self.deadline {
            Some((at, timeout)) if Instant::now() >= at => {
                Err(into_datafusion(Error::Timeout(timeout)))
            }
            _ => Ok(()),
        }
    }
}

/// The same plan, with joins that end when the statement is over.
pub(crate) fn interruptible(
    plan: Arc<dyn ExecutionPlan>,
    limit: &Limit,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
            && let Some(filter) = asking(join.filter(), *join.join_type(), limit)
        {
            let builder = NestedLoopJoinExecBuilder::from(join);
            let join = builder.with_filter(Some(filter)).build()?;
            return Ok(Transformed::yes(Arc::new(join) as Arc<dyn ExecutionPlan>));
        }
        if let Some(join) = node.downcast_ref::<HashJoinExec>()
            // That of NOT IN takes no condition besides its own.
            && (join.filter().is_some() || !join.null_aware)
            && let Some(filter) = asking(join.filter(), *join.join_type(), limit)
        {
            let builder = HashJoinExecBuilder::from(join);
            let join = builder.with_filter(Some(filter)).build()?;
            return Ok(Transformed::yes(Arc::new(join) as Arc<dyn ExecutionPlan>));
        }
        Ok(Transformed::no(node))
    })
    .data()
}

/// The condition of a join, made to ask. An inner join without one gives all it finds, and needs none.
fn asking(filter: Option<&JoinFilter>, of: JoinType, limit: &Limit) -> Option<JoinFilter> {
    let condition = match filter {
        Some(filter) => Arc::clone(filter.expression()),
        None if of == JoinType::Inner => return None,
        None => lit(true),
    };
    let asking = Arc::new(Asking { condition, limit: limit.clone() });
    Some(match filter {
        Some(filter) => {
            let (columns, schema) = (filter.column_indices().to_vec(), Arc::clone(filter.schema()));
            JoinFilter::new(asking, columns, schema)
        }
        None => JoinFilter::new(asking, Vec::new(), Arc::new(Schema::empty())),
    })
}

/// A condition that fails when the statement is over.
#[derive(Debug)]
struct Asking {
    condition: Arc<dyn PhysicalExpr>,
    limit: Limit,
}

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        self.condition.eq(&other.condition)
    }
}

impl Eq for Asking {}

impl Hash for Asking {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.condition.hash(state);
    }
}

impl fmt::Display for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt(f)
    }
}

impl PhysicalExpr for Asking {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.condition.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.condition.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.condition.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.limit.check()?;
        self.condition.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.condition]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let Ok([condition]) = <[Arc<dyn PhysicalExpr>; 1]>::try_from(children) else {
            return internal_err!("a condition that asks has one condition");
        };
        Ok(Arc::new(Self { condition, limit: self.limit.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt_sql(f)
    }
}
