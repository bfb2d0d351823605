//! Limits on what a plan comes to when expressions take the place of the columns they make.
//!
//! The optimizer pushes a condition below a projection by writing out what it compares. `x + x` of `x + x` of .., thirty
//! lines of it, is a condition of 2^30 parts then. What it would come to is counted before, and nothing is written out.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, Result, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, Join, LogicalPlan};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;

use super::plan::check_constants;
use crate::error::{Error, into_datafusion};
use crate::limits::{CONSTANTS_BYTES_MAX, EXPANDED_PARTS_MAX};

/// Bytes of a constant that count as much as one part of an expression.
const PART_BYTES: usize = 64;

/// Refuses a plan that would become too large.
///
/// How long constants are is known when they are worked out. Until then a call of a function counts as the longest constant
/// it may make, which is enough for most plans; only others are worked out for it.
pub(crate) fn check(plan: &LogicalPlan, state: &SessionState) -> crate::error::Result<()> {
    let plan = match plan {
        LogicalPlan::Explain(explain) => explain.plan.as_ref(),
        plan => plan,
    };
    let mut guess = Expansion { parts: 0, constant_call: CONSTANTS_BYTES_MAX / PART_BYTES };
    if guess.node(plan, 0).is_ok() {
        return Ok(());
    }
    let mut exact = Expansion { parts: 0, constant_call: 0 };
    exact.node(plan, 0)?;
    let analyzed =
        state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {})?;
    let folding = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
    let folded = folding.optimize(analyzed, state, |_, _| {})?;
    check_constants(&folded)?;
    exact.parts = 0;
    exact.node(&folded, 0)?;
    Ok(())
}

/// What was counted so far.
struct Expansion {
    parts: usize,
    /// Parts of a call of a function that reads no column.
    constant_call: usize,
}

/// An input, and what each of its columns comes to.
type Input<'a> = (&'a DFSchema, Vec<usize>);

impl Expansion {
    /// What each column of a node comes to. `outer` is the largest column that a subquery may read of what is around it.
    fn node(&mut self, plan: &LogicalPlan, outer: usize) -> Result<Vec<usize>> {
        let mut inputs: Vec<Input> = Vec::new();
        for input in plan.inputs() {
            let columns = self.node(input, outer)?;
            inputs.push((input.schema().as_ref(), columns));
        }
        let mut sizes = Vec::new();
        plan.apply_expressions(|expr| {
            let size = self.expr(expr, &inputs, outer)?;
            // A column that is only handed on is written nowhere.
            if !is_column(expr) {
                self.add(size)?;
            }
            sizes.push(size);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(columns_of(plan, inputs, sizes))
    }

    fn add(&mut self, parts: usize) -> Result<()> {
        self.parts = self.parts.saturating_add(parts);
        if self.parts <= EXPANDED_PARTS_MAX {
            return Ok(());
        }
        Err(into_datafusion(Error::Limit(format!(
            "the expressions of the statement come to more than {EXPANDED_PARTS_MAX} parts when each stands \
             where its column is named: name a computed column less often"
        ))))
    }

    fn expr(&mut self, expr: &Expr, inputs: &[Input], outer: usize) -> Result<usize> {
        Ok(self.part(expr, inputs, outer)?.0)
    }

    /// What an expression comes to, and whether it reads no column.
    fn part(&mut self, expr: &Expr, inputs: &[Input], outer: usize) -> Result<(usize, bool)> {
        let (own, mut is_constant) = match expr {
            Expr::Column(column) => (parts_of(column, inputs), false),
            Expr::OuterReferenceColumn(..) => (outer.max(1), false),
            Expr::Literal(value, _) => {
                let bytes = value.size().saturating_sub(size_of::<ScalarValue>());
                (1 + bytes / PART_BYTES, true)
            }
            Expr::ScalarSubquery(subquery) => {
                (self.subquery(&subquery.subquery, inputs, outer)?, false)
            }
            Expr::InSubquery(within) => {
                (self.subquery(&within.subquery.subquery, inputs, outer)?, false)
            }
            Expr::Exists(exists) => {
                (self.subquery(&exists.subquery.subquery, inputs, outer)?, false)
            }
            Expr::SetComparison(compared) => {
                (self.subquery(&compared.subquery.subquery, inputs, outer)?, false)
            }
            Expr::Placeholder(_) | Expr::AggregateFunction(_) | Expr::WindowFunction(_) => {
                (1, false)
            }
            _ => (1, true),
        };
        let mut size = own;
        expr.apply_children(|child| {
            let (of_child, child_is_constant) = self.part(child, inputs, outer)?;
            size = size.saturating_add(of_child);
            is_constant &= child_is_constant;
            Ok(TreeNodeRecursion::Continue)
        })?;
        if is_constant && matches!(expr, Expr::ScalarFunction(_)) {
            size = size.saturating_add(self.constant_call);
        }
        Ok((size, is_constant))
    }

    fn subquery(&mut self, plan: &LogicalPlan, inputs: &[Input], outer: usize) -> Result<usize> {
        let around = inputs.iter().flat_map(|(_, columns)| columns).copied();
        let outer = around.fold(outer, usize::max);
        let columns = self.node(plan, outer)?;
        Ok(columns.first().copied().unwrap_or_default().saturating_add(1))
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        _ => false,
    }
}

fn parts_of(column: &Column, inputs: &[Input]) -> usize {
    let found = inputs.iter().find_map(|(schema, columns)| {
        schema.maybe_index_of_column(column).and_then(|at| columns.get(at).copied())
    });
    found.unwrap_or(1)
}

/// What each column of a node comes to, when that is known of its inputs and its expressions.
fn columns_of(plan: &LogicalPlan, mut inputs: Vec<Input>, sizes: Vec<usize>) -> Vec<usize> {
    let width = plan.schema().fields().len();
    match plan {
        LogicalPlan::Projection(_) => sizes,
        LogicalPlan::Aggregate(Aggregate { group_expr, .. }) => {
            let groups = sizes.into_iter().take(group_expr.len());
            if matches!(group_expr.as_slice(), [Expr::GroupingSet(_)]) {
                return vec![groups.fold(0, usize::saturating_add); width];
            }
            groups.chain(std::iter::repeat(1)).take(width).collect()
        }
        LogicalPlan::Distinct(Distinct::On(_)) => {
            vec![sizes.into_iter().fold(0, usize::saturating_add); width]
        }
        LogicalPlan::Join(Join { join_type, .. }) => {
            let right = inputs.pop().map(|(_, columns)| columns).unwrap_or_default();
            let left = inputs.pop().map(|(_, columns)| columns).unwrap_or_default();
            let both = match join_type {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
                JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
                _ => [left, right].concat(),
            };
            both.into_iter().chain(std::iter::repeat(1)).take(width).collect()
        }
        // A condition on it is written out for each of its inputs.
        LogicalPlan::Union(_) => {
            let sum = |at: usize| {
                let all = inputs.iter().filter_map(|(_, columns)| columns.get(at).copied());
                all.fold(0, usize::saturating_add).max(1)
            };
            (0..width).map(sum).collect()
        }
        LogicalPlan::Unnest(unnest) => {
            let columns = inputs.pop().map(|(_, columns)| columns).unwrap_or_default();
            let of = |at: &usize| columns.get(*at).copied().unwrap_or(1);
            unnest.dependency_indices.iter().map(of).collect()
        }
        LogicalPlan::RecursiveQuery(_) => vec![1; width],
        _ => match inputs.as_mut_slice() {
            [(_, columns)] if columns.len() == width => std::mem::take(columns),
            inputs => {
                let fields = plan.schema().iter();
                fields.map(|field| parts_of(&Column::from(field), inputs)).collect()
            }
        },
    }
}
