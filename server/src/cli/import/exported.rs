//! Files that `tagmill export` wrote: recognised by their columns, read back bit for bit.
//!
//! Contract: no rule about markers, empty texts or types applies here; what the file says was stored is stored. Other
//! programs may have rewritten the file, in another order too, as long as the columns are all there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use tagmill_storage::{Quality, ValueType};

use super::batches::Batches;
use super::id;
use super::report::Report;
use super::sink::Sink;
use super::source::{Kind, Length, Piece, Source};
use super::stamps::{NO_TIME, TimeRules};
use crate::cli::attributes::TagFile;
use crate::cli::export::columns::{self, COLUMNS, Cells};
use crate::cli::export::{definitions, folder};
use crate::cli::failure::{Failure, Result};

/// One exported file.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub file: PathBuf,
    /// First level of every tag's name; may be empty.
    pub prefix: String,
    /// What is known of the tags, by their names here.
    pub tags: Arc<TagFile>,
    /// Import id; by default it follows from the file.
    pub id: Option<String>,
}

/// The exports among what a caller named.
#[derive(Debug, Default)]
pub struct Exports {
    /// Their files, in order.
    pub files: Vec<Exported>,
    /// What is known of tags, to be defined before: of folders all of it, else as samples come.
    pub known: Vec<Arc<TagFile>>,
    /// Of them, those whose tags are all defined, with samples or without.
    pub folders: Vec<Arc<TagFile>>,
}

impl Exports {
    /// Adds a folder with its files, or one file.
    ///
    /// # Errors
    /// If the folder is no export, or a file of it cannot be read.
    pub fn add(&mut self, path: &Path, prefix: &str, tags: Option<&TagFile>) -> Result<()> {
        let is_folder = path.is_dir();
        let place = if is_folder { path } else { path.parent().unwrap_or(path) };
        let known = match tags {
            Some(tags) => Some(tags.clone()),
            None => definitions::read(place)?,
        };
        let files = if is_folder { folder::Folder::files(path)? } else { vec![path.to_owned()] };
        if known.is_none() && files.is_empty() {
            return Err(Failure::new(format!("{} is no export", path.display())).next(
                "name the files in it, and say with --map or --wide what their columns are",
            ));
        }
        for file in &files {
            if !is_export(&Source::open(file, None, '.')?) {
                return Err(Failure::new(format!("{} is no exported file", file.display()))
                    .next("name it, and say with --map or --wide what its columns are"));
            }
        }
        let known = Arc::new(known.unwrap_or_default().under(prefix));
        let export =
            |file| Exported { file, prefix: prefix.to_owned(), tags: Arc::clone(&known), id: None };
        self.files.extend(files.into_iter().map(export));
        if is_folder {
            self.folders.push(Arc::clone(&known));
        }
        self.known.push(known);
        Ok(())
    }
}

/// Whether a file has all columns of an export.
pub fn is_export(source: &Source) -> bool {
    let fits = |name: &str, kind: Kind| match name {
        columns::TAG | columns::TYPE | columns::VALUE_TEXT | columns::STORED_TEXT => {
            kind == Kind::Text
        }
        columns::TS => matches!(kind, Kind::Time(_, true)),
        columns::VALUE => kind == Kind::F64,
        _ => kind == Kind::I64,
    };
    COLUMNS.iter().all(|name| {
        source.fields().iter().any(|field| field.name == *name && fits(name, field.kind))
    })
}

/// Imports an exported file; see [`super::run`].
///
/// # Errors
/// If the file cannot be read, or the database not be written.
pub fn run(
    import: &Exported,
    sink: &mut dyn Sink,
    hear: &dyn Fn(u8, u64, Length),
) -> Result<Report> {
    let started = Instant::now();
    let within = |failure: Failure| failure.within(import.file.display());
    let source = Source::open(&import.file, None, '.')?;
    let mut positions = Vec::with_capacity(COLUMNS.len());
    for name in COLUMNS {
        let position = source.fields().iter().position(|field| field.name == name);
        positions
            .push(position.ok_or_else(|| within(Failure::new(format!("no column '{name}'"))))?);
    }
    let time_kind = positions.get(1).and_then(|at| source.fields().get(*at)).map(|f| f.kind);
    let id = match &import.id {
        Some(id) => id.clone(),
        None => id::import_id(&import.file, &format!("export 1 {:?}", import.prefix))?,
    };
    let mark = sink.begin(&id)?;
    let mut reader = Reader {
        prefix: &import.prefix,
        time_kind: time_kind.unwrap_or(Kind::Other),
        batches: Batches::new(&import.tags, sink, mark),
        numbers: HashMap::new(),
    };
    source
        .read(&positions, |piece| {
            reader.take(&piece)?;
            hear(2, piece.done, source.length());
            Ok(())
        })
        .map_err(within)?;
    let mut report = reader.batches.finish().map_err(within)?;
    report.id = id;
    report.is_dry_run = sink.is_dry_run();
    report.elapsed = started.elapsed();
    Ok(report)
}

struct Reader<'a> {
    prefix: &'a str,
    time_kind: Kind,
    batches: Batches<'a>,
    /// By the name the file has.
    numbers: HashMap<String, u32>,
}

impl Reader<'_> {
    fn take(&mut self, piece: &Piece) -> Result<()> {
        self.batches.report.rows += piece.rows as u64;
        let [tag, ts, value_type, quality, value, value_int, value_text, bits, stored_text] =
            piece.columns.as_slice()
        else {
            return Ok(());
        };
        let stamps = TimeRules::default().read(ts, self.time_kind)?;
        for (row, problem) in &stamps.problems {
            let reason =
                problem.map_or("the row has no time".to_owned(), |problem| problem.to_string());
            self.batches.report.refuse(&reason, 1, || row_name(piece, *row));
        }
        let tags = tag.as_string::<i32>();
        let types = value_type.as_string::<i32>();
        let qualities = quality.as_primitive::<Int64Type>();
        let (texts, stored_texts) = (value_text.as_string::<i32>(), stored_text.as_string::<i32>());
        let numbers = value.as_primitive::<Float64Type>();
        let wholes = value_int.as_primitive::<Int64Type>();
        let bits = bits.as_primitive::<Int64Type>();
        let mut last: Option<(&str, u32)> = None;
        for row in (0..piece.rows).filter(|row| stamps.ns[*row] != NO_TIME) {
            let cells = Cells {
                value: numbers.is_valid(row).then(|| numbers.value(row)),
                value_int: wholes.is_valid(row).then(|| wholes.value(row)),
                value_text: texts.is_valid(row).then(|| texts.value(row)),
                stored_bits: bits.is_valid(row).then(|| bits.value(row)),
                stored_text: stored_texts.is_valid(row).then(|| stored_texts.value(row)),
            };
            let text = cells.stored_text.or(cells.value_text);
            self.batches.make_room(text.map_or(0, str::len))?;
            let named = tags.is_valid(row) && types.is_valid(row) && qualities.is_valid(row);
            let value_type = ValueType::from_name(if named { types.value(row) } else { "" });
            let quality = u32::try_from(qualities.value(row)).ok().map(Quality);
            let (Some(value_type), Some(quality)) = (value_type, quality) else {
                let reason = "the row lacks its tag, type or quality";
                self.batches.report.refuse(reason, 1, || row_name(piece, row));
                continue;
            };
            let name = tags.value(row);
            let number = match last {
                Some((same, number)) if same == name => number,
                _ => self.number(name, value_type),
            };
            last = Some((name, number));
            if self.batches.value_type(number) != value_type {
                self.batches.refuse(number, "the tag has several types in the file");
                continue;
            }
            match cells.stored(value_type) {
                Some(value) => self.batches.push(number, stamps.ns[row], value, quality),
                None => self.batches.refuse(number, "the row holds no value of the tag's type"),
            }
        }
        Ok(())
    }

    fn number(&mut self, name: &str, value_type: ValueType) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let full = if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.prefix)
        };
        let number = self.batches.add_tag(full, value_type);
        self.numbers.insert(name.to_owned(), number);
        number
    }
}

fn row_name(piece: &Piece, row: usize) -> String {
    format!("row {}", piece.first_row + row as u64 + 1)
}
