//! How samples become columns: the one place that knows what is null.
//!
//! | column | f64, f32 | i64, bool, state | text | null when |
//! |---|---|---|---|---|
//! | `value` | the number | the number, 0 or 1, the code | null | Bad, or not finite |
//! | `value_int` | null | the number, 0 or 1, the code | null | Bad |
//! | `value_text` | null | label of a state's code, else null | the text | Bad, or a code without label |
//! | `value_raw` | as stored | as f64 | null | |
//!
//! A [`RowBuilder`] takes batches of single tags and gives record batches of many.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, BooleanBuilder, DurationNanosecondArray, Float64Array, Int64Array,
    NullBufferBuilder, RecordBatchOptions, StringViewArray, StringViewBuilder,
    TimestampNanosecondArray, UInt32Array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use tagmill_storage::{Qualities, ScanBatch, Snapshot, Tag, Values};

use super::{UTC, utc_time};

/// A column of `samples` or `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowColumn {
    TagId,
    Tag,
    Ts,
    Value,
    ValueInt,
    ValueText,
    ValueRaw,
    Quality,
    Good,
    /// Of `latest` only: how long before the statement's `now()`.
    Age,
}

impl RowColumn {
    /// The columns of `samples`, in order.
    pub(crate) const SAMPLES: [Self; 9] = [
        Self::TagId,
        Self::Tag,
        Self::Ts,
        Self::Value,
        Self::ValueInt,
        Self::ValueText,
        Self::ValueRaw,
        Self::Quality,
        Self::Good,
    ];

    /// Its name and type.
    fn field(self) -> Field {
        let (name, data_type, nullable) = match self {
            Self::TagId => ("tag_id", DataType::UInt32, false),
            Self::Tag => ("tag", DataType::Utf8View, false),
            Self::Ts => ("ts", utc_time(), false),
            Self::Value => ("value", DataType::Float64, true),
            Self::ValueInt => ("value_int", DataType::Int64, true),
            Self::ValueText => ("value_text", DataType::Utf8View, true),
            Self::ValueRaw => ("value_raw", DataType::Float64, true),
            Self::Quality => ("quality", DataType::UInt32, false),
            Self::Good => ("good", DataType::Boolean, false),
            Self::Age => ("age", DataType::Duration(TimeUnit::Nanosecond), false),
        };
        Field::new(name, data_type, nullable)
    }

    /// Whether stored values are needed for it.
    pub(crate) const fn needs_values(self) -> bool {
        matches!(self, Self::Value | Self::ValueInt | Self::ValueText | Self::ValueRaw)
    }

    /// Whether stored qualities are needed for it.
    pub(crate) const fn needs_qualities(self) -> bool {
        matches!(self, Self::Value | Self::ValueInt | Self::ValueText | Self::Quality | Self::Good)
    }
}

/// The schema of these columns.
pub(crate) fn schema_of(columns: &[RowColumn]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|column| column.field()).collect::<Vec<_>>()))
}

/// Gathers samples into record batches.
pub(crate) struct RowBuilder {
    snapshot: Snapshot,
    schema: SchemaRef,
    slots: Vec<Slot>,
    rows: usize,
    now_ns: i64,
}

/// One column under construction.
enum Slot {
    TagId(Vec<u32>),
    /// Names in the order they came, and for each row which of them.
    Tag(Vec<Arc<str>>, Vec<u32>),
    Ts(Vec<i64>),
    Value(Vec<f64>, NullBufferBuilder),
    ValueInt(Vec<i64>, NullBufferBuilder),
    ValueText(StringViewBuilder),
    ValueRaw(Vec<f64>, NullBufferBuilder),
    Quality(Vec<u32>),
    Good(BooleanBuilder),
    Age(Vec<i64>),
}

impl Slot {
    fn new(column: RowColumn) -> Self {
        match column {
            RowColumn::TagId => Self::TagId(Vec::new()),
            RowColumn::Tag => Self::Tag(Vec::new(), Vec::new()),
            RowColumn::Ts => Self::Ts(Vec::new()),
            RowColumn::Value => Self::Value(Vec::new(), NullBufferBuilder::new(0)),
            RowColumn::ValueInt => Self::ValueInt(Vec::new(), NullBufferBuilder::new(0)),
            RowColumn::ValueText => Self::ValueText(StringViewBuilder::new()),
            RowColumn::ValueRaw => Self::ValueRaw(Vec::new(), NullBufferBuilder::new(0)),
            RowColumn::Quality => Self::Quality(Vec::new()),
            RowColumn::Good => Self::Good(BooleanBuilder::new()),
            RowColumn::Age => Self::Age(Vec::new()),
        }
    }
}

impl RowBuilder {
    /// A builder of `columns`; `now_ns` is what ages count from.
    pub(crate) fn new(snapshot: Snapshot, columns: &[RowColumn], now_ns: i64) -> Self {
        Self {
            snapshot,
            schema: schema_of(columns),
            slots: columns.iter().map(|&column| Slot::new(column)).collect(),
            rows: 0,
            now_ns,
        }
    }

    /// Rows taken since the last [`Self::finish`].
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// Takes samples of one tag.
    pub(crate) fn push(&mut self, batch: ScanBatch) {
        let ScanBatch { tag: id, times, values, qualities } = batch;
        let rows = times.len();
        // A tag that a scan returns is in the registry of the scan's own snapshot.
        let Some(tag) = self.snapshot.registry().get(id) else { return };
        for slot in &mut self.slots {
            match slot {
                Slot::TagId(ids) => ids.resize(ids.len() + rows, id.0),
                Slot::Tag(names, each) => {
                    if names.last().is_none_or(|last| !Arc::ptr_eq(last, &tag.name)) {
                        names.push(Arc::clone(&tag.name));
                    }
                    let at = u32::try_from(names.len() - 1).unwrap_or(u32::MAX);
                    each.resize(each.len() + rows, at);
                }
                Slot::Ts(all) => extend(all, &times),
                Slot::Value(all, valid) => {
                    push_numbers(all, &values);
                    let finite = |value: f64| value.is_finite();
                    let from = all.len() - rows.min(all.len());
                    push_validity(valid, rows, &qualities, &all[from..], finite);
                }
                Slot::ValueInt(all, valid) => {
                    let numbers = push_integers(all, &values, rows);
                    let from = all.len() - rows.min(all.len());
                    push_validity(valid, rows, &qualities, &all[from..], |_| numbers);
                }
                Slot::ValueText(texts) => {
                    push_texts(texts, &self.snapshot, tag, &values, &qualities, rows);
                }
                Slot::ValueRaw(all, valid) => {
                    push_numbers(all, &values);
                    match values {
                        Values::Text(_) => valid.append_n_nulls(rows),
                        _ => valid.append_n_non_nulls(rows),
                    }
                }
                Slot::Quality(codes) => match &qualities {
                    Qualities::Uniform(quality) => codes.resize(codes.len() + rows, quality.0),
                    Qualities::Each(each) => codes.extend(each.iter().map(|quality| quality.0)),
                },
                Slot::Good(flags) => match &qualities {
                    Qualities::Uniform(quality) => flags.append_n(rows, quality.is_good()),
                    Qualities::Each(each) => {
                        for quality in each {
                            flags.append_value(quality.is_good());
                        }
                    }
                },
                Slot::Age(all) => {
                    all.extend(times.iter().map(|&time| self.now_ns.saturating_sub(time)));
                }
            }
        }
        self.rows += rows;
    }

    /// What was taken since the last call.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            columns.push(match slot {
                Slot::TagId(ids) => Arc::new(UInt32Array::from(std::mem::take(ids))),
                Slot::Tag(names, each) => {
                    let each = UInt32Array::from(std::mem::take(each));
                    let names = StringViewArray::from_iter_values(names.drain(..));
                    take(&names, &each, None)?
                }
                Slot::Ts(all) => {
                    Arc::new(TimestampNanosecondArray::from(std::mem::take(all)).with_timezone(UTC))
                }
                Slot::Value(all, valid) | Slot::ValueRaw(all, valid) => {
                    Arc::new(Float64Array::new(std::mem::take(all).into(), valid.finish()))
                }
                Slot::ValueInt(all, valid) => {
                    Arc::new(Int64Array::new(std::mem::take(all).into(), valid.finish()))
                }
                Slot::ValueText(texts) => Arc::new(texts.finish()),
                Slot::Quality(codes) => Arc::new(UInt32Array::from(std::mem::take(codes))),
                Slot::Good(flags) => Arc::new(flags.finish()) as Arc<BooleanArray>,
                Slot::Age(all) => Arc::new(DurationNanosecondArray::from(std::mem::take(all))),
            });
        }
        let rows = std::mem::take(&mut self.rows);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

fn extend<T: Copy>(all: &mut Vec<T>, more: &[T]) {
    if all.is_empty() {
        all.reserve_exact(more.len());
    }
    all.extend_from_slice(more);
}

/// Appends values as f64; NaN stands for text.
fn push_numbers(all: &mut Vec<f64>, values: &Values) {
    match values {
        Values::F64(more) => extend(all, more),
        Values::F32(more) => all.extend(more.iter().map(|&value| f64::from(value))),
        Values::I64(more) => all.extend(more.iter().map(|&value| value as f64)),
        Values::Bool(more) => all.extend(more.iter().map(|&value| f64::from(u8::from(value)))),
        Values::State(more) => all.extend(more.iter().map(|&code| f64::from(code))),
        Values::Text(more) => all.resize(all.len() + more.len(), f64::NAN),
    }
}

/// Appends values as i64, 0 for types that are no integers; tells whether they are.
fn push_integers(all: &mut Vec<i64>, values: &Values, rows: usize) -> bool {
    match values {
        Values::I64(more) => extend(all, more),
        Values::Bool(more) => all.extend(more.iter().map(|&value| i64::from(value))),
        Values::State(more) => all.extend(more.iter().map(|&code| i64::from(code))),
        Values::F64(_) | Values::F32(_) | Values::Text(_) => {
            all.resize(all.len() + rows, 0);
            return false;
        }
    }
    true
}

/// A row is null when it is Bad or its value is not `shown`.
fn push_validity<T: Copy>(
    valid: &mut NullBufferBuilder,
    rows: usize,
    qualities: &Qualities,
    values: &[T],
    shown: impl Fn(T) -> bool,
) {
    match qualities {
        Qualities::Uniform(quality) if quality.is_bad() => valid.append_n_nulls(rows),
        Qualities::Uniform(_) => {
            if values.iter().all(|&value| shown(value)) {
                valid.append_n_non_nulls(rows);
            } else {
                for &value in values {
                    valid.append(shown(value));
                }
            }
        }
        Qualities::Each(each) => {
            for (&value, quality) in values.iter().zip(each) {
                valid.append(!quality.is_bad() && shown(value));
            }
        }
    }
}

fn push_texts(
    texts: &mut StringViewBuilder,
    snapshot: &Snapshot,
    tag: &Tag,
    values: &Values,
    qualities: &Qualities,
    rows: usize,
) {
    let usable = |row: usize| !qualities.at(row).is_bad();
    match values {
        Values::State(codes) => {
            let states = snapshot.registry().states(tag.state_set());
            for (row, &code) in codes.iter().enumerate() {
                let label = states.and_then(|states| states.label(code));
                texts.append_option(label.filter(|_| usable(row)));
            }
        }
        Values::Text(each) => {
            for (row, text) in each.iter().enumerate() {
                texts.append_option(Some(text).filter(|_| usable(row)));
            }
        }
        Values::F64(_) | Values::F32(_) | Values::I64(_) | Values::Bool(_) => {
            for _ in 0..rows {
                texts.append_null();
            }
        }
    }
}
