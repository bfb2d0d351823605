//! Answers as text: a table for people, CSV, JSON or Arrow for programs.
//!
//! Contract: instants are shown in the zone asked for, RFC 3339; CSV has one header, JSON is one array, Arrow one IPC
//! stream for each statement. Everything but the table is written as it comes.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::csv::{Writer as CsvWriter, WriterBuilder as CsvBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, Writer as JsonWriter, WriterBuilder as JsonBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::failure::Result;
use super::times::Zone;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// Comma-separated, with a header.
    Csv,
    /// One array of objects.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// Writes one answer.
pub struct Printer<W: Write> {
    zone: Zone,
    rows: u64,
    inner: Inner<W>,
}

enum Inner<W: Write> {
    Table(Box<Table>, W),
    Csv(Box<CsvWriter<W>>),
    Json(JsonWriter<W, JsonArray>),
    Arrow(StreamWriter<W>),
}

impl<W: Write> std::fmt::Debug for Printer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer")
            .field("zone", &self.zone)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Printer<W> {
    /// Begins an answer with these columns.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn new(format: Format, zone: Zone, schema: &SchemaRef, out: W) -> Result<Self> {
        let schema = shown_schema(schema, zone);
        let inner = match format {
            Format::Table => Inner::Table(Box::new(table(&schema)), out),
            Format::Csv => {
                let mut writer = CsvBuilder::new().with_header(true).build(out);
                writer.write(&RecordBatch::new_empty(schema))?;
                Inner::Csv(Box::new(writer))
            }
            Format::Json => Inner::Json(JsonBuilder::new().with_explicit_nulls(true).build(out)),
            Format::Arrow => Inner::Arrow(StreamWriter::try_new(out, &schema)?),
        };
        Ok(Self { zone, rows: 0, inner })
    }

    /// Takes rows.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let batch = shown(batch, self.zone)?;
        match &mut self.inner {
            Inner::Table(table, _) => add_rows(table, &batch)?,
            Inner::Csv(writer) => writer.write(&batch)?,
            Inner::Json(writer) => writer.write(&batch)?,
            Inner::Arrow(writer) => writer.write(&batch)?,
        }
        Ok(())
    }

    /// Ends the answer and tells how many rows it had.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<u64> {
        match self.inner {
            Inner::Table(table, mut out) => {
                writeln!(out, "{}", table.trim_fmt())?;
                out.flush()?;
            }
            Inner::Csv(writer) => writer.into_inner().flush()?,
            Inner::Json(mut writer) => {
                writer.finish()?;
                let mut out = writer.into_inner();
                writeln!(out)?;
                out.flush()?;
            }
            Inner::Arrow(mut writer) => {
                writer.finish()?;
                writer.into_inner()?.flush()?;
            }
        }
        Ok(self.rows)
    }
}

fn table(schema: &SchemaRef) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(schema.fields().iter().map(|field| field.name()));
    for (at, field) in schema.fields().iter().enumerate() {
        if let Some(column) = table.column_mut(at).filter(|_| field.data_type().is_numeric()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn add_rows(table: &mut Table, batch: &RecordBatch) -> Result<()> {
    let options = FormatOptions::default();
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        table.add_row(columns.iter().map(|column| {
            // Control characters in a text value must not reach the terminal.
            let text = column.value(row).to_string();
            Cell::new(text.replace(|c: char| c.is_control() && c != '\n', "\u{FFFD}"))
        }));
    }
    Ok(())
}

/// The type instants are shown with; other types stay.
fn shown_type(data_type: &DataType, zone: Zone) -> DataType {
    match data_type {
        DataType::Timestamp(unit, Some(_)) => {
            let name = if zone == Zone::UTC { "UTC".to_owned() } else { zone.to_string() };
            DataType::Timestamp(*unit, Some(name.into()))
        }
        other => other.clone(),
    }
}

fn shown_schema(schema: &SchemaRef, zone: Zone) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_data_type(shown_type(field.data_type(), zone)))
        .collect();
    Arc::new(Schema::new(fields))
}

fn shown(batch: &RecordBatch, zone: Zone) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(|column| cast(column, &shown_type(column.data_type(), zone)))
        .collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(shown_schema(&batch.schema(), zone), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray, TimestampNanosecondArray};

    use super::*;

    fn print(format: Format, zone: &str) -> String {
        let ts = TimestampNanosecondArray::from(vec![Some(1_709_294_400_500_000_000), None])
            .with_timezone("UTC");
        let batch = RecordBatch::try_from_iter([
            ("tag", Arc::new(StringArray::from(vec!["a,b", "c"])) as ArrayRef),
            ("ts", Arc::new(ts) as ArrayRef),
            ("value", Arc::new(Float64Array::from(vec![Some(1.5), None])) as ArrayRef),
        ])
        .unwrap();
        let mut out = Vec::new();
        let mut printer =
            Printer::new(format, zone.parse().unwrap(), &batch.schema(), &mut out).unwrap();
        printer.batch(&batch).unwrap();
        assert_eq!(printer.finish().unwrap(), 2);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn instants_follow_the_zone() {
        assert_eq!(
            print(Format::Csv, "UTC"),
            "tag,ts,value\n\"a,b\",2024-03-01T12:00:00.500Z,1.5\nc,,\n"
        );
        assert!(print(Format::Csv, "Europe/Berlin").contains("2024-03-01T13:00:00.500+01:00"));
        assert!(print(Format::Table, "+02:00").contains("2024-03-01T14:00:00.500+02:00"));
    }

    #[test]
    fn json_is_one_array_with_nulls() {
        assert_eq!(
            print(Format::Json, "UTC"),
            "[{\"tag\":\"a,b\",\"ts\":\"2024-03-01T12:00:00.500Z\",\"value\":1.5},\
             {\"tag\":\"c\",\"ts\":null,\"value\":null}]\n"
        );
    }
}
