//! [`Tier`]: the widths at which rollups are stored.

use std::fmt;

/// A width of the windows at which rollups are stored. Windows begin at multiples of it since 1970-01-01, in UTC. The
/// numbers are part of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tier {
    /// One minute.
    Minute = 1,
    /// 15 minutes.
    Quarter = 2,
    /// One hour.
    Hour = 3,
    /// One day.
    Day = 4,
}

impl Tier {
    /// All of them, the finest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::Quarter, Self::Hour, Self::Day];

    /// Length of a window in nanoseconds.
    pub const fn width_ns(self) -> i64 {
        const MINUTE_NS: i64 = 60 * 1_000_000_000;
        match self {
            Self::Minute => MINUTE_NS,
            Self::Quarter => 15 * MINUTE_NS,
            Self::Hour => 60 * MINUTE_NS,
            Self::Day => 24 * 60 * MINUTE_NS,
        }
    }

    /// Place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The tier with this number in the formats, if there is one.
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Minute),
            2 => Some(Self::Quarter),
            3 => Some(Self::Hour),
            4 => Some(Self::Day),
            _ => None,
        }
    }

    /// Its number in the formats.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "1m",
            Self::Quarter => "15m",
            Self::Hour => "1h",
            Self::Day => "1d",
        })
    }
}
