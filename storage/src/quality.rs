//! Quality of a sample: the OPC UA StatusCode as received, all 32 bits.
//!
//! OPC UA Part 4, 7.39: the top two bits are the severity, 00 Good, 01 Uncertain, 10 Bad; 11 is reserved and reads as Bad.

use std::fmt;

/// An OPC UA StatusCode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quality(pub u32);

/// The two top bits of a [`Quality`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The value may be used.
    Good,
    /// The value may be used with care.
    Uncertain,
    /// The value must not be used; SQL shows null.
    Bad,
}

impl Quality {
    /// Good, no further detail.
    pub const GOOD: Self = Self(0x0000_0000);
    /// Uncertain, no further detail.
    pub const UNCERTAIN: Self = Self(0x4000_0000);
    /// The communication to the source is lost; the value is the last one known.
    pub const UNCERTAIN_NO_COMMUNICATION: Self = Self(0x408F_0000);
    /// Bad, no further detail.
    pub const BAD: Self = Self(0x8000_0000);
    /// The source had no data to deliver.
    pub const BAD_NO_DATA: Self = Self(0x809B_0000);
    /// The source is not available.
    pub const BAD_NOT_CONNECTED: Self = Self(0x808A_0000);
    /// The source could not turn its reading into a value of the tag's type.
    pub const BAD_TYPE_MISMATCH: Self = Self(0x8074_0000);

    /// Good, Uncertain or Bad.
    pub const fn severity(self) -> Severity {
        match self.0 >> 30 {
            0 => Severity::Good,
            1 => Severity::Uncertain,
            _ => Severity::Bad,
        }
    }

    /// Whether the severity is Good.
    pub const fn is_good(self) -> bool {
        self.0 >> 30 == 0
    }

    /// Whether the severity is Bad.
    pub const fn is_bad(self) -> bool {
        self.0 >> 31 == 1
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "Good",
            Self::Uncertain => "Uncertain",
            Self::Bad => "Bad",
        })
    }
}
