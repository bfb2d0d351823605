//! Manifest, registry and checkpoint.

use std::sync::Arc;

use super::{put, u32_at, u64_at};
use crate::bytes::{Malformed, Reader};
use crate::checksum::crc32;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::manifest::checkpoint;
use crate::manifest::edit::Edit;
use crate::manifest::{self, Manifest};
use crate::registry::Change;
use crate::registry::log::{self, RegistryLog};

/// Length of the header of a frame, in both logs.
const FRAME_HEADER_BYTES: usize = 16;
/// Where the files of both logs hold the checksum of their header.
const HEADER_CRC: usize = 60;

/// Renews the checksums of a manifest file and gives the path that its header claims.
pub fn seal_manifest(bytes: &mut [u8]) -> Option<String> {
    let (identity, number) = (u64_at(bytes, 16)?, u64_at(bytes, 24)?);
    let crc = crc32(0, bytes.get(..HEADER_CRC)?);
    put(bytes, HEADER_CRC, &crc.to_le_bytes());
    let mut at = HEADER_CRC + 4;
    while let Some(length) = u32_at(bytes, at + 4) {
        let end = at.checked_add(FRAME_HEADER_BYTES + length as usize)?;
        let Some(covered) = bytes.get(at + 4..end) else { break };
        let crc = crc32(identity, covered);
        put(bytes, at, &crc.to_le_bytes());
        at = end.next_multiple_of(8);
    }
    Some(manifest::path(number))
}

/// Reads the newest manifest of `disk`: the edit that says everything it says.
pub fn read_manifest(disk: &Arc<dyn Disk>) -> Result<Option<Vec<u8>>> {
    let Some(loaded) = Manifest::load(disk)? else { return Ok(None) };
    let add = loaded.segments.into_values().collect();
    let mut bytes = Vec::new();
    Edit { remove: Vec::new(), add, state: loaded.state }.encode(&mut bytes);
    Ok(Some(bytes))
}

/// Begins a manifest with an edit that was read before.
pub fn write_manifest(disk: &Arc<dyn Disk>, edit: &[u8]) -> Result<()> {
    let edit = Edit::decode(&mut Reader::new(edit)).map_err(|why| ours("an edit", why))?;
    Manifest::create(disk, 1, 1, &edit).map(drop)
}

/// Renews the checksums of a registry file.
pub fn seal_registry(bytes: &mut [u8]) -> Option<()> {
    let identity = u64_at(bytes, 16)?;
    let crc = crc32(0, bytes.get(..HEADER_CRC)?);
    put(bytes, HEADER_CRC, &crc.to_le_bytes());
    let mut at = HEADER_CRC + 4;
    while let Some(length) = u32_at(bytes, at + 4) {
        let end = at.checked_add(FRAME_HEADER_BYTES + length as usize)?.next_multiple_of(8);
        let Some(covered) = bytes.get(at + 4..end) else { break };
        let crc = crc32(identity ^ at as u64, covered);
        put(bytes, at, &crc.to_le_bytes());
        at = end;
    }
    Some(())
}

/// Path of the registry file.
pub const REGISTRY_PATH: &str = log::PATH;

/// Reads the first `valid` bytes of the registry file: each change as bytes.
pub fn read_registry(disk: &Arc<dyn Disk>, valid: u64) -> Result<Vec<Vec<u8>>> {
    let mut changes = Vec::new();
    RegistryLog::load(disk, valid, |change| {
        let mut bytes = Vec::new();
        change.encode(&mut bytes);
        changes.push(bytes);
    })?;
    Ok(changes)
}

/// Makes a registry file of changes that were read before, and gives how many bytes of it are valid.
pub fn write_registry(disk: &Arc<dyn Disk>, changes: &[Vec<u8>]) -> Result<u64> {
    let decode = |bytes: &Vec<u8>| {
        Change::decode(&mut Reader::new(bytes)).map_err(|why| ours("a change", why))
    };
    let changes = changes.iter().map(decode).collect::<Result<Vec<_>>>()?;
    RegistryLog::create(disk, 1)?.append(log::HEADER_BYTES, &changes)
}

/// What a checkpoint says.
#[derive(Debug)]
pub struct Checkpoint(checkpoint::Checkpoint);

impl Checkpoint {
    /// Path of checkpoint `number`.
    pub fn path(number: u64) -> String {
        checkpoint::path(number)
    }

    /// Renews the checksum of a checkpoint file.
    pub fn seal(bytes: &mut [u8], number: u64) {
        if put(bytes, 28, &[0; 4]) {
            let crc = crc32(number, bytes);
            put(bytes, 28, &crc.to_le_bytes());
        }
    }

    /// Reads checkpoint `number` of a database of `tags` tags.
    pub fn read(disk: &Arc<dyn Disk>, number: u64, tags: usize) -> Result<Self> {
        checkpoint::read(disk, number, tags).map(Self)
    }

    /// Writes checkpoint `number`.
    pub fn write(&self, disk: &Arc<dyn Disk>, number: u64) -> Result<()> {
        let checkpoint::Checkpoint { latest, stale, sealed_until } = &self.0;
        checkpoint::write(disk, number, latest, stale, sealed_until)
    }
}

fn ours(what: &str, why: Malformed) -> Error {
    Error::Invalid(format!("{what} that was read does not read again: {why}"))
}
