//! How finely a grouping cuts time: group keys over `ts` in, windows out. Pure.
//!
//! A key is served when it is the same at every instant of a window: `time_bucket`, `date_bin`, `date_trunc` and
//! `date_part` with constant arguments, `ts::date`, and anything computed from those alone. The windows are those of
//! the finest of them; every coarser one must be a union of them. What a key's value is, is found by computing it at
//! the start of a window.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::functions::datetime::date_part::DatePartFunc;
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_plan::PhysicalExpr;
use std::sync::Arc;
use tagmill_storage::{DAY_NS, RollupWindows, SECOND_NS, TimeRange, limits};

use crate::functions::bucket::Buckets;
use crate::functions::time_bucket::TimeBucket;
use crate::functions::width::Width;
use crate::limits::WINDOWS_LISTED_MAX;

const HOUR_NS: i64 = 3_600 * SECOND_NS;

/// How finely time is cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Grain {
    /// Not at all.
    Whole,
    /// Into these.
    Buckets(Buckets),
}

impl Grain {
    const fn steps(width_ns: i64, origin_ns: i64) -> Self {
        Self::Buckets(Buckets::Steps { width_ns, origin_ns })
    }

    /// What is the same wherever `expr` is, the column `ts` being number `time`. `None` if that is not known, or
    /// anything but `ts` matters.
    pub(super) fn of(expr: &Arc<dyn PhysicalExpr>, time: usize) -> Option<Self> {
        if expr.downcast_ref::<Column>().is_some() {
            return None;
        }
        if let Some(own) = bucket_of(expr, time) {
            return Some(own);
        }
        let mut all = Self::Whole;
        for part in expr.children() {
            all = all.with(Self::of(part, time)?)?;
        }
        Some(all)
    }

    /// Whether `expr` is the start of these very buckets.
    pub(super) fn is_start(&self, expr: &Arc<dyn PhysicalExpr>, time: usize) -> bool {
        let function = expr.downcast_ref::<ScalarFunctionExpr>();
        let shows_start = function.is_some_and(|function| {
            let inner = function.fun().inner();
            inner.is::<TimeBucket>() || inner.is::<DateBinFunc>() || inner.is::<DateTruncFunc>()
        });
        shows_start && bucket_of(expr, time).as_ref() == Some(self)
    }

    /// The finer of the two, if it divides the other.
    pub(super) fn with(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Whole, other) => Some(other),
            (own, Self::Whole) => Some(own),
            (own, other) if own == other => Some(own),
            (Self::Buckets(own), Self::Buckets(other)) => {
                if divides(&own, &other) {
                    Some(Self::Buckets(own))
                } else if divides(&other, &own) {
                    Some(Self::Buckets(other))
                } else {
                    None
                }
            }
        }
    }

    /// The bucket of an instant. `None` if it cannot be represented, or time is not cut.
    pub(super) fn bucket_of(&self, time_ns: i64) -> Option<TimeRange> {
        let Self::Buckets(buckets) = self else { return None };
        buckets.range_of(time_ns).map(|(start_ns, end_ns)| TimeRange::new(start_ns, end_ns))
    }

    /// Whether its windows differ in length and are listed one by one.
    pub(super) const fn is_listed(&self) -> bool {
        matches!(self, Self::Buckets(Buckets::Local { .. }))
    }

    /// The windows that cover `range`, which holds every sample that may be asked for. `None` if there are too many to
    /// list, or a bucket of the range cannot be represented.
    pub(super) fn windows(&self, range: TimeRange) -> Option<Windows> {
        let all = TimeRange::new(limits::TIME_MIN_NS, limits::TIME_MAX_NS);
        let seen = range.intersect(&all);
        let buckets = match self {
            _ if seen.is_empty() => return Some(Windows::listed(&[])),
            Self::Whole => return Some(Windows::listed(&[seen])),
            Self::Buckets(buckets) => buckets,
        };
        // Buckets tile, so that all between two that exist do.
        buckets.range_of(seen.start_ns)?;
        buckets.range_of(seen.end_ns - 1)?;
        if let Buckets::Steps { width_ns, origin_ns } = *buckets {
            let asked = RollupWindows::Even { range: seen, origin_ns, width_ns };
            return Some(Windows { asked, first: None });
        }
        let mut listed = Vec::new();
        let mut at_ns = seen.start_ns;
        let mut first = None;
        while at_ns < seen.end_ns {
            let (start_ns, end_ns) = buckets.range_of(at_ns)?;
            first = first.or(Some((at_ns, start_ns)));
            listed.push(TimeRange::new(at_ns, end_ns.min(seen.end_ns)));
            at_ns = end_ns;
            if listed.len() > WINDOWS_LISTED_MAX {
                return None;
            }
        }
        Some(Windows { asked: RollupWindows::Each(listed.into()), first })
    }
}

/// What is asked of storage, and what the windows of the answer start at.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    pub(super) asked: RollupWindows,
    /// A first window that the range cuts: where it begins, and where its bucket does.
    first: Option<(i64, i64)>,
}

impl Windows {
    fn listed(windows: &[TimeRange]) -> Self {
        Self { asked: RollupWindows::Each(Arc::from(windows)), first: None }
    }

    /// Whether there is but one.
    pub(super) fn is_one(&self) -> bool {
        matches!(&self.asked, RollupWindows::Each(windows) if windows.len() < 2)
    }

    /// Start of the bucket of a window that is given as starting here.
    pub(super) fn bucket_of(&self, start_ns: i64) -> i64 {
        match self.first {
            Some((cut_ns, bucket_ns)) if start_ns == cut_ns => bucket_ns,
            _ => start_ns,
        }
    }

    /// The instants of the window that is given as starting here.
    pub(super) fn range_of(&self, start_ns: i64) -> TimeRange {
        match &self.asked {
            RollupWindows::Even { range, width_ns, .. } => {
                TimeRange::new(start_ns, start_ns.saturating_add(*width_ns)).intersect(range)
            }
            RollupWindows::Each(windows) => {
                let at = windows.partition_point(|window| window.start_ns < start_ns);
                windows.get(at).copied().unwrap_or(TimeRange::new(start_ns, start_ns))
            }
        }
    }
}

/// Whether every bucket of `coarse` is a union of buckets of `fine`.
fn divides(fine: &Buckets, coarse: &Buckets) -> bool {
    match (fine, coarse) {
        (
            Buckets::Steps { width_ns, origin_ns },
            Buckets::Steps { width_ns: wide_ns, origin_ns: from_ns },
        ) => {
            let apart = i128::from(*from_ns) - i128::from(*origin_ns);
            wide_ns % width_ns == 0 && apart % i128::from(*width_ns) == 0
        }
        _ => fine == coarse,
    }
}

/// The buckets that one function call, or one cast, of the time column keeps apart.
fn bucket_of(expr: &Arc<dyn PhysicalExpr>, time: usize) -> Option<Grain> {
    let is_time = |expr: &Arc<dyn PhysicalExpr>| {
        expr.downcast_ref::<Column>().is_some_and(|column| column.index() == time)
    };
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let to_date = matches!(cast.cast_type(), DataType::Date32) && is_time(cast.expr());
        return to_date.then(|| Grain::steps(DAY_NS, 0));
    }
    let function = expr.downcast_ref::<ScalarFunctionExpr>()?;
    let [first, second, rest @ ..] = function.args() else { return None };
    if !is_time(second) {
        return None;
    }
    let literal = |expr: &Arc<dyn PhysicalExpr>| {
        expr.downcast_ref::<Literal>().map(|literal| literal.value().clone())
    };
    let first = literal(first)?;
    let rest: Vec<ScalarValue> = rest.iter().map(literal).collect::<Option<_>>()?;
    let inner = function.fun().inner();
    if inner.is::<TimeBucket>() {
        return TimeBucket::buckets(first, rest).map(Grain::Buckets);
    }
    if inner.is::<DateBinFunc>() {
        return date_bin(&first, &rest);
    }
    let unit = first.try_as_str().flatten()?.to_lowercase();
    if inner.is::<DateTruncFunc>() && rest.is_empty() {
        return date_trunc(&unit);
    }
    if inner.is::<DatePartFunc>() && rest.is_empty() {
        return date_part(&unit);
    }
    None
}

/// `date_bin(width, ts [, origin])` of fixed widths; months count otherwise here and there.
fn date_bin(width: &ScalarValue, rest: &[ScalarValue]) -> Option<Grain> {
    let ScalarValue::IntervalMonthDayNano(Some(width)) = width else { return None };
    let days_ns = i64::from(width.days).checked_mul(DAY_NS)?;
    let width_ns = days_ns.checked_add(width.nanoseconds)?;
    let origin_ns = match rest {
        [] => 0,
        [ScalarValue::TimestampNanosecond(Some(origin_ns), _)] => *origin_ns,
        _ => return None,
    };
    let plain = width.months == 0 && width_ns > 1 && (0..limits::TIME_MAX_NS).contains(&origin_ns);
    plain.then(|| Grain::steps(width_ns, origin_ns))
}

/// `date_trunc(unit, ts)`; `ts` is in UTC.
fn date_trunc(unit: &str) -> Option<Grain> {
    let width = match unit {
        "second" | "minute" | "hour" | "day" | "week" | "month" | "quarter" | "year" => unit,
        _ => return None,
    };
    Some(Grain::Buckets(Buckets::utc(Width::parse(&format!("1 {width}")).ok()?, None)))
}

/// `date_part(unit, ts)`; `ts` is in UTC.
fn date_part(unit: &str) -> Option<Grain> {
    match unit {
        "year" | "quarter" | "month" | "week" | "day" | "doy" | "dow" | "isodow" | "isoyear" => {
            Some(Grain::steps(DAY_NS, 0))
        }
        "hour" => Some(Grain::steps(HOUR_NS, 0)),
        "minute" => Some(Grain::steps(60 * SECOND_NS, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::served::coarsest_tier;

    fn utc(width: &str) -> Grain {
        Grain::Buckets(Buckets::utc(Width::parse(width).unwrap(), None))
    }

    fn berlin(width: &str) -> Grain {
        let width = Width::parse(width).unwrap();
        Grain::Buckets(Buckets::local(width, chrono_tz::Europe::Berlin, 0).unwrap())
    }

    #[test]
    fn the_finer_of_two_grains_counts_if_it_divides_the_other() {
        let cases = [
            (Grain::Whole, utc("1 h"), Some(utc("1 h"))),
            (utc("1 d"), utc("1 h"), Some(utc("1 h"))),
            (utc("1 h"), utc("1 week"), Some(utc("1 h"))),
            (utc("1 h"), utc("90 min"), None),
            (berlin("1 day"), berlin("1 day"), Some(berlin("1 day"))),
            (berlin("1 day"), utc("1 h"), None),
            (utc("1 h"), Grain::steps(HOUR_NS, 60 * SECOND_NS), None),
            (utc("1 h"), Grain::steps(3 * HOUR_NS, 5 * HOUR_NS), Some(utc("1 h"))),
        ];
        for (one, other, wanted) in cases {
            assert_eq!(one.clone().with(other.clone()), wanted, "{one:?} with {other:?}");
            assert_eq!(other.with(one), wanted);
        }
    }

    #[test]
    fn listed_windows_are_cut_by_the_range_and_remember_their_bucket() {
        // Winter in Berlin: days begin at 23:00 UTC.
        let midnight_ns = 20_100 * DAY_NS;
        let range = TimeRange::new(midnight_ns, midnight_ns + 2 * DAY_NS);
        let windows = berlin("1 day").windows(range).unwrap();
        let RollupWindows::Each(each) = &windows.asked else { panic!("not listed") };
        let ends: Vec<i64> =
            each.iter().map(|window| (window.end_ns - midnight_ns) / HOUR_NS).collect();
        assert_eq!(ends, [23, 47, 48]);
        assert_eq!(windows.bucket_of(midnight_ns), midnight_ns - HOUR_NS);
        assert_eq!(windows.bucket_of(midnight_ns + 23 * HOUR_NS), midnight_ns + 23 * HOUR_NS);
        assert_eq!(windows.range_of(midnight_ns), TimeRange::new(midnight_ns, each[0].end_ns));
        assert_eq!(coarsest_tier(&windows.asked), "1h");
    }

    #[test]
    fn what_cannot_be_listed_or_represented_is_not_served() {
        assert!(berlin("90 min").windows(TimeRange::ALL).is_none(), "a list too long");
        assert!(
            utc("50000 days").windows(TimeRange::ALL).is_none(),
            "a bucket beyond the end of time"
        );
        assert!(utc("1 d").windows(TimeRange::ALL).is_some());
        assert!(!utc("1 d").windows(TimeRange::ALL).unwrap().is_one());
        assert!(Grain::Whole.windows(TimeRange::ALL).unwrap().is_one());
        assert!(utc("1 d").windows(TimeRange::new(5, 5)).unwrap().is_one(), "there is nothing");
    }
}
