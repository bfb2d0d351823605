//! `tagmill import`: Parquet and CSV files, long or wide, into a database.
//!
//! Contract: docs/import.md. A file read the same way is one import with one id; run again after a break it goes on
//! where it stopped, run again after its end it writes nothing.
//!
//! Reading order: [`mapping`] (the caller's words), [`source`] (files as columns), [`plan`] (which column is what),
//! [`convert`] (cells to samples), [`batches`] (samples to batches), [`sink`] (batches to a database), [`report`];
//! [`exported`] (files of `tagmill export`, which need no plan).

pub mod batches;
pub mod cell;
pub mod command;
pub mod convert;
mod csv;
pub mod exported;
pub mod id;
pub mod keys;
pub mod local;
pub mod mapping;
mod parquet;
pub mod plan;
pub mod remote;
pub mod repeats;
pub mod report;
pub mod sink;
pub mod source;
pub mod stamps;
pub mod text;

use std::path::PathBuf;
use std::time::Instant;

use self::convert::Convert;
use self::mapping::Layout;
use self::plan::Plan;
use self::report::Report;
use self::sink::Sink;
use self::source::{Length, Source};
use self::stamps::TimeRules;
use super::attributes::TagFile;
use super::failure::Result;

/// One file and how to read it.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// The file.
    pub file: PathBuf,
    /// Which column is what.
    pub layout: Layout,
    /// First level of every tag's name; may be empty.
    pub prefix: String,
    /// Columns left out.
    pub skip: Vec<String>,
    /// Types and attributes of tags.
    pub types: TagFile,
    /// How times are written.
    pub times: TimeRules,
    /// Decimal sign of numbers in texts.
    pub decimal: char,
    /// Separator of a CSV file; by default the header tells.
    pub separator: Option<u8>,
    /// Import id; by default it follows from the file and how it is read.
    pub id: Option<String>,
}

impl Import {
    /// A file in this layout, with every default.
    pub fn new(file: impl Into<PathBuf>, layout: Layout) -> Self {
        Self {
            file: file.into(),
            layout,
            prefix: String::new(),
            skip: Vec::new(),
            types: TagFile::default(),
            times: TimeRules::default(),
            decimal: '.',
            separator: None,
            id: None,
        }
    }

    /// The words that, with the file's bytes, decide which samples the import has.
    fn words(&self) -> String {
        format!(
            "{:?} {:?} {:?} {:?} {} {:?}",
            self.layout, self.prefix, self.skip, self.times, self.decimal, self.separator
        )
    }
}

/// Where a caller hears how far an import has come.
pub struct Progress<'a> {
    length: Length,
    hear: &'a dyn Fn(u8, u64, Length),
}

impl Progress<'_> {
    /// Tells how far `pass` (1 looks, 2 writes) has come.
    fn report(&self, pass: u8, done: u64) {
        (self.hear)(pass, done, self.length);
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Imports a file. `hear` is told the pass (1 looks, 2 writes), how far it has come, and the file's length.
///
/// # Errors
/// If the file cannot be read as told, or the database cannot be written. What was written stays, and the same import
/// goes on after it.
pub fn run(import: &Import, sink: &mut dyn Sink, hear: &dyn Fn(u8, u64, Length)) -> Result<Report> {
    let started = Instant::now();
    let within = |failure: super::failure::Failure| failure.within(import.file.display());
    let source = Source::open(&import.file, import.separator, import.decimal)?;
    let progress = Progress { length: source.length(), hear };
    let plan = Plan::make(import, &source, &progress).map_err(within)?;
    let id = match &import.id {
        Some(id) => id.clone(),
        None => id::import_id(&import.file, &import.words())?,
    };
    let mark = sink.begin(&id)?;
    let mut convert = Convert::new(import, plan, sink, mark);
    let positions = convert.positions();
    source
        .read(&positions, |piece| {
            convert.take(&piece)?;
            progress.report(2, piece.done);
            Ok(())
        })
        .map_err(within)?;
    let mut report = convert.finish().map_err(within)?;
    report.id = id;
    report.is_dry_run = sink.is_dry_run();
    report.elapsed = started.elapsed();
    Ok(report)
}
