//! Functions that can make much of little: each call says before it runs what it may come to.
//!
//! `repeat('x', 1000000000)` would allocate outside the memory pool, and in one go. The functions stay what they are; one
//! that would make more than [`CALL_BYTES_MAX`] of a batch, or take more than [`CALL_STEPS_MAX`] steps, is refused.
//! Those that tell of files are taken out.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type, TimestampNanosecondType};
use datafusion::common::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use crate::error::{Error, into_datafusion};
use crate::limits::{CALL_BYTES_MAX, CALL_STEPS_MAX};

/// Functions of files, of which there are none here.
const TAKEN_OUT: [&str; 3] = ["input_file_name", "file_row_index", "with_metadata"];

/// What the answer of a function may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cost {
    /// A text, as often as a number says.
    Repeated,
    /// Filled up to a length.
    Padded,
    /// A text at each place of another.
    Replaced,
    /// The first text between the others, or between the elements of lists.
    Joined,
    /// A value, as often as a number says.
    Listed,
    /// A list of a length.
    Resized,
    /// All steps from one number to another.
    Series,
    /// A form, once a row.
    Formatted,
    /// Steps: each character of a text with each of another.
    Compared,
}

const CAPPED: [(&str, Cost); 15] = [
    ("repeat", Cost::Repeated),
    ("lpad", Cost::Padded),
    ("rpad", Cost::Padded),
    ("replace", Cost::Replaced),
    ("regexp_replace", Cost::Replaced),
    ("concat_ws", Cost::Joined),
    ("array_to_string", Cost::Joined),
    ("array_repeat", Cost::Listed),
    ("array_resize", Cost::Resized),
    ("range", Cost::Series),
    ("generate_series", Cost::Series),
    ("to_char", Cost::Formatted),
    ("levenshtein", Cost::Compared),
    ("translate", Cost::Formatted),
    ("overlay", Cost::Formatted),
];

/// Bounds the functions of a state.
///
/// # Errors
/// None in practice: the state takes functions in place of others.
pub(crate) fn bound(state: &mut SessionState) -> Result<()> {
    for name in TAKEN_OUT {
        state.deregister_udf(name)?;
    }
    for (name, cost) in CAPPED {
        let Ok(inner) = state.udf(name) else { continue };
        let capped = ScalarUDF::from(Capped { inner, cost });
        state.register_udf(Arc::new(capped))?;
    }
    Ok(())
}

/// A function that says what it may come to.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Capped {
    inner: Arc<ScalarUDF>,
    cost: Cost,
}

impl ScalarUDFImpl for Capped {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let cost = cost_of(self.cost, &args.args, args.number_rows as u64);
        let (most, what) = match self.cost {
            Cost::Compared => (CALL_STEPS_MAX, "steps"),
            _ => (CALL_BYTES_MAX, "bytes"),
        };
        if cost > most {
            let (name, rows) = (self.name(), args.number_rows);
            return Err(into_datafusion(Error::Limit(format!(
                "{name} could come to {cost} {what} for {rows} rows, at most {most} are allowed"
            ))));
        }
        self.inner.invoke_with_args(args)
    }
}

/// What a call may come to, no less.
fn cost_of(cost: Cost, args: &[ColumnarValue], rows: u64) -> u64 {
    let arg = |at: usize| args.get(at).and_then(Facts::of).unwrap_or_default();
    match cost {
        Cost::Repeated => arg(0).bytes_max.saturating_mul(arg(1).count_max).saturating_mul(rows),
        Cost::Padded => {
            // A character has four bytes at most.
            let filled = arg(1).count_max.saturating_mul(4);
            filled.saturating_mul(rows)
        }
        Cost::Replaced => {
            // At each byte and at the end, in place of nothing.
            let places = arg(0).bytes.saturating_add(rows);
            places.saturating_mul(arg(2).bytes_max.saturating_add(1))
        }
        Cost::Joined => {
            let is_list = args.first().is_some_and(|list| list.data_type().is_nested());
            let (separator, parts) = if is_list {
                (arg(1).bytes_max, arg(0).elements)
            } else {
                (arg(0).bytes_max, rows.saturating_mul(args.len() as u64))
            };
            separator.saturating_mul(parts)
        }
        Cost::Listed => {
            let each = arg(0).bytes_max.saturating_add(8);
            each.saturating_mul(arg(1).count_max).saturating_mul(rows)
        }
        Cost::Resized => {
            let each = arg(2).bytes_max.saturating_add(8);
            each.saturating_mul(arg(1).count_max).saturating_mul(rows)
        }
        Cost::Series => series(args).saturating_mul(8).saturating_mul(rows),
        Cost::Formatted => {
            let longest = args.iter().filter_map(Facts::of).map(|facts| facts.bytes_max).max();
            longest.unwrap_or_default().saturating_mul(8).saturating_mul(rows)
        }
        Cost::Compared => arg(0).bytes_max.saturating_mul(arg(1).bytes_max).saturating_mul(rows),
    }
}

/// Greatest count of steps of a series.
fn series(args: &[ColumnarValue]) -> u64 {
    let ends = |value: &ColumnarValue| {
        let array = value.to_array(1).ok()?;
        // Dates and times by the smallest step that SQL has for them.
        let array = match array.data_type() {
            DataType::Date32 => cast(&array, &DataType::Int32).ok()?,
            DataType::Timestamp(..) => {
                let to =
                    DataType::Timestamp(datafusion::arrow::datatypes::TimeUnit::Nanosecond, None);
                let times = cast(&array, &to).ok()?;
                let times = times.as_primitive::<TimestampNanosecondType>();
                let seconds = times.unary::<_, Int64Type>(|ns| ns / 1_000_000_000);
                Arc::new(seconds) as ArrayRef
            }
            _ => array,
        };
        let numbers = cast(&array, &DataType::Int64).ok()?;
        let numbers = numbers.as_primitive::<Int64Type>();
        let all = numbers.iter().flatten();
        Some((all.clone().min()?, all.max()?))
    };
    let ends: Vec<_> = args.iter().map(ends).collect();
    let (from, to, by) = match ends.as_slice() {
        [Some(to)] => ((0, 0), *to, (1, 1)),
        [Some(from), Some(to)] => (*from, *to, (1, 1)),
        [Some(from), Some(to), by] => (*from, *to, by.unwrap_or((1, 1))),
        _ => return 0,
    };
    let least = if by.0 <= 0 && by.1 >= 0 {
        1
    } else {
        by.0.unsigned_abs().min(by.1.unsigned_abs()).max(1)
    };
    let span = to.1.abs_diff(from.0).max(to.0.abs_diff(from.1));
    span / least + 1
}

/// What is known of an argument at little cost.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// Bytes of the longest text.
    bytes_max: u64,
    /// Bytes of all texts.
    bytes: u64,
    /// Greatest number.
    count_max: u64,
    /// Elements of all lists.
    elements: u64,
}

impl Facts {
    fn of(value: &ColumnarValue) -> Option<Self> {
        let array = value.to_array(1).ok()?;
        let mut facts = Self::default();
        let of = array.data_type();
        if of.is_string() {
            let texts = cast(&array, &DataType::Utf8View).ok()?;
            for length in texts.as_string_view().lengths() {
                facts.bytes_max = facts.bytes_max.max(u64::from(length));
                facts.bytes += u64::from(length);
            }
        } else if of.is_integer() {
            let numbers = cast(&array, &DataType::Int64).ok()?;
            let greatest = numbers.as_primitive::<Int64Type>().iter().flatten().max();
            facts.count_max = greatest.and_then(|most| u64::try_from(most).ok()).unwrap_or(0);
        } else {
            let bytes = array.get_array_memory_size() as u64;
            facts.bytes = bytes;
            // Of one list there is no more than of all; of numbers eight bytes are enough.
            facts.bytes_max = if of.is_nested() { bytes } else { 16 };
            facts.elements = match of {
                DataType::List(_) => array.as_list::<i32>().values().len() as u64,
                DataType::LargeList(_) => array.as_list::<i64>().values().len() as u64,
                _ => bytes,
            };
        }
        Some(facts)
    }
}
