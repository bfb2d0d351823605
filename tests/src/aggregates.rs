//! What an aggregate over samples ought to be: [`Aggregate`], written out from the documents for a list of samples.
//!
//! # Contract
//! * Counts, integers, extremes and times are exact. A sum may differ from the true one by 4 n eps times the sum of the
//!   absolute values, an average by that over n, a variance likewise with the squares.
//! * Where the true sum is beyond f64 nothing is asked: order decides what an overflow becomes.

use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampNanosecondType};
use tagmill_storage::Value;
use tagmill_storage::disk::sim::Random;

/// A sample as `value` and `value_int` show it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Source time.
    pub ts: i64,
    /// Column `value`.
    pub value: Option<f64>,
    /// Column `value_int`.
    pub whole: Option<i64>,
}

impl Shown {
    /// The sample of this time; a Bad one shows nothing.
    pub fn new(ts: i64, value: &Value, is_bad: bool) -> Self {
        let (value, whole) = match value {
            Value::F64(value) => (Some(*value), None),
            Value::F32(value) => (Some(f64::from(*value)), None),
            Value::I64(value) => (Some(*value as f64), Some(*value)),
            Value::Bool(value) => (Some(f64::from(*value)), Some(i64::from(*value))),
            Value::State(code) => (Some(f64::from(*code)), Some(i64::from(*code))),
            Value::Text(_) => (None, None),
        };
        let value = value.filter(|value| value.is_finite() && !is_bad);
        Self { ts, value, whole: whole.filter(|_| !is_bad) }
    }
}

/// Functions of one column of numbers.
const OVER_NUMBERS: [&str; 12] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "first",
    "last",
    "min_time",
    "max_time",
    "stddev",
    "var_pop",
    "stddev_pop",
];

/// One aggregate of a SELECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    function: &'static str,
    /// `*`, `ts`, `value` or `value_int`.
    over: &'static str,
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, over } = self;
        match (*function, *over) {
            (_, "*") => f.write_str("count(*)"),
            ("first" | "last" | "min_time" | "max_time", over) => {
                write!(f, "{function}(s.{over}, s.ts)")
            }
            _ => write!(f, "{function}(s.{over})"),
        }
    }
}

/// What an answer must be.
enum Wanted {
    Null,
    Integer(i64),
    Time(i64),
    /// This number, zero of either sign.
    Number(f64),
    /// Within so much of this number.
    About(f64, f64),
    /// Its square is within so much of this number.
    RootAbout(f64, f64),
    Anything,
}

impl Aggregate {
    /// Any one of them.
    pub fn draw(random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self { function: "count", over: "*" },
            1 => Self { function: ["min", "max"][random.index(2)], over: "ts" },
            2..=5 => Self { function: OVER_NUMBERS[random.index(12)], over: "value" },
            _ => Self { function: OVER_NUMBERS[random.index(12)], over: "value_int" },
        }
    }

    /// One that the newest sample of a tag may tell.
    pub fn of_newest(random: &mut Random) -> Self {
        match random.below(4) {
            0 => Self { function: "max", over: "ts" },
            1 => Self { function: "last", over: "value_int" },
            _ => Self { function: "last", over: "value" },
        }
    }

    fn wanted(&self, rows: &[Shown]) -> Wanted {
        let count = |count: usize| Wanted::Integer(i64::try_from(count).expect("small"));
        match (self.function, self.over) {
            (_, "*") => count(rows.len()),
            ("min", "ts") => rows.iter().map(|row| row.ts).min().map_or(Wanted::Null, Wanted::Time),
            ("max", "ts") => rows.iter().map(|row| row.ts).max().map_or(Wanted::Null, Wanted::Time),
            (function, "value_int") => {
                let known = rows.iter().filter_map(|row| Some((row.ts, row.whole?)));
                let known: Vec<(i64, i64)> = known.collect();
                match function {
                    "count" => count(known.len()),
                    _ if known.is_empty() => Wanted::Null,
                    "sum" => {
                        let sum = known.iter().fold(0_i64, |sum, (_, v)| sum.wrapping_add(*v));
                        Wanted::Integer(sum)
                    }
                    "avg" | "stddev" | "var_pop" | "stddev_pop" => {
                        moments(function, known.iter().map(|(_, value)| *value as f64))
                    }
                    _ => {
                        let (ts, value) = picked(function, &known, |a, b| a.cmp(&b));
                        let shows_time = function.ends_with("_time");
                        if shows_time { Wanted::Time(ts) } else { Wanted::Integer(value) }
                    }
                }
            }
            (function, _) => {
                let known = rows.iter().filter_map(|row| Some((row.ts, row.value?)));
                let known: Vec<(i64, f64)> = known.collect();
                match function {
                    "count" => count(known.len()),
                    _ if known.is_empty() => Wanted::Null,
                    "sum" | "avg" | "stddev" | "var_pop" | "stddev_pop" => {
                        moments(function, known.iter().map(|(_, value)| *value))
                    }
                    _ => {
                        let compare = |a: f64, b: f64| a.partial_cmp(&b).expect("finite");
                        let (ts, value) = picked(function, &known, compare);
                        let shows_time = function.ends_with("_time");
                        if shows_time { Wanted::Time(ts) } else { Wanted::Number(value) }
                    }
                }
            }
        }
    }

    /// What is wrong with the answer at `row` of `found` for these samples, if anything is.
    pub fn complaint(&self, rows: &[Shown], found: &ArrayRef, row: usize) -> Option<String> {
        let number = || match found.data_type() {
            DataType::Float64 if found.is_valid(row) => {
                Some(found.as_primitive::<Float64Type>().value(row))
            }
            _ => None,
        };
        let wanted = self.wanted(rows);
        let (is_right, wanted) = match wanted {
            Wanted::Anything => return None,
            Wanted::Null => (found.is_null(row), "null".to_owned()),
            Wanted::Integer(wanted) => {
                let found = found.as_primitive_opt::<Int64Type>().filter(|f| f.is_valid(row));
                (found.map(|found| found.value(row)) == Some(wanted), wanted.to_string())
            }
            Wanted::Time(wanted) => {
                let found = found.as_primitive_opt::<TimestampNanosecondType>();
                let found = found.filter(|found| found.is_valid(row));
                (found.map(|found| found.value(row)) == Some(wanted), wanted.to_string())
            }
            Wanted::Number(wanted) => (number() == Some(wanted), format!("{wanted:e}")),
            Wanted::About(wanted, by) => {
                let is_near = number().is_some_and(|found| (found - wanted).abs() <= by);
                (is_near, format!("{wanted:e} to within {by:e}"))
            }
            Wanted::RootAbout(wanted, by) => {
                let is_near = number().is_some_and(|found| (found * found - wanted).abs() <= by);
                (is_near, format!("the root of {wanted:e} to within {by:e}"))
            }
        };
        let shown = arrow::util::display::array_value_to_string(found, row).unwrap_or_default();
        (!is_right).then(|| format!("{self} of {} rows is {shown}, not {wanted}", rows.len()))
    }
}

/// The sample that a function picks, by the documents.
fn picked<V: Copy>(
    function: &str,
    known: &[(i64, V)],
    compare: impl Fn(V, V) -> std::cmp::Ordering,
) -> (i64, V) {
    let best = known.iter().copied().min_by(|a, b| {
        let (time, value) = (a.0.cmp(&b.0), compare(a.1, b.1));
        match function {
            "first" => time.then(value),
            "last" => time.then(value).reverse(),
            "min" | "min_time" => value.then(time),
            _ => value.reverse().then(time),
        }
    });
    best.expect("there is one")
}

/// Sum, average or variance, with what an answer may be off.
fn moments(function: &str, values: impl Iterator<Item = f64> + Clone) -> Wanted {
    let n = values.clone().count() as f64;
    let slack = 4.0 * n * f64::EPSILON;
    let (sum, rest) = summed(values.clone());
    let magnitude: f64 = values.clone().map(f64::abs).sum();
    let squares: f64 = values.clone().map(|value| value * value).sum();
    let needs_squares = !matches!(function, "sum" | "avg");
    if !magnitude.is_finite() || (needs_squares && !squares.is_finite()) {
        return Wanted::Anything;
    }
    let total = sum + rest;
    let mean = total / n;
    // What is lost of the mean itself, so that squares of distances do not lose it again.
    let left = (sum - mean * n + rest) / n;
    let deviation = summed(values.map(|value| (value - mean - left) * (value - mean - left)));
    let deviation = deviation.0 + deviation.1;
    let by = slack * squares + f64::MIN_POSITIVE;
    match function {
        "sum" => Wanted::About(total, slack * magnitude),
        "avg" => Wanted::About(mean, slack * magnitude / n + mean.abs() * f64::EPSILON),
        "stddev" if n < 2.0 => Wanted::Null,
        "stddev" => Wanted::RootAbout(deviation / (n - 1.0), by / (n - 1.0)),
        "stddev_pop" => Wanted::RootAbout(deviation / n, by / n),
        _ => Wanted::About(deviation / n, by / n),
    }
}

/// A sum and what rounding took from it (Neumaier).
fn summed(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut sum, mut rest) = (0.0_f64, 0.0_f64);
    for value in values {
        let next = sum + value;
        let lost =
            if sum.abs() >= value.abs() { (sum - next) + value } else { (value - next) + sum };
        rest += lost;
        sum = next;
    }
    (sum, rest)
}
