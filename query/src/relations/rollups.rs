//! `rollup_1m`, `rollup_15m`, `rollup_1h`, `rollup_1d`: what is known of each window of each tag, one row each.
//!
//! # Contract
//! * Each is the `time_bucket` query over `samples`, as a view: equal to it at every moment, and served as it is.
//! * There is a row for every window with samples. Beside it stands what interval functions say of the same window, as a
//!   whole, whatever a statement filters: a window ends early only if it is not over.
//! * Columns that a statement does not name are not computed: without any of interval functions the scan is the
//!   aggregate alone.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DFSchema, JoinType, Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::{avg, count, max, min, sum};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprFunctionExt, Extension, LogicalPlan, LogicalPlanBuilder, ScalarUDF,
    TableProviderFilterPushDown, TableType, col, lit,
};
use datafusion::physical_plan::ExecutionPlan;
use tagmill_storage::{DAY_NS, SECOND_NS, TimeRange};

use super::samples::Samples;
use super::tags::Tags;
use super::{Scope, UTC, utc_time};
use crate::functions::extreme::{Extreme, Pick};
use crate::functions::interval::IntervalFunction;
use crate::functions::quality::{QualityFunction, QualityText};
use crate::functions::time_bucket::TimeBucket;
use crate::pushdown;
use crate::windowed::node::{Argument, Call, Key, WindowedAggregate};

/// Names, and widths of the windows.
pub(crate) const ROLLUPS: [(&str, i64); 4] = [
    ("rollup_15m", 900 * SECOND_NS),
    ("rollup_1d", DAY_NS),
    ("rollup_1h", 3_600 * SECOND_NS),
    ("rollup_1m", 60 * SECOND_NS),
];

/// Columns of interval functions, the last ones.
const INTERVALS: [(&str, IntervalFunction); 3] = [
    ("time_avg", IntervalFunction::TimeAvg),
    ("integral", IntervalFunction::Integral),
    ("percent_good", IntervalFunction::PercentGood),
];

/// The relation of one statement, if there is one of this name.
pub(crate) fn rollup(name: &str, scope: &Scope) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((_, width_ns)) = ROLLUPS.iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    let scope = scope.clone();
    let mut rollups = Rollups { scope, width_ns: *width_ns, schema: Arc::new(Schema::empty()) };
    rollups.schema = Arc::clone(rollups.plan(&[], true)?.schema().inner());
    Ok(Some(Arc::new(rollups)))
}

/// See the module.
#[derive(Debug)]
struct Rollups {
    scope: Scope,
    width_ns: i64,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for Rollups {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // They become part of a plan, as any other filter.
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let wanted: Vec<&str> = projection
            .unwrap_or(&all)
            .iter()
            .map(|at| self.schema.field(*at).name().as_str())
            .collect();
        let is_interval = |name: &str| INTERVALS.iter().any(|(known, _)| *known == name);
        let filtered = filters.iter().flat_map(|filter| filter.column_refs());
        let needs_intervals = wanted.iter().any(|name| is_interval(name))
            || filtered.into_iter().any(|column| is_interval(&column.name));
        let mut plan = LogicalPlanBuilder::from(self.plan(filters, needs_intervals)?);
        let rest = filters.iter().filter(|filter| !is_bound(filter)).cloned();
        if let Some(filter) = conjunction(rest) {
            plan = plan.filter(filter)?;
        }
        let plan = plan.project(wanted.into_iter().map(unqualified))?.limit(0, limit)?.build()?;
        session.create_physical_plan(&plan).await
    }
}

impl Rollups {
    /// The rows of windows within the filters' bounds of time, all columns unqualified. Where that is not needed interval
    /// functions are left out.
    fn plan(&self, filters: &[Expr], needs_intervals: bool) -> Result<LogicalPlan> {
        let samples = provider_as_source(Arc::new(Samples::new(self.scope.clone())));
        let width = ScalarValue::Utf8(Some(format!("{} minutes", self.width_ns / 60 / SECOND_NS)));
        let start = ScalarUDF::from(TimeBucket::default()).call(vec![lit(width), col("ts")]);
        let groups = vec![col("tag_id"), col("tag"), start.alias("start")];
        let mut plain = LogicalPlanBuilder::scan("samples", samples, None)?;
        // A window begins within such bounds just if its samples lie within these.
        if let Some(filter) = conjunction(self.times(filters)) {
            plain = plain.filter(filter)?;
        }
        let plain = plain.aggregate(groups, aggregates()?)?.build()?;
        let shown = plain.schema().columns().into_iter().map(|column| {
            let name = if column.name() == "start" { "ts" } else { column.name() }.to_owned();
            Expr::Column(column).alias(name)
        });
        let shown = shown.collect::<Vec<_>>();
        let plain = LogicalPlanBuilder::from(plain).project(shown)?;
        if !needs_intervals {
            return plain.build();
        }
        let names = plain.schema().columns().into_iter().map(Expr::Column);
        let shown: Vec<Expr> = names.chain(INTERVALS.map(|(name, _)| unqualified(name))).collect();
        let keys = |names: [&str; 2]| names.map(Column::new_unqualified).to_vec();
        let on = (keys(["tag_id", "ts"]), keys(["windowed_tag", "windowed_ts"]));
        plain.join(self.windowed(filters)?, JoinType::Left, on, None)?.project(shown)?.build()
    }

    /// What interval functions say of the windows that these filters may let through.
    fn windowed(&self, filters: &[Expr]) -> Result<LogicalPlan> {
        let tags = provider_as_source(Arc::new(Tags::new(self.scope.clone())));
        let mut tags = LogicalPlanBuilder::scan("tags", tags, None)?;
        if let Some(filter) = conjunction(pushdown::push(filters).tags) {
            tags = tags.filter(filter)?;
        }
        let input = tags.project([col("tag_id"), col("tag_id").alias("key_0")])?.build()?;
        let real = |name: &str| Field::new(name, DataType::Float64, true);
        let keys = [
            Field::new("windowed_tag", DataType::UInt32, false),
            Field::new("windowed_ts", utc_time(), false),
        ];
        let fields = keys.into_iter().chain(INTERVALS.map(|(name, _)| real(name))).collect();
        let width = ScalarValue::new_interval_mdn(0, 0, self.width_ns);
        let call = |(_, function)| Call { function, argument: Argument::Value, constant: None };
        let node = WindowedAggregate {
            scope: self.scope.clone(),
            input,
            keys: vec![Key::Tag(1), Key::Bucket],
            bucket: Some(vec![lit(width)]),
            is_gapfill: false,
            sampled_only: true,
            calls: INTERVALS.map(call).to_vec(),
            times: self.times(filters),
            schema: Arc::new(DFSchema::from_unqualified_fields(fields, HashMap::new())?),
        };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    /// Bounds of time between which lie, whole, all windows that begin where the filters want.
    fn times(&self, filters: &[Expr]) -> Vec<Expr> {
        let range = pushdown::push(filters).range;
        let all = TimeRange::ALL;
        let up = |ns: i64| {
            let rest = ns.rem_euclid(self.width_ns);
            if rest == 0 { ns } else { ns.saturating_add(self.width_ns - rest) }
        };
        let bound = |ns: i64| lit(ScalarValue::TimestampNanosecond(Some(ns), Some(UTC.into())));
        let start = (range.start_ns > all.start_ns)
            .then(|| unqualified("ts").gt_eq(bound(up(range.start_ns))));
        let end =
            (range.end_ns < all.end_ns).then(|| unqualified("ts").lt(bound(up(range.end_ns))));
        start.into_iter().chain(end).collect()
    }
}

/// Whether a filter only bounds when windows begin.
fn is_bound(filter: &Expr) -> bool {
    let columns = filter.column_refs();
    let is_time = !columns.is_empty() && columns.iter().all(|column| column.name() == "ts");
    is_time && pushdown::support(filter) == TableProviderFilterPushDown::Exact
}

fn unqualified(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}
/// The columns behind the keys.
fn aggregates() -> Result<Vec<Expr>> {
    let one = || lit(ScalarValue::Int64(Some(1)));
    let rated = |severity: &str| {
        let shown = ScalarUDF::from(QualityFunction::new(QualityText::Severity));
        let is_rated = shown.call(vec![col("quality")]).eq(lit(severity));
        count(one()).filter(is_rated).build()
    };
    let pick = |pick| AggregateUDF::from(Extreme::new(pick)).call(vec![col("value"), col("ts")]);
    Ok(vec![
        rated("Good")?.alias("count_good"),
        rated("Uncertain")?.alias("count_uncertain"),
        rated("Bad")?.alias("count_bad"),
        count(col("value")).alias("count"),
        sum(col("value")).alias("sum"),
        avg(col("value")).alias("avg"),
        min(col("value")).alias("min"),
        pick(Pick::MinTime).alias("min_time"),
        max(col("value")).alias("max"),
        pick(Pick::MaxTime).alias("max_time"),
        pick(Pick::First).alias("first"),
        pick(Pick::Last).alias("last"),
    ])
}
