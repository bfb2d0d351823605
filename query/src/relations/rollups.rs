//! `rollup_1m`, `rollup_15m`, `rollup_1h`, `rollup_1d`: what is known of each window of each tag, one row each.
//!
//! Each is the `time_bucket` query over `samples`, as a view: equal to it at every moment, and served as it is. Columns
//! that a statement does not name are not computed.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::{avg, count, max, min, sum};
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprFunctionExt, LogicalPlanBuilder, ScalarUDF, col, lit,
};

use super::Scope;
use super::samples::Samples;
use crate::functions::extreme::{Extreme, Pick};
use crate::functions::quality::{QualityFunction, QualityText};
use crate::functions::time_bucket::TimeBucket;

/// Names, and widths of the windows.
pub(crate) const ROLLUPS: [(&str, &str); 4] = [
    ("rollup_15m", "15 minutes"),
    ("rollup_1d", "1 day"),
    ("rollup_1h", "1 hour"),
    ("rollup_1m", "1 minute"),
];

/// The relation of one statement, if there is one of this name.
pub(crate) fn rollup(name: &str, scope: &Scope) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((_, width)) = ROLLUPS.iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    let samples: Arc<dyn TableProvider> = Arc::new(Samples::new(scope.clone()));
    let start = ScalarUDF::from(TimeBucket::default()).call(vec![lit(*width), col("ts")]);
    let groups = vec![col("tag_id"), col("tag"), start.alias("start")];
    let plan = LogicalPlanBuilder::scan("samples", provider_as_source(samples), None)?
        .aggregate(groups, aggregates()?)?;
    let shown = plan.schema().columns().into_iter().map(|column| {
        let is_start = column.name() == "start";
        let column = Expr::Column(Column::new(column.relation.clone(), column.name()));
        if is_start { column.alias("ts") } else { column }
    });
    let plan = plan.clone().project(shown.collect::<Vec<_>>())?.build()?;
    Ok(Some(Arc::new(ViewTable::new(plan, None))))
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
