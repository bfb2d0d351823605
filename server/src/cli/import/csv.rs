//! Text files with a header line: every cell a text, to be read for what it says.
//!
//! Contract: UTF-8, quotes as in RFC 4180, the separator as told or the one the header has most of. A line with too
//! many or too few cells is handed on as a row of nulls with its reason.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder};

use super::source::{Field, Kind, Piece};
use crate::cli::failure::{Failure, Result};

/// A piece ends when its texts reach this, whatever its number of rows.
const PIECE_BYTES: usize = 8 << 20;

/// A CSV file whose header has been read.
#[derive(Debug)]
pub struct CsvFile {
    path: PathBuf,
    separator: u8,
    bytes: u64,
    fields: Vec<Field>,
}

impl CsvFile {
    pub(super) fn open(path: &Path, separator: Option<u8>, decimal: char) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("{}: {error}", path.display()))
                .next("check the path, and that the file is UTF-8 text with a header line")
        };
        let file = File::open(path).map_err(|error| failed(&error))?;
        let bytes = file.metadata().map_err(|error| failed(&error))?.len();
        let mut header = String::new();
        BufReader::new(file).read_line(&mut header).map_err(|error| failed(&error))?;
        let separator = separator.unwrap_or_else(|| guess_separator(&header, decimal));
        let mut this = Self { path: path.to_owned(), separator, bytes, fields: Vec::new() };
        let header = this.reader()?.headers().map_err(|error| failed(&error))?.clone();
        if header.iter().all(|name| name.trim().is_empty()) {
            return Err(failed(&"no header line"));
        }
        this.fields = header
            .iter()
            .map(|name| Field {
                name: name.trim().trim_start_matches('\u{FEFF}').to_owned(),
                kind: Kind::Text,
                shown: "text".to_owned(),
            })
            .collect();
        Ok(this)
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads until the end or until `give` says stop.
    pub(super) fn read(
        &self,
        positions: &[usize],
        rows: usize,
        give: &mut dyn FnMut(Piece) -> bool,
    ) -> Result<()> {
        let mut reader = self.reader()?;
        let mut record = csv::StringRecord::new();
        let mut first_row = 0;
        loop {
            let mut columns: Vec<StringBuilder> =
                positions.iter().map(|_| StringBuilder::new()).collect();
            let mut malformed = Vec::new();
            let (mut count, mut bytes) = (0, 0);
            while count < rows && bytes < PIECE_BYTES {
                let more = reader.read_record(&mut record).map_err(|error| {
                    Failure::new(format!("{}: {error}", self.path.display()))
                        .next("the file must be UTF-8 text; convert it, or mend that line")
                })?;
                if !more {
                    break;
                }
                let is_whole = record.len() == self.fields.len();
                if !is_whole {
                    let line = record.position().map_or(0, csv::Position::line);
                    let why = format!(
                        "line {line} has {} cells, the header {}",
                        record.len(),
                        self.fields.len()
                    );
                    malformed.push((count, why));
                }
                for (column, position) in columns.iter_mut().zip(positions) {
                    column.append_option(record.get(*position).filter(|_| is_whole));
                }
                count += 1;
                bytes += record.as_slice().len();
            }
            if count == 0 {
                return Ok(());
            }
            let columns = columns
                .into_iter()
                .map(|mut column| -> ArrayRef { Arc::new(column.finish()) })
                .collect();
            let done = reader.position().byte();
            if !give(Piece { first_row, rows: count, columns, malformed, done }) {
                return Ok(());
            }
            first_row += count as u64;
        }
    }

    fn reader(&self) -> Result<csv::Reader<File>> {
        csv::ReaderBuilder::new()
            .delimiter(self.separator)
            .flexible(true)
            .buffer_capacity(1 << 18)
            .from_path(&self.path)
            .map_err(|error| Failure::new(format!("{}: {error}", self.path.display())))
    }
}

/// The separator a header has most of, outside quotes; a comma that is the decimal sign comes last.
fn guess_separator(header: &str, decimal: char) -> u8 {
    let count = |separator: char| {
        let mut is_quoted = false;
        header
            .chars()
            .filter(|c| {
                is_quoted ^= *c == '"';
                *c == separator && !is_quoted
            })
            .count()
    };
    let candidates = if decimal == ',' {
        [(b';', ';'), (b'\t', '\t'), (b',', ',')]
    } else {
        [(b',', ','), (b';', ';'), (b'\t', '\t')]
    };
    let mut best = candidates[0];
    for candidate in candidates {
        if count(candidate.1) > count(best.1) {
            best = candidate;
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn guesses_the_separator() {
        assert_eq!(guess_separator("time,a;b,c", '.'), b',');
        assert_eq!(guess_separator("time;\"a,b,c\";c", '.'), b';');
        assert_eq!(guess_separator("time\tx", '.'), b'\t');
        assert_eq!(guess_separator("time", ','), b';');
    }

    #[test]
    fn hands_out_texts_and_names_bad_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "\u{FEFF}t,a,\"b,c\"\n1,2,3\n4,5\n6,,\"x\ny\"\n").unwrap();
        let file = CsvFile::open(&path, None, '.').unwrap();
        let names: Vec<&str> = file.fields().iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["t", "a", "b,c"]);
        let mut pieces = Vec::new();
        file.read(&[2, 0], 2, &mut |piece| {
            pieces.push(piece);
            true
        })
        .unwrap();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].malformed, [(1, "line 3 has 2 cells, the header 3".to_owned())]);
        assert!(pieces[0].columns[1].is_null(1));
        assert_eq!(pieces[1].first_row, 2);
        assert_eq!(pieces[1].columns[0].as_string::<i32>().value(0), "x\ny");
    }
}
