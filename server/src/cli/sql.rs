//! `tagmill sql`: statements from the command line, from standard input, or at a prompt.

use std::io::{IsTerminal, Read, Write};

use arrow::array::RecordBatch;

use super::failure::{Failure, Result};
use super::format::{Format, Printer};
use super::shell;
use super::statements::Split;
use super::target::{Door, Heard, TargetArgs};
use super::times::Zone;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  A prompt on the server of this machine:
    tagmill sql
  One question to a directory that no server has open:
    tagmill sql --data plant -c \"SELECT tag, count(*) FROM samples GROUP BY tag ORDER BY tag\"
  Several statements, times in local time, as CSV:
    tagmill sql --tz Europe/Berlin --format csv -c \"SET timezone = 'Europe/Berlin'; SELECT * FROM latest\"
  A file of statements:
    tagmill sql --connect historian:7410 < report.sql

Remarks of the database go to standard error. The exit code is 1 if a statement failed.";

/// Arguments of `tagmill sql`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Statements to run, separated by ';'; may be given several times.
    #[arg(short = 'c', long = "command", value_name = "QUERY")]
    queries: Vec<String>,
    /// How answers are written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Zone times are shown in: Europe/Berlin, UTC, +02:00.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: Zone,
    #[command(flatten)]
    target: TargetArgs,
}

/// How answers are shown.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// In which form.
    pub format: Format,
    /// In which zone.
    pub zone: Zone,
    /// With how long they took.
    pub has_timing: bool,
}

/// Asks a database and prints what it answers.
#[derive(Debug)]
pub struct Asker {
    door: Door,
}

impl Asker {
    /// Asks through this door.
    pub fn new(door: Door) -> Self {
        Self { door }
    }

    /// The name of the database.
    pub fn name(&self) -> String {
        self.door.name()
    }

    /// Runs a statement and prints its answer; gives the number of rows.
    ///
    /// # Errors
    /// If it is wrong or fails, or the output cannot be written.
    pub fn print(&mut self, sql: &str, style: &Style) -> Result<u64> {
        let mut printer = None;
        self.door.execute(sql, &mut |heard| {
            match heard {
                Heard::Notice(notice) => writeln!(std::io::stderr(), "notice: {notice}")?,
                // SET and RESET have nothing to show.
                Heard::Schema(schema) if schema.fields().is_empty() => {}
                Heard::Schema(schema) => {
                    let out = std::io::BufWriter::new(std::io::stdout());
                    printer = Some(Printer::new(style.format, style.zone, schema, out)?);
                }
                Heard::Rows(batch) => {
                    if let Some(printer) = &mut printer {
                        printer.batch(batch)?;
                    }
                }
            }
            Ok(())
        })?;
        printer.map_or(Ok(0), Printer::finish)
    }

    /// Runs a statement and hands over its rows.
    ///
    /// # Errors
    /// As [`Door::execute`].
    pub fn rows(&mut self, sql: &str, take: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        self.door.rows(sql, take)
    }

    /// Closes the database.
    ///
    /// # Errors
    /// As [`Door::close`].
    pub fn close(self) -> Result<()> {
        self.door.close()
    }
}

/// Runs the command.
///
/// # Errors
/// If a statement fails, or the database cannot be reached.
pub fn run(args: Args) -> Result<()> {
    if args.format == Format::Arrow && std::io::stdout().is_terminal() {
        return Err(Failure::new("Arrow bytes are nothing for a terminal")
            .next("redirect them: tagmill sql --format arrow -c '..' > answer.arrows"));
    }
    let mut style = Style { format: args.format, zone: args.tz, has_timing: true };
    let mut asker = Asker::new(args.target.open_existing()?);
    let done = if args.queries.is_empty() && std::io::stdin().is_terminal() {
        shell::run(&mut asker, &mut style)
    } else {
        let mut texts = args.queries;
        if texts.is_empty() {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            texts.push(text);
        }
        run_all(&mut asker, &texts, &style)
    };
    done.and(asker.close())
}

fn run_all(asker: &mut Asker, texts: &[String], style: &Style) -> Result<()> {
    for text in texts {
        for statement in Split::of(text).all() {
            asker.print(&statement, style)?;
        }
    }
    Ok(())
}
