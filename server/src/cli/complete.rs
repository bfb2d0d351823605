//! Completion at the SQL prompt: relations, columns, functions and keywords; tag names inside quotes.
//!
//! Words are fetched once when the prompt opens; tags that appear later complete after a restart of the prompt.

use std::collections::BTreeSet;

use arrow::array::AsArray;
use rustyline::completion::{Completer, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};

use super::sql::Asker;

/// Tag names kept for completion.
const TAGS_MAX: usize = 200_000;
/// Candidates shown at once.
const SHOWN_MAX: usize = 200;

const KEYWORDS: [&str; 42] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "AND",
    "OR",
    "NOT",
    "IN",
    "LIKE",
    "ILIKE",
    "BETWEEN",
    "IS NULL",
    "IS NOT NULL",
    "AS",
    "ON",
    "JOIN",
    "LEFT JOIN",
    "UNION ALL",
    "WITH",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "DISTINCT",
    "ASC",
    "DESC",
    "INTERVAL",
    "TIMESTAMP",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "SET",
    "SHOW",
    "RESET",
    "TRUE",
    "FALSE",
    "NULL",
    "OVER",
];

const FUNCTIONS: [&str; 30] = [
    "time_bucket(",
    "first(",
    "last(",
    "min_time(",
    "max_time(",
    "label(",
    "severity(",
    "quality_name(",
    "epoch_ns(",
    "avg(",
    "min(",
    "max(",
    "sum(",
    "count(",
    "stddev(",
    "median(",
    "approx_percentile_cont(",
    "now()",
    "date_trunc(",
    "date_part(",
    "coalesce(",
    "abs(",
    "round(",
    "floor(",
    "ceil(",
    "greatest(",
    "least(",
    "lag(",
    "lead(",
    "row_number(",
];

const RELATIONS: [&str; 6] =
    ["samples", "tags", "latest", "system.segments", "system.settings", "system.tiers"];

const COLUMNS: [&str; 24] = [
    "tag_id",
    "tag",
    "ts",
    "value",
    "value_int",
    "value_text",
    "value_raw",
    "quality",
    "good",
    "age",
    "description",
    "unit",
    "type",
    "stepped",
    "range_low",
    "range_high",
    "max_gap",
    "uncertain_usable",
    "rollover",
    "labels",
    "states",
    "retention",
    "created",
    "rows",
];

/// What `\d` asks.
pub const RELATIONS_SQL: &str = "SELECT * FROM (VALUES \
    ('samples', 'every sample: tag, ts, value, quality'), \
    ('tags', 'every tag with its attributes'), \
    ('latest', 'the current value of every tag'), \
    ('system.segments', 'the files of the database'), \
    ('system.tiers', 'rollups stored in them'), \
    ('system.settings', 'settings of this session')) AS relations (relation, holds)";

/// What `\d NAME` asks.
pub fn columns_sql(name: &str) -> String {
    format!("DESCRIBE {name}")
}

/// Words to complete.
#[derive(Debug, Default)]
pub struct Words {
    words: BTreeSet<String>,
    tags: BTreeSet<String>,
}

impl Words {
    /// The words we know, and the tags of the database.
    pub fn fetch(asker: &mut Asker) -> Self {
        let fixed = KEYWORDS.iter().chain(&FUNCTIONS).chain(&RELATIONS).chain(&COLUMNS);
        let words = fixed.map(|word| (*word).to_owned()).collect();
        let mut tags = BTreeSet::new();
        let sql = format!("SELECT tag FROM tags ORDER BY tag LIMIT {TAGS_MAX}");
        let heard = asker.rows(&sql, |batch| {
            let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8)?;
            tags.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
            Ok(())
        });
        // Completion is a convenience: without tags there are still the other words.
        drop(heard);
        Self { words, tags }
    }

    /// Where the word before `position` begins, and what it could become.
    fn candidates(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let before = line.get(..position).unwrap_or(line);
        if let Some(start) = open_quote(before) {
            let part = before.get(start..).unwrap_or("");
            let found = with_prefix(&self.tags, part).map(String::clone).take(SHOWN_MAX);
            return (start, found.collect());
        }
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let start = before
            .rfind(|c: char| !is_word(c))
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let part = before.get(start..).unwrap_or("");
        if part.is_empty() {
            return (start, Vec::new());
        }
        let begins = |word: &&String| {
            word.get(..part.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(part))
        };
        let is_lower = part.chars().all(|c| !c.is_uppercase());
        let found = self.words.iter().filter(begins);
        let found = found.map(|word| if is_lower { word.to_lowercase() } else { word.clone() });
        (start, found.collect())
    }
}

fn with_prefix<'a>(words: &'a BTreeSet<String>, part: &'a str) -> impl Iterator<Item = &'a String> {
    words.range(part.to_owned()..).take_while(move |word| word.starts_with(part))
}

/// Where the text inside an unclosed `'` begins.
fn open_quote(text: &str) -> Option<usize> {
    let mut open = None;
    for (at, c) in text.char_indices().filter(|(_, c)| *c == '\'') {
        open = if open.is_some() { None } else { Some(at + c.len_utf8()) };
    }
    open
}

/// The helper of the line editor.
#[derive(Debug, Helper, Highlighter, Hinter, Validator)]
pub struct Prompt {
    words: Words,
}

impl Prompt {
    /// A helper that completes these words.
    pub fn new(words: Words) -> Self {
        Self { words }
    }
}

impl Completer for Prompt {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, found) = self.words.candidates(line, position);
        let pair = |word: String| Pair { display: word.clone(), replacement: word };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        Words {
            words: ["SELECT", "samples", "time_bucket("].map(str::to_owned).into(),
            tags: ["u1/FT 1", "u1/TT", "u2/x"].map(str::to_owned).into(),
        }
    }

    #[test]
    fn completes_words_and_tags() {
        let check = |line: &str, start: usize, want: &[&str]| {
            let (at, found) = words().candidates(line, line.len());
            assert_eq!(
                (at, found),
                (start, want.iter().map(|w| (*w).to_owned()).collect()),
                "{line}"
            );
        };
        check("SEL", 0, &["SELECT"]);
        check("select * from sam", 14, &["samples"]);
        check("select max(ti", 11, &["time_bucket("]);
        check("where tag = 'u1/", 13, &["u1/FT 1", "u1/TT"]);
        check("where tag in ('u1/TT', 'u2", 24, &["u2/x"]);
        check("select ", 7, &[]);
    }
}
