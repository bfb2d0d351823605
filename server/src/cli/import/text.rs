//! What a text from a file says: a number, a truth value, a marker of bad quality, or words.
//!
//! Contract: the type of a tag follows from all its texts together ([`Seen::value_type`]); the table in
//! docs/import.md is this file in words. Knows nothing of files or tags.

use tagmill_storage::{Quality, ValueType};

/// Texts that mean "no usable value" in every tag.
pub const MARKERS: [&str; 2] = ["UNAVAILABLE", "Bad"];

/// Texts that mean "no usable value" in a tag that otherwise holds numbers; in a text tag they are words.
/// Most are the digital states that process historians put among numbers.
pub const NUMBER_MARKERS: [&str; 28] = [
    "NaN",
    "null",
    "none",
    "N/A",
    "#N/A",
    "#VALUE!",
    "#REF!",
    "No Data",
    "No Result",
    "No Sample",
    "Bad Input",
    "Bad Data",
    "Bad Output",
    "Inp OutRange",
    "Over Range",
    "Under Range",
    "I/O Timeout",
    "Scan Timeout",
    "Scan Off",
    "Shutdown",
    "Intf Shut",
    "Comm Fail",
    "Not Connect",
    "Pt Created",
    "Calc Failed",
    "Configure",
    "Invalid Data",
    "Error",
];

/// What one text says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said {
    /// Nothing, or blanks.
    Empty,
    /// One of [`MARKERS`].
    Marker,
    /// One of [`NUMBER_MARKERS`].
    NumberMarker,
    /// A whole number, written without point or exponent.
    Whole(i64),
    /// Any other number.
    Number(f64),
    /// `true` or `false`.
    Truth(bool),
    /// Anything else.
    Words,
}

/// Reads one text; `decimal` is the decimal sign.
pub fn read(text: &str, decimal: char) -> Said {
    let text = text.trim();
    let Some(&first) = text.as_bytes().first() else {
        return Said::Empty;
    };
    if matches!(first, b'0'..=b'9' | b'+' | b'-' | b'.' | b',') {
        return number(text, decimal);
    }
    if let Some(number) = infinity(text) {
        return Said::Number(number);
    }
    let is_one_of = |list: &[&str]| list.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_marker(text) {
        Said::Marker
    } else if is_one_of(&NUMBER_MARKERS) {
        Said::NumberMarker
    } else if text.eq_ignore_ascii_case("true") {
        Said::Truth(true)
    } else if text.eq_ignore_ascii_case("false") {
        Said::Truth(false)
    } else {
        Said::Words
    }
}

fn number(text: &str, decimal: char) -> Said {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        // "-0" is a float: an integer would lose its sign.
        let is_negative_zero = text.starts_with('-') && digits.bytes().all(|b| b == b'0');
        if let (false, Ok(whole)) = (is_negative_zero, text.parse()) {
            return Said::Whole(whole);
        }
    }
    if let Some(number) = infinity(text) {
        return Said::Number(number);
    }
    let is_plain = |sign: char| {
        digits
            .chars()
            .all(|c| c.is_ascii_digit() || matches!(c, 'e' | 'E' | '+' | '-') || c == sign)
    };
    if !is_plain(decimal) {
        return Said::Words;
    }
    let parsed = if decimal == '.' { text.parse() } else { text.replace(decimal, ".").parse() };
    parsed.map_or(Said::Words, Said::Number)
}

fn infinity(text: &str) -> Option<f64> {
    let (sign, word) = match text.as_bytes().first()? {
        b'-' => (-1.0, text.get(1..)?),
        b'+' => (1.0, text.get(1..)?),
        _ => (1.0, text),
    };
    let is_infinity = word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("infinity");
    is_infinity.then_some(sign * f64::INFINITY)
}

/// Whether a text is one of [`MARKERS`].
pub fn is_marker(text: &str) -> bool {
    let text = text.trim();
    MARKERS.iter().any(|marker| marker.eq_ignore_ascii_case(text))
}

/// What all texts of one tag have said so far, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(u8);

impl Seen {
    const WHOLE: u8 = 1;
    const NUMBER: u8 = 2;
    const TRUTH: u8 = 4;
    const WORDS: u8 = 8;

    /// Adds one text.
    pub fn add(&mut self, said: Said) {
        self.0 |= match said {
            Said::Empty | Said::Marker | Said::NumberMarker => 0,
            Said::Whole(_) => Self::WHOLE,
            Said::Number(_) => Self::NUMBER,
            Said::Truth(_) => Self::TRUTH,
            Said::Words => Self::WORDS,
        };
    }

    /// Whether nothing more can change the type: it is text already.
    pub fn is_settled(self) -> bool {
        self.0 & Self::WORDS != 0
    }

    /// Whether no text said anything about the type.
    pub fn is_mute(self) -> bool {
        self.0 == 0
    }

    /// The narrowest type that holds every text without loss.
    pub fn value_type(self) -> ValueType {
        match self.0 {
            Self::WHOLE => ValueType::I64,
            set if set & !(Self::WHOLE | Self::NUMBER) == 0 && set != 0 => ValueType::F64,
            Self::TRUTH => ValueType::Bool,
            _ => ValueType::Text,
        }
    }
}

/// Reads a quality: a StatusCode in decimal or hexadecimal, or a text that begins with Good, Uncertain or Bad.
/// An empty text is Good; any other text is the name of a fault, so Bad. `classic` says that numbers are
/// one-byte qualities of classic OPC instead.
pub fn quality(text: &str, classic: bool) -> Quality {
    let text = text.trim();
    if text.is_empty() {
        return Quality::GOOD;
    }
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = hex.map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
    if let Some(number) = number {
        return quality_of_number(number, classic);
    }
    let begins =
        |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if begins("good") {
        Quality::GOOD
    } else if begins("uncertain") {
        Quality::UNCERTAIN
    } else {
        Quality::BAD
    }
}

/// The quality a number stands for; `classic` as in [`quality`].
pub fn quality_of_number(number: u32, classic: bool) -> Quality {
    match (classic, number >> 6) {
        (false, _) => Quality(number),
        (true, 3) => Quality::GOOD,
        (true, 1) => Quality::UNCERTAIN,
        (true, _) => Quality::BAD,
    }
}

/// Whether a number can only be a one-byte quality of classic OPC: no StatusCode has only low bits.
pub const fn is_classic(number: i64) -> bool {
    0 < number && number < 256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_of(texts: &[&str]) -> ValueType {
        let mut seen = Seen::default();
        for text in texts {
            seen.add(read(text, '.'));
        }
        seen.value_type()
    }

    #[test]
    fn reads_numbers_exactly() {
        assert_eq!(read("42", '.'), Said::Whole(42));
        assert_eq!(read(" +7 ", '.'), Said::Whole(7));
        assert_eq!(read("9223372036854775807", '.'), Said::Whole(i64::MAX));
        assert_eq!(read("9223372036854775808", '.'), Said::Number(9_223_372_036_854_775_808.0));
        assert_eq!(read("1E-005", '.'), Said::Number(1e-5));
        assert_eq!(read("9.000000", '.'), Said::Number(9.0));
        assert_eq!(read("-inf", '.'), Said::Number(f64::NEG_INFINITY));
        assert_eq!(read("1,5", ','), Said::Number(1.5));
        assert_eq!(read("1,5", '.'), Said::Words);
        assert_eq!(read("1.234,5", ','), Said::Words);
        match read("-0", '.') {
            Said::Number(zero) => assert!(zero == 0.0 && zero.is_sign_negative()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_that_look_like_numbers_are_words() {
        for text in ["014-2407-1.NC", "1 2 3", "12h", "--", "-", "1e", "0x10", "1_000", "infinite"]
        {
            assert_eq!(read(text, '.'), Said::Words, "{text}");
        }
    }

    #[test]
    fn the_type_follows_from_all_texts() {
        assert_eq!(type_of(&["1", "", "UNAVAILABLE", "-3"]), ValueType::I64);
        assert_eq!(type_of(&["1", "2.5"]), ValueType::F64);
        assert_eq!(type_of(&["1", "Scan Timeout"]), ValueType::I64);
        assert_eq!(type_of(&["1", "ARMED"]), ValueType::Text);
        assert_eq!(type_of(&["true", "FALSE"]), ValueType::Bool);
        assert_eq!(type_of(&["true", "1"]), ValueType::Text);
        assert_eq!(type_of(&["UNAVAILABLE", ""]), ValueType::Text);
        assert_eq!(type_of(&["Shutdown"]), ValueType::Text);
    }

    #[test]
    fn reads_qualities() {
        assert_eq!(quality("", false), Quality::GOOD);
        assert_eq!(quality("Good_Clamped", false), Quality::GOOD);
        assert_eq!(quality("uncertain", false), Quality::UNCERTAIN);
        assert_eq!(quality("Inp OutRange", false), Quality::BAD);
        assert_eq!(quality("0x80740000", false), Quality::BAD_TYPE_MISMATCH);
        assert_eq!(quality("2155085824", false), Quality::BAD_TYPE_MISMATCH);
        assert_eq!(quality("192", true), Quality::GOOD);
        assert_eq!(quality("64", true), Quality::UNCERTAIN);
        assert_eq!(quality("0", true), Quality::BAD);
        assert!(is_classic(192) && !is_classic(0) && !is_classic(0x8000_0000));
    }
}
