//! `time_bucket(width, ts [, zone [, offset]])` and `time_bucket(width, ts, origin)`: the start of the bucket of `ts`.
//!
//! The result is never decreasing in `ts`, which lets ordered scans stay ordered, and a comparison with a literal is
//! turned into a range of `ts` before the plan is made, so that `WHERE time_bucket(..) >= ..` reads no more than it
//! needs. Everything but `ts` must be constant. What a bucket is, [`super::bucket`] knows.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, TimestampNanosecondArray};
use datafusion::arrow::datatypes::{DataType, IntervalUnit, TimeUnit, TimestampNanosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use tagmill_storage::DAY_NS;

use super::bucket::Buckets;
use super::width::{Width, parse_parts};
use crate::relations::{UTC, utc_time};
use crate::settings::parse_zone;

const USAGE: &str = "time_bucket takes (width, ts), (width, ts, zone), (width, ts, zone, offset) or (width, ts, origin)";

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimeBucket {
    signature: Signature,
}

impl Default for TimeBucket {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl TimeBucket {
    /// The buckets that a call with these constants makes: the width, and what comes after the time. `None` if the call
    /// is an error.
    pub(crate) fn buckets(width: ScalarValue, rest: Vec<ScalarValue>) -> Option<Buckets> {
        let constants: Vec<ScalarValue> = std::iter::once(width).chain(rest).collect();
        buckets_of(&constants).ok()
    }
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &'static str {
        "time_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(utc_time())
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [width, time, rest @ ..] = types else { return plan_err!("{USAGE}") };
        let mut wanted = vec![width_type(width)?, utc_time()];
        if !(is_time(time) || time.is_string() || time.is_null()) {
            return plan_err!("time_bucket: the second argument is a timestamp, not {time}");
        }
        match rest {
            [] => {}
            [origin] if is_time(origin) => wanted.push(utc_time()),
            [zone, offset @ ..] if zone.is_string() && offset.len() < 2 => {
                wanted.push(DataType::Utf8);
                if let [offset] = offset {
                    wanted.push(width_type(offset)?);
                }
            }
            _ => return plan_err!("{USAGE}"),
        }
        Ok(wanted)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [width, time, rest @ ..] = args.args.as_slice() else { return exec_err!("{USAGE}") };
        let mut constants = vec![constant(width)?];
        for argument in rest {
            constants.push(constant(argument)?);
        }
        let buckets = buckets_of(&constants)?;
        match time {
            ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(time, _)) => {
                let start = time.and_then(|time| buckets.range_of(time)).map(|range| range.0);
                let value = ScalarValue::TimestampNanosecond(start, Some(Arc::from(UTC)));
                Ok(ColumnarValue::Scalar(value))
            }
            ColumnarValue::Array(times) if times.data_type() == &utc_time() => {
                let starts = starts_of(&buckets, times.as_primitive());
                Ok(ColumnarValue::Array(Arc::new(starts)))
            }
            other => exec_err!("time_bucket: no timestamp but {}", other.data_type()),
        }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        let constant = |input: &ExprProperties| input.sort_properties == SortProperties::Singleton;
        let [width, time, rest @ ..] = inputs else { return Ok(SortProperties::Unordered) };
        if constant(width) && rest.iter().all(constant) {
            return Ok(time.sort_properties);
        }
        Ok(SortProperties::Unordered)
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        _: &SimplifyContext,
    ) -> Result<PreimageResult> {
        let Some(ScalarValue::TimestampNanosecond(Some(bound), _)) = literal.as_literal() else {
            return Ok(PreimageResult::None);
        };
        let [width, time, rest @ ..] = args else { return Ok(PreimageResult::None) };
        let constants: Option<Vec<ScalarValue>> =
            std::iter::once(width).chain(rest).map(|arg| arg.as_literal().cloned()).collect();
        // Arguments that cannot be right are reported when the function runs, not here.
        let Some(range) = constants
            .and_then(|constants| buckets_of(&constants).ok())
            .and_then(|buckets| buckets.range_of(*bound))
        else {
            return Ok(PreimageResult::None);
        };
        // No instant falls into a bucket that starts off the grid. The empty range at the next
        // start answers every comparison with such a literal: `=` never, `<` and `<=` up to it.
        let (start, end) = range;
        let start = if start == *bound { start } else { end };
        let value = |ns| ScalarValue::TimestampNanosecond(Some(ns), Some(Arc::from(UTC)));
        let interval = Interval::try_new(value(start), value(end))?;
        Ok(PreimageResult::Range { expr: time.clone(), interval: Box::new(interval) })
    }
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}

fn width_type(data_type: &DataType) -> Result<DataType> {
    match data_type {
        text if text.is_string() => Ok(DataType::Utf8),
        DataType::Interval(_) => Ok(DataType::Interval(IntervalUnit::MonthDayNano)),
        DataType::Duration(_) => Ok(DataType::Duration(TimeUnit::Nanosecond)),
        other => {
            plan_err!("time_bucket: a width is text such as '8 hours' or an interval, not {other}")
        }
    }
}

fn constant(argument: &ColumnarValue) -> Result<ScalarValue> {
    match argument {
        ColumnarValue::Scalar(value) => Ok(value.clone()),
        ColumnarValue::Array(_) => exec_err!("time_bucket: all but the timestamp must be constant"),
    }
}

/// The rule that width, zone or origin, and offset describe.
pub(crate) fn buckets_of(constants: &[ScalarValue]) -> Result<Buckets> {
    let named = |why: String| datafusion::common::exec_datafusion_err!("time_bucket: {why}");
    let [width, rest @ ..] = constants else { return exec_err!("{USAGE}") };
    let (months, nanos) = parts_of(width).map_err(named)?;
    let width = Width::new(months, nanos).map_err(named)?;
    match rest {
        [] => Ok(Buckets::utc(width, None)),
        [ScalarValue::TimestampNanosecond(Some(origin), _)] => {
            Ok(Buckets::utc(width, Some(*origin)))
        }
        [ScalarValue::Utf8(Some(zone)), offset @ ..] => {
            let Some(zone) = parse_zone(zone) else {
                return exec_err!(
                    "time_bucket: no zone named '{zone}'; write one of the IANA database such as 'Europe/Berlin'"
                );
            };
            let offset = offset.first().map_or(Ok((0, 0)), parts_of).map_err(named)?;
            if offset.0 != 0 {
                return exec_err!("time_bucket: the offset must be from 0 to below 24 hours");
            }
            Buckets::local(width, zone, offset.1).map_err(named)
        }
        _ => exec_err!("time_bucket: zone, offset and origin must not be null"),
    }
}

/// Months and nanoseconds of a width given as text or interval. A day has 24 hours here; zones know better later.
pub(crate) fn parts_of(value: &ScalarValue) -> Result<(i64, i64), String> {
    match value {
        ScalarValue::Utf8(Some(text)) => parse_parts(text),
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            let nanos = i64::from(interval.days)
                .checked_mul(DAY_NS)
                .and_then(|days| days.checked_add(interval.nanoseconds))
                .ok_or_else(|| "the width is too large".to_owned())?;
            Ok((i64::from(interval.months), nanos))
        }
        ScalarValue::DurationNanosecond(Some(nanos)) => Ok((0, *nanos)),
        _ => Err("width and offset must not be null".to_owned()),
    }
}

/// Bucket starts of many times. Neighbours mostly share a bucket, so the last one is tried first.
fn starts_of(buckets: &Buckets, times: &TimestampNanosecondArray) -> TimestampNanosecondArray {
    let mut current = (0, 0);
    let mut complete = true;
    let mut starts = Vec::with_capacity(times.len());
    for &time in times.values() {
        if !(current.0 <= time && time < current.1) {
            let Some(range) = buckets.range_of(time) else {
                // The ends of representable time have no bucket. Under a null the value means nothing.
                complete = false;
                starts.push(0);
                continue;
            };
            current = range;
        }
        starts.push(current.0);
    }
    let valid = times.nulls().cloned();
    let starts = if complete {
        TimestampNanosecondArray::new(starts.into(), valid)
    } else {
        times.unary_opt::<_, TimestampNanosecondType>(|time| {
            buckets.range_of(time).map(|range| range.0)
        })
    };
    starts.with_timezone(UTC)
}
