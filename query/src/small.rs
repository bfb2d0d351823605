//! Which plans are small: they shall not wait behind those that read for minutes.
//!
//! A guess from what the leaves expect to read, made before anything is read. A wrong guess costs time, nothing else.

use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

/// Rows that a small plan reads.
const SMALL_ROWS: u64 = 1_000_000;
/// What a tag counts that is read window by window, from rollups mostly.
const ROWS_OF_FOLDED_TAG: u64 = 10_000;
/// What a leaf counts that says nothing: a table function, which reads a few tags.
const ROWS_OF_UNKNOWN: u64 = 100_000;
/// Operators whose rows are no sum of those below.
const MULTIPLIES: [&str; 4] =
    ["CrossJoinExec", "NestedLoopJoinExec", "UnnestExec", "RecursiveQueryExec"];
/// Operators whose leaves are tags, each of which they read through.
const FOLDS: [&str; 1] = ["WindowedAggregateExec"];

/// Whether a plan reads little.
pub(crate) fn is_small(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut rows = 0_u64;
    let mut nodes = vec![(plan, 1)];
    while let Some((node, weight)) = nodes.pop() {
        let name = node.name();
        if MULTIPLIES.contains(&name) {
            return false;
        }
        let children = node.children();
        if children.is_empty() {
            rows = rows.saturating_add(leaf_rows(node).saturating_mul(weight));
        }
        let weight = if FOLDS.contains(&name) { ROWS_OF_FOLDED_TAG } else { weight };
        nodes.extend(children.into_iter().map(|child| (child, weight)));
    }
    rows <= SMALL_ROWS
}

fn leaf_rows(leaf: &Arc<dyn ExecutionPlan>) -> u64 {
    let statistics = StatisticsContext::new().compute(leaf.as_ref(), &StatisticsArgs::new());
    let rows = statistics.map_or(Precision::Absent, |statistics| statistics.num_rows);
    rows.get_value().map_or(ROWS_OF_UNKNOWN, |&rows| rows as u64)
}
