//! What a cell of a file becomes in a tag of a given type.
//!
//! Contract: lossless or refused. Only a text that is a number is rounded, to the nearest float, as any program that
//! reads it would. The table in docs/import.md is this file in words.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, Int64Array, StringArray,
};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use tagmill_storage::limits::TEXT_VALUE_BYTES_MAX;
use tagmill_storage::{Quality, Value, ValueType};

use super::source::Kind;
use super::text::{self, Said};

/// One cell of a value column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// A 64-bit float.
    F64(f64),
    /// A 32-bit float.
    F32(f32),
    /// A whole number.
    I64(i64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
}

/// What a cell becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum Fit {
    /// A value of this quality.
    Value(Value, Quality),
    /// A sample without a usable value.
    NoValue(Quality),
    /// Nothing: the type cannot hold it.
    Refused(&'static str),
}

/// A value column, ready to be read cell by cell.
#[derive(Clone, Copy, Debug)]
pub enum Cells<'a> {
    /// 64-bit floats.
    F64(&'a Float64Array),
    /// 32-bit floats.
    F32(&'a Float32Array),
    /// Whole numbers.
    I64(&'a Int64Array),
    /// Truth values.
    Bool(&'a BooleanArray),
    /// Texts.
    Text(&'a StringArray),
}

impl<'a> Cells<'a> {
    /// The cells of a column of this kind; `None` if a tag cannot hold them.
    pub fn of(column: &'a ArrayRef, kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::F64 => Self::F64(column.as_primitive_opt::<Float64Type>()?),
            Kind::F32 => Self::F32(column.as_primitive_opt::<Float32Type>()?),
            Kind::I64 => Self::I64(column.as_primitive_opt::<Int64Type>()?),
            Kind::Bool => Self::Bool(column.as_boolean_opt()?),
            Kind::Text => Self::Text(column.as_string_opt::<i32>()?),
            Kind::Time(..) | Kind::Date | Kind::Other => return None,
        })
    }

    /// The cell of a row, `None` where there is none.
    pub fn at(self, row: usize) -> Option<Cell<'a>> {
        Some(match self {
            Self::F64(column) if column.is_valid(row) => Cell::F64(column.value(row)),
            Self::F32(column) if column.is_valid(row) => Cell::F32(column.value(row)),
            Self::I64(column) if column.is_valid(row) => Cell::I64(column.value(row)),
            Self::Bool(column) if column.is_valid(row) => Cell::Bool(column.value(row)),
            Self::Text(column) if column.is_valid(row) => Cell::Text(column.value(row)),
            _ => return None,
        })
    }
}

/// The type a column of this kind gives its tags when their texts need not be asked.
pub const fn type_of(kind: Kind) -> Option<ValueType> {
    match kind {
        Kind::F64 => Some(ValueType::F64),
        Kind::F32 => Some(ValueType::F32),
        Kind::I64 => Some(ValueType::I64),
        Kind::Bool => Some(ValueType::Bool),
        Kind::Text | Kind::Time(..) | Kind::Date | Kind::Other => None,
    }
}

/// What `cell` becomes in a tag of type `target`; `decimal` is the decimal sign of texts.
pub fn fit(cell: Cell<'_>, target: ValueType, decimal: char) -> Fit {
    match (cell, target) {
        (Cell::F64(x), _) if x.is_nan() && target == ValueType::F64 => {
            Fit::Value(Value::F64(x), Quality::BAD)
        }
        (Cell::F32(x), _) if x.is_nan() && target == ValueType::F32 => {
            Fit::Value(Value::F32(x), Quality::BAD)
        }
        (Cell::F64(x), _) if x.is_nan() => Fit::NoValue(Quality::BAD),
        (Cell::F32(x), _) if x.is_nan() => Fit::NoValue(Quality::BAD),
        (Cell::Text(words), _) if words.len() > TEXT_VALUE_BYTES_MAX => {
            Fit::Refused("a text longer than 64 KiB")
        }
        (Cell::Text(words), ValueType::Text) => {
            let is_marker = text::is_marker(words);
            let quality = if is_marker { Quality::BAD } else { Quality::GOOD };
            Fit::Value(Value::Text(Arc::from(words)), quality)
        }
        (Cell::Text(words), _) => match text::read(words, decimal) {
            Said::Empty => Fit::NoValue(Quality::BAD_NO_DATA),
            Said::Marker | Said::NumberMarker => Fit::NoValue(Quality::BAD),
            Said::Whole(x) if target == ValueType::F64 => good(Value::F64(x as f64)),
            Said::Number(x) if target == ValueType::F32 => nearest_f32(x),
            Said::Whole(x) if target == ValueType::F32 => nearest_f32(x as f64),
            Said::Whole(x) => fit(Cell::I64(x), target, decimal),
            Said::Number(x) => fit(Cell::F64(x), target, decimal),
            Said::Truth(x) => fit(Cell::Bool(x), target, decimal),
            Said::Words => Fit::Refused("a text for a tag of numbers"),
        },
        (Cell::F64(x), ValueType::F64) => good(Value::F64(x)),
        (Cell::F32(x), ValueType::F32) => good(Value::F32(x)),
        (Cell::F32(x), ValueType::Text) => good(Value::Text(x.to_string().into())),
        (Cell::F32(x), _) => fit(Cell::F64(f64::from(x)), target, decimal),
        (Cell::F64(x), ValueType::F32) => exact_f32(x),
        (Cell::F64(x), ValueType::Text) => good(Value::Text(x.to_string().into())),
        (Cell::F64(x), _) => whole(x)
            .map_or(Fit::Refused("a number with a fraction for a tag that holds none"), |x| {
                fit(Cell::I64(x), target, decimal)
            }),
        (Cell::I64(x), _) => fit_whole(x, target),
        (Cell::Bool(x), ValueType::Bool) => good(Value::Bool(x)),
        (Cell::Bool(x), ValueType::Text) => good(Value::Text(x.to_string().into())),
        (Cell::Bool(x), _) => fit_whole(i64::from(x), target),
    }
}

const fn good(value: Value) -> Fit {
    Fit::Value(value, Quality::GOOD)
}

fn fit_whole(x: i64, target: ValueType) -> Fit {
    const TOO_LONG: Fit = Fit::Refused("a whole number with more digits than the tag's type holds");
    match target {
        ValueType::I64 => good(Value::I64(x)),
        ValueType::F64 if whole(x as f64) == Some(x) => good(Value::F64(x as f64)),
        ValueType::F32 => {
            whole(x as f64).filter(|&y| y == x).map_or(TOO_LONG, |_| exact_f32(x as f64))
        }
        ValueType::F64 => TOO_LONG,
        ValueType::Bool if x == 0 || x == 1 => good(Value::Bool(x == 1)),
        ValueType::Bool => Fit::Refused("a number other than 0 and 1 for a bool tag"),
        ValueType::State => u16::try_from(x)
            .map_or(Fit::Refused("no state code: they run from 0 to 65535"), |x| {
                good(Value::State(x))
            }),
        ValueType::Text => good(Value::Text(x.to_string().into())),
    }
}

/// The whole number a float stands for, if it is one and safely so.
#[expect(clippy::cast_possible_truncation, reason = "bounds are checked before the cast")]
fn whole(x: f64) -> Option<i64> {
    let is_whole = x.fract() == 0.0 && x.abs() < 9.2e18 && !(x == 0.0 && x.is_sign_negative());
    is_whole.then_some(x as i64)
}

fn exact_f32(x: f64) -> Fit {
    match nearest_f32(x) {
        Fit::Value(Value::F32(near), quality) if f64::from(near).to_bits() == x.to_bits() => {
            Fit::Value(Value::F32(near), quality)
        }
        _ => Fit::Refused("a number with more digits than an f32 tag holds"),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is asked")]
const fn nearest_f32(x: f64) -> Fit {
    good(Value::F32(x as f32))
}

/// What stands where there is no value.
pub fn blank(target: ValueType) -> Value {
    match target {
        ValueType::F64 => Value::F64(f64::NAN),
        ValueType::F32 => Value::F32(f32::NAN),
        ValueType::I64 => Value::I64(0),
        ValueType::Bool => Value::Bool(false),
        ValueType::State => Value::State(0),
        ValueType::Text => Value::Text(Arc::from("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cell: Cell<'_>, target: ValueType) -> Option<Value> {
        match fit(cell, target, '.') {
            Fit::Value(value, Quality::GOOD) => Some(value),
            _ => None,
        }
    }

    #[test]
    fn numbers_are_kept_or_refused() {
        use ValueType as T;
        let big = (1_i64 << 53) + 1;
        assert_eq!(of(Cell::I64(big), T::I64), Some(Value::I64(big)));
        assert_eq!(of(Cell::I64(big), T::F64), None);
        assert_eq!(of(Cell::I64(1 << 53), T::F64), Some(Value::F64(9_007_199_254_740_992.0)));
        assert_eq!(of(Cell::F64(2.5), T::I64), None);
        assert_eq!(of(Cell::F64(-0.0), T::I64), None);
        assert_eq!(of(Cell::F64(2.0), T::I64), Some(Value::I64(2)));
        assert_eq!(of(Cell::F64(0.1), T::F32), None);
        assert_eq!(of(Cell::F64(0.5), T::F32), Some(Value::F32(0.5)));
        assert_eq!(of(Cell::F64(f64::INFINITY), T::F64), Some(Value::F64(f64::INFINITY)));
        assert_eq!(of(Cell::I64(2), T::Bool), None);
        assert_eq!(of(Cell::Bool(true), T::F64), Some(Value::F64(1.0)));
        assert_eq!(of(Cell::I64(70_000), T::State), None);
        assert_eq!(of(Cell::F64(1.5), T::Text), Some(Value::Text("1.5".into())));
    }

    #[test]
    fn texts_become_what_they_say() {
        use ValueType as T;
        assert_eq!(of(Cell::Text("1E-005"), T::F64), Some(Value::F64(1e-5)));
        assert_eq!(of(Cell::Text("0.1"), T::F32), Some(Value::F32(0.1)));
        assert_eq!(of(Cell::Text("7"), T::Text), Some(Value::Text("7".into())));
        assert_eq!(
            fit(Cell::Text("ARMED"), T::F64, '.'),
            Fit::Refused("a text for a tag of numbers")
        );
        assert_eq!(fit(Cell::Text(""), T::F64, '.'), Fit::NoValue(Quality::BAD_NO_DATA));
        assert_eq!(fit(Cell::Text("UNAVAILABLE"), T::I64, '.'), Fit::NoValue(Quality::BAD));
        assert_eq!(
            fit(Cell::Text("UNAVAILABLE"), T::Text, '.'),
            Fit::Value(Value::Text("UNAVAILABLE".into()), Quality::BAD)
        );
        assert_eq!(of(Cell::Text(""), T::Text), Some(Value::Text("".into())));
        match fit(Cell::F64(f64::NAN), T::F64, '.') {
            Fit::Value(Value::F64(x), Quality::BAD) => assert!(x.is_nan()),
            other => panic!("{other:?}"),
        }
    }
}
