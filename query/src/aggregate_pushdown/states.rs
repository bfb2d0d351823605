//! Partial states of aggregates from rollups: which aggregates can be had, and their columns.
//!
//! # Contract
//! * A [`State`] is found for an aggregate only if the partial state that DataFusion declares for it has exactly the
//!   types written here. After an upgrade that changes one the plan is left alone, and a test says so.
//! * What is pushed is what the aggregate itself would have made of the window's samples: nulls where it saw nothing,
//!   counts, integers, extremes and their times exactly, sums in another order.
//!
//! # What it does not know
//! Groups and windows.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Array, Float64Builder, Int64Builder, TimestampNanosecondArray,
    TimestampNanosecondBuilder, UInt64Builder,
};
use datafusion::arrow::datatypes::DataType;
use datafusion::functions_aggregate::average::Avg;
use datafusion::functions_aggregate::count::Count;
use datafusion::functions_aggregate::min_max::{Max, Min};
use datafusion::functions_aggregate::stddev::{Stddev, StddevPop};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::functions_aggregate::variance::{VariancePopulation, VarianceSample};
use datafusion::logical_expr::{AggregateUDFImpl, Operator};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::physical_plan::PhysicalExpr;
use tagmill_storage::{Latest, Needs, Point, Rollup, Severity, Value, ValueType};

use crate::functions::extreme::{Extreme, Pick};
use crate::functions::quality::{QualityFunction, QualityText};
use crate::relations::rows::RowColumn;
use crate::relations::utc_time;

/// Which numbers of a tag an aggregate is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// `value`: every numeric type as f64.
    Value,
    /// `value_int`: integers, flags and codes.
    ValueInt,
}

/// Which measure of spread is shown; the state is the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    /// Over one value less than there are: that of a sample, not of everything.
    is_of_sample: bool,
    /// The root of the variance.
    is_root: bool,
}

/// One aggregate as rollups know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Samples of any quality.
    Rows,
    /// Samples of one severity.
    Rated(Severity),
    Count(View),
    Sum(View),
    Avg(View),
    Min(View),
    Max(View),
    /// Earliest time of any sample.
    MinTs,
    /// Latest time of any sample.
    MaxTs,
    /// Variance or standard deviation.
    Moments(View, Spread),
    Pick(Pick, View),
}

/// Tells which column of `samples` a column is, if it is one.
type RowOf<'a> = &'a dyn Fn(&Column) -> Option<RowColumn>;

/// What the argument of an aggregate is.
enum Argument {
    Numbers(View),
    /// `value_int` as f64, which `value` is too, but for tags that are no integers.
    IntAsFloat,
    Ts,
    /// Never null.
    Present,
}

impl Argument {
    /// What `expr` is.
    fn of(expr: &Arc<dyn PhysicalExpr>, row_of: RowOf<'_>) -> Option<Self> {
        if let Some(literal) = expr.downcast_ref::<Literal>() {
            return (!literal.value().is_null()).then_some(Self::Present);
        }
        if let Some(cast) = expr.downcast_ref::<CastExpr>() {
            let column = cast.expr().downcast_ref::<Column>()?;
            let widens = *cast.cast_type() == DataType::Float64;
            return (widens && row_of(column)? == RowColumn::ValueInt).then_some(Self::IntAsFloat);
        }
        match row_of(expr.downcast_ref::<Column>()?)? {
            RowColumn::Value => Some(Self::Numbers(View::Value)),
            RowColumn::ValueInt => Some(Self::Numbers(View::ValueInt)),
            RowColumn::Ts => Some(Self::Ts),
            RowColumn::TagId | RowColumn::Tag | RowColumn::Quality | RowColumn::Good => {
                Some(Self::Present)
            }
            RowColumn::ValueText | RowColumn::ValueRaw | RowColumn::Age => None,
        }
    }
}

impl State {
    /// The state of an aggregate; its arguments and its filter are in terms of the scan. `None` if rollups do not have it,
    /// or it is not kept as it is written here.
    pub(super) fn of(
        aggregate: &AggregateFunctionExpr,
        args: &[Arc<dyn PhysicalExpr>],
        filter: Option<&Arc<dyn PhysicalExpr>>,
        row_of: RowOf<'_>,
    ) -> Option<Self> {
        if aggregate.is_distinct() || aggregate.is_reversed() || !aggregate.order_bys().is_empty() {
            return None;
        }
        let function = aggregate.fun().inner();
        let args: Vec<Argument> =
            args.iter().map(|arg| Argument::of(arg, row_of)).collect::<Option<_>>()?;
        let state = match args.as_slice() {
            [Argument::Numbers(view), Argument::Ts] => {
                Self::Pick(function.downcast_ref::<Extreme>()?.pick(), *view)
            }
            [Argument::Ts | Argument::Present] if function.is::<Count>() => Self::Rows,
            [Argument::Ts] if function.is::<Min>() => Self::MinTs,
            [Argument::Ts] if function.is::<Max>() => Self::MaxTs,
            [Argument::IntAsFloat] => Self::of_floats(function.as_ref(), View::ValueInt)?,
            [Argument::Numbers(view)] if function.is::<Count>() => Self::Count(*view),
            [Argument::Numbers(view)] if function.is::<Sum>() => Self::Sum(*view),
            [Argument::Numbers(view)] if function.is::<Min>() => Self::Min(*view),
            [Argument::Numbers(view)] if function.is::<Max>() => Self::Max(*view),
            [Argument::Numbers(View::Value)] => Self::of_floats(function.as_ref(), View::Value)?,
            _ => return None,
        };
        let state = match (state, filter) {
            (state, None) => state,
            (Self::Rows, Some(filter)) => Self::Rated(severity_of(filter, row_of)?),
            (_, Some(_)) => return None,
        };
        let declared = aggregate.state_fields().ok()?;
        let kept = state.types();
        let same = declared.iter().map(|field| field.data_type()).eq(kept.iter());
        same.then_some(state)
    }

    /// Functions that take f64 only.
    fn of_floats(function: &dyn AggregateUDFImpl, view: View) -> Option<Self> {
        let spread =
            |is_of_sample, is_root| Some(Self::Moments(view, Spread { is_of_sample, is_root }));
        match () {
            () if function.is::<Avg>() => Some(Self::Avg(view)),
            () if function.is::<Stddev>() => spread(true, true),
            () if function.is::<StddevPop>() => spread(false, true),
            () if function.is::<VarianceSample>() => spread(true, false),
            () if function.is::<VariancePopulation>() => spread(false, false),
            () => None,
        }
    }

    /// Types of its columns.
    fn types(self) -> Vec<DataType> {
        match self {
            Self::Rows | Self::Rated(_) | Self::Count(_) => vec![DataType::Int64],
            Self::Sum(view) | Self::Min(view) | Self::Max(view) => vec![view.data_type()],
            Self::Avg(_) => vec![DataType::UInt64, DataType::Float64],
            Self::MinTs | Self::MaxTs => vec![utc_time()],
            Self::Moments(..) => vec![DataType::UInt64, DataType::Float64, DataType::Float64],
            Self::Pick(_, view) => vec![view.data_type(), utc_time()],
        }
    }

    /// What rollups must hold for it.
    pub(super) const fn needs(self) -> Needs {
        match self {
            Self::Moments(..) => Needs::SqlMoments,
            _ => Needs::Sql,
        }
    }

    /// Whether it is the same of all samples as of the newest one, as far as that [`is_known_of`](Self::is_known_of).
    pub(super) const fn is_of_newest(self) -> bool {
        matches!(self, Self::MaxTs | Self::Pick(Pick::Last, _))
    }

    /// Whether a tag's newest sample says it. One that shows no value is passed over by `last`; texts show none ever.
    pub(super) fn is_known_of(self, newest: &Latest) -> bool {
        let is_finite = match newest.value {
            Value::F64(value) => value.is_finite(),
            Value::F32(value) => value.is_finite(),
            Value::I64(_) | Value::Bool(_) | Value::State(_) | Value::Text(_) => true,
        };
        self == Self::MaxTs || (is_finite && !newest.quality.is_bad())
    }

    /// Whether it shows the time of an extreme of f64. Great integers that differ may be equal as f64.
    pub(super) const fn shows_time_of_float(self) -> bool {
        matches!(self, Self::Pick(Pick::MinTime | Pick::MaxTime, View::Value))
    }
}

/// The severity that a filter lets through, if it is that of a filter: `good`, or `severity(quality) = 'Bad'`.
fn severity_of(filter: &Arc<dyn PhysicalExpr>, row_of: RowOf<'_>) -> Option<Severity> {
    let is = |expr: &Arc<dyn PhysicalExpr>, wanted| {
        expr.downcast_ref::<Column>().and_then(row_of) == Some(wanted)
    };
    if is(filter, RowColumn::Good) {
        return Some(Severity::Good);
    }
    let compares = filter.downcast_ref::<BinaryExpr>().filter(|expr| *expr.op() == Operator::Eq)?;
    let function = compares.left().downcast_ref::<ScalarFunctionExpr>()?;
    let shows = function.fun().inner().downcast_ref::<QualityFunction>()?;
    let [quality] = function.args() else { return None };
    if shows.text() != QualityText::Severity || !is(quality, RowColumn::Quality) {
        return None;
    }
    match compares.right().downcast_ref::<Literal>()?.value().try_as_str()?? {
        "Good" => Some(Severity::Good),
        "Uncertain" => Some(Severity::Uncertain),
        "Bad" => Some(Severity::Bad),
        _ => None,
    }
}

impl View {
    const fn data_type(self) -> DataType {
        match self {
            Self::Value => DataType::Float64,
            Self::ValueInt => DataType::Int64,
        }
    }

    /// Whether tags of this type have such numbers.
    const fn shows(self, value_type: ValueType) -> bool {
        match value_type {
            ValueType::Text => false,
            ValueType::F64 | ValueType::F32 => matches!(self, Self::Value),
            ValueType::I64 | ValueType::Bool | ValueType::State => true,
        }
    }
}

/// The number of a stored word as `value_int` shows it.
fn integer_of(value_type: ValueType, word: u64) -> i64 {
    match Value::from_word(value_type, word) {
        Value::I64(value) => value,
        Value::Bool(value) => i64::from(value),
        Value::State(code) => i64::from(code),
        Value::F64(_) | Value::F32(_) | Value::Text(_) => 0,
    }
}

/// The last 64 bits of a sum, which is what a sum of i64 shows when it overflows.
fn wrapped(sum: i128) -> i64 {
    let low = sum.rem_euclid(1 << 64);
    u64::try_from(low).unwrap_or_default().cast_signed()
}

/// The columns of one state under construction.
pub(super) struct StateBuilder {
    state: State,
    columns: Columns,
}

enum Columns {
    Int(Int64Builder),
    Float(Float64Builder),
    Time(TimestampNanosecondBuilder),
    Avg(UInt64Builder, Float64Builder),
    Moments(UInt64Builder, Float64Builder, Float64Builder),
    IntAt(Int64Builder, TimestampNanosecondBuilder),
    FloatAt(Float64Builder, TimestampNanosecondBuilder),
}

impl StateBuilder {
    pub(super) fn new(state: State) -> Self {
        let time = || TimestampNanosecondBuilder::new().with_data_type(utc_time());
        let columns = match state {
            State::Rows | State::Rated(_) | State::Count(_) => Columns::Int(Int64Builder::new()),
            State::Sum(view) | State::Min(view) | State::Max(view) => match view {
                View::Value => Columns::Float(Float64Builder::new()),
                View::ValueInt => Columns::Int(Int64Builder::new()),
            },
            State::Avg(_) => Columns::Avg(UInt64Builder::new(), Float64Builder::new()),
            State::MinTs | State::MaxTs => Columns::Time(time()),
            State::Moments(..) => {
                Columns::Moments(UInt64Builder::new(), Float64Builder::new(), Float64Builder::new())
            }
            State::Pick(_, View::Value) => Columns::FloatAt(Float64Builder::new(), time()),
            State::Pick(_, View::ValueInt) => Columns::IntAt(Int64Builder::new(), time()),
        };
        Self { state, columns }
    }

    /// Adds a row for each window of a tag with values of this type.
    pub(super) fn push(&mut self, value_type: ValueType, rollups: &[Rollup]) {
        let shows = |view: View| view.shows(value_type);
        match (&mut self.columns, self.state) {
            (Columns::Int(all), State::Rows) => {
                for rollup in rollups {
                    all.append_value(rollup.rows().cast_signed());
                }
            }
            (Columns::Int(all), State::Rated(severity)) => {
                for rollup in rollups {
                    let count = match severity {
                        Severity::Good => rollup.good,
                        Severity::Uncertain => rollup.uncertain,
                        Severity::Bad => rollup.bad,
                    };
                    all.append_value(count.cast_signed());
                }
            }
            (Columns::Int(all), State::Count(view)) => {
                for rollup in rollups {
                    let count = if shows(view) { rollup.count } else { 0 };
                    all.append_value(count.cast_signed());
                }
            }
            (Columns::Int(all), State::Sum(view)) => {
                for rollup in rollups {
                    let known = shows(view) && rollup.count > 0;
                    all.append_option(known.then(|| wrapped(rollup.sum_int)));
                }
            }
            (Columns::Float(all), State::Sum(view)) => {
                for rollup in rollups {
                    all.append_option((shows(view) && rollup.count > 0).then_some(rollup.sum));
                }
            }
            (Columns::Avg(counts, sums), State::Avg(view)) => {
                for rollup in rollups {
                    let known = shows(view) && rollup.count > 0;
                    counts.append_option(known.then_some(rollup.count));
                    sums.append_option(known.then_some(rollup.sum));
                }
            }
            (Columns::Moments(counts, means, squares), State::Moments(view, _)) => {
                for rollup in rollups {
                    let known = shows(view) && rollup.count > 0;
                    counts.append_value(if known { rollup.count } else { 0 });
                    means.append_value(if known { rollup.sum / rollup.count as f64 } else { 0.0 });
                    squares.append_value(if known { rollup.m2 } else { 0.0 });
                }
            }
            (Columns::Time(all), state) => {
                let first = state == State::MinTs;
                for rollup in rollups {
                    all.append_value(if first { rollup.first_ns } else { rollup.last_ns });
                }
            }
            (columns, State::Min(view) | State::Max(view) | State::Pick(_, view)) => {
                for rollup in rollups {
                    let point = self.state.point(rollup).filter(|_| shows(view));
                    push_point(columns, value_type, point);
                }
            }
            (_, state) => debug_assert!(false, "{state:?} has other columns"),
        }
    }

    /// Adds a row for all samples of a tag whose newest one says it.
    pub(super) fn push_newest(&mut self, value_type: ValueType, newest: &Latest) {
        let Latest { time_ns, value, .. } = newest;
        match (&mut self.columns, self.state) {
            (Columns::Time(all), State::MaxTs) => all.append_value(*time_ns),
            (columns, State::Pick(Pick::Last, view)) => {
                let point = Point { time_ns: *time_ns, word: value.to_word() };
                let point = Some(point).filter(|_| view.shows(value_type));
                push_point(columns, value_type, point);
            }
            (_, state) => debug_assert!(false, "{state:?} is not of the newest sample"),
        }
    }

    /// The columns of the rows since the last call: the partial state, or what the aggregate makes of it at last.
    pub(super) fn finish(&mut self, form: Form, into: &mut Vec<ArrayRef>) {
        let is_partial = form == Form::Partial;
        match &mut self.columns {
            Columns::Int(all) => into.push(Arc::new(all.finish())),
            Columns::Float(all) => into.push(Arc::new(all.finish())),
            Columns::Time(all) => into.push(Arc::new(all.finish())),
            Columns::Avg(counts, sums) => {
                let (counts, sums) = (counts.finish(), sums.finish());
                if is_partial {
                    into.push(Arc::new(counts));
                    into.push(Arc::new(sums));
                    return;
                }
                let averages = counts.iter().zip(&sums);
                let averages = averages.map(|(count, sum)| Some(sum? / count? as f64));
                into.push(Arc::new(averages.collect::<Float64Array>()));
            }
            Columns::Moments(counts, means, squares) => {
                let (counts, means) = (counts.finish(), means.finish());
                let squares = squares.finish();
                if is_partial {
                    into.push(Arc::new(counts));
                    into.push(Arc::new(means));
                    into.push(Arc::new(squares));
                    return;
                }
                let State::Moments(_, spread) = self.state else { return };
                let spreads = counts.values().iter().zip(squares.values());
                let spreads = spreads.map(|(count, squares)| spread.of(*count, *squares));
                into.push(Arc::new(spreads.collect::<Float64Array>()));
            }
            Columns::IntAt(values, times) => {
                finish_pick(Arc::new(values.finish()), times.finish(), self.state, form, into);
            }
            Columns::FloatAt(values, times) => {
                finish_pick(Arc::new(values.finish()), times.finish(), self.state, form, into);
            }
        }
    }
}

/// What a state's columns are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// To be merged with others by a final aggregate.
    Partial,
    /// The answer: no other row has the same keys.
    Final,
}

fn finish_pick(
    values: ArrayRef,
    times: TimestampNanosecondArray,
    state: State,
    form: Form,
    into: &mut Vec<ArrayRef>,
) {
    let shows_time = matches!(state, State::Pick(Pick::MinTime | Pick::MaxTime, _));
    if form == Form::Partial || !shows_time {
        into.push(values);
    }
    if form == Form::Partial || shows_time {
        into.push(Arc::new(times));
    }
}

impl Spread {
    /// The measure of so many values with such a sum of squares of distances from their mean.
    fn of(self, count: u64, squares: f64) -> Option<f64> {
        let divisor = count.saturating_sub(u64::from(self.is_of_sample));
        if divisor == 0 {
            return None;
        }
        let variance = squares / divisor as f64;
        Some(if self.is_root { variance.sqrt() } else { variance })
    }
}

impl State {
    /// The sample that an extreme, or a first or last, is.
    fn point(self, rollup: &Rollup) -> Option<Point> {
        match self {
            Self::Min(_) | Self::Pick(Pick::MinTime, _) => rollup.min,
            Self::Max(_) | Self::Pick(Pick::MaxTime, _) => rollup.max,
            Self::Pick(Pick::First, _) => rollup.first,
            Self::Pick(Pick::Last, _) => rollup.last,
            _ => None,
        }
    }
}

fn push_point(columns: &mut Columns, value_type: ValueType, point: Option<Point>) {
    let float = point.map(|point| point.value(value_type));
    let integer = point.map(|point| integer_of(value_type, point.word));
    let time = point.map(|point| point.time_ns);
    match columns {
        Columns::Int(all) => all.append_option(integer),
        Columns::Float(all) => all.append_option(float),
        Columns::IntAt(values, times) => {
            values.append_option(integer);
            times.append_option(time);
        }
        Columns::FloatAt(values, times) => {
            values.append_option(float);
            times.append_option(time);
        }
        Columns::Time(_) | Columns::Avg(..) | Columns::Moments(..) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_integers_wraps_as_i64_does() {
        for (sum, wanted) in [
            (i128::from(i64::MAX) + 1, i64::MIN),
            (-1, -1),
            (i128::from(i64::MIN) * 3, i64::MIN.wrapping_mul(3)),
            (7, 7),
        ] {
            assert_eq!(wrapped(sum), wanted, "{sum}");
        }
    }

    #[test]
    fn a_spread_of_one_value_is_that_of_everything_only() {
        let spread = |is_of_sample, is_root| Spread { is_of_sample, is_root };
        assert_eq!(spread(true, true).of(1, 0.0), None);
        assert_eq!(spread(false, true).of(1, 0.0), Some(0.0));
        assert_eq!(spread(false, true).of(0, 0.0), None);
        assert_eq!(spread(true, false).of(3, 8.0), Some(4.0));
        assert_eq!(spread(true, true).of(3, 8.0), Some(2.0));
    }
}
