//! Functions that tools of PostgreSQL call, beside those of the library.

use std::sync::Arc;

use tagmill::arrow::array::{ArrayRef, AsArray as _, StringArray};
use tagmill::arrow::datatypes::{DataType, Int64Type};
use tagmill::datafusion::common::{ScalarValue, plan_datafusion_err, plan_err};
use tagmill::datafusion::error::Result;
use tagmill::datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarFunctionImplementation, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, create_udf,
};
use tagmill::datafusion::prelude::SessionContext;

use super::VERSION;
use crate::postgres::variables::known;

/// What is said of things that are not there, or have nothing to be said of them.
const SILENT: [&str; 14] = [
    "col_description",
    "obj_description",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_function_sqlbody",
    "pg_get_functiondef",
    "pg_get_indexdef",
    "pg_get_ruledef",
    "pg_get_serial_sequence",
    "pg_get_triggerdef",
    "pg_get_viewdef",
    "pg_tablespace_location",
    "shobj_description",
];
/// Sizes on disk that nobody knows of a relation or a database: samples lie together.
const SIZES: [&str; 3] = ["pg_database_size", "pg_indexes_size", "pg_table_size"];
/// Names that are found without their schema.
const VISIBLE: [&str; 7] = [
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_function_is_visible",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_ts_config_is_visible",
    "pg_type_is_visible",
];

/// Adds them all.
pub(super) fn add(context: &SessionContext) {
    let version = format!("PostgreSQL {VERSION} (Tagmill {})", env!("CARGO_PKG_VERSION"));
    context.register_udf(constant("version", version));
    context.register_udf(current_setting());
    context.register_udf(unlock_all());
    context.register_udf(like_escape());
    context.register_udf(size_pretty());
    let all = [
        (SILENT.as_slice(), ScalarValue::Utf8(None)),
        // Types of extensions, of which there are none.
        (["to_regtype"].as_slice(), ScalarValue::Int32(None)),
        (SIZES.as_slice(), ScalarValue::Int64(None)),
        (VISIBLE.as_slice(), ScalarValue::Boolean(Some(true))),
    ];
    for (names, value) in all {
        for name in names {
            context.register_udf(Always::of_anything(name, value.clone()));
        }
    }
}

/// A function of nothing that always says the same.
pub(super) fn constant(name: &str, value: String) -> ScalarUDF {
    let value = ScalarValue::Utf8(Some(value));
    let call = Arc::new(move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone())));
    create_udf(name, Vec::new(), DataType::Utf8, Volatility::Stable, call)
}

/// `current_setting(name)`: what PostgreSQL's clients ask of in queries, as it is in a new session.
fn current_setting() -> ScalarUDF {
    let call = |arguments: &[ArrayRef]| -> Result<ArrayRef> {
        let values = arguments[0].as_string::<i32>().iter().map(|name| {
            let Some(name) = name else { return Ok(None) };
            known(name).map(Some).ok_or_else(|| {
                plan_datafusion_err!("there is no setting {name:?} to ask for in a query")
            })
        });
        Ok(Arc::new(values.collect::<Result<StringArray>>()?))
    };
    let name = "current_setting";
    create_udf(name, vec![DataType::Utf8], DataType::Utf8, Volatility::Stable, of_arrays(call))
}

/// `pg_advisory_unlock_all()`: there are no locks, and pools of connections ask that none is left.
fn unlock_all() -> ScalarUDF {
    let call = Arc::new(|_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Null)));
    let name = "pg_advisory_unlock_all";
    create_udf(name, Vec::new(), DataType::Null, Volatility::Volatile, call)
}

/// `like_escape(pattern, escape)`: a pattern whose escape is another character as one whose escape is a backslash. The
/// escape is one character, or none: then a backslash is a character like others.
fn like_escape() -> ScalarUDF {
    let call = |arguments: &[ArrayRef]| -> Result<ArrayRef> {
        let patterns = arguments[0].as_string::<i32>().iter();
        let all = patterns.zip(arguments[1].as_string::<i32>().iter()).map(|pair| {
            let (Some(pattern), Some(escape)) = pair else { return Ok(None) };
            let mut characters = escape.chars();
            let (escape, None) = (characters.next(), characters.next()) else {
                return plan_err!("ESCAPE takes one character: {escape:?}");
            };
            with_backslashes(pattern, escape)
                .map(Some)
                .ok_or_else(|| plan_datafusion_err!("the pattern {pattern:?} ends with its escape"))
        });
        Ok(Arc::new(all.collect::<Result<StringArray>>()?))
    };
    let texts = vec![DataType::Utf8, DataType::Utf8];
    create_udf("like_escape", texts, DataType::Utf8, Volatility::Immutable, of_arrays(call))
}

/// None if the last character would escape one that is not there.
fn with_backslashes(pattern: &str, escape: Option<char>) -> Option<String> {
    let mut made = String::with_capacity(pattern.len());
    let mut is_escaped = false;
    for character in pattern.chars() {
        if Some(character) == escape && !is_escaped {
            made.push('\\');
            is_escaped = true;
            continue;
        }
        if character == '\\' && !is_escaped {
            made.push('\\');
        }
        made.push(character);
        is_escaped = false;
    }
    (!is_escaped).then_some(made)
}

/// `pg_size_pretty(bytes)`, as PostgreSQL rounds.
fn size_pretty() -> ScalarUDF {
    let call = |arguments: &[ArrayRef]| -> Result<ArrayRef> {
        let sizes = arguments[0].as_primitive::<Int64Type>().iter();
        Ok(Arc::new(sizes.map(|size| size.map(pretty)).collect::<StringArray>()))
    };
    let name = "pg_size_pretty";
    create_udf(name, vec![DataType::Int64], DataType::Utf8, Volatility::Immutable, of_arrays(call))
}

fn pretty(bytes: i64) -> String {
    /// From here on a unit gives way to the next.
    const MOST: u64 = 10 * 1024;
    if bytes.unsigned_abs() < MOST {
        return format!("{bytes} bytes");
    }
    // In halves of a unit, to round by.
    let mut halves = bytes / 512;
    let mut units = ["kB", "MB", "GB", "TB", "PB"].into_iter().peekable();
    loop {
        let unit = units.next().unwrap_or_default();
        if halves.unsigned_abs() < 2 * MOST - 1 || units.peek().is_none() {
            return format!("{} {unit}", halves / 2 + halves % 2);
        }
        halves /= 1024;
    }
}

/// Whatever the arguments, as arrays of one length.
fn of_arrays(
    call: impl Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync + 'static,
) -> ScalarFunctionImplementation {
    Arc::new(move |arguments| {
        let are_scalars = arguments.iter().all(|one| matches!(one, ColumnarValue::Scalar(_)));
        let made = call(&ColumnarValue::values_to_arrays(arguments)?)?;
        if are_scalars {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?));
        }
        Ok(ColumnarValue::Array(made))
    })
}

/// Always the same, whatever it is asked.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Always {
    name: &'static str,
    value: ScalarValue,
    signature: Signature,
}

impl Always {
    fn of_anything(name: &'static str, value: ScalarValue) -> ScalarUDF {
        let signature = Signature::variadic_any(Volatility::Stable);
        ScalarUDF::new_from_impl(Self { name, value, signature })
    }
}

impl ScalarUDFImpl for Always {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_the_same_with_another_escape() {
        for (pattern, escape, wanted) in [
            ("pg/_%", Some('/'), "pg\\_%"),
            ("a//b", Some('/'), "a\\/b"),
            ("a\\b", Some('/'), "a\\\\b"),
            ("a\\%", None, "a\\\\%"),
            ("!é!!", Some('!'), "\\é\\!"),
        ] {
            assert_eq!(with_backslashes(pattern, escape).as_deref(), Some(wanted), "{pattern}");
        }
        assert_eq!(with_backslashes("x!", Some('!')), None);
    }

    #[test]
    fn sizes_are_those_of_postgresql() {
        for (bytes, wanted) in [
            (0, "0 bytes"),
            (-10_239, "-10239 bytes"),
            (10_240, "10 kB"),
            (10_752, "11 kB"),
            (10_485_247, "10239 kB"),
            (10_485_248, "10 MB"),
            (1 << 40, "1024 GB"),
            (i64::MAX, "8192 PB"),
            (i64::MIN, "-8192 PB"),
        ] {
            assert_eq!(pretty(bytes), wanted, "{bytes}");
        }
    }
}
