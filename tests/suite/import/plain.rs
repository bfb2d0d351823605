//! A second, plain reading of Parquet files: maps from time to value, filled row by row, the later row winning.
//!
//! It shares no code with the import it judges.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tagmill_storage::{Quality, Value};

/// What a sample holds, as both readings can say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Good, bits of a float.
    F64(u64),
    /// Good.
    I64(i64),
    /// Good.
    Text(Arc<str>),
    /// Bad, with its text.
    BadText(Arc<str>),
    /// Bad, without a value.
    Nothing,
}

pub(crate) type History = BTreeMap<i64, Held>;

pub(crate) fn held(value: Value, quality: Quality) -> Held {
    match value {
        Value::Text(text) if quality.is_bad() => Held::BadText(text),
        _ if quality.is_bad() => Held::Nothing,
        Value::F64(x) => Held::F64(x.to_bits()),
        Value::I64(x) => Held::I64(x),
        Value::Bool(x) => Held::I64(i64::from(x)),
        Value::Text(text) => Held::Text(text),
        other => panic!("no such type in these files: {other:?}"),
    }
}

/// All rows of some columns, by their names.
pub(crate) fn rows(path: &Path, names: &[&str]) -> Vec<Vec<ArrayRef>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let place = |name: &&str| builder.schema().index_of(name).unwrap();
    let mask = ProjectionMask::roots(builder.parquet_schema(), names.iter().map(place));
    let reader = builder.with_projection(mask).with_batch_size(50_000).build().unwrap();
    reader
        .map(|batch| {
            let batch = batch.unwrap();
            names.iter().map(|name| plain(batch.column_by_name(name).unwrap())).collect()
        })
        .collect()
}

pub(crate) fn plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::LargeUtf8 | DataType::Utf8View => {
            arrow::compute::cast(column, &DataType::Utf8).unwrap()
        }
        _ => Arc::clone(column),
    }
}

pub(crate) fn nanos(column: &ArrayRef, row: usize) -> i64 {
    column.as_primitive::<TimestampMicrosecondType>().value(row) * 1_000
}

/// The plain reading of a long file of texts: the tag is `GROUP/TAG`.
pub(crate) fn read_long(
    path: &Path,
    group: &str,
    tag: &str,
    time: &str,
    value: &str,
) -> BTreeMap<String, History> {
    let mut texts: BTreeMap<String, Vec<(i64, Arc<str>)>> = BTreeMap::new();
    for columns in rows(path, &[group, tag, time, value]) {
        let (groups, tags) = (columns[0].as_string::<i32>(), columns[1].as_string::<i32>());
        let values = columns[3].as_string::<i32>();
        for row in 0..groups.len() {
            // A row without a value is no sample; one without a time or a name cannot be.
            if columns.iter().any(|column| column.is_null(row)) {
                continue;
            }
            let name = format!("{}/{}", groups.value(row), tags.value(row));
            let text = Arc::from(values.value(row));
            texts.entry(name).or_default().push((nanos(&columns[2], row), text));
        }
    }
    texts.into_iter().map(|(name, samples)| (name, judge(&samples))).collect()
}

/// A tag holds numbers if every text that is no marker and not empty is one, and there is one.
pub(crate) fn judge(samples: &[(i64, Arc<str>)]) -> History {
    let is_marker = |text: &str| text == "UNAVAILABLE" || text == "Bad";
    let told: Vec<&str> =
        samples.iter().map(|(_, t)| t.trim()).filter(|t| !t.is_empty() && !is_marker(t)).collect();
    let is_number = !told.is_empty() && told.iter().all(|text| text.parse::<f64>().is_ok());
    let is_whole = told.iter().all(|text| text.parse::<i64>().is_ok() && *text != "-0");
    let held = |text: &Arc<str>| match text.trim() {
        marker if is_marker(marker) && is_number => Held::Nothing,
        marker if is_marker(marker) => Held::BadText(Arc::clone(text)),
        "" if is_number => Held::Nothing,
        number if is_number && is_whole => Held::I64(number.parse().unwrap()),
        number if is_number => Held::F64(number.parse::<f64>().unwrap().to_bits()),
        _ => Held::Text(Arc::clone(text)),
    };
    samples.iter().map(|(time, text)| (*time, held(text))).collect()
}

/// The plain reading of one column of a wide file, by run.
pub(crate) fn read_wide(
    path: &Path,
    run: Option<&str>,
    time: &str,
    column: &str,
    status: Option<&str>,
) -> BTreeMap<String, History> {
    let mut names: Vec<&str> = vec![time, column];
    names.extend(run);
    names.extend(status);
    let mut histories: BTreeMap<String, History> = BTreeMap::new();
    for columns in rows(path, &names) {
        for row in 0..columns[0].len() {
            let is_faulty = status.is_some() && columns[names.len() - 1].is_valid(row);
            if columns[1].is_null(row) && !is_faulty {
                continue;
            }
            let held = if is_faulty { Held::Nothing } else { cell(&columns[1], row) };
            let run = run.map_or("", |_| columns[2].as_string::<i32>().value(row));
            let name = if run.is_empty() { column.to_owned() } else { format!("{run}/{column}") };
            histories.entry(name).or_default().insert(nanos(&columns[0], row), held);
        }
    }
    histories
}

pub(crate) fn cell(column: &ArrayRef, row: usize) -> Held {
    match column.data_type() {
        DataType::Float64 => match column.as_primitive::<Float64Type>().value(row) {
            nan if nan.is_nan() => Held::Nothing,
            value => Held::F64(value.to_bits()),
        },
        DataType::Int64 => Held::I64(column.as_primitive::<Int64Type>().value(row)),
        DataType::Utf8 => Held::Text(column.as_string::<i32>().value(row).into()),
        other => panic!("no such column in these files: {other}"),
    }
}
