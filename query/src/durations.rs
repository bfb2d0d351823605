//! Makes a duration compare with an interval by length.
//!
//! The difference of two timestamps, `latest.age` and `tags.max_gap` are durations, `INTERVAL '1 day'` is not: it has
//! months, days and nanoseconds apart. Left alone, DataFusion turns the duration into an interval and compares part by
//! part, so that a year of nanoseconds is less than one day. This rule turns the constant interval into a duration
//! instead, a day being 24 hours, and refuses months, which have no length.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::Between;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;
use tagmill_storage::DAY_NS;

/// The rule. It must run before types are coerced.
#[derive(Debug)]
pub(crate) struct DurationsByLength;

impl AnalyzerRule for DurationsByLength {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|node| {
            let mut schema = merge_schema(&node.inputs());
            if let LogicalPlan::TableScan(scan) = &node {
                let table = DFSchema::try_from_qualified_schema(
                    scan.table_name.clone(),
                    &scan.source.schema(),
                )?;
                schema.merge(&table);
            }
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|part| rewrite(part, &schema))?;
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(analyzed.data)
    }

    fn name(&self) -> &'static str {
        "durations_by_length"
    }
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_duration = |expr: &Expr| matches!(expr.get_type(schema), Ok(DataType::Duration(_)));
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let (left_fits, right_fits) = (is_duration(&right), is_duration(&left));
            let left = if left_fits { Box::new(by_length(*left)?) } else { left };
            let right = if right_fits { Box::new(by_length(*right)?) } else { right };
            let changed = left_fits || right_fits;
            let expr = Expr::BinaryExpr(BinaryExpr { left, op, right });
            Ok(Transformed::new_transformed(expr, changed))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_duration(&expr) => {
            let (low, high) = (Box::new(by_length(*low)?), Box::new(by_length(*high)?));
            Ok(Transformed::yes(Expr::Between(Between { expr, negated, low, high })))
        }
        other => Ok(Transformed::no(other)),
    }
}

const fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// A constant interval as a duration; anything else as it is.
fn by_length(expr: Expr) -> Result<Expr> {
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), metadata) = expr else {
        return Ok(expr);
    };
    let days = i64::from(interval.days).checked_mul(DAY_NS);
    let nanos = days.and_then(|days| days.checked_add(interval.nanoseconds));
    match nanos {
        Some(nanos) if interval.months == 0 => {
            Ok(Expr::Literal(ScalarValue::DurationNanosecond(Some(nanos)), metadata))
        }
        _ => plan_err!("a duration compares with days and shorter units: months have no length"),
    }
}
