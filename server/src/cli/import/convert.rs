//! The second pass: cells become samples of tags, and samples become numbered batches.
//!
//! Contract: batches are cut by what the file holds, never by what the database says or how fast it is, so that a
//! second run cuts the same ones. Samples of a tag keep the order of the file: of two at one instant the later row
//! wins. Memory is one piece of the file, one batch, and the instants of [`Tracker`].

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use tagmill_storage::{Qualities, Quality, TagDefinition, Value, ValueType, Values, check_name};

use super::cell::{self, Cell, Cells, Fit};
use super::keys::NO_KEY;
use super::plan::{self, Plan, Status};
use super::repeats::{Budget, Step, Tracker};
use super::report::{Report, some_of};
use super::sink::{Column, Sink};
use super::source::{Kind, Piece};
use super::stamps::{NO_TIME, Stamps};
use super::{Import, text};
use crate::cli::failure::Result;

/// Samples of a batch: with [`BATCH_BYTES`] it keeps a message of the wire below 4 MiB.
pub const BATCH_CELLS: usize = 128 << 10;
/// Bytes of a batch, as [`weight`] counts them.
pub const BATCH_BYTES: usize = 3 << 20;
/// Bytes a sample weighs besides its text: time, value, quality.
const SAMPLE_BYTES: usize = 20;

/// A tag on its way.
#[derive(Debug)]
struct Slot {
    name: String,
    value_type: ValueType,
    is_guess: bool,
    refused: Option<String>,
    number: Option<u32>,
    times: Vec<i64>,
    values: Values,
    qualities: Vec<Quality>,
    tracker: Tracker,
    last_text: Option<Arc<str>>,
    taken: u64,
    without_value: u64,
}

/// The second pass.
#[derive(Debug)]
pub struct Convert<'a> {
    import: &'a Import,
    plan: Plan,
    sink: &'a mut dyn Sink,
    mark: u64,
    seq: u64,
    slots: Vec<Slot>,
    /// Slot of (key, value column), plus one.
    table: Vec<Vec<u32>>,
    /// Slots with samples in the open batch.
    open: Vec<u32>,
    cells: usize,
    bytes: usize,
    budget: Budget,
    ambiguous: u64,
    report: Report,
}

impl<'a> Convert<'a> {
    /// Ready for the first piece; batches up to `mark` are there already.
    pub fn new(import: &'a Import, plan: Plan, sink: &'a mut dyn Sink, mark: u64) -> Self {
        let report = Report { remarks: plan.remarks.clone(), ..Report::default() };
        Self {
            import,
            plan,
            sink,
            mark,
            seq: 0,
            slots: Vec::new(),
            table: Vec::new(),
            open: Vec::new(),
            cells: 0,
            bytes: 0,
            budget: Budget::default(),
            ambiguous: 0,
            report,
        }
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
        self.report.rows += piece.rows as u64;
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
            self.report.refuse(&reason, 1, || example);
            keys[*row] = NO_KEY;
        }
        for row in (0..piece.rows).filter(|row| keys[*row] == NO_KEY && stamps.ns[*row] != NO_TIME)
        {
            self.report.refuse("the row names no tag", 1, || row_name(row));
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
        let weight = weight(cell);
        if self.cells == BATCH_CELLS || self.bytes + weight > BATCH_BYTES {
            self.flush()?;
        }
        self.cells += 1;
        self.bytes += weight;
        let number = self.slot(key, column);
        let slot = &mut self.slots[number as usize];
        if let Some(reason) = &slot.refused {
            self.report.refuse(reason, 1, || slot.name.clone());
            return Ok(());
        }
        let fit = cell.map_or(Fit::NoValue(quality), |cell| slot.fit(cell, self.import.decimal));
        let (value, own) = match fit {
            Fit::Value(value, own) => (value, own),
            Fit::NoValue(own) => {
                slot.without_value += 1;
                (cell::blank(slot.value_type), own)
            }
            Fit::Refused(reason) => {
                self.report.refuse(reason, 1, || slot.name.clone());
                return Ok(());
            }
        };
        let quality = if quality.is_bad() || !own.is_bad() { quality } else { own };
        if slot.times.is_empty() {
            self.open.push(number);
        }
        slot.push(time, value, quality);
        self.report.taken += 1;
        self.report.bad += u64::from(quality.is_bad());
        match slot.tracker.add(time, &mut self.budget) {
            Step::Forward => {}
            Step::Back => self.report.stepped_back += 1,
            Step::Repeat => self.report.merged += 1,
        }
        let (first, last) = self.report.span_ns.unwrap_or((time, time));
        self.report.span_ns = Some((first.min(time), last.max(time)));
        Ok(())
    }

    /// The slot of a tag, made at its first sample.
    fn slot(&mut self, key: u32, column: usize) -> u32 {
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
            let known = self.sink.type_of(&name).or(said);
            let is_guess = known.is_none() && self.plan.is_guess(key, column);
            let value_type = known.unwrap_or_else(|| self.plan.inferred(key, column));
            row[column] = u32::try_from(self.slots.len() + 1).unwrap_or(u32::MAX);
            self.slots.push(Slot::new(name, value_type, is_guess));
        }
        row[column] - 1
    }

    /// Closes the open batch, and hands it over unless it is there already.
    fn flush(&mut self) -> Result<()> {
        if self.cells == 0 {
            return Ok(());
        }
        self.cells = 0;
        self.bytes = 0;
        self.seq += 1;
        let open = std::mem::take(&mut self.open);
        if self.seq <= self.mark {
            self.report.batches_before += 1;
            for number in open {
                self.slots[number as usize].clear();
            }
            return Ok(());
        }
        self.define(&open)?;
        let mut columns = Vec::with_capacity(open.len());
        for number in open {
            let slot = &mut self.slots[number as usize];
            match (slot.number, &slot.refused) {
                (Some(tag), None) => columns.push(slot.take(tag)),
                _ => slot.clear(),
            }
        }
        self.sink.send(self.seq, columns)
    }

    fn define(&mut self, open: &[u32]) -> Result<()> {
        let new: Vec<u32> = open
            .iter()
            .copied()
            .filter(|number| self.slots[*number as usize].number.is_none())
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let definition = |number: &u32| {
            let slot = &self.slots[*number as usize];
            TagDefinition {
                name: slot.name.clone(),
                value_type: slot.value_type,
                attributes: self.import.types.attributes_of(&slot.name),
            }
        };
        let definitions: Vec<TagDefinition> = new.iter().map(definition).collect();
        for (number, answer) in new.into_iter().zip(self.sink.define(&definitions)?) {
            let slot = &mut self.slots[number as usize];
            match answer {
                Ok(tag) => slot.number = Some(tag),
                Err(reason) => {
                    let count = slot.times.len() as u64;
                    self.report.refuse(&reason, count, || slot.name.clone());
                    self.report.taken -= count;
                    slot.taken -= count;
                    slot.refused = Some(reason);
                }
            }
        }
        Ok(())
    }

    /// Sends the rest, waits for it, and tells what became of everything.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn finish(mut self) -> Result<Report> {
        self.flush()?;
        for reject in self.sink.finish()? {
            let slot = self.slots.iter_mut().find(|slot| slot.number == Some(reject.tag));
            let name = slot.map_or(String::new(), |slot| {
                slot.taken = slot.taken.saturating_sub(reject.count);
                slot.name.clone()
            });
            self.report.refuse(&reject.reason, reject.count, || name);
            self.report.taken = self.report.taken.saturating_sub(reject.count);
        }
        self.report.batches = self.seq;
        self.report.is_merged_at_least = self.budget.is_spent();
        self.remark();
        for slot in self.slots {
            if slot.taken > 0 {
                self.report.tags.entry(slot.value_type).or_default().insert(slot.name);
            }
        }
        Ok(self.report)
    }

    fn remark(&mut self) {
        let remarks = &mut self.report.remarks;
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
        let guesses: Vec<&str> =
            self.slots.iter().filter(|slot| slot.is_guess).map(|slot| slot.name.as_str()).collect();
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
    }
}

impl Slot {
    fn new(name: String, value_type: ValueType, is_guess: bool) -> Self {
        let refused = check_name(&name).err().map(str::to_owned);
        Self {
            name,
            value_type,
            is_guess,
            refused,
            number: None,
            times: Vec::new(),
            values: Values::empty(value_type),
            qualities: Vec::new(),
            tracker: Tracker::default(),
            last_text: None,
            taken: 0,
            without_value: 0,
        }
    }

    /// What a cell becomes here; a text that repeats the last one shares it.
    fn fit(&mut self, cell: Cell<'_>, decimal: char) -> Fit {
        if let (Cell::Text(words), ValueType::Text, Some(last)) =
            (cell, self.value_type, &self.last_text)
            && **last == *words
        {
            let quality = if text::is_marker(words) { Quality::BAD } else { Quality::GOOD };
            return Fit::Value(Value::Text(Arc::clone(last)), quality);
        }
        let fit = cell::fit(cell, self.value_type, decimal);
        if let Fit::Value(Value::Text(words), _) = &fit {
            self.last_text = Some(Arc::clone(words));
        }
        fit
    }

    fn push(&mut self, time: i64, value: Value, quality: Quality) {
        if !self.qualities.is_empty() {
            self.qualities.push(quality);
        } else if quality != Quality::GOOD {
            self.qualities.resize(self.times.len(), Quality::GOOD);
            self.qualities.push(quality);
        }
        self.times.push(time);
        self.values.push(value);
        self.taken += 1;
    }

    fn take(&mut self, tag: u32) -> Column {
        let qualities = std::mem::take(&mut self.qualities);
        Column {
            tag,
            times: std::mem::take(&mut self.times),
            values: std::mem::replace(&mut self.values, Values::empty(self.value_type)),
            qualities: if qualities.is_empty() {
                Qualities::GOOD
            } else {
                Qualities::Each(qualities)
            },
        }
    }

    fn clear(&mut self) {
        self.times.clear();
        self.qualities.clear();
        self.values = Values::empty(self.value_type);
    }
}

/// Bytes a cell weighs in a batch, whatever becomes of it.
fn weight(cell: Option<Cell<'_>>) -> usize {
    SAMPLE_BYTES
        + match cell {
            Some(Cell::Text(words)) => words.len(),
            _ => 0,
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
