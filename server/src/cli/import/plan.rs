//! How a file is read: which column is what, and the type of every tag, before anything is written.
//!
//! Contract: [`Plan::make`] fails on everything the caller can mend (a column that is not there, times without a
//! zone); what is wrong with single cells is left to the conversion. A first pass over the text columns, if there are
//! any, decides the types of their tags and how qualities are written. Long and wide files differ only here: a long
//! file has one value column and its tags end without the column's name.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::cell::{self, Cell, Cells};
use super::keys::{Keys, NO_KEY};
use super::mapping::Layout;
use super::source::{Field, Kind, Piece, Source};
use super::text::{self, Seen};
use super::{Import, Progress};
use crate::cli::failure::{Failure, Result};
use tagmill_storage::ValueType;

/// Ends of the names of columns that hold the quality of the column named before them.
const STATUS_ENDS: [&str; 2] = ["__status", "__quality"];

/// A column that gives qualities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its header.
    pub name: String,
    /// Its place among the columns read.
    pub at: usize,
    /// Its kind.
    pub kind: Kind,
    /// Whether its numbers are one-byte qualities of classic OPC.
    pub is_classic: bool,
}

/// A column that gives values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueColumn {
    /// Its header.
    pub name: String,
    /// Its place among the columns read.
    pub at: usize,
    /// Its kind.
    pub kind: Kind,
    /// Where its qualities stand.
    pub status: Option<Status>,
}

/// How a file is read.
#[derive(Debug)]
pub struct Plan {
    /// Positions in the file of the columns read.
    pub positions: Vec<usize>,
    /// Places of the tag columns among the columns read.
    pub tags: Vec<usize>,
    /// Place of the time column among the columns read.
    pub time: usize,
    /// Kind of the time column.
    pub time_kind: Kind,
    /// Columns of values.
    pub values: Vec<ValueColumn>,
    /// Whether the names of value columns end the names of tags.
    pub is_wide: bool,
    /// Whether an empty text is no sample at all: a wide file that cannot tell empty from missing.
    pub is_blank_none: bool,
    /// What the first pass found, by key and value column.
    pub seen: Vec<Vec<Seen>>,
    /// Names of rows.
    pub keys: Keys,
    /// Remarks for the report.
    pub remarks: Vec<String>,
}

impl Plan {
    /// Looks at the file as far as needed.
    ///
    /// # Errors
    /// If a column is missing or holds what it cannot, or the file cannot be read.
    pub fn make(import: &Import, source: &Source, progress: &Progress<'_>) -> Result<Self> {
        let mut columns = Columns { fields: source.fields(), read: Vec::new() };
        columns.check_known(import)?;
        let (time_name, tag_names) = match &import.layout {
            Layout::Long { tag, time, .. } | Layout::Wide { tag, time } => (time, tag),
        };
        let time_position = columns.find(time_name)?;
        let time_field = &columns.fields[time_position];
        import.times.check(time_field)?;
        let time = columns.place(time_position);
        let mut tags = Vec::new();
        for name in tag_names {
            let position = columns.find(name)?;
            tags.push(columns.place(position));
        }
        let mut remarks = Vec::new();
        let values = match &import.layout {
            Layout::Long { value, quality, .. } => {
                vec![columns.long_value(value, quality.as_deref())?]
            }
            Layout::Wide { .. } => columns.wide_values(import, time_name, tag_names, &mut remarks),
        };
        if values.is_empty() {
            return Err(Failure::new("no column is left that holds values")
                .next(format!("the file has {}", columns.shown())));
        }
        let is_wide = matches!(import.layout, Layout::Wide { .. });
        let mut plan = Self {
            time_kind: time_field.kind,
            positions: columns.read,
            tags,
            time,
            values,
            is_wide,
            is_blank_none: is_wide && source.has_no_nulls(),
            seen: Vec::new(),
            keys: Keys::default(),
            remarks,
        };
        plan.first_pass(import, source, progress)?;
        Ok(plan)
    }

    /// The type a tag gets if nothing else decides it.
    pub fn inferred(&self, key: u32, column: usize) -> ValueType {
        let kind = self.values.get(column).map_or(Kind::Text, |column| column.kind);
        cell::type_of(kind).unwrap_or_else(|| self.seen_of(key, column).value_type())
    }

    /// Whether a tag's type is a guess, since it never had a value.
    pub fn is_guess(&self, key: u32, column: usize) -> bool {
        let kind = self.values.get(column).map_or(Kind::Text, |column| column.kind);
        kind == Kind::Text && self.seen_of(key, column).is_mute()
    }

    fn seen_of(&self, key: u32, column: usize) -> Seen {
        let seen = self.seen.get(key as usize).and_then(|columns| columns.get(column));
        seen.copied().unwrap_or_default()
    }

    /// Reads the texts for what they say, and the numbers of qualities for how they are meant.
    fn first_pass(
        &mut self,
        import: &Import,
        source: &Source,
        progress: &Progress<'_>,
    ) -> Result<()> {
        let is_status_number = |status: &Status| matches!(status.kind, Kind::I64 | Kind::Text);
        let texts: Vec<usize> =
            (0..self.values.len()).filter(|at| self.values[*at].kind == Kind::Text).collect();
        let statuses: Vec<usize> = (0..self.values.len())
            .filter(|at| self.values[*at].status.as_ref().is_some_and(is_status_number))
            .collect();
        if texts.is_empty() && statuses.is_empty() {
            return Ok(());
        }
        // Only what is looked at is read; `at` of a column is its place in the full read.
        let mut wanted: Vec<usize> = self.tags.clone();
        wanted.extend(texts.iter().map(|at| self.values[*at].at));
        wanted.extend(
            statuses.iter().filter_map(|at| self.values[*at].status.as_ref()).map(|s| s.at),
        );
        let positions: Vec<usize> = wanted.iter().map(|at| self.positions[*at]).collect();
        source.read(&positions, |piece| {
            let tag_columns: Vec<_> = piece.columns[..self.tags.len()].iter().collect();
            let keys = self.keys.number_rows(&tag_columns, piece.rows)?;
            for (at, column) in texts.iter().zip(&piece.columns[self.tags.len()..]) {
                if let Some(cells) = Cells::of(column, Kind::Text) {
                    observe(&mut self.seen, &keys, *at, cells, import.decimal);
                }
            }
            let statuses = statuses.iter().zip(&piece.columns[self.tags.len() + texts.len()..]);
            for (at, column) in statuses {
                if let Some(status) = self.values[*at].status.as_mut() {
                    status.is_classic |= holds_classic(column, status.kind);
                }
            }
            progress.report(1, piece.done);
            Ok(())
        })
    }
}

fn observe(
    seen: &mut Vec<Vec<Seen>>,
    keys: &[u32],
    column: usize,
    cells: Cells<'_>,
    decimal: char,
) {
    for (row, &key) in keys.iter().enumerate() {
        if key == NO_KEY {
            continue;
        }
        let key = key as usize;
        if seen.len() <= key {
            seen.resize_with(key + 1, Vec::new);
        }
        if seen[key].len() <= column {
            seen[key].resize(column + 1, Seen::default());
        }
        let seen = &mut seen[key][column];
        if !seen.is_settled()
            && let Some(Cell::Text(words)) = cells.at(row)
        {
            seen.add(text::read(words, decimal));
        }
    }
}

fn holds_classic(column: &arrow::array::ArrayRef, kind: Kind) -> bool {
    match kind {
        Kind::I64 => column.as_primitive::<Int64Type>().iter().flatten().any(text::is_classic),
        _ => column
            .as_string::<i32>()
            .iter()
            .flatten()
            .any(|words| words.trim().parse().is_ok_and(text::is_classic)),
    }
}

/// The file's columns, and those that are read so far.
struct Columns<'a> {
    fields: &'a [Field],
    read: Vec<usize>,
}

impl Columns<'_> {
    fn find(&self, name: &str) -> Result<usize> {
        let mut found = (0..self.fields.len()).filter(|at| self.fields[*at].name == name);
        match (found.next(), found.next()) {
            (Some(position), None) => Ok(position),
            (Some(_), Some(_)) => Err(Failure::new(format!("two columns are called '{name}'"))
                .next("rename one of them in the file")),
            _ => Err(Failure::new(format!("no column '{name}'"))
                .next(format!("the file has {}", self.shown()))),
        }
    }

    /// The place of a column among those read; reads it if it was not.
    fn place(&mut self, position: usize) -> usize {
        self.read.iter().position(|other| *other == position).unwrap_or_else(|| {
            self.read.push(position);
            self.read.len() - 1
        })
    }

    fn check_known(&self, import: &Import) -> Result<()> {
        import
            .skip
            .iter()
            .try_for_each(|name| self.find(name).map(drop))
            .map_err(|failure| failure.within("--skip"))
    }

    fn long_value(&mut self, value: &str, quality: Option<&str>) -> Result<ValueColumn> {
        let position = self.find(value)?;
        let field = &self.fields[position];
        if !field.kind.is_value() {
            return Err(Failure::new(format!(
                "column '{value}' of type {} holds no values a tag could have",
                field.shown
            )));
        }
        let status = match quality {
            Some(name) => {
                let position = self.find(name)?;
                Some(self.status(position)?)
            }
            None => None,
        };
        Ok(ValueColumn {
            name: value.to_owned(),
            kind: field.kind,
            at: self.place(position),
            status,
        })
    }

    fn status(&mut self, position: usize) -> Result<Status> {
        let field = &self.fields[position];
        if !matches!(field.kind, Kind::I64 | Kind::Text) {
            return Err(Failure::new(format!(
                "column '{}' of type {} holds no qualities",
                field.name, field.shown
            )));
        }
        let name = field.name.clone();
        Ok(Status { name, kind: field.kind, at: self.place(position), is_classic: false })
    }

    fn wide_values(
        &mut self,
        import: &Import,
        time: &str,
        tags: &[String],
        remarks: &mut Vec<String>,
    ) -> Vec<ValueColumn> {
        let fields = self.fields;
        let is_free = |name: &str| {
            !name.is_empty()
                && name != time
                && !tags.iter().any(|tag| tag == name)
                && !import.skip.iter().any(|skip| skip == name)
        };
        let base_of = |name: &str| {
            let base = STATUS_ENDS.iter().find_map(|end| name.strip_suffix(end))?;
            fields.iter().any(|field| field.name == base).then_some(base.to_owned())
        };
        let mut values = Vec::new();
        for (position, field) in fields.iter().enumerate() {
            if !is_free(&field.name) || base_of(&field.name).is_some() {
                continue;
            }
            if !field.kind.is_value() {
                remarks.push(format!(
                    "column '{}' of type {} holds no values a tag could have: left out",
                    field.name, field.shown
                ));
                continue;
            }
            let status = fields.iter().position(|other| {
                is_free(&other.name) && base_of(&other.name).as_deref() == Some(&field.name)
            });
            let status = status.and_then(|status| self.status(status).ok());
            let at = self.place(position);
            values.push(ValueColumn { name: field.name.clone(), at, kind: field.kind, status });
        }
        values
    }

    /// The columns with their types, for a message.
    fn shown(&self) -> String {
        const SHOWN: usize = 20;
        let more = self.fields.len().saturating_sub(SHOWN);
        let mut shown: Vec<String> = self
            .fields
            .iter()
            .take(SHOWN)
            .map(|field| format!("{} ({})", field.name, field.shown))
            .collect();
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        shown.join(", ")
    }
}

/// What a caller who named no layout could have said for these columns.
pub fn suggest(fields: &[Field]) -> String {
    let named = |names: &[&str]| {
        fields.iter().find(|field| names.iter().any(|name| field.name.eq_ignore_ascii_case(name)))
    };
    let time = fields
        .iter()
        .find(|field| matches!(field.kind, Kind::Time(..)))
        .or_else(|| named(&["ts", "time", "timestamp", "datetime", "date"]))
        .map_or("TIME", |field| field.name.as_str());
    let value = named(&["value", "val"]);
    match (named(&["tag", "tagname", "tag_name", "name", "signal"]), value) {
        (Some(tag), Some(value)) => {
            let group = named(&["machine", "run", "device", "unit"]);
            let tag =
                group.map_or(tag.name.clone(), |group| format!("{}+{}", group.name, tag.name));
            format!("--map tag={tag},time={time},value={}", value.name)
        }
        _ => format!("--wide time={time}"),
    }
}

/// Rows that are not as wide as the header are refused by their own reason, not for lack of a time.
pub fn malformed(piece: &Piece, row: usize) -> Option<&str> {
    let at = piece.malformed.binary_search_by_key(&row, |(row, _)| *row).ok()?;
    piece.malformed.get(at).map(|(_, why)| why.as_str())
}
