//! How the demo looks in a terminal of 100 columns: headings, SQL, tables, numbers people can
//! read.
//!
//! Contract: plain text; colours only where [`Paper::is_coloured`], so that a pipe or a log gets
//! none.

use std::io::{self, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::answer::{Cell, Question, Show};

const WIDTH: usize = 98;

/// Where the report goes.
#[derive(Debug)]
pub struct Paper<W> {
    out: W,
    is_coloured: bool,
}

impl<W: Write> Paper<W> {
    /// Paper over some output.
    pub fn new(out: W, is_coloured: bool) -> Self {
        Self { out, is_coloured }
    }

    /// What was written.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn styled(&self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line of its own between empty ones.
    ///
    /// # Errors
    /// If the paper cannot be written on.
    pub fn headline(&mut self, text: &str) -> io::Result<()> {
        let text = self.styled("1", text);
        writeln!(self.out, "\n {text}\n")
    }

    /// A fact with its name before it; further lines stand below it.
    ///
    /// # Errors
    /// If the paper cannot be written on.
    pub fn fact(&mut self, name: &str, lines: &[&str]) -> io::Result<()> {
        for (index, line) in lines.iter().enumerate() {
            let name = self.styled("36", &format!("{:<10}", if index == 0 { name } else { "" }));
            let erase = if self.is_coloured { "\x1b[K" } else { "" };
            writeln!(self.out, "{erase} {name} {line}")?;
        }
        self.out.flush()
    }

    /// Shows how far something is, on a terminal only; the next line takes its place.
    ///
    /// # Errors
    /// If the paper cannot be written on.
    pub fn progress(&mut self, text: &str) -> io::Result<()> {
        if self.is_coloured {
            write!(self.out, "\r\x1b[K {text}\r")?;
            self.out.flush()?;
        }
        Ok(())
    }

    /// Shows how things are: in place on a terminal, else on a line of its own.
    ///
    /// # Errors
    /// If the paper cannot be written on.
    pub fn status(&mut self, text: &str) -> io::Result<()> {
        if self.is_coloured {
            return self.progress(text);
        }
        writeln!(self.out, " {text}")?;
        self.out.flush()
    }

    /// A question, its SQL, its answer, and whether that is right.
    ///
    /// # Errors
    /// If the paper cannot be written on.
    pub fn question(&mut self, heading: &str, answered: &Answered<'_>) -> io::Result<()> {
        let question = answered.question;
        let verdict = match answered.difference {
            None => self.styled("32", "✓ checked"),
            Some(_) => self.styled("31;1", "✗ DIFFERENT"),
        };
        let title = self.styled("1", &format!("{heading}  {}", question.title));
        writeln!(self.out, "\n {title}")?;
        for line in question.sql.lines() {
            let line = self.styled("2", line);
            writeln!(self.out, "    {line}")?;
        }
        writeln!(self.out)?;
        for (index, line) in table(&question.columns, &answered.rows).into_iter().enumerate() {
            let line = if index == 0 { self.styled("4", &line) } else { line };
            writeln!(self.out, "    {line}")?;
        }
        let rows = answered.rows.len();
        let plural = if rows == 1 { "" } else { "s" };
        let took = milliseconds(answered.took);
        writeln!(self.out, "    {verdict}: {rows} row{plural} in {took}")?;
        if !question.note.is_empty() {
            writeln!(self.out, "    {}", self.styled("2", question.note))?;
        }
        if let Some(difference) = answered.difference {
            writeln!(self.out, "    {}", self.styled("31;1", difference))?;
        }
        self.out.flush()
    }

    /// A rule across the page.
    ///
    /// # Errors
    /// If the paper cannot be written on.
    pub fn rule(&mut self) -> io::Result<()> {
        let rule = self.styled("2", &"─".repeat(WIDTH));
        writeln!(self.out, "\n {rule}\n")
    }
}

/// A question with the database's answer.
#[derive(Debug)]
pub struct Answered<'a> {
    /// What was asked.
    pub question: &'a Question,
    /// What the database said.
    pub rows: Vec<Vec<Cell>>,
    /// How long it took.
    pub took: Duration,
    /// The first difference from what was expected.
    pub difference: Option<&'a str>,
}

/// Lines of a table: its head, then one for each row.
fn table(columns: &[(&'static str, Show)], rows: &[Vec<Cell>]) -> Vec<String> {
    let head: Vec<String> = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
    let body = rows
        .iter()
        .map(|row| row.iter().zip(columns).map(|(cell, (_, show))| shown(cell, *show)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().filter_map(|l| l.get(at)).map(|c| c.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let padded = lines.iter().map(|line| {
        let cells = line.iter().zip(&widths).zip(columns).map(|((cell, width), (_, show))| {
            let pad = " ".repeat(width - cell.chars().count());
            if matches!(show, Show::Number(_)) { pad + cell } else { cell.clone() + &pad }
        });
        cells.collect::<Vec<_>>().join("   ")
    });
    padded.map(|line| line.trim_end().to_owned()).collect()
}

fn shown(cell: &Cell, show: Show) -> String {
    match (cell, show) {
        (Cell::Null, _) => String::new(),
        (Cell::Text(text), _) => text.clone(),
        (Cell::Whole(number), _) => grouped(number),
        (Cell::Exact(number) | Cell::Near(number), Show::Number(decimals)) => {
            let text = format!("{number:.decimals$}");
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{}{point}{fraction}", grouped(&whole))
        }
        (Cell::Exact(number) | Cell::Near(number), _) => number.to_string(),
        (Cell::Time(ns), Show::Berlin) => {
            let time = DateTime::<Utc>::from_timestamp_nanos(*ns);
            time.with_timezone(&chrono_tz::Europe::Berlin).format("%a %d %b %H:%M").to_string()
        }
        (Cell::Time(ns), _) => minute(*ns),
    }
}

/// An instant to the minute, in UTC.
pub fn minute(ns: i64) -> String {
    DateTime::<Utc>::from_timestamp_nanos(ns).format("%Y-%m-%d %H:%M").to_string()
}

/// A whole number with a comma before every three digits.
pub fn grouped(number: &impl ToString) -> String {
    let text = number.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that suits them.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn milliseconds(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")];
        for (number, want) in cases {
            assert_eq!(grouped(&number), want);
        }
        assert_eq!(shown(&Cell::Exact(-1234.567), Show::Number(1)), "-1,234.6");
        assert_eq!(bytes(12_345_678), "12.3 MB");
    }

    #[test]
    fn a_question_is_laid_out_in_columns() {
        let question = Question {
            title: "How many?",
            note: "One.",
            sql: "SELECT 1\nFROM tags".to_owned(),
            columns: vec![("tag", Show::Text), ("n", Show::Number(0))],
            expected: Vec::new(),
        };
        let row = |tag: &str, n| vec![Cell::Text(tag.to_owned()), Cell::Whole(n)];
        let answered = Answered {
            question: &question,
            rows: vec![row("°C", 1), row("long name", 1_000)],
            took: Duration::from_micros(1_500),
            difference: None,
        };
        let mut paper = Paper::new(Vec::new(), false);
        paper.question("3", &answered).unwrap();
        let want = "\n 3  How many?\n    SELECT 1\n    FROM tags\n\n    tag             n\n    \
                    °C              1\n    \
                    long name   1,000\n    ✓ checked: 2 rows in 1.5 ms\n    One.\n";
        assert_eq!(String::from_utf8(paper.out).unwrap(), want);
    }
}
