//! What an import did: taken, merged, refused, and remarks.
//!
//! Contract: counts are of samples unless they say rows; `taken - merged` distinct keys stand in the database afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tagmill_storage::Rfc3339;
use tagmill_storage::ValueType;

/// Names shown of a longer list.
const NAMES_SHOWN: usize = 5;

/// What an import did, or a dry run would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The import id.
    pub id: String,
    /// Whether nothing was written.
    pub is_dry_run: bool,
    /// Rows read.
    pub rows: u64,
    /// Samples taken, those of batches that an earlier run had written included.
    pub taken: u64,
    /// Samples taken whose value is not usable: markers, empty numbers, NaN, bad status.
    pub bad: u64,
    /// Samples taken at an instant that their tag had before in the file: the later row won.
    pub merged: u64,
    /// Whether `merged` is a lower bound, because the file was too large to remember every instant.
    pub is_merged_at_least: bool,
    /// Samples taken that came after a later one of their tag.
    pub stepped_back: u64,
    /// Tags that hold samples of this file, by type.
    pub tags: BTreeMap<ValueType, BTreeSet<String>>,
    /// Batches the import has.
    pub batches: u64,
    /// Batches that an earlier run had written already.
    pub batches_before: u64,
    /// Earliest and latest time taken.
    pub span_ns: Option<(i64, i64)>,
    /// What was refused.
    pub refused: BTreeMap<String, Refused>,
    /// Remarks, in the order they came up.
    pub remarks: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Rows or samples refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// How many.
    pub count: u64,
    /// The first of them, where it is known.
    pub example: Option<String>,
}

impl Report {
    /// Counts something refused.
    pub fn refuse(&mut self, reason: &str, count: u64, example: impl FnOnce() -> String) {
        if let Some(refused) = self.refused.get_mut(reason) {
            refused.count += count;
            return;
        }
        // Names from a file may hold characters that a terminal would obey.
        let example = example().replace(char::is_control, "\u{FFFD}");
        let refused = Refused { count, example: Some(example).filter(|text| !text.is_empty()) };
        self.refused.insert(reason.to_owned(), refused);
    }

    /// Number of tags that hold samples of this file.
    pub fn tag_count(&self) -> usize {
        self.tags.values().map(BTreeSet::len).sum()
    }

    /// Number of rows and samples refused.
    pub fn refused_count(&self) -> u64 {
        self.refused.values().map(|refused| refused.count).sum()
    }

    fn write_tags(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_type: Vec<String> = self
            .tags
            .iter()
            .map(|(value_type, names)| format!("{} {value_type}", grouped(names.len() as u64)))
            .collect();
        writeln!(f, "  tags        {} ({})", self.tag_count(), by_type.join(", "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let did = if self.is_dry_run { "would take" } else { "took" };
        writeln!(
            f,
            "{did} {} samples of {} tags from {} rows in {:.1} s ({} samples/s)",
            grouped(self.taken),
            self.tag_count(),
            grouped(self.rows),
            self.elapsed.as_secs_f64(),
            rate(self.taken, self.elapsed),
        )?;
        if self.tag_count() > 0 {
            self.write_tags(f)?;
        }
        if let Some((first, last)) = self.span_ns {
            writeln!(f, "  time        {} .. {}", Rfc3339(first), Rfc3339(last))?;
        }
        if self.bad > 0 {
            writeln!(f, "  bad         {} samples without a usable value", grouped(self.bad))?;
        }
        let at_least = if self.is_merged_at_least { "at least " } else { "" };
        if self.merged > 0 {
            writeln!(
                f,
                "  merged      {at_least}{} samples at an instant their tag had before: the later row won, {} remain",
                grouped(self.merged),
                grouped(self.taken - self.merged),
            )?;
        }
        if self.stepped_back > 0 {
            writeln!(
                f,
                "  late        {} samples older than one before them",
                grouped(self.stepped_back)
            )?;
        }
        for (reason, refused) in &self.refused {
            write!(f, "  refused     {}: {reason}", grouped(refused.count))?;
            match &refused.example {
                Some(example) => writeln!(f, " ({example})")?,
                None => writeln!(f)?,
            }
        }
        for remark in &self.remarks {
            writeln!(f, "  note        {remark}")?;
        }
        write!(f, "  import id   {}", self.id)?;
        match (self.is_dry_run, self.batches_before) {
            (true, _) => write!(f, "; dry run, nothing was written"),
            (false, 0) => write!(f, ", {} batches", self.batches),
            (false, before) if before >= self.batches => write!(
                f,
                "; imported before: all {} batches were there, nothing was written again",
                self.batches
            ),
            (false, before) => {
                write!(
                    f,
                    ", {} batches, of which {before} were there from an earlier run",
                    self.batches
                )
            }
        }
    }
}

/// A number with commas between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The first few of `names`, and how many more there are.
pub fn some_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let shown: Vec<&str> = names.take(NAMES_SHOWN).collect();
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn rate(count: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    match count as f64 / seconds {
        rate if rate >= 1e6 => format!("{:.1} M", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.0} k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_thousands() {
        for (number, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_949_198, "1,949,198")] {
            assert_eq!(grouped(number), want);
        }
    }

    #[test]
    fn says_what_became_of_everything() {
        let mut report = Report { rows: 7, taken: 5, merged: 1, batches: 1, ..Report::default() };
        report.tags.entry(ValueType::F64).or_default().insert("a/b".into());
        report.refuse("the row has no time", 1, || "row 3".into());
        report.refuse("the row has no time", 1, || "row 9".into());
        let shown = report.to_string();
        for part in [
            "took 5 samples of 1 tags from 7 rows",
            "1 f64",
            "4 remain",
            "2: the row has no time (row 3)",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn shows_a_few_names() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        assert_eq!(some_of(names.into_iter()), "a, b, c, d, e and 2 more");
    }
}
