//! Time: `i64` nanoseconds since 1970-01-01T00:00:00 UTC, ranges half-open.
//!
//! The engine reads no clock of its own: [`Clock`] is handed in, so that tests decide what time it is.

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds of one second.
pub const SECOND_NS: i64 = 1_000_000_000;
/// Nanoseconds of one UTC day.
pub const DAY_NS: i64 = 86_400 * SECOND_NS;

/// A half-open range of source times, `start_ns <= t < end_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    /// First instant inside.
    pub start_ns: i64,
    /// First instant after.
    pub end_ns: i64,
}

impl TimeRange {
    /// Every representable instant but `i64::MAX`, which no sample may have.
    pub const ALL: Self = Self { start_ns: i64::MIN, end_ns: i64::MAX };

    /// The range `start_ns <= t < end_ns`; empty when `end_ns <= start_ns`.
    pub const fn new(start_ns: i64, end_ns: i64) -> Self {
        Self { start_ns, end_ns }
    }

    /// Whether no instant lies inside.
    pub const fn is_empty(&self) -> bool {
        self.end_ns <= self.start_ns
    }

    /// Whether `time_ns` lies inside.
    pub const fn contains(&self, time_ns: i64) -> bool {
        self.start_ns <= time_ns && time_ns < self.end_ns
    }

    /// Whether any instant of the inclusive span `first_ns..=last_ns` lies inside.
    pub const fn overlaps_span(&self, first_ns: i64, last_ns: i64) -> bool {
        first_ns < self.end_ns && self.start_ns <= last_ns && !self.is_empty()
    }

    /// Whether the inclusive span `first_ns..=last_ns` lies inside as a whole.
    pub const fn covers_span(&self, first_ns: i64, last_ns: i64) -> bool {
        self.start_ns <= first_ns && last_ns < self.end_ns
    }

    /// The instants in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self { start_ns: self.start_ns.max(other.start_ns), end_ns: self.end_ns.min(other.end_ns) }
    }
}

impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} .. {}", Rfc3339(self.start_ns), Rfc3339(self.end_ns))
    }
}

/// Shows an instant as RFC 3339 in UTC, with as many digits of a second as it has.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(SECOND_NS);
        let nanos = self.0.rem_euclid(SECOND_NS);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let in_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (in_day / 3_600, in_day / 60 % 60, in_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if nanos == 0 {
            return f.write_str("Z");
        }
        let digits = format!("{nanos:09}");
        write!(f, ".{}Z", digits.trim_end_matches('0'))
    }
}

/// Year, month, day of a day number since 1970-01-01 in the proleptic Gregorian calendar
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// Where the engine reads the time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall clock, nanoseconds since 1970 UTC. May jump.
    fn wall_ns(&self) -> i64;
    /// Monotonic clock, nanoseconds since an arbitrary start. Never goes back.
    fn monotonic_ns(&self) -> u64;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_instants_as_rfc3339() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.000000001Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (1_709_164_800 * SECOND_NS, "2024-02-29T00:00:00Z"),
            (1_709_164_800 * SECOND_NS + 500_000_000, "2024-02-29T00:00:00.5Z"),
            (crate::limits::TIME_MAX_NS, "2261-01-01T00:00:00Z"),
        ];
        for (ns, want) in cases {
            assert_eq!(Rfc3339(ns).to_string(), want);
        }
    }

    #[test]
    fn empty_ranges_overlap_nothing() {
        let empty = TimeRange::new(5, 5);
        assert!(empty.is_empty());
        assert!(!empty.overlaps_span(0, 10));
        assert!(TimeRange::new(5, 6).overlaps_span(5, 5));
        assert!(!TimeRange::new(5, 6).overlaps_span(6, 9));
    }
}
