//! What a filter says about tags and times: logical expressions in, a time range and tag filters out. Pure.
//!
//! A filter is *exact* when it speaks only of `tag`, `tag_id` and `label()`, or only of a range of `ts`: the scan then
//! applies it row for row and nothing above repeats it. Of any other filter the part that must hold is *implied*: the
//! scan reads less, and the filter is applied again above. No tag and no sample is looked at here.

use std::collections::HashSet;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{Between, Cast, InList};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use tagmill_storage::{DAY_NS, TimeRange};

/// What filters say together.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    /// Filters over `tag` and `tag_id` alone, columns unqualified. All must hold.
    pub(crate) tags: Vec<Expr>,
    /// Times outside cannot match.
    pub(crate) range: TimeRange,
}

/// How much of a filter a scan of samples takes over.
pub(crate) fn support(filter: &Expr) -> TableProviderFilterPushDown {
    if is_over_tags(filter) || bounds_of(filter).is_some_and(|bounds| bounds.exact) {
        return TableProviderFilterPushDown::Exact;
    }
    if tags_implied(filter).is_some() || bounds_of(filter).is_some() {
        return TableProviderFilterPushDown::Inexact;
    }
    TableProviderFilterPushDown::Unsupported
}

/// How much of a filter a relation without times takes over: one row or none per tag.
pub(crate) fn support_of_tags(filter: &Expr) -> TableProviderFilterPushDown {
    if is_over_tags(filter) {
        TableProviderFilterPushDown::Exact
    } else if tags_implied(filter).is_some() {
        TableProviderFilterPushDown::Inexact
    } else {
        TableProviderFilterPushDown::Unsupported
    }
}

/// What `filters`, all of which must hold, say of tags and times.
pub(crate) fn push(filters: &[Expr]) -> Pushed {
    let mut pushed = Pushed { tags: Vec::new(), range: TimeRange::ALL };
    for filter in filters {
        pushed.tags.extend(tags_implied(filter).map(unqualified));
        if let Some(bounds) = bounds_of(filter) {
            pushed.range = pushed.range.intersect(&bounds.range);
        }
    }
    pushed
}

/// Whether a filter depends on nothing but which tag a row belongs to.
fn is_over_tags(expr: &Expr) -> bool {
    let columns: HashSet<&Column> = expr.column_refs();
    let by_tag = columns.iter().all(|column| matches!(column.name.as_str(), "tag" | "tag_id"));
    let foreign = |expr: &Expr| {
        matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
        )
    };
    !columns.is_empty()
        && by_tag
        && !expr.is_volatile()
        && !expr.exists(|part| Ok(foreign(part))).unwrap_or(true)
}

/// A filter over tags that holds wherever `expr` does.
fn tags_implied(expr: &Expr) -> Option<Expr> {
    if is_over_tags(expr) {
        return Some(expr.clone());
    }
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    match (op, tags_implied(left), tags_implied(right)) {
        (Operator::And, Some(left), Some(right)) => Some(left.and(right)),
        (Operator::And, left, right) => left.or(right),
        (Operator::Or, Some(left), Some(right)) => Some(left.or(right)),
        _ => None,
    }
}

fn unqualified(expr: Expr) -> Expr {
    let stripped = expr.clone().transform(|part| {
        Ok(match part {
            Expr::Column(column) if column.relation.is_some() => {
                Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    });
    stripped.map_or(expr, |stripped| stripped.data)
}

/// Times outside which a filter cannot hold; exact if it holds at every time inside.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounds {
    range: TimeRange,
    exact: bool,
}

impl Bounds {
    const fn exact(start_ns: i64, end_ns: i64) -> Self {
        Self { range: TimeRange::new(start_ns, end_ns), exact: true }
    }

    fn and(left: Option<Self>, right: Option<Self>) -> Option<Self> {
        match (left, right) {
            (Some(left), Some(right)) => Some(Self {
                range: left.range.intersect(&right.range),
                exact: left.exact && right.exact,
            }),
            (one, other) => one.or(other).map(|bounds| Self { exact: false, ..bounds }),
        }
    }

    fn or(left: Self, right: Self) -> Self {
        if left.range.is_empty() && left.exact {
            return right;
        }
        if right.range.is_empty() && right.exact {
            return left;
        }
        let (first, second) = if left.range.start_ns <= right.range.start_ns {
            (left.range, right.range)
        } else {
            (right.range, left.range)
        };
        Self {
            range: TimeRange::new(first.start_ns, first.end_ns.max(second.end_ns)),
            exact: left.exact && right.exact && second.start_ns <= first.end_ns,
        }
    }
}

fn bounds_of(expr: &Expr) -> Option<Bounds> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            Bounds::and(bounds_of(left), bounds_of(right))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some(Bounds::or(bounds_of(left)?, bounds_of(right)?))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            compared(left, *op, right).or_else(|| compared(right, op.swap()?, left))
        }
        Expr::Between(Between { expr, negated: false, low, high }) => {
            Bounds::and(compared(expr, Operator::GtEq, low), compared(expr, Operator::LtEq, high))
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            let mut members = list.iter().map(|member| compared(expr, Operator::Eq, member));
            let first = members.next()??;
            members.try_fold(first, |all, member| Some(Bounds::or(all, member?)))
        }
        _ => None,
    }
}

/// Bounds of `left op right`, where `left` is the time column and `right` a constant.
fn compared(left: &Expr, op: Operator, right: &Expr) -> Option<Bounds> {
    let (start, end) = if is_time_column(left) {
        let at = instant(right)?;
        (at, at.checked_add(1))
    } else if is_time_date(left) {
        let Expr::Literal(ScalarValue::Date32(Some(day)), _) = right else { return None };
        let start = i64::from(*day).checked_mul(DAY_NS)?;
        (start, start.checked_add(DAY_NS))
    } else {
        return None;
    };
    // `start..end` are the times that equal the constant. No sample is at i64::MAX, see TimeRange::ALL.
    let (least, beyond) = (TimeRange::ALL.start_ns, TimeRange::ALL.end_ns);
    let end = end.unwrap_or(beyond);
    Some(match op {
        Operator::Eq => Bounds::exact(start, end),
        Operator::Lt => Bounds::exact(least, start),
        Operator::LtEq => Bounds::exact(least, end),
        Operator::Gt => Bounds::exact(end, beyond),
        Operator::GtEq => Bounds::exact(start, beyond),
        _ => return None,
    })
}

/// The column `ts`, or a cast of it to another zone or to none: being UTC, its number stays the same.
fn is_time_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(column) => column.name == "ts",
        Expr::Cast(Cast { expr, field }) => {
            matches!(field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _))
                && is_time_column(expr)
        }
        _ => false,
    }
}

/// `CAST(ts AS DATE)`: the UTC day.
fn is_time_date(expr: &Expr) -> bool {
    let Expr::Cast(Cast { expr, field }) = expr else { return false };
    field.data_type() == &DataType::Date32
        && matches!(expr.as_ref(), Expr::Column(column) if column.name == "ts")
}

fn instant(expr: &Expr) -> Option<i64> {
    let Expr::Literal(ScalarValue::TimestampNanosecond(at, _), _) = expr else { return None };
    *at
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::{col, lit};

    fn at(ns: i64) -> Expr {
        lit(ScalarValue::TimestampNanosecond(Some(ns), Some("UTC".into())))
    }

    #[test]
    fn ranges_of_time_are_exact() {
        let ts = || col("ts");
        for (filter, start, end) in [
            (ts().gt_eq(at(5)).and(ts().lt(at(9))), 5, 9),
            (ts().gt(at(5)).and(ts().lt_eq(at(9))), 6, 10),
            (ts().eq(at(5)), 5, 6),
            (at(5).lt(ts()), 6, i64::MAX),
            (ts().between(at(5), at(9)), 5, 10),
            (ts().lt(at(9)).or(ts().lt(at(12))), i64::MIN, 12),
            (ts().in_list(vec![at(5), at(6)], false), 5, 7),
        ] {
            assert_eq!(support(&filter), TableProviderFilterPushDown::Exact, "{filter}");
            assert_eq!(push(&[filter]).range, TimeRange::new(start, end));
        }
    }

    #[test]
    fn what_else_a_filter_says_is_only_implied() {
        let hot = || col("value").gt(lit(80.0));
        for (filter, range, tags) in [
            (
                col("ts").lt(at(3)).or(col("ts").gt_eq(at(7)).and(col("ts").lt(at(9)))),
                (i64::MIN, 9),
                0,
            ),
            (col("ts").in_list(vec![at(5), at(9)], false), (5, 10), 0),
            (
                col("tag")
                    .eq(lit("a"))
                    .and(hot())
                    .or(col("tag").eq(lit("b")).and(col("ts").gt(at(1)))),
                (i64::MIN, i64::MAX),
                1,
            ),
        ] {
            assert_eq!(support(&filter), TableProviderFilterPushDown::Inexact, "{filter}");
            let pushed = push(&[filter]);
            assert_eq!(pushed.range, TimeRange::new(range.0, range.1));
            assert_eq!(pushed.tags.len(), tags);
        }
        for filter in [hot(), col("ts").not_eq(at(3)), col("tag").eq(lit("a")).or(hot())] {
            assert_eq!(support(&filter), TableProviderFilterPushDown::Unsupported, "{filter}");
        }
    }

    #[test]
    fn any_predicate_over_the_tag_is_exact() {
        for filter in [
            col("samples.tag").eq(lit("a")),
            col("tag").like(lit("U1/%")).or(col("tag_id").eq(lit(7_u32))),
            !col("tag").in_list(vec![lit("a"), lit("b")], false),
        ] {
            assert_eq!(support(&filter), TableProviderFilterPushDown::Exact, "{filter}");
        }
    }
}
