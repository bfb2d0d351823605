//! Limits on a plan: its depth, and what its constants make functions do.

use std::collections::HashSet;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use regex::RegexBuilder;

use crate::error::{Error, Result, into_datafusion};
use crate::limits::{
    CENTROIDS_MAX, CONSTANTS_BYTES_MAX, EXPRESSION_DEPTH_MAX, PATTERN_BYTES_MAX,
    PATTERN_PROGRAM_BYTES_MAX,
};

/// Checks a plan whose parameters have their values.
pub(crate) fn check(plan: &LogicalPlan) -> Result<()> {
    check_depth(plan)?;
    let mut patterns = HashSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                check_call(part, &mut patterns).map_err(into_datafusion)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

/// Checks the constants of a plan that was optimized: `repeat('x', 1000000) || ..` is one by now, and would be written out
/// for every row.
pub(crate) fn check_constants(plan: &LogicalPlan) -> Result<()> {
    let mut bytes = 0;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::Literal(value, _) = part {
                    bytes += value.size().saturating_sub(size_of::<ScalarValue>());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if bytes > CONSTANTS_BYTES_MAX {
        return Err(Error::Limit(format!(
            "the constants of the statement come to {bytes} bytes, at most {CONSTANTS_BYTES_MAX} are taken"
        )));
    }
    Ok(())
}

/// Refuses a plan whose evaluation would need too deep a stack.
pub(crate) fn check_depth(plan: &LogicalPlan) -> Result<()> {
    let too_deep = || {
        Error::Limit(format!(
            "the statement nests deeper than {EXPRESSION_DEPTH_MAX} levels: \
             write long chains of OR as IN (..), long chains of UNION as one query"
        ))
    };
    let mut nodes = vec![(plan, 0_usize)];
    while let Some((node, depth)) = nodes.pop() {
        if depth > EXPRESSION_DEPTH_MAX {
            return Err(too_deep());
        }
        nodes.extend(node.inputs().into_iter().map(|input| (input, depth + 1)));
    }
    let mut deep = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            deep |= depth_of(expr)? > EXPRESSION_DEPTH_MAX;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if deep { Err(too_deep()) } else { Ok(()) }
}

fn depth_of(expr: &Expr) -> datafusion::common::Result<usize> {
    let mut deepest = 0;
    let mut parts = vec![(expr, 1)];
    while let Some((part, depth)) = parts.pop() {
        deepest = deepest.max(depth);
        part.apply_children(|child| {
            parts.push((child, depth + 1));
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(deepest)
}

/// Refuses calls that a constant makes costly, and those where it is no constant.
fn check_call(expr: &Expr, patterns: &mut HashSet<String>) -> Result<()> {
    match expr {
        Expr::ScalarFunction(call) if call.name().starts_with("regexp_") => {
            call.args.get(1).map_or(Ok(()), |pattern| check_pattern(pattern, patterns))
        }
        Expr::SimilarTo(like) => check_pattern(&like.pattern, patterns),
        Expr::BinaryExpr(BinaryExpr { op, right, .. }) if is_pattern(*op) => {
            check_pattern(right, patterns)
        }
        Expr::AggregateFunction(call) => check_centroids(call),
        _ => Ok(()),
    }
}

fn is_pattern(op: Operator) -> bool {
    use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    matches!(op, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch)
}

/// A pattern is compiled once and to something small. One that comes from rows would be compiled for each.
fn check_pattern(pattern: &Expr, known: &mut HashSet<String>) -> Result<()> {
    let Some(text) = constant_text(pattern) else {
        let text = "a regular expression must be a constant or a parameter, not something of a row";
        return Err(Error::Limit(text.to_owned()));
    };
    if text.len() > PATTERN_BYTES_MAX {
        return Err(Error::Limit(format!(
            "a regular expression has at most {PATTERN_BYTES_MAX} bytes: this one has {}",
            text.len()
        )));
    }
    if known.contains(text) {
        return Ok(());
    }
    let built = RegexBuilder::new(text).size_limit(PATTERN_PROGRAM_BYTES_MAX).build();
    if let Err(regex::Error::CompiledTooBig(_)) = built {
        return Err(Error::Limit(format!(
            "the regular expression '{text}' is too large: take fewer or smaller repetitions"
        )));
    }
    // What else is wrong with it is said where it is used.
    known.insert(text.to_owned());
    Ok(())
}

/// Memory of these functions grows with a constant of theirs.
fn check_centroids(call: &AggregateFunction) -> Result<()> {
    let at = match call.func.name() {
        "approx_percentile_cont" => 2,
        "approx_percentile_cont_with_weight" => 3,
        _ => return Ok(()),
    };
    let Some(Expr::Literal(count, _)) = call.params.args.get(at) else { return Ok(()) };
    let count = count.cast_to(&datafusion::arrow::datatypes::DataType::UInt64);
    match count {
        Ok(ScalarValue::UInt64(Some(count))) if count > CENTROIDS_MAX => {
            let name = call.func.name();
            Err(Error::Limit(format!("{name} takes at most {CENTROIDS_MAX} centroids")))
        }
        _ => Ok(()),
    }
}

/// The text of a constant. NULL is none, and matches nothing at no cost.
fn constant_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => match value {
            ScalarValue::Dictionary(_, value) => value.try_as_str().map(Option::unwrap_or_default),
            value if value.is_null() => Some(""),
            value => value.try_as_str().map(Option::unwrap_or_default),
        },
        Expr::Cast(cast) => constant_text(&cast.expr),
        Expr::TryCast(cast) => constant_text(&cast.expr),
        Expr::Alias(alias) => constant_text(&alias.expr),
        _ => None,
    }
}
