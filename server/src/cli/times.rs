//! Times as people write and read them: instants, local times in a zone, and how they are shown.
//!
//! Contract: a text without a zone is never guessed to be UTC; the caller names a zone or gets
//! [`TimeProblem::NoZone`]. Knows nothing of files or tables.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, LocalResult, NaiveDate, NaiveDateTime, Offset, TimeZone};
use tagmill_storage::{Rfc3339, SECOND_NS};

/// A zone local times are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// A place, with its clock changes.
    Place(chrono_tz::Tz),
    /// A fixed distance from UTC.
    Fixed(FixedOffset),
}

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self::Place(chrono_tz::Tz::UTC);

    /// The instant of a local time.
    ///
    /// # Errors
    /// [`TimeProblem::Skipped`] if clocks jumped over it, [`TimeProblem::OutOfRange`] if nanoseconds cannot hold it.
    pub fn instant(self, local: NaiveDateTime) -> Result<Instant, TimeProblem> {
        let found = match self {
            Self::Place(place) => fixed(place.from_local_datetime(&local)),
            Self::Fixed(offset) => offset.from_local_datetime(&local),
        };
        match found {
            LocalResult::Single(time) => nanos(&time).map(|ns| Instant { ns, is_ambiguous: false }),
            LocalResult::Ambiguous(first, second) => {
                nanos(&first.min(second)).map(|ns| Instant { ns, is_ambiguous: true })
            }
            LocalResult::None => Err(TimeProblem::Skipped),
        }
    }

    /// An instant as RFC 3339 in this zone.
    pub fn show(self, ns: i64) -> String {
        let (seconds, rest) = (ns.div_euclid(SECOND_NS), ns.rem_euclid(SECOND_NS));
        let utc = u32::try_from(rest).ok().and_then(|rest| DateTime::from_timestamp(seconds, rest));
        let Some(utc) = utc.filter(|_| self != Self::UTC) else {
            return Rfc3339(ns).to_string();
        };
        let local = match self {
            Self::Place(place) => {
                let shown = utc.with_timezone(&place);
                shown.with_timezone(&shown.offset().fix())
            }
            Self::Fixed(offset) => utc.with_timezone(&offset),
        };
        local.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, false)
    }
}

fn fixed(found: LocalResult<DateTime<chrono_tz::Tz>>) -> LocalResult<DateTime<FixedOffset>> {
    found.map(|time| time.with_timezone(&time.offset().fix()))
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => f.write_str(place.name()),
            Self::Fixed(offset) => write!(f, "{offset}"),
        }
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut places = chrono_tz::TZ_VARIANTS.iter();
        if let Some(place) = places.find(|place| place.name().eq_ignore_ascii_case(text)) {
            return Ok(Self::Place(*place));
        }
        let is_offset = text.starts_with(['+', '-']);
        match FixedOffset::from_str(text) {
            Ok(offset) if is_offset => Ok(Self::Fixed(offset)),
            _ => {
                Err(format!("no zone '{text}': write a place such as Europe/Berlin, UTC or +02:00"))
            }
        }
    }
}

/// An instant found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// Nanoseconds since 1970 UTC.
    pub ns: i64,
    /// The local time came twice that day (clocks set back); this is the first of the two.
    pub is_ambiguous: bool,
}

/// Why a text is no instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeProblem {
    /// It names no zone, and none was given.
    NoZone,
    /// It is no time we can read.
    Unreadable,
    /// Clocks were set forward over it.
    Skipped,
    /// Before 1970 or after 2260.
    OutOfRange,
}

impl fmt::Display for TimeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoZone => "the time has no zone",
            Self::Unreadable => "the time cannot be read",
            Self::Skipped => "the time does not exist in its zone: clocks were set forward over it",
            Self::OutOfRange => "the time is before 1970 or after 2260",
        })
    }
}

/// Reads an instant: RFC 3339, the same with a space, or a local time or date when a zone is given.
///
/// # Errors
/// See [`TimeProblem`].
pub fn parse(text: &str, zone: Option<Zone>) -> Result<Instant, TimeProblem> {
    let text = text.trim();
    let with_zone = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"))
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%#z"))
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M%#z"))
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M%#z"));
    if let Ok(time) = with_zone {
        return nanos(&time).map(|ns| Instant { ns, is_ambiguous: false });
    }
    let local =
        ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]
            .iter()
            .find_map(|pattern| NaiveDateTime::parse_from_str(text, pattern).ok())
            .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
            .ok_or(TimeProblem::Unreadable)?;
    zone.ok_or(TimeProblem::NoZone)?.instant(local)
}

/// Reads an instant in the caller's own pattern, in the words of `strftime`.
///
/// # Errors
/// See [`TimeProblem`].
pub fn parse_as(text: &str, pattern: &str, zone: Option<Zone>) -> Result<Instant, TimeProblem> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_str(text, pattern) {
        return nanos(&time).map(|ns| Instant { ns, is_ambiguous: false });
    }
    let local = NaiveDateTime::parse_from_str(text, pattern)
        .ok()
        .or_else(|| NaiveDate::parse_from_str(text, pattern).ok()?.and_hms_opt(0, 0, 0))
        .ok_or(TimeProblem::Unreadable)?;
    zone.ok_or(TimeProblem::NoZone)?.instant(local)
}

/// Reads an instant from the command line: what [`parse`] reads, `now`, or `now-2h` and the like.
///
/// # Errors
/// A sentence saying what would have been understood.
pub fn parse_argument(text: &str, zone: Option<Zone>, now_ns: i64) -> Result<i64, String> {
    if let Some(rest) = text.trim().strip_prefix("now") {
        return match rest.trim() {
            "" => Some(now_ns),
            rest => width_ns(rest.trim_start_matches(['-', '+']).trim()).and_then(|width| {
                if rest.starts_with('-') {
                    now_ns.checked_sub(width)
                } else if rest.starts_with('+') {
                    now_ns.checked_add(width)
                } else {
                    None
                }
            }),
        }
        .ok_or_else(|| {
            format!("'{text}' is no time: write now, now-90s, now-15m, now-2h or now-7d")
        });
    }
    match parse(text, zone) {
        Ok(instant) => Ok(instant.ns),
        Err(TimeProblem::NoZone) => Err(format!(
            "'{text}' has no zone: write {text}Z, {text}+02:00, or name a zone with --time-zone"
        )),
        Err(problem) => Err(format!(
            "'{text}': {problem}; write it like 2024-03-01T06:00:00Z, or now, or now-2h"
        )),
    }
}

/// Nanoseconds of a width such as `90s`, `15m`, `2h`, `7d` or `250ms`.
pub fn width_ns(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let unit_ns = match unit.trim() {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND_NS,
        "m" | "min" => 60 * SECOND_NS,
        "h" => 3_600 * SECOND_NS,
        "d" => 86_400 * SECOND_NS,
        _ => return None,
    };
    count.parse::<i64>().ok()?.checked_mul(unit_ns)
}

fn nanos<Z: TimeZone>(time: &DateTime<Z>) -> Result<i64, TimeProblem> {
    time.timestamp_nanos_opt().ok_or(TimeProblem::OutOfRange)
}

/// The computer's clock, nanoseconds since 1970 UTC.
pub fn now_ns() -> i64 {
    use tagmill_storage::{Clock, SystemClock};
    SystemClock::default().wall_ns()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_709_294_400 * SECOND_NS;

    fn ns(text: &str, zone: Option<&str>) -> Result<i64, TimeProblem> {
        parse(text, zone.map(|z| z.parse().unwrap())).map(|instant| instant.ns)
    }

    #[test]
    fn reads_instants_with_their_zone() {
        for text in [
            "2024-03-01T12:00:00Z",
            "2024-03-01 12:00:00Z",
            "2024-03-01T13:00:00+01:00",
            "2024-03-01 13:00:00.000+0100",
            "2024-03-01 13:00+01",
        ] {
            assert_eq!(ns(text, None), Ok(NOON), "{text}");
        }
        assert_eq!(ns("2024-03-01T12:00:00.000000001Z", None), Ok(NOON + 1));
    }

    #[test]
    fn a_local_time_needs_a_zone() {
        assert_eq!(ns("2024-03-01 13:00:00", None), Err(TimeProblem::NoZone));
        assert_eq!(ns("2024-03-01 13:00:00", Some("Europe/Berlin")), Ok(NOON));
        assert_eq!(ns("2024-03-01 14:00", Some("+02:00")), Ok(NOON));
        assert_eq!(ns("2024-03-01", Some("UTC")), Ok(NOON - 12 * 3_600 * SECOND_NS));
        assert_eq!(ns("01.03.2024", Some("UTC")), Err(TimeProblem::Unreadable));
    }

    #[test]
    fn clock_changes_are_seen() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let twice = parse("2024-10-27 02:30:00", Some(berlin)).unwrap();
        assert!(twice.is_ambiguous);
        assert_eq!(Rfc3339(twice.ns).to_string(), "2024-10-27T00:30:00Z");
        assert_eq!(parse("2024-03-31 02:30:00", Some(berlin)), Err(TimeProblem::Skipped));
    }

    #[test]
    fn own_patterns_and_arguments() {
        let zone = Some(Zone::UTC);
        assert_eq!(parse_as("01.03.2024 12:00", "%d.%m.%Y %H:%M", zone).unwrap().ns, NOON);
        assert_eq!(parse_as("03/01/24", "%d.%m.%Y", zone), Err(TimeProblem::Unreadable));
        assert_eq!(parse_argument("now", None, 7), Ok(7));
        assert_eq!(parse_argument("now-2s", None, NOON), Ok(NOON - 2 * SECOND_NS));
        assert!(parse_argument("now2", None, NOON).is_err());
        assert!(parse_argument("2024-03-01", None, NOON).unwrap_err().contains("--time-zone"));
    }

    #[test]
    fn shows_in_a_zone() {
        let berlin: Zone = "europe/berlin".parse().unwrap();
        assert_eq!(berlin.show(NOON), "2024-03-01T13:00:00+01:00");
        assert_eq!(Zone::UTC.show(NOON + 1_000_000), "2024-03-01T12:00:00.001Z");
        assert!("Mars".parse::<Zone>().is_err());
    }
}
