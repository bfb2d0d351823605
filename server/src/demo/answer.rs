//! An answer, whoever gave it: cells in rows, read from Arrow or worked out by hand, and how the
//! two are compared.
//!
//! Contract: counts, extremes, texts and times must be equal; sums and means ([`Cell::Near`])
//! agree to a relative 1e-9, since addition has no agreed order. It knows no question in
//! particular.

use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use tagmill_storage::Rfc3339;

/// One value of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// SQL's null.
    Null,
    /// A text.
    Text(String),
    /// A count.
    Whole(i64),
    /// A number that must be met exactly.
    Exact(f64),
    /// A number that must be met to a relative 1e-9.
    Near(f64),
    /// An instant, nanoseconds since 1970 UTC.
    Time(i64),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Text(text) => f.write_str(text),
            Self::Whole(number) => number.fmt(f),
            Self::Exact(number) | Self::Near(number) => number.fmt(f),
            Self::Time(ns) => Rfc3339(*ns).fmt(f),
        }
    }
}

impl Cell {
    /// Whether the database's cell is this expected one.
    pub fn is_met_by(&self, actual: &Self) -> bool {
        match (self, actual) {
            (Self::Exact(want), Self::Exact(got)) => want.total_cmp(got).is_eq(),
            (Self::Near(want), Self::Exact(got)) => (want - got).abs() <= 1e-9 * want.abs(),
            (want, got) => want == got,
        }
    }
}

/// How a column is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// To the left, as it is.
    Text,
    /// To the right, with so many decimals.
    Number(usize),
    /// Local day and time in Berlin.
    Berlin,
}

/// A question with its SQL and its expected answer.
#[derive(Clone, Debug)]
pub struct Question {
    /// The question in words.
    pub title: &'static str,
    /// What to know about the answer; may be empty.
    pub note: &'static str,
    /// The statement, in lines.
    pub sql: String,
    /// Heads of the answer's columns and how to show them.
    pub columns: Vec<(&'static str, Show)>,
    /// The answer by the ledger.
    pub expected: Vec<Vec<Cell>>,
}

/// Rows of the database's answer. Floats become [`Cell::Exact`], instants [`Cell::Time`].
///
/// # Errors
/// If a column is of a type that has no cell.
pub fn rows_of(batches: &[RecordBatch]) -> Result<Vec<Vec<Cell>>, ArrowError> {
    let mut rows = Vec::new();
    for batch in batches {
        let first = rows.len();
        rows.resize(first + batch.num_rows(), Vec::with_capacity(batch.num_columns()));
        for column in batch.columns() {
            for (row, cell) in rows[first..].iter_mut().zip(cells_of(column)?) {
                row.push(cell);
            }
        }
    }
    Ok(rows)
}

fn cells_of(column: &dyn Array) -> Result<Vec<Cell>, ArrowError> {
    let cells: Vec<Option<Cell>> = match column.data_type() {
        DataType::Timestamp(_, zone) => {
            let wanted = DataType::Timestamp(TimeUnit::Nanosecond, zone.clone());
            let column = cast(&cast(column, &wanted)?, &DataType::Int64)?;
            column.as_primitive::<Int64Type>().iter().map(|ns| ns.map(Cell::Time)).collect()
        }
        number if number.is_integer() => {
            let column = cast(column, &DataType::Int64)?;
            column.as_primitive::<Int64Type>().iter().map(|n| n.map(Cell::Whole)).collect()
        }
        number if number.is_numeric() => {
            let column = cast(column, &DataType::Float64)?;
            column.as_primitive::<Float64Type>().iter().map(|x| x.map(Cell::Exact)).collect()
        }
        _ => {
            let column = cast(column, &DataType::Utf8)?;
            let texts = column.as_string::<i32>().iter();
            texts.map(|text| text.map(|text| Cell::Text(text.to_owned()))).collect()
        }
    };
    Ok(cells.into_iter().map(|cell| cell.unwrap_or(Cell::Null)).collect())
}

/// The first difference between the expected rows and the database's, in words.
pub fn difference(expected: &[Vec<Cell>], actual: &[Vec<Cell>]) -> Option<String> {
    for (index, want) in expected.iter().enumerate() {
        let row = index + 1;
        let Some(got) = actual.get(index) else {
            return Some(format!("row {row} is missing: expected {}", words(want)));
        };
        if want.len() != got.len() {
            return Some(format!("row {row}: expected {}, got {}", words(want), words(got)));
        }
        let differs = |(want, got): (&Cell, &Cell)| !want.is_met_by(got);
        if let Some(at) = want.iter().zip(got).position(differs) {
            let (want, got) = (&want[at], &got[at]);
            return Some(format!("row {row}, column {}: expected {want}, got {got}", at + 1));
        }
    }
    let extra = actual.get(expected.len())?;
    Some(format!("row {} is too many: {}", expected.len() + 1, words(extra)))
}

fn words(row: &[Cell]) -> String {
    row.iter().map(Cell::to_string).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray};
    use arrow::array::{Float64Array, StringArray, TimestampNanosecondArray, UInt32Array};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn arrow_becomes_cells() {
        let tags: DictionaryArray<Int32Type> = ["a", "b"].into_iter().collect();
        let columns: [(&str, ArrayRef); 5] = [
            ("tag", Arc::new(tags)),
            ("text", Arc::new(StringArray::from(vec![None, Some("x")]))),
            ("n", Arc::new(UInt32Array::from(vec![1, 2]))),
            ("x", Arc::new(Float64Array::from(vec![Some(0.5), None]))),
            ("ts", Arc::new(TimestampNanosecondArray::from(vec![7, 8]).with_timezone("UTC"))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let text = |text: &str| Cell::Text(text.to_owned());
        let want = vec![
            vec![text("a"), Cell::Null, Cell::Whole(1), Cell::Exact(0.5), Cell::Time(7)],
            vec![text("b"), text("x"), Cell::Whole(2), Cell::Null, Cell::Time(8)],
        ];
        assert_eq!(rows_of(&[batch]).unwrap(), want);
    }

    #[test]
    fn differences_are_named() {
        let rows = |numbers: &[i64]| -> Vec<_> {
            numbers.iter().map(|&number| vec![Cell::Whole(number)]).collect()
        };
        assert_eq!(difference(&rows(&[1, 2]), &rows(&[1, 2])), None);
        assert!(difference(&rows(&[1, 2]), &rows(&[1])).unwrap().contains("row 2 is missing"));
        assert!(difference(&rows(&[1]), &rows(&[1, 2])).unwrap().contains("too many"));
        let named = difference(&rows(&[1, 2]), &rows(&[1, 3])).unwrap();
        assert_eq!(named, "row 2, column 1: expected 2, got 3");
    }

    #[test]
    fn near_is_relative_and_exact_is_exact() {
        assert!(Cell::Near(1e6).is_met_by(&Cell::Exact(1e6 + 1e-4)));
        assert!(!Cell::Near(1e6).is_met_by(&Cell::Exact(1e6 + 1e-2)));
        assert!(!Cell::Exact(1.0).is_met_by(&Cell::Exact(1.0 + f64::EPSILON)));
        assert!(!Cell::Whole(1).is_met_by(&Cell::Null));
        assert!(Cell::Near(0.0).is_met_by(&Cell::Exact(0.0)));
    }
}
