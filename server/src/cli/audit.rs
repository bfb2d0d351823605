//! `tagmill audit`: is the log of who did what as it was written?

use std::path::{Path, PathBuf};

use super::failure::{Failure, Result};
use super::import::report::grouped;
use crate::audit::{FILE, Verified, verify};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill audit verify --data plant
  tagmill audit verify --file /var/backups/audit-20260301T060000.000000000Z.jsonl

Every line follows from the one before it: one that was changed, or taken out between others, is named. Operators read
the last events by SQL: SELECT * FROM system.audit ORDER BY time DESC.";

/// Checks the audit log.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Names lines that were changed, or before which some are missing.
    #[command(after_help = EXAMPLES)]
    Verify {
        /// Directory of the log: that of the database, mostly.
        #[arg(long, value_name = "DIR", required_unless_present = "file")]
        data: Option<PathBuf>,
        /// Another file of a log, put aside or copied.
        #[arg(long, value_name = "FILE", conflicts_with = "data")]
        file: Option<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
/// If a line is not as it was written, or the file cannot be read.
pub fn run(args: Args) -> Result<()> {
    let Action::Verify { data, file } = args.action;
    let path = file.unwrap_or_else(|| data.as_deref().unwrap_or(Path::new(".")).join(FILE));
    let verified = verify(&path);
    let Verified { events, broken } =
        verified.map_err(|error| Failure::new(error.to_string()).within(path.display()))?;
    for line in &broken {
        println!("line {line}: it is no event, was changed, or the one before it is missing");
    }
    println!("verified {} events: {} broken lines", grouped(events), grouped(broken.len() as u64));
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{} lines are not as they were written", broken.len()))
        .within(path.display()))
}
