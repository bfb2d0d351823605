//! `tagmill import` on the command line: its words, its progress bar, its report.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exported::{self, Exported, Exports};
use super::local::LocalSink;
use super::mapping::{LongArgument, WideArgument};
use super::remote::RemoteSink;
use super::sink::{DryRun, Sink};
use super::source::{Length, Source};
use super::stamps::{TimeFormat, TimeRules};
use super::{Import, plan, report, run};
use crate::cli::attributes::TagFile;
use crate::cli::failure::{Failure, Result};
use crate::cli::states::StateSets;
use crate::cli::tags;
use crate::cli::target::{Door, TargetArgs};
use crate::cli::times::Zone;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  A long file, one sample a row; the tag is MACHINE/TAG:
    tagmill import log.parquet --map tag=machine+tag,time=ts,value=value --data plant
  A wide file, one column a tag, into a running server:
    tagmill import export.csv --wide time=Timestamp --prefix unit3 --time-zone Europe/Berlin
  A wide file with several runs; tags are RUN/COLUMN:
    tagmill import runs.parquet --wide time=ts,tag=run --tags tags.json --data plant
  What 'tagmill export' wrote, with its tags:
    tagmill import plant-export --data copy
  See what would become of it, writing nothing:
    tagmill import export.csv --wide time=t --time-format '%d.%m.%Y %H:%M' --time-zone UTC --decimal , --dry-run

The same file read the same way is one import: run it again after a break and it goes on where it
stopped, run it again after its end and nothing is written twice. docs/import.md has every rule.";

/// Arguments of `tagmill import`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Parquet or CSV files, or the folder of an export.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    /// Long files: tag=COL[+COL],time=COL,value=COL[,quality=COL].
    #[arg(long, value_name = "MAPPING", conflicts_with = "wide")]
    map: Option<LongArgument>,
    /// Wide files: time=COL[,tag=COL[+COL]]; every other column is a tag.
    #[arg(long, value_name = "MAPPING")]
    wide: Option<WideArgument>,
    /// First level of every tag's name.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    prefix: String,
    /// A column to leave out; may be given several times.
    #[arg(long, value_name = "COL")]
    skip: Vec<String>,
    /// CSV or JSON file with types and attributes of the tags.
    #[arg(long, value_name = "FILE")]
    tags: Option<PathBuf>,
    /// How times are written: s, ms, us or ns since 1970, or a pattern such as '%d.%m.%Y %H:%M:%S'.
    #[arg(long, value_name = "F")]
    time_format: Option<TimeFormat>,
    /// Zone of times that name none: Europe/Berlin, UTC, +02:00.
    #[arg(long, value_name = "Z")]
    time_zone: Option<Zone>,
    /// Decimal sign of numbers in texts.
    #[arg(long, value_name = "C", default_value = ".", value_parser = decimal_sign)]
    decimal: char,
    /// Separator of CSV files; by default the one the header has most of. 'tab' for a tabulator.
    #[arg(long, value_name = "C", value_parser = separator)]
    separator: Option<u8>,
    /// Import id, to import the same file another time; by default from the file's content and these options.
    #[arg(long, value_name = "NAME", value_parser = import_name)]
    id: Option<String>,
    /// Read and check everything, write nothing, touch no database.
    #[arg(long)]
    dry_run: bool,
}

/// One file to import.
enum Job {
    /// A file whose columns the caller has named.
    Mapped(Import),
    /// A file of an export.
    Exported(Exported),
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read as told, or the database cannot be written.
pub fn run_command(args: Args) -> Result<()> {
    let mut exports = Exports::default();
    let mut jobs = jobs(&args, &mut exports)?;
    if let Some(id) = args.id {
        match jobs.as_mut_slice() {
            [Job::Mapped(import)] => import.id = Some(id),
            [Job::Exported(import)] => import.id = Some(id),
            _ => {
                return Err(Failure::new("--id names one import, but there are several files")
                    .next("import them one by one"));
            }
        }
    }
    if args.dry_run {
        return run_all(&jobs, &mut DryRun::default());
    }
    let door = args.target.open()?;
    define(&door, &exports)?;
    match door {
        Door::Local(local) => {
            run_all(&jobs, &mut LocalSink::new(local.engine()))?;
            // Segments are what the next start reads quickest, and a fraction of the log's size.
            local.engine().seal()?;
            local.close()
        }
        Door::Remote(remote) => run_all(&jobs, &mut RemoteSink::new(remote)),
    }
}

/// What to do with each file, and what is known of the tags of exports.
fn jobs(args: &Args, exports: &mut Exports) -> Result<Vec<Job>> {
    let told = args.tags.as_deref().map(TagFile::read).transpose()?;
    let map = args.map.as_ref().map(|map| &map.0);
    let layout = map.or(args.wide.as_ref().map(|wide| &wide.0));
    let prefix = args.prefix.trim_matches('/');
    let mut jobs = Vec::new();
    for file in &args.files {
        let Some(layout) = layout else {
            let is_export = file.is_dir()
                || Source::open(file, args.separator, args.decimal)
                    .is_ok_and(|source| exported::is_export(&source));
            if !is_export {
                return Err(no_layout(file, args.separator, args.decimal));
            }
            if !args.skip.is_empty() {
                return Err(Failure::new("--skip is not for exports: they need every column"));
            }
            exports.add(file, prefix, told.as_ref())?;
            jobs.extend(exports.files.drain(..).map(Job::Exported));
            continue;
        };
        if file.is_dir() {
            return Err(Failure::new(format!("{} is a folder", file.display())).next(
                "name the files in it; a folder of 'tagmill export' needs neither --map nor --wide",
            ));
        }
        jobs.push(Job::Mapped(Import {
            prefix: prefix.to_owned(),
            skip: args.skip.clone(),
            types: told.clone().unwrap_or_default(),
            times: TimeRules { format: args.time_format.clone(), zone: args.time_zone },
            decimal: args.decimal,
            separator: args.separator,
            ..Import::new(file, layout.clone())
        }));
    }
    Ok(jobs)
}

/// Makes known what exports say beside their samples.
fn define(door: &Door, exports: &Exports) -> Result<()> {
    for known in &exports.folders {
        tags::define(door, &known.definitions())?;
    }
    let mut states = StateSets::default();
    for known in &exports.known {
        known.entries.iter().for_each(|(tag, entry)| states.add(tag, entry));
    }
    states.set(door)
}

fn run_all(jobs: &[Job], sink: &mut dyn Sink) -> Result<()> {
    for job in jobs {
        let (file, types) = match job {
            Job::Mapped(import) => (&import.file, &import.types),
            Job::Exported(import) => (&import.file, &*import.tags),
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bar = Bar::new(&name);
        let hear = |pass, done, length| bar.show(pass, done, length);
        let mut report = match job {
            Job::Mapped(import) => run(import, sink, &hear)?,
            Job::Exported(import) => exported::run(import, sink, &hear)?,
        };
        bar.clear();
        if !types.skipped.is_empty() {
            let fields = report::some_of(types.skipped.iter().map(String::as_str));
            report
                .remarks
                .push(format!("the --tags file also says {fields}: not an attribute, left out"));
        }
        writeln!(std::io::stdout().lock(), "{name}: {report}")?;
    }
    Ok(())
}

/// Says what the file holds and what could be said about it.
fn no_layout(file: &Path, separator: Option<u8>, decimal: char) -> Failure {
    let source = match Source::open(file, separator, decimal) {
        Ok(source) => source,
        Err(failure) => return failure,
    };
    let fields = source.fields();
    let names = report::some_of(fields.iter().map(|field| field.name.as_str()));
    Failure::new(format!("say which column is what: {} has {names}", file.display())).next(format!(
        "--map for one sample a row, --wide for one tag a column; perhaps {}",
        plan::suggest(fields)
    ))
}

/// A progress bar on the terminal, if there is one.
struct Bar(Mutex<(ProgressBar, u8)>);

impl Bar {
    fn new(name: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, draw_target());
        bar.set_prefix(name.to_owned());
        Self(Mutex::new((bar, 0)))
    }

    fn show(&self, pass: u8, done: u64, length: Length) {
        let Ok(mut state) = self.0.lock() else {
            return;
        };
        if state.1 != pass {
            state.1 = pass;
            let (count, unit) = match length {
                Length::Rows(rows) => (rows, "{human_pos}/{human_len} rows"),
                Length::Bytes(bytes) => (bytes, "{bytes}/{total_bytes}"),
            };
            let verb = if pass == 1 { "looking at" } else { "importing" };
            let style = format!("{verb} {{prefix}} {{wide_bar}} {unit} {{eta}}");
            state.0.reset();
            state.0.set_length(count);
            state.0.set_style(
                ProgressStyle::with_template(&style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
        }
        state.0.set_position(done);
    }

    fn clear(&self) {
        if let Ok(state) = self.0.lock() {
            state.0.finish_and_clear();
        }
    }
}

fn draw_target() -> ProgressDrawTarget {
    const PER_SECOND: u8 = 5;
    if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(PER_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn decimal_sign(text: &str) -> Result<char, String> {
    match text {
        "." => Ok('.'),
        "," => Ok(','),
        _ => Err("the decimal sign is . or ,".to_owned()),
    }
}

fn separator(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("tab" | "\\t", _) => Ok(b'\t'),
        (_, [byte]) if byte.is_ascii() && !byte.is_ascii_alphanumeric() && *byte != b'"' => {
            Ok(*byte)
        }
        _ => Err("a separator is one character such as , ; | or 'tab'".to_owned()),
    }
}

fn import_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = !text.is_empty() && text.len() <= 64 && text.chars().all(is_plain);
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "an id has 1 to 64 letters, digits, - _ .".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_single_characters() {
        assert_eq!(separator("tab"), Ok(b'\t'));
        assert_eq!(separator(";"), Ok(b';'));
        assert!(separator("ab").is_err() && separator("\"").is_err());
        assert_eq!(decimal_sign(","), Ok(','));
        assert!(decimal_sign("x").is_err());
        assert!(import_name("again-2").is_ok() && import_name("a/b").is_err());
    }

    #[test]
    fn a_file_without_a_layout_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "machine,ts,tag,value\n").unwrap();
        let said = no_layout(&path, None, '.').to_string();
        assert!(said.contains("--map tag=machine+tag,time=ts,value=value"), "{said}");
    }

    #[test]
    fn nobody_needs_a_terminal() {
        let bar = Bar::new("x");
        for pass in [1, 1, 2] {
            bar.show(pass, 5, Length::Rows(10));
        }
        bar.clear();
    }
}
