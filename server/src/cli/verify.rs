//! `tagmill verify`: reads every byte of a database or a backup, and names what is wrong.
//!
//! Contract: writes nothing. One line per finding, then one line of summary; exit code 1 if anything is damaged.

use std::io::Write;
use std::path::{Path, PathBuf};

use tagmill_proto::v1;

use super::failure::{Failure, Result};
use super::import::report::grouped;
use super::target::TargetArgs;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill verify plant                       (a database that nobody has open, or a backup)
  tagmill verify --connect 127.0.0.1:7410    (the segments of a running server)

Names file, tag and time range of everything damaged. What cannot be read is put into quarantine by a server; a
directory is not changed.";

/// Arguments of `tagmill verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of a database or a backup.
    #[arg(value_name = "DIR", conflicts_with = "connect")]
    dir: Option<PathBuf>,
    /// Address of a server; without DIR it is 127.0.0.1:7410.
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// If anything is damaged, or cannot be looked at.
pub fn run(args: &Args) -> Result<()> {
    let damaged = match &args.dir {
        Some(dir) => directory(dir)?,
        None => server(args.connect.clone())?,
    };
    if damaged == 0 {
        return Ok(());
    }
    let what = format!("{} damaged places", grouped(damaged));
    Err(Failure::new(what).next(
        "docs/recovery.md says what can be done: a backup, 'tagmill salvage', or leaving them out",
    ))
}

fn directory(dir: &Path) -> Result<u64> {
    let mut out = std::io::stdout().lock();
    let mut unwritten = None;
    let report = tagmill_storage::verify(dir, &mut |finding| {
        unwritten = unwritten.take().or(writeln!(out, "{finding}").err());
    })?;
    if let Some(error) = unwritten {
        return Err(error.into());
    }
    writeln!(
        out,
        "verified {} files, {} bytes: {} damaged places, {} remarks",
        grouped(report.files),
        grouped(report.bytes),
        grouped(report.damaged),
        grouped(report.remarks),
    )?;
    Ok(report.damaged)
}

fn server(connect: Option<String>) -> Result<u64> {
    let remote = TargetArgs { connect, ..TargetArgs::default() }.open_remote()?;
    let response = remote.block_on(async {
        let mut admin = v1::admin_client::AdminClient::new(remote.channel().await?);
        admin.verify(v1::VerifyRequest {}).await.map_err(|status| remote.failure(&status))
    })?;
    let v1::VerifyResponse { places, damage, segments, bytes } = response.into_inner();
    let mut out = std::io::stdout().lock();
    for line in &damage {
        writeln!(out, "damage: {line}")?;
    }
    let untold = places.saturating_sub(damage.len() as u64);
    if untold > 0 {
        writeln!(out, "and {} more", grouped(untold))?;
    }
    writeln!(
        out,
        "verified {} segments, {} bytes: {} damaged places",
        grouped(segments),
        grouped(bytes),
        grouped(places),
    )?;
    Ok(places)
}
