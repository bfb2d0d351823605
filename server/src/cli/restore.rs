//! `tagmill restore`: a database of a backup.
//!
//! Contract: every byte is verified before the database counts as one; a directory that holds anything is refused.

use std::io::Write;
use std::path::PathBuf;

use super::failure::{Failure, Result};
use super::import::report::grouped;

/// Shown below the options.
const EXAMPLES: &str = "\
Example:
  tagmill restore /backups/plant /var/lib/tagmill

The new database is another incarnation: gateways that ask begin a new epoch. What they had acknowledged after the
backup was made is not in it.";

/// Arguments of `tagmill restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of the backup.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Directory of the new database: empty, or not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Restore a damaged backup, too: what cannot be read is put into quarantine.
    #[arg(long)]
    accept_damage: bool,
}

/// Runs the command.
///
/// # Errors
/// If the backup is incomplete or damaged, or the directory is not empty.
pub fn run(args: &Args) -> Result<()> {
    let Args { folder, dir, accept_damage } = args;
    if dir.is_dir() && std::fs::read_dir(dir)?.next().is_some() {
        return Err(Failure::new(format!("{} is not empty", dir.display()))
            .next("name a directory that is empty or not there"));
    }
    let report = tagmill_storage::restore(folder, dir, *accept_damage).map_err(|error| {
        let is_damage = matches!(error, tagmill_storage::Error::Corrupt { .. });
        let failure = Failure::new(error.to_string());
        if !is_damage {
            return failure;
        }
        failure.next(
            "'tagmill verify' names every damaged place; another backup, or --accept-damage to go without them. \
             What was written so far is no database: remove it",
        )
    })?;
    writeln!(
        std::io::stdout(),
        "restored {} up to record {}: {} segments, {} bytes verified",
        dir.display(),
        grouped(report.seq.0),
        grouped(report.segments),
        grouped(report.bytes),
    )?;
    if report.damaged > 0 {
        let why = format!("{} places cannot be read, and are in quarantine", report.damaged);
        return Err(Failure::new(why).next("SELECT * FROM system.damage names them"));
    }
    Ok(())
}
