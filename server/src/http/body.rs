//! Bodies of requests: how they are unpacked, and how a statement stands in one. Pure: bytes in, values out.
//!
//! # Contract
//! * What is unpacked is whole, and never longer than asked for; what is refused took no more memory than that.
//! * A parameter is the value that was written: a whole number to the digit, any other the float nearest to it.
//!
//! # What it does not know
//! HTTP, sessions, SQL.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read as _};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Bytes that a byte of gzip becomes at most.
const GZIP_FACTOR_MAX: usize = 1_032;

/// Why a body is not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Packed {
    /// Its bytes are not what they say, or end too early.
    #[error("the body cannot be unpacked: {0}")]
    Damaged(io::Error),
    /// It would be longer than that many bytes.
    #[error("unpacked the body is longer than {0} bytes")]
    TooLong(usize),
    /// It is packed in another way.
    #[error("a body is plain or packed by gzip, not by {0:?}")]
    Unknown(String),
}

/// The most bytes that a packed body may come to, if it is never longer than some.
pub(super) fn unpacked_bytes_max(body: &[u8], bytes_max: usize) -> usize {
    body.len().saturating_mul(GZIP_FACTOR_MAX).min(bytes_max)
}

/// A body without its packing.
///
/// # Errors
/// Why it cannot be had.
pub(super) fn unpacked<'a>(
    packing: Option<&str>,
    body: &'a [u8],
    bytes_max: usize,
) -> Result<Cow<'a, [u8]>, Packed> {
    match packing {
        None | Some("identity") if body.len() > bytes_max => Err(Packed::TooLong(bytes_max)),
        None | Some("identity") => Ok(Cow::Borrowed(body)),
        Some("gzip") => {
            // All at once: a text that grows is there twice for a moment.
            let mut text = Vec::with_capacity(unpacked_bytes_max(body, bytes_max + 1));
            let mut packed = MultiGzDecoder::new(body).take(bytes_max as u64 + 1);
            packed.read_to_end(&mut text).map_err(Packed::Damaged)?;
            if text.len() > bytes_max {
                return Err(Packed::TooLong(bytes_max));
            }
            Ok(Cow::Owned(text))
        }
        Some(other) => Err(Packed::Unknown(other.to_owned())),
    }
}

/// A statement, with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Asked {
    pub(super) sql: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) settings: HashMap<String, String>,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Parameter {
    Null,
    Bool(bool),
    I64(i64),
    F64(f64),
    Text(String),
}

/// A statement as JSON has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    sql: String,
    // As they are written: a number read for us would be the nearest float but for its last bit.
    #[serde(default, borrow)]
    parameters: Vec<&'a RawValue>,
    #[serde(default)]
    settings: HashMap<String, String>,
}

impl Asked {
    /// Reads a statement of at most so many parameters as JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of_json(body: &[u8], parameters_max: usize) -> Result<Self, String> {
        let written: Written<'_> =
            serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))?;
        if written.parameters.len() > parameters_max {
            return Err(format!("a statement has at most {parameters_max} parameters"));
        }
        let parameters = written.parameters.into_iter().map(|raw| Parameter::read(raw.get()));
        let parameters = parameters.collect::<Result<_, _>>()?;
        Ok(Self { sql: written.sql, parameters, settings: written.settings })
    }

    /// A statement as plain text, without parameters and settings.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of_text(body: &[u8]) -> Result<Self, String> {
        let sql = std::str::from_utf8(body).map_err(|_| "the statement is no UTF-8")?;
        Ok(Self { sql: sql.to_owned(), ..Self::default() })
    }
}

impl Parameter {
    /// Reads a JSON value.
    fn read(text: &str) -> Result<Self, String> {
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Bool(text == "true"),
            Some(b'"') => {
                let text = serde_json::from_str(text);
                Self::Text(text.map_err(|error| format!("the body: {error}"))?)
            }
            Some(b'-' | b'0'..=b'9') => Self::number(text)?,
            _ => {
                return Err(format!("a parameter is a text, a number or a boolean, not {text}"));
            }
        })
    }

    fn number(text: &str) -> Result<Self, String> {
        // Of whole numbers there is no -0.
        if let Some(number) = text.parse().ok().filter(|_| text != "-0") {
            return Ok(Self::I64(number));
        }
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.map(Self::F64).ok_or_else(|| format!("{text} is out of range"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn a_parameter_is_the_value_that_was_written() {
        for (text, want) in [
            ("null", Parameter::Null),
            ("true", Parameter::Bool(true)),
            ("false", Parameter::Bool(false)),
            ("9223372036854775807", Parameter::I64(i64::MAX)),
            ("9223372036854775808", Parameter::F64(9_223_372_036_854_775_808.0)),
            ("-9223372036854775808", Parameter::I64(i64::MIN)),
            ("0.1", Parameter::F64(0.1)),
            ("5e-324", Parameter::F64(5e-324)),
            (r#""a\n\u00e9""#, Parameter::Text("a\né".into())),
        ] {
            let body = format!(r#"{{"sql": "SELECT $1", "parameters": [ {text} ]}}"#);
            let asked = Asked::of_json(body.as_bytes(), 1).unwrap();
            assert_eq!(asked.parameters, [want], "{text}");
        }
        let zero = Parameter::read("-0").unwrap();
        assert!(matches!(zero, Parameter::F64(zero) if zero.is_sign_negative()));
        for wrong in ["[1]", "{}", "1e400", "-1e400"] {
            assert!(Parameter::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_statement_has_its_limits() {
        assert!(Asked::of_json(br#"{"sql": "", "parameters": [1, 2]}"#, 1).is_err());
        for wrong in [&b"{}"[..], b"", br#"{"sql": 1}"#, br#"{"sql": "", "more": 1}"#] {
            assert!(Asked::of_json(wrong, 1).is_err(), "{wrong:?}");
        }
        assert_eq!(Asked::of_text(b"SELECT 1").unwrap().sql, "SELECT 1");
        assert!(Asked::of_text(&[0xFF]).is_err());
    }

    #[test]
    fn a_body_is_never_longer_than_asked_for() {
        assert_eq!(&*unpacked(None, b"abc", 3).unwrap(), b"abc");
        assert!(matches!(unpacked(Some("identity"), b"abcd", 3), Err(Packed::TooLong(3))));
        assert!(matches!(unpacked(Some("gzip"), b"abcd", 3), Err(Packed::Damaged(_))));
        assert!(matches!(unpacked(Some("br"), b"", 3), Err(Packed::Unknown(_))));
    }

    #[test]
    fn nothing_unpacks_to_more_than_is_foreseen() {
        for length in [0, 1, 100, 1 << 20] {
            let mut packed = GzEncoder::new(Vec::new(), Compression::best());
            packed.write_all(&vec![0; length]).unwrap();
            let body = packed.finish().unwrap();
            assert_eq!(unpacked(Some("gzip"), &body, 2 << 20).unwrap().len(), length);
            assert!((length..=2 << 20).contains(&unpacked_bytes_max(&body, 2 << 20)));
        }
    }
}
