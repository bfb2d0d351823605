//! Functions that can make much of little: each call says before it runs what it may come to.
//!
//! `repeat('x', 1000000000)` would allocate outside the memory pool, and in one go. The functions stay what they are; one
//! that would make more than [`CALL_BYTES_MAX`] of a batch, or take more than [`CALL_STEPS_MAX`] steps, is refused. What is
//! made of constants alone is a constant of the plan, many of which may be there at once: more than [`CONSTANTS_BYTES_MAX`]
//! is refused. A type that nests more than [`TYPE_PARTS_MAX`] others is refused before there is a value of it. Functions that
//! tell of files are taken out.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, StructFieldMapping,
};

use super::concatenation::CappedConcatenation;
use super::sizes::Sizes;
use crate::error::{Error, into_datafusion};
use crate::limits::{
    CALL_BYTES_MAX, CALL_STEPS_MAX, CONSTANTS_BYTES_MAX, MATCH_STEPS_MAX, TYPE_PARTS_MAX,
};

/// Functions of files, of which there are none here.
const TAKEN_OUT: [&str; 3] = ["input_file_name", "file_row_index", "with_metadata"];

/// Least length of a month and of a day: daylight saving takes an hour.
const MONTH_NS: u128 = 28 * 24 * HOUR_NS;
const DAY_NS: u128 = 23 * HOUR_NS;
const HOUR_NS: u128 = 3_600_000_000_000;

/// What the answer of a function may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cost {
    /// A text, as often as a number says.
    Repeated,
    /// Filled up to a length.
    Padded,
    /// A text at each place of another. If the places are found by a pattern, that takes steps as well.
    Replaced,
    Substituted,
    /// The first text between the others, or between the elements of lists.
    Joined,
    /// All together.
    Concatenated,
    /// Two signs for a byte.
    Encoded,
    /// A value, as often as a number says.
    Listed,
    /// A list of a length.
    Resized,
    /// All steps from one number to another.
    Series,
    /// A form, once a row.
    Formatted,
    /// Steps: each character of a text with each of another.
    Compared,
    /// Steps: each element of a list with each of another.
    Sought,
    /// Steps: a pattern begins to look at each character, and may look on to the end each time.
    Matched,
    /// What it is given, as a value of a type that holds the types of all of them.
    Nested,
}

const CAPPED: [(&str, Cost); 28] = [
    ("repeat", Cost::Repeated),
    ("lpad", Cost::Padded),
    ("rpad", Cost::Padded),
    ("replace", Cost::Replaced),
    ("regexp_replace", Cost::Substituted),
    ("concat_ws", Cost::Joined),
    ("array_to_string", Cost::Joined),
    ("array_repeat", Cost::Listed),
    ("array_resize", Cost::Resized),
    ("range", Cost::Series),
    ("generate_series", Cost::Series),
    ("to_char", Cost::Formatted),
    ("levenshtein", Cost::Compared),
    ("translate", Cost::Formatted),
    ("overlay", Cost::Formatted),
    ("concat", Cost::Concatenated),
    ("array_concat", Cost::Concatenated),
    ("array_append", Cost::Concatenated),
    ("array_prepend", Cost::Concatenated),
    ("struct", Cost::Nested),
    ("named_struct", Cost::Nested),
    ("map", Cost::Nested),
    ("arrays_zip", Cost::Nested),
    ("encode", Cost::Encoded),
    ("array_has_all", Cost::Sought),
    ("array_has_any", Cost::Sought),
    ("regexp_count", Cost::Matched),
    ("regexp_instr", Cost::Matched),
];

/// Bounds the functions of a state.
///
/// # Errors
/// None in practice: the state takes functions in place of others.
pub(crate) fn bound(state: &mut SessionState) -> Result<()> {
    for name in TAKEN_OUT {
        state.deregister_udf(name)?;
    }
    for (name, _) in CAPPED {
        let Ok(function) = state.udf(name) else { continue };
        state.register_udf(capped(function))?;
    }
    state.register_function_rewrite(Arc::new(CappedConcatenation::default()))
}

/// A function as it may be called.
pub(super) fn capped(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let cost = CAPPED.iter().find(|(name, _)| *name == function.name());
    match cost {
        Some((_, cost)) => Arc::new(ScalarUDF::from(Capped { inner: function, cost: *cost })),
        None => function,
    }
}

/// A function that says what it may come to.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Capped {
    inner: Arc<ScalarUDF>,
    cost: Cost,
}

impl ScalarUDFImpl for Capped {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let made = self.inner.return_type(types)?;
        check_parts(self.name(), &made)?;
        Ok(made)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let made = self.inner.return_field_from_args(args)?;
        check_parts(self.name(), made.data_type())?;
        Ok(made)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        check(self.name(), self.cost, &args.args, args.number_rows)?;
        self.inner.invoke_with_args(args)
    }
}

/// Refuses a type that names too many others: what compares, hashes or prints it goes through all of them.
fn check_parts(name: &str, made: &DataType) -> Result<()> {
    // Types share what they hold: of twenty that double, the last is quickly made, and has a million parts.
    fn left(of: &DataType, mut most: usize) -> Option<usize> {
        most = most.checked_sub(1)?;
        match of {
            DataType::List(field)
            | DataType::ListView(field)
            | DataType::LargeList(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _)
            | DataType::RunEndEncoded(_, field) => left(field.data_type(), most),
            DataType::Struct(fields) => {
                fields.iter().try_fold(most, |most, field| left(field.data_type(), most))
            }
            DataType::Union(fields, _) => {
                fields.iter().try_fold(most, |most, (_, field)| left(field.data_type(), most))
            }
            DataType::Dictionary(_, of) => left(of, most),
            _ => Some(most),
        }
    }
    match left(made, TYPE_PARTS_MAX) {
        Some(_) => Ok(()),
        None => Err(into_datafusion(Error::Limit(format!(
            "{name} makes a value of more than {TYPE_PARTS_MAX} parts, each within another: put less into it"
        )))),
    }
}

/// Refuses a call that may come to too much.
pub(super) fn check(name: &str, cost: Cost, args: &[ColumnarValue], rows: usize) -> Result<()> {
    if cost == Cost::Nested {
        return Ok(());
    }
    let is_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    // Made once, whatever the rows.
    let rows = if is_constant { 1 } else { rows };
    let facts: Vec<Facts> = args.iter().map(|arg| Facts::of(arg, rows)).collect();
    let refuse_above = |made: u64, most: u64, what: &str| {
        if made <= most {
            return Ok(());
        }
        let rows = if is_constant { "a constant".to_owned() } else { format!("{rows} rows") };
        Err(into_datafusion(Error::Limit(format!(
            "{name} could come to {made} {what} for {rows}, at most {most} are allowed"
        ))))
    };
    if let Some((steps, most)) = steps_of(cost, &facts) {
        refuse_above(steps, most, "steps")?;
    }
    let most = if is_constant { CONSTANTS_BYTES_MAX as u64 } else { CALL_BYTES_MAX };
    let bytes = match cost {
        Cost::Series => series(args, rows).saturating_mul(8),
        _ => bytes_of(cost, args, &facts, rows as u64),
    };
    refuse_above(bytes, most, "bytes")
}

/// Steps that a call may take, no less, and how many it may; nothing where they are as many as the bytes.
fn steps_of(cost: Cost, facts: &[Facts]) -> Option<(u64, u64)> {
    let arg = |at: usize| facts.get(at).copied().unwrap_or_default();
    match cost {
        Cost::Compared => Some((arg(0).bytes.saturating_mul(arg(1).bytes_max), CALL_STEPS_MAX)),
        Cost::Sought => {
            let each = (arg(0).values.saturating_mul(arg(1).values_max))
                .min(arg(1).values.saturating_mul(arg(0).values_max));
            Some((each, CALL_STEPS_MAX))
        }
        Cost::Matched | Cost::Substituted => {
            Some((arg(0).bytes.saturating_mul(arg(0).bytes_max), MATCH_STEPS_MAX))
        }
        _ => None,
    }
}

/// Bytes that a call may make, no less.
fn bytes_of(cost: Cost, args: &[ColumnarValue], facts: &[Facts], rows: u64) -> u64 {
    let arg = |at: usize| facts.get(at).copied().unwrap_or_default();
    let all = facts.iter().fold(0_u64, |sum, facts| sum.saturating_add(facts.bytes));
    match cost {
        Cost::Repeated => arg(0).bytes_max.saturating_mul(arg(1).count_max).saturating_mul(rows),
        Cost::Padded => {
            // A character has four bytes at most.
            let filled = arg(1).count_max.saturating_mul(4);
            filled.saturating_mul(rows)
        }
        Cost::Replaced | Cost::Substituted => {
            // At each byte and at the end, in place of nothing.
            let places = arg(0).bytes.saturating_add(rows);
            places.saturating_mul(arg(2).bytes_max.saturating_add(1))
        }
        Cost::Joined => {
            if args.first().is_some_and(|list| list.data_type().is_nested()) {
                // Each value is a text of its own, or the text that stands for NULL.
                let between = arg(1).bytes_max.saturating_add(arg(2).bytes_max);
                arg(0).values.saturating_mul(between)
            } else {
                let parts = rows.saturating_mul(args.len() as u64);
                arg(0).bytes_max.saturating_mul(parts).saturating_add(all)
            }
        }
        Cost::Concatenated => all,
        Cost::Encoded => arg(0).bytes.saturating_mul(2),
        Cost::Listed => {
            let each = arg(0).bytes_max.saturating_add(8);
            each.saturating_mul(arg(1).count_max).saturating_mul(rows)
        }
        Cost::Resized => {
            let each = arg(2).bytes_max.saturating_add(8);
            each.saturating_mul(arg(1).count_max).saturating_mul(rows)
        }
        Cost::Formatted => {
            let longest = facts.iter().map(|facts| facts.bytes_max).max();
            longest.unwrap_or_default().saturating_mul(8).saturating_mul(rows)
        }
        // What these make is small, or counted elsewhere.
        Cost::Series | Cost::Compared | Cost::Sought | Cost::Matched | Cost::Nested => 0,
    }
}

/// Steps of all series of a call.
fn series(args: &[ColumnarValue], rows: usize) -> u64 {
    let Ok(arrays) = args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>() else {
        return 0;
    };
    let (from, to, step) = match arrays.as_slice() {
        [to] => (None, points(to), None),
        [from, to] => (points(from), points(to), None),
        [from, to, step] => (points(from), points(to), steps(step)),
        _ => return 0,
    };
    let Some(to) = to else { return 0 };
    let from = from.unwrap_or_else(|| vec![Some(0); to.len()]);
    let step = step.unwrap_or_else(|| vec![Some(Step::Least(1)); to.len()]);
    let counts = from.into_iter().zip(to).zip(step);
    let counts = counts.map(|((from, to), step)| Some(step?.count(from?.abs_diff(to?))));
    counts.flatten().fold(0, u64::saturating_add)
}

/// How far a series goes each time.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So far at least.
    Least(u128),
    /// Not at all, which the function refuses itself.
    Nowhere,
    /// Forth and back: it may never come to an end.
    Both,
}

impl Step {
    fn count(self, span: u128) -> u64 {
        match self {
            Self::Least(step) => u64::try_from(span / step.max(1) + 1).unwrap_or(u64::MAX),
            Self::Nowhere => 0,
            Self::Both => u64::MAX,
        }
    }

    fn of(parts: [i128; 3]) -> Self {
        let [months, days, ns] = parts;
        let goes = |sign: i128| parts.iter().any(|part| part.signum() == sign);
        match (goes(1), goes(-1)) {
            (false, false) => Self::Nowhere,
            (true, true) => Self::Both,
            _ => Self::Least(
                months.unsigned_abs() * MONTH_NS + days.unsigned_abs() * DAY_NS + ns.unsigned_abs(),
            ),
        }
    }
}

/// Numbers as they are, dates and times in nanoseconds.
fn points(array: &ArrayRef) -> Option<Vec<Option<i128>>> {
    let unit = match array.data_type() {
        DataType::Date32 => 86_400_000_000_000,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    // A date has days as 32 bits only.
    let array = match array.data_type() {
        DataType::Date32 => cast(array, &DataType::Int32).ok()?,
        _ => Arc::clone(array),
    };
    let numbers = cast(&array, &DataType::Int64).ok()?;
    let numbers = numbers.as_primitive::<Int64Type>().iter();
    Some(numbers.map(|number| Some(i128::from(number?) * unit)).collect())
}

fn steps(array: &ArrayRef) -> Option<Vec<Option<Step>>> {
    if !matches!(array.data_type(), DataType::Interval(_)) {
        let numbers = points(array)?.into_iter();
        return Some(numbers.map(|number| Some(Step::of([0, 0, number?]))).collect());
    }
    let steps = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano)).ok()?;
    let steps = steps.as_primitive::<IntervalMonthDayNanoType>().iter();
    let parts = |step: datafusion::arrow::datatypes::IntervalMonthDayNano| {
        [i128::from(step.months), i128::from(step.days), i128::from(step.nanoseconds)]
    };
    Some(steps.map(|step| Some(Step::of(parts(step?)))).collect())
}

/// What is known of an argument at little cost.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// Bytes of the longest value.
    bytes_max: u64,
    /// Bytes of all rows.
    bytes: u64,
    /// Greatest number.
    count_max: u64,
    /// Values in the longest list, and in lists within it.
    values_max: u64,
    /// Values in the lists of all rows.
    values: u64,
}

impl Facts {
    fn of(value: &ColumnarValue, rows: usize) -> Self {
        let Ok(array) = value.to_array(1) else { return Self::default() };
        // A constant is there for each row.
        let times = if matches!(value, ColumnarValue::Scalar(_)) { rows as u64 } else { 1 };
        let of = array.data_type();
        let sizes = Sizes::bytes(&array);
        let bytes = sizes.total().saturating_mul(times);
        let mut facts = Self { bytes_max: sizes.largest(), bytes, ..Self::default() };
        if of.is_integer() {
            let numbers = cast(&array, &DataType::Int64).ok();
            let greatest = numbers
                .and_then(|numbers| numbers.as_primitive::<Int64Type>().iter().flatten().max());
            facts.count_max = greatest.and_then(|most| u64::try_from(most).ok()).unwrap_or(0);
        } else if of.is_nested() {
            let sizes = Sizes::values(&array);
            facts.values_max = sizes.largest();
            facts.values = sizes.total().saturating_mul(times);
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::IntervalMonthDayNano;
    use datafusion::common::ScalarValue;

    use super::*;

    fn time(days: i64) -> ColumnarValue {
        let ns = days * 86_400_000_000_000;
        ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(ns), None))
    }

    fn interval(months: i32, days: i32, ns: i64) -> ColumnarValue {
        let interval = IntervalMonthDayNano::new(months, days, ns);
        ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval)))
    }

    #[test]
    fn a_series_of_times_counts_by_its_step() {
        let count = |step| series(&[time(0), time(365), step], 1);
        assert_eq!(count(interval(0, 0, 1)), 31_536_000_000_000_001);
        assert_eq!(count(interval(0, 1, 0)), 381);
        assert_eq!(count(interval(0, -1, 0)), 381);
        assert_eq!(count(interval(1, 0, 0)), 14);
        assert_eq!(count(interval(1, -28, 0)), u64::MAX);
        assert_eq!(count(interval(0, 0, 0)), 0);
        let days = |day| ColumnarValue::Scalar(ScalarValue::Date32(Some(day)));
        assert_eq!(series(&[days(0), days(23), interval(0, 1, 0)], 1), 25);
    }

    #[test]
    fn series_of_all_rows_are_added_up() {
        let ends: ArrayRef =
            Arc::new(datafusion::arrow::array::Int64Array::from(vec![Some(9), None, Some(-4)]));
        let number = |number| ColumnarValue::Scalar(ScalarValue::Int64(Some(number)));
        let ends = ColumnarValue::Array(ends);
        assert_eq!(series(std::slice::from_ref(&ends), 3), 15);
        assert_eq!(series(&[number(-1), ends.clone(), number(5)], 3), 4);
        assert_eq!(series(&[number(0), ends, number(0)], 3), 0);
    }
}
