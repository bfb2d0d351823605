//! The width of a time bucket: so many nanoseconds, or so many calendar months.
//!
//! Text is a list of numbers with units: `8 hours`, `300.000s`, `1 day 12 h`, `1 month`. A single `m` is a minute, a
//! single capital `M` a month, as dashboards write them. What a day is, is not known here: see [`super::bucket`].

use tagmill_storage::{DAY_NS, SECOND_NS};

/// A width. Either part may be zero, not both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Width {
    months: i64,
    nanos: i64,
}

const MINUTE_NS: i64 = 60 * SECOND_NS;
const HOUR_NS: i64 = 60 * MINUTE_NS;

impl Width {
    /// The width of `months` and `nanos`.
    ///
    /// # Errors
    /// A sentence, if it is not positive or mixes months with shorter units.
    pub(crate) fn new(months: i64, nanos: i64) -> Result<Self, String> {
        match (months, nanos) {
            (0, 1..) | (1.., 0) => Ok(Self { months, nanos }),
            (0, _) | (_, 0) => Err("a width must be above zero".to_owned()),
            _ => Err("a width is months or shorter units, not both".to_owned()),
        }
    }

    /// Reads a width from text.
    ///
    /// # Errors
    /// A sentence that says what is wrong and shows a right one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (months, nanos) = parse_parts(text)?;
        Self::new(months, nanos).map_err(|why| format!("'{text}': {why}"))
    }

    /// Its length, unless it is in months, whose length varies.
    pub(crate) fn fixed_ns(self) -> Option<i64> {
        (self.months == 0).then_some(self.nanos)
    }

    /// Its months; 0 for a fixed length.
    pub(crate) fn months(self) -> i64 {
        self.months
    }
}

/// Months and nanoseconds of a text such as `6 hours`, zero allowed.
pub(crate) fn parse_parts(text: &str) -> Result<(i64, i64), String> {
    let wrong =
        || format!("'{text}' is no width: write for example '8 hours', '300s' or '1 month'");
    let mut rest = text.trim();
    let (mut months, mut nanos) = (0_i64, 0_i64);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (unit_months, unit_nanos) = unit_of(unit).ok_or_else(wrong)?;
        let months_more = scale(number, unit_months).ok_or_else(wrong)?;
        let nanos_more = scale(number, unit_nanos).ok_or_else(wrong)?;
        months = months.checked_add(months_more).ok_or_else(wrong)?;
        nanos = nanos.checked_add(nanos_more).ok_or_else(wrong)?;
        rest = tail.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    Ok((months, nanos))
}

/// Months and nanoseconds of one unit.
fn unit_of(unit: &str) -> Option<(i64, i64)> {
    if unit == "M" {
        return Some((1, 0));
    }
    Some(match unit.to_lowercase().as_str() {
        "ns" | "nanosecond" | "nanoseconds" => (0, 1),
        "us" | "µs" | "microsecond" | "microseconds" => (0, 1_000),
        "ms" | "millisecond" | "milliseconds" => (0, 1_000_000),
        "s" | "sec" | "secs" | "second" | "seconds" => (0, SECOND_NS),
        "m" | "min" | "mins" | "minute" | "minutes" => (0, MINUTE_NS),
        "h" | "hr" | "hrs" | "hour" | "hours" => (0, HOUR_NS),
        "d" | "day" | "days" => (0, DAY_NS),
        "w" | "week" | "weeks" => (0, 7 * DAY_NS),
        "mon" | "mons" | "month" | "months" => (1, 0),
        "quarter" | "quarters" => (3, 0),
        "y" | "yr" | "year" | "years" => (12, 0),
        _ => return None,
    })
}

/// `number` times `unit` in whole units below it; nothing if that is not whole or too large.
fn scale(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || fraction.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let scaled = digits.checked_mul(i128::from(unit))?;
    (scaled % divisor == 0).then(|| i64::try_from(scaled / divisor).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_and_dashboards_write() {
        for (text, months, nanos) in [
            ("8 hours", 0, 8 * HOUR_NS),
            ("300.000s", 0, 300 * SECOND_NS),
            ("0.5 s", 0, SECOND_NS / 2),
            ("1d12h", 0, 36 * HOUR_NS),
            ("1 day 12 hours", 0, 36 * HOUR_NS),
            ("5m", 0, 5 * MINUTE_NS),
            ("1M", 1, 0),
            ("1 month", 1, 0),
            ("2 years", 24, 0),
            ("1 week", 0, 7 * DAY_NS),
            ("100ns", 0, 100),
        ] {
            assert_eq!(Width::parse(text), Ok(Width { months, nanos }), "{text}");
        }
        for text in ["", "5", "hours", "0 s", "-1 h", "1 month 1 day", "0.5 ns", "1.2.3 s", "9e9 s"]
        {
            assert!(Width::parse(text).is_err(), "{text:?} was taken");
        }
        assert!(Width::parse("99999999999999999999 years").is_err());
    }
}
