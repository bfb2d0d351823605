//! The columns of an exported file: what `export` writes and `import` recognises.
//!
//! | column | type | holds | null when |
//! |---|---|---|---|
//! | `tag` | string | the tag's name | |
//! | `ts` | timestamp, ns, UTC | source time | |
//! | `type` | string | the tag's type | |
//! | `quality` | u32 | the StatusCode | |
//! | `value` | f64 | any number; of a bool 0 or 1, of a state its code | Bad, not finite, text |
//! | `value_int` | i64 | i64; of a bool 0 or 1, of a state its code | Bad, other types |
//! | `value_text` | string | text; of a state its label | Bad, other types, a code without label |
//! | `stored_bits` | i64 | what is stored where `value` is null: the 64-bit word of the value | else, and text |
//! | `stored_text` | string | the text of a Bad sample | else |
//!
//! Contract: `value`, `value_int` and `value_text` mean what they mean in SQL, so that a reader who knows nothing of
//! qualities never averages what is not a measurement; the two `stored` columns hold the rest, to the bit.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Builder, Int64Builder, RecordBatch, StringBuilder, TimestampNanosecondArray,
    UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use tagmill_storage::{Qualities, ScanBatch, StateSet, Tag, Value, Values};

/// Name of a tag.
pub const TAG: &str = "tag";
/// Source time.
pub const TS: &str = "ts";
/// Type of the tag.
pub const TYPE: &str = "type";
/// `StatusCode`.
pub const QUALITY: &str = "quality";
/// The value as a number.
pub const VALUE: &str = "value";
/// The value as a whole number.
pub const VALUE_INT: &str = "value_int";
/// The value as a text.
pub const VALUE_TEXT: &str = "value_text";
/// What is stored where `value` is null.
pub const STORED_BITS: &str = "stored_bits";
/// What is stored where `value_text` is null.
pub const STORED_TEXT: &str = "stored_text";

/// Every column, in order.
pub const COLUMNS: [&str; 9] =
    [TAG, TS, TYPE, QUALITY, VALUE, VALUE_INT, VALUE_TEXT, STORED_BITS, STORED_TEXT];

/// Rows gathered before they go to the file.
const ROWS: usize = 16 << 10;
/// Bytes of text gathered before they go to the file.
const TEXT_BYTES: usize = 4 << 20;

/// The schema of an exported file.
pub fn schema() -> SchemaRef {
    let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        field(TAG, DataType::Utf8, false),
        field(TS, utc, false),
        field(TYPE, DataType::Utf8, false),
        field(QUALITY, DataType::UInt32, false),
        field(VALUE, DataType::Float64, true),
        field(VALUE_INT, DataType::Int64, true),
        field(VALUE_TEXT, DataType::Utf8, true),
        field(STORED_BITS, DataType::Int64, true),
        field(STORED_TEXT, DataType::Utf8, true),
    ]))
}

/// Gathers samples into record batches of [`schema`].
#[derive(Debug)]
pub struct RowBuilder {
    schema: SchemaRef,
    tag: StringBuilder,
    ts: Vec<i64>,
    value_type: StringBuilder,
    quality: Vec<u32>,
    value: Float64Builder,
    value_int: Int64Builder,
    value_text: StringBuilder,
    stored_bits: Int64Builder,
    stored_text: StringBuilder,
    text_bytes: usize,
}

impl RowBuilder {
    /// Nothing gathered yet.
    pub fn new() -> Self {
        Self {
            schema: schema(),
            tag: StringBuilder::new(),
            ts: Vec::new(),
            value_type: StringBuilder::new(),
            quality: Vec::new(),
            value: Float64Builder::new(),
            value_int: Int64Builder::new(),
            value_text: StringBuilder::new(),
            stored_bits: Int64Builder::new(),
            stored_text: StringBuilder::new(),
            text_bytes: 0,
        }
    }

    /// Whether enough is gathered to be worth writing.
    pub fn is_full(&self) -> bool {
        self.ts.len() >= ROWS || self.text_bytes >= TEXT_BYTES
    }

    /// Takes samples of one tag; `states` are the labels of its codes.
    pub fn push(&mut self, tag: &Tag, states: Option<&StateSet>, batch: &ScanBatch) {
        let rows = batch.times.len();
        self.ts.extend_from_slice(&batch.times);
        for _ in 0..rows {
            self.tag.append_value(&tag.name);
            self.value_type.append_value(tag.value_type.name());
        }
        self.text_bytes += rows * tag.name.len();
        match &batch.qualities {
            Qualities::Uniform(quality) => {
                self.quality.resize(self.quality.len() + rows, quality.0);
            }
            Qualities::Each(each) => self.quality.extend(each.iter().map(|quality| quality.0)),
        }
        let is_bad = |row: usize| batch.qualities.at(row).is_bad();
        match &batch.values {
            Values::F64(values) => {
                for (row, value) in values.iter().enumerate() {
                    self.push_float(*value, is_bad(row), value.to_bits());
                }
            }
            Values::F32(values) => {
                for (row, value) in values.iter().enumerate() {
                    self.push_float(f64::from(*value), is_bad(row), value.to_bits().into());
                }
            }
            Values::I64(values) => {
                for (row, value) in values.iter().enumerate() {
                    self.push_whole(*value, is_bad(row));
                }
            }
            Values::Bool(values) => {
                for (row, value) in values.iter().enumerate() {
                    self.push_whole(i64::from(*value), is_bad(row));
                }
            }
            Values::State(codes) => {
                for (row, code) in codes.iter().enumerate() {
                    self.push_state(*code, states, is_bad(row));
                }
            }
            Values::Text(texts) => {
                for (row, text) in texts.iter().enumerate() {
                    self.push_text(text, is_bad(row));
                }
            }
        }
    }

    fn push_float(&mut self, value: f64, is_bad: bool, bits: u64) {
        let is_shown = !is_bad && value.is_finite();
        self.value.append_option(is_shown.then_some(value));
        self.value_int.append_null();
        self.value_text.append_null();
        self.stored_bits.append_option((!is_shown).then_some(bits.cast_signed()));
        self.stored_text.append_null();
    }

    fn push_whole(&mut self, value: i64, is_bad: bool) {
        self.value.append_option((!is_bad).then_some(value as f64));
        self.value_int.append_option((!is_bad).then_some(value));
        self.value_text.append_null();
        self.stored_bits.append_option(is_bad.then_some(value));
        self.stored_text.append_null();
    }

    fn push_state(&mut self, code: u16, states: Option<&StateSet>, is_bad: bool) {
        let label = states.and_then(|states| states.label(code)).filter(|_| !is_bad);
        self.value.append_option((!is_bad).then_some(f64::from(code)));
        self.value_int.append_option((!is_bad).then_some(i64::from(code)));
        self.value_text.append_option(label);
        self.stored_bits.append_option(is_bad.then_some(i64::from(code)));
        self.stored_text.append_null();
    }

    fn push_text(&mut self, text: &str, is_bad: bool) {
        self.text_bytes += text.len();
        self.value.append_null();
        self.value_int.append_null();
        self.value_text.append_option((!is_bad).then_some(text));
        self.stored_bits.append_null();
        self.stored_text.append_option(is_bad.then_some(text));
    }

    /// What was taken since the last call.
    ///
    /// # Errors
    /// If the columns do not fit the schema, which they do.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.text_bytes = 0;
        let ts = TimestampNanosecondArray::from(std::mem::take(&mut self.ts)).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.tag.finish()),
            Arc::new(ts),
            Arc::new(self.value_type.finish()),
            Arc::new(UInt32Array::from(std::mem::take(&mut self.quality))),
            Arc::new(self.value.finish()),
            Arc::new(self.value_int.finish()),
            Arc::new(self.value_text.finish()),
            Arc::new(self.stored_bits.finish()),
            Arc::new(self.stored_text.finish()),
        ];
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

impl Default for RowBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// The cells of one row that say its value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cells<'a> {
    /// Of column `value`.
    pub value: Option<f64>,
    /// Of column `value_int`.
    pub value_int: Option<i64>,
    /// Of column `value_text`.
    pub value_text: Option<&'a str>,
    /// Of column `stored_bits`.
    pub stored_bits: Option<i64>,
    /// Of column `stored_text`.
    pub stored_text: Option<&'a str>,
}

impl Cells<'_> {
    /// The value that was stored, in a tag like `example`; `None` if the cells hold none of that type.
    pub fn stored(self, value_type: tagmill_storage::ValueType) -> Option<Value> {
        use tagmill_storage::ValueType as T;
        let whole = self.stored_bits.or(self.value_int);
        let bits = self.stored_bits.map(i64::cast_unsigned);
        Some(match value_type {
            T::F64 => Value::F64(bits.map(f64::from_bits).or(self.value)?),
            T::F32 => Value::F32(match bits {
                Some(bits) => f32::from_bits(u32::try_from(bits).ok()?),
                None => narrow(self.value?)?,
            }),
            T::I64 => Value::I64(whole?),
            T::Bool => Value::Bool(match whole? {
                0 => false,
                1 => true,
                _ => return None,
            }),
            T::State => Value::State(u16::try_from(whole?).ok()?),
            T::Text => Value::Text(self.stored_text.or(self.value_text)?.into()),
        })
    }
}

/// The f32 that this f64 was widened from.
#[expect(clippy::cast_possible_truncation, reason = "the widened result is compared bit for bit")]
fn narrow(wide: f64) -> Option<f32> {
    let narrow = wide as f32;
    (f64::from(narrow).to_bits() == wide.to_bits()).then_some(narrow)
}

#[cfg(test)]
mod tests {
    use tagmill_storage::ValueType;

    use super::*;

    #[test]
    fn cells_of_another_type_are_no_value() {
        let number = Cells { value: Some(0.1), ..Cells::default() };
        assert_eq!(number.stored(ValueType::F64), Some(Value::F64(0.1)));
        assert_eq!(number.stored(ValueType::F32), None);
        assert_eq!(number.stored(ValueType::Text), None);
        let whole = Cells { value_int: Some(70_000), ..Cells::default() };
        assert_eq!(whole.stored(ValueType::State), None);
        assert_eq!(whole.stored(ValueType::Bool), None);
        let bits = Cells { stored_bits: Some(-1), ..Cells::default() };
        assert_eq!(bits.stored(ValueType::F32), None);
        assert_eq!(bits.stored(ValueType::I64), Some(Value::I64(-1)));
        assert_eq!(Cells::default().stored(ValueType::Text), None);
    }
}
