//! Syntax that stands for a function, as the function that [`functions`](super::functions) bounds.
//!
//! `{a: 1}`, `(a, b)`, `MAP {a: b}`, `list || list`, `a <@ b` and `OVERLAY(..)` are calls of functions for which DataFusion does
//! not ask the registry.

use std::sync::Arc;

use datafusion::common::{DFSchema, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawBinaryExpr, RawDictionaryExpr,
};

use super::functions::capped;

/// Puts bounded functions in place of those that the state's planners would take.
pub(crate) fn bound(state: SessionState) -> SessionState {
    let others = state.expr_planners().to_vec();
    let first: Arc<dyn ExprPlanner> = Arc::new(CappedLiterals { others: others.clone() });
    let planners = std::iter::once(first).chain(others).collect();
    SessionStateBuilder::new_from_existing(state).with_expr_planners(planners).build()
}

/// Asks the other planners first, and takes the bounded function for what they say.
#[derive(Debug)]
struct CappedLiterals {
    others: Vec<Arc<dyn ExprPlanner>>,
}

impl CappedLiterals {
    fn ask<T>(
        &self,
        mut raw: T,
        plan: impl Fn(&dyn ExprPlanner, T) -> Result<PlannerResult<T>>,
    ) -> Result<PlannerResult<T>> {
        for planner in &self.others {
            match plan(planner.as_ref(), raw)? {
                PlannerResult::Planned(Expr::ScalarFunction(call)) => {
                    let call = ScalarFunction::new_udf(capped(call.func), call.args);
                    return Ok(PlannerResult::Planned(Expr::ScalarFunction(call)));
                }
                PlannerResult::Planned(planned) => return Ok(PlannerResult::Planned(planned)),
                PlannerResult::Original(back) => raw = back,
            }
        }
        Ok(PlannerResult::Original(raw))
    }
}

impl ExprPlanner for CappedLiterals {
    fn plan_binary_op(
        &self,
        raw: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        self.ask(raw, |planner, raw| planner.plan_binary_op(raw, schema))
    }

    fn plan_dictionary_literal(
        &self,
        raw: RawDictionaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        self.ask(raw, |planner, raw| planner.plan_dictionary_literal(raw, schema))
    }

    fn plan_struct_literal(
        &self,
        args: Vec<Expr>,
        is_named: bool,
    ) -> Result<PlannerResult<Vec<Expr>>> {
        self.ask(args, |planner, args| planner.plan_struct_literal(args, is_named))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        self.ask(args, |planner, args| planner.plan_overlay(args))
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        self.ask(args, |planner, args| planner.plan_make_map(args))
    }
}
