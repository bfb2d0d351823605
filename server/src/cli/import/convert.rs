//! The second pass: cells become samples of tags.
//!
//! Contract: cells go to [`Batches`] in an order that the file alone decides. Samples of a tag keep the order of the
//! file: of two at one instant the later row wins. Memory is one piece of the file and what `Batches` holds.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use tagmill_storage::{Quality, Value, ValueType};

use super::batches::{BATCH_CELLS, Batches};
use super::cell::{self, Cell, Cells, Fit};
use super::keys::NO_KEY;
use super::plan::{self, Plan, Status};
use super::report::{Report, some_of};
use super::sink::Sink;
use super::source::{Kind, Piece};
use super::stamps::{NO_TIME, Stamps};
use super::{Import, text};
use crate::cli::failure::Result;

/// What is remembered of a tag while its cells are read.
#[derive(Debug, Default)]
struct Memo {
    is_guess: bool,
    last_text: Option<Arc<str>>,
}

/// The second pass.
#[derive(Debug)]
pub struct Convert<'a> {
    import: &'a Import,
    plan: Plan,
    batches: Batches<'a>,
    /// By tag, as [`Batches`] numbers them.
    memos: Vec<Memo>,
    /// Tag of (key, value column), plus one.
    table: Vec<Vec<u32>>,
    ambiguous: u64,
}

impl<'a> Convert<'a> {
    /// Ready for the first piece; batches up to `mark` are there already.
    pub fn new(import: &'a Import, plan: Plan, sink: &'a mut dyn Sink, mark: u64) -> Self {
        let mut batches = Batches::new(&import.types, sink, mark);
        batches.report.remarks.clone_from(&plan.remarks);
        Self { import, plan, batches, memos: Vec::new(), table: Vec::new(), ambiguous: 0 }
    }

    /// Columns to read.
    pub fn positions(&self) -> Vec<usize> {
        self.plan.positions.clone()
    }

    /// Takes the next piece of the file.
    ///
    /// # Errors
    /// If the times have no zone, or the sink fails.
    pub fn take(&mut self, piece: &Piece) -> Result<()> {
        let stamps = self.import.times.read(&piece.columns[self.plan.time], self.plan.time_kind)?;
        let tag_columns: Vec<_> = self.plan.tags.iter().map(|at| &piece.columns[*at]).collect();
        let mut keys = self.plan.keys.number_rows(&tag_columns, piece.rows)?;
        self.refuse_rows(piece, &stamps, &mut keys);
        self.ambiguous += stamps.ambiguous;
        self.batches.report.rows += piece.rows as u64;
        // Windows of rows, not whole columns: a batch then spans little time and many tags, as live data does.
        let rows = (BATCH_CELLS / self.plan.values.len()).clamp(1, piece.rows.max(1));
        let mut start = 0;
        while start < piece.rows {
            let end = (start + rows).min(piece.rows);
            for column in 0..self.plan.values.len() {
                self.take_column(piece, column, &stamps.ns[start..end], &keys[start..end], start)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Counts rows that cannot be a sample, and takes their key away.
    fn refuse_rows(&mut self, piece: &Piece, stamps: &Stamps, keys: &mut [u32]) {
        let row_name = |row: usize| format!("row {}", piece.first_row + row as u64 + 1);
        for (row, problem) in &stamps.problems {
            let (reason, example) = match (plan::malformed(piece, *row), problem) {
                (Some(why), _) => {
                    ("the line is not as wide as the header".to_owned(), why.to_owned())
                }
                (None, Some(problem)) => (problem.to_string(), row_name(*row)),
                (None, None) => ("the row has no time".to_owned(), row_name(*row)),
            };
            self.batches.report.refuse(&reason, 1, || example);
            keys[*row] = NO_KEY;
        }
        for row in (0..piece.rows).filter(|row| keys[*row] == NO_KEY && stamps.ns[*row] != NO_TIME)
        {
            self.batches.report.refuse("the row names no tag", 1, || row_name(row));
        }
    }

    fn take_column(
        &mut self,
        piece: &Piece,
        column: usize,
        times: &[i64],
        keys: &[u32],
        start: usize,
    ) -> Result<()> {
        let plan = &self.plan.values[column];
        let Some(cells) = Cells::of(&piece.columns[plan.at], plan.kind) else {
            return Ok(());
        };
        let status = plan.status.clone();
        let status_column = status.as_ref().map(|status| &piece.columns[status.at]);
        for (at, (&time, &key)) in times.iter().zip(keys).enumerate() {
            if key == NO_KEY {
                continue;
            }
            let row = start + at;
            let mut cell = cells.at(row);
            if self.plan.is_blank_none
                && matches!(cell, Some(Cell::Text(words)) if words.trim().is_empty())
            {
                cell = None;
            }
            let quality = match (&status, status_column) {
                (Some(status), Some(column)) => quality_at(status, column.as_ref(), row),
                _ => Quality::GOOD,
            };
            if cell.is_none() && !quality.is_bad() {
                continue;
            }
            self.take_cell(key, column, time, cell, quality)?;
        }
        Ok(())
    }

    fn take_cell(
        &mut self,
        key: u32,
        column: usize,
        time: i64,
        cell: Option<Cell<'_>>,
        quality: Quality,
    ) -> Result<()> {
        let text_bytes = match cell {
            Some(Cell::Text(words)) => words.len(),
            _ => 0,
        };
        self.batches.make_room(text_bytes)?;
        let tag = self.tag(key, column);
        let value_type = self.batches.value_type(tag);
        let fit = match cell {
            Some(cell) => self.memos[tag as usize].fit(cell, value_type, self.import.decimal),
            None => Fit::NoValue(quality),
        };
        let (value, own) = match fit {
            Fit::Value(value, own) => (value, own),
            Fit::NoValue(own) => (cell::blank(value_type), own),
            Fit::Refused(reason) => {
                self.batches.refuse(tag, reason);
                return Ok(());
            }
        };
        let quality = if quality.is_bad() || !own.is_bad() { quality } else { own };
        self.batches.push(tag, time, value, quality);
        Ok(())
    }

    /// The number of a tag, given at its first sample.
    fn tag(&mut self, key: u32, column: usize) -> u32 {
        let at = key as usize;
        if self.table.len() <= at {
            self.table.resize_with(at + 1, Vec::new);
        }
        let row = &mut self.table[at];
        if row.is_empty() {
            row.resize(self.plan.values.len(), 0);
        }
        if row[column] == 0 {
            let suffix = self.plan.is_wide.then(|| self.plan.values[column].name.as_str());
            let parts =
                [self.import.prefix.as_str(), self.plan.keys.name(key), suffix.unwrap_or("")];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            let name = parts.join("/");
            let said = self.import.types.type_of(&name);
            let known = self.batches.type_of(&name).or(said);
            let is_guess = known.is_none() && self.plan.is_guess(key, column);
            let value_type = known.unwrap_or_else(|| self.plan.inferred(key, column));
            row[column] = self.batches.add_tag(name, value_type) + 1;
            self.memos.push(Memo { is_guess, last_text: None });
        }
        row[column] - 1
    }

    /// Sends the rest, waits for it, and tells what became of everything.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn finish(mut self) -> Result<Report> {
        self.remark();
        self.batches.finish()
    }

    fn remark(&mut self) {
        let mut remarks = Vec::new();
        for (at, column) in self.plan.values.iter().enumerate().filter(|_| self.plan.is_wide) {
            if !self.table.iter().any(|row| row.get(at).is_some_and(|slot| *slot > 0)) {
                remarks.push(format!(
                    "column '{}' holds no value at all: it gives no tag",
                    column.name
                ));
            }
        }
        let statuses: Vec<&Status> =
            self.plan.values.iter().filter_map(|column| column.status.as_ref()).collect();
        if !statuses.is_empty() {
            let names = some_of(statuses.iter().map(|status| status.name.as_str()));
            remarks.push(format!("quality comes from {names}"));
        }
        if statuses.iter().any(|status| status.is_classic) {
            remarks.push("qualities are read as those of classic OPC (192 is Good)".to_owned());
        }
        let guesses: Vec<&str> = (0..)
            .zip(&self.memos)
            .filter(|(_, memo)| memo.is_guess)
            .map(|(tag, _)| self.batches.name(tag))
            .collect();
        if !guesses.is_empty() {
            let count = guesses.len();
            remarks.push(format!(
                "{count} tags never have a value and are taken as text ({}); a --tags file can name their type",
                some_of(guesses.into_iter())
            ));
        }
        if self.ambiguous > 0 {
            let count = self.ambiguous;
            remarks.push(format!(
                "{count} local times came twice that day: read as the first of the two"
            ));
        }
        self.batches.report.remarks.append(&mut remarks);
    }
}

impl Memo {
    /// What a cell becomes in its tag; a text that repeats the last one shares it.
    fn fit(&mut self, cell: Cell<'_>, value_type: ValueType, decimal: char) -> Fit {
        if let (Cell::Text(words), ValueType::Text, Some(last)) =
            (cell, value_type, &self.last_text)
            && **last == *words
        {
            let quality = if text::is_marker(words) { Quality::BAD } else { Quality::GOOD };
            return Fit::Value(Value::Text(Arc::clone(last)), quality);
        }
        let fit = cell::fit(cell, value_type, decimal);
        if let Fit::Value(Value::Text(words), _) = &fit {
            self.last_text = Some(Arc::clone(words));
        }
        fit
    }
}

/// The quality a status column gives to a row; a number that is no StatusCode is Bad.
fn quality_at(status: &Status, column: &dyn Array, row: usize) -> Quality {
    if column.is_null(row) {
        return Quality::GOOD;
    }
    match status.kind {
        Kind::I64 => u32::try_from(column.as_primitive::<Int64Type>().value(row))
            .map_or(Quality::BAD, |number| text::quality_of_number(number, status.is_classic)),
        Kind::Text => text::quality(column.as_string::<i32>().value(row), status.is_classic),
        _ => Quality::GOOD,
    }
}
