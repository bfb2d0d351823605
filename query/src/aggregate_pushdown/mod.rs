//! Serves standard aggregates from tiers: the rule that puts a source of partial states, or of answers, where an aggregate
//! over a scan of `samples` stood.
//!
//! # Contract
//! * The plan answers what it answered before, at every moment: late samples, corrections, deletes and edits of tags
//!   included. Counts, integers, extremes and their times are the same, sums and deviations but for the order in which
//!   they were added.
//! * In doubt the plan is left alone: DISTINCT, a FILTER but by severity, grouping sets, a limit below, a filter on values
//!   or qualities, aggregates and keys not listed in [`states`] and [`grain`], and `SET tagmill.tiers = off`.
//! * `last` and `max(ts)` of all time come from the newest sample of each tag, where that has a value; no file is read.
//! * Where every group is of one tag and one window, the final aggregate goes too: there is nothing left to merge.
//!
//! # Reading order
//! [`beneath`] (what the aggregate stands on), [`grain`] (which windows its keys need), [`states`] (its partial states),
//! [`source`] (the leaf that gives them).

mod beneath;
mod grain;
mod source;
mod states;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use tagmill_storage::{DAY_NS, ScanRequest, TagId, TagSelection, Tiers, TimeRange, limits};

use crate::served::coarsest_tier;
use crate::source::PlainScan;
use beneath::{Beneath, TIME};
use grain::Grain;
use source::{AggregateSource, Grouping, Key};
use states::{Form, State};

/// The rule. It must come first: later ones put operators between aggregate and scan.
#[derive(Debug)]
pub(crate) struct TierAggregates;

impl PhysicalOptimizerRule for TierAggregates {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|node| {
            let served = node.downcast_ref::<AggregateExec>().map(served).transpose()?.flatten();
            Ok(served.map_or_else(|| Transformed::no(node), Transformed::yes))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "tier_aggregates"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A source of what an aggregate gives, if there is one.
fn served(aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some((grouping, form)) = grouping_and_form(aggregate) else { return Ok(None) };
    let PlainScan { snapshot, parts, bounds, .. } = &grouping.scan;
    let tags = parts.iter().flat_map(|part| part.iter().copied());
    bounds.check(snapshot, tags, grouping.windows.asked.hull())?;
    let source = AggregateSource::new(Grouping { form, ..grouping }, aggregate.schema());
    Ok(Some(DataSourceExec::from_data_source(source)))
}

fn grouping_and_form(aggregate: &AggregateExec) -> Option<(Grouping, Form)> {
    Some(match aggregate.mode() {
        AggregateMode::Partial => (grouping_of(aggregate)?, Form::Partial),
        AggregateMode::Final | AggregateMode::FinalPartitioned => {
            let partial = aggregate.input().downcast_ref::<AggregateExec>()?;
            let grouping = grouping_of(partial).filter(|_| aggregate.limit_options().is_none())?;
            let tags: usize = grouping.scan.parts.iter().map(|part| part.len()).sum();
            // Without a key there is a row even without a sample, which nobody but the final aggregate makes.
            let tells_tags_apart = grouping.keys.iter().any(Key::tells_tags_apart)
                || (tags == 1 && !grouping.keys.is_empty());
            let tells_windows_apart = grouping.windows.is_one()
                || grouping.keys.iter().any(|key| matches!(key, Key::Start));
            // Else several rows have the same keys, and somebody must merge them.
            if !tells_tags_apart || !tells_windows_apart {
                return None;
            }
            (grouping, Form::Final)
        }
        _ => return None,
    })
}

/// What a partial aggregate groups, if it is over a scan and rollups have all it needs.
fn grouping_of(aggregate: &AggregateExec) -> Option<Grouping> {
    let plain = *aggregate.mode() == AggregateMode::Partial
        && !aggregate.group_expr().has_grouping_set()
        && aggregate.limit_options().is_none();
    if !plain {
        return None;
    }
    let beneath = Beneath::of(aggregate.input())?;
    let (keys, grain) = keys_of(aggregate, &beneath)?;
    let mut states = Vec::new();
    for (function, filter) in aggregate.aggr_expr().iter().zip(aggregate.filter_expr()) {
        let args = function.expressions();
        let args: Vec<_> = args.iter().map(|arg| beneath.resolve(arg)).collect::<Option<_>>()?;
        let filter = match filter {
            Some(filter) => Some(beneath.resolve(filter)?),
            None => None,
        };
        states.push(State::of(function, &args, filter.as_ref(), &Beneath::row_column)?);
    }
    let (scan, attributes) = beneath.into_parts();
    let range = if grain.is_listed() { bounded(&scan, &grain)? } else { scan.range };
    let windows = grain.windows(range)?;
    // Without an end the newest sample of a tag is among those that are asked for, if any is. A damaged place must be told of.
    let from_newest = grain == Grain::Whole
        && scan.range.end_ns == TimeRange::ALL.end_ns
        && states.iter().all(|state| state.is_of_newest())
        && !states.is_empty()
        && scan.tiers != Tiers::Off
        && scan.snapshot.damage().is_empty();
    let tier = if from_newest { "latest" } else { coarsest_tier(&windows.asked) };
    let (shown, form) = (shown(aggregate), Form::Partial);
    Some(Grouping { scan, attributes, keys, states, windows, from_newest, form, tier, shown })
}

/// The range of a scan, open ends moved to where its samples end or, at the start, at most a day earlier; then outward to
/// the bounds of buckets, so that whole ones stay whole.
fn bounded(scan: &PlainScan, grain: &Grain) -> Option<TimeRange> {
    let (mut range, all) = (scan.range, TimeRange::ALL);
    if range.is_empty() || (range.start_ns > all.start_ns && range.end_ns < all.end_ns) {
        return Some(range);
    }
    let tags: Arc<[TagId]> = scan.parts.iter().flat_map(|part| part.iter().copied()).collect();
    if range.end_ns == all.end_ns {
        let newest = tags.iter().filter_map(|&tag| scan.snapshot.latest(tag));
        let Some(last_ns) = newest.map(|latest| latest.time_ns).max() else {
            return Some(TimeRange::new(0, 0));
        };
        range.end_ns = grain.bucket_of(last_ns)?.end_ns;
    }
    if range.start_ns == all.start_ns {
        let first_ns = first_of(scan, &tags, range.end_ns);
        let first_ns = scan.snapshot.left_from().map_or(first_ns, |left_ns| first_ns.min(left_ns));
        range.start_ns = grain.bucket_of(first_ns)?.start_ns.max(limits::TIME_MIN_NS);
    }
    Some(range)
}

/// An instant at most a day before the first sample of these tags, if that lies before `end_ns`.
fn first_of(scan: &PlainScan, tags: &Arc<[TagId]>, end_ns: i64) -> i64 {
    let day_ns = |day: i64| limits::TIME_MIN_NS.saturating_add(day.saturating_mul(DAY_NS));
    let holds_before = |day: i64| {
        let range = TimeRange::new(limits::TIME_MIN_NS, day_ns(day));
        let request = ScanRequest::new(TagSelection::Only(Arc::clone(tags)), range);
        scan.snapshot.estimate_rows(&request) > 0
    };
    // Before day `empty` there is nothing, before day `held` there may be.
    let (mut empty, mut held) = (0, end_ns.saturating_sub(limits::TIME_MIN_NS) / DAY_NS + 1);
    while held - empty > 1 {
        let day = empty.midpoint(held);
        if holds_before(day) {
            held = day;
        } else {
            empty = day;
        }
    }
    day_ns(empty)
}

/// The group keys, and the windows in which all of them stay the same.
fn keys_of(aggregate: &AggregateExec, beneath: &Beneath) -> Option<(Vec<Key>, Grain)> {
    let mut keys = Vec::new();
    let mut grain = Grain::Whole;
    for (expr, _) in aggregate.group_expr().expr() {
        let own = beneath.resolve(expr)?;
        if is_volatile(&own) {
            return None;
        }
        if collect_columns(&own).iter().all(Beneath::is_of_tag) {
            let is_id = own.downcast_ref::<Column>().is_some_and(|column| column.index() == 0);
            keys.push(if is_id { Key::TagId } else { Key::Tag(own) });
        } else {
            grain = grain.with(Grain::of(&own, TIME)?)?;
            keys.push(Key::Time(own));
        }
    }
    let keys = keys.into_iter().map(|key| match key {
        Key::Time(expr) if grain.is_start(&expr, TIME) => Some(Key::Start),
        Key::Time(expr) => over_start(&expr).map(Key::Time),
        key => Some(key),
    });
    Some((keys.collect::<Option<_>>()?, grain))
}

/// An expression over `ts` alone as one over the only column of a batch.
fn over_start(expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let moved = Arc::clone(expr).transform_down(|part| {
        Ok(if part.downcast_ref::<Column>().is_some() {
            Transformed::yes(Arc::new(Column::new("ts", 0)) as Arc<dyn PhysicalExpr>)
        } else {
            Transformed::no(part)
        })
    });
    moved.data().ok()
}

/// Keys and aggregates for EXPLAIN.
fn shown(aggregate: &AggregateExec) -> String {
    let keys = aggregate.group_expr().expr().iter().map(|(_, name)| name.as_str());
    let aggregates = aggregate.aggr_expr().iter().map(|aggregate| aggregate.name());
    let list = |names: Vec<&str>| names.join(", ");
    format!("keys=[{}] aggregates=[{}]", list(keys.collect()), list(aggregates.collect()))
}
