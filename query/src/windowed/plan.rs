//! From the node to its execution: when constants are known, the statement's `now()` among them.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    Expr, LogicalPlan, TableProviderFilterPushDown, UserDefinedLogicalNode,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use tagmill_storage::{Needs, OnDamage, SECOND_NS, TagSelection, TimeRange};

use super::axis::Axis;
use super::exec::WindowedAggregateExec;
use super::node::{Argument, Call, WindowedAggregate};
use super::output::{Output, Wanted};
use super::read::{Detail, Reading, Target};
use crate::beyond_raw::Bounds;
use crate::functions::interval::IntervalFunction;
use crate::functions::time_bucket::{buckets_of, parts_of};
use crate::pushdown;
use crate::relations::samples::announce;
use crate::relations::utc_time;

/// Plans [`WindowedAggregate`].
#[derive(Debug)]
pub(crate) struct WindowedPlanner;

#[async_trait]
impl ExtensionPlanner for WindowedPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<WindowedAggregate>() else {
            return Ok(None);
        };
        let [input] = inputs else { return internal_err!("WindowedAggregate has one input") };
        let constants = Constants::new(session)?;
        let range = constants.range_of(&node.times, node.name_of_first())?;
        let (open_start, open_end) =
            (range.start_ns == TimeRange::ALL.start_ns, range.end_ns == TimeRange::ALL.end_ns);
        if node.is_gapfill && (open_start || open_end) {
            let missing = if open_start { "start" } else { "end" };
            return plan_err!(
                "time_bucket_gapfill needs both ends of the range, and the {missing} is missing: add ts >= .. AND ts < .. to WHERE"
            );
        }
        let buckets = match &node.bucket {
            None => None,
            Some(arguments) => {
                let known: Result<Vec<_>> =
                    arguments.iter().map(|argument| constants.literal(argument)).collect();
                Some(buckets_of(&known?)?)
            }
        };
        let start_ns = Some(range.start_ns).filter(|_| !open_start);
        let axis = Axis::new(buckets, start_ns, range.end_ns.min(constants.now_ns));
        let mut targets = Vec::new();
        let wanted: Result<Vec<_>> =
            node.calls.iter().map(|call| constants.wanted(call, &mut targets)).collect();
        let damage = node.scope.settings.damaged();
        if damage == OnDamage::Skip {
            // What is carried in may come from any time before.
            announce(&node.scope, &TagSelection::All, TimeRange::ALL);
        }
        let tags = node.scope.snapshot.registry().iter().map(|tag| tag.id);
        Bounds::of(&node.scope).check(&node.scope.snapshot, tags, axis.range())?;
        let reading = Reading {
            snapshot: node.scope.snapshot.clone(),
            axis: Arc::new(axis),
            detail: detail_of(&node.calls),
            targets: targets.into(),
            sampled_only: node.sampled_only,
            tiers: node.scope.settings.tiers().of_rollups(),
            damage,
        };
        let schema = Arc::clone(node.schema.inner());
        let output = Output::new(schema, node.keys.clone(), wanted?);
        let partitions = session.config().target_partitions();
        let plan = WindowedAggregateExec::new(Arc::clone(input), reading, output, partitions);
        Ok(Some(Arc::new(plan)))
    }
}

impl WindowedAggregate {
    fn name_of_first(&self) -> &'static str {
        self.calls.first().map_or("time_bucket_gapfill", |call| call.function.name())
    }
}

/// How much must be known of samples.
fn detail_of(calls: &[Call]) -> Detail {
    use IntervalFunction::{DurationInState, Increase, Rate, Transitions};
    let is_in_none = |call: &Call| match call.function {
        DurationInState => true,
        Transitions => call.argument == Argument::ValueText,
        _ => false,
    };
    let rises = |call: &Call| matches!(call.function, Increase | Rate);
    let changes = |call: &Call| call.function == Transitions;
    if calls.iter().any(is_in_none) {
        Detail::Samples
    } else if calls.iter().any(rises) {
        Detail::Rollups(Needs::Interval)
    } else if calls.iter().any(changes) {
        Detail::Rollups(Needs::Changes)
    } else {
        Detail::Rollups(Needs::Weighted)
    }
}

/// What makes constants of expressions.
struct Constants {
    simplifier: ExprSimplifier,
    now_ns: i64,
}

impl Constants {
    fn new(session: &dyn Session) -> Result<Self> {
        let started = session.execution_props().query_execution_start_time;
        let Some(now_ns) = started.and_then(|started| started.timestamp_nanos_opt()) else {
            return internal_err!("a statement has a start");
        };
        let ts = Fields::from(vec![Field::new("ts", utc_time(), false)]);
        let schema = DFSchema::from_unqualified_fields(ts, HashMap::new())?;
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema))
            .with_config_options(Arc::new(session.config_options().clone()))
            .with_query_execution_start_time(started)
            .build();
        Ok(Self { simplifier: ExprSimplifier::new(context), now_ns })
    }

    /// The times for which all filters hold.
    fn range_of(&self, filters: &[Expr], name: &str) -> Result<TimeRange> {
        let mut range = TimeRange::ALL;
        for filter in filters {
            let simple = self.simplifier.simplify(filter.clone())?;
            for part in split_conjunction_owned(simple) {
                match &part {
                    Expr::Literal(ScalarValue::Boolean(Some(true)), _) => {}
                    Expr::Literal(ScalarValue::Boolean(_) | ScalarValue::Null, _) => {
                        range = TimeRange::new(0, 0);
                    }
                    _ if pushdown::support(&part) == TableProviderFilterPushDown::Exact => {
                        range = range.intersect(&pushdown::push(&[part]).range);
                    }
                    _ => {
                        return plan_err!(
                            "{name} takes one range of ts with constant bounds, such as ts >= '2026-03-01' AND ts < now(): not {part}"
                        );
                    }
                }
            }
        }
        Ok(range)
    }

    fn literal(&self, expr: &Expr) -> Result<ScalarValue> {
        match self.simplifier.simplify(expr.clone())? {
            Expr::Literal(value, _) => Ok(value),
            other => plan_err!("{other} is not constant"),
        }
    }

    fn wanted(&self, call: &Call, targets: &mut Vec<Target>) -> Result<Wanted> {
        let Call { function, argument, constant } = call;
        let is_fill = matches!(function, IntervalFunction::Locf | IntervalFunction::Interpolate);
        let per_ns = if is_fill { f64::INFINITY } else { SECOND_NS as f64 };
        let mut wanted = Wanted { function: *function, argument: *argument, per_ns, state: 0 };
        let Some(constant) = constant else { return Ok(wanted) };
        let value = self.literal(constant)?;
        if *function == IntervalFunction::DurationInState {
            let target = target_of(*argument, &value)?;
            wanted.state = targets.iter().position(|known| *known == target).unwrap_or_else(|| {
                targets.push(target);
                targets.len() - 1
            });
        } else {
            wanted.per_ns = per_of(function.name(), &value)?;
        }
        Ok(wanted)
    }
}

/// The state that a constant names.
fn target_of(argument: Argument, value: &ScalarValue) -> Result<Target> {
    let number = |data_type: &DataType| {
        let fits = value.data_type().is_numeric() || value.data_type() == DataType::Boolean;
        fits.then(|| value.cast_to(data_type).ok()).flatten()
    };
    let target = match argument {
        Argument::ValueText => value.try_as_str().flatten().map(|text| Target::Text(text.into())),
        Argument::ValueInt => match number(&DataType::Int64) {
            Some(ScalarValue::Int64(Some(whole))) if same(value, whole as f64) => {
                Some(Target::Whole(whole))
            }
            _ => None,
        },
        _ => match number(&DataType::Float64) {
            Some(ScalarValue::Float64(Some(number))) => Some(Target::Number(number)),
            _ => None,
        },
    };
    let Some(target) = target else {
        return plan_err!(
            "duration_in_state: {value} is no state of that column: write duration_in_state(value_text, 'RUN'), or a number with value or value_int"
        );
    };
    Ok(target)
}

/// Whether a constant was a whole number before it was cast to one.
#[expect(clippy::float_cmp, reason = "whether the cast lost anything is the question")]
fn same(value: &ScalarValue, whole: f64) -> bool {
    match value {
        ScalarValue::Float64(Some(number)) => *number == whole,
        ScalarValue::Float32(Some(number)) => f64::from(*number) == whole,
        _ => true,
    }
}

/// Nanoseconds of the width that a rate or an integral is given per.
fn per_of(name: &str, value: &ScalarValue) -> Result<f64> {
    let text = match value.try_as_str().flatten() {
        Some(text) => ScalarValue::Utf8(Some(text.to_owned())),
        None if matches!(value.data_type(), DataType::Interval(_)) => value.cast_to(
            &DataType::Interval(datafusion::arrow::datatypes::IntervalUnit::MonthDayNano),
        )?,
        None => value.clone(),
    };
    match parts_of(&text) {
        Ok((0, nanos)) if nanos > 0 => Ok(nanos as f64),
        Ok((0, _)) => plan_err!("{name}: the width must be above zero"),
        Ok(_) => {
            plan_err!("{name}: months have no fixed length: write '30 days' or a shorter width")
        }
        Err(why) => plan_err!("{name}: {why}"),
    }
}
