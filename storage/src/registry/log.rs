//! `registry.log`: every registry change whose record may be trimmed from the WAL. Bytes: `docs/format/registry.md`.
//!
//! # Contract
//! * The manifest names how many bytes of the file are valid; what lies beyond is the rest of a crashed append and is
//!   overwritten by the next one.
//! * An append is durable when it returns; only then may the manifest name the new length.

use std::sync::Arc;

use super::Change;
use crate::bytes::Reader;
use crate::checksum::crc32;
use crate::disk::Disk;
use crate::error::{Error, Result};

/// The file, relative to the database directory.
pub(crate) const PATH: &str = "registry.log";
const MAGIC: [u8; 8] = *b"TMREG\r\n\x1a";
const VERSION: u16 = 1;
pub(crate) const HEADER_BYTES: u64 = 64;
const FRAME_HEADER_BYTES: usize = 16;
const _: () = assert!(HEADER_BYTES == 64);
/// Changes of one frame; more are split.
const FRAME_CHANGES: usize = 4_096;

/// The registry file of an open database.
#[derive(Debug)]
pub(crate) struct RegistryLog {
    disk: Arc<dyn Disk>,
    identity: u64,
}

impl RegistryLog {
    /// Makes the file, holding nothing. Its name is durable when the folder is synced next.
    pub(crate) fn create(disk: &Arc<dyn Disk>, identity: u64) -> Result<Self> {
        let io = |e| Error::io("create registry", PATH, e);
        let names = disk.list("").map_err(io)?;
        if names.iter().any(|(name, _)| name == PATH) {
            disk.remove(PATH).map_err(io)?; // of a creation that crashed before its manifest
        }
        let file = disk.create(PATH, 0).map_err(io)?;
        let mut header = [0; 64];
        header[0..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&identity.to_le_bytes());
        let crc = crc32(0, &header[..60]);
        header[60..64].copy_from_slice(&crc.to_le_bytes());
        file.write_at(0, &header).and_then(|()| file.sync()).map_err(io)?;
        Ok(Self { disk: Arc::clone(disk), identity })
    }

    /// Reads the first `valid` bytes and hands over every change, oldest first.
    pub(crate) fn load(
        disk: &Arc<dyn Disk>,
        valid: u64,
        mut take: impl FnMut(Change),
    ) -> Result<Self> {
        let io = |e| Error::io("read registry", PATH, e);
        let file = disk.open(PATH).map_err(io)?;
        let mut bytes = vec![0; usize::try_from(valid).unwrap_or(usize::MAX)];
        if file.len().map_err(io)? < valid || valid < HEADER_BYTES {
            let why = format!("the manifest names {valid} bytes, the file is shorter");
            return Err(Error::corrupt("registry", PATH, 0, why));
        }
        file.read_at(0, &mut bytes).map_err(io)?;
        let bad = |at: usize, why: &str| Error::corrupt("registry", PATH, at as u64, why);
        let short = |_| bad(0, "too short");
        let mut reader = Reader::new(&bytes);
        if reader.array::<8>().map_err(short)? != MAGIC {
            return Err(bad(0, "magic does not match"));
        }
        let version = reader.u16().map_err(short)?;
        reader.take(6).map_err(short)?;
        let identity = reader.u64().map_err(short)?;
        reader.take(36).map_err(short)?;
        if reader.u32().map_err(short)? != crc32(0, &bytes[..60]) {
            return Err(bad(0, "checksum of the header does not match"));
        }
        if version > VERSION {
            return Err(Error::TooNew { path: PATH.into(), found: version, supported: VERSION });
        }
        while reader.remaining() > 0 {
            let at = reader.offset();
            let (payload, count) =
                frame(&mut reader, &bytes, identity).ok_or_else(|| bad(at, "does not verify"))?;
            let mut changes = Reader::new(payload);
            for _ in 0..count {
                take(Change::decode(&mut changes).map_err(|why| bad(at, why.0))?);
            }
        }
        Ok(Self { disk: Arc::clone(disk), identity })
    }

    /// Appends changes after the `valid` bytes and makes them durable. Gives the new number of valid bytes.
    pub(crate) fn append(&self, valid: u64, changes: &[Change]) -> Result<u64> {
        if changes.is_empty() {
            return Ok(valid);
        }
        let mut bytes = Vec::new();
        for group in changes.chunks(FRAME_CHANGES) {
            let start = bytes.len();
            let at = valid + start as u64;
            let mut payload = Vec::new();
            for change in group {
                change.encode(&mut payload);
            }
            let narrow = |n: usize| u32::try_from(n).map_err(|_| too_large());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&narrow(payload.len())?.to_le_bytes());
            bytes.extend_from_slice(&narrow(group.len())?.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&payload);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let crc = crc32(self.identity ^ at, &bytes[start + 4..]);
            bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        }
        let io = |e| Error::io("append to registry", PATH, e);
        let file = self.disk.open_writable(PATH).map_err(io)?;
        file.write_at(valid, &bytes).and_then(|()| file.sync()).map_err(io)?;
        Ok(valid + bytes.len() as u64)
    }
}

/// The next frame's payload and number of changes. The checksum covers header, payload and padding, and is seeded with
/// the frame's place.
fn frame<'a>(reader: &mut Reader<'a>, all: &[u8], identity: u64) -> Option<(&'a [u8], u32)> {
    let start = reader.offset();
    let mut header = Reader::new(reader.take(FRAME_HEADER_BYTES).ok()?);
    let (crc, length, count) = (header.u32().ok()?, header.u32().ok()?, header.u32().ok()?);
    let payload = reader.take(length as usize).ok()?;
    let end = reader.offset();
    reader.take(end.next_multiple_of(8) - end).ok()?;
    let covered = all.get(start + 4..end.next_multiple_of(8))?;
    (crc32(identity ^ start as u64, covered) == crc).then_some((payload, count))
}

fn too_large() -> Error {
    Error::Invalid("a registry change is larger than 4 GiB".into())
}
