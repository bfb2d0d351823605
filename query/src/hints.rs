//! Filters that a running plan tightens as it learns: the keys a join has seen, the times a top-n has kept.
//!
//! They are hints: the plan applies them again above, so a scan may take what it understands and leave the rest. What
//! is understood: anything over the tag alone, which is evaluated per tag, and bounds of `ts`.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, StringViewArray, UInt32Array, new_null_array,
};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNullExpr, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{DynamicFilterTracking, PhysicalExpr, split_conjunction};
use datafusion::physical_expr_common::physical_expr::snapshot_physical_expr;
use tagmill_storage::{Registry, TagId, TimeRange};

/// The hints of one partition of a scan.
pub(crate) struct Hints {
    filters: Vec<(Arc<dyn PhysicalExpr>, DynamicFilterTracking)>,
    /// The scan's columns, all nullable: those a hint does not use are given as nulls.
    schema: SchemaRef,
    fresh: bool,
    /// Whether any speaks of `ts`.
    pub(crate) over_time: bool,
}

impl Hints {
    /// Watches `filters`, which speak of the columns of `schema`.
    pub(crate) fn new(filters: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) -> Self {
        let over_time = filters
            .iter()
            .any(|filter| collect_columns(filter).iter().any(|column| column.name() == "ts"));
        let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        Self {
            filters: filters
                .iter()
                .map(|filter| (Arc::clone(filter), DynamicFilterTracking::classify(filter)))
                .collect(),
            schema: Arc::new(Schema::new(fields.collect::<Vec<Field>>())),
            fresh: !filters.is_empty(),
            over_time,
        }
    }

    /// Whether they say something new since the last call. The first call says so of any hint.
    pub(crate) fn changed(&mut self) -> bool {
        let mut changed = std::mem::take(&mut self.fresh);
        for (_, tracking) in &mut self.filters {
            changed |= tracking
                .watcher()
                .is_some_and(datafusion::physical_expr::DynamicFilterTracker::changed);
        }
        changed
    }

    /// Lets the next [`Self::changed`] say yes again.
    pub(crate) const fn look_again(&mut self) {
        self.fresh = true;
    }

    /// The tags and the times that may still match.
    pub(crate) fn apply(
        &self,
        registry: &Registry,
        tags: &[TagId],
        range: TimeRange,
    ) -> Result<(Vec<TagId>, TimeRange)> {
        let (mut tags, mut range) = (tags.to_vec(), range);
        for (filter, _) in &self.filters {
            let current = snapshot_physical_expr(Arc::clone(filter))?;
            range = range.intersect(&hull(&current));
            for part in split_conjunction(&current) {
                let columns = collect_columns(part);
                let by_tag = columns.iter().all(|c| matches!(c.name(), "tag" | "tag_id"));
                if by_tag && !columns.is_empty() && !tags.is_empty() {
                    tags = self.matching(registry, part, &tags)?;
                }
            }
        }
        Ok((tags, range))
    }

    fn matching(
        &self,
        registry: &Registry,
        filter: &Arc<dyn PhysicalExpr>,
        tags: &[TagId],
    ) -> Result<Vec<TagId>> {
        let column = |field: &Arc<Field>| -> ArrayRef {
            match field.name().as_str() {
                "tag_id" => Arc::new(UInt32Array::from_iter_values(tags.iter().map(|tag| tag.0))),
                "tag" => {
                    let name = |&tag: &TagId| registry.get(tag).map(|tag| tag.name.as_ref());
                    Arc::new(tags.iter().map(name).collect::<StringViewArray>())
                }
                _ => new_null_array(field.data_type(), tags.len()),
            }
        };
        let columns = self.schema.fields().iter().map(column).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let mask = filter.evaluate(&batch)?.into_array(tags.len())?;
        let mask = mask.as_boolean();
        let kept =
            tags.iter().enumerate().filter(|(row, _)| mask.is_valid(*row) && mask.value(*row));
        Ok(kept.map(|(_, &tag)| tag).collect())
    }
}

/// A range outside which `expr` cannot hold.
fn hull(expr: &Arc<dyn PhysicalExpr>) -> TimeRange {
    const NEVER: TimeRange = TimeRange::new(0, 0);
    if let Some(literal) = expr.downcast_ref::<Literal>() {
        return match literal.value() {
            ScalarValue::Boolean(Some(false)) => NEVER,
            _ => TimeRange::ALL,
        };
    }
    if let Some(null) = expr.downcast_ref::<IsNullExpr>() {
        return if is_time(null.arg()) { NEVER } else { TimeRange::ALL };
    }
    let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return TimeRange::ALL };
    match binary.op() {
        Operator::And => hull(binary.left()).intersect(&hull(binary.right())),
        Operator::Or => {
            let (left, right) = (hull(binary.left()), hull(binary.right()));
            match (left.is_empty(), right.is_empty()) {
                (true, _) => right,
                (_, true) => left,
                _ => {
                    TimeRange::new(left.start_ns.min(right.start_ns), left.end_ns.max(right.end_ns))
                }
            }
        }
        op if is_time(binary.left()) => bound(*op, binary.right()),
        op if is_time(binary.right()) => {
            op.swap().map_or(TimeRange::ALL, |op| bound(op, binary.left()))
        }
        _ => TimeRange::ALL,
    }
}

fn is_time(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Column>().is_some_and(|column| column.name() == "ts")
}

/// The times for which `ts op constant` holds.
fn bound(op: Operator, constant: &Arc<dyn PhysicalExpr>) -> TimeRange {
    let all = TimeRange::ALL;
    let constant = constant.downcast_ref::<Literal>().map(Literal::value);
    let Some(ScalarValue::TimestampNanosecond(Some(at), _)) = constant else { return all };
    let after = at.saturating_add(1);
    match op {
        Operator::Eq => TimeRange::new(*at, after),
        Operator::Lt => TimeRange::new(all.start_ns, *at),
        Operator::LtEq => TimeRange::new(all.start_ns, after),
        Operator::Gt => TimeRange::new(after, all.end_ns),
        Operator::GtEq => TimeRange::new(*at, all.end_ns),
        _ => all,
    }
}
