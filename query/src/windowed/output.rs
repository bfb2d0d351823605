//! From cells to rows: what each function says of a cell, and which tags belong to one group.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, DurationNanosecondBuilder, Float64Builder, Int64Builder, RecordBatch,
    RecordBatchOptions, TimestampNanosecondArray, UInt32Array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Result, exec_err};
use tagmill_storage::{SECOND_NS, ValueType};

use super::fold::Share;
use super::node::{Argument, Key};
use crate::functions::interval::IntervalFunction;
use crate::relations::UTC;

/// One function with its constants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) function: IntervalFunction,
    pub(crate) argument: Argument,
    /// Nanoseconds of the width that the result is per; of `locf` and `interpolate` the greatest distance.
    pub(crate) per_ns: f64,
    /// Which of the wanted states.
    pub(crate) state: usize,
}

impl Argument {
    /// Whether tags of a type have anything in this column.
    pub(crate) const fn has(self, value_type: ValueType) -> bool {
        match self {
            Self::Ts => true,
            Self::Value => !matches!(value_type, ValueType::Text),
            Self::ValueInt => {
                matches!(value_type, ValueType::I64 | ValueType::Bool | ValueType::State)
            }
            Self::ValueText => matches!(value_type, ValueType::Text | ValueType::State),
        }
    }
}

/// What rows are made of.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) schema: SchemaRef,
    pub(crate) keys: Vec<Key>,
    pub(crate) wanted: Vec<Wanted>,
    /// The columns of `samples` that functions take. A share of a tag is kept for each: types without it add nothing.
    pub(crate) lanes: Vec<Argument>,
}

impl Output {
    /// Rows of these keys and functions.
    pub(crate) fn new(schema: SchemaRef, keys: Vec<Key>, wanted: Vec<Wanted>) -> Self {
        let mut lanes: Vec<Argument> = wanted.iter().map(|wanted| wanted.argument).collect();
        lanes.sort_unstable();
        lanes.dedup();
        Self { schema, keys, wanted, lanes }
    }

    /// The function that is of no use for several tags at once, if there is one.
    pub(crate) fn of_one_tag(&self) -> Option<IntervalFunction> {
        use IntervalFunction::{Interpolate, Locf};
        let functions = self.wanted.iter().map(|wanted| wanted.function);
        functions.into_iter().find(|function| matches!(function, Locf | Interpolate))
    }
}

/// Rows on their way into a batch.
pub(crate) struct Rows {
    output: Arc<Output>,
    /// The group keys, one column each, in the order of the input.
    groups: Arc<[ArrayRef]>,
    /// The row of `groups` that each row shows.
    shown: Vec<u32>,
    labels_ns: Vec<i64>,
    columns: Vec<Column>,
}

enum Column {
    Real(Float64Builder),
    Whole(Int64Builder),
    Length(DurationNanosecondBuilder),
}

impl Rows {
    /// No rows yet. `groups` are the input's columns, its first one being the tag's number.
    pub(crate) fn new(output: Arc<Output>, groups: Arc<[ArrayRef]>) -> Self {
        let columns =
            output.wanted.iter().zip(output.schema.fields().iter().skip(output.keys.len()));
        let columns = columns.map(|(_, field)| match field.data_type() {
            DataType::Int64 => Column::Whole(Int64Builder::new()),
            DataType::Duration(_) => Column::Length(DurationNanosecondBuilder::new()),
            _ => Column::Real(Float64Builder::new()),
        });
        let columns = columns.collect();
        Self { output, groups, shown: Vec::new(), labels_ns: Vec::new(), columns }
    }

    pub(crate) const fn len(&self) -> usize {
        self.shown.len()
    }

    /// Adds the row of a cell; `share_of` gives what is known of a column of `samples` in it.
    pub(crate) fn push<'a>(
        &mut self,
        group_row: u32,
        label_ns: i64,
        share_of: impl Fn(Argument) -> Option<&'a Share>,
    ) -> Result<()> {
        self.shown.push(group_row);
        self.labels_ns.push(label_ns);
        for (wanted, column) in self.output.wanted.iter().zip(&mut self.columns) {
            let share = share_of(wanted.argument);
            match column {
                Column::Real(column) => {
                    column.append_option(share.and_then(|share| real_of(wanted, share)));
                }
                Column::Whole(column) => {
                    let whole = share.map(|share| whole_of(wanted, share)).transpose()?;
                    column.append_option(whole.flatten());
                }
                Column::Length(column) => {
                    let known = share.filter(|share| share.length_ns > 0);
                    column.append_option(known.map(|share| share.gap_ns));
                }
            }
        }
        Ok(())
    }

    /// The rows so far as a batch.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let group_rows = UInt32Array::from(std::mem::take(&mut self.shown));
        let labels_ns = std::mem::take(&mut self.labels_ns);
        let labels: ArrayRef =
            Arc::new(TimestampNanosecondArray::from(labels_ns).with_timezone(UTC));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.output.schema.fields().len());
        for key in &self.output.keys {
            columns.push(match key {
                Key::Bucket => Arc::clone(&labels),
                Key::Tag(at) => take(&self.groups[*at], &group_rows, None)?,
            });
        }
        for column in &mut self.columns {
            columns.push(match column {
                Column::Real(column) => Arc::new(column.finish()),
                Column::Whole(column) => Arc::new(column.finish()),
                Column::Length(column) => Arc::new(column.finish()) as ArrayRef,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(group_rows.len()));
        let schema = Arc::clone(&self.output.schema);
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

/// A function's answer as a real number; null when nothing is known.
fn real_of(wanted: &Wanted, share: &Share) -> Option<f64> {
    use IntervalFunction::{
        DurationInState, Increase, Integral, Interpolate, LargestGap, Locf, PercentGood, Rate,
        TimeAvg, Transitions,
    };
    let covered_ns = share.covered_ns as f64;
    match wanted.function {
        PercentGood => (share.length_ns > 0).then(|| 100.0 * covered_ns / share.length_ns as f64),
        Locf => {
            let near = share.at_start.filter(|known| known.age_ns as f64 <= wanted.per_ns);
            near.map(|known| known.held)
        }
        Interpolate => {
            let near = share.at_start.filter(|known| known.span_ns as f64 <= wanted.per_ns);
            near.map(|known| known.drawn)
        }
        _ if !share.is_known() => None,
        TimeAvg => (share.covered_ns > 0).then(|| share.integral / covered_ns),
        Integral => (share.covered_ns > 0).then(|| share.integral / wanted.per_ns),
        DurationInState => {
            let in_state_ns = share.in_state_ns.get(wanted.state)?;
            (share.covered_ns > 0).then(|| *in_state_ns as f64 / SECOND_NS as f64)
        }
        Increase => Some(share.increase.value()),
        Rate => Some(share.increase.value() / (share.length_ns as f64 / wanted.per_ns)),
        Transitions | LargestGap => None,
    }
}

/// A function's answer as a whole number; null when nothing is known.
fn whole_of(wanted: &Wanted, share: &Share) -> Result<Option<i64>> {
    if !share.is_known() {
        return Ok(None);
    }
    if wanted.function == IntervalFunction::Transitions {
        return Ok(Some(i64::try_from(share.transitions).unwrap_or(i64::MAX)));
    }
    match i64::try_from(share.increase.whole) {
        Ok(whole) if share.increase.real == 0.0 => Ok(Some(whole)),
        _ => exec_err!(
            "increase(value_int) is no whole number of 64 bits here: write increase(value)"
        ),
    }
}
