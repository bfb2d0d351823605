//! Cuts interval functions out of aggregates, before any other rule may move a filter or a column.
//!
//! An aggregate of interval functions alone becomes a [`WindowedAggregate`]. Other aggregates beside them stay an
//! aggregate of their own, joined on the group keys; a group that only one of the two has is kept.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, Result, ScalarValue, plan_err};
use datafusion::functions::expr_fn::coalesce;
use datafusion::logical_expr::expr::{AggregateFunction, ScalarFunction};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder, ScalarUDF, lit,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::prelude::col;

use super::fill::{Filled, fill_below, has_fill};
use super::input::{Input, Subject, TAGS, column_of, subject};
use super::node::{Argument, Call, Key, WindowedAggregate};
use crate::functions::gapfill::GAPFILL;
use crate::functions::interval::{Interval, IntervalFunction};
use crate::functions::time_bucket::TimeBucket;
use crate::relations::tags::Tags;

/// The rule. It must run when types are coerced, and before the optimizer.
#[derive(Debug)]
pub(crate) struct IntervalFunctions;

impl AnalyzerRule for IntervalFunctions {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        // From above, because a fill is written above the aggregate that it fills.
        let analyzed = plan.transform_down_with_subqueries(|node| match node {
            LogicalPlan::Projection(_) if has_fill(&node) => fill_below(node).map(Transformed::yes),
            LogicalPlan::Aggregate(aggregate) if is_ours(&aggregate) => {
                rewrite(&aggregate, &[]).map(Transformed::yes)
            }
            LogicalPlan::Window(window) => {
                check_window(&window.window_expr)?;
                Ok(Transformed::no(LogicalPlan::Window(window)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        if !analyzed.transformed {
            return Ok(analyzed.data);
        }
        let fresh = |node: LogicalPlan| node.recompute_schema().map(Transformed::yes);
        Ok(analyzed.data.transform_up_with_subqueries(fresh)?.data)
    }

    fn name(&self) -> &'static str {
        "interval_functions"
    }
}

fn is_ours(aggregate: &Aggregate) -> bool {
    has_interval(aggregate) || aggregate.group_expr.iter().any(is_gapfill)
}

/// Whether a group key is `time_bucket_gapfill`.
pub(super) fn is_gapfill(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_gapfill(&alias.expr),
        Expr::ScalarFunction(call) => call.name() == GAPFILL,
        _ => false,
    }
}

fn has_interval(aggregate: &Aggregate) -> bool {
    aggregate.aggr_expr.iter().any(|expr| interval_of(expr).is_some())
}

/// The interval function that an aggregate expression is.
fn interval_of(expr: &Expr) -> Option<(IntervalFunction, &AggregateFunction)> {
    match expr {
        Expr::Alias(alias) => interval_of(&alias.expr),
        Expr::AggregateFunction(call) => {
            let interval = call.func.inner().as_ref() as &dyn std::any::Any;
            Some((function_of(interval)?, call))
        }
        _ => None,
    }
}

fn function_of(implementation: &dyn std::any::Any) -> Option<IntervalFunction> {
    implementation.downcast_ref::<Interval>().map(|interval| interval.function)
}

/// Refuses interval functions with OVER.
fn check_window(exprs: &[Expr]) -> Result<()> {
    use datafusion::logical_expr::WindowFunctionDefinition::AggregateUDF;
    for expr in exprs {
        expr.apply(|part| {
            if let Expr::WindowFunction(call) = part
                && let AggregateUDF(function) = &call.fun
                && let Some(found) = function_of(function.inner().as_ref() as &dyn std::any::Any)
            {
                return plan_err!(
                    "{} is no window function: compute it with GROUP BY in a subquery, and use OVER on its result",
                    found.name()
                );
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(())
}

/// Puts what stands for it in the place of an aggregate. Columns of `fills` come after those that it has.
pub(super) fn rewrite(aggregate: &Aggregate, fills: &[Filled]) -> Result<LogicalPlan> {
    let found: Vec<_> = aggregate.aggr_expr.iter().map(interval_of).collect();
    let name = found.iter().flatten().next().map_or(GAPFILL, |(first, _)| first.name());
    if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return plan_err!(
            "{name} takes no GROUPING SETS, ROLLUP or CUBE: write one SELECT for each grouping and unite them with UNION ALL"
        );
    }
    let input = Input::of(&aggregate.input, name)?;
    let mut calls = Vec::new();
    for (function, call) in found.iter().flatten() {
        calls.push(call_of(*function, call, &input)?);
    }
    for fill in fills {
        check_filled(fill, aggregate, &input)?;
        calls.push(fill.call.clone());
    }
    let grouping = Grouping::of(&aggregate.group_expr, &input, name)?;
    let tags = provider_as_source(Arc::new(Tags::new(input.scope.clone())));
    let mut selected = LogicalPlanBuilder::scan(TAGS, tags, None)?;
    if let Some(filter) = conjunction(input.tags) {
        selected = selected.filter(filter)?;
    }
    let names = (0..).map(|at| format!("key_{at}"));
    let keys = grouping.of_tag.into_iter().zip(names).map(|(key, name)| key.alias(name));
    let number = std::iter::once(col(Column::new(Some(TAGS), "tag_id")));
    let selected = selected.project(number.chain(keys).collect::<Vec<_>>())?.build()?;
    let places = Places::of(aggregate, &found, fills);
    let is_alone = fills.is_empty() && found.iter().all(Option::is_some);
    let schema = if is_alone {
        Arc::clone(&aggregate.schema)
    } else {
        Arc::new(places.windowed_schema(aggregate)?)
    };
    let node = WindowedAggregate {
        scope: input.scope,
        input: selected,
        keys: grouping.keys,
        bucket: grouping.bucket,
        is_gapfill: aggregate.group_expr.iter().any(is_gapfill),
        sampled_only: false,
        calls,
        times: input.times,
        schema,
    };
    let windowed = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    if is_alone { Ok(windowed) } else { places.join(windowed, aggregate) }
}

/// Refuses to fill what is not a value.
fn check_filled(fill: &Filled, aggregate: &Aggregate, input: &Input) -> Result<()> {
    const OF_VALUES: [&str; 9] =
        ["avg", "min", "max", "first", "last", "median", "first_value", "last_value", "time_avg"];
    let mut expr = aggregate.aggr_expr.get(fill.of);
    while let Some(Expr::Alias(alias)) = expr {
        expr = Some(&alias.expr);
    }
    if let Some(Expr::AggregateFunction(call)) = expr
        && OF_VALUES.contains(&call.func.name())
        && call.params.filter.is_none()
        && let Some(first) = call.params.args.first()
        && column_of(&input.resolve(first.clone())?) == Some("value")
    {
        return Ok(());
    }
    plan_err!(
        "{} fills in values of a tag: it takes avg, min, max, first, last, median or time_avg of value; for others write coalesce(.., 0)",
        fill.call.function.name()
    )
}

/// The group keys.
struct Grouping {
    keys: Vec<Key>,
    /// Keys over columns of `tags`.
    of_tag: Vec<Expr>,
    /// Arguments of `time_bucket` but the timestamp.
    bucket: Option<Vec<Expr>>,
}

impl Grouping {
    fn of(group: &[Expr], input: &Input, name: &str) -> Result<Self> {
        let mut grouping = Self { keys: Vec::new(), of_tag: Vec::new(), bucket: None };
        for expr in group {
            let key = input.resolve(expr.clone().unalias())?;
            if subject(&key) == Subject::Tag {
                grouping.of_tag.push(key);
                grouping.keys.push(Key::Tag(grouping.of_tag.len()));
                continue;
            }
            let Some(bucket) = bucket_of(&key) else {
                return plan_err!(
                    "{name} groups by the tag, its attributes and time_bucket(..), not by {expr}: compute that from the result in an outer SELECT"
                );
            };
            if grouping.bucket.as_ref().is_some_and(|known| *known != bucket) {
                return plan_err!(
                    "{name} groups by one time_bucket: group by the finer one, the other is a time_bucket of it in an outer SELECT"
                );
            }
            grouping.bucket = Some(bucket);
            grouping.keys.push(Key::Bucket);
        }
        Ok(grouping)
    }
}

/// The constant arguments, if an expression is the bucket of a sample's time.
fn bucket_of(key: &Expr) -> Option<Vec<Expr>> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = key else { return None };
    let [width, time, rest @ ..] = args.as_slice() else { return None };
    let constants: Vec<Expr> = std::iter::once(width).chain(rest).cloned().collect();
    let is_bucket = ["time_bucket", GAPFILL].contains(&func.name())
        && column_of(time) == Some("ts")
        && constants.iter().all(|constant| constant.column_refs().is_empty());
    is_bucket.then_some(constants)
}

fn call_of(function: IntervalFunction, call: &AggregateFunction, input: &Input) -> Result<Call> {
    use IntervalFunction::{DurationInState, Increase, LargestGap, PercentGood, Transitions};
    let (name, params) = (function.name(), &call.params);
    if params.distinct {
        return plan_err!("{name} takes no DISTINCT: it weighs by time, so no sample counts twice");
    }
    if params.filter.is_some() {
        return plan_err!(
            "{name} takes no FILTER: write one subquery for each filter on tag and ts, and join them"
        );
    }
    if !params.order_by.is_empty() || params.null_treatment.is_some() {
        return plan_err!(
            "{name} takes no ORDER BY and no IGNORE NULLS: samples are in order of time"
        );
    }
    let Some(first) = params.args.first() else {
        return plan_err!("write {}", function.usage());
    };
    let first = input.resolve(first.clone())?;
    let argument = match (function, column_of(&first)) {
        (LargestGap, Some("ts")) => Argument::Ts,
        (_, Some("value")) if function != LargestGap => Argument::Value,
        (_, Some("value_int")) if function != LargestGap => Argument::ValueInt,
        (DurationInState | Transitions | PercentGood, Some("value_text")) => Argument::ValueText,
        _ => {
            let columns = match function {
                LargestGap => "ts",
                DurationInState | PercentGood | Transitions => "value, value_int or value_text",
                _ => "value or value_int",
            };
            let hint = if function == Increase { "" } else { ", and calculate with its result" };
            return plan_err!(
                "{name} takes the plain column {columns}{hint}: {}",
                function.usage()
            );
        }
    };
    let constant = params.args.get(1).cloned();
    if constant.as_ref().is_some_and(|constant| !constant.column_refs().is_empty()) {
        return plan_err!("{name}: the second argument must be constant: {}", function.usage());
    }
    Ok(Call { function, argument, constant })
}

/// Where columns of the two sides of a join are found again.
struct Places {
    keys: usize,
    /// For each aggregate, whether it is an interval function.
    is_interval: Vec<bool>,
    /// For each fill its name, and the aggregate that it fills.
    fills: Vec<(String, usize)>,
}

impl Places {
    fn of<T>(aggregate: &Aggregate, found: &[Option<T>], fills: &[Filled]) -> Self {
        let is_interval = found.iter().map(Option::is_some).collect();
        let fills = fills.iter().map(|fill| (fill.name.clone(), fill.of)).collect();
        Self { keys: aggregate.group_expr.len(), is_interval, fills }
    }

    /// Keys, then interval functions, then fills, under names that nothing else has.
    fn windowed_schema(&self, aggregate: &Aggregate) -> Result<DFSchema> {
        let is_interval = std::iter::repeat_n(&true, self.keys).chain(&self.is_interval);
        let fields = aggregate.schema.fields().iter().zip(is_interval);
        let fields = fields.filter(|(_, is_interval)| **is_interval);
        let fields = fields.map(|(field, _)| field.as_ref().clone());
        let fills = self.fills.iter().map(|(name, _)| Field::new(name, DataType::Float64, true));
        let named = fields.chain(fills).enumerate();
        let named = named.map(|(at, field)| field.with_name(format!("windowed_{at}")));
        let metadata = aggregate.schema.metadata().clone();
        DFSchema::from_unqualified_fields(named.collect(), metadata)
    }

    /// The ordinary aggregates beside the interval functions, in the columns of the aggregate that had both.
    fn join(&self, windowed: LogicalPlan, aggregate: &Aggregate) -> Result<LogicalPlan> {
        let others = aggregate.aggr_expr.iter().zip(&self.is_interval);
        let others: Vec<Expr> =
            others.filter(|(_, interval)| !**interval).map(|(expr, _)| expr.clone()).collect();
        let both = if others.is_empty() {
            windowed
        } else {
            self.beside(windowed, aggregate, others.clone())?
        };
        let column =
            |side: &str, at: usize| Expr::Column(Column::new_unqualified(format!("{side}_{at}")));
        let has_plain = !others.is_empty();
        let key = |at| {
            let windowed = column("windowed", at);
            if has_plain { coalesce(vec![windowed, column("plain", at)]) } else { windowed }
        };
        let mut shown: Vec<Expr> = (0..self.keys).map(key).collect();
        let (mut interval, mut other) = (self.keys, self.keys);
        for is_interval in &self.is_interval {
            if *is_interval {
                shown.push(column("windowed", interval));
                interval += 1;
            } else {
                let empty = empty_of(&others[other - self.keys], aggregate.input.schema())?;
                let value = column("plain", other);
                // A group without samples counts 0, not null.
                shown.push(if empty.is_null() { value } else { coalesce(vec![value, lit(empty)]) });
                other += 1;
            }
        }
        let fills: Vec<Expr> = (interval..)
            .zip(&self.fills)
            .map(|(at, (name, of))| {
                coalesce(vec![shown[self.keys + of].clone(), column("windowed", at)]).alias(name)
            })
            .collect();
        let named = shown.into_iter().zip(aggregate.schema.iter());
        let named = named.map(|(expr, (qualifier, field))| {
            expr.alias_qualified(qualifier.cloned(), field.name())
        });
        let named: Vec<Expr> = named.chain(fills).collect();
        LogicalPlanBuilder::from(both).project(named)?.build()
    }

    /// Interval functions and ordinary aggregates, joined on the keys.
    fn beside(
        &self,
        windowed: LogicalPlan,
        aggregate: &Aggregate,
        others: Vec<Expr>,
    ) -> Result<LogicalPlan> {
        let keys = aggregate.group_expr.iter().map(plain_key).collect::<Result<Vec<_>>>()?;
        let plain = LogicalPlanBuilder::from(aggregate.input.as_ref().clone())
            .aggregate(keys, others)?
            .build()?;
        let columns = plain.schema().columns().into_iter().enumerate();
        let renamed = columns.map(|(at, column)| Expr::Column(column).alias(format!("plain_{at}")));
        let renamed: Vec<Expr> = renamed.collect();
        let plain = LogicalPlanBuilder::from(plain).project(renamed)?.build()?;
        if self.keys == 0 {
            return LogicalPlanBuilder::from(windowed).cross_join(plain)?.build();
        }
        let keys = |side| -> Vec<Column> {
            (0..self.keys).map(|at| Column::new_unqualified(format!("{side}_{at}"))).collect()
        };
        LogicalPlanBuilder::from(windowed)
            .join_detailed(
                plain,
                JoinType::Full,
                (keys("windowed"), keys("plain")),
                None,
                NullEquality::NullEqualsNull,
            )?
            .build()
    }
}

/// A group key as an ordinary aggregate takes it.
fn plain_key(key: &Expr) -> Result<Expr> {
    let plain = key.clone().transform(|part| {
        let Expr::ScalarFunction(ScalarFunction { func, args }) = part else {
            return Ok(Transformed::no(part));
        };
        if func.name() != GAPFILL {
            return Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })));
        }
        let func = Arc::new(ScalarUDF::from(TimeBucket::default()));
        Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })))
    })?;
    Ok(plain.data)
}

/// What an aggregate gives for no rows.
fn empty_of(expr: &Expr, schema: &DFSchema) -> Result<ScalarValue> {
    match expr {
        Expr::Alias(alias) => empty_of(&alias.expr, schema),
        Expr::AggregateFunction(call) => call.func.default_value(&expr.get_type(schema)?),
        _ => Ok(ScalarValue::Null),
    }
}
