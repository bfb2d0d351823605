//! `tagmill backup`: one instant of a database in a folder, taken while writes go on.
//!
//! Contract: when the command ends well, the folder holds a complete backup; if it does not, the earlier one there, or none.
//! A server writes only below the folder it was started with.

use std::io::Write;
use std::path::PathBuf;

use tagmill_proto::v1;
use tagmill_storage::{Engine, Options};

use super::failure::{Failure, Result};
use super::import::report::grouped;
use super::target::{Remote, TargetArgs};
use crate::admin::backup_response;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill backup /backups/plant --data plant
  tagmill backup plant --connect 127.0.0.1:7410     (into the folder of 'tagmill serve --backups DIR')

Again into the same folder: only new segments are copied. On one file system segments are linked, which costs no
room but shares their fate with the database's disk; --copy copies them. 'tagmill verify FOLDER' reads every byte,
'tagmill restore FOLDER DIR' makes a database of it.";

/// Arguments of `tagmill backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of the backup; of a server, the name of a folder among its backups.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Copy segments even where they could be linked.
    #[arg(long)]
    copy: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Runs the command.
///
/// # Errors
/// If the database cannot be reached, or the folder not be written.
pub fn run(args: &Args) -> Result<()> {
    let Args { folder, copy, target } = args;
    let (response, place) = match &target.data {
        Some(dir) => {
            let engine = Engine::open(dir, Options { create: false, ..Options::default() })?;
            let report = engine.backup(folder, !copy)?;
            engine.close()?;
            (backup_response(&report, folder.display().to_string()), dir.display().to_string())
        }
        None => remote(&target.open_remote()?, folder, *copy)?,
    };
    let v1::BackupResponse { seq, segments, linked, copied, kept, missing, bytes, folder } =
        response;
    writeln!(
        std::io::stdout(),
        "backup of {place} in {folder}: up to record {}, {} segments of {} bytes ({} copied, {} linked, {} there before)",
        grouped(seq),
        grouped(segments),
        grouped(bytes),
        grouped(copied),
        grouped(linked),
        grouped(kept),
    )?;
    if missing > 0 {
        let why = format!("{} segments are lost, and are not in the backup", grouped(missing));
        return Err(Failure::new(why).next("SELECT * FROM system.damage names them"));
    }
    Ok(())
}

fn remote(
    remote: &Remote,
    folder: &std::path::Path,
    copy: bool,
) -> Result<(v1::BackupResponse, String)> {
    let Some(name) = folder.to_str() else {
        return Err(Failure::new("the name of the backup is no UTF-8"));
    };
    let request = v1::BackupRequest { name: name.to_owned(), copy };
    let response = remote.block_on(async {
        let mut admin = v1::admin_client::AdminClient::new(remote.channel().await?);
        admin.backup(request).await.map_err(|status| remote.failure(&status))
    })?;
    Ok((response.into_inner(), "the server".to_owned()))
}
