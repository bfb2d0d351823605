//! Which bucket an instant falls into: pure arithmetic, no SQL.
//!
//! A rule gives for every instant the half-open range of its bucket, as UTC instants. Buckets tile the time line
//! without overlap, in order, also over changes of the local clock: a local boundary that the clock skips is the
//! instant of the skip, one that it shows twice is the first of the two.

use chrono::{DateTime, Datelike, Months, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;
use tagmill_storage::{DAY_NS, SECOND_NS};

use super::width::Width;

/// Widths up to this one step through UTC even in a zone.
const HOUR_NS: i64 = 3_600 * SECOND_NS;
/// 1970-01-05, a Monday, as a day number.
const MONDAY: i64 = 4;

/// How time is cut into buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Buckets {
    /// Equal lengths counted from an instant.
    Steps { width_ns: i64, origin_ns: i64 },
    /// Pieces of the local wall clock.
    Local { zone: Tz, offset_ns: i64, piece: Piece },
}

/// What the local wall clock is cut into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Equal parts of a day, the last one cut short where they do not fill it.
    OfDay(i64),
    /// So many days, counted from a day number.
    Days { count: i64, anchor: i64 },
    /// So many months, counted from a local time.
    Months { count: i64, origin: NaiveDateTime },
}

impl Buckets {
    /// Buckets of UTC, counted from `origin_ns` or, without one, from Monday 1970-01-05 for weeks and 1970 for the rest.
    pub(crate) fn utc(width: Width, origin_ns: Option<i64>) -> Self {
        if let Some(width_ns) = width.fixed_ns() {
            let monday = if width_ns % (7 * DAY_NS) == 0 { MONDAY * DAY_NS } else { 0 };
            return Self::Steps { width_ns, origin_ns: origin_ns.unwrap_or(monday) };
        }
        let origin = DateTime::from_timestamp_nanos(origin_ns.unwrap_or(0)).naive_utc();
        let piece = Piece::Months { count: width.months(), origin };
        Self::Local { zone: Tz::UTC, offset_ns: 0, piece }
    }

    /// Buckets of the wall clock of `zone`, days beginning at `offset_ns` after local midnight.
    ///
    /// # Errors
    /// A sentence, if the width cannot restart each day or the offset is a day or more.
    pub(crate) fn local(width: Width, zone: Tz, offset_ns: i64) -> Result<Self, String> {
        if !(0..DAY_NS).contains(&offset_ns) {
            return Err("the offset must be from 0 to below 24 hours".to_owned());
        }
        let piece = match width.fixed_ns() {
            None => Piece::Months { count: width.months(), origin: NaiveDateTime::default() },
            Some(width_ns) if width_ns <= HOUR_NS => {
                return Ok(Self::Steps { width_ns, origin_ns: offset_ns });
            }
            Some(width_ns) if width_ns < DAY_NS => Piece::OfDay(width_ns),
            Some(width_ns) if width_ns % DAY_NS == 0 => {
                let count = width_ns / DAY_NS;
                Piece::Days { count, anchor: if count % 7 == 0 { MONDAY } else { 0 } }
            }
            Some(_) => {
                return Err("in a zone a width above a day must be whole days".to_owned());
            }
        };
        Ok(Self::Local { zone, offset_ns, piece })
    }

    /// Start and end of the bucket of `time_ns`; nothing at the ends of representable time.
    pub(crate) fn range_of(&self, time_ns: i64) -> Option<(i64, i64)> {
        match self {
            Self::Steps { width_ns, origin_ns } => {
                let since = i128::from(time_ns) - i128::from(*origin_ns);
                let start = since.div_euclid(i128::from(*width_ns)) * i128::from(*width_ns)
                    + i128::from(*origin_ns);
                let start = i64::try_from(start).ok()?;
                Some((start, start.checked_add(*width_ns)?))
            }
            Self::Local { zone, offset_ns, piece } => {
                let local_ns = local_of(*zone, time_ns)?.checked_sub(*offset_ns)?;
                let mut local_start = piece.floor(local_ns)?;
                let mut start = instant_of(*zone, local_start.checked_add(*offset_ns)?)?;
                loop {
                    let local_end = piece.next(local_start)?;
                    let end = instant_of(*zone, local_end.checked_add(*offset_ns)?)?;
                    if time_ns < end {
                        return Some((start, end));
                    }
                    // The clock went back over a boundary: its first showing began the next bucket.
                    (local_start, start) = (local_end, end);
                }
            }
        }
    }
}

impl Piece {
    /// Start of the piece that holds a local time.
    fn floor(&self, local_ns: i64) -> Option<i64> {
        let day = local_ns.div_euclid(DAY_NS);
        match self {
            Self::OfDay(step_ns) => {
                let in_day = local_ns.rem_euclid(DAY_NS);
                Some(day * DAY_NS + in_day / step_ns * step_ns)
            }
            Self::Days { count, anchor } => {
                ((day - anchor).div_euclid(*count) * count + anchor).checked_mul(DAY_NS)
            }
            Self::Months { count, origin } => {
                let at = DateTime::from_timestamp_nanos(local_ns).naive_utc();
                let mut index = (month_number(at) - month_number(*origin)).div_euclid(*count);
                let mut start = month_start(*origin, index * count)?;
                if start > local_ns {
                    index -= 1;
                    start = month_start(*origin, index * count)?;
                }
                Some(start)
            }
        }
    }

    /// Start of the piece after the one that starts at `start_ns`.
    fn next(&self, start_ns: i64) -> Option<i64> {
        match self {
            Self::OfDay(step_ns) => {
                let day_end = (start_ns.div_euclid(DAY_NS) + 1).checked_mul(DAY_NS)?;
                Some(start_ns.checked_add(*step_ns)?.min(day_end))
            }
            Self::Days { count, .. } => start_ns.checked_add(count.checked_mul(DAY_NS)?),
            Self::Months { count, origin } => {
                let at = DateTime::from_timestamp_nanos(start_ns).naive_utc();
                let index = (month_number(at) - month_number(*origin)).div_euclid(*count);
                month_start(*origin, (index + 1).checked_mul(*count)?)
            }
        }
    }
}

/// Months since year 0.
fn month_number(at: NaiveDateTime) -> i64 {
    i64::from(at.year()) * 12 + i64::from(at.month0())
}

/// The local time `months` after `origin`; on the last day of a month that has no such day.
fn month_start(origin: NaiveDateTime, months: i64) -> Option<i64> {
    let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    let at = if months < 0 {
        origin.checked_sub_months(count)?
    } else {
        origin.checked_add_months(count)?
    };
    at.and_utc().timestamp_nanos_opt()
}

/// What the clock on the wall shows at an instant, counted as if it were UTC.
fn local_of(zone: Tz, time_ns: i64) -> Option<i64> {
    let utc = DateTime::from_timestamp_nanos(time_ns).naive_utc();
    let ahead = zone.offset_from_utc_datetime(&utc).fix().local_minus_utc();
    time_ns.checked_add(i64::from(ahead) * SECOND_NS)
}

/// The first instant at which the clock on the wall shows `local_ns` or, if it never does, jumps over it.
fn instant_of(zone: Tz, local_ns: i64) -> Option<i64> {
    if let Some(instant) = shown_at(zone, local_ns) {
        return Some(instant);
    }
    // No clock skips more than a day, so two days before it was right.
    let (mut shown, mut skipped) =
        (local_ns.div_euclid(SECOND_NS) - 2 * 86_400, local_ns.div_euclid(SECOND_NS));
    while skipped - shown > 1 {
        let middle = shown.midpoint(skipped);
        if shown_at(zone, middle.checked_mul(SECOND_NS)?).is_some() {
            shown = middle;
        } else {
            skipped = middle;
        }
    }
    shown_at(zone, shown.checked_mul(SECOND_NS)?)?.checked_add(SECOND_NS)
}

fn shown_at(zone: Tz, local_ns: i64) -> Option<i64> {
    let local = DateTime::from_timestamp_nanos(local_ns).naive_utc();
    let offset = zone.offset_from_local_datetime(&local).earliest()?;
    local_ns.checked_sub(i64::from(offset.fix().local_minus_utc()) * SECOND_NS)
}

/// The instant of a date at midnight UTC, for tests.
#[cfg(test)]
pub(crate) fn utc(year: i32, month: u32, day: u32, hour: u32, minute: u32) -> i64 {
    let date = chrono::NaiveDate::from_ymd_opt(year, month, day).unwrap();
    date.and_hms_opt(hour, minute, 0).unwrap().and_utc().timestamp_nanos_opt().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::{America::Santiago, Australia::Lord_Howe, Europe::Berlin, Pacific::Apia};

    fn width(text: &str) -> Width {
        Width::parse(text).unwrap()
    }

    #[test]
    fn weeks_start_on_monday_and_months_on_the_first() {
        let at = utc(2026, 3, 19, 13, 45);
        let start = |buckets: Buckets| buckets.range_of(at).unwrap().0;
        assert_eq!(start(Buckets::utc(width("1 week"), None)), utc(2026, 3, 16, 0, 0));
        assert_eq!(start(Buckets::utc(width("2 weeks"), None)), utc(2026, 3, 16, 0, 0));
        assert_eq!(start(Buckets::utc(width("1 month"), None)), utc(2026, 3, 1, 0, 0));
        assert_eq!(start(Buckets::utc(width("1 quarter"), None)), utc(2026, 1, 1, 0, 0));
        assert_eq!(start(Buckets::utc(width("1 year"), None)), utc(2026, 1, 1, 0, 0));
        let origin = Some(utc(2025, 1, 31, 6, 0));
        assert_eq!(start(Buckets::utc(width("1 month"), origin)), utc(2026, 2, 28, 6, 0));
        let origin = Some(utc(2026, 3, 19, 13, 40));
        assert_eq!(start(Buckets::utc(width("15 min"), origin)), utc(2026, 3, 19, 13, 40));
        assert_eq!(Buckets::utc(width("1 h"), None).range_of(-1).unwrap(), (-3_600 * SECOND_NS, 0));
    }

    #[test]
    fn shifts_have_seven_or_nine_hours_when_the_clock_changes() {
        let shifts = Buckets::local(width("8 hours"), Berlin, 6 * HOUR_NS).unwrap();
        let hours = |at| {
            let (start, end) = shifts.range_of(at).unwrap();
            (start, (end - start) / HOUR_NS)
        };
        // 2026-03-29 and 2026-10-25 are the days of change; the night shift begins at 22:00 local.
        assert_eq!(hours(utc(2026, 3, 29, 0, 30)), (utc(2026, 3, 28, 21, 0), 7));
        assert_eq!(hours(utc(2026, 10, 25, 0, 30)), (utc(2026, 10, 24, 20, 0), 9));
        assert_eq!(hours(utc(2026, 10, 25, 1, 30)), (utc(2026, 10, 24, 20, 0), 9));
        assert_eq!(hours(utc(2026, 6, 1, 12, 0)), (utc(2026, 6, 1, 12, 0), 8));
        let days = Buckets::local(width("1 day"), Berlin, 0).unwrap();
        let (start, end) = days.range_of(utc(2026, 10, 25, 12, 0)).unwrap();
        assert_eq!((start, (end - start) / HOUR_NS), (utc(2026, 10, 24, 22, 0), 25));
    }

    #[test]
    fn buckets_tile_time_over_every_change() {
        // Berlin: one hour at night. Santiago: midnight is skipped. Lord Howe: half an hour. Apia: a whole day is skipped.
        let cases = [
            (Berlin, utc(2026, 10, 24, 12, 0)),
            (Berlin, utc(2026, 3, 28, 12, 0)),
            (Santiago, utc(2026, 9, 5, 12, 0)),
            (Lord_Howe, utc(2026, 4, 4, 0, 0)),
            (Apia, utc(2011, 12, 29, 0, 0)),
        ];
        for (zone, from) in cases {
            for (text, offset_ns) in [
                ("90 min", 0),
                ("2 hours", HOUR_NS / 2),
                ("8 hours", 6 * HOUR_NS),
                ("5 hours", 9_000 * SECOND_NS),
                ("1 day", 2 * HOUR_NS + HOUR_NS / 2),
                ("1 week", 0),
                ("1 month", 0),
            ] {
                let buckets = Buckets::local(width(text), zone, offset_ns).unwrap();
                let mut last = buckets.range_of(from).unwrap();
                for minute in 0..4 * 1_440 {
                    let at = from + minute * 60 * SECOND_NS;
                    let range = buckets.range_of(at).unwrap();
                    assert!(range.0 <= at && at < range.1, "{zone} {text} {at} {range:?}");
                    if range != last {
                        assert_eq!(range.0, last.1, "{zone} {text}: a gap or an overlap");
                        last = range;
                    }
                    assert_eq!(buckets.range_of(range.0).unwrap(), range, "{zone} {text}");
                }
            }
        }
    }

    #[test]
    fn refuses_what_cannot_restart_each_day() {
        assert!(Buckets::local(width("36 hours"), Berlin, 0).is_err());
        assert!(Buckets::local(width("1 day"), Berlin, DAY_NS).is_err());
        assert!(Buckets::utc(width("36 hours"), None).range_of(0).is_some());
        assert!(Buckets::local(width("1 day"), Berlin, 0).unwrap().range_of(i64::MAX).is_none());
    }
}
