//! The tag columns of a row, as one number: which machine, which run, which tag.
//!
//! Contract: equal texts give equal numbers, numbered from 0 in the order they first appear; the two passes over a
//! file share one table.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::cli::failure::Result;

/// Stands for a row that names no tag.
pub const NO_KEY: u32 = u32::MAX;

/// Names of rows, numbered.
#[derive(Debug, Default)]
pub struct Keys {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Keys {
    /// The texts of a key's columns, joined by `/`; empty without tag columns.
    pub fn name(&self, key: u32) -> &str {
        self.names.get(key as usize).map_or("", String::as_str)
    }

    /// Numbers every row of `columns`; a row with an empty or missing text gets [`NO_KEY`].
    ///
    /// # Errors
    /// If a column cannot be read as text.
    pub fn number_rows(&mut self, columns: &[&ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let texts: Vec<ArrayRef> =
            columns.iter().map(|column| cast(column, &DataType::Utf8)).collect::<Result<_, _>>()?;
        let texts: Vec<&StringArray> = texts.iter().map(AsArray::as_string::<i32>).collect();
        let mut numbers: Vec<u32> = Vec::with_capacity(rows);
        let mut name = String::new();
        for row in 0..rows {
            // Files come sorted by tag more often than not, wide ones nearly always.
            let is_same = row > 0
                && texts.iter().all(|t| {
                    t.is_valid(row) && t.is_valid(row - 1) && t.value(row) == t.value(row - 1)
                });
            let number = match numbers.last().filter(|_| is_same) {
                Some(&last) => last,
                None if join(&texts, row, &mut name) => self.number(&name),
                None => NO_KEY,
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(NO_KEY);
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }
}

/// Joins the texts of a row by `/`; false if one is missing or blank.
fn join(texts: &[&StringArray], row: usize, name: &mut String) -> bool {
    name.clear();
    for (at, column) in texts.iter().enumerate() {
        let text = if column.is_valid(row) { column.value(row).trim() } else { "" };
        if text.is_empty() {
            return false;
        }
        if at > 0 {
            name.push('/');
        }
        name.push_str(text);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn joins_and_numbers() {
        let machine: ArrayRef = Arc::new(StringArray::from(vec![
            Some("A"),
            Some("A"),
            Some("B"),
            None,
            Some(" A "),
            Some(""),
        ]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1, 1, 1, 1]));
        let mut keys = Keys::default();
        let numbers = keys.number_rows(&[&machine, &number], 6).unwrap();
        assert_eq!(numbers, [0, 0, 1, NO_KEY, 0, NO_KEY]);
        assert_eq!(keys.name(1), "B/1");
        assert_eq!(Keys::default().number_rows(&[], 2).unwrap(), [0, 0]);
    }
}
