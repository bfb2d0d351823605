//! The arguments of the table functions: their names, their order, and what their values may be.
//!
//! An argument stays an expression until the plan is made, so that parameters and `now()` may be used; then it must be
//! constant. Every error names the function and the argument.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use chrono_tz::Tz;
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use crate::functions::width::{Width, parse_parts};
use crate::limits::CHART_POINTS_MAX;
use crate::near::nearest;
use crate::relations::utc_time;
use crate::settings::parse_zone;
use tagmill_storage::DAY_NS;

/// A table function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TableFunction {
    History,
    Grid,
    Windows,
    M4,
    Lttb,
    AsofJoin,
}

/// The argument that names tags.
pub(crate) const TAGS: &str = "tags";
/// The argument that gives rows.
pub(crate) const EVENTS: &str = "events";

impl TableFunction {
    /// Every table function.
    pub(crate) const ALL: [Self; 6] =
        [Self::History, Self::Grid, Self::Windows, Self::M4, Self::Lttb, Self::AsofJoin];

    /// Its name in SQL.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Grid => "grid",
            Self::Windows => "windows",
            Self::M4 => "m4",
            Self::Lttb => "lttb",
            Self::AsofJoin => "asof_join",
        }
    }

    /// Its arguments in order. Those that must be given stand before a bar in what [`Self::usage`] shows.
    const fn parameters(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::History => (&[TAGS, "start"], &["end", "bounds"]),
            Self::Grid => (&[TAGS, "start", "end", "step"], &["zone", "offset", "mode", "bridge"]),
            Self::Windows => (
                &[TAGS],
                &[
                    "condition",
                    "start",
                    "end",
                    "min_duration",
                    "merge_gap",
                    "hysteresis",
                    "no_data",
                ],
            ),
            Self::M4 => (&[TAGS, "start", "end", "pixels"], &[]),
            Self::Lttb => (&[TAGS, "start", "end", "points"], &[]),
            Self::AsofJoin => (&[EVENTS, TAGS], &["tolerance"]),
        }
    }

    /// How it is written.
    fn usage(self) -> String {
        let (needed, optional) = self.parameters();
        let (needed, optional) = (needed.join(", "), optional.join(", "));
        if optional.is_empty() {
            return format!("{}({needed})", self.name());
        }
        format!("{}({needed} [, {optional}])", self.name())
    }

    /// Gives arguments, with their names where they have one, the parameters they are for.
    pub(crate) fn bind<T>(self, given: Vec<(Option<String>, T)>) -> Result<Vec<(&'static str, T)>> {
        let (needed, optional) = self.parameters();
        let known: Vec<&'static str> = needed.iter().chain(optional).copied().collect();
        let mut bound: Vec<(&'static str, T)> = Vec::new();
        let mut named = false;
        for (position, (name, value)) in given.into_iter().enumerate() {
            let name = match name {
                None if named => {
                    return plan_err!(
                        "{}: argument {} comes without a name after a named one: write {}",
                        self.name(),
                        position + 1,
                        self.usage()
                    );
                }
                None => known.get(position).copied().ok_or_else(|| {
                    let most = known.len();
                    plan(format!(
                        "{} has at most {most} arguments: write {}",
                        self.name(),
                        self.usage()
                    ))
                })?,
                Some(name) => {
                    named = true;
                    let found = known.iter().copied().find(|known| *known == name);
                    found.ok_or_else(|| self.unknown(&name, &known))?
                }
            };
            if bound.iter().any(|(taken, _)| *taken == name) {
                return plan_err!("{}: {name} is given twice", self.name());
            }
            bound.push((name, value));
        }
        for name in needed {
            if !bound.iter().any(|(given, _)| given == name) {
                return plan_err!("{}: {name} is missing: write {}", self.name(), self.usage());
            }
        }
        Ok(bound)
    }

    fn unknown(self, name: &str, known: &[&'static str]) -> DataFusionError {
        let near = nearest(name, known.iter().copied(), 1);
        let hint = match near.first() {
            Some(near) => format!("did you mean {near}?"),
            None => format!("write {}", self.usage()),
        };
        plan(format!("{} has no argument {name}: {hint}", self.name()))
    }
}

/// The type a parameter of a statement has as this argument, so that a client can ask for it.
pub(crate) fn type_of(name: &str) -> DataType {
    match name {
        "start" | "end" => utc_time(),
        "pixels" | "points" => DataType::Int64,
        "hysteresis" => DataType::Float64,
        "bounds" | "bridge" => DataType::Boolean,
        _ => DataType::Utf8,
    }
}

/// The values of the arguments of one call.
#[derive(Debug)]
pub(crate) struct Arguments {
    function: TableFunction,
    values: Vec<(&'static str, ScalarValue)>,
}

impl Arguments {
    /// Computes the arguments of `function`. Those of `tags` may be many.
    pub(crate) fn evaluate<'a>(
        function: TableFunction,
        given: impl Iterator<Item = (&'static str, &'a Expr)>,
        context: SimplifyContext,
    ) -> Result<Self> {
        let simplifier = ExprSimplifier::new(context);
        let mut values = Vec::new();
        for (name, expr) in given {
            let wrong = |why: &dyn Display| plan(format!("{}: {name}: {why}", function.name()));
            let expr = simplifier.coerce(expr.clone(), &DFSchema::empty());
            let expr = expr.and_then(|expr| simplifier.simplify(expr));
            match expr.map_err(|error| wrong(&error.message()))? {
                Expr::Literal(value, _) => values.push((name, value)),
                Expr::Placeholder(placeholder) => {
                    return Err(wrong(&format!("parameter {} has no value", placeholder.id)));
                }
                _ => return Err(wrong(&"it must be constant: columns and subqueries are not")),
            }
        }
        Ok(Self { function, values })
    }

    /// A value that is given and not null.
    fn get(&self, name: &str) -> Option<&ScalarValue> {
        let found = self.values.iter().find(|(given, value)| *given == name && !value.is_null());
        found.map(|(_, value)| value)
    }

    /// The error that argument `name` is not what it must be.
    pub(crate) fn wrong(&self, name: &str, why: impl Display) -> DataFusionError {
        plan(format!("{}: {name}: {why}", self.function.name()))
    }

    /// What must be given, and not null.
    pub(crate) fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(name, "it must not be null"))
    }

    /// The texts that name tags.
    pub(crate) fn tags(&self) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for (_, value) in self.values.iter().filter(|(name, _)| *name == TAGS) {
            let elements = match value {
                ScalarValue::List(list) if list.len() == 1 => list_of(&list.value(0)),
                ScalarValue::LargeList(list) if list.len() == 1 => list_of(&list.value(0)),
                other => other.try_as_str().map(|text| vec![text.map(str::to_owned)]),
            };
            let Some(elements) = elements else {
                let what = value.data_type();
                return Err(self.wrong(TAGS, format!("a name or an array of names, not {what}")));
            };
            texts.extend(elements.into_iter().flatten());
        }
        if texts.is_empty() {
            return Err(self.wrong(TAGS, "there is no name"));
        }
        Ok(texts)
    }

    /// An instant.
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let fits = matches!(
            value.data_type(),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
        ) || value.data_type().is_string();
        let time = if fits { value.cast_to(&utc_time()).ok() } else { None };
        match time {
            Some(ScalarValue::TimestampNanosecond(Some(time_ns), _)) => Ok(Some(time_ns)),
            _ => Err(self.wrong(
                name,
                format!("{value} is no time: write for example '2026-03-01T06:00:00Z' or now()"),
            )),
        }
    }

    /// A width in time.
    pub(crate) fn width(&self, name: &str) -> Result<Option<Width>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let width = match parts_of(value) {
            Some(parts) => parts.and_then(|(months, nanos)| Width::new(months, nanos)),
            None => Err(format!("{value} is no width: write for example '5 min'")),
        };
        width.map(Some).map_err(|why| self.wrong(name, why))
    }

    /// A length of time, zero allowed, without months.
    pub(crate) fn length_ns(&self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match parts_of(value) {
            Some(Ok((0, nanos))) if nanos >= 0 => Ok(Some(nanos)),
            Some(Err(why)) => Err(self.wrong(name, why)),
            Some(Ok((0, _))) => Err(self.wrong(name, "it must not be below zero")),
            Some(Ok(_)) => Err(self.wrong(name, "months have no length: write days")),
            None => {
                Err(self.wrong(name, format!("{value} is no length: write for example '5 min'")))
            }
        }
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.cast_to(&DataType::Float64);
        match number {
            Ok(ScalarValue::Float64(Some(number))) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(name, format!("{value} is no number"))),
        }
    }

    /// A count from `least` to [`CHART_POINTS_MAX`].
    pub(crate) fn count(&self, name: &str, least: i64) -> Result<i64> {
        let value = self.needed(name, self.get(name))?;
        let whole = value.data_type().is_integer() || value.data_type().is_string();
        match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(count)))
                if whole && (least..=CHART_POINTS_MAX).contains(&count) =>
            {
                Ok(count)
            }
            _ => Err(self.wrong(
                name,
                format!("{value} is no whole number from {least} to {CHART_POINTS_MAX}"),
            )),
        }
    }

    /// A zone of the IANA database.
    pub(crate) fn zone(&self, name: &str) -> Result<Option<Tz>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let zone = parse_zone(&text);
        zone.map(Some).ok_or_else(|| {
            self.wrong(name, format!("'{text}' is no zone: write for example 'Europe/Berlin'"))
        })
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.try_as_str() {
            Some(text) => Ok(text.map(str::to_owned)),
            None => Err(self.wrong(name, format!("{value} is no text"))),
        }
    }

    /// One of some words, the first if nothing is given.
    pub(crate) fn word<'a>(&self, name: &str, words: &[&'a str]) -> Result<&'a str> {
        let text = self.text(name)?;
        let found = match &text {
            None => words.first(),
            Some(text) => words.iter().find(|word| word.eq_ignore_ascii_case(text)),
        };
        let given = text.as_deref().unwrap_or_default();
        found.copied().ok_or_else(|| {
            self.wrong(name, format!("'{given}' is none of '{}'", words.join("', '")))
        })
    }

    /// A flag, false if nothing is given.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(ScalarValue::Boolean(Some(flag))) => Ok(*flag),
            Some(value) => match value.try_as_str().flatten().map(bool::from_str) {
                Some(Ok(flag)) => Ok(flag),
                _ => Err(self.wrong(name, format!("{value} is neither true nor false"))),
            },
        }
    }
}

/// Months and nanoseconds of a text, an interval or a duration.
fn parts_of(value: &ScalarValue) -> Option<Result<(i64, i64), String>> {
    let far = || "it is too long".to_owned();
    Some(match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            let days = i64::from(interval.days).checked_mul(DAY_NS);
            let nanos = days.and_then(|days| days.checked_add(interval.nanoseconds));
            nanos.map(|nanos| (i64::from(interval.months), nanos)).ok_or_else(far)
        }
        ScalarValue::IntervalYearMonth(Some(months)) => Ok((i64::from(*months), 0)),
        ScalarValue::IntervalDayTime(Some(interval)) => {
            let days = i64::from(interval.days).checked_mul(DAY_NS);
            let rest = i64::from(interval.milliseconds) * 1_000_000;
            let nanos = days.and_then(|days| days.checked_add(rest));
            nanos.map(|nanos| (0, nanos)).ok_or_else(far)
        }
        other if matches!(other.data_type(), DataType::Duration(_)) => {
            match other.cast_to(&DataType::Duration(TimeUnit::Nanosecond)) {
                Ok(ScalarValue::DurationNanosecond(Some(nanos))) => Ok((0, nanos)),
                _ => Err(far()),
            }
        }
        other => return other.try_as_str().flatten().map(parse_parts),
    })
}

/// The texts of an array.
fn list_of(array: &Arc<dyn Array>) -> Option<Vec<Option<String>>> {
    let texts = datafusion::arrow::compute::cast(array, &DataType::Utf8).ok()?;
    if !(array.data_type().is_string() || array.data_type().is_null()) {
        return None;
    }
    Some(texts.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect())
}

fn plan(text: String) -> DataFusionError {
    DataFusionError::Plan(text)
}
