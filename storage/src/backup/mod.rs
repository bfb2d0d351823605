//! Backups: a folder that holds one instant of a database, and databases made of such a folder.
//!
//! # Contract
//! * A backup is taken while writes go on, and holds exactly what was durable at one instant: the head is sealed first.
//! * A new manifest is what makes it count: until that is durable, an earlier backup in the same folder is what counts.
//!   `BACKUP.incomplete` says that one is being made, `BACKUP` that one is complete. Neither is opened as a database.
//! * Segments that the folder has are read through, and not copied again if they are whole; on one file system they are
//!   linked unless copies are asked for, which then share no file with the database.
//! * A restored database holds the same, bit for bit, and has a new incarnation, so that gateways begin a new epoch.
//!
//! # Reading order
//! [`take`], [`restore`], [`copy`] (one file). The layout: `docs/backup.md`.

pub(crate) mod copy;
mod restore;
mod take;

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::error::{Error, Result};

pub use restore::{RestoreReport, restore, restore_on};
pub use take::BackupReport;
pub(crate) use take::{Job, take};

/// Opens the folder of a backup, making it if it shall be written.
pub(crate) fn open_folder(path: &Path, create: bool) -> Result<Arc<dyn Disk>> {
    let disk = RealDisk::open(path, create);
    Ok(Arc::new(disk.map_err(|e| Error::io("open backup folder", path, e))?))
}

/// Takes a folder for this process alone.
fn hold(disk: &Arc<dyn Disk>) -> Result<Box<dyn Send + Sync>> {
    disk.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked { path: disk.root() },
        _ => Error::io("lock", disk.root(), error),
    })
}
