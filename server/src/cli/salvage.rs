//! `tagmill salvage`: makes a damaged database open again, at the price of what cannot be read.
//!
//! Contract: says what is wrong, what is lost and what would be done; does it only with `--yes`.

use std::io::Write;
use std::path::{Path, PathBuf};

use tagmill_storage::{Engine, Options, SegmentId};

use super::failure::{Failure, Result};
use super::import::report::grouped;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  See what a salvage would do:
    tagmill salvage plant
  Do it:
    tagmill salvage plant --yes
  Give up the damaged places of segment 17 for good (segment_id of system.damage), and keep the rest of it:
    tagmill salvage plant --drop 17 --yes

A backup is better where there is one. Damaged files are kept in the folder 'quarantine' or 'trash'.";

/// Arguments of `tagmill salvage`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of the database, which nobody has open.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Give up the damaged places of this segment: older samples there may be current again.
    #[arg(long, value_name = "SEGMENT")]
    drop: Option<u64>,
    /// Do what was said.
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// If the database cannot be salvaged, with what to do instead.
pub fn run(args: &Args) -> Result<()> {
    match args.drop {
        Some(segment) => drop_damage(&args.dir, SegmentId(segment), args.yes),
        None => salvage(&args.dir, args.yes),
    }
}

fn salvage(dir: &Path, yes: bool) -> Result<()> {
    let report = tagmill_storage::salvage(dir, yes)?;
    let mut out = std::io::stdout().lock();
    for finding in &report.findings {
        writeln!(out, "found: {finding}")?;
    }
    for loss in &report.losses {
        writeln!(out, "lost: {loss}")?;
    }
    if report.steps.is_empty() {
        writeln!(out, "nothing to salvage: {} opens as it is", dir.display())?;
        return Ok(());
    }
    for step in &report.steps {
        let when = if report.is_done { "done" } else { "would" };
        writeln!(out, "{when}: {step}")?;
    }
    writeln!(out, "{} records of the log are kept", grouped(report.kept_records))?;
    if !report.is_done {
        writeln!(out, "nothing was changed: --yes does it")?;
    }
    Ok(())
}

fn drop_damage(dir: &Path, segment: SegmentId, yes: bool) -> Result<()> {
    let engine = Engine::open(dir, Options { create: false, ..Options::default() })?;
    // What nobody has read yet is dropped, too, and named before.
    engine.verify(&mut |_| ());
    let places = engine.snapshot().damage();
    let places: Vec<_> = places.into_iter().filter(|place| place.segment == segment).collect();
    let Some(first) = places.first() else {
        return Err(Failure::new(format!("segment {} has no damaged place", segment.0))
            .next("SELECT * FROM system.damage names the segments that have"));
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: {} damaged places", first.file, grouped(places.len() as u64))?;
    for place in &places {
        let (range, why) = (place.range, &place.why);
        writeln!(out, "  tags {} to {}, {range}: {why}", place.first_tag, place.last_tag)?;
    }
    if yes {
        match engine.forget_damage(segment)? {
            Some(rest) => writeln!(out, "given up; the rest is segment {}", rest.0)?,
            None => writeln!(out, "given up; nothing of it could be read")?,
        }
    } else {
        writeln!(out, "nothing was changed: --yes gives them up for good")?;
    }
    engine.close()?;
    Ok(())
}
