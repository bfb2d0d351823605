//! The time column: every form a file writes instants in, as nanoseconds since 1970 UTC.
//!
//! Contract: a time that names no zone is refused unless the caller named one; a number is no time unless the caller
//! said what it counts. A cell that is no time costs its row, never the import.

use std::str::FromStr;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Float32Type, Float64Type, Int64Type, TimeUnit};
use chrono::DateTime;
use tagmill_storage::limits::{TIME_MAX_NS, TIME_MIN_NS};

use super::source::{Field, Kind};
use crate::cli::failure::{Failure, Result};
use crate::cli::times::{self, TimeProblem, Zone};

/// Stands for a cell that is no time.
pub const NO_TIME: i64 = i64::MIN;

/// How a file writes times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    /// Numbers that count units of this many nanoseconds since 1970 UTC.
    Since1970(i64),
    /// Texts in this pattern of `strftime`.
    Pattern(String),
}

impl FromStr for TimeFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "s" => Self::Since1970(1_000_000_000),
            "ms" => Self::Since1970(1_000_000),
            "us" => Self::Since1970(1_000),
            "ns" => Self::Since1970(1),
            pattern if !pattern.contains('%') => {
                return Err(format!(
                    "'{text}' is neither s, ms, us, ns nor a pattern like '%d.%m.%Y %H:%M:%S'"
                ));
            }
            pattern => {
                use chrono::format::{Item, StrftimeItems};
                if StrftimeItems::new(pattern).any(|item| item == Item::Error) {
                    return Err(format!("'{text}' is no pattern that can be read"));
                }
                Self::Pattern(pattern.to_owned())
            }
        })
    }
}

/// What the caller said about times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeRules {
    /// How they are written.
    pub format: Option<TimeFormat>,
    /// The zone of those that name none.
    pub zone: Option<Zone>,
}

/// The times of a piece of a file.
#[derive(Debug, Default)]
pub struct Stamps {
    /// One for each row, [`NO_TIME`] where there is none.
    pub ns: Vec<i64>,
    /// Rows without a time, ascending; without a problem the cell was empty.
    pub problems: Vec<(usize, Option<TimeProblem>)>,
    /// How many local times came twice that day.
    pub ambiguous: u64,
}

impl TimeRules {
    /// Whether a column can be read as times at all.
    ///
    /// # Errors
    /// What the caller must say for it.
    pub fn check(&self, field: &Field) -> Result<()> {
        let column = &field.name;
        match (field.kind, &self.format) {
            (Kind::Time(_, false) | Kind::Date, _) if self.zone.is_none() => {
                Err(Failure::new(format!("the times of column '{column}' have no zone"))
                    .next("say which with --time-zone, such as --time-zone Europe/Berlin or UTC"))
            }
            (Kind::I64 | Kind::F64 | Kind::F32, None | Some(TimeFormat::Pattern(_))) => {
                Err(Failure::new(format!("column '{column}' holds numbers"))
                    .next("say what they count since 1970: --time-format s, ms, us or ns"))
            }
            (Kind::Bool | Kind::Other, _) => Err(Failure::new(format!(
                "column '{column}' of type {} holds no times",
                field.shown
            ))),
            _ => Ok(()),
        }
    }

    /// Reads a column of the given kind.
    ///
    /// # Errors
    /// If every text of it lacks a zone that the caller did not name either.
    pub fn read(&self, column: &ArrayRef, kind: Kind) -> Result<Stamps> {
        let mut stamps = Stamps { ns: Vec::with_capacity(column.len()), ..Stamps::default() };
        let unit = match self.format {
            Some(TimeFormat::Since1970(unit)) => unit,
            _ => 1,
        };
        match kind {
            Kind::Time(time_unit, true) => {
                let ticks = cast(column, &DataType::Int64)?;
                let ticks = ticks.as_primitive::<Int64Type>();
                let unit = nanos_of(time_unit);
                stamps.fill(ticks, |row| scaled(ticks.value(row), unit));
            }
            Kind::Time(time_unit, false) => {
                let ticks = cast(column, &DataType::Int64)?;
                let ticks = ticks.as_primitive::<Int64Type>();
                let unit = nanos_of(time_unit);
                let zone = self.zone.unwrap_or(Zone::UTC);
                stamps.fill(ticks, |row| local(scaled(ticks.value(row), unit)?.ns, zone));
            }
            Kind::Date => {
                let days = column.as_primitive::<Date32Type>();
                let zone = self.zone.unwrap_or(Zone::UTC);
                let day_ns = tagmill_storage::DAY_NS;
                stamps
                    .fill(days, |row| local(scaled(i64::from(days.value(row)), day_ns)?.ns, zone));
            }
            Kind::I64 => {
                let ticks = column.as_primitive::<Int64Type>();
                stamps.fill(ticks, |row| scaled(ticks.value(row), unit));
            }
            Kind::F64 => {
                let ticks = column.as_primitive::<Float64Type>();
                stamps.fill(ticks, |row| of_float(ticks.value(row), unit));
            }
            Kind::F32 => {
                let ticks = column.as_primitive::<Float32Type>();
                stamps.fill(ticks, |row| of_float(f64::from(ticks.value(row)), unit));
            }
            Kind::Text => {
                let texts = column.as_string::<i32>();
                stamps.fill(texts, |row| self.of_text(texts.value(row)));
                self.check_zone(&stamps)?;
            }
            Kind::Bool | Kind::Other => return Err(Failure::new("a column that holds no times")),
        }
        Ok(stamps)
    }

    fn of_text(&self, text: &str) -> Result<times::Instant, TimeProblem> {
        match &self.format {
            None => times::parse(text, self.zone),
            Some(TimeFormat::Pattern(pattern)) => times::parse_as(text, pattern, self.zone),
            Some(TimeFormat::Since1970(unit)) => of_decimal(text.trim(), *unit),
        }
    }

    fn check_zone(&self, stamps: &Stamps) -> Result<()> {
        let is_zoneless =
            |(_, problem): &(usize, Option<TimeProblem>)| *problem == Some(TimeProblem::NoZone);
        if self.zone.is_none() && stamps.problems.iter().any(is_zoneless) {
            return Err(Failure::new("the times of the file have no zone")
                .next("say which with --time-zone, such as --time-zone Europe/Berlin or UTC"));
        }
        Ok(())
    }
}

impl Stamps {
    fn fill(
        &mut self,
        column: &dyn Array,
        read: impl Fn(usize) -> Result<times::Instant, TimeProblem>,
    ) {
        for row in 0..column.len() {
            let found = if column.is_null(row) { Err(None) } else { read(row).map_err(Some) };
            let found = found.and_then(|instant| {
                let is_inside = (TIME_MIN_NS..TIME_MAX_NS).contains(&instant.ns);
                if is_inside { Ok(instant) } else { Err(Some(TimeProblem::OutOfRange)) }
            });
            match found {
                Ok(instant) => {
                    self.ambiguous += u64::from(instant.is_ambiguous);
                    self.ns.push(instant.ns);
                }
                Err(problem) => {
                    self.problems.push((row, problem));
                    self.ns.push(NO_TIME);
                }
            }
        }
    }
}

const fn nanos_of(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn scaled(ticks: i64, unit_ns: i64) -> Result<times::Instant, TimeProblem> {
    let ns = ticks.checked_mul(unit_ns).ok_or(TimeProblem::OutOfRange)?;
    Ok(times::Instant { ns, is_ambiguous: false })
}

/// The instant at which the clocks of `zone` showed what UTC clocks show at `ns`.
fn local(ns: i64, zone: Zone) -> Result<times::Instant, TimeProblem> {
    if zone == Zone::UTC {
        return Ok(times::Instant { ns, is_ambiguous: false });
    }
    zone.instant(DateTime::from_timestamp_nanos(ns).naive_utc())
}

#[expect(clippy::cast_possible_truncation, reason = "bounds are checked before the cast")]
fn of_float(ticks: f64, unit_ns: i64) -> Result<times::Instant, TimeProblem> {
    if !ticks.is_finite() {
        return Err(TimeProblem::Unreadable);
    }
    // A double that counts seconds has about 0.2 microseconds of precision: finer digits would be noise.
    let grain_ns = if unit_ns > 1_000_000 { 1_000 } else { 1 };
    let grains = (ticks * (unit_ns / grain_ns) as f64).round();
    if !(0.0..9.2e18).contains(&(grains * grain_ns as f64)) {
        return Err(TimeProblem::OutOfRange);
    }
    scaled(grains as i64, grain_ns)
}

/// Reads a number with an optional fraction, exactly.
pub(crate) fn of_decimal(text: &str, unit_ns: i64) -> Result<times::Instant, TimeProblem> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().map_err(|_| TimeProblem::Unreadable)?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TimeProblem::Unreadable);
    }
    let start = scaled(whole, unit_ns)?.ns;
    let mut rest = 0;
    let mut place_ns = unit_ns;
    for digit in fraction.bytes() {
        place_ns /= 10;
        rest += i64::from(digit - b'0') * place_ns;
    }
    let ns = start.checked_add(rest).ok_or(TimeProblem::OutOfRange)?;
    Ok(times::Instant { ns, is_ambiguous: false })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    fn field(kind: Kind) -> Field {
        Field { name: "t".into(), kind, shown: String::new() }
    }

    #[test]
    fn typed_times_need_their_zone_only_once() {
        let utc: ArrayRef = Arc::new(
            TimestampMicrosecondArray::from(vec![Some(1), None, Some(i64::MAX)])
                .with_timezone("UTC"),
        );
        let kind = Kind::Time(TimeUnit::Microsecond, true);
        let stamps = TimeRules::default().read(&utc, kind).unwrap();
        assert_eq!(stamps.ns, [1_000, NO_TIME, NO_TIME]);
        assert_eq!(stamps.problems, [(1, None), (2, Some(TimeProblem::OutOfRange))]);

        let kind = Kind::Time(TimeUnit::Microsecond, false);
        let refused = TimeRules::default().check(&field(kind)).unwrap_err().to_string();
        assert!(refused.contains("--time-zone"), "{refused}");
        let zone = Some("+01:00".parse().unwrap());
        let rules = TimeRules { zone, format: None };
        let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![3_600_000_001]));
        assert_eq!(rules.read(&naive, kind).unwrap().ns, [1_000]);
    }

    #[test]
    fn numbers_need_a_unit() {
        assert!(TimeRules::default().check(&field(Kind::I64)).is_err());
        let rules = TimeRules { format: Some("ms".parse().unwrap()), zone: None };
        rules.check(&field(Kind::I64)).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![5]));
        assert_eq!(rules.read(&column, Kind::I64).unwrap().ns, [5_000_000]);
        let rules = TimeRules { format: Some("s".parse().unwrap()), zone: None };
        let column: ArrayRef = Arc::new(Float64Array::from(vec![1_500_000_000.25, f64::NAN]));
        assert_eq!(
            rules.read(&column, Kind::F64).unwrap().ns,
            [1_500_000_000_250_000_000, NO_TIME]
        );
        let column: ArrayRef = Arc::new(StringArray::from(vec!["1.000000001", "x"]));
        assert_eq!(rules.read(&column, Kind::Text).unwrap().ns, [1_000_000_001, NO_TIME]);
    }

    #[test]
    fn texts_without_a_zone_stop_the_import() {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["2024-03-01 12:00:00"]));
        assert!(TimeRules::default().read(&column, Kind::Text).is_err());
        let zone = Some(Zone::UTC);
        let rules = TimeRules { format: Some("%d.%m.%y %H:%M".parse().unwrap()), zone };
        let column: ArrayRef = Arc::new(StringArray::from(vec!["02.01.70 00:00", "nonsense"]));
        let stamps = rules.read(&column, Kind::Text).unwrap();
        assert_eq!(stamps.ns, [86_400_000_000_000, NO_TIME]);
        assert_eq!(stamps.problems, [(1, Some(TimeProblem::Unreadable))]);
        assert!("dd.mm".parse::<TimeFormat>().is_err());
    }
}
