//! Arrow to PostgreSQL's types and back.
//!
//! Contract: a float is written so that reading it gives the same bits, -0, NaN and infinities too.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_pg::datatypes::arrow_schema_to_pg_fields;
use arrow_pg::datatypes::df::deserialize_parameters_with_server_types;
use arrow_pg::encoder::{Encoder, encode_value};
use bytes::BytesMut;
use pgwire::api::Type;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::results::FieldInfo;
use pgwire::error::PgWireResult;
use pgwire::types::ToSqlText;
use pgwire::types::format::FormatOptions;
use postgres_types::{IsNull, Kind, ToSql};
use tagmill::arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use tagmill::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Field, Float32Type, Float64Type, SchemaRef,
};
use tagmill::datafusion::common::{ParamValues, ScalarValue};

use super::arrays::{check_array, has_fraction};
use super::errors::error;
use super::times::encode_times;

/// Columns as a client is told of them.
pub(super) fn fields_of(schema: &SchemaRef, format: &Format) -> PgWireResult<Vec<FieldInfo>> {
    let fields = arrow_schema_to_pg_fields(schema, format, None)?;
    Ok(fields.into_iter().map(sized).collect())
}

/// With the width that `pg_type.typlen` gives.
fn sized(field: FieldInfo) -> FieldInfo {
    let size = match *field.datatype() {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    };
    field.with_type_size(size)
}

/// Types of parameters as a client is told of them; those that could be anything are text.
pub(super) fn parameter_types(types: &[Option<DataType>]) -> PgWireResult<Vec<Type>> {
    let of = |known: &Option<DataType>| {
        known.as_ref().map_or(Ok(Type::TEXT), arrow_pg::datatypes::into_pg_type)
    };
    types.iter().map(of).collect()
}

/// The values that a client bound.
///
/// The library that reads them takes lengths of arrays on trust, makes a null of a time that is out of range, a time of a
/// whole number, a whole number of a fraction, and one quote of two: these are seen to here.
pub(super) fn bound<S: Clone>(
    portal: &Portal<S>,
    types: &[Option<DataType>],
) -> PgWireResult<Vec<ScalarValue>> {
    for (at, value) in portal.parameters.iter().enumerate() {
        let inferred = types.get(at).and_then(Option::as_ref);
        let (Some(value), Some(of)) = (value, read_as(portal, at, inferred)) else { continue };
        let (number, is_binary) = (at + 1, portal.parameter_format.is_binary(at));
        if matches!(of.kind(), Kind::Array(_)) && is_binary {
            check_array(value)
                .map_err(|()| error("22P03", format!("parameter ${number} is no array")))?;
        }
        if of == Type::NUMERIC_ARRAY && !takes_fractions(inferred) && has_fraction(value, is_binary)
        {
            let text = format!(
                "parameter ${number} is a list of whole numbers: one with a fraction is ${number}::float8[]"
            );
            return Err(error("22P02", text));
        }
        let is_whole = matches!(of, Type::INT2 | Type::INT4 | Type::INT8);
        if is_whole && matches!(inferred, Some(DataType::Timestamp(..))) {
            let text = format!("parameter ${number} is a time: a whole number is none");
            return Err(error("42804", text));
        }
    }
    let mut values = read(portal, types)?;
    for (at, (value, given)) in values.iter_mut().zip(&portal.parameters).enumerate() {
        let Some(given) = given else { continue };
        let number = at + 1;
        if let Some(wanted) = exactly_whole(portal, types, at) {
            *value = whole(value, wanted, number)?;
        }
        if value.is_null() {
            let text = format!("parameter ${number} is out of range: times go from 1678 to 2261");
            return Err(error("22008", text));
        }
        if let ScalarValue::Utf8(Some(text)) = value {
            let exact = std::str::from_utf8(given);
            exact
                .map_err(|_| error("22021", format!("parameter ${number} is no UTF-8")))?
                .clone_into(text);
        }
    }
    Ok(values)
}

/// The type by which a parameter is read: what the client says, or else what the statement takes.
fn read_as<S>(portal: &Portal<S>, at: usize, inferred: Option<&DataType>) -> Option<Type> {
    let told = portal.statement.parameter_types.get(at).cloned().flatten();
    told.or_else(|| arrow_pg::datatypes::into_pg_type(inferred?).ok())
}

/// Whether the library keeps fractions where it makes a list of one of NUMERIC.
fn takes_fractions(inferred: Option<&DataType>) -> bool {
    let Some(DataType::List(of)) = inferred else { return false };
    matches!(of.data_type(), DataType::Float32 | DataType::Float64 | DataType::Decimal128(..))
}

/// The values as they are read. A NUMERIC for a whole number is read with all of its digits.
fn read<S: Clone>(
    portal: &Portal<S>,
    types: &[Option<DataType>],
) -> PgWireResult<Vec<ScalarValue>> {
    let numeric = Type::NUMERIC;
    let is_numeric = |at: usize| exactly_whole(portal, types, at).is_some();
    let known = types.iter().enumerate();
    let known: Vec<Option<&DataType>> =
        known.map(|(at, known)| known.as_ref().filter(|_| !is_numeric(at))).collect();
    let told: Vec<Option<&Type>> =
        (0..types.len()).map(|at| is_numeric(at).then_some(&numeric)).collect();
    let reading = || deserialize_parameters_with_server_types(portal, &known, &told);
    // It stumbles over lists whose values do not fit.
    let read = catch_unwind(AssertUnwindSafe(reading)).unwrap_or_else(|_| {
        Err(error(
            "22P02",
            "the parameters cannot be read: do lists hold what the statement takes?",
        ))
    })?;
    let ParamValues::List(values) = read else {
        return Err(error("XX000", "parameters have numbers, not names"));
    };
    Ok(values.into_iter().map(|value| value.value).collect())
}

/// The type of a whole number that a parameter is for, if its value comes as NUMERIC, which may have a fraction.
fn exactly_whole<'a, S>(
    portal: &Portal<S>,
    types: &'a [Option<DataType>],
    at: usize,
) -> Option<&'a DataType> {
    let wanted = types.get(at)?.as_ref().filter(|wanted| wanted.is_integer())?;
    let is_given = portal.parameters.get(at).is_some_and(Option::is_some);
    let is_numeric = read_as(portal, at, Some(wanted)) == Some(Type::NUMERIC);
    (is_given && is_numeric).then_some(wanted)
}

/// A NUMERIC as a whole number of a type, if it is one.
fn whole(value: &ScalarValue, wanted: &DataType, number: usize) -> PgWireResult<ScalarValue> {
    let ScalarValue::Decimal128(Some(digits), _, scale) = value else { return Ok(value.clone()) };
    let one = 10_i128.pow(scale.unsigned_abs().into());
    if digits % one != 0 {
        let text = format!("parameter ${number} is a whole number: a fraction is none");
        return Err(error("22P02", text));
    }
    let whole = ScalarValue::Decimal128(Some(digits / one), DECIMAL128_MAX_PRECISION, 0);
    whole
        .cast_to(wanted)
        .map_err(|_| error("22003", format!("parameter ${number} is out of range of {wanted}")))
}

/// Writes one row.
///
/// The library that writes values stumbles over some of them, such as the scale of a decimal in a list. Its panic ends the
/// statement: nobody may go on with the encoder then.
pub(super) fn encode_row<E: Encoder>(
    encoder: &mut E,
    batch: &RecordBatch,
    row: usize,
    fields: &[FieldInfo],
) -> PgWireResult<E::Item> {
    let schema = batch.schema_ref();
    for ((column, field), shown) in batch.columns().iter().zip(schema.fields()).zip(fields) {
        if column.is_null(row) {
            encoder.encode_field(&None::<i8>, shown)?;
            continue;
        }
        let writing = AssertUnwindSafe(|| encode_one(encoder, column, row, field, shown));
        catch_unwind(writing).unwrap_or_else(|_| {
            let name = field.name();
            Err(error(
                "0A000",
                format!("this protocol cannot carry the values of {name:?}: CAST them"),
            ))
        })?;
    }
    Ok(encoder.take_row())
}

/// Writes one value, which is not null.
fn encode_one<E: Encoder>(
    encoder: &mut E,
    column: &ArrayRef,
    row: usize,
    field: &Field,
    shown: &FieldInfo,
) -> PgWireResult<()> {
    match field.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            encoder.encode_field(&Double(values.value(row)), shown)
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            encoder.encode_field(&Single(values.value(row)), shown)
        }
        _ => {
            if encode_times(encoder, column, row, shown)? {
                return Ok(());
            }
            encode_value(encoder, column, row, field, shown)
        }
    }
}

/// A float whose text gives its bits back.
#[derive(Clone, Copy, Debug)]
struct Double(f64);
#[derive(Clone, Copy, Debug)]
struct Single(f32);

/// What becomes of a value.
pub(super) type Written = Result<IsNull, Box<dyn StdError + Sync + Send>>;

macro_rules! float {
    ($name:ident, $inner:ty) => {
        impl ToSql for $name {
            fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Written {
                self.0.to_sql(of, out)
            }

            fn accepts(of: &Type) -> bool {
                <$inner as ToSql>::accepts(of)
            }

            postgres_types::to_sql_checked!();
        }

        impl ToSqlText for $name {
            fn to_sql_text(&self, _: &Type, out: &mut BytesMut, _: &FormatOptions) -> Written {
                let value = self.0;
                // The shortest text that reads as the same number; PostgreSQL's words for the rest.
                match value.abs() {
                    _ if value.is_nan() => out.write_str("NaN")?,
                    _ if value == <$inner>::INFINITY => out.write_str("Infinity")?,
                    _ if value == <$inner>::NEG_INFINITY => out.write_str("-Infinity")?,
                    size if size == 0.0 || (1e-4..1e15).contains(&size) => write!(out, "{value}")?,
                    _ => write!(out, "{value:e}")?,
                }
                Ok(IsNull::No)
            }
        }
    };
}

float!(Double, f64);
float!(Single, f32);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use pgwire::api::results::DataRowEncoder;
    use pgwire::api::stmt::StoredStatement;
    use pgwire::error::{ErrorInfo, PgWireError};
    use tagmill::arrow::array::{Decimal128Array, ListArray};
    use tagmill::arrow::buffer::OffsetBuffer;

    use super::*;

    fn code(failure: PgWireError) -> String {
        ErrorInfo::from(failure).code
    }

    /// A portal of one value, in text, of a type that the client names or leaves open.
    fn portal_of(hint: Option<Type>, value: &'static [u8]) -> Portal<()> {
        let statement = StoredStatement::new(String::new(), (), vec![hint]);
        let mut portal = Portal::new_cursor(String::new(), Arc::new(statement));
        portal.parameters = vec![Some(Bytes::from_static(value))];
        portal
    }

    fn bind(
        hint: Option<Type>,
        value: &'static str,
        wanted: DataType,
    ) -> PgWireResult<ScalarValue> {
        let portal = portal_of(hint, value.as_bytes());
        bound(&portal, &[Some(wanted)]).map(|values| values[0].clone())
    }

    #[test]
    fn an_array_is_checked_whoever_says_that_it_is_one() {
        let bomb = b"\0\0\0\x01\0\0\0\0\0\0\0\x14\x7F\xFF\xFF\xFF\0\0\0\x01";
        let list = DataType::new_list(DataType::Int64, true);
        for (hint, wanted) in [(Some(Type::INT8_ARRAY), None), (None, Some(list))] {
            let mut portal = portal_of(hint, bomb);
            portal.parameter_format = Format::UnifiedBinary;
            assert_eq!(bound(&portal, &[wanted]).map_err(code), Err("22P03".to_owned()));
        }
    }

    #[test]
    fn no_fraction_in_a_list_is_lost() {
        let list = |of| Some(DataType::new_list(of, true));
        for (value, wanted, is_taken) in [
            ("{1,2}", list(DataType::Int64), true),
            ("{1.5,2}", list(DataType::Int64), false),
            ("{1.5,2}", list(DataType::UInt64), false),
            ("{3000000000}", list(DataType::Int32), false),
            ("{1,2.5}", None, false),
            ("{1.5,2}", list(DataType::Float64), true),
        ] {
            let portal = portal_of(Some(Type::NUMERIC_ARRAY), value.as_bytes());
            let got = bound(&portal, std::slice::from_ref(&wanted)).map(|values| values.len());
            let want = if is_taken { Ok(1) } else { Err("22P02".to_owned()) };
            assert_eq!(got.map_err(code), want, "{value} {wanted:?}");
        }
    }

    #[test]
    fn no_fraction_becomes_a_whole_number() {
        let numeric = || Some(Type::NUMERIC);
        for (hint, value, want) in [
            (numeric(), "42", ScalarValue::Int64(Some(42))),
            (numeric(), "-42.00", ScalarValue::Int32(Some(-42))),
            (numeric(), "7", ScalarValue::UInt32(Some(7))),
            (None, "18446744073709551615", ScalarValue::UInt64(Some(u64::MAX))),
            (numeric(), "1.5", ScalarValue::Float64(Some(1.5))),
            (Some(Type::INT8), "42", ScalarValue::Int64(Some(42))),
        ] {
            assert_eq!(bind(hint, value, want.data_type()).unwrap(), want, "{value}");
        }
        for (hint, value, wanted, want) in [
            (numeric(), "1.5", DataType::Int64, "22P02"),
            (numeric(), "-0.1", DataType::Int32, "22P02"),
            (None, "0.5", DataType::UInt64, "22P02"),
            (numeric(), "3000000000", DataType::Int32, "22003"),
            (None, "-1", DataType::UInt64, "22003"),
        ] {
            assert_eq!(bind(hint, value, wanted).map_err(code), Err(want.to_owned()), "{value}");
        }
    }

    #[test]
    fn a_value_that_the_library_stumbles_over_ends_its_statement_alone() {
        for (scale, is_sent) in [(2, true), (30, false)] {
            let decimals = Decimal128Array::from(vec![125_i128]);
            let decimals = decimals.with_precision_and_scale(38, scale).unwrap();
            let of = Arc::new(Field::new_list_field(decimals.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths([1]);
            let list: ArrayRef = Arc::new(ListArray::new(of, offsets, Arc::new(decimals), None));
            let batch = RecordBatch::try_from_iter([("list", list)]).unwrap();
            let fields = Arc::new(fields_of(&batch.schema(), &Format::UnifiedText).unwrap());
            let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
            let row = encode_row(&mut encoder, &batch, 0, &fields);
            let want = if is_sent { Ok(()) } else { Err("0A000".to_owned()) };
            assert_eq!(row.map(|_| ()).map_err(code), want, "{scale}");
        }
    }

    #[test]
    fn a_floats_text_gives_its_bits_back() {
        let special = [0.0, -0.0, 1.0, 0.1, 1e15, 1e-5, f64::MAX, f64::MIN_POSITIVE, 5e-324, -2.5];
        for value in special {
            let mut text = BytesMut::new();
            Double(value).to_sql_text(&Type::FLOAT8, &mut text, &FormatOptions::default()).unwrap();
            let text = std::str::from_utf8(&text).unwrap().to_owned();
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
        }
        for (value, want) in
            [(f32::INFINITY, "Infinity"), (f32::NEG_INFINITY, "-Infinity"), (f32::NAN, "NaN")]
        {
            let mut text = BytesMut::new();
            Single(value).to_sql_text(&Type::FLOAT4, &mut text, &FormatOptions::default()).unwrap();
            assert_eq!(text, want);
        }
    }
}
