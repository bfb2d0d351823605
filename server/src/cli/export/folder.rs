//! The folder of an export: whole files or none.
//!
//! Contract: a file is written under a name that begins with `_` and ends on `.part`, synced, renamed, and its folder synced; what fails
//! before that leaves no file. A file that stands in the way is replaced only where the caller said so.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tagmill_storage::{DAY_NS, Rfc3339};

use super::columns;
use crate::cli::failure::{Failure, Result};

/// Key of a file's metadata that says it is an export, with the version of its columns.
pub const MARK: &str = "tagmill.export";
/// Version of the columns.
pub const VERSION: &str = "1";
/// Name of the file with what is known of the tags. Readers of whole folders leave out names that begin so.
pub const TAGS_FILE: &str = "_tags.json";

/// Rows of a row group: readers skip and parallelise by these.
const GROUP_ROWS: usize = 1 << 20;
/// Encoded bytes of a row group, held in memory until it ends.
const GROUP_BYTES: usize = 64 << 20;

/// Where an export goes.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    may_replace: bool,
}

impl Folder {
    /// Makes the folder if there is none.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path, may_replace: bool) -> Result<Self> {
        fs::create_dir_all(path).map_err(|error| failed("make the folder", path, &error))?;
        Ok(Self { path: path.to_owned(), may_replace })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a UTC day, counted from 1970.
    pub fn day_file(&self, day: i64) -> PathBuf {
        let instant = Rfc3339(day.saturating_mul(DAY_NS)).to_string();
        self.path.join(format!("{}.parquet", instant.get(..10).unwrap_or(&instant)))
    }

    /// Whether the files of these days may be written.
    ///
    /// # Errors
    /// If one is there and may not be replaced.
    pub fn check_free(&self, days: &[i64]) -> Result<()> {
        if self.may_replace {
            return Ok(());
        }
        let taken = days.iter().map(|day| self.day_file(*day)).find(|path| path.exists());
        taken.map_or(Ok(()), |path| {
            Err(Failure::new(format!("{} exists", path.display()))
                .next("name another folder, or replace it with --overwrite"))
        })
    }

    /// Begins the file of a day.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin_day(&self, day: i64) -> Result<DayFile> {
        let (part, file) = Part::create(&self.day_file(day))?;
        let options = ArrowWriterOptions::new()
            .with_properties(properties())
            // The plain Parquet types say it all; what Arrow adds would only differ by reader.
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, columns::schema(), options)
            .map_err(|error| broken(&part.path, &error))?;
        Ok(DayFile { part, writer, rows: 0 })
    }

    /// Writes a small file as a whole.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (part, mut file) = Part::create(&self.path.join(name))?;
        file.write_all(bytes).map_err(|error| failed("write", &part.path, &error))?;
        part.keep(&file)?;
        self.sync()
    }

    /// Makes the names of the files durable.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<()> {
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed("sync", &self.path, &error))
    }

    /// Names of `.parquet` files in it, sorted.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path).map_err(|error| failed("read", path, &error))?;
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(|error| failed("read", path, &error))?.path();
            if file.extension().is_some_and(|end| end == "parquet") {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// A day's file under way. Dropped before [`DayFile::finish`] it leaves nothing.
#[derive(Debug)]
pub struct DayFile {
    part: Part,
    writer: ArrowWriter<File>,
    rows: u64,
}

impl DayFile {
    /// Appends rows.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(|error| broken(&self.part.path, &error))
    }

    /// Completes the file under its own name; gives its rows and bytes.
    ///
    /// # Errors
    /// If it cannot be written to its end.
    pub fn finish(self) -> Result<(u64, u64)> {
        // Writes the footer, too.
        let file = self.writer.into_inner().map_err(|error| broken(&self.part.path, &error))?;
        let length = file.metadata().map_err(|error| failed("read", &self.part.path, &error))?;
        self.part.keep(&file)?;
        Ok((self.rows, length.len()))
    }
}

/// A file under a name that says it is not whole; removed unless it is kept.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    whole: PathBuf,
    is_kept: bool,
}

impl Part {
    fn create(whole: &Path) -> Result<(Self, File)> {
        let mut name = OsString::from("_");
        name.push(whole.file_name().unwrap_or_default());
        name.push(".part");
        let path = whole.with_file_name(name);
        let file = File::create(&path).map_err(|error| failed("make", &path, &error))?;
        Ok((Self { path, whole: whole.to_owned(), is_kept: false }, file))
    }

    fn keep(mut self, file: &File) -> Result<()> {
        file.sync_all().map_err(|error| failed("sync", &self.path, &error))?;
        fs::rename(&self.path, &self.whole)
            .map_err(|error| failed("rename", &self.path, &error))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            // What failed before is what the caller hears of; a file that stays behind still says it is a part.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn properties() -> WriterProperties {
    let ascending =
        |column_idx| SortingColumn { column_idx, descending: false, nulls_first: false };
    let plain = |name: &str| ColumnPath::from(name);
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .set_sorting_columns(Some(vec![ascending(0), ascending(1)]))
        .set_key_value_metadata(Some(vec![KeyValue::new(MARK.to_owned(), VERSION.to_owned())]))
        .set_created_by(concat!("tagmill ", env!("CARGO_PKG_VERSION")).to_owned())
        // Times of a scan are near multiples of its period: their differences all but vanish.
        .set_column_dictionary_enabled(plain(columns::TS), false)
        .set_column_encoding(plain(columns::TS), Encoding::DELTA_BINARY_PACKED)
        .build()
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{what} {}: {error}", path.display())).next(advice(error.kind()))
}

fn broken(path: &Path, error: &ParquetError) -> Failure {
    match error {
        ParquetError::External(inner) => match inner.downcast_ref::<std::io::Error>() {
            Some(error) => failed("write", path, error),
            None => Failure::new(format!("write {}: {inner}", path.display())),
        },
        other => Failure::new(format!("write {}: {other}", path.display())),
    }
}

fn advice(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind as Kind;
    match kind {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
            "free some space or name a folder on another disk, then run the command again with --overwrite"
        }
        _ => "check the path, and that you may write there",
    }
}
