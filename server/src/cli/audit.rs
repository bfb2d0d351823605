//! `tagmill audit`: is the log of who did what as it was written?

use std::path::{Path, PathBuf};

use super::failure::{Failure, Result};
use super::import::report::grouped;
use crate::audit::{Verified, files_of, verify};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill audit verify --data plant
  tagmill audit verify --file /var/backups/audit-20260301T060000.000000000Z.jsonl --file /var/backups/audit.jsonl

Every line follows from the one before it, and the first of a file from the last of the file before: one that was
changed, or taken out between others, is named. Of a directory all files are read, those that were put aside first.
Whoever reads the whole database as an operator reads the last events by SQL: SELECT * FROM system.audit ORDER BY time
DESC.";

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
        /// Another file of a log, put aside or copied. May be given several times, oldest first.
        #[arg(long, value_name = "FILE", conflicts_with = "data")]
        file: Vec<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
/// If a line is not as it was written, or the file cannot be read.
pub fn run(args: Args) -> Result<()> {
    let Action::Verify { data, file } = args.action;
    let files = match data {
        None => file,
        Some(data) => files_of(&data).map_err(|error| failed(&data, error.to_string()))?,
    };
    let mut before = None;
    let (mut count, mut wrong) = (0, Vec::new());
    for path in &files {
        let verified = verify(path, &mut before);
        let Verified { events, broken, continues } =
            verified.map_err(|error| failed(path, error.to_string()))?;
        let path = path.display();
        if let Some(other) = continues {
            println!(
                "{path} goes on with {other}, which was not read: what was before is not verified"
            );
        }
        for line in &broken {
            println!(
                "{path}, line {line}: it is no event, was changed, or the one before it is missing"
            );
        }
        count += events;
        wrong.extend(broken.iter().map(|_| path.to_string()));
    }
    let lines = wrong.len();
    println!("verified {} events: {} broken lines", grouped(count), grouped(lines as u64));
    match wrong.into_iter().next() {
        None => Ok(()),
        Some(first) => {
            Err(Failure::new(format!("{lines} lines are not as they were written")).within(first))
        }
    }
}

fn failed(path: &Path, why: String) -> Failure {
    Failure::new(why).within(path.display())
}
