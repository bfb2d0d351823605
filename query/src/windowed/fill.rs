//! `locf` and `interpolate` above an aggregate that groups by `time_bucket_gapfill`.
//!
//! They are written as functions of an aggregate, and become columns of what stands for that aggregate: the aggregate where
//! it is not null, else what the tag held or showed at the start of the bucket.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Aggregate, Expr, Filter, LogicalPlan, Projection};

use super::analyze::rewrite;
use super::node::{Argument, Call};
use crate::functions::gapfill::{Fill, GAPFILL};
use crate::functions::interval::IntervalFunction;

/// A column that fills another one.
pub(super) struct Filled {
    /// Its name.
    pub(super) name: String,
    /// The function, its constant being the greatest distance.
    pub(super) call: Call,
    /// Which aggregate it fills.
    pub(super) of: usize,
}

/// Whether a projection, or a filter between it and an aggregate, has a fill among its expressions.
pub(super) fn has_fill(node: &LogicalPlan) -> bool {
    let mut found = false;
    let looked = node.apply_expressions(|expr| {
        expr.apply(|part| {
            found |= fill_of(part).is_some();
            Ok(TreeNodeRecursion::Continue)
        })
    });
    let below = node.inputs();
    let filter = below.first().filter(|below| matches!(below, LogicalPlan::Filter(_)));
    looked.is_ok() && (found || filter.is_some_and(|filter| has_fill(filter)))
}

fn fill_of(expr: &Expr) -> Option<(IntervalFunction, &[Expr])> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let implementation = func.inner().as_ref() as &dyn std::any::Any;
    Some((implementation.downcast_ref::<Fill>()?.function, args))
}

/// Rewrites a projection with fills, the filters below it, and the aggregate below those.
pub(super) fn fill_below(node: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(projection) = &node else { return misplaced() };
    let mut below = projection.input.as_ref();
    let aggregate = loop {
        below = match below {
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::Aggregate(aggregate) => break aggregate.clone(),
            _ => return misplaced(),
        }
    };
    let mut fills = Vec::new();
    replace(node, aggregate, &mut fills)
}

fn misplaced<T>() -> Result<T> {
    plan_err!(
        "locf and interpolate fill the gaps of a SELECT that groups by {GAPFILL}, in its select list or HAVING, and not under OVER"
    )
}

/// Replaces fills from above; when the aggregate is reached all are known.
fn replace(
    node: LogicalPlan,
    aggregate: Aggregate,
    fills: &mut Vec<Filled>,
) -> Result<LogicalPlan> {
    match node {
        LogicalPlan::Projection(Projection { expr, input, .. }) => {
            let names = NamePreserver::new_for_projection();
            let mut shown = Vec::with_capacity(expr.len());
            for expr in expr {
                let name = names.save(&expr);
                shown.push(name.restore(replace_in(expr, &aggregate, fills)?));
            }
            let input = replace(Arc::unwrap_or_clone(input), aggregate, fills)?;
            Ok(LogicalPlan::Projection(Projection::try_new(shown, Arc::new(input))?))
        }
        LogicalPlan::Filter(Filter { predicate, input, .. }) => {
            let predicate = replace_in(predicate, &aggregate, fills)?;
            let input = replace(Arc::unwrap_or_clone(input), aggregate, fills)?;
            Ok(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?))
        }
        _ if aggregate.group_expr.iter().any(super::analyze::is_gapfill) => {
            rewrite(&aggregate, fills)
        }
        _ => misplaced(),
    }
}

/// An expression with its fills replaced by the columns they become.
fn replace_in(expr: Expr, aggregate: &Aggregate, fills: &mut Vec<Filled>) -> Result<Expr> {
    let replaced = expr.transform(|part| {
        let Some((function, args)) = fill_of(&part) else { return Ok(Transformed::no(part)) };
        let first = args.first().map(|first| first.clone().unalias());
        let filled = match &first {
            Some(Expr::Column(column)) => aggregate.schema.maybe_index_of_column(column),
            _ => None,
        };
        let of = filled.and_then(|at| at.checked_sub(aggregate.group_expr.len()));
        let Some(of) = of else {
            return plan_err!(
                "{} takes an aggregate of value alone: {}",
                function.name(),
                function.usage()
            );
        };
        let constant = args.get(1).cloned();
        if constant.as_ref().is_some_and(|constant| !constant.column_refs().is_empty()) {
            return plan_err!("{}: the distance must be constant", function.name());
        }
        let call = Call { function, argument: Argument::Value, constant };
        let known = fills.iter().position(|fill| fill.of == of && fill.call == call);
        let at = known.unwrap_or_else(|| {
            fills.push(Filled { name: format!("filled_{}", fills.len()), call, of });
            fills.len() - 1
        });
        Ok(Transformed::yes(Expr::Column(Column::new_unqualified(&fills[at].name))))
    })?;
    Ok(replaced.data)
}
