//! Limits on a plan: its depth, the size of its types, and what its constants make functions do.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{
    AggregateFunction, Exists, InSubquery, ScalarFunction, SetComparison,
};
use datafusion::logical_expr::{
    BinaryExpr, Expr, LogicalPlan, Operator, Subquery, WindowFunctionDefinition,
};
use regex::RegexBuilder;

use crate::error::{Error, Result, into_datafusion};
use crate::limits::{
    CENTROIDS_MAX, CONSTANTS_BYTES_MAX, EXPRESSION_DEPTH_MAX, FIXED_SIZE_MAX, PATTERN_BYTES_MAX,
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
    check_depth_from(plan, 0)
}

/// As [`check_depth`], of what lies so deep in another.
fn check_depth_from(plan: &LogicalPlan, above: usize) -> Result<()> {
    let mut nodes = vec![(plan, above)];
    while let Some((node, depth)) = nodes.pop() {
        let mut deepest = depth;
        let mut subqueries = Vec::new();
        node.apply_expressions(|expr| {
            deepest = deepest.max(depth_of(expr, &mut subqueries)?);
            Ok(TreeNodeRecursion::Continue)
        })?;
        if deepest > EXPRESSION_DEPTH_MAX {
            return Err(Error::Limit(format!(
                "the statement nests deeper than {EXPRESSION_DEPTH_MAX} levels: \
                 write long chains of OR as IN (..), long chains of UNION as one query"
            )));
        }
        for subquery in subqueries {
            check_depth_from(&subquery, depth + 1)?;
        }
        nodes.extend(node.inputs().into_iter().map(|input| (input, depth + 1)));
    }
    Ok(())
}

/// Depth of an expression; the plans in it are put aside.
fn depth_of(
    expr: &Expr,
    subqueries: &mut Vec<Arc<LogicalPlan>>,
) -> datafusion::common::Result<usize> {
    let mut deepest = 0;
    let mut parts = vec![(expr, 1)];
    while let Some((part, depth)) = parts.pop() {
        deepest = deepest.max(depth);
        subqueries.extend(subquery_of(part).map(|found| Arc::clone(&found.subquery)));
        part.apply_children(|child| {
            parts.push((child, depth + 1));
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(deepest)
}

fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery)
        | Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::SetComparison(SetComparison { subquery, .. }) => Some(subquery),
        _ => None,
    }
}

/// Refuses calls that a constant makes costly, and those where it is no constant.
fn check_call(expr: &Expr, patterns: &mut HashSet<String>) -> Result<()> {
    match expr {
        Expr::ScalarFunction(call) if call.name().starts_with("regexp_") => {
            call.args.get(1).map_or(Ok(()), |pattern| check_pattern(pattern, patterns))
        }
        // DataFusion looks for the pattern anywhere in the text; the standard asks for all of it.
        Expr::SimilarTo(_) => Err(Error::Sql(
            "SIMILAR TO is not there: write a regular expression, ~ '^(..)$', or LIKE".to_owned(),
        )),
        Expr::BinaryExpr(BinaryExpr { op, right, .. }) if is_pattern(*op) => {
            check_pattern(right, patterns)
        }
        Expr::AggregateFunction(call) => check_centroids(call),
        Expr::Cast(cast) => check_type(cast.field.data_type()),
        Expr::TryCast(cast) => check_type(cast.field.data_type()),
        Expr::ScalarFunction(call) if is_one(call.name(), &["arrow_cast", "arrow_try_cast"]) => {
            let text = call.args.get(1).and_then(constant_text);
            // What names no type is refused by the function.
            let named = text.and_then(|text| text.parse::<DataType>().ok());
            named.as_ref().map_or(Ok(()), check_type)
        }
        Expr::WindowFunction(call) => check_window(&call.fun),
        _ => Ok(()),
    }
}

fn is_one(name: &str, of: &[&str]) -> bool {
    of.contains(&name)
}

/// A value of a fixed size has it even where it is NULL.
fn check_type(of: &DataType) -> Result<()> {
    let size = fixed_size(of);
    if size > FIXED_SIZE_MAX {
        return Err(Error::Limit(format!(
            "a value of the type {of} has {size} parts, at most {FIXED_SIZE_MAX} are taken: \
             leave out the fixed size"
        )));
    }
    Ok(())
}

/// Values and bytes that one value comes to by its type alone.
fn fixed_size(of: &DataType) -> u64 {
    let length = |length: i32| u64::try_from(length).unwrap_or_default();
    match of {
        DataType::FixedSizeBinary(bytes) => length(*bytes),
        DataType::FixedSizeList(field, values) => {
            length(*values).saturating_mul(fixed_size(field.data_type()))
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::Map(field, _) => fixed_size(field.data_type()),
        DataType::Struct(fields) => {
            fields.iter().map(|field| fixed_size(field.data_type())).fold(0, u64::saturating_add)
        }
        DataType::Union(fields, _) => fields
            .iter()
            .map(|(_, field)| fixed_size(field.data_type()))
            .fold(0, u64::saturating_add),
        DataType::Dictionary(_, value) => fixed_size(value),
        DataType::RunEndEncoded(_, values) => fixed_size(values.data_type()),
        _ => 1,
    }
}

/// A window has an answer for each row, and each of these holds all rows before it.
fn check_window(function: &WindowFunctionDefinition) -> Result<()> {
    if let WindowFunctionDefinition::AggregateUDF(function) = function
        && is_one(function.name(), &["array_agg", "string_agg"])
    {
        let name = function.name();
        return Err(Error::Limit(format!(
            "{name} makes a list for each row of a window: use it with GROUP BY"
        )));
    }
    Ok(())
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
    if known.contains(text.as_ref()) {
        return Ok(());
    }
    let built = RegexBuilder::new(&text).size_limit(PATTERN_PROGRAM_BYTES_MAX).build();
    if let Err(regex::Error::CompiledTooBig(_)) = built {
        return Err(Error::Limit(format!(
            "the regular expression '{text}' is too large: take fewer or smaller repetitions"
        )));
    }
    // What else is wrong with it is said where it is used.
    known.insert(text.into_owned());
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
    let count = count.cast_to(&DataType::UInt64);
    match count {
        Ok(ScalarValue::UInt64(Some(count))) if count > CENTROIDS_MAX => {
            let name = call.func.name();
            Err(Error::Limit(format!("{name} takes at most {CENTROIDS_MAX} centroids")))
        }
        _ => Ok(()),
    }
}

/// The text of a constant, also if it is written in pieces. NULL is none, and matches nothing at no cost.
fn constant_text(expr: &Expr) -> Option<Cow<'_, str>> {
    match expr {
        Expr::Literal(value, _) => literal_text(value),
        Expr::Cast(cast) => constant_text(&cast.expr),
        Expr::TryCast(cast) => constant_text(&cast.expr),
        Expr::Alias(alias) => constant_text(&alias.expr),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
            let (left, right) = (constant_text(left)?, constant_text(right)?);
            Some(Cow::Owned(format!("{left}{right}")))
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "concat" => {
            args.iter().map(constant_text).collect::<Option<String>>().map(Cow::Owned)
        }
        _ => None,
    }
}

fn literal_text(value: &ScalarValue) -> Option<Cow<'_, str>> {
    match value {
        ScalarValue::Dictionary(_, value) => literal_text(value),
        value if value.is_null() => Some(Cow::Borrowed("")),
        value if value.data_type().is_integer() => Some(Cow::Owned(value.to_string())),
        value => value.try_as_str().map(|text| Cow::Borrowed(text.unwrap_or_default())),
    }
}
