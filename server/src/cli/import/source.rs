//! Files as rows of named columns: what Parquet and CSV have in common.
//!
//! Contract: [`Source::read`] hands out the asked columns in pieces of bounded size, in file order, each column as one
//! of five plain Arrow types or a timestamp; reading runs one piece ahead on its own thread. Knows nothing of tags.

use std::path::Path;
use std::sync::mpsc::sync_channel;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, TimeUnit};

use super::{csv::CsvFile, parquet::ParquetFile};
use crate::cli::failure::{Failure, Result};

/// Cells a piece holds at most.
const PIECE_CELLS_MAX: usize = 1 << 20;
/// Rows a piece holds at most.
const PIECE_ROWS_MAX: usize = 8_192;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// Whole numbers.
    I64,
    /// Truth values.
    Bool,
    /// Texts, to be read for what they say.
    Text,
    /// Instants; `true` if the file says they are in UTC.
    Time(TimeUnit, bool),
    /// A date without time of day.
    Date,
    /// Something an import has no use for.
    Other,
}

impl Kind {
    /// The kind of an Arrow column. Types without a plain counterpart of ours are read by their text, exactly.
    pub fn of(data_type: &DataType) -> Self {
        use DataType as D;
        match data_type {
            D::Float64 => Self::F64,
            D::Float32 | D::Float16 => Self::F32,
            D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 => {
                Self::I64
            }
            D::Boolean => Self::Bool,
            D::Utf8
            | D::LargeUtf8
            | D::Utf8View
            | D::UInt64
            | D::Decimal32(..)
            | D::Decimal64(..)
            | D::Decimal128(..)
            | D::Decimal256(..) => Self::Text,
            D::Timestamp(unit, zone) => Self::Time(*unit, zone.is_some()),
            D::Date32 | D::Date64 => Self::Date,
            D::Dictionary(_, values) => Self::of(values),
            _ => Self::Other,
        }
    }

    /// Whether a tag can hold it.
    pub const fn is_value(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::I64 | Self::Bool | Self::Text)
    }

    /// The one Arrow type a piece has for this kind.
    fn plain(self) -> Option<DataType> {
        Some(match self {
            Self::F64 => DataType::Float64,
            Self::F32 => DataType::Float32,
            Self::I64 => DataType::Int64,
            Self::Bool => DataType::Boolean,
            Self::Text => DataType::Utf8,
            Self::Time(unit, has_zone) => DataType::Timestamp(unit, has_zone.then(|| "UTC".into())),
            Self::Date => DataType::Date32,
            Self::Other => return None,
        })
    }
}

/// A column of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its header.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Its type in the file's own words.
    pub shown: String,
}

/// Consecutive rows of the asked columns.
#[derive(Debug)]
pub struct Piece {
    /// Position of the first row in the file, from 0.
    pub first_row: u64,
    /// How many rows.
    pub rows: usize,
    /// The asked columns, in the order they were asked for.
    pub columns: Vec<ArrayRef>,
    /// Rows that are not as wide as the header, and why they are refused; ascending.
    pub malformed: Vec<(usize, String)>,
    /// How far reading has come, in the unit of [`Source::length`].
    pub done: u64,
}

/// How long a file is, in the unit its reader can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Rows.
    Rows(u64),
    /// Bytes.
    Bytes(u64),
}

impl Length {
    /// The number alone.
    pub const fn count(self) -> u64 {
        match self {
            Self::Rows(count) | Self::Bytes(count) => count,
        }
    }
}

/// A file that can be read any number of times.
#[derive(Debug)]
pub enum Source {
    /// A Parquet file.
    Parquet(ParquetFile),
    /// A text file with a header.
    Csv(CsvFile),
}

impl Source {
    /// Opens a file by what its name ends on; `separator` is for CSV.
    ///
    /// # Errors
    /// If it cannot be read, or is neither Parquet nor CSV.
    pub fn open(path: &Path, separator: Option<u8>, decimal: char) -> Result<Self> {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or("").to_ascii_lowercase();
        match end.as_str() {
            "parquet" | "parq" | "pq" => ParquetFile::open(path).map(Self::Parquet),
            "csv" | "tsv" | "txt" => CsvFile::open(path, separator, decimal).map(Self::Csv),
            _ => Err(Failure::new(format!("{}: neither .parquet nor .csv", path.display()))
                .next("rename the file to end on what it is")),
        }
    }

    /// Its columns.
    pub fn fields(&self) -> &[Field] {
        match self {
            Self::Parquet(file) => file.fields(),
            Self::Csv(file) => file.fields(),
        }
    }

    /// Whether an empty cell and a missing one look the same.
    pub const fn has_no_nulls(&self) -> bool {
        matches!(self, Self::Csv(_))
    }

    /// Its length.
    pub fn length(&self) -> Length {
        match self {
            Self::Parquet(file) => Length::Rows(file.rows()),
            Self::Csv(file) => Length::Bytes(file.bytes()),
        }
    }

    /// Hands the columns at these positions to `take`, piece by piece.
    ///
    /// # Errors
    /// What `take` returns, or why the file cannot be read.
    pub fn read(
        &self,
        positions: &[usize],
        mut take: impl FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        let rows = (PIECE_CELLS_MAX / positions.len().max(1)).clamp(1, PIECE_ROWS_MAX);
        let (sender, receiver) = sync_channel::<Result<Piece>>(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // The receiver hangs up when `take` fails: then there is nobody to tell.
                let mut give = |piece| sender.send(Ok(piece)).is_ok();
                let result = match self {
                    Self::Parquet(file) => file.read(positions, rows, &mut give),
                    Self::Csv(file) => file.read(positions, rows, &mut give),
                };
                if let Err(failure) = result {
                    drop(sender.send(Err(failure)));
                }
            });
            receiver.into_iter().try_for_each(|piece| take(piece?))
        })
    }
}

/// A column as its plain Arrow type.
///
/// # Errors
/// If a value does not fit, which for the plain types cannot be.
pub(super) fn plain(column: &ArrayRef, kind: Kind) -> Result<ArrayRef> {
    let Some(want) = kind.plain().filter(|want| want != column.data_type()) else {
        return Ok(ArrayRef::clone(column));
    };
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(column.as_ref(), &want, &strict)?)
}
