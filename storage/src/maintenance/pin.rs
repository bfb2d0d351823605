//! Pins one instant of the database, for a backup.
//!
//! # Contract
//! * Everything durable when it begins is in the pinned segments, registry bytes and checkpoint; nothing later is.
//! * The pinned segments keep their files while the [`Pinned`] lives. `registry.log` only grows, so its beginning stays
//!   what it is. The checkpoint is replaced by the next seal, so its bytes are taken along.

use super::seal::{self, Ledger, snapshot_edit};
use crate::engine::core::Core;
use crate::error::{Error, Result};
use crate::manifest::checkpoint;
use crate::manifest::edit::Edit;
use crate::manifest::version::Version;

/// One instant of the database.
#[derive(Debug)]
pub(crate) struct Pinned {
    /// Keeps the segments' files.
    pub(crate) version: Version,
    /// The edit with which a manifest of this instant begins.
    pub(crate) everything: Edit,
    /// The checkpoint's number and bytes, if there is one.
    pub(crate) checkpoint: Option<(u64, Vec<u8>)>,
}

/// Seals, and pins what is there then.
pub(super) fn pin(core: &Core, ledger: &mut Ledger) -> Result<Pinned> {
    seal::seal(core, ledger)?;
    let version = core.view().version.clone();
    let everything = snapshot_edit(&version, &ledger.state);
    let number = ledger.state.latest_file;
    let checkpoint =
        if number == 0 { None } else { Some((number, read_checkpoint(core, number)?)) };
    Ok(Pinned { version, everything, checkpoint })
}

fn read_checkpoint(core: &Core, number: u64) -> Result<Vec<u8>> {
    let path = checkpoint::path(number);
    crate::disk::read_all(core.disk.as_ref(), &path)
        .map_err(|e| Error::io("read checkpoint", path, e))
}
